"""The grammar of all command lines, which is Hydra's: `key=value`, several values with commas, texts in quotes."""

from collections.abc import Iterator
from itertools import islice

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from src.config.ranges import shown
from src.errors import UserError
from src.quoting import quoted, shell_word

OPENING, CLOSING = "([{", ")]}"
MOST_VALUES = 100_000  # of an axis; a range of more is a slip, and listing it would fill the memory


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
            f"{shown(key)}={shown(value)} can't be read: {_fault(key, value)}.\n"
            f"If it is a text, put it in quotes of its own: {shell_word(f'{key.strip()}={quoted(value)}')}"
        ) from None


def _fault(key: str, value: str) -> str:
    """What is wrong with an override that Hydra's grammar doesn't read."""
    if key != key.strip():
        return f"a space stands beside its name; without: {key.strip()}={value.strip()}"
    if value.strip(",") and not all(part.strip() for part in value.split(",")):
        return "a comma has nothing on one side; several values have commas without spaces, as in rank=4,8"
    if value.startswith("~"):
        return "the shell leaves a ~ behind = as it is; write $HOME for your home folder"
    return "its value has characters that mean something in Hydra's grammar"


def text_of(override: Override) -> str:
    """An override's value as it was written."""
    return str(override.input_line).partition("=")[2]


def values_of(override: Override) -> list[str]:
    """The values of an override as they are written, one unless it is an axis.

    Raises:
        UserError: an interval, which is no list, or an axis without any value, with far too many, or with none that
            can be listed, as a range whose step is 0.
    """
    if override.is_delete() or not override.is_sweep_override():
        return [text_of(override)]
    if override.value_type == ValueType.INTERVAL_SWEEP:
        raise UserError(f"{override.input_line} is an interval, which has no list of values.\nAllowed: range(...).")
    if override.value_type == ValueType.SIMPLE_CHOICE_SWEEP:
        parts = list(_split(text_of(override)))
        if len(parts) > 1:  # else a function of several values, as sort(8,4), which the grammar takes for such a list
            return parts
    try:
        values = [str(value) for value in islice(override.sweep_string_iterator(), MOST_VALUES + 1)]
    except (HydraException, OmegaConfBaseException, ValueError):
        raise UserError(
            f"{shown(override.input_line)} can't be listed.\nAllowed: 4,8, choice(4,8), range(4,9,2), sort(8,4), and "
            "for a group's files glob(lora*); none of them inside another choice."
        ) from None
    if len(values) > MOST_VALUES:
        raise UserError(
            f"{shown(override.input_line)} has over {MOST_VALUES:,} values.\nA range's third number is its step."
        )
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
