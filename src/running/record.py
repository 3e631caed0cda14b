"""What a run leaves when it is done: its predictions and its record."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.files import replacing
from src.metrics import TIMED_OUT
from src.results.digests import tensor_digests
from src.results.identity import identity
from src.results.provenance import provenance
from src.results.schema import SCHEMA_VERSION, Data, Forgetting, Record, SecondaryScore, SplitScore
from src.results.store import ADAPTER
from src.running.fitting import Fit
from src.running.flags import flags
from src.running.inputs import inputs_of
from src.running.prepare import Prepared
from src.streams import STREAMS, stream_seed
from src.training.cuts import cut_warning
from src.training.likelihood import BITS_PER_BYTE, LOG_PROBABILITY, Likelihood, Numbers
from src.training.scoring import Scored

# Why some items have no likelihood.
WITHOUT = {
    LOG_PROBABILITY: "their answers are cut by task.max_length, or their prompts don't name the choices",
    BITS_PER_BYTE: "their answers are cut by task.max_length, or have characters that the tokenizer doesn't know",
}
COUNTS = ("answer_tokens", "answer_bytes")


@dataclass(frozen=True)
class Evaluation:
    """What scoring a trained run gave; `run_seconds` is the whole run's time.

    `forgetting_failed` says why forgetting wasn't measured although it seemed that it could be.
    """

    scored: dict[str, Scored]
    forgetting: Forgetting | None
    smaller_ranks: list[dict[str, float]]
    run_seconds: float
    forgetting_failed: str = ""


def write_predictions(path: Path, scored: dict[str, Scored]) -> None:
    """One row an item: split, its number in the split, prediction, reference, score; what is no plain value as JSON.

    `score` is the item's part of the metric, missing where the metric isn't a mean over items. Columns of the right
    answer's likelihood are there where an item has one: `log_probability`, or `answer_nats`, `answer_tokens` and
    `answer_bytes`.
    """
    frames = [
        pd.DataFrame(
            {
                "split": split,
                "item": range(len(items.references)),
                "prediction": [plain_value(value) for value in items.predictions],
                "reference": [plain_value(value) for value in items.references],
                "score": np.array(items.score.items or [np.nan] * len(items.references), dtype=np.float32),
                **{name: _column(name, numbers) for name, numbers in _likelihood_columns(items)},
            }
        )
        for split, items in scored.items()
    ]
    table = pd.concat(frames, ignore_index=True).astype({"split": "category"})
    for name in ("prediction", "reference"):
        # A column of a parquet file has one type.
        if table[name].map(type).nunique() > 1:  # validation and test have metrics of two kinds
            table[name] = table[name].map(str)
    with replacing(path) as partial:
        _write_small(table, partial)


def _write_small(table: pd.DataFrame, path: Path) -> None:
    """Write predictions in fewer bytes than pandas would: items count up, and floats lie byte by byte."""
    floats = [name for name in table if table[name].dtype in (np.float32, np.float64)]
    counted = [name for name in table if name == "item"]
    apart = {name: "BYTE_STREAM_SPLIT" for name in floats} | {name: "DELTA_BINARY_PACKED" for name in counted}
    table.to_parquet(
        path,
        index=False,
        compression="zstd",
        column_encoding=apart,
        use_dictionary=[name for name in table if name not in apart],
    )


def _likelihood_columns(scored: Scored) -> Iterable[tuple[str, Numbers]]:
    return scored.likelihood.columns.items() if scored.likelihood else ()


def _column(name: str, numbers: Numbers) -> pd.Series:
    """A column of a table whose numbers may be missing."""
    return pd.Series(numbers, dtype="Int32" if name in COUNTS else "Float32")


def plain_value(value: Any) -> Any:
    """A prediction or reference as a table keeps it: lists and dictionaries as JSON."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def finished_record(run: Prepared, fit: Fit, evaluation: Evaluation) -> Record:
    """The record of a run that is done."""
    config, training, data = run.config, fit.training, _data(run)
    inputs = inputs_of(config)
    doubts = flags(evaluation.scored[run.splits[-1]], training.history)
    record: Record = {
        "schema_version": SCHEMA_VERSION,
        "run_id": run.folder.name,
        "state": "done",
        "identity": identity(config, inputs),
        "config": asdict(config),
        "seeds": {"seed": config.seed, **{stream: stream_seed(config.seed, stream) for stream in STREAMS}},
        "metrics": {split: _metric(scored) for split, scored in evaluation.scored.items()},
        "parameters": fit.parameters,
        "scaling": fit.scaling,
        "tensors": tensor_digests(run.folder / ADAPTER),
        "time": {
            "train_seconds": round(training.train_seconds, 3),
            "eval_seconds": round(training.eval_seconds, 3),
            "setup_seconds": round(fit.setup_seconds, 3),
            "run_seconds": round(evaluation.run_seconds, 3),
            "tokens_per_second": round(training.tokens / training.train_seconds, 1),
        },
        "memory": {
            "saved_for_backward_bytes": training.saved_for_backward_bytes,
            "peak_allocated_bytes": training.peak_allocated_bytes,
            "precision": run.device.precision,
            "batch_size": config.trainer.batch_size,
            "micro_batch_size": training.micro_batch_size,
            "tokens": training.tokens,
        },
        "checkpoint": {"rule": config.trainer.checkpoint, "step": training.checkpoint_step},
        "history": training.history,
        "data": data,
        "provenance": provenance(asdict(run.device), inputs.code),
        "warnings": _warnings(run, evaluation.scored) + [f"{kind}: {found}" for kind, found in doubts.items()],
        "error": None,
    }
    if fit.preflight:
        record["preflight"] = fit.preflight
    if doubts:
        record["flags"] = list(doubts)
    if evaluation.forgetting:
        record["forgetting"] = evaluation.forgetting
    elif run.forgetting_skipped or evaluation.forgetting_failed:
        record["forgetting_skipped"] = run.forgetting_skipped or evaluation.forgetting_failed
    if run.quantized_share is not None:
        record["quantized_share"] = run.quantized_share
    if evaluation.smaller_ranks:
        record["smaller_ranks"] = evaluation.smaller_ranks
    return record


def _metric(scored: Scored) -> SplitScore:
    """A split's score as it is recorded; the items' scores are in the predictions."""
    score = scored.score
    metric: SplitScore = {
        "name": score.name,
        "value": score.value,
        "higher_is_better": score.higher_is_better,
        "unit": score.unit,
        "n": len(scored.references),
    }
    if scored.more:
        metric["more"] = scored.more
    if scored.sets:
        metric["sets"] = scored.sets
    if secondary := _secondary(scored.likelihood):
        metric["secondary"] = secondary
    return metric


def _secondary(likelihood: Likelihood | None) -> SecondaryScore | None:
    """How likely the right answers are, as it is recorded; None where the split's items have no number."""
    if likelihood is None or likelihood.value is None:
        return None
    score: SecondaryScore = {
        "name": likelihood.name,
        "value": likelihood.value,
        "unit": likelihood.unit,
        "higher_is_better": likelihood.higher_is_better,
        "n": likelihood.n,
    }
    if likelihood.sets:
        score["sets"] = likelihood.sets
    return score


def _data(run: Prepared) -> Data:
    longest = run.config.task.max_length
    # A row that just fits is as long as one that was cut, which `cut` tells apart.
    full = {
        split: sum(len(example["input_ids"]) >= longest for example in examples)
        for split, examples in run.examples.items()
    }
    return {
        "rows": {split: len(rows) for split, rows in run.task.data.splits.items()},
        "at_max_length": full,
        "cut": {split: asdict(cut) for split, cut in run.cuts.items()},
        "overlap": {split: asdict(overlap) for split, overlap in run.task.overlaps.items()},
    }


def _warnings(run: Prepared, scored: dict[str, Scored]) -> list[str]:
    """What a reader of the scores should know of the data, the model and the scoring."""
    cut = cut_warning(run.config.task, run.cuts)
    texts = [*run.task.warnings(run.config), *run.base.notes, *([cut] if cut else [])]
    for split, items in scored.items():
        if stopped := items.more.get(TIMED_OUT):
            texts.append(f"{stopped:,.0f} programs of {split} ran out of time and count as wrong")
        if (found := items.likelihood) and found.n < len(items.references):
            missing = f"{len(items.references) - found.n:,} of {len(items.references):,} {split} items"
            texts.append(f"{missing} have no {found.name.replace('_', ' ')}: {WITHOUT[found.name]}")
    return texts
