"""A run's settings from the files in conf and a command line's overrides, composed once and the same everywhere.

Hydra finds and orders the files and reads the overrides' grammar; put together they are plain dicts, which a thousand
jobs of a sweep share as far as they choose the same files.
"""

import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args, get_origin

from hydra import initialize_config_dir
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.defaults_list import create_defaults_list
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.config.build import bare, build, hints_of, unknown_option
from src.config.grammar import parsed, text_of
from src.config.ranges import check_option, shown
from src.config.schema import AdaptedModel, Config, CountConfig
from src.config.yaml_files import not_a_table, reading
from src.errors import UserError, nearest_first

CONF = str(Path(__file__).resolve().parents[2] / "conf")
PROGRAMS: dict[type[AdaptedModel], str] = {Config: "config", CountConfig: "params"}  # their files in conf
Tree = dict[str, Any]


@contextmanager
def composer(schema: type[AdaptedModel] = Config) -> Iterator["Composer"]:
    """A composer on `conf`; Hydra's own is used where the program runs under Hydra."""
    if GlobalHydra.instance().is_initialized():
        yield Composer(schema)
    else:
        with initialize_config_dir(CONF, version_base="1.3"):
            yield Composer(schema)


class Composer:
    """The files of one program's configuration, each read once."""

    def __init__(self, schema: type[AdaptedModel] = Config) -> None:
        self.schema = schema
        loader: Any = GlobalHydra.instance().config_loader()
        self.repository = CachingConfigRepository(loader.repository)
        # By method, not by module: what is read belongs to the files as they are now.
        self.parsed = lru_cache(maxsize=None)(parsed)
        self.is_group = lru_cache(maxsize=None)(self.repository.group_exists)
        self._chosen = lru_cache(maxsize=None)(self._chosen_files)

    def config(self, overrides: Sequence[str]) -> Any:
        """The checked config of one job; of the class that the composer was made for.

        Raises:
            UserError: a key, a value or a combination that can't be, with the remedy.
        """
        tree, written = self.tree(overrides)
        tree.pop("hydra", None)
        return build(self.schema, tree, written).checked()

    def tree(self, overrides: Sequence[str]) -> tuple[Tree, dict[str, str]]:
        """All settings as plain values, with `hydra`'s, and how those of the command line were written.

        Raises:
            UserError: an override names what isn't there.
        """
        given = [self.parsed(override) for override in overrides]
        read = [each for each in given if each.key_or_group != "experiment" or each.value() is not None]
        pickled, has_references = self._chosen(tuple(_line(each) for each in read if self.is_choice(each)))
        tree: Tree = pickle.loads(pickled)  # the quickest copy
        written = {}
        for override in read:
            if not self.is_choice(override):
                self._set(tree, override)
                if not override.is_delete() and not isinstance(override.value(), str | list | dict):
                    written[override.key_or_group] = text_of(override)
        if has_references or any("${" in override for override in overrides):
            tree = _resolved(_with_own_values(tree))
        return tree, written

    def is_choice(self, override: Override) -> bool:
        """Say whether an override chooses a file of a group."""
        key = override.key_or_group
        return key.startswith("hydra/") or override.package is not None or bool(self.is_group(key))

    def _chosen_files(self, choices: tuple[str, ...]) -> tuple[bytes, bool]:
        """The chosen files put together, pickled, and whether a value refers to another."""
        read = [self.parsed(choice) for choice in choices]
        for choice in choices:
            self.check_choice(choice)
        try:
            files = create_defaults_list(self.repository, PROGRAMS[self.schema], read, True, False)
        except MissingConfigException as error:  # a file that a chosen one chooses
            group, _, option = (error.missing_cfg_file or "").rpartition("/")
            raise self._unknown(group, option) from None
        launcher = files.overrides.known_choices.get("hydra/launcher")
        if launcher != "basic" and not any(choice.startswith("hydra/launcher") for choice in choices):
            raise UserError(f"A yaml chooses hydra/launcher={launcher}.\nGive it on the command line in its place.")
        tree: Tree = {}
        for file in files.defaults:
            loaded = file.config_path and self.repository.load_config(file.config_path)
            # The schema gives the defaults when all is put together, and Hydra's own files concern Hydra alone.
            if not loaded or OmegaConf.get_type(loaded.config) is not dict or loaded.provider in ("hydra", "schema"):
                continue
            package = file.package if file.package is not None else loaded.header["package"]
            content = _content(loaded.config)
            for part in reversed((package or "").split(".") if package else []):
                content = {part: content}
            _merge(tree, content)
        own = self.repository.load_config(PROGRAMS[self.schema])
        usual = _content(own.config).get("hydra", {}) if own else {}
        for key, value in tree.get("hydra", {}).items():
            if key != "sweeper" and usual.get(key) != value:
                raise UserError(f"A yaml sets 'hydra.{key}', which means nothing here.\nAllowed: hydra.sweeper.")
        plain = {key: value for key, value in tree.items() if key != "hydra"}
        return pickle.dumps(tree), any("${" in text for text in _texts(plain))

    def check_choice(self, override: str) -> None:
        """Refuse what isn't the name of one file of a group, and a file that can't be read.

        Raises:
            UserError: with the group's files, or what is wrong in the chosen one.
        """
        choice = self.parsed(override)
        group, value = choice.key_or_group, choice.value()
        if choice.is_delete():
            raise UserError(f"{shown(override)} would take {group} away.\nChoose one of its files: {group}=....")
        if override.startswith("+") or choice.package is not None:
            plain = f"{group}={text_of(choice)}"
            raise UserError(f"{shown(override)} adds to a group of which one file is chosen.\nAllowed: {shown(plain)}.")
        if isinstance(value, list):
            options = ",".join(map(str, value))
            raise UserError(
                f"{group}={shown(text_of(choice))} is a list, and one run takes one of a group's files.\n"
                f"Allowed: {group}={value[0] if value else '...'}, or with -m several in turn: {group}={options}."
            )
        option = value if isinstance(value, str) else text_of(choice)
        if not self.is_group(group):
            raise UserError(f"'{group}' is not a group of files.\nAllowed: {', '.join(self.groups)}.")
        if isinstance(value, dict) or not option:
            raise UserError(f"{group}={shown(option)} is not the name of a file in conf/{group}.")
        if not group.startswith("hydra/"):
            check_option(group, option)
        self._check_file(group, option)

    def _check_file(self, group: str, option: str) -> None:
        """Refuse a file that isn't there, or isn't readable as what it is for."""
        if not self.repository.config_exists(f"{group}/{option}"):
            raise self._unknown(group, option)
        if group.startswith("hydra/"):
            return
        for path in _files_of(self.repository, group, option):
            with reading(path):
                loaded = self.repository.load_config(f"{group}/{option}")
            if loaded and not OmegaConf.is_dict(loaded.config):
                raise not_a_table(path)
            if group == "experiment" and loaded and loaded.header["package"] != "_global_":
                raise UserError(
                    f"{path} has no line `# @package _global_` at its top, without which its settings count for "
                    "nothing.\nMake it the file's first line."
                )

    def _unknown(self, group: str, option: str) -> UserError:
        hint = f"Allowed: {', '.join(nearest_first(option, self.options(group)))}."
        if group == "hydra/launcher":
            hint += "\nOthers come with a package of their own, such as hydra-joblib-launcher: is it installed?"
        return UserError(f"{group}={shown(option)} is not known.\n{hint}")

    @property
    def groups(self) -> list[str]:
        """The groups of files in conf."""
        return [group for group in ("adapter", "experiment", "model", "target", "task", "tracking", "trainer")
                if self.is_group(group)]  # fmt: skip

    def options(self, group: str) -> list[str]:
        """The files of a group by their names, those in its folders too."""
        from hydra.core.object_type import ObjectType

        names = list(self.repository.get_group_options(group, ObjectType.CONFIG))
        for folder in self.repository.get_group_options(group, ObjectType.GROUP):
            names += [f"{folder}/{name}" for name in self.options(f"{group}/{folder}")]
        return sorted(set(names))

    def _set(self, tree: Tree, override: Override) -> None:
        """Set one value; where a file gives the names, as of a method's options, a new one takes a plus sign."""
        key, value = override.key_or_group, override.value()
        *owners, name = key.split(".")
        hint: Any = None if owners[:1] == ["hydra"] or key == "hydra" else self.schema
        node: Any = tree
        for part in owners:
            hint = _inside(hint, part, self.schema, key)
            is_free = hint is None or get_origin(_kind(hint)) is dict or _kind(hint) is Any
            if not isinstance(node.get(part), dict):
                if node.get(part) is not None and not is_free and not is_dataclass(_kind(hint)):
                    raise unknown_option(self.schema, key, {})
                node[part] = {}
            node = node[part]
        _inside(hint, name, self.schema, key)
        has_free_names = hint is not None and not is_dataclass(_kind(hint))
        if override.is_delete():
            if not has_free_names or "=" in str(override.input_line):
                raise UserError(f"{override.input_line} would take {key} away.\nGive it a value instead, such as null.")
            if name not in node:
                raise unknown_option(self.schema, key, node)
            del node[name]
            return
        if has_free_names and name not in node and not (override.is_add() or override.is_force_add()):
            refused = unknown_option(self.schema, key, node)
            raise UserError(f"{refused}\nA plus sign adds one that isn't in the yaml: +{override.input_line}.")
        if isinstance(value, dict) and isinstance(node.get(name), dict):
            _merge(node[name], value)
        else:
            node[name] = value


def _kind(hint: Any) -> Any:
    return hint if hint is None or is_dataclass(hint) else bare(hint)


def _inside(hint: Any, name: str, schema: type, key: str) -> Any:
    """The type of what stands under `name` in a value of type `hint`; None where no schema knows.

    Raises:
        UserError: the schema has no such name.
    """
    kind = _kind(hint)
    if kind is None or kind is Any:  # below a table that has no types
        return kind
    if is_dataclass(kind):
        hints = hints_of(kind)  # type: ignore[arg-type]
        if name not in hints:
            here = key[: key.index(name) + len(name)] if hint is schema else key
            raise unknown_option(schema, here, hints)
        return hints[name]
    if get_origin(kind) is dict:
        return get_args(kind)[1]
    raise unknown_option(schema, key)


def is_list(schema: type, key: str) -> bool:
    """Say whether a setting is a list by its type; one without a type isn't."""
    hint: Any = schema
    for name in key.split("."):
        hint = _inside(hint, name, schema, key)
    return get_origin(_kind(hint)) is list


def _line(override: Override) -> str:
    return str(override.input_line)


def _content(config: Any) -> Tree:
    """A file's values, without its list of defaults, as plain ones."""
    content = OmegaConf.to_container(config, resolve=False)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items() if key != "defaults"}


def _merge(into: Tree, values: Mapping[Any, Any]) -> None:
    """Put values over others in place: tables are put together, everything else is replaced."""
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        elif isinstance(value, Mapping):
            into[key] = {}
            _merge(into[key], value)
        else:
            into[key] = value


def _texts(values: Any) -> Iterator[str]:
    if isinstance(values, str):
        yield values
    for inner in values.values() if isinstance(values, dict) else values if isinstance(values, list) else ():
        yield from _texts(inner)


def _with_own_values(tree: Tree) -> Tree:
    """The same with the method's own `lr` and `alpha` where none is given, for a reference to mean these."""
    adapter, rank = tree.get("adapter", {}), tree.get("rank")
    if tree.get("lr") is None and "lr" in adapter.get("axes", []):
        tree["lr"] = adapter.get("lr")
    if tree.get("alpha") is None and "alpha" in adapter.get("axes", []) and isinstance(rank, int):
        tree["alpha"] = adapter.get("alpha") or (adapter.get("alpha_per_rank") or 1.0) * rank
    return tree


def _resolved(tree: Tree) -> Tree:
    """The same values with references such as `${rank}` replaced by what they refer to; Hydra's are left to Hydra."""
    config = OmegaConf.create({key: value for key, value in tree.items() if key != "hydra"})
    assert isinstance(config, DictConfig)
    try:
        values = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        said = f"{error.full_key}: {str(error.msg).splitlines()[0]}"
        raise UserError(f"{said}.\nA reference such as ${{rank}} names another setting that has a value.") from None
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()} | {"hydra": tree.get("hydra", {})}


def _files_of(repository: CachingConfigRepository, group: str, option: str) -> list[Path]:
    """The yaml file that a choice reads, where it is one on the disk."""
    folders = [Path(source.path) for source in repository.get_sources() if source.scheme() == "file"]
    paths = [folder / group / f"{option}.yaml" for folder in folders]
    return [path for path in paths if path.is_file()][:1]
