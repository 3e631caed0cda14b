"""What a run computes with, loaded and put together before anything is trained."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedModel

from src.config.checks import LOSS
from src.config.schema import Config
from src.errors import Diverged, UserError
from src.metrics import ASKS_A_JUDGE, RUNS_CODE
from src.models.base_model import BaseModel, load_base
from src.models.quantization import quantized_share
from src.running.extent import check_ids
from src.running.progress import say_once
from src.streams import stream_seed
from src.tasks.base import LoadedTask, Row, load_task
from src.training.batches import Example, encoded_splits
from src.training.cuts import Cut, cut_splits, cut_warning
from src.training.device import Device
from src.training.forgetting import unmeasurable
from src.training.precision import device_for
from src.training.scoring import Scored, Scoring


@dataclass(frozen=True)
class Prepared:
    """A run's data, base model and scoring; none of its steps changes them.

    `examples` are all rows of each split as tokens, `cuts` how many were too long, `scored_rows` the indices of those
    that are scored. `quantized_share` is that of the base's matrix weights, `forgetting_skipped` why forgetting isn't
    measured.
    """

    config: Config
    folder: Path
    device: Device
    task: LoadedTask
    base: BaseModel
    examples: dict[str, list[Example]]
    cuts: dict[str, Cut]
    scored_rows: dict[str, list[int]]
    scoring: Scoring
    quantized_share: float | None = None
    forgetting_skipped: str = ""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that are scored at the end; trials of a rate leave the test split alone."""
        return ("validation", "test") if self.config.trainer.score_test else ("validation",)

    def score(self, model: PreTrainedModel, split: str) -> Scored:
        """Predict a split's items and score them, on validation with the task's own metric for it.

        Raises:
            Diverged: what the model predicts is infinite or NaN, or its score is.
        """
        try:
            return self._scored(model, split)
        except Diverged as error:
            raise Diverged(f"{split}: {error}") from error

    def score_with_likelihood(self, model: PreTrainedModel, split: str) -> Scored:
        """As `score`, and how likely the model finds the right answers: what a finished run is asked, and no other.

        Raises:
            Diverged: as `score`, or the likelihood of an answer is infinite or NaN.
        """
        scored = self.score(model, split)
        if self.config.task.architecture == "classifier":  # whose predictions are made of it
            return scored
        try:
            return replace(scored, likelihood=self.scoring.likelihood(model, *self._items(split)))
        except Diverged as error:
            raise Diverged(f"{split}: {error}") from error

    def _scored(self, model: PreTrainedModel, split: str) -> Scored:
        rows, examples = self._items(split)
        if split == "validation" and self.config.task.validation_metric == LOSS:
            return self.scoring.answer_loss(model, examples)
        return self.scoring.score(model, rows, examples)

    def _items(self, split: str) -> tuple[list[Row], list[Example]]:
        """The rows of a split that are scored, and their tokens."""
        rows, examples, scored = self.task.data.splits[split], self.examples[split], self.scored_rows[split]
        return [rows[index] for index in scored], [examples[index] for index in scored]


def prepare(config: Config, folder: Path) -> Prepared:
    """Load what the run needs; what runs of a process share is loaded once.

    Raises:
        UserError: the data, the weights or the device don't fit what is asked for.
    """
    device, task = device_for(config), load_task(config)
    labels = len(task.data.label_names)
    base = load_base(config.model, num_labels=labels, attention=device.attention, quantization=config.quantization)
    device = replace(device, attention=base.module.config._attn_implementation)
    _check_dtype(config, device)
    limit, cuts = config.trainer.eval_limit, cut_splits(config, base.tokenizer)
    if cut := cut_warning(config.task, cuts):
        say_once(f"warning: {cut}")
    examples = encoded_splits(config, base.tokenizer)
    check_ids(config, base, examples)
    return Prepared(
        config=config,
        folder=folder,
        device=device,
        task=task,
        base=base,
        examples=examples,
        cuts=cuts,
        scored_rows={split: _first_of_each_set(rows, limit) for split, rows in task.data.splits.items()},
        scoring=_scoring(config, base, device, folder),
        quantized_share=None if config.quantization == "none" else quantized_share(base.module, config),
        forgetting_skipped=unmeasurable(config, base),
    )


def _check_dtype(config: Config, device: Device) -> None:
    """Refuse base weights in a format that the device won't compute in."""
    if config.model.dtype != "float32" and device.precision != "bf16":
        raise UserError(
            f"model.dtype={config.model.dtype} needs bfloat16 autocast, and this run computes in {device.precision}.\n"
            "Set trainer.precision=bf16, or model.dtype=float32."
        )


def _scoring(config: Config, base: BaseModel, device: Device, folder: Path) -> Scoring:
    options = dict(config.task.metric_options)
    # Only for the metrics that take them: another one would refuse the keyword.
    if config.task.metric in RUNS_CODE:
        options["allow_code_execution"] = config.task.allow_code_execution
    if config.task.metric in ASKS_A_JUDGE:
        options |= {"judge_config": config.task.judge, "folder": folder, "model_id": folder.name}
    return Scoring(
        tokenizer=base.tokenizer,
        task=config.task,
        device=device,
        batch_size=config.trainer.eval_batch_size,
        seed=stream_seed(config.seed, "sampling"),
        metric_options=options,
    )


def _first_of_each_set(rows: list[Row], limit: int | None) -> list[int]:
    """Indices of the rows that are scored: all, or the first `limit` of each set that the split is made of."""
    # A limit on all rows together would leave out the sets that come last.
    seen: Counter[str] = Counter()
    chosen = []
    for index, row in enumerate(rows):
        name = row.get("set", "")
        if limit is None or seen[name] < limit:
            chosen.append(index)
        seen[name] += 1
    return chosen
