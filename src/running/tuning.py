"""Learning rates chosen on validation: for every cell of a sweep the same number of trials around its own rate.

A cell is what runs share that differ in the seed alone. Its trials have a seed of their own and never see the test
split, and they are runs as all others are: stored, skipped when done, shared between workers.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from statistics import fmean

from src.config.schema import Config
from src.errors import UserError
from src.results.identity import decisive
from src.results.schema import Record
from src.results.store import read_record
from src.running.inputs import folder_of

STEP = math.sqrt(10)  # between neighboring rates: half a decade


@dataclass(frozen=True)
class Trial:
    """One rate's run; `validation` is None where it diverged or failed, and `state` says which.

    Of a method that trains several ranks at once it is the mean over them.
    """

    value: float
    state: str
    validation: float | None = None


@dataclass(frozen=True)
class Cell:
    """Runs that differ in their seeds alone, and what is tuned for them: the method's rate, or its head's where the
    method has none.
    """  # fmt: skip

    configs: list[Config]

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
        first = self.configs[0]
        quick = replace(first.trainer, score_test=False)
        return at_rate(replace(first, seed=first.tuning.seed, trainer=quick), value)

    def chosen(self, value: float) -> list[Config]:
        """The cell's runs at the chosen rate."""
        return [at_rate(config, value) for config in self.configs]


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


def cells(configs: Iterable[Config]) -> list[Cell]:
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
        seeds = members.setdefault(_key(at_rate(config, 1.0)), {})
        seeds.setdefault(_key(config, with_seed=True), config)
    return [_checked(Cell(list(seeds.values()))) for seeds in members.values()]


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
    """The trial with the best validation score; of equal ones the nearest to the prior; None where none has a score."""

    # Nearest on the grid's own scale: half the prior and twice the prior are equally far.
    def sort_key(trial: Trial) -> tuple[float, float]:
        score = trial.validation if higher_is_better else -(trial.validation or 0.0)
        return score or 0.0, -abs(math.log(trial.value / prior))

    return max((trial for trial in trials if trial.validation is not None), key=sort_key, default=None)


def further(cell: Cell, trials: list[Trial], leader: Trial | None) -> float | None:
    """The rate to try next where the best one is at the edge of the grid and may be extended, else None."""
    tuning = cell.configs[0].tuning
    if leader is None or len(trials) >= tuning.trials + tuning.extensions:
        return None
    values = sorted(trial.value for trial in trials)
    steps = {values[0]: -1, values[-1]: 1}.get(leader.value)
    return None if steps is None else scaled(leader.value, steps)


def outcome(cell: Cell, values: list[float]) -> tuple[list[Trial], Trial | None]:
    """What the trials of a cell gave, as far as they were run, and the best of them."""
    records = [record_of(cell.trial(value)) for value in values]
    trials = [_trial(value, record) for value, record in zip(values, records, strict=True)]
    done = [record for record in records if record and record["state"] == "done"]
    directions = [record["metrics"]["validation"]["higher_is_better"] for record in done]
    return trials, best(trials, cell.prior, higher_is_better=all(directions))


def _trial(value: float, record: Record | None) -> Trial:
    if record is None or record["state"] != "done":
        return Trial(value, record["state"] if record else "not run")
    return Trial(value, "done", validation_of(record))


def validation_of(record: Record) -> float:
    """What a finished trial is judged by: its validation score, the mean over the ranks that its training gave."""
    # The rate is for all of them: at the largest rank alone the best one may leave the smaller useless.
    smaller = [row["validation"] for row in record.get("smaller_ranks", [])]
    return fmean([record["metrics"]["validation"]["value"], *smaller])


def record_of(config: Config) -> Record | None:
    """The run's record, None where it has none yet."""
    return read_record(folder_of(config))
