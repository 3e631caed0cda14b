"""Learning rates chosen on validation: for every cell of a sweep as many sound trials around its own rate.

A cell is what runs share that differ in the seed alone. Its trials have seeds of their own and never see the test
split, and they are runs as all others are: stored, skipped when done, shared between workers. Which rates are tried,
and which is chosen, `src.running.search` decides.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from src.config.schema import Config
from src.errors import UserError
from src.files import write_json
from src.results.identity import decisive
from src.results.schema import Record, Tuning
from src.results.store import RESULT, read_record, readable_record
from src.running.inputs import folder_of
from src.running.search import Attempt, Budget, Curve, Trial, rate_at
from src.running.tuning_noise import expected_regret, pairs_of, pooled_variance, trial_sd

AtRate = Callable[[Config, float], Config]  # a run at another learning rate
SMALLEST, LARGEST = 1e-100, 1e100  # rates to start from: what is tried around them are numbers too


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

    @property
    def budget(self) -> Budget:
        """How many rates it gets."""
        return Budget(self.configs[0].tuning.trials, self.configs[0].tuning.extensions)

    @property
    def seeds(self) -> list[int]:
        """The seeds of its trials: all rates have the first one, the two best the second."""
        return tuning_seeds(self.configs[0])

    def trial(self, value: float, seed: int | None = None) -> Config:
        """The run that tries a rate with one of the tuning seeds, the first where none is given."""
        tried = self.at(self.configs[0], value)
        seed = self.seeds[0] if seed is None else seed
        return replace(tried, seed=seed, trainer=replace(tried.trainer, score_test=False))

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


def tuning_seeds(config: Config) -> list[int]:
    """The seeds of the trials, which no reported run may have."""
    return [config.tuning.seed, config.tuning.seed + 1]


def cells(configs: Iterable[Config], at: AtRate = at_rate) -> list[Cell]:
    """Put a sweep's runs together that differ in their seeds alone, in the order of the sweep.

    Raises:
        UserError: the sweep varies the learning rate itself, has a run with a seed of the trials, or a rate around
            which there are no others.
    """
    members: dict[str, dict[str, Config]] = {}
    for config in configs:
        first, second = tuning_seeds(config)
        if config.seed in (first, second):
            raise UserError(
                f"seed={config.seed} is a seed of the trials, and a run that chose its rate can't be reported.\n"
                f"Choose seeds other than {first} and {second}, or another tuning.seed."
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
    if not SMALLEST <= cell.prior <= LARGEST:
        raise UserError(
            f"{cell.axis}={cell.prior:g} leaves no room for other rates around it.\n"
            f"Allowed in src.tune: {SMALLEST:g} to {LARGEST:g}."
        )
    return cell


@dataclass
class Search:
    """A cell's search: the runs that were asked for so far, and what they gave."""

    cell: Cell
    runs: dict[Attempt, Config] = field(default_factory=dict)
    curve: Curve = field(init=False)

    def __post_init__(self) -> None:
        self.curve = Curve({}, self.cell.budget)

    def value(self, position: int) -> float:
        """The rate at a position of the grid."""
        return rate_at(self.cell.prior, position)

    def advance(self) -> bool:
        """Read what the runs gave and ask for those that are to follow; False where the rate can be chosen."""
        self.curve = curve_of(self.cell, self.runs)
        wanted = self.curve.wanted()
        for position, which in wanted:
            self.runs[position, which] = self.cell.trial(self.value(position), self.cell.seeds[which])
        return bool(wanted)

    @property
    def unsettled(self) -> list[Config]:
        """The trials that were asked for and have to be run."""
        return [config for config in self.runs.values() if not settled(config)]

    @property
    def trials(self) -> list[Trial]:
        """All trials, in the order of their rates and seeds."""
        return [trial for position in sorted(self.curve.tried) for trial in self.curve.tried[position]]

    @property
    def rate(self) -> float | None:
        """The chosen rate; None where no trial is sound."""
        return None if self.curve.chosen is None else self.value(self.curve.chosen)

    def chosen(self) -> list[Config]:
        """The cell's runs at the chosen rate; none where no trial is sound."""
        return [] if self.rate is None else self.cell.chosen(self.rate)

    def summary(self, pooled: float | None) -> Tuning:
        """What is stored with every run of the cell: its trials, the chosen rate, why it is that, and the noise.

        Args:
            pooled: the variance of a trial's score by the pairs of all cells; None where there are none.
        """
        curve, at, rate = self.curve, self.curve.chosen, self.rate
        assert at is not None
        assert rate is not None
        sd = trial_sd(curve, pooled)
        regret = None if sd is None else expected_regret(curve, sd)
        return {
            "axis": self.cell.axis,
            "seed": self.cell.seeds[0],
            "trials": [trial.stored() for trial in self.trials],
            "chosen": rate,
            "at_edge": bool(curve.edge(at)),
            "beside_broken": curve.is_beside_broken(at),
            "wanted": curve.budget.useful,
            "why": curve.why(),
            "noise": {"trial_sd": sd, "pairs": len(pairs_of(curve)), "regret": regret},
        }


def pooled_variances(searches: list[Search]) -> list[float | None]:
    """For each search one trial's variance by the pairs of all cells of its task, metric and model."""
    groups: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    keys = []
    for search in searches:
        config = search.cell.configs[0]
        keys.append((config.task.name, config.task.validation_metric or config.task.metric, config.model.name))
        groups[keys[-1]] += pairs_of(search.curve)
    return [pooled_variance(groups[key]) for key in keys]


def curve_of(cell: Cell, runs: dict[Attempt, Config]) -> Curve:
    """What the trials of a cell gave, as far as they were run."""
    tried: dict[int, tuple[Trial, ...]] = {}
    directions = []
    for (position, _), config in sorted(runs.items()):
        folder = folder_of(config)
        tried[position] = (*tried.get(position, ()), _trial_in(rate(config), config.seed, folder))
        record = readable_record(folder)
        if record and record["state"] == "done":
            directions.append(record["metrics"]["validation"]["higher_is_better"])
    return Curve(tried, cell.budget, higher_is_better=all(directions))


def _trial_in(value: float, seed: int, folder: Path) -> Trial:
    try:
        return _trial(value, seed, read_record(folder))
    except UserError as error:
        return Trial(value, "unreadable", reason=str(error), seed=seed)


def _trial(value: float, seed: int, record: Record | None) -> Trial:
    if record is None:
        return Trial(value, "not run", seed=seed)
    if record["state"] != "done":
        return Trial(value, record["state"], reason=(record.get("error") or {}).get("message", ""), seed=seed)
    flags, score = tuple(record.get("flags", [])), record["metrics"]["validation"]
    items = score.get("n") if score.get("unit", "share") == "share" else None
    return Trial(value, "done", validation_of(record), flags, ", ".join(flags), seed, items)


def validation_of(record: Record) -> float:
    """What a finished trial is judged by: its validation score, the mean over the ranks that its training gave."""
    # The rate is for all of them: at the largest rank alone the best one may leave the smaller useless.
    smaller = [row["validation"] for row in record.get("smaller_ranks", [])]
    return fmean([record["metrics"]["validation"]["value"], *smaller])


def record_of(config: Config) -> Record | None:
    """The run's record, None where it has none yet or one that can't be read."""
    return readable_record(folder_of(config))


def settled(config: Config) -> bool:
    """Say whether another attempt would change nothing: the run is done, or diverged as it would again."""
    record = record_of(config)
    return record is not None and record["state"] in ("done", "diverged")


def annotate(folder: Path, **facts: Any) -> None:
    """Store with a finished run what came after it: how its rate was chosen, or what it was added for."""
    record = readable_record(folder)
    if record is not None and record["state"] == "done" and record != record | facts:
        write_json(folder / RESULT, record | facts)
