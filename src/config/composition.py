"""Where Hydra is met: the jobs of a sweep, and its errors said in three lines instead of thirty."""

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from src.config.schema import Config
from src.errors import UserError, nearest_first

CONF = str(Path(__file__).resolve().parents[2] / "conf")
FULL_ERROR = os.environ.get("HYDRA_FULL_ERROR") == "1"


def sweep_jobs(
    loader: ConfigLoader,
    arguments: list[str],
    params: Mapping[str, Any] | None = None,
    blocks: Sequence[Mapping[str, Any]] = (),
) -> list[list[str]]:
    """The overrides of every job of a sweep, each once, in the order of Hydra's own sweeper.

    Args:
        arguments: the command line's; they have their way over the other two.
        params: axes of the config, as in Hydra's `hydra.sweeper.params`.
        blocks: axes that belong together; each block is a product of its own with the others.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    parser = OverridesParser.create(config_loader=loader)
    jobs: dict[tuple[str, ...], None] = {}
    for block in blocks or [{}]:
        axes = [f"{key}={value}" for key, value in {**(params or {}), **block}.items()]
        (batch,) = BasicSweeper.split_arguments(parser.parse_overrides(axes + arguments), max_batch_size=None)
        jobs |= dict.fromkeys(map(tuple, batch))
    return [list(job) for job in jobs]


def sweep_configs(overrides: list[str]) -> list[DictConfig]:
    """Compose every job of the sweep that a command line's overrides stand for, without Hydra's own program."""
    with initialize_config_dir(CONF, version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        return job_configs(loader.load_configuration("config", overrides, RunMode.MULTIRUN), overrides)


def job_configs(config: DictConfig, overrides: list[str]) -> list[DictConfig]:
    """Compose every job of a sweep whose own config is `config`, as Hydra will for each."""
    loader = GlobalHydra.instance().config_loader()
    sweeper = config.hydra.sweeper
    jobs = sweep_jobs(loader, overrides, sweeper.params, sweeper.blocks)
    return [loader.load_sweep_config(config, job) for job in jobs]


@contextmanager
def user_errors(schema: type = Config) -> Iterator[None]:
    """End the program with status 2 and a message where the block raises what a user can put right.

    Args:
        schema: the dataclass of the program's options, which an unknown one is compared with.
    """
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        if FULL_ERROR:
            raise
        print(f"error: {explain(error, schema)}", file=sys.stderr)
        sys.exit(2)


def explain(error: Exception, schema: type = Config) -> str:
    """The message for a user whose command couldn't be composed or run."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.partition("/")
        options = [path.relative_to(f"{CONF}/{group}") for path in Path(CONF, group).rglob("*.yaml")]
        allowed = ", ".join(nearest_first(name, (str(option.with_suffix("")) for option in options)))
        return f"{group}={name} is not known.\nAllowed: {allowed}."
    cause = error.__cause__
    message = str(error)
    if isinstance(cause, OmegaConfBaseException) and cause.msg:
        message = f"{message.splitlines()[0]}\n{cause.msg}"
    patterns = (r"Key '(\w+)' (?:is not in struct|not in '\w+')", r"'(\w+)'. No match in the defaults list")
    unknown = re.search("|".join(patterns), message)
    if unknown:
        return _unknown_key(message, unknown.group(1) or unknown.group(2), schema)
    lines = [line.strip() for line in message.splitlines()]
    lines = [line for line in lines if line and not line.startswith(("full_key", "object_type"))]
    return "\n".join(lines[:3])


def _unknown_key(message: str, key: str, schema: type) -> str:
    """The message for an option that doesn't exist, with those that do where the dataclasses know them."""
    override = re.search(r"Could not override '([\w.]+)'", message)
    option = override.group(1) if override else key
    owner, _, name = option.rpartition(".")
    schemas: dict[str, Any] = {"": schema, **{field.name: field.default_factory for field in fields(schema)}}
    if owner not in schemas:
        return f"'{option}' is not an option.\nAllowed: what the yaml in conf/{owner.partition('.')[0]} has under it."
    allowed = nearest_first(name, (field.name for field in fields(schemas[owner])))
    return (
        f"'{option}' is not an option.\nAllowed: {', '.join(f'{owner}.{name}' if owner else name for name in allowed)}."
    )
