"""What a sweep will cost: each method's parameters, its step's memory on this device, and the seconds of a run."""

from collections.abc import Sequence

from src.adapters.ledger import count
from src.analysis.collect import collect
from src.config.schema import Config
from src.errors import UserError, first_line
from src.models.base_model import empty_model
from src.running.assemble import inject_empty
from src.running.inputs import inputs_of
from src.studies.memory import Computing, StepMemory, largest_that_fits
from src.studies.planning import folders_of
from src.tasks.base import load_task
from src.training.device import find_device, memory_bytes

SHARE_FOR_USE = 0.9  # of the device's memory; the rest is what libraries and fragments take
HEAD = ("model", "adapter", "rank", "target", "trained", "GB", "s/run")


def cost_lines(configs: Sequence[Config]) -> list[str]:
    """A line for each method of a sweep on each model and target, and what doesn't fit the device.

    The memory is that of the largest rank and the longest text that a task lets pass.

    Raises:
        UserError: a task's data can't be had.
    """
    groups: dict[tuple[str, ...], list[Config]] = {}
    for config in configs:
        target = config.target.name if config.has_axis("target") else "-"
        kind = (config.task.name, config.model.name, config.adapter.name, target, config.quantization)
        groups.setdefault((*kind, repr(config.trainer)), []).append(config)
    rows: list[tuple[str, ...]] = [HEAD]
    notes: list[str] = []
    for group in groups.values():
        row, said = _row(group)
        rows.append(row)
        notes += said
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*lines, *dict.fromkeys(notes)]


def _row(configs: list[Config]) -> tuple[tuple[str, ...], list[str]]:
    largest = max(configs, key=lambda config: config.rank)
    ranks = sorted({config.rank for config in configs}) if largest.has_axis("rank") else []
    counts = [_trained(config) for config in {config.rank: config for config in configs}.values()]
    memory, notes = _memory(largest)
    return (
        largest.model.name,
        largest.adapter.name,
        _span([str(rank) for rank in ranks]),
        largest.target.name if largest.has_axis("target") else "-",
        _span([f"{trained:,}" for trained in sorted(counts)]),
        f"{memory.total / 1e9:.2f}" if memory else "?",
        _usual_seconds(largest),
    ), notes


def _span(values: list[str]) -> str:
    distinct = list(dict.fromkeys(values))
    return "-" if not distinct else distinct[0] if len(distinct) == 1 else f"{distinct[0]} to {distinct[-1]}"


def _trained(config: Config) -> int:
    labels = _labels(config)
    return count(inject_empty(config, empty_model(config.model, num_labels=labels))).trained


def _labels(config: Config) -> int:
    return len(load_task(config).data.label_names)


def _memory(config: Config) -> tuple[StepMemory | None, list[str]]:
    """The memory of a step in the largest part of the batch that fits, and what is to be said of it."""
    asked = config.trainer.micro_batch_size or config.trainer.batch_size
    name = f"model={config.model.name} adapter={config.adapter.name}"
    how = Computing(inputs_of(config).precision, find_device("fp32").attention, _labels(config))
    try:
        texts, memory = largest_that_fits(config, SHARE_FOR_USE * memory_bytes(), how)
    except UserError as error:
        return None, [first_line(error)]
    if memory.total > SHARE_FOR_USE * memory_bytes():
        return memory, [
            f"warning: {name} needs {memory.total / 1e9:.1f} GB for {texts} texts of {config.task.max_length} tokens; "
            f"this device has {memory_bytes() / 1e9:.1f}. Try trainer.checkpointing=true, or quantization=nf4."
        ]
    return memory, [f"{name}: {texts} of {asked} texts at a time fit this device"] if texts < asked else []


def _usual_seconds(config: Config) -> str:
    """The median of runs of the method, model and task in the nearest results folder; of all methods for a new one."""
    for folder in folders_of(config):
        runs = collect(folder)
        alike = runs[(runs["task"] == config.task.name) & (runs["model"] == config.model.name)]
        alike = alike[alike["run_seconds"].notna() & ~alike["trial"].fillna(False)]
        same = alike[alike["adapter"] == config.adapter.name]
        if len(alike):
            return f"{(same if len(same) else alike)['run_seconds'].median():.0f}"
    return "?"
