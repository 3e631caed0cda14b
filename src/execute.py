"""One run from its config to its record: load, place, train, save, load again, score.

The order of the steps is the protocol. The score is that of the adapter read back from disk onto a fresh copy of
the base model, so what is scored is what was saved; the test split is touched after everything else is settled.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from src.adapters.base import UpdateDirection
from src.adapters.calibrate import update_directions
from src.adapters.inject import Placed, adapters, place
from src.adapters.ledger import Ledger, closed_form, count
from src.assemble import empty_setup, fresh_model, method_of, restored
from src.config import Config
from src.errors import UserError
from src.identity import RESULTS_VERSION, identity
from src.models import BaseModel, load_base
from src.results.provenance import provenance
from src.results.store import ADAPTER, PREDICTIONS, Record, replacing
from src.streams import STREAMS, stream_generator, stream_seed
from src.tasks.base import load_task
from src.training.batches import Example, by_length, collate, encoded_splits
from src.training.device import Device, find_device
from src.training.scoring import Scored, score_split
from src.training.trainer import Recipe, Training, train

SCHEMA_VERSION = 1
PROBE_BATCH = 64
KEPT_DIRECTIONS = 128  # singular vectors kept of each target, so that one estimate serves all usual ranks
_latest_directions: dict[str, dict[str, UpdateDirection]] = {}
Report = Callable[[int, dict[str, float]], None]


def execute(config: Config, folder: Path, report: Report) -> Record:
    """Do the run, leaving its adapter and predictions in `folder`, and return its record (not yet written).

    Raises:
        UserError: something the user can put right.
        Diverged: the loss became infinite or NaN.
    """
    start = time.perf_counter()
    device = find_device(config.trainer.precision)
    data, fingerprint = load_task(config.task, config.cache_dir)
    base = load_base(
        config.model,
        num_labels=len(data.label_names),
        attention=device.attention,
        quantization=config.quantization,
    )
    examples = encoded_splits(config.task, config.cache_dir, base.tokenizer)
    score = _scorer(config, base, device)

    placed = _place(config, fresh_model(config, base, device.type), base, examples["train"], device)
    ledger = _counted(config, placed)
    setup_seconds = time.perf_counter() - start
    recipe = Recipe(
        settings=config.trainer,
        lr=config.lr if config.has_axis("lr") else None,
        pad_token_id=base.tokenizer.pad_token_id,
        seed=config.seed,
        device=device,
    )
    model: Any = placed.model
    training = train(
        placed, examples["train"], recipe, validate=lambda: score(model, "validation").value, report=report
    )
    scalings = {adapter.scaling for adapter in adapters(model).values()} if config.has_axis("alpha") else set()
    with replacing(folder / ADAPTER) as partial:
        save_file(placed.state(), partial)

    placed = restored(config, base, folder / ADAPTER, device.type)
    model = placed.model
    splits = ("validation", "test") if config.trainer.score_test else ("validation",)
    scored = {split: score(model, split) for split in splits}
    _write_predictions(folder / PREDICTIONS, scored)
    smaller = _smaller_ranks(placed, lambda: {split: score(model, split).value for split in splits})
    seconds = {"setup_seconds": setup_seconds, "run_seconds": time.perf_counter() - start}
    record = _record(config, fingerprint, ledger, training, scored, next(iter(scalings), None), device, seconds)
    return record | ({"smaller_ranks": smaller} if smaller else {})


def _place(config: Config, model: PreTrainedModel, base: BaseModel, train: list[Example], device: Device) -> Placed:
    """Put the method on the model with its initial values."""
    method, setup = method_of(config), empty_setup(config, model)
    setup.generator = stream_generator(config.seed, "adapter_init")
    setup.step_size = (config.lr or 0.0) / config.trainer.warmup_steps
    if method.needs_gradient:
        setup.update_directions = _directions(config, model, setup.target_modules, base, train, device)
    return place(model, method, setup, config.model.head)


def _counted(config: Config, placed: Placed) -> Ledger:
    """The run's ledger, held against the papers' closed forms where the method is made of linear adapters."""
    ledger = count(placed)
    if ledger.trained == 0:
        raise UserError(
            f"adapter={config.adapter.name} trains nothing of model={config.model.name}, which has no head to train.\n"
            "Choose a method that adds parameters, or name modules to train in model.head=[...]."
        )
    if adapters(placed.model):
        assert ledger.adapter_trained == closed_form(placed), (ledger.adapter_trained, closed_form(placed))
    return ledger


def _directions(
    config: Config, model: PreTrainedModel, targets: list[str], base: BaseModel, train: list[Example], device: Device
) -> dict[str, UpdateDirection]:
    """The targets' update directions; one estimate serves every rank, alpha and learning rate that follows."""
    keep = max(config.rank, KEPT_DIRECTIONS)
    samples = config.trainer.calibration_samples
    base_key = [asdict(config.model), config.quantization, device.type]
    key = json.dumps([base_key, asdict(config.task), config.seed, samples, targets, keep])
    if key not in _latest_directions:
        drawn = torch.randperm(len(train), generator=stream_generator(config.seed, "gradient_probe")).tolist()
        probe = [train[index] for index in drawn[:samples]]
        batches = [
            collate([probe[index] for index in batch], base.tokenizer.pad_token_id)
            for batch in by_length(probe, PROBE_BATCH)
        ]
        on_device = [{name: tensor.to(device.type) for name, tensor in batch.items()} for batch in batches]
        _latest_directions.clear()
        _latest_directions[key] = update_directions(model, targets, on_device, keep=keep)
    return _latest_directions[key]


def _scorer(config: Config, base: BaseModel, device: Device) -> Callable[[PreTrainedModel, str], Scored]:
    data, _ = load_task(config.task, config.cache_dir)
    examples = encoded_splits(config.task, config.cache_dir, base.tokenizer)
    limit = config.trainer.eval_limit

    def score(model: PreTrainedModel, split: str) -> Scored:
        return score_split(
            model,
            base.tokenizer,
            config.task,
            data.splits[split][:limit],
            examples[split][:limit],
            device=device,
            batch_size=config.trainer.eval_batch_size,
        )

    return score


def _smaller_ranks(placed: Placed, score: Callable[[], dict[str, float]]) -> list[dict[str, float]]:
    """The scores of every smaller rank that a nested method's one training gives too, each with its own size."""
    nested = [adapter for adapter in adapters(placed.model).values() if adapter.nested]
    found: list[dict[str, float]] = []
    for rank in range(1, max((adapter.rank for adapter in nested), default=1)):
        for adapter in nested:
            adapter.truncate(rank)
        sizes = [adapter.expected_trainable(adapter.in_features, adapter.out_features, rank) for adapter in nested]
        found.append({"rank": rank, "adapter_trained": sum(sizes), **score()})
    return found


def _write_predictions(path: Path, scored: dict[str, Scored]) -> None:
    """One row an item: split, its number in the split, prediction, reference."""
    frames = [
        pd.DataFrame(
            {
                "split": split,
                "item": range(len(own.references)),
                "prediction": own.predictions,
                "reference": own.references,
            }
        )
        for split, own in scored.items()
    ]
    with replacing(path) as partial:
        pd.concat(frames, ignore_index=True).astype({"split": "category"}).to_parquet(partial, index=False)


def _record(
    config: Config,
    fingerprint: str,
    ledger: Ledger,
    training: Training,
    scored: dict[str, Scored],
    scaling: float | None,
    device: Device,
    seconds: dict[str, float],
) -> Record:
    metric = {"name": config.task.metric, "higher_is_better": True}
    return {
        "schema_version": SCHEMA_VERSION,
        "results_version": RESULTS_VERSION,
        "state": "done",
        "identity": identity(config, fingerprint),
        "config": asdict(config),
        "seeds": {"seed": config.seed, **{stream: stream_seed(config.seed, stream) for stream in STREAMS}},
        "metrics": {split: {**metric, "value": own.value, "n": len(own.references)} for split, own in scored.items()},
        "parameters": ledger.as_dict(),
        "scaling": scaling,
        "time": {
            "train_seconds": round(training.train_seconds, 3),
            "eval_seconds": round(training.eval_seconds, 3),
            **{key: round(value, 3) for key, value in seconds.items()},
            "tokens_per_second": round(training.tokens / training.train_seconds, 1),
        },
        "memory": {
            "saved_for_backward_bytes": training.saved_for_backward_bytes,
            "peak_allocated_bytes": training.peak_allocated_bytes,
            "precision": device.precision,
            "batch_size": config.trainer.batch_size,
            "tokens": training.tokens,
        },
        "history": training.history,
        "provenance": provenance(asdict(device)),
        "warnings": [],
        "error": None,
    }
