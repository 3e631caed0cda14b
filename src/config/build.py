"""Plain values to dataclasses: unknown keys, wrong types and values out of their ranges are refused, at any depth.

Values come from yaml files and the command line by way of `src.config.composer`, or from Hydra's own composition.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from omegaconf import MISSING

from src.config.ranges import Integer, Number, Rule, shown
from src.errors import UserError, nearest_first

T = TypeVar("T")
UNWRITTEN: Mapping[str, str] = {}
# A number or a text without a rule of its own is held to these.
USUAL: dict[Any, Any] = {int: Integer, float: Number}


def build(schema: type[T], values: Mapping[Any, Any], written: Mapping[str, str] = UNWRITTEN) -> T:
    """The dataclass `schema` with what is given, and its own defaults for the rest.

    Args:
        values: by field; nested dicts for nested dataclasses.
        written: by dotted key, how a value stood on the command line: a text such as `1e3` or `007` isn't a number
            where a text is asked for.

    Raises:
        UserError: a key that the schema doesn't have, a value of another type or out of its range, one that is missing.
    """
    built: T = _Builder(schema, written).table(schema, values, "")
    return built


@lru_cache(maxsize=64)
def hints_of(schema: type) -> dict[str, Any]:
    """The types of a dataclass's fields, with their rules."""
    names = {field.name for field in fields(schema)}
    return {name: hint for name, hint in get_type_hints(schema, include_extras=True).items() if name in names}


def without_null(hint: Any) -> Any:
    """What a field's type is where it isn't null."""
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (part for part in get_args(hint) if part is not NoneType)
    return hint


def bare(hint: Any) -> Any:
    """A field's type without its rules, and without null."""
    hint = without_null(hint)
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def rules_of(hint: Any) -> tuple[Rule, ...]:
    """The rules that stand at a field's type."""
    hint = without_null(hint)
    hint = USUAL.get(hint, hint)
    return get_args(hint)[1:] if get_origin(hint) is Annotated else ()


@lru_cache(maxsize=16)
def option_names(schema: type) -> tuple[str, ...]:
    """The dotted keys of all settings in a dataclass and those in it; what has names of its own has none here."""

    def keys(inner: type, prefix: str) -> Iterator[str]:
        for name, hint in hints_of(inner).items():
            yield f"{prefix}{name}"
            if is_dataclass(bare(hint)):
                yield from keys(bare(hint), f"{prefix}{name}.")

    return tuple(keys(schema, ""))


def unknown_option(schema: type, key: str, siblings: Mapping[str, Any] | None = None) -> UserError:
    """The refusal of a key that isn't there, with those that are: first one of that very name, then the nearest.

    Args:
        siblings: what stands beside it, where the schema doesn't know.
    """
    owner, _, name = key.rpartition(".")
    if siblings is None:
        beside = [option for option in option_names(schema) if option.rpartition(".")[0] == owner]
    else:
        beside = [f"{owner}.{sibling}".lstrip(".") for sibling in siblings]
    namesakes = [option for option in option_names(schema) if option.rpartition(".")[2] == name and option != key]
    ordered = {option.rpartition(".")[2]: option for option in beside}
    nearest = [ordered[sibling] for sibling in nearest_first(name, ordered)]
    allowed = list(dict.fromkeys([*namesakes, *nearest])) or nearest_first(key, option_names(schema))
    return UserError(f"'{shown(key)}' is not an option.\nAllowed: {', '.join(allowed)}.")


@dataclass(frozen=True)
class _Builder:
    root: type
    written: Mapping[str, str]

    def table(self, schema: Any, values: Any, key: str) -> Any:
        prefix = f"{key}." if key else ""
        hints = hints_of(schema)
        if not isinstance(values, Mapping):
            raise UserError(
                f"{key}={_as_given(values, None)} is one value.\nAllowed: {', '.join(prefix + n for n in hints)}."
            )
        for name in values:
            if name not in hints:
                raise unknown_option(self.root, f"{prefix}{name}", hints)
        given = {name: value for name, value in values.items() if value != MISSING}
        for field in fields(schema):
            is_required = field.default in (NO_DEFAULT, MISSING) and field.default_factory is NO_DEFAULT
            if field.name not in given and is_required:
                raise UserError(f"{prefix}{field.name} has no value.\nSet {prefix}{field.name}=... or its yaml.")
            # A table's own fields may be required even where nothing of it is given.
            if field.name not in given and is_dataclass(bare(hints[field.name])):
                given[field.name] = {}
        return schema(**{name: self.value(hints[name], value, prefix + name) for name, value in given.items()})

    def value(self, hint: Any, value: Any, key: str) -> Any:
        """A value of a field, held to its type and rules."""
        if value is None and without_null(hint) is not hint:
            return None
        kind = bare(hint)
        if is_dataclass(kind):
            return self.table(kind, value, key)
        if kind is Any:
            _check_finite(key, value)
            return value
        if get_origin(kind) is list:
            listed = [self.value(get_args(kind)[0], item, key) for item in _as(list, key, value)]
            twice = [item for item in listed if isinstance(item, str) and listed.count(item) > 1]
            if twice:
                raise UserError(f"{key} names {shown(twice[0])} twice.\nName each once.")
            return listed
        if get_origin(kind) is dict:
            inner = get_args(kind)[1]
            items = _as(dict, key, value).items()
            return {str(name): self.value(inner, item, f"{key}.{name}") for name, item in items}
        converted = self._plain(kind, value, key)
        for rule in rules_of(hint):
            rule.check(key, converted)
        return converted

    def _plain(self, kind: type, value: Any, key: str) -> Any:
        """A text, a number, or true or false, where the value is one without guessing."""
        if kind is str and not isinstance(value, str) and key in self.written and value is not None:
            return self.written[key]
        if type(value) is kind:
            return value
        if kind in (int, float) and type(value) in (int, str):
            try:
                # An integer as a text comes from the environment; one beyond a float's range is no number here.
                return kind(value)
            except (ValueError, OverflowError):
                pass
        raise UserError(
            f"{key}={_as_given(value, self.written.get(key))} is not {_EXPECTED[kind]}.{_remedy(kind, key, value)}"
        )


_EXPECTED: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    list: "a list",
    dict: "a table",
}


def _as_given(value: Any, written: str | None) -> str:
    return shown("null" if value is None else written if written is not None else value)


def _remedy(kind: type, key: str, value: Any) -> str:
    """What to write in place of a value of the wrong type."""
    if isinstance(value, list) and value:
        values = ",".join(map(str, value))
        return f"\nOne value is allowed: {key}={value[0]}, or with -m several in turn: {key}={values}."
    if value is None:
        return "\nIt has no null: leave it out, or put the word in quotes of its own."
    return "\nPut it in quotes in the yaml." if kind is str and not isinstance(value, Mapping) else ""


def _as(kind: type[T], key: str, value: Any) -> T:
    """A list or a table as it is given."""
    if isinstance(value, kind):
        return value
    example = f"{key}=[{value}]" if kind is list else f"{key}={{name: value}}"
    raise UserError(f"{key}={_as_given(value, None)} is not {_EXPECTED[kind]}.\nAllowed: such as '{example}'.")


def _check_finite(key: str, value: Any) -> None:
    """Refuse infinities and nan among values that have no type: no record could hold them."""
    inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for name, item in inner:
        _check_finite(f"{key}.{name}", item)
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{key}={value} is no finite number.\nAllowed: a finite one.")
