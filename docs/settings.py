"""Write docs/settings.md, the reference of all settings, from the dataclasses of `src/config/schema.py`.

    python -m docs.settings

A field's type and default are the dataclass's own, its meaning is the comment at the end of its line or above it. What
a dataclass leaves to a yaml is shown as the default run has it.
"""

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING as NO_DEFAULT
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from hydra import compose, initialize_config_dir
from omegaconf import MISSING, DictConfig, OmegaConf

from src.config.build import hints_of, rules_of
from src.config.composer import CONF
from src.config.ranges import Range
from src.config.schema import Config, CountConfig, SweeperConfig

PAGE = Path(__file__).with_name("settings.md")
INTRODUCTION = """\
# Settings

*This page is generated from `src/config/schema.py` by `python -m docs.settings`.*

Every setting can be given on the command line, as in `trainer.max_steps=500`. `null` means no value, a list is written
`[a,b]`, and with `-m`, values separated by commas form an axis of a sweep: `rank=4,8,16`. A group (`adapter=`,
`model=`, `target=`, `task=`, `trainer=`, `tracking=`, `experiment=`) takes the name of a YAML file in `conf/<group>`. A
plus sign adds a key that the file doesn't have yet: `+task.options.size=5`. A text with characters such as `=`, `,` or
brackets takes quotes of its own inside those of the shell: `"results_dir='a=b'"`. An option that nothing reads, a
number out of its range and a key that is given twice are refused before anything is written; numbers are finite. The
names of methods, models, tasks and targets have letters, digits and `_ . + -`, begin with a letter or digit, and are at
most 64 characters long.

Defaults are those in the code. Where the code has none, a YAML file must give the value; the table then shows the value
of the default run (`python -m src.run`) and the file that sets it.
"""


@dataclasses.dataclass(frozen=True)
class Section:
    """A table of the page: the settings of a dataclass, below a key."""

    key: str
    schema: type
    own_fields: tuple[str, ...]
    title: str = ""  # in place of the key


def page() -> str:
    """The whole page, as `main` writes it."""
    with initialize_config_dir(CONF, version_base="1.3"):
        default_run = compose("config")
    counted = tuple(name for name in _names(CountConfig) if name not in _names(Config))
    sections = [
        *_sections("", Config),
        Section("hydra.sweeper", SweeperConfig, _names(SweeperConfig)),
        Section("", CountConfig, counted, "Counting: `python -m src.params`"),
    ]
    return "\n".join([INTRODUCTION, *(_text(section, default_run) for section in sections)])


def comments(schema: type) -> dict[str, str]:
    """What is said of each field of a dataclass: the comment at the end of its line, or those above it."""
    lines = textwrap.dedent(inspect.getsource(schema)).splitlines()
    (tree,) = ast.parse("\n".join(lines)).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            behind = lines[(node.end_lineno or node.lineno) - 1][node.end_col_offset :]
            found[node.target.id] = _plain(behind) or _above(lines, node.lineno - 1)
    return found


def _above(lines: list[str], place: int) -> str:
    """The block of comments that ends right above a line."""
    start = place
    while lines[start - 1].lstrip().startswith("#"):
        start -= 1
    return " ".join(_plain(line) for line in lines[start:place])


def _plain(comment: str) -> str:
    return comment.strip().removeprefix("#").strip()


def _sections(key: str, schema: type) -> Iterator[Section]:
    """A dataclass's own table, then those of the dataclasses in it."""
    hints = get_type_hints(schema)
    nested = {name: _dataclass_in(hint) for name, hint in hints.items() if name in _names(schema)}
    own = tuple(name for name in _names(schema) if not dataclasses.is_dataclass(hints[name]))
    yield Section(key, schema, own, "" if key else "The run")
    for name, inner in nested.items():
        if inner is not None:
            each = "" if dataclasses.is_dataclass(hints[name]) else f".<{name.removesuffix('s')}>"
            yield from _sections(f"{key}.{name}{each}".lstrip("."), inner)


def _names(schema: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(schema))


def _dataclass_in(hint: Any) -> type | None:
    """The dataclass that a field is, or that its values are."""
    if dataclasses.is_dataclass(hint):
        return hint if isinstance(hint, type) else None
    inner = get_args(hint)[-1] if get_origin(hint) is dict else None
    return inner if isinstance(inner, type) and dataclasses.is_dataclass(inner) else None


def _text(section: Section, default_run: DictConfig) -> str:
    """A heading, the dataclass's docstring and the table of its settings."""
    prefix = f"{section.key}." if section.key else ""
    title = section.title or f"`{section.key}`"
    said = _comments_of_all(section.schema)
    fields = [field for field in dataclasses.fields(section.schema) if field.name in section.own_fields]
    rows = [
        [f"`{prefix}{own.name}`", _type(section, own), _default(section, own, default_run), _prose(said[own.name])]
        for own in fields
    ]
    about = "\n\n".join(" ".join(part.split()) for part in (inspect.getdoc(section.schema) or "").split("\n\n"))
    heading = [f"## {title}", "", _prose(about), "", "| setting | type | default | meaning |", "|---|---|---|---|"]
    return "\n".join([*heading, *(f"| {' | '.join(row)} |" for row in rows), ""])


def _comments_of_all(schema: type) -> dict[str, str]:
    """The comments of a dataclass and of those that it derives from."""
    found: dict[str, str] = {}
    for parent in reversed(schema.__mro__):
        if dataclasses.is_dataclass(parent):
            found |= comments(parent)
    return found


def _type(section: Section, field: "dataclasses.Field[Any]") -> str:
    """A field's type, and the rules for its values; what a dataclass of this project describes is a table."""
    written = get_type_hints(section.schema)[field.name]  # without the rules
    is_plain = isinstance(written, type) and not get_args(written)
    hint = getattr(written, "__name__", "") if is_plain else str(written).replace("typing.", "")
    inner = _dataclass_in(written)
    hint = hint.replace(f"{inner.__module__}.{inner.__qualname__}", "table") if inner else hint
    optional = re.fullmatch(r"Optional\[(.*)\]", hint)
    hint = f"{optional[1]} or null" if optional else hint.replace(" | None", " or null")
    rules = rules_of(hints_of(section.schema)[field.name])
    return f"`{hint}`" + "".join(f", {rule}" for rule in rules if isinstance(rule, Range) and str(rule) != str(Range()))


def _default(section: Section, field: "dataclasses.Field[Any]", default_run: DictConfig) -> str:
    value = field.default if field.default_factory is NO_DEFAULT else field.default_factory()
    if value != MISSING:
        return f"`{_yaml(value)}`"
    group = section.key.partition(".")[0]
    given = OmegaConf.select(default_run, f"{section.key}.{field.name}")
    return "required" if given is None else f"`{_yaml(given)}` in `{group}={default_run[group].name}`"


def _yaml(value: Any) -> str:
    """A value as the command line takes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return '""' if value == "" else str(value)


def _prose(text: str) -> str:
    """A comment as Markdown in a table: bars and angle brackets stand for themselves."""
    return text.replace("|", r"\|").replace("<", "&lt;")


def main() -> None:
    """Write the page."""
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
