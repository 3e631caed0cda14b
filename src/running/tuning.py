"""Learning rates chosen on validation: for every cell of a sweep the same number of trials around its own rate.

A cell is what runs share that differ in the seed alone. Its trials have a seed of their own and never see the test
split, and they are runs as all others are: stored, skipped when done, shared between workers.
"""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean

from src.config.schema import Config
from src.errors import UserError
from src.results.identity import decisive
from src.results.schema import Record, StoredTrial
from src.results.store import read_record, readable_record
from src.running.inputs import folder_of

AtRate = Callable[[Config, float], Config]  # a run at another learning rate
STEP = math.sqrt(10)  # between neighboring rates: half a decade


@dataclass(frozen=True)
class Trial:
    """One rate's run; `validation` is None where it diverged or failed, and `state` says which.

    Of a method that trains several ranks at once it is the mean over them. `flags` has what makes its score doubtful,
    `reason` in words what went wrong, where something did.
    """

    value: float
    state: str
    validation: float | None = None
    flags: tuple[str, ...] = ()
    reason: str = ""

    @property
    def is_sound(self) -> bool:
        """Whether the rate may be chosen for its score."""
        return self.validation is not None and not self.flags

    def stored(self) -> StoredTrial:
        """The trial as the records of its cell's runs have it."""
        values: StoredTrial = {"value": self.value, "state": self.state, "validation": self.validation}
        if self.flags:
            values["flags"] = list(self.flags)
        return values

    @property
    def tells(self) -> bool:
        """Whether the outcome says something of the rate: training that broke down does, a full disk doesn't."""
        return self.state in ("done", "diverged")


@dataclass(frozen=True)
class Cell:
    """Runs that differ in their seeds alone, and what is tuned for them: the method's rate, or its head's where the
    method has none.
    """  # fmt: skip

    configs: list[Config]
    at: AtRate = field(default=lambda config, value: at_rate(config, value), compare=False)

    @property
    def name(self) -> str:
        """The cell in a word, as in "lora-r8-qv"."""
        config = self.configs[0]
        rank = [f"r{config.rank}"] if config.has_axis("rank") else []
        return "-".join([config.adapter.name, *rank, *([config.target.name] if config.has_axis("target") else [])])

    @property
    def axis(self) -> str:
        """The option that is tuned."""
        return axis(self.configs[0])

    @property
    def prior(self) -> float:
        """The rate in the middle of the grid: the method's own, or what the command gives."""
        return rate(self.configs[0])

    def trial(self, value: float) -> Config:
        """The run that tries a rate."""
        tried = self.at(self.configs[0], value)
        return replace(tried, seed=tried.tuning.seed, trainer=replace(tried.trainer, score_test=False))

    def chosen(self, value: float) -> list[Config]:
        """The cell's runs at the chosen rate."""
        return [self.at(config, value) for config in self.configs]


def axis(config: Config) -> str:
    """What the run's learning rate is: its method's, or the head's where the method trains nothing else."""
    return "lr" if config.has_axis("lr") else "trainer.head_lr"


def rate(config: Config) -> float:
    """The value of the run's `axis`."""
    return float(config.lr or 0.0) if config.has_axis("lr") else config.trainer.head_lr


def at_rate(config: Config, value: float) -> Config:
    """The same run at another learning rate."""
    if config.has_axis("lr"):
        return replace(config, lr=value)
    return replace(config, trainer=replace(config.trainer, head_lr=value))


def cells(configs: Iterable[Config], at: AtRate = at_rate) -> list[Cell]:
    """Put a sweep's runs together that differ in their seeds alone, in the order of the sweep.

    Raises:
        UserError: the sweep varies the learning rate itself, or has a run with the trials' seed.
    """
    members: dict[str, dict[str, Config]] = {}
    for config in configs:
        if config.seed == config.tuning.seed:
            raise UserError(
                f"seed={config.seed} is the seed of the trials, and a run that chose its rate can't be reported.\n"
                "Choose other seeds, or another tuning.seed."
            )
        # Runs that differ in the rate alone are of one cell, and those that differ in nothing are one run.
        seeds = members.setdefault(_key(at(config, 1.0)), {})
        seeds.setdefault(_key(config, with_seed=True), config)
    return [_checked(Cell(list(seeds.values()), at)) for seeds in members.values()]


def _key(config: Config, *, with_seed: bool = False) -> str:
    values = {**decisive(config), "task": asdict(config.task), "results_dir": config.results_dir}
    return json.dumps(values if with_seed else {**values, "seed": None}, sort_keys=True)


def _checked(cell: Cell) -> Cell:
    rates = sorted({rate(config) for config in cell.configs})
    if len(rates) > 1:
        raise UserError(
            f"{cell.axis}={','.join(f'{value:g}' for value in rates)} sweeps what src.tune chooses.\n"
            "Give one value, the middle of the grid, or none for the method's own."
        )
    return cell


def grid(prior: float, trials: int) -> list[float]:
    """An odd number of rates, half a decade apart, with the prior in the middle."""
    half = trials // 2
    return [scaled(prior, steps) for steps in range(-half, half + 1)]


def scaled(value: float, steps: int) -> float:
    """A rate so many half decades away, to two digits."""
    # The prior itself isn't rounded, which could make another run of it.
    return float(f"{value * STEP**steps:.2g}") if steps else value


def best(trials: list[Trial], prior: float, *, higher_is_better: bool) -> Trial | None:
    """The sound trial with the best validation score; of equal ones the nearest to the prior; None where none is."""

    # Nearest on the grid's own scale: half the prior and twice the prior are equally far.
    def sort_key(trial: Trial) -> tuple[float, float]:
        score = trial.validation if higher_is_better else -(trial.validation or 0.0)
        return score or 0.0, -abs(math.log(trial.value / prior))

    return max((trial for trial in trials if trial.is_sound), key=sort_key, default=None)


def at_edge(trials: list[Trial], leader: Trial | None) -> int:
    """Where the best rate is: -1 at the lower edge of what was tried, 1 at the upper, 0 at none.

    Rates at which training broke down are beyond the edge of what is good, so that a neighbor of theirs is at none.
    """
    values = [trial.value for trial in trials if trial.tells]
    if leader is None:
        return 0
    return {min(values): -1, max(values): 1}.get(leader.value, 0)


def further(cell: Cell, trials: list[Trial], leader: Trial | None) -> float | None:
    """The rate to try next where the best one is at the edge of the grid and may be extended, else None."""
    tuning = cell.configs[0].tuning
    steps = at_edge(trials, leader)
    if not steps or len(trials) >= tuning.trials + tuning.extensions:
        return None
    # Beyond all that were tried: the next may be one whose run failed.
    values = [trial.value for trial in trials]
    return scaled(min(values) if steps < 0 else max(values), steps)


def outcome(cell: Cell, values: list[float]) -> tuple[list[Trial], Trial | None]:
    """What the trials of a cell gave, as far as they were run, and the best of them."""
    folders = [folder_of(cell.trial(value)) for value in values]
    trials = [_trial_in(value, folder) for value, folder in zip(values, folders, strict=True)]
    done = [record for folder in folders if (record := readable_record(folder)) and record["state"] == "done"]
    directions = [record["metrics"]["validation"]["higher_is_better"] for record in done]
    return trials, best(trials, cell.prior, higher_is_better=all(directions))


def _trial_in(value: float, folder: Path) -> Trial:
    try:
        return _trial(value, read_record(folder))
    except UserError as error:
        return Trial(value, "unreadable", reason=str(error))


def _trial(value: float, record: Record | None) -> Trial:
    if record is None:
        return Trial(value, "not run")
    if record["state"] != "done":
        return Trial(value, record["state"], reason=(record.get("error") or {}).get("message", ""))
    flags = tuple(record.get("flags", []))
    return Trial(value, "done", validation_of(record), flags, ", ".join(flags))


def validation_of(record: Record) -> float:
    """What a finished trial is judged by: its validation score, the mean over the ranks that its training gave."""
    # The rate is for all of them: at the largest rank alone the best one may leave the smaller useless.
    smaller = [row["validation"] for row in record.get("smaller_ranks", [])]
    return fmean([record["metrics"]["validation"]["value"], *smaller])


def record_of(config: Config) -> Record | None:
    """The run's record, None where it has none yet or one that can't be read."""
    return readable_record(folder_of(config))
