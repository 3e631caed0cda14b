"""Cells from runs: what repeats but for the seed, with intervals, and tests between any two of them.

A cell is scored on test where its runs were, else on validation. Intervals and tests use the items' stored scores where
their mean is the score, else the runs' scores alone.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from src.analysis.doubtful import CONSTANT, DOUBTFUL, doubts
from src.analysis.error_model import CellScores, ErrorModel
from src.analysis.item_scores import SplitItems, scores_of_splits
from src.analysis.secondary import Secondary, secondary_of
from src.analysis.statistics import Estimate, PairedTest, best_set, pareto_front
from src.analysis.tuned import seeds_that_chose, tuning_budget, tuning_regret, tuning_text
from src.errors import UserError, first_line

# What makes two runs repetitions of each other with other seeds.
ASKED = ["task", "model", "adapter", "trained_rank", "rank", "target", "lr", "alpha", "differs"]
MADE_WITH = ["method_code", "shared_code", "versions", "hardware"]
CELL = ASKED + MADE_WITH
SEEDS_FOR_A_VERDICT = 3  # with fewer, nothing is called best
OF_CODE = ("made by the code", "its method's code is")
# How a note on a cell begins where the column varies among cells that share the columns named.
MIXED = {
    "shared_code": (OF_CODE[0], ["task", "model"]),
    "method_code": (OF_CODE[1], ["task", "model", "adapter", "weights"]),
    "hardware": ("ran on", ["task", "model"]),
    "versions": ("made with", ["task", "model"]),
    "general_text": ("forgetting is measured on", ["task", "model"]),
    "tuning_budget": ("its learning rate was chosen with", ["task", "model"]),
}
TOLERANCE = 1e-4  # between a score and the mean of its items, which are stored in single precision
SPLITS = {"validation": "validation_metric", "test": "metric"}
FACTS = ["validation_metric", "validation_unit", "validation_higher_is_better", "metric", "unit", "higher_is_better",
         "protocol", "memory_kind", "batch_size", "precision"]  # fmt: skip
MEDIANS = ["run_seconds", "train_seconds", "tokens_per_second", "memory_bytes"]
SIZES = ["scaling", "trained", "body_trained"]
SAME_BUT_FOR_RANK = ["task", "model", "adapter", "trained_rank", "target", "differs"]
FOLLOWS_RANK = "its scaling follows the rank"
Run = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """One outcome of all rows, such as the score on test: its numbers, and how sure they and their differences are.

    `places` says of each row with scores in which error model it is, and where: rows are in one only if they are of one
    task and model and scored on the same data.
    """

    scores: list[CellScores | None]
    places: list[tuple[ErrorModel, int] | None]

    @classmethod
    def of(cls, cells: pd.DataFrame, scores: Sequence[CellScores | None]) -> "Measured":
        """Put the rows that can be held against each other into one error model."""
        groups: dict[Hashable, list[int]] = defaultdict(list)
        for index, cell in enumerate(scores):
            if cell is not None:
                groups[cells["task"][index], cells["model"][index], cell.data].append(index)
        places: list[tuple[ErrorModel, int] | None] = [None] * len(scores)
        for indices in groups.values():
            model = ErrorModel([cell for index in indices if (cell := scores[index]) is not None])
            for position, index in enumerate(indices):
                places[index] = (model, position)
        return cls(list(scores), places)

    def mean(self, index: int) -> Estimate | None:
        """A row's mean; None where it has no scores, or a single number."""
        place = self.places[index]
        return place[0].mean(place[1]) if place else None

    def test(self, first: int, second: int) -> PairedTest | None:
        """The test of the first row's mean minus the second's; None where they can't be held against each other."""
        place, other = self.places[first], self.places[second]
        return place[0].test(place[1], other[1]) if place and other and place[0] is other[0] else None

    def difference(self, first: int, second: int) -> Estimate | None:
        """What `test` tests, without the test."""
        place, other = self.places[first], self.places[second]
        return place[0].difference(place[1], other[1]) if place and other and place[0] is other[0] else None

    def where(self, rows: Sequence[int]) -> "Measured":
        """The chosen rows, numbered anew; what is known of their noise stays."""
        return Measured([self.scores[row] for row in rows], [self.places[row] for row in rows])


@dataclass(frozen=True)
class Comparison:
    """A table of cells, and the scores behind each of its rows.

    Beside what the runs say, `cells` has 95 % intervals of both splits; `split`, `mean`, `std`, `low` and `high` of the
    score that counts, and the last four of the secondary outcome on that split, with its name, unit and direction;
    `tie` (it can't be told from the best of its task and model), `on_front` (the noise-aware Pareto front of trained
    parameters and score) and `notes`, what a reader should know of a cell, separated by "; ".
    """

    cells: pd.DataFrame
    primary: Measured
    secondary: Measured

    def test(self, first: int, second: int, outcome: Literal["primary", "secondary"] = "primary") -> PairedTest | None:
        """The first row's score minus the second's.

        None where they aren't scored on the same data, or too little is known of their noise: see `ErrorModel.test`.

        Args:
            outcome: the score, or how likely the right answers are, in nats or in bits per byte (lower is better).
        """
        return (self.primary if outcome == "primary" else self.secondary).test(first, second)

    def where(self, selected: "pd.Series[bool]") -> "Comparison":
        """The selected rows, with their scores, numbered anew."""
        chosen = np.flatnonzero(selected.to_numpy())
        primary, secondary = (measured.where(chosen.tolist()) for measured in (self.primary, self.secondary))
        return Comparison(self.cells.iloc[chosen].reset_index(drop=True), primary, secondary)


def comparison(runs: pd.DataFrame) -> pd.DataFrame:
    """The table of cells alone: `compare(runs).cells`."""
    return compare(runs).cells


def compare(runs: pd.DataFrame) -> Comparison:
    """Put runs together that differ in their seeds alone, and compare the cells that they make up.

    Where other settings differ between the runs of a task and model, `differs` names them, so that no such difference
    is averaged over or goes unseen. `n` counts the finished runs behind a row, `failed` the others, with their reasons
    in `reason`. The trials of a tuned sweep are left out: they chose its rates, and `learning_rates` shows them.

    Args:
        runs: the rows of `collect`, at least one.
    """
    cells, scored_groups = _scored(runs)
    for split in SPLITS:
        of_split = Measured.of(cells, [scored.splits.get(split) for scored in scored_groups])
        cells = cells.assign(**_intervals(split, cells, of_split))
    # The interval that counts is that of the split that counts.
    for end in ("low", "high"):
        cells[end] = np.where(cells["split"] == "test", cells[f"test_{end}"], cells[f"validation_{end}"])
    scores = [scored.splits.get(split) for scored, split in zip(scored_groups, cells["split"], strict=True)]
    secondary = Measured.of(cells, [_cell_scores(scored.secondary) for scored in scored_groups])
    cells = cells.assign(**_intervals("secondary", cells, secondary))
    compared = _with_verdicts(Comparison(cells, Measured.of(cells, scores), secondary))
    return replace(compared, cells=compared.cells.assign(notes=notes(compared.cells)))


def uncompared(runs: pd.DataFrame) -> Comparison:
    """The cells of `compare` with their scores, but without the columns of intervals and verdicts, which take long."""
    cells, scored_groups = _scored(runs)
    scores = [scored.splits.get(split) for scored, split in zip(scored_groups, cells["split"], strict=True)]
    secondary = [_cell_scores(scored.secondary) for scored in scored_groups]
    return Comparison(cells, Measured.of(cells, scores), Measured.of(cells, secondary))


def _scored(runs: pd.DataFrame) -> "tuple[pd.DataFrame, list[_SplitScores]]":
    """A row for each cell, and its scores."""
    groups = grouped(reported_runs(runs))
    scored_groups = [_scores_by_split(group) for group in groups]
    cells = pd.DataFrame(
        [
            _facts(group) | _secondary_facts(scored.secondary) | {"notes": scored.problems}
            for group, scored in zip(groups, scored_groups, strict=True)
        ]
    )
    return cells.astype({"rank": "Int64", "trained_rank": "Int64"}), scored_groups


def reported_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that a table is about: of each task and model all but the trials, or these where nothing else is."""
    is_trial = runs["trial"].eq(True).fillna(False).astype(bool)
    # Not the negation of the line above: an unreadable run may be marked as neither.
    is_scored = runs["trial"].eq(False).fillna(False).astype(bool)
    only_trials = ~is_scored.groupby([runs["task"], runs["model"]]).transform("any").astype(bool)
    return runs[~is_trial | only_trials]


def grouped(runs: pd.DataFrame) -> list[list[Run]]:
    """The runs of each cell, in the order of `CELL`; each run has `differs` beside the columns of `runs`."""
    runs = _with_makers(runs.assign(differs=differing_settings(runs)))
    # dropna=False: a method without a rank or a target set is a cell too.
    group_numbers = runs.groupby(CELL, dropna=False, sort=True).ngroup()
    groups: list[list[Run]] = [[] for _ in range(group_numbers.max() + 1)]
    for number, run in zip(group_numbers, plain(runs), strict=True):
        groups[number].append(run)
    return groups


def _with_makers(runs: pd.DataFrame) -> pd.DataFrame:
    """Count a run that isn't done, which doesn't say what it was made with, to the first cell that it was meant for."""
    first = runs.groupby(ASKED, dropna=False)[MADE_WITH].transform("first")
    return runs.assign(**{column: runs[column].fillna(first[column]) for column in MADE_WITH})


def plain(runs: pd.DataFrame) -> list[Run]:
    """Each run as a mapping, in which what is missing is None."""
    records = runs.to_dict("records")
    return [{str(key): None if _is_missing(value) else value for key, value in run.items()} for run in records]


def _is_missing(value: Any) -> bool:
    """Say whether there is no value; `pd.isna` would answer for each member of a list."""
    return value is None or value is pd.NA or (isinstance(value, float) and value != value)


def differing_settings(runs: pd.DataFrame) -> pd.Series:
    """For each run, those of its settings in which runs of its task and model differ, as in "trainer.max_steps=4".

    The options of a method are compared among the runs of that method alone.
    """
    texts = pd.Series("", index=runs.index)
    with_settings = runs[runs["settings"].notna()]
    for _, of_task in with_settings.groupby(["task", "model"]):
        varying = {key for key in _varying(of_task["settings"]) if not key.startswith(("adapter.", "target."))}
        for _, group in of_task.groupby(["adapter", "target"], dropna=False):
            of_adapter = of_task[of_task["adapter"] == group["adapter"].iloc[0]]
            options = {key for key in _varying(of_adapter["settings"]) if key.startswith("adapter.")}
            roles = {key for key in _varying(group["settings"]) if key.startswith("target.")}
            keys = sorted(varying | options | roles)
            if keys:
                shown = [", ".join(f"{key}={one[key]}" for key in keys if key in one) for one in group["settings"]]
                texts[group.index] = shown
    return texts


def _varying(settings: Iterable[dict[str, str]]) -> set[str]:
    """The keys whose values aren't the same in all of them, or that some of them lack."""
    first, *others = settings
    return {key for other in others for key, _ in other.items() ^ first.items()}


@dataclass(frozen=True)
class _SplitScores:
    """The scores of a cell by split, what is wrong with them, and the secondary outcome on the split that counts."""

    splits: dict[str, CellScores]
    problems: list[str]
    secondary: Secondary | None


def _scores_by_split(group: list[Run]) -> _SplitScores:
    """The scores of a cell's finished runs on each split, with its items where every run has as many."""
    # In the order of seeds, whatever the order of the runs: the same runs must give the same random draws.
    done = [run for run in sorted(group, key=lambda run: run["seed"] or 0) if run["state"] == "done"]
    items, problems = {}, []
    for run in done:
        run_items, problem = _items(run)
        items[run["run_id"]] = run_items
        problems += problem
    splits = {}
    for split in SPLITS:
        scored = [run for run in done if run[split] is not None]
        if scored:
            splits[split] = _scores(split, scored, [items[run["run_id"]].get(split) for run in scored])
            missing = len(done) - len(scored)
            problems += [f"{missing} of {len(done)} runs have no {split} score"] if missing else []
    counts = "test" if "test" in splits else "validation"
    secondary, problem = secondary_of([run for run in done if run[counts] is not None], counts)
    problems += problem
    problems += [
        f"its runs differ in {key}: {' and '.join(sorted(map(str, found)))}"
        for key in FACTS
        if len(found := {run[key] for run in done if run[key] is not None}) > 1
    ]
    problems += doubts([_with_constant(run, items[run["run_id"]]) for run in done])
    problems += seeds_that_chose(done)
    if len({run["seed"] for run in done}) < len(done):
        problems.append("a seed is there more than once")
    return _SplitScores(splits, problems, secondary)


def _with_constant(run: Run, items: dict[str, SplitItems]) -> Run:
    """The run with the flag of constant predictions on the split that counts, which older records lack."""
    seen = items.get("test" if run["test"] is not None else "validation")
    flags = set(run["flags"] or []) | ({CONSTANT} if seen is not None and seen.is_constant else set())
    return {**run, "flags": sorted(flags)}


def _cell_scores(secondary: Secondary | None) -> CellScores | None:
    """The secondary outcome as scores, for the same intervals and tests."""
    return CellScores(secondary.seeds, secondary.values, secondary.data) if secondary else None


def _secondary_facts(secondary: Secondary | None) -> dict[str, Any]:
    """What a cell's row says of its secondary outcome, but for its interval."""
    mean, std = _mean(secondary.run_values if secondary else [])
    return {
        "secondary": secondary and secondary.name,
        "secondary_unit": secondary and secondary.unit,
        "secondary_higher_is_better": secondary and secondary.higher_is_better,
        "secondary_mean": mean,
        "secondary_std": std,
    }


def _scores(split: str, runs: list[Run], items: list[SplitItems | None]) -> CellScores:
    """The scores of a cell on one split; by item only where every run has the same items."""
    values = np.array([[run[split]] for run in runs], dtype=np.float32)
    whole = [run_items for run_items in items if run_items is not None]
    if len(whole) == len(items) and len({(run_items.references, len(run_items.scores)) for run_items in whole}) == 1:
        values = np.stack([run_items.scores for run_items in whole])
    first = runs[0]
    # What must be equal for two cells to be scored on the same thing.
    scored = first["evaluated_items"] if split == "test" else None
    data = (split, first[SPLITS[split]], first["protocol"], first["fingerprint"], scored)
    is_part = first["trained_rank"] is not None and first["trained_rank"] != first["rank"]
    references = whole[0].references if values.shape[1] > 1 else ""
    return CellScores([run["seed"] for run in runs], values, data, references, is_part)


def _items(run: Run) -> tuple[dict[str, SplitItems], list[str]]:
    """The scores of a run's items on the splits where their mean is its score, and why they aren't used elsewhere."""
    # Predictions are stored for the rank that was trained, not for the smaller ones within it.
    nested = run["trained_rank"] is not None and run["trained_rank"] != run["rank"]
    if nested or not isinstance(run["folder"], Path):
        return {}, []
    metrics = {split: run[key] for split, key in SPLITS.items() if run[split] is not None}
    try:
        stored = scores_of_splits(run["folder"], metrics)
    except UserError as error:
        return {}, [f"items not used: {first_line(error)}"]
    by_split = {split: items for split, items in stored.items() if items is not None}
    wrong = [
        split
        for split, items in by_split.items()
        if abs(float(items.scores.mean(dtype=np.float64)) - run[split]) > TOLERANCE
    ]
    problems = [f"items not used: the predictions of {run['run_id']} don't give its {split} score" for split in wrong]
    return {split: items for split, items in by_split.items() if split not in wrong}, problems


def _facts(group: list[Run]) -> dict[str, Any]:
    """What a cell's runs say, but for intervals and tests."""
    done, lost = ([run for run in group if (run["state"] == "done") == is_done] for is_done in (True, False))
    values = {key: [run[key] for run in done if run[key] is not None] for key in group[0]}
    split = "test" if values["test"] or not done else "validation"
    spread = {
        f"{key}_{name}": number
        for key in SPLITS
        for name, number in zip(("mean", "std"), _mean(values[key]), strict=True)
    }
    tuned = [tuning_text(run) for run in done or group]
    texts = sorted(set(values["general_text"]))
    forgetting = values["forgetting"] if len(texts) == 1 else []  # a mean over different texts would mean nothing
    # Nor is it one over those runs alone that have it.
    bits = values["forgetting_bits"] if len(values["forgetting_bits"]) == len(forgetting) else []
    return {
        **{key: group[0][key] for key in CELL},
        # As a rule all runs agree in these; the maximum doesn't depend on their order where they don't.
        **{key: max(values[key], default=None) for key in FACTS},
        **{key: max(values[key], default=None) for key in SIZES},
        "trained_percent": 100 * max(values["trained"]) / max(values["total"]) if done else None,
        **spread,
        "split": split,
        "mean": spread[f"{split}_mean"],
        "std": spread[f"{split}_std"],
        "n": len(done),
        "look_seeds": max(values["look_seeds"], default=None),
        "tuning": " and ".join(sorted(set(tuned))),
        "tuning_budget": " and ".join(sorted({text for run in done if (text := tuning_budget(run))})) or None,
        "tuning_regret": max((regret for run in done if (regret := tuning_regret(run)) is not None), default=None),
        **dict(zip(("forgetting_mean", "forgetting_std"), _mean(forgetting), strict=True)),
        **dict(zip(("forgetting_bits_mean", "forgetting_bits_std"), _mean(bits), strict=True)),
        "general_text": " and ".join(texts) or None,
        **{key: median(values[key]) if values[key] else None for key in MEDIANS},
        "weights": _weights(group[0]["settings"]),
        "failed": len(lost),
        "reason": "; ".join(sorted({f"{run['state']}: {run['reason']}".replace("\n", " ") for run in lost})),
        "run_ids": sorted(run["run_id"] for run in group),
    }


def _mean(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and the sample's standard deviation (n - 1), where there are enough values for them."""
    return float(np.mean(values)) if values else None, float(np.std(values, ddof=1)) if len(values) > 1 else None


def _weights(settings: dict[str, str] | None) -> str:
    """The format of the frozen weights: the quantization, or else the data type."""
    settings = settings or {}
    return settings.get("quantization") or json.loads(settings.get("model.dtype", '"float32"'))


def _intervals(outcome: str, cells: pd.DataFrame, measured: Measured) -> dict[str, NDArray[np.float64]]:
    """The ends of the rows' intervals of an outcome; a row with a single number has none."""
    ends = np.full((len(cells), 2), np.nan)
    units = cells[{"test": "unit", "validation": "validation_unit"}.get(outcome, f"{outcome}_unit")]
    for index, unit in enumerate(units):
        estimate = measured.mean(index)
        if estimate is not None:
            ends[index] = np.clip(estimate.interval(), 0.0, 1.0) if unit == "share" else estimate.interval()
    return {f"{outcome}_low": ends[:, 0], f"{outcome}_high": ends[:, 1]}


def on_pareto_front(compared: Comparison, cost: str) -> list[bool]:
    """For each row whether it is on the noise-aware Pareto front of its score and a cost.

    Rows stand against those of their task and model that are scored on the same data; one without the cost is on none.

    Args:
        cost: a numeric column of the cells, of which less is better.
    """
    on_front, costs = np.zeros(len(compared.cells), dtype=bool), compared.cells[cost].astype(float).to_numpy()
    for rows, scores in _comparable(compared):
        known = ~np.isnan(costs[rows])
        members = np.array(rows)[known]
        estimates = _estimates(compared, members.tolist())
        on_front[members] = pareto_front(costs[members].tolist(), scores[known].tolist(), estimates)
    return on_front.tolist()


def _comparable(compared: Comparison) -> Iterator[tuple[list[int], NDArray[np.float64]]]:
    """The rows that may be held against each other, with their scores signed so that higher is better."""
    groups: dict[int, list[int]] = defaultdict(list)
    for index, place in enumerate(compared.primary.places):
        if place is not None:
            groups[id(place[0])].append(index)
    for rows in groups.values():
        sign = 1 if compared.cells["higher_is_better"][rows[0]] else -1
        yield rows, sign * compared.cells["mean"].to_numpy(dtype=float)[rows]


def _estimates(compared: Comparison, rows: Sequence[int]) -> Callable[[int, int], Estimate | None]:
    """The difference between two of some rows, by their positions among these."""
    return lambda first, second: compared.primary.difference(rows[first], rows[second])


def _with_verdicts(compared: Comparison) -> Comparison:
    """Add `tie` and `on_front`, each among the rows of a task and model that are scored on the same data.

    Only a row with enough seeds, among others with as many, and without a doubtful run can be called best.
    """
    tie = np.zeros(len(compared.cells), dtype=bool)
    seeds = np.array([len(cell.seeds) if cell else 0 for cell in compared.primary.scores])
    doubtful = np.array([any(note.startswith(DOUBTFUL) for note in notes) for notes in compared.cells["notes"]])
    for rows, scores in _comparable(compared):
        sure = seeds[rows] >= SEEDS_FOR_A_VERDICT
        members = np.array(rows)[sure]
        if len(members) > 1:
            tie[members] = best_set(scores[sure].tolist(), _estimates(compared, members.tolist()))
    tie &= ~doubtful
    return replace(compared, cells=compared.cells.assign(tie=tie, on_front=on_pareto_front(compared, "trained")))


def notes(cells: pd.DataFrame) -> list[str]:
    """For each cell what was wrong with its scores, and what made it where that differs among comparable cells.

    Args:
        cells: with the problems of each in `notes`, as a list.

    Returns:
        A text for each cell, its parts separated by "; "; empty where there is nothing to note.
    """
    mixed = {column: _where_mixed(cells, column, among) for column, (_, among) in MIXED.items()}
    scales = _scales_that_follow_the_rank(cells)
    texts = []
    for index, cell in enumerate(cells.itertuples()):
        made = [f"{start} {getattr(cell, column)}" for column, (start, _) in MIXED.items() if mixed[column][index]]
        texts.append("; ".join([*cell.notes, *scales.get(index, []), *made]))
    return texts


def _scales_that_follow_the_rank(cells: pd.DataFrame) -> dict[int, list[str]]:
    """For each cell of a method that has another scaling at another rank, what it is at each: two things change."""
    followed: dict[int, list[str]] = {}
    sized = cells[cells["scaling"].notna() & cells["rank"].notna()]
    for _, group in sized.groupby(SAME_BUT_FOR_RANK, dropna=False):
        scales = group.drop_duplicates(["rank", "scaling"]).sort_values("rank")
        # Of several scales at one rank the scale itself is compared, and the tables show it.
        if scales["rank"].is_unique and scales["scaling"].nunique() > 1:
            pairs = zip(scales["scaling"], scales["rank"], strict=True)
            text = ", ".join(f"{scaling:g} at {rank}" for scaling, rank in pairs)
            followed |= {index: [f"{FOLLOWS_RANK} ({text}): both change together"] for index in group.index}
    return followed


def _where_mixed(cells: pd.DataFrame, column: str, among: list[str]) -> list[bool]:
    """For each cell with runs whether its column has another value than other cells that share the columns `among`."""
    done = (cells["n"] > 0) & cells[column].notna()  # a cell without a finished run ran on nothing
    kinds = cells[done].groupby(among)[column].nunique()
    keys = [cells[name] for name in among]
    several = [kinds.get(key, 0) > 1 for key in zip(*keys, strict=True)]
    # A cell whose runs differ among themselves names them all, joined by " and ".
    mixed = pd.Series(several, index=cells.index) | cells[column].astype(str).str.contains(" and ")
    return [bool(differs) for differs in done & mixed]
