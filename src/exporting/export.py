"""Write a finished run's model in a format of others, and make sure that it is the run's model.

An export is written beside its place, loaded back the way its user will load it, and put in place only if it
computes what the run's own model computes on items of the task.
"""

import contextlib
import copy
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from src.config.schema import Config
from src.errors import UserError, nearest_first
from src.exporting import merged_model, peft_adapter
from src.exporting.format import Format, TrainedModel, Written
from src.files import open_to_others, write_json
from src.models.base_model import BaseModel, load_base
from src.models.quantization import check_quantization
from src.results.schema import Record
from src.results.store import ADAPTER
from src.results.stored_run import finished_run
from src.running.assemble import restored
from src.tasks.base import Row, load_task
from src.training.batches import collate, encode
from src.training.device import find_device

FORMATS: dict[str, Format] = {"peft": peft_adapter, "merged": merged_model}
ITEMS = 8  # of the task, on which an export is compared with the run's model
TOLERANCE = 1e-4  # of the largest logit, or of 1 where all are smaller
FACTS = "export.json"


@dataclass(frozen=True)
class Export:
    """What was written, and how far its logits are from the run's at most."""

    folder: Path
    written: Written
    deviation: float


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
        source = _source(config, run)
        rows = load_task(config).data.splits["validation"][:ITEMS]
        expected = _logits(source.injected.model, source, rows)
        written = form.write(source, partial, target)
        deviation = _deviation(_logits(form.load(source, partial, rows), source, rows), expected)
        write_json(partial / FACTS, _facts(record, kind, written, len(rows), deviation))
    return Export(target, written, deviation)


def _source(config: Config, run: Path) -> TrainedModel:
    data = load_task(config).data
    base = load_base(
        config.model,
        num_labels=len(data.label_names),
        attention=find_device("fp32").attention,
        quantization=config.quantization,
    )
    if config.model.dtype != "float32":  # as rounded as it was trained on, and computed without autocast
        base = BaseModel(copy.deepcopy(base.module).float(), base.tokenizer)
    return TrainedModel(config, base, restored(config, base, run / ADAPTER), data.label_names)


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


@torch.inference_mode()
def _logits(model: Any, source: TrainedModel, rows: list[Row]) -> Tensor:
    """What a model says of the rows in float32: (rows, labels), or (tokens, vocabulary) without the padding."""
    task, tokenizer = source.config.task, source.base.tokenizer
    batch = collate(encode(rows, tokenizer, task), tokenizer.pad_token_id)
    batch.pop("labels")
    device = find_device("fp32").type
    module: nn.Module = model.eval().to(device)
    logits: Tensor = module(**{name: tensor.to(device) for name, tensor in batch.items()}).logits.float().cpu()
    if task.architecture == "classifier":
        return logits
    length = batch["input_ids"].shape[1]  # virtual tokens of a prompt come before the text
    return logits[:, -length:][batch["attention_mask"].bool()]


def _deviation(actual: Tensor, expected: Tensor) -> float:
    """The largest difference between two models' logits.

    Raises:
        UserError: it is more than rounding explains.
    """
    deviation = (actual - expected).abs().max().item()
    if not deviation <= TOLERANCE * max(1.0, expected.abs().max().item()):
        raise UserError(
            f"The export doesn't compute what the run's model does: logits differ by up to {deviation:.2g}.\n"
            "Nothing was written. Try the other format."
        )
    return deviation


def _facts(record: Record, kind: str, written: Written, items: int, deviation: float) -> dict[str, Any]:
    """What stands in `export.json` beside the weights."""
    config = record["config"]
    quantization = config.get("quantization", "none")
    return {
        "run_id": record["run_id"],
        "format": kind,
        "description": written.description,
        "load_with": written.usage,
        "adapter": config["adapter"]["name"],
        "method": config["adapter"]["method"],
        "base": config["model"]["hub_id"] or config["model"]["name"],
        "base_weights": config["model"].get("dtype", "float32") if quantization == "none" else quantization,
        "checked": {"items": items, "largest_logit_deviation": deviation},
    }
