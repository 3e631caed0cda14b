"""The jobs of a sweep: which values each axis has, which axes belong together, and that nothing is chosen unasked.

An axis is a key with several values, `rank=4,8`, on the command line or under `hydra.sweeper` of an experiment's yaml:
`params` are axes, and each of `blocks` is a grid of its own with them. The command line has its way over both.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from hydra.core.override_parser.types import Override

from src.config.build import build
from src.config.composer import Composer, composer, is_list
from src.config.grammar import values_of
from src.config.ranges import shown
from src.config.schema import Config, SweeperConfig
from src.errors import UserError, nearest_first
from src.quoting import written

Axes = dict[str, list[str]]  # by key, the overrides that give it its values
EXPERIMENT = "experiment"
# What no run's identity has: jobs that differ in it alone would be one run, done once.
NO_AXES = ("cache_dir", "tracking", "tuning", "format")


def run_configs(overrides: Sequence[str]) -> list[Config]:
    """The checked configs of all jobs of a sweep of runs.

    Raises:
        UserError: an axis, a key, a value or a combination that can't be, with the remedy.
    """
    with composer() as reader:
        return [reader.config(job) for job in sweep_jobs(reader, overrides)]


def sweep_jobs(reader: Composer, overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of every job of a sweep, each job once, in the order of the axes.

    Raises:
        UserError: an axis that has no values, or that stands there twice.
    """
    given = _axes_of(reader, overrides)
    check_hydra_keys(given, [])
    for key, values in given.items():
        if len(values) > 1 and key.partition(".")[0] in NO_AXES:
            raise UserError(f"{key} has {len(values)} values and makes no other run of them.\nChoose one.")
    jobs: dict[tuple[str, ...], None] = {}
    for experiment in given.pop(EXPERIMENT, [""]):
        fixed = [values[0] for values in given.values() if len(values) == 1]
        study = [experiment] if experiment else []
        own = {key: values for key, values in given.items() if not key.startswith("hydra")}
        for block in _blocks(reader, [*study, *fixed]):
            axes = block | own
            _check_overruled(reader, experiment, own, axes)
            for combination in itertools.product(*axes.values()):
                jobs[(*study, *combination)] = None
    return [list(job) for job in jobs]


def check_hydra_keys(keys: Iterable[str], allowed: Sequence[str]) -> None:
    """Refuse settings of Hydra that nobody would read here.

    Raises:
        UserError: which ones mean something.
    """
    for key in keys:
        is_hydra = key.startswith(("hydra.", "hydra/"))
        if is_hydra and not any(f"{key}.".startswith(f"{known}.") for known in allowed):
            known = ", ".join(nearest_first(key, allowed)) or "axes with -m, as in rank=4,8; hydra.sweeper is for yamls"
            raise UserError(f"'{shown(key)}' means nothing here.\nAllowed: {known}.")


def single_job(reader: Composer, overrides: Sequence[str]) -> list[str]:
    """The overrides of the only job that they stand for.

    Raises:
        UserError: they stand for several.
    """
    for override in overrides:
        values = values_of(reader.parsed(override))
        if len(values) > 1:
            raise UserError(
                f"{shown(override)} has {len(values)} values.\nAdd -m to take each in turn, or choose one of them; "
                "a comma that belongs to a value needs quotes of its own."
            )
    jobs = sweep_jobs(reader, overrides)
    if len(jobs) > 1:
        study = next((override for override in overrides if override.startswith(f"{EXPERIMENT}=")), "this")
        varied = [key for key, values in _grid(jobs).items() if len(values) > 1]
        raise UserError(
            f"{study} is a sweep of {len(jobs)} runs, over {', '.join(varied)}.\n"
            f"Add -m to do them all, or give each of these one value that fits the others."
        )
    return jobs[0]


def _axes_of(reader: Composer, overrides: Sequence[str]) -> Axes:
    """The overrides by key, each with its values.

    Raises:
        UserError: a key stands there twice, of which one would win.
    """
    axes: Axes = {}
    first: dict[str, str] = {}
    for line in overrides:
        override = reader.parsed(line)
        key = override.key_or_group
        if key in axes:
            raise UserError(
                f"{shown(first[key])} and {shown(line)} give {key} twice.\n"
                f"Leave one out, or give both values, with -m: {key}=...,..."
            )
        values = [f"{_prefixed(override)}={value}" for value in values_of(override)]
        axes[key] = [line] if override.is_delete() else values
        first[key] = line
    return axes


def _prefixed(override: Override) -> str:
    """The key with its plus signs."""
    return str(override.input_line).partition("=")[0]


def _blocks(reader: Composer, fixed: Sequence[str]) -> Iterator[Axes]:
    """The axes that the chosen yamls have of their own, block by block."""
    tree, _ = reader.tree(fixed)
    given = tree.get("hydra", {}).get("sweeper") or {}
    sweeper = build(SweeperConfig, given)
    for block in sweeper.blocks or [{}]:
        yield {
            key: [f"{key}={value}" for value in _yaml_values(reader, key, values)]
            for key, values in {**(sweeper.params or {}), **block}.items()
        }


def _yaml_values(reader: Composer, key: str, values: Any) -> list[str]:
    """An axis's values in a yaml: a text as on the command line, a list item by item, or one value."""
    if isinstance(values, list):
        if not values or (is_list(reader.schema, key) and not all(isinstance(value, list) for value in values)):
            raise UserError(
                f"hydra.sweeper has {key}: {shown(values)}, which may be one value or several.\n"
                f'Write a list of lists, or a text: {key}: "{written(values)}".'
            )
        return [value if isinstance(value, str) else written(value) for value in values]
    text = values if isinstance(values, str) else written(values)
    return values_of(reader.parsed(f"{key}={text}"))


def _grid(jobs: Sequence[Sequence[str]]) -> dict[str, set[str]]:
    """The different values of each key over all jobs."""
    values: dict[str, set[str]] = {}
    for job in jobs:
        for override in job:
            key, _, value = override.partition("=")
            values.setdefault(key, set()).add(value)
    return values


def _check_overruled(reader: Composer, experiment: str, given: Axes, axes: Axes) -> None:
    """Refuse a group's file chosen on the command line where the experiment sets its values to others.

    Raises:
        UserError: which values these are, and how to say which ones are meant.
    """
    groups = [key for key in given if experiment and not key.startswith("hydra") and reader.is_group(key)]
    for group, choice in ((name, option) for name in groups for option in given[name]):
        chosen = dict(_leaves(reader.tree([choice])[0].get(group), group))
        studied = dict(_leaves(reader.tree([experiment, choice])[0].get(group), group))
        overruled = [key for key, value in chosen.items() if studied.get(key) != value and not _is_given(key, axes)]
        if overruled:
            theirs = " ".join(f"{key}={written(chosen[key])}" for key in overruled)
            mine = " ".join(f"{key}={written(studied.get(key))}" for key in overruled)
            raise UserError(
                f"{experiment} sets {mine} over what {choice} has: {theirs}.\nAdd the values that are meant, or leave "
                f"{choice} out."
            )


def _is_given(key: str, axes: Axes) -> bool:
    """Whether the command line or an axis sets a key, or a table that it is in."""
    parts = key.split(".")
    return any(".".join(parts[:length]) in axes for length in range(2, len(parts) + 1))


def _leaves(values: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(values, dict):
        for name, inner in values.items():
            yield from _leaves(inner, f"{key}.{name}")
    else:
        yield key, values
