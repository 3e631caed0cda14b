"""Write a finished run's model in a format of others, and make sure that it is the run's model.

An export is written beside its place, loaded in a process of its own by the line that is printed, and put in place only
if it predicts there what the run's stored predictions are and computes the logits of the run's own model.
"""

import contextlib
import copy
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.config.schema import Config
from src.errors import UserError, nearest_first
from src.exporting import merged_model, peft_adapter
from src.exporting.format import Format, TrainedModel, Written, in_python
from src.exporting.reproduction import Job, imports_of, in_fresh_process, logits_of
from src.exporting.stored import Stored, check_reproduced, stored_predictions
from src.files import open_to_others, write_json
from src.models.quantization import check_quantization
from src.results.schema import Record
from src.results.store import ADAPTER
from src.results.stored_run import finished_run
from src.running.assemble import restored
from src.running.prepare import Prepared, prepare
from src.training.device import find_device

FORMATS: dict[str, Format] = {"peft": peft_adapter, "merged": merged_model}
LOGIT_ROWS = 8  # of the task, on which an export's logits are compared with the run's model's
TOLERANCE = 1e-4  # of the largest logit, or of 1 where all are smaller
OTHER_KERNELS_TOLERANCE = 0.05  # the same where the model that is loaded has other kernels than the run's
BF16_TIE = 2**-6  # of the largest logit, within which two are equal in bfloat16
FACTS = "export.json"


@dataclass(frozen=True)
class Export:
    """What was written, how far its logits are from the run's at most, and how many stored predictions it gives.

    `reproduced` has, by split, the number of predictions that are the stored ones, of those that are others but as
    likely within rounding, and of all that were compared.
    """

    folder: Path
    written: Written
    deviation: float
    reproduced: dict[str, tuple[int, int, int]]


def export(run: Path, kind: str, target: Path | None = None) -> Export:
    """Write the run in the folder `run` in the format `kind`, to `target` or into the run's own folder.

    Raises:
        UserError: the run, its method or the target doesn't allow it, or the export isn't the run's model.
    """
    if kind not in FORMATS:
        raise UserError(f"--format {kind} is not known.\nAllowed: {', '.join(nearest_first(kind, FORMATS))}.")
    form, target = FORMATS[kind], (target or run / "export" / kind).absolute()
    record, config = finished_run(run)
    form.refuse(config)
    check_quantization(config.quantization)
    # PEFT and transformers draw from the global random state what is then overwritten.
    with torch.random.fork_rng(), _appearing(target) as partial:
        prepared = prepare(_as_computed(config, record), run)
        stored = stored_predictions(run, prepared)
        source = _source(prepared, run)
        rows = prepared.task.data.splits["validation"][:LOGIT_ROWS]
        device = find_device("fp32").type
        expected = logits_of(source.injected.model.to(device), rows, source.base.tokenizer, config.task)
        source.injected.model.cpu()  # what is written and loaded again may fill the device
        written = form.write(source, partial, target)
        done = Export(target, written, *_checked(prepared, written, stored, expected, (target, partial)))
        write_json(partial / FACTS, _facts(record, kind, done))
    return done


def _as_computed(config: Config, record: Record) -> Config:
    """The config with the precision that `auto` was, as this machine may choose another."""
    precision = record.get("memory", {}).get("precision") or config.trainer.precision
    return replace(config, trainer=replace(config.trainer, precision=precision))


def _source(prepared: Prepared, run: Path) -> TrainedModel:
    config, base = prepared.config, prepared.base
    if config.model.dtype != "float32":  # as rounded as it was trained on, and computed without autocast
        base = replace(base, module=copy.deepcopy(base.module).float(), checksums=[])
    injected = restored(config, base, run / ADAPTER)
    return TrainedModel(config, base, injected, prepared.task.data.label_names, prepared.scoring)


@contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """Give a folder beside `target` to write to, and move it into place if all went well.

    Raises:
        UserError: there is something at `target` already.
    """
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(f"{target} exists already.\nDelete it, or name another folder with --to FOLDER.")
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    made = [partial, *(parent for parent in target.parents if not parent.exists())]
    partial.mkdir(parents=True)
    try:
        yield partial
        open_to_others(partial)
        if target.exists():
            target.rmdir()
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial)
        for folder in made[1:]:
            with contextlib.suppress(OSError):  # something else is in it by now
                folder.rmdir()
        raise


def _checked(
    prepared: Prepared, written: Written, stored: Stored, expected: Tensor, places: tuple[Path, Path]
) -> tuple[float, dict[str, tuple[int, int, int]]]:
    """How far the export's logits are from the run's, and how many stored predictions it gives.

    Args:
        places: where the export will be, which its lines name, and where it is.

    Raises:
        UserError: it can't be loaded, or differs by more than rounding explains.
    """
    inside = in_python(places[0])[1:-1], in_python(places[1])[1:-1]
    usage, tokenizer_usage = (line.replace(*inside) for line in (written.usage, written.tokenizer_usage))
    config, precision = prepared.config, prepared.device.precision
    rows = prepared.task.data.splits["validation"][:LOGIT_ROWS]
    tolerance = OTHER_KERNELS_TOLERANCE if written.rounds else TOLERANCE
    tie = max(2 * tolerance, BF16_TIE if precision == "bf16" else 0.0)
    found = in_fresh_process(
        Job(usage, tokenizer_usage, asdict(config), precision, stored.rows, stored.predictions, rows, tie)
    )
    deviation = _deviation(found.logits, expected, tolerance)
    return deviation, check_reproduced(stored, found, rounds=bool(written.rounds))


def _deviation(actual: Tensor, expected: Tensor, tolerance: float) -> float:
    """The largest difference between two models' logits.

    Raises:
        UserError: it is more than rounding explains.
    """
    deviation = (actual - expected).abs().max().item()
    if not deviation <= tolerance * max(1.0, expected.abs().max().item()):
        raise UserError(
            f"The export doesn't compute what the run's model does: logits differ by up to {deviation:.2g}.\n"
            "Nothing was written. Try the other format."
        )
    return deviation


def _facts(record: Record, kind: str, done: Export) -> dict[str, Any]:
    """What stands in `export.json` beside the weights."""
    config, written = record["config"], done.written
    quantization = config.get("quantization", "none")
    model = config["model"]
    return {
        "run_id": record["run_id"],
        "format": kind,
        "description": written.description,
        "load_with": written.usage,
        "load_after": imports_of(written.usage),
        "load_tokenizer_with": written.tokenizer_usage,
        "adapter": config["adapter"]["name"],
        "method": config["adapter"]["method"],
        "base": model.get("path") or model["hub_id"] or model["name"],
        "base_weights": model.get("dtype", "float32") if quantization == "none" else quantization,
        "checked": {
            "items": LOGIT_ROWS,
            "largest_logit_deviation": done.deviation,
            "stored_predictions": {split: list(counts) for split, counts in done.reproduced.items()},
            "rounds": written.rounds,
        },
    }
