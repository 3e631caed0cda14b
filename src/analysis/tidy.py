"""Runs, items and logged steps as tidy frames: a row each, units in the columns' names, and each column explained."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from src.analysis.comparison import Comparison, Run, plain
from src.errors import UserError
from src.results.store import PREDICTIONS

# The columns of each frame, and what they hold.
RUNS = {
    "cell": "the name of the cell that the run is part of; missing for a trial of a rate",
    "run_id": "the name of the run's folder",
    "state": "done, failed, diverged, out_of_memory, interrupted, running, not finished or unreadable",
    "reason": "why it isn't done",
    "task": "what it was trained on",
    "model": "the base model",
    "adapter": "the method",
    "rank": "the rank that is scored; missing where the method has none",
    "trained_rank": "the rank that was trained, where smaller ones within it are scored too",
    "target": "the name of the set of adapted matrices",
    "seed": "the run's seed",
    "lr": "the learning rate",
    "alpha": "the scaling's numerator",
    "scaling": "the factor of the adapter's output",
    "protocol": "strict, or paper: validated on the test split",
    "is_trial": "whether it chose a rate, and has no test score",
    "metric": "what `test_score` is",
    "unit": "its unit; a share is between 0 and 1",
    "higher_is_better": "whether a larger score is the better one",
    "test_score": "the score on test, in `unit`",
    "validation_metric": "what `validation_score` is",
    "validation_unit": "its unit",
    "validation_score": "the score on validation at the end, in `validation_unit`",
    "trained_params": "parameters that were trained, the head included",
    "trained_params_without_head": "the same without the head, which all methods share",
    "all_params": "all parameters of the adapted model",
    "forgetting_nats": "the loss on general text after training minus before, in nats a token",
    "train_seconds": "seconds of training",
    "run_seconds": "seconds of the whole run",
    "tokens_per_second": "tokens trained on in a second",
    "memory_bytes": "bytes that training takes, of the kind that `memory_kind` says",
    "memory_kind": "what `memory_bytes` counts: a GPU's peak, or what is kept for the backward pass",
    "precision": "what was computed in: bf16 or fp32",
    "device": "the hardware",
    "flags": "what makes the score doubtful",
    "folder": "where the run's files are",
}
ITEMS = {
    "cell": "the name of the run's cell",
    "run_id": "the name of the run's folder",
    "seed": "the run's seed",
    "split": "validation or test",
    "item": "the item's number among those that were scored of its split, from 0",
    "text": "what the model was shown, where it was asked for and the task still has it",
    "prediction": "what the model said: a class, a number or a text",
    "reference": "what is right",
    "score": "the item's part of the metric; missing where that isn't a mean over items",
}
CURVES = {
    "cell": "the name of the run's cell",
    "run_id": "the name of the run's folder",
    "adapter": "the method",
    "seed": "the run's seed",
    "step": "optimizer steps so far",
    "train_loss": "the mean training loss of the steps since the last one logged; in nats, but for tasks with numbers",
    "validation_score": "the score on validation, in `validation_unit`; the last is that of the saved adapter",
    "validation_unit": "its unit",
}
RENAMED = {
    "trial": "is_trial", "test": "test_score", "validation": "validation_score", "trained": "trained_params",
    "body_trained": "trained_params_without_head", "total": "all_params", "forgetting": "forgetting_nats",
}  # fmt: skip


@dataclass(frozen=True)
class Texts:
    """What a task's rows say: the text of each scored item by split, and the names of the classes where it has any."""

    by_split: Mapping[str, list[str]]
    labels: list[str] = field(default_factory=list)


ReadTexts = Callable[[Path], Texts]  # from a run's folder; raises UserError where the task's rows are others now


def run_rows(records: pd.DataFrame, comparison: Comparison, names: list[str]) -> pd.DataFrame:
    """A row for each run, and for each smaller rank within one, with the columns `RUNS`.

    Args:
        records: the rows of `collect`.
        comparison: that of the same runs.
        names: the cells' names.
    """
    keys = zip(records["run_id"], records["rank"].astype(object), strict=True)
    cell_of = _cells_by_run(comparison, names)
    cells = [cell_of.get((run_id, None if pd.isna(rank) else int(rank))) for run_id, rank in keys]
    return records.rename(columns=RENAMED).assign(cell=cells)[list(RUNS)]


def _cells_by_run(comparison: Comparison, names: list[str]) -> dict[tuple[str, int | None], str]:
    """The name of the cell of each run at each of its ranks."""
    rows = zip(names, comparison.cells["run_ids"], comparison.cells["rank"].astype(object), strict=True)
    return {(run, None if pd.isna(rank) else int(rank)): name for name, runs, rank in rows for run in runs}


def finished(runs: pd.DataFrame) -> list[Run]:
    """The finished runs that are part of a cell, each once: at the rank that was trained.

    Args:
        runs: what `run_rows` gives, perhaps with further columns.
    """
    trained = runs["trained_rank"].isna() | (runs["trained_rank"] == runs["rank"])
    return plain(runs[trained.fillna(True).astype(bool) & (runs["state"] == "done") & runs["cell"].notna()])


def item_rows(runs: pd.DataFrame, read_texts: ReadTexts | None = None) -> pd.DataFrame:
    """A row for each scored item of each finished run, with the columns `ITEMS`.

    A run whose predictions aren't there, or can't be read, which a note on its cell says, has no rows.

    Args:
        runs: what `run_rows` gives.
        read_texts: reads the items' texts and the names of the classes, which then stand for the classes' numbers.

    Raises:
        UserError: the task's rows aren't those that were scored.
    """
    texts_of: dict[tuple[Any, ...], Texts] = {}
    frames = [pd.DataFrame(columns=list(ITEMS))]
    for run in finished(runs):
        rows = _predictions(Path(run["folder"]), run["metric"])
        if rows is None:
            continue
        if read_texts:
            key = (run["task"], run["model"], run["protocol"], *rows.groupby("split", observed=True).size())
            # Once for all runs that scored the same rows: reading a task's data may take a while.
            texts = texts_of[key] if key in texts_of else texts_of.setdefault(key, read_texts(Path(run["folder"])))
            rows = _with_texts(rows, texts)
        frames.append(rows.assign(**{key: run[key] for key in ("cell", "run_id", "seed")}).reindex(columns=list(ITEMS)))
    several = [frame for frame in frames if len(frame)]
    return pd.concat(several or frames, ignore_index=True)


def _predictions(folder: Path, metric: str) -> pd.DataFrame | None:
    """The stored items of a run with a score each; None where there are none to be read."""
    try:
        rows: pd.DataFrame = pq.read_table(folder / PREDICTIONS).to_pandas()
    except (pa.ArrowException, OSError):
        return None
    if "score" not in rows and metric == "accuracy":  # older predictions have no scores
        rows["score"] = (rows["prediction"] == rows["reference"]).astype("float32")
    return rows


def _with_texts(rows: pd.DataFrame, texts: Texts) -> pd.DataFrame:
    """The items with their texts, and with the names of classes in place of their numbers."""
    pairs = zip(rows["split"].astype(str), rows["item"], strict=True)
    rows = rows.assign(text=[texts.by_split[split][item] for split, item in pairs])
    if len(texts.labels) > 1:
        names = dict(enumerate(texts.labels))
        rows = rows.assign(**{key: rows[key].map(names) for key in ("prediction", "reference")})
    return rows


def curve_rows(runs: pd.DataFrame, records: pd.DataFrame) -> pd.DataFrame:
    """A row for each logged step of each finished run, with the columns `CURVES`.

    Args:
        runs: what `run_rows` gives.
        records: the rows of `collect` that they were made of, with each run's history.
    """
    rows = [row for run in finished(runs.assign(history=records["history"])) for row in _steps(run)]
    return pd.DataFrame(rows, columns=list(CURVES))


def _steps(run: Run) -> list[dict[str, Any]]:
    """The logged steps of a run in order; the final validation is at the last of them."""
    history = run["history"] or []
    by_step: dict[int, dict[str, Any]] = {}
    for point in [*history, {"step": max((point["step"] for point in history), default=0),
                             "validation": run["validation_score"]}]:  # fmt: skip
        found = {
            new: point[old] for new, old in (("train_loss", "loss"), ("validation_score", "validation")) if old in point
        }
        by_step.setdefault(point["step"], {}).update(found)
    facts = {key: run[key] for key in ("cell", "run_id", "adapter", "seed", "validation_unit")}
    return [facts | {"step": step} | by_step[step] for step in sorted(by_step)]


def disagreements(items: pd.DataFrame, first: str, second: str, split: str) -> pd.DataFrame:
    """The items of a split on which two cells disagree, those with the largest difference of scores first.

    They disagree where their mean scores over the seeds that both have differ, or, where items have no scores, what
    they predict.

    Args:
        items: the rows of both cells, as `item_rows` gives them.

    Returns:
        A row an item: `item`, `text`, `reference`, what each cell predicts (where its seeds differ, each answer with
        how many gave it), each one's mean score, and `difference`, the first's score minus the second's.

    Raises:
        UserError: no items are stored of one of them, or they share no seed.
    """
    items = items[items["split"] == split]
    seeds = [set(items.loc[items["cell"] == cell, "seed"]) for cell in (first, second)]
    if not seeds[0] & seeds[1]:
        raise UserError(
            f"{first} and {second} have no items of the same seeds on {split}.\n"
            "Name two cells whose runs have their predictions.parquet, with a seed in common."
        )
    items = items[items["seed"].isin(seeds[0] & seeds[1])].sort_values("seed", kind="stable")
    sides = [_by_item(items[items["cell"] == cell]) for cell in (first, second)]
    if len(sides[0]) != len(sides[1]) or not sides[0]["reference"].astype(str).equals(
        sides[1]["reference"].astype(str)
    ):
        raise UserError(
            f"{first} and {second} were scored on other items of {split}.\nName two cells of the same data."
        )
    table = pd.DataFrame({
        "item": sides[0].index, "text": sides[0]["text"], "reference": sides[0]["reference"],
        first: sides[0]["prediction"], second: sides[1]["prediction"],
        f"{first} score": sides[0]["score"], f"{second} score": sides[1]["score"],
        "difference": sides[0]["score"] - sides[1]["score"],
    })  # fmt: skip
    unscored = table["difference"].isna()
    differ = table["difference"].ne(0).where(~unscored, sides[0]["prediction"] != sides[1]["prediction"])
    table = table[differ.astype(bool)]
    order = table["difference"].abs().sort_values(ascending=False, kind="stable").index
    return table.loc[order].reset_index(drop=True)


def _by_item(rows: pd.DataFrame) -> pd.DataFrame:
    """A row an item of one cell: text and reference, the answers of its seeds, and their mean score."""
    groups = rows.groupby("item", sort=True)
    firsts = groups[["text", "reference"]].first()
    return firsts.assign(prediction=groups["prediction"].agg(_answers), score=groups["score"].mean())


def _answers(answers: "pd.Series[Any]") -> str:
    """The answers of a cell's seeds to an item: the one they agree in, or each with how many gave it."""
    counts = Counter(map(str, answers))
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{answer} ({number} of {len(answers)})" for answer, number in counts.most_common())
