"""What a run leaves: its record, its predictions, and between training and scoring what training showed."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.config.schema import Config
from src.files import replacing, write_json
from src.results.identity import identity
from src.results.provenance import provenance
from src.results.store import ADAPTER, FIT, RESULTS_VERSION, Record
from src.streams import STREAMS, stream_seed
from src.tasks.base import LoadedTask
from src.training.batches import Example
from src.training.device import Device
from src.training.scoring import Scored
from src.training.trainer import Training

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Fit:
    """What is known of a run once its adapter is trained and saved; kept beside it until the run is scored."""

    training: Training
    parameters: dict[str, Any]
    scaling: float | None
    setup_seconds: float

    @classmethod
    def read(cls, folder: Path) -> "Fit | None":
        """The fit that an earlier attempt at the run left before it failed at scoring; None where there is none."""
        if not ((folder / FIT).exists() and (folder / ADAPTER).exists()):
            return None
        values = json.loads((folder / FIT).read_text(encoding="utf-8"))
        return cls(**{**values, "training": Training(**values["training"])})

    def write(self, folder: Path) -> None:
        """Leave the fit beside its adapter."""
        write_json(folder / FIT, asdict(self))


def write_predictions(path: Path, scored: dict[str, Scored]) -> None:
    """One row an item: split, its number in the split, prediction, reference, score; what is no plain value as JSON.

    `score` is the item's part of the metric, missing where the metric isn't a mean over items.
    """
    frames = [
        pd.DataFrame(
            {
                "split": split,
                "item": range(len(own.references)),
                "prediction": [_plain(value) for value in own.predictions],
                "reference": [_plain(value) for value in own.references],
                "score": np.array(own.score.items or [np.nan] * len(own.references), dtype=np.float32),
            }
        )
        for split, own in scored.items()
    ]
    table = pd.concat(frames, ignore_index=True).astype({"split": "category"})
    for name in ("prediction", "reference"):
        if table[name].map(type).nunique() > 1:  # validation and test have metrics of two kinds
            table[name] = table[name].map(str)
    with replacing(path) as partial:
        table.to_parquet(partial, index=False)


def _plain(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def _data_facts(config: Config, task: LoadedTask, examples: dict[str, list[Example]]) -> dict[str, Any]:
    """How many rows each split has, how many of them are as long as allowed, and the overlap with train."""
    longest = config.task.max_length
    return {
        "rows": {split: len(own) for split, own in task.data.splits.items()},
        "at_max_length": {
            split: sum(len(example["input_ids"]) >= longest for example in own) for split, own in examples.items()
        },
        "overlap": {split: asdict(own) for split, own in task.overlaps.items()},
    }


def _warnings(config: Config, task: LoadedTask, facts: dict[str, Any]) -> list[str]:
    found = task.warnings(config)
    cut = facts["at_max_length"]["test"]
    if cut:
        rows = facts["rows"]["test"]
        found.append(f"{cut:,} of {rows:,} test items reach task.max_length={config.task.max_length} and may be cut")
    return found


def finished_record(
    config: Config,
    task: LoadedTask,
    examples: dict[str, list[Example]],
    fit: Fit,
    scored: dict[str, Scored],
    device: Device,
    run_seconds: float,
) -> Record:
    """The record of a run that is done, but for its `run_id`."""
    training, facts = fit.training, _data_facts(config, task, examples)
    return {
        "schema_version": SCHEMA_VERSION,
        "results_version": RESULTS_VERSION,
        "state": "done",
        "identity": identity(config, task.fingerprint),
        "config": asdict(config),
        "seeds": {"seed": config.seed, **{stream: stream_seed(config.seed, stream) for stream in STREAMS}},
        "metrics": {split: _metrics(own) for split, own in scored.items()},
        "parameters": fit.parameters,
        "scaling": fit.scaling,
        "time": {
            "train_seconds": round(training.train_seconds, 3),
            "eval_seconds": round(training.eval_seconds, 3),
            "setup_seconds": round(fit.setup_seconds, 3),
            "run_seconds": round(run_seconds, 3),
            "tokens_per_second": round(training.tokens / training.train_seconds, 1),
        },
        "memory": {
            "saved_for_backward_bytes": training.saved_for_backward_bytes,
            "peak_allocated_bytes": training.peak_allocated_bytes,
            "precision": device.precision,
            "batch_size": config.trainer.batch_size,
            "tokens": training.tokens,
        },
        "checkpoint": {"rule": config.trainer.checkpoint, "step": training.checkpoint_step},
        "history": training.history,
        "data": facts,
        "provenance": provenance(asdict(device)),
        "warnings": _warnings(config, task, facts),
        "error": None,
    }


def _metrics(scored: Scored) -> dict[str, Any]:
    own = {**asdict(scored.score), "n": len(scored.references), "more": scored.more, "sets": scored.sets}
    del own["items"]  # they are in the predictions
    return {key: value for key, value in own.items() if value != {}}
