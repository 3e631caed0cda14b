"""One run from its config to its record: load, place, train, save, load again, score.

The order of the steps is the protocol. The score is that of the adapter read back from disk onto a fresh copy of
the base model, so what is scored is what was saved; the test split is touched after everything else is settled.
"""

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from src.adapters.base import UpdateDirection
from src.adapters.calibrate import update_directions
from src.adapters.inject import Placed, adapters, place
from src.adapters.ledger import Ledger, closed_form, count
from src.config.checks import LOSS
from src.config.schema import Config
from src.errors import UserError
from src.files import replacing
from src.metrics import ASKS_A_JUDGE, RUNS_CODE
from src.models.base_model import BaseModel, load_base
from src.results.store import ADAPTER, PREDICTIONS, Record
from src.running.assemble import empty_setup, fresh_model, method_of, restored
from src.running.record import Fit, finished_record, write_predictions
from src.streams import stream_generator, stream_seed
from src.tasks.base import LoadedTask, Row, load_task
from src.training.batches import Example, by_length, collate, encoded_splits
from src.training.device import Device, find_device
from src.training.forgetting import general_loss
from src.training.loss import mean_loss
from src.training.scoring import Scored, Scoring
from src.training.trainer import Recipe, train

PROBE_BATCH = 64
KEPT_DIRECTIONS = 128  # singular vectors kept of each target, so that one estimate serves all usual ranks
_latest_directions: dict[str, dict[str, UpdateDirection]] = {}
_latest_loss: dict[str, dict[str, Any] | None] = {}
Report = Callable[[int, dict[str, float]], None]


def execute(config: Config, folder: Path, report: Report) -> Record:
    """Do the run, leaving its adapter and predictions in `folder`, and return its record (not yet written).

    Where an earlier attempt has trained the adapter and failed later, training isn't repeated.

    Raises:
        UserError: something the user can put right.
        Diverged: the loss became infinite or NaN.
    """
    start = time.perf_counter()
    device = find_device(config.trainer.precision)
    task = load_task(config)
    base = load_base(
        config.model,
        num_labels=len(task.data.label_names),
        attention=device.attention,
        quantization=config.quantization,
    )
    _check_dtype(config, device)
    examples = encoded_splits(config, base.tokenizer)
    score = _scorer(config, task, base, device, folder)

    fit = Fit.read(folder)
    if fit is None:
        fit = _fit(config, base, examples["train"], device, score, folder, report, start)
        fit.write(folder)

    before = _loss_before(config, base, device)
    placed = restored(config, base, folder / ADAPTER, device.type)
    model: Any = placed.model
    splits = ("validation", "test") if config.trainer.score_test else ("validation",)
    scored = {split: score(model, split) for split in splits}
    write_predictions(folder / PREDICTIONS, scored)
    after = general_loss(config, base, model, device)
    smaller = _smaller_ranks(placed, lambda: {split: score(model, split).score.value for split in splits})
    run_seconds = time.perf_counter() - start
    record = finished_record(config, task, examples, fit, scored, device, run_seconds)
    return record | _forgotten(before, after) | ({"smaller_ranks": smaller} if smaller else {})


def _loss_before(config: Config, base: BaseModel, device: Device) -> dict[str, Any] | None:
    """The bare model's loss on general text, computed once for all runs on it."""
    key = json.dumps([asdict(config.model), config.quantization, config.forgetting, device.type, device.precision])
    if key not in _latest_loss:
        _latest_loss.clear()
        _latest_loss[key] = general_loss(config, base, fresh_model(config, base, device.type), device)
    return _latest_loss[key]


def _forgotten(before: dict[str, Any] | None, after: dict[str, Any] | None) -> dict[str, Any]:
    """The part of the record on forgetting, empty where it couldn't be measured."""
    if before is None or after is None:
        return {}
    facts = {key: value for key, value in after.items() if key != "loss"}
    return {"forgetting": facts | {"unit": "nats per token", "before": before["loss"], "after": after["loss"]}}


def _fit(
    config: Config,
    base: BaseModel,
    train_examples: list[Example],
    device: Device,
    score: Callable[[Any, str], Scored],
    folder: Path,
    report: Report,
    start: float,
) -> Fit:
    """Place the method, train it and save its adapter at the step that the config's checkpoint rule chooses."""
    placed = _place(config, fresh_model(config, base, device.type), base, train_examples, device)
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
    training, state = train(
        placed, train_examples, recipe, validate=lambda: score(model, "validation").score, report=report
    )
    scalings = {adapter.scaling for adapter in adapters(model).values()} if config.has_axis("alpha") else set()
    with replacing(folder / ADAPTER) as partial:
        save_file(state, partial)
    return Fit(training, ledger.as_dict(), next(iter(scalings), None), setup_seconds)


def _check_dtype(config: Config, device: Device) -> None:
    """Refuse base weights in a format that the device won't compute in."""
    if config.model.dtype != "float32" and device.precision != "bf16":
        raise UserError(
            f"model.dtype={config.model.dtype} needs bfloat16 autocast, and this run computes in {device.precision}.\n"
            "Set trainer.precision=bf16, or model.dtype=float32."
        )


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
        _latest_directions[key] = update_directions(model, targets, on_device, loss=mean_loss, keep=keep)
    return _latest_directions[key]


def _scorer(
    config: Config, task: LoadedTask, base: BaseModel, device: Device, folder: Path
) -> Callable[[PreTrainedModel, str], Scored]:
    examples = encoded_splits(config, base.tokenizer)
    options = dict(config.task.metric_options)
    scored = {split: _first_of_each_set(rows, config.trainer.eval_limit) for split, rows in task.data.splits.items()}
    if config.task.metric in RUNS_CODE:
        options["allow_code_execution"] = config.task.allow_code_execution
    if config.task.metric in ASKS_A_JUDGE:
        options |= {"judge_config": config.task.judge, "folder": folder, "model_id": folder.name}
    scoring = Scoring(
        tokenizer=base.tokenizer,
        task=config.task,
        device=device,
        batch_size=config.trainer.eval_batch_size,
        seed=stream_seed(config.seed, "sampling"),
        metric_options=options,
    )

    def score(model: PreTrainedModel, split: str) -> Scored:
        chosen = [examples[split][index] for index in scored[split]]
        if split == "validation" and config.task.validation_metric == LOSS:
            return scoring.answer_loss(model, chosen)
        return scoring.score(model, [task.data.splits[split][index] for index in scored[split]], chosen)

    return score


def _first_of_each_set(rows: list[Row], limit: int | None) -> list[int]:
    """Indices of the rows that are scored: all, or the first `limit` of each set that the split is made of."""
    seen: Counter[str] = Counter()
    chosen = []
    for index, row in enumerate(rows):
        name = row.get("set", "")
        if limit is None or seen[name] < limit:
            chosen.append(index)
        seen[name] += 1
    return chosen


def _smaller_ranks(placed: Placed, score: Callable[[], dict[str, float]]) -> list[dict[str, float]]:
    """The scores of the smaller ranks that a nested method's one training gives too, each with its own size.

    Powers of two, the ranks that tables have: each costs a whole evaluation.
    """
    nested = [adapter for adapter in adapters(placed.model).values() if adapter.nested]
    found: list[dict[str, float]] = []
    largest = max((adapter.rank for adapter in nested), default=1)
    for rank in (2**power for power in range(largest.bit_length()) if 2**power < largest):
        for adapter in nested:
            adapter.truncate(rank)
        sizes = [adapter.expected_trainable(adapter.in_features, adapter.out_features, rank) for adapter in nested]
        found.append({"rank": rank, "adapter_trained": sum(sizes), **score()})
    return found
