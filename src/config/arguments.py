"""The parts of a command line that all programs share: help, `-m`, and options as `key=value`."""

import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches

from src.config.grammar import parsed, text_of, values_of
from src.config.ranges import shown
from src.config.schema import Config
from src.errors import UserError, nearest_first

SWEEP_FLAGS = ("-m", "--multirun")
HELP_FLAGS = ("-h", "--help")
PLAN_OPTIONS = {"plan": "false", "detect": ""}  # with their defaults
NEAR = 0.7  # likeness from which a key that is none is taken for a misspelled one


def answer_help(text: str | None) -> None:
    """Print a program's docstring and end it with status 0, where its command line asks for help."""
    if set(HELP_FLAGS) & set(sys.argv[1:]):
        print((text or "").strip())
        sys.exit(0)


def split_sweep(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """The overrides of a command line, and whether it asks for a sweep.

    Raises:
        UserError: another flag, or something that isn't written as an option.
    """
    overrides = [argument for argument in arguments if argument not in SWEEP_FLAGS]
    for override in overrides:
        if override.startswith("-"):
            raise UserError(
                f"{shown(override)} is not a flag here.\nAllowed: -m (values with commas in turn), --help; "
                "options are written key=value."
            )
    return overrides, len(overrides) < len(arguments)


def split_names(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names of files and folders on a command line, and its options.

    A name may have a `=` in it, as the folder `results/a=b` has: an option's key has letters and nothing else.

    Raises:
        UserError: a flag.
    """
    split_sweep([argument for argument in arguments if argument not in SWEEP_FLAGS])
    given = [argument for argument in arguments if argument.partition("=")[0].isidentifier() and "=" in argument]
    flags = [argument for argument in arguments if argument in SWEEP_FLAGS]
    if flags:
        raise UserError(f"{flags[0]} is not a flag here.\nAllowed: --help; options are written key=value.")
    return [argument for argument in arguments if argument not in given], given


def split_workers(overrides: Sequence[str]) -> tuple[int | None, list[str]]:
    """How many runs `workers=...` asks to be done at once, None where it isn't there, and the other overrides.

    Raises:
        UserError: it isn't a whole number above 0.
    """
    values, rest = split_own(overrides, {"workers": ""})
    return positive_count("workers", values["workers"]) if values["workers"] else None, rest


@dataclass(frozen=True)
class PlanRequest:
    """A sweep's plan is asked for in place of its runs; `detect` is a difference to find, 0 where none is named."""

    detect: float


def split_plan(overrides: Sequence[str]) -> tuple[PlanRequest | None, list[str]]:
    """What the command line asks of the plan, None where it asks for the runs, and the other overrides.

    `plan=true` and `detect=<difference>` are the command's own: they are no part of a run's config.

    Raises:
        UserError: a value that isn't allowed, or a difference without a plan.
    """
    values, rest = split_own(overrides, PLAN_OPTIONS)
    if not is_true("plan", values["plan"]):
        if values["detect"]:
            raise UserError(f"detect={shown(values['detect'])} is asked of a plan.\nAdd plan=true, or leave it out.")
        return None, rest
    return PlanRequest(positive_number("detect", values["detect"]) if values["detect"] else 0.0), rest


def split_own(overrides: Sequence[str], defaults: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """A command's own options, which are no part of a run's config, each with its default; and the other overrides.

    Raises:
        UserError: an option of its own has no value that one takes, or is misspelled.
    """
    own = [override for override in overrides if override.partition("=")[0] in defaults]
    rest = [override for override in overrides if override not in own]
    of_runs = {field.name for field in fields(Config)} | {"experiment"}
    for key in (override.partition("=")[0] for override in rest):
        if key not in of_runs and (near := get_close_matches(key, defaults, n=1, cutoff=NEAR)):
            raise UserError(f"'{shown(key)}' is not an option.\nAllowed: {near[0]}=..., or a setting of the runs.")
    return options(own, **defaults), rest


def is_true(key: str, text: str) -> bool:
    """An option's value as true or false.

    Raises:
        UserError: it is neither.
    """
    if text not in ("true", "false"):
        raise UserError(f"{key}={shown(text)} is not a choice.\nAllowed: {key}=true, or leave it out.")
    return text == "true"


def positive_number(key: str, text: str) -> float:
    """An option's value as a number above 0.

    Raises:
        UserError: it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise UserError(f"{key}={shown(text)} is not a number above 0.\nGive one, or leave it out.")
    return value


def positive_count(key: str, text: str) -> int:
    """An option's value as a whole number above 0.

    Raises:
        UserError: it is none.
    """
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise UserError(f"{key}={shown(text)} is not a whole number above 0.\nGive one, or leave it out.")
    return int(text)


def _without_references(argument: str, text: str) -> str:
    """A text in which a reference such as `${rank}`, escaped, stands for itself.

    Raises:
        UserError: it isn't escaped: there is nothing here that it could refer to.
    """
    if re.search(r"(?<!\\)\$\{", text):
        raise UserError(
            f"{shown(argument)} refers to another option, of which there is none here.\nGive a plain value."
        )
    return text.replace(r"\${", "${")


def options(arguments: Sequence[str] | None = None, **defaults: str) -> dict[str, str]:
    """A program's options from its command line, each with its default.

    Args:
        arguments: those to read, in place of the program's.

    Raises:
        UserError: an option that the program doesn't have, has several values or stands there twice.
    """
    values: dict[str, str] = {}
    for argument in sys.argv[1:] if arguments is None else arguments:
        override = parsed(argument)
        key = override.key_or_group
        if key not in defaults or argument.startswith(("+", "~")):
            allowed = ", ".join(f"{name}=..." for name in nearest_first(key, defaults))
            raise UserError(f"{shown(key)} is not an option.\nAllowed: {allowed}.")
        if key in values or (override.is_sweep_override() and len(values_of(override)) != 1):
            raise UserError(f"{shown(argument)}: {key} takes one value.\nA comma that belongs to it needs quotes.")
        value = override.value()
        if isinstance(value, list | dict):
            raise UserError(f"{shown(argument)}: {key} takes one value, which is a text.\nPut it in quotes.")
        values[key] = _without_references(argument, value if isinstance(value, str) else text_of(override))
    return defaults | values
