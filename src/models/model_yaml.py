"""The YAML file of a model that was read from its folder, ready for `conf/model`."""

from collections import Counter
from collections.abc import Iterable

from src.config.checks import ROLES
from src.models.description import Description
from src.models.layout import LinearGroup


def model_yaml(description: Description, name: str) -> str:
    """The model's YAML; what can't be said in it is said in its comments."""
    groups = [group for group in description.groups if group.roles]
    depths = _depths(groups)
    usual = Counter(depths.values()).most_common(1)[0][0] if depths else 1
    lines = [
        f"name: {name}",
        f"architecture: {description.architecture}",
        f"path: {_quoted(str(description.folder.resolve()))}",
        f"head: [{', '.join(description.head)}]",
        *_mapping("fused", {group.module: f"[{', '.join(group.roles)}]" for group in groups if len(group.roles) > 1}),
        f"layers: {usual}",
        *_mapping("layers_of", {stack: depth for stack, depth in depths.items() if depth != usual}),
        f"roles:{'' if groups else ' {}'} # guessed from the names; "
        "role: module name (* is the layer), out_features, in_features",
        *_roles(groups, depths),
    ]
    return "\n".join(lines) + "\n"


def _mapping(key: str, values: dict[str, object]) -> list[str]:
    return [f"{key}:", *(f"  {name}: {value}" for name, value in values.items())] if values else []


def _depths(groups: list[LinearGroup]) -> dict[str, int]:
    """The number of blocks of each stack, by the name that its blocks' names start with."""
    depths: dict[str, int] = {}
    for group in groups:
        depths[_stack(group)] = max(group.count, depths.get(_stack(group), 0))
    return depths


def _stack(group: LinearGroup) -> str:
    return group.module.partition(".*.")[0]


def _roles(groups: list[LinearGroup], depths: dict[str, int]) -> Iterable[str]:
    """A line for each role; what a role's one module in every block can't say is left to the reader, as a comment."""
    for role in ROLES:
        playing = [group for group in groups if role in group.roles]
        whole = [group for group in playing if group.count == depths[_stack(group)]]
        sizes = Counter((group.roles[role], group.in_features) for group in whole).most_common()
        for place, ((rows, columns), _) in enumerate(sizes):
            alike = [group for group in whole if (group.roles[role], group.in_features) == (rows, columns)]
            yield _line("# another size: " if place else "", role, alike, rows, columns)
        for group in playing:
            if group not in whole:
                mark = f"# in {group.count} of {depths[_stack(group)]} layers: "
                yield _line(mark, role, [group], group.roles[role], group.in_features)


def _line(mark: str, role: str, groups: list[LinearGroup], rows: int, columns: int) -> str:
    modules = " | ".join(_module(group, role) for group in groups)
    return f"  {mark}{role}: {{module: {_quoted(modules)}, out_features: {rows}, in_features: {columns}}}"


def _module(group: LinearGroup, role: str) -> str:
    return f"{group.module}.{role}" if len(group.roles) > 1 else group.module


def _quoted(text: str) -> str:
    """A text as YAML reads it whatever characters it has."""
    plain = all(character.isalnum() or character in "/._*-" for character in text) and not text.startswith("*")
    return text if plain else "'" + text.replace("'", "''") + "'"
