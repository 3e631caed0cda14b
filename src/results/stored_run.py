"""A finished run as it was: its config from its record, and the command that makes it again."""

from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.config.composer import CONF, composer
from src.config.schema import Config, RoleConfig, SourceConfig
from src.errors import UserError
from src.quoting import command_line, written
from src.results.identity import decisive
from src.results.schema import Record
from src.results.store import ADAPTER, CLAIM, RESULT, folders_below, read_record


def finished_run(folder: Path) -> tuple[Record, Config]:
    """The record and the config of a run whose adapter is there.

    Raises:
        UserError: the folder is no run's, the run isn't done, or its adapter is missing.
    """
    record = read_record(folder) if folder.is_dir() else None
    if record is None:
        raise UserError(_no_run(folder))
    config = config_of(record)
    if record["state"] != "done":
        error = record.get("error") or {}
        raise UserError(
            f"{folder} is a run that ended as {record['state']}: {error.get('message') or 'no reason is stored'}\n"
            f"Make it again: {command(config)}"
        )
    if not (folder / ADAPTER).exists():
        raise UserError(
            f"{folder} has no {ADAPTER}: committed records come without.\n"
            f"Make the run again in another folder: {command(config, results_dir='results/again')}"
        )
    return record, config


def config_of(record: Record) -> Config:
    """The config stored with a run; newer options have their defaults, options that no longer exist are dropped."""
    return config_from(record["config"])


def config_from(stored: dict[str, Any]) -> Config:
    """A config from a record's plain values."""
    config: Config = _filled(Config, stored)
    roles: dict[str, Any] = config.model.roles
    config.model.roles = {role: _filled(RoleConfig, values) for role, values in roles.items()}
    sources: dict[str, Any] = config.task.sources
    config.task.sources = {part: _filled(SourceConfig, values) for part, values in sources.items()}
    return config


def command(config: Config, results_dir: str | None = None) -> str:
    """The command line that makes a run of this config; its results go to `results_dir`, by default the config's."""
    overrides = [f"{group}={_choice(group, getattr(config, group).name)}" for group in ("adapter", "model", "task")]
    overrides += [f"target={_choice('target', config.target.name)}"] if config.has_axis("target") else []
    overrides += [f"trainer={_choice('trainer', config.trainer.name)}"]
    overrides += [f"rank={config.rank}"] if config.has_axis("rank") else []
    where = f"results_dir={written(results_dir or config.results_dir)}"
    try:
        with composer() as reader:
            usual = reader.config(overrides)
    except (HydraException, OmegaConfBaseException, UserError):  # a yaml is gone that the run was made with
        return command_line("src.run", [*overrides, where])
    if usual.trainer.epochs is not None:  # the record has the steps in their place
        usual.trainer = replace(usual.trainer, max_steps=config.trainer.steps, epochs=None)
        overrides += ["trainer.epochs=null", f"trainer.max_steps={config.trainer.steps}"]
    stored, default = _options(config), _options(usual)
    for key in sorted(stored.keys() | dict(_leaves(decisive(usual))).keys() - {"task.loader"}):
        if stored.get(key) != default.get(key):
            added = key not in default and key != "quantization"
            overrides.append(f"{'+' if added else ''}{key}={written(stored.get(key))}")
    return command_line("src.run", [*overrides, where])


def _no_run(folder: Path) -> str:
    """Why the folder holds no finished run, and what does."""
    if (folder / CLAIM).exists():
        return f"{folder} is a run that is under way, or was cut off.\nWait for it, or run its command again."
    below = [run for run in folders_below(folder) if (run / RESULT).is_file()]
    remedy = f"Name a run, such as {below[0]}." if below else "Name one, as in results/runs/TASK/MODEL/RUN."
    return f"{folder} is not the folder of a run: it has no {RESULT}.\n{remedy}"


def _filled(schema: Any, stored: dict[str, Any]) -> Any:
    """The dataclass `schema`, and those inside it, with what of the stored values it still has."""
    inner = {field.name: field.default_factory for field in fields(schema) if field.name in stored}
    values = {name: _filled(kind, stored[name]) if is_dataclass(kind) else stored[name] for name, kind in inner.items()}
    return schema(**values)


def _options(config: Config) -> dict[str, Any]:
    """By their dotted keys, the options that decide a run's result or how its model is built."""
    values = decisive(config) | {"model": asdict(config.model), "task": asdict(config.task)}
    values["adapter"] |= {"method": config.adapter.method}
    if config.has_axis("target"):
        values["target"] = {"roles": values["target"]}
    return {key: value for key, value in _leaves(values) if value not in (None, "", [], {})}


def _choice(group: str, name: str) -> str:
    """The option that selects a group's yaml by the name that it gives itself; the name where none does."""
    folder = Path(CONF) / group
    paths = [path for path in sorted(folder.rglob("*.yaml")) if OmegaConf.select(OmegaConf.load(path), "name") == name]
    return paths[0].relative_to(folder).with_suffix("").as_posix() if paths else name


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested dicts by their dotted keys."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
