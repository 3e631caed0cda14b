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
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from src.analysis.item_scores import Items, scores_of_splits
from src.analysis.statistics import PairedTest, SeedError, bootstrap_intervals, front, holm, paired_test, seed_error
from src.errors import UserError

# What makes two runs repetitions of each other with other seeds.
CELL = ["task", "model", "adapter", "trained_rank", "rank", "target", "lr", "alpha", "differs"]
LEVEL = 0.05
SEEDS_FOR_A_VERDICT = 3  # with fewer, nothing is called best
# What is said of a cell where it differs in the cell's task and model.
MIXED = {"hardware": "ran on", "torch": "ran on", "general_text": "forgetting is measured on"}
TOLERANCE = 1e-4  # between a score and the mean of its items, which are stored in single precision
SPLITS = {"validation": "validation_metric", "test": "metric"}
FACTS = ["validation_metric", "validation_unit", "metric", "unit", "higher_is_better", "protocol", "memory_kind",
         "batch_size", "precision"]  # fmt: skip
MEDIANS = ["run_seconds", "train_seconds", "tokens_per_second", "memory_bytes"]
SIZES = ["scaling", "trained", "body_trained"]
SEED_OF_DRAWS = 0  # of intervals and permutations, so that the same runs give the same bytes
Run = dict[str, Any]


@dataclass(frozen=True)
class CellScores:
    """The scores of a cell's runs: (seeds, items), or one column where only the runs' own are known.

    `data` says what the scores are of; only cells with equal ones can be compared. `error` is the error over seeds of
    all cells that they can be compared with, where these are several.
    """

    seeds: list[int]
    values: NDArray[np.float32]
    data: Hashable
    error: SeedError | None = None


@dataclass(frozen=True)
class Comparison:
    """A table of cells, and the scores behind each of its rows.

    Beside what the runs say, `cells` has 95 % intervals of both splits; `split`, `mean`, `std`, `low` and `high` of the
    score that counts; `tie` (it can't be told from the best of its task and model), `on_front` (the noise-aware Pareto
    front of trained parameters and score) and `notes`, what a reader should know of a cell, separated by "; ".
    """

    cells: pd.DataFrame
    scores: list[CellScores | None]

    def test(self, first: int, second: int) -> PairedTest | None:
        """The first row's score minus the second's, on the seeds and items that both have; None where none are."""
        return paired(self.scores[first], self.scores[second])

    def where(self, wanted: "pd.Series[bool]") -> "Comparison":
        """The rows that are wanted."""
        chosen = np.flatnonzero(wanted.to_numpy())
        return Comparison(self.cells.iloc[chosen].reset_index(drop=True), [self.scores[index] for index in chosen])


def comparison(runs: pd.DataFrame) -> pd.DataFrame:
    """The table of cells alone: `compare(runs).cells`."""
    return compare(runs).cells


def compare(runs: pd.DataFrame) -> Comparison:
    """Put runs together that differ in their seeds alone, and compare what comes of it.

    Where other settings differ between the runs of a task and model, `differs` names them, so that no such difference
    is averaged over or goes unseen. `n` counts the finished runs behind a row, `failed` the others, with their reasons
    in `reason`. The trials of a tuned sweep are left out: they chose its rates, and `learning_rates` shows them.
    """
    groups = grouped(reported(runs))
    read = [_read(group) for group in groups]
    cells = pd.DataFrame([_facts(group) | {"notes": own.problems} for group, own in zip(groups, read, strict=True)])
    cells = cells.astype({"rank": "Int64", "trained_rank": "Int64"})
    for split in SPLITS:
        cells = cells.assign(**_intervals(split, [own.splits.get(split) for own in read]))
    for end in ("low", "high"):
        cells[end] = np.where(cells["split"] == "test", cells[f"test_{end}"], cells[f"validation_{end}"])
    scores = [own.splits.get(split) for own, split in zip(read, cells["split"], strict=True)]
    found = _with_verdicts(_with_errors(Comparison(cells, scores)))
    return Comparison(found.cells.assign(notes=notes(found.cells)), found.scores)


def reported(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that a table is about: of each task and model all but the trials, or these where nothing else is."""
    is_trial = runs["trial"].eq(True).fillna(False).astype(bool)
    is_scored = runs["trial"].eq(False).fillna(False).astype(bool)  # of some unreadable runs neither is known
    only_trials = ~is_scored.groupby([runs["task"], runs["model"]]).transform("any").astype(bool)
    return runs[~is_trial | only_trials]


def grouped(runs: pd.DataFrame) -> list[list[Run]]:
    """The runs of each cell, in order; each run has `differs` beside its own columns."""
    runs = runs.assign(differs=differing_settings(runs))
    numbers = runs.groupby(CELL, dropna=False, sort=True).ngroup()
    found: list[list[Run]] = [[] for _ in range(numbers.max() + 1)]
    for number, run in zip(numbers, plain(runs), strict=True):
        found[number].append(run)
    return found


def plain(runs: pd.DataFrame) -> list[Run]:
    """Each run as a mapping, in which what is missing is None."""
    records = runs.to_dict("records")
    return [{str(key): None if _is_missing(value) else value for key, value in run.items()} for run in records]


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and value != value)


def differing_settings(runs: pd.DataFrame) -> pd.Series:
    """For each run, those of its settings in which runs of its task and model differ, as in "trainer.max_steps=4".

    A method's own options are compared among the runs of that method.
    """
    texts = pd.Series("", index=runs.index)
    known = runs[runs["settings"].notna()]
    for _, own in known.groupby(["task", "model"]):
        varying = {key for key in _varying(own["settings"]) if not key.startswith("adapter.")}
        for _, group in own.groupby("adapter"):
            options = {key for key in _varying(group["settings"]) if key.startswith("adapter.")}
            keys = sorted(varying | options)
            if keys:
                shown = [", ".join(f"{key}={one[key]}" for key in keys if key in one) for one in group["settings"]]
                texts[group.index] = shown
    return texts


def _varying(settings: Iterable[dict[str, str]]) -> set[str]:
    first, *others = settings
    return {key for own in others for key, _ in own.items() ^ first.items()}


@dataclass(frozen=True)
class _Read:
    """What the predictions of a cell's runs hold, and what is wrong with them."""

    splits: dict[str, CellScores]
    problems: list[str]


def _read(group: list[Run]) -> _Read:
    """The scores of a cell's finished runs on each split, with its items where every run has as many."""
    done = [run for run in sorted(group, key=lambda run: run["seed"] or 0) if run["state"] == "done"]
    items, problems = {}, []
    for run in done:
        found, problem = _items(run)
        items[run["run_id"]] = found
        problems += problem
    splits = {}
    for split in SPLITS:
        scored = [run for run in done if run[split] is not None]
        if scored:
            splits[split] = _scores(split, scored, [items[run["run_id"]].get(split) for run in scored])
            missing = len(done) - len(scored)
            problems += [f"{missing} of {len(done)} runs have no {split} score"] if missing else []
    if len({run["seed"] for run in done}) < len(done):
        problems.append("a seed is there more than once")
    return _Read(splits, problems)


def _scores(split: str, runs: list[Run], items: list[Items | None]) -> CellScores:
    values = np.array([[run[split]] for run in runs], dtype=np.float32)
    whole = [own for own in items if own is not None]
    if len(whole) == len(items) and len({len(own) for own in whole}) == 1:
        values = np.stack(whole)
    first = runs[0]
    items_scored = first["evaluated_items"] if split == "test" else None
    data = (split, first[SPLITS[split]], first["protocol"], first["fingerprint"], items_scored)
    return CellScores([run["seed"] for run in runs], values, data)


def _items(run: Run) -> tuple[dict[str, Items], list[str]]:
    """The scores of a run's items on the splits where their mean is its score, and why they aren't used elsewhere."""
    nested = run["trained_rank"] is not None and run["trained_rank"] != run["rank"]
    if nested or not isinstance(run["folder"], Path):
        return {}, []
    wanted = {split: run[key] for split, key in SPLITS.items() if run[split] is not None}
    try:
        found = scores_of_splits(run["folder"], wanted)
    except UserError as error:
        return {}, [f"items not used: {str(error).splitlines()[0]}"]
    known = {split: own for split, own in found.items() if own is not None}
    wrong = [split for split, own in known.items() if abs(float(own.mean(dtype=np.float64)) - run[split]) > TOLERANCE]
    problems = [f"items not used: the predictions of {run['run_id']} don't give its {split} score" for split in wrong]
    return {split: own for split, own in known.items() if split not in wrong}, problems


def paired(first: CellScores | None, second: CellScores | None) -> PairedTest | None:
    """Test two cells on what they share: the same data, seeds and items; None where that is too little."""
    if first is None or second is None or first.data != second.data:
        return None
    shared = sorted(set(first.seeds) & set(second.seeds))
    if not shared:
        return None
    ours, theirs = (own.values[[own.seeds.index(seed) for seed in shared]] for own in (first, second))
    if ours.shape != theirs.shape:  # of one only the runs' own scores are known
        ours, theirs = ours.mean(axis=1, keepdims=True), theirs.mean(axis=1, keepdims=True)
    error = first.error if first.error == second.error else None
    return paired_test(ours, theirs, np.random.default_rng(SEED_OF_DRAWS), error)


def _facts(group: list[Run]) -> dict[str, Any]:
    """What a cell's runs say, but for intervals and tests."""
    done, lost = ([run for run in group if (run["state"] == "done") == wanted] for wanted in (True, False))
    values = {key: [run[key] for run in done if run[key] is not None] for key in group[0]}
    split = "test" if values["test"] or not done else "validation"
    spread = {
        f"{own}_{name}": number
        for own in SPLITS
        for name, number in zip(("mean", "std"), _mean(values[own]), strict=True)
    }
    tuned = [tuning_text(run) for run in done or group]
    texts = sorted(set(values["general_text"]))
    forgetting = values["forgetting"] if len(texts) == 1 else []  # of several texts no mean
    return {
        **{key: group[0][key] for key in CELL},
        **{key: max(values[key], default=None) for key in FACTS},
        **{key: max(values[key], default=None) for key in SIZES},
        "trained_percent": 100 * max(values["trained"]) / max(values["total"]) if done else None,
        **spread,
        "split": split,
        "mean": spread[f"{split}_mean"],
        "std": spread[f"{split}_std"],
        "n": len(done),
        "tuning": " and ".join(sorted(set(tuned))),
        **dict(zip(("forgetting_mean", "forgetting_std"), _mean(forgetting), strict=True)),
        "general_text": " and ".join(texts) or None,
        **{key: median(values[key]) if values[key] else None for key in MEDIANS},
        "weights": _weights(group[0]["settings"]),
        "hardware": " and ".join(sorted({f"{run['device']}, {run['precision']}" for run in done})),
        "torch": " and ".join(sorted({f"PyTorch {run['torch'] or 'unknown'}" for run in done})),
        "failed": len(lost),
        "reason": "; ".join(sorted({f"{run['state']}: {run['reason']}".replace("\n", " ") for run in lost})),
        "run_ids": sorted(run["run_id"] for run in group),
    }


def _mean(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and the sample's standard deviation (n - 1), where there are enough values for them."""
    return float(np.mean(values)) if values else None, float(np.std(values, ddof=1)) if len(values) > 1 else None


def _weights(settings: dict[str, str] | None) -> str:
    """The format of the frozen weights."""
    known = settings or {}
    return known.get("quantization") or json.loads(known.get("model.dtype", '"float32"'))


def tuning_text(run: Run) -> str:
    """How a run's rate was chosen: "untuned", or the number of trials, and whether the best lay at the edge."""
    if run["trial"]:
        return "trial"
    tuning = run["tuning"]
    if not tuning:
        return "untuned"
    return f"{len(tuning['trials'])} trials" + (", best at edge" if tuning["at_edge"] else "")


def _intervals(split: str, scores: list[CellScores | None]) -> dict[str, NDArray[np.float64]]:
    """The ends of the cells' intervals, missing for a single number."""
    ends = np.full((len(scores), 2), np.nan)
    several = {index: own.values for index, own in enumerate(scores) if own is not None and own.values.size > 1}
    if several:
        ends[list(several)] = bootstrap_intervals(list(several.values()), np.random.default_rng(SEED_OF_DRAWS))
    return {f"{split}_low": ends[:, 0], f"{split}_high": ends[:, 1]}


def fronts(found: Comparison, cost: str) -> list[bool]:
    """For each row whether it is on the noise-aware Pareto front of its score and a cost, a column of the cells.

    Rows stand against those of their task and model that are scored on the same data; one without the cost is on none.
    """
    on_front, costs = np.zeros(len(found.cells), dtype=bool), found.cells[cost].astype(float).tolist()
    for group in _comparable(found):
        known = [number for number, place in enumerate(group.places) if not np.isnan(costs[place])]

        def p_value(first: int, second: int, group: _Group = group, known: list[int] = known) -> float:
            return group.p_value(known[first], known[second])

        own = front([costs[group.places[number]] for number in known], group.merits[known].tolist(), p_value)
        on_front[[group.places[number] for number in known]] = own
    return on_front.tolist()


@dataclass(frozen=True)
class _Group:
    """Rows of a task and model that are scored on the same data: their places and scores, higher being better."""

    found: Comparison
    places: list[int]
    merits: NDArray[np.float64]

    def p_value(self, first: int, second: int) -> float:
        """The p-value of the difference between two of the group; 1 where they share no seed."""
        tested = self.found.test(self.places[first], self.places[second])
        return tested.p_value if tested else 1.0


def _comparable(found: Comparison) -> Iterator[_Group]:
    cells = found.cells.to_dict("list")
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for place, own in enumerate(found.scores):
        if own is not None:
            groups[cells["task"][place], cells["model"][place], own.data].append(place)
    for places in groups.values():
        sign = 1 if cells["higher_is_better"][places[0]] else -1
        yield _Group(found, places, sign * np.array([cells["mean"][place] for place in places]))


def _with_errors(found: Comparison) -> Comparison:
    """Add the error over seeds to the scores of cells that have the same seeds and can be compared.

    The smaller ranks of one training are no trainings of their own, and not counted.
    """
    scores, cells = list(found.scores), found.cells
    smaller = (cells["trained_rank"].notna() & (cells["trained_rank"] != cells["rank"])).fillna(False).tolist()
    alike: dict[Hashable, dict[int, CellScores]] = defaultdict(dict)
    for place, own in enumerate(scores):
        if own is not None and len(own.seeds) > 1:
            alike[cells["task"][place], cells["model"][place], own.data, tuple(own.seeds)][place] = own
    for group in alike.values():
        means = [own.values.mean(axis=1, dtype=np.float64) for place, own in group.items() if not smaller[place]]
        if len(means) > 2:
            error = seed_error(np.stack(means))
            for place, own in group.items():
                scores[place] = replace(own, error=error)
    return Comparison(cells, scores)


def _with_verdicts(found: Comparison) -> Comparison:
    """Add `tie` and `on_front`, each among the cells of a task and model that are scored on the same data."""
    tie, seeds = np.zeros(len(found.cells), dtype=bool), [len(own.seeds) if own else 0 for own in found.scores]
    for group in _comparable(found):
        sure = [number for number, place in enumerate(group.places) if seeds[place] >= SEEDS_FOR_A_VERDICT]
        tie[[group.places[number] for number in sure]] = ties(group.merits[sure], sure, group.p_value)
    return Comparison(found.cells.assign(tie=tie, on_front=fronts(found, "trained")), found.scores)


def ties(merits: NDArray[np.float64], places: Sequence[int], p_value: Callable[[int, int], float]) -> list[bool]:
    """Say which entries can't be told from the best, by tests that are corrected for their number (Holm)."""
    if len(merits) == 0:
        return []
    best = int(merits.argmax())
    others: Sequence[int] = [index for index in range(len(merits)) if index != best]
    adjusted = holm([p_value(places[best], places[index]) for index in others])
    told_apart = {index for index, p in zip(others, adjusted, strict=True) if p < LEVEL}
    return [index not in told_apart for index in range(len(merits))]


def notes(cells: pd.DataFrame) -> list[str]:
    """For each cell what was wrong with its scores, and what it ran on where that differs in its task and model."""
    mixed = {column: _where_mixed(cells, column) for column in MIXED}
    found = []
    for index, own in enumerate(cells.itertuples()):
        ran = [f"{said} {getattr(own, column)}" for column, said in MIXED.items() if mixed[column][index]]
        found.append("; ".join([*own.notes, *ran]))
    return found


def _where_mixed(cells: pd.DataFrame, column: str) -> list[bool]:
    """For each cell with runs whether its column has another value than other cells of its task and model."""
    done = (cells["n"] > 0) & cells[column].notna()
    kinds = cells[done].groupby(["task", "model"])[column].nunique()
    several = [kinds.get(key, 0) > 1 for key in zip(cells["task"], cells["model"], strict=True)]
    mixed = pd.Series(several, index=cells.index) | cells[column].astype(str).str.contains(" and ")
    return [bool(own) for own in done & mixed]
