"""The grammar of all command lines, which is Hydra's: `key=value`, several values with commas, texts in quotes."""

from collections.abc import Iterator

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException

from src.config.ranges import shown
from src.errors import UserError
from src.quoting import quoted, shell_word

OPENING, CLOSING = "([{", ")]}"


def parsed(override: str) -> Override:
    """An override in Hydra's grammar.

    Raises:
        UserError: it can't be read.
    """
    key, equals, value = override.partition("=")
    if not equals and not override.startswith("~"):
        raise UserError(f"{shown(override)} is not an option.\nOptions are written key=value, as in rank=8.")
    try:
        hydra = GlobalHydra.instance()
        loader = hydra.config_loader() if hydra.is_initialized() else None  # glob(...) asks it for a group's files
        return OverridesParser.create(config_loader=loader).parse_overrides([override])[0]
    except HydraException:
        raise UserError(
            f"{shown(key)}={shown(value)} can't be read: its value has characters that mean something in Hydra's "
            f"grammar.\nIf it is a text, put it in quotes of its own: {shell_word(f'{key}={quoted(value)}')}"
        ) from None


def text_of(override: Override) -> str:
    """An override's value as it was written."""
    return str(override.input_line).partition("=")[2]


def values_of(override: Override) -> list[str]:
    """The values of an override as they are written, one unless it is an axis.

    Raises:
        UserError: an interval, which is no list, or an axis without any value.
    """
    if override.is_delete() or not override.is_sweep_override():
        return [text_of(override)]
    if override.value_type == ValueType.INTERVAL_SWEEP:
        raise UserError(f"{override.input_line} is an interval, which has no list of values.\nAllowed: range(...).")
    if override.value_type == ValueType.SIMPLE_CHOICE_SWEEP:
        return list(_split(text_of(override)))
    values = [str(value) for value in override.sweep_string_iterator()]
    if not values:
        raise UserError(f"{override.input_line} stands for no value.\nAllowed: a range or a pattern that has some.")
    return values


def _split(text: str) -> Iterator[str]:
    """The parts of a text between its commas, but for those in quotes and brackets."""
    depth, quote, start = 0, "", 0
    for place, character in enumerate(text):
        escaped = place > 0 and text[place - 1] == "\\"
        if quote:
            quote = "" if character == quote and not escaped else quote
        elif character in "'\"" and not escaped:
            quote = character
        elif character in OPENING and not escaped:
            depth += 1
        elif character in CLOSING and not escaped:
            depth -= 1
        elif character == "," and depth == 0 and not escaped:
            yield text[start:place].strip()
            start = place + 1
    yield text[start:].strip()
