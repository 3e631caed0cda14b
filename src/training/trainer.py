"""The HF Trainer, set up the same way for every method."""

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, TrainerState

from src.adapters.inject import InjectedModel, adapters
from src.config.schema import TrainerConfig
from src.errors import Diverged
from src.interrupts import end_if_interrupted, interrupts_wait, was_interrupted
from src.metrics import Score
from src.streams import stream_generator, stream_seed
from src.training.batches import Example, LengthBuckets, collate
from src.training.checkpointing import checkpoint_blocks, release_blocks
from src.training.device import Device
from src.training.finite import FirstBroken, check_weights
from src.training.graphs import RecordedSteps, can_record, widened
from src.training.loss import mean_loss
from src.training.micro_batches import micro_batches_of
from src.training.optimizers import optimizer_of
from src.training.snapshots import (
    Snapshot,
    host_random_state,
    optimizer_state,
    part_of,
    random_state,
    restore_optimizer,
    restore_schedule,
    set_host_random_state,
    set_random_state,
)

SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}
LOGS_PER_RUN = 20


@dataclass
class Training:
    """What training a model took and showed.

    `train_seconds` leaves out the validation between steps, which `eval_seconds` has; `history` holds
    `{"step", "loss"}` and `{"step", "validation"}` points; `saved_for_backward_bytes` is what autograd kept for
    the first step beside the parameters, `peak_allocated_bytes` the GPU's peak while training, validation left out.
    `micro_batch_size` is how many texts were computed at once, at last.
    `checkpoint_step` is the step whose state was kept.
    """

    train_seconds: float = 0.0
    eval_seconds: float = 0.0
    tokens: int = 0
    saved_for_backward_bytes: int = 0
    peak_allocated_bytes: int | None = None
    micro_batch_size: int | None = None
    checkpoint_step: int | None = None
    history: list[dict[str, float]] = field(default_factory=list)


def warmup_steps(settings: TrainerConfig) -> int:
    """Number of steps over which the learning rate rises to its full value: none, or at least 1."""
    # The first of them has rate 0, so that a single step trains nothing unless there is no warm-up.
    return max(1, round(settings.warmup_ratio * settings.steps)) if settings.warmup_ratio > 0 else 0


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    `lr` is the rate of everything but the head, which has `settings.head_lr`; `seed` is the run's, from which the
    streams of data order, dropout and the methods' steps come. `say` tells the user what happens on the way.
    """

    settings: TrainerConfig
    lr: float | None
    pad_token_id: int
    seed: int
    device: Device
    say: Callable[[str], None] = print


def train(
    injected: InjectedModel,
    examples: list[Example],
    recipe: Recipe,
    *,
    validate: Callable[[], Score],
    report: Callable[[int, dict[str, float]], None],
    start: Snapshot | None = None,
    keep: Callable[[Snapshot], None] | None = None,
) -> tuple[Training, dict[str, Tensor]]:
    """Train what requires gradients in the injected model, in place; returns the state to keep as well.

    Args:
        validate: scores the model as it is; called every `settings.eval_every` steps but the last, and after the last
            where the best validation decides which state is kept.
        report: told the step and the metrics as they come.
        start: where to go on, as an earlier call with the same arguments gave it to `keep`.
        keep: takes a snapshot every `settings.checkpoint_minutes`, and after the step under way at an interrupt.

    Raises:
        Diverged: the loss, the gradients, the weights or what they predict became infinite or NaN.
        KeyboardInterrupt: after the step under way.
    """
    outcome, best = Training(checkpoint_step=recipe.settings.steps), None
    if recipe.settings.checkpoint == "best_validation":
        best = _Best(injected)
    if recipe.settings.checkpointing:
        checkpoint_blocks(injected.model)
    # The Trainer wants a folder; nothing that it may write there belongs to the results.
    with tempfile.TemporaryDirectory() as scratch:
        trainer = _AdapterTrainer(injected, examples, recipe, outcome, scratch)
        hooks = _AdapterHooks(injected.model, stream_generator(recipe.seed, "step_draw"))
        whole = _Whole(trainer, hooks, best)
        trainer.add_callback(_Snapshots(whole, recipe.settings.checkpoint_minutes, keep))  # before anything is drawn
        trainer.add_callback(hooks)
        trainer.add_callback(_Watch(outcome, recipe.settings, trainer, validate, report, best))
        trainer.remove_callback(PrinterCallback)
        if recipe.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with interrupts_wait():
            if start is None:
                trainer.train()
            else:
                whole.restore(start)
                trainer.train_on(start, scratch)
        outcome.train_seconds = whole.train_seconds()
    if recipe.settings.checkpointing:
        release_blocks(injected.model)
    # The last step changed the weights once more, and no loss has seen them since.
    check_weights(injected.state(), recipe.settings.steps)
    if best is None:
        return outcome, injected.state()
    outcome.checkpoint_step = best.step
    check_weights(best.state, best.step)
    return outcome, best.state


class _Best:
    """The state with the best validation score so far, the earlier of equal ones."""

    def __init__(self, injected: InjectedModel) -> None:
        self.injected, self.step, self.state = injected, 0, dict[str, Tensor]()
        self.signed_score = -math.inf

    def see(self, step: int, score: Score) -> None:
        """Keep the model's state if its score is better than all before."""
        signed_score = score.value if score.higher_is_better else -score.value
        if signed_score > self.signed_score:
            self.signed_score, self.step = signed_score, step
            # On a CPU `state` is the parameters' own memory, which training goes on to change.
            self.state = {name: tensor.clone() for name, tensor in self.injected.state().items()}


class _AdapterTrainer(Trainer):
    """The Trainer with this project's batches, its two learning rates and a measured first step."""

    def __init__(
        self, injected: InjectedModel, examples: list[Example], recipe: Recipe, outcome: Training, scratch: str
    ) -> None:
        self.injected, self.recipe, self.outcome, settings = injected, recipe, outcome, recipe.settings
        self.first_broken = FirstBroken()
        self.losses = MeanLoss()
        self.start: Snapshot | None = None
        self.share = 1.0  # that the part under way has in its batch's loss
        outcome.micro_batch_size = settings.micro_batch_size or settings.batch_size
        arguments = TrainingArguments(
            output_dir=scratch,
            max_steps=settings.steps,
            per_device_train_batch_size=settings.batch_size,
            lr_scheduler_type=SCHEDULES[settings.schedule],
            warmup_steps=warmup_steps(settings),
            max_grad_norm=settings.max_grad_norm,
            bf16=recipe.device.precision == "bf16",
            use_cpu=recipe.device.type == "cpu",
            logging_steps=max(1, settings.steps // LOGS_PER_RUN),
            save_strategy="no",
            report_to="none",
            logging_nan_inf_filter=False,  # it would report the mean of the finite losses instead
            disable_tqdm=True,
            dataloader_pin_memory=False,
            seed=stream_seed(recipe.seed, "dropout") % 2**32,
        )
        arguments._n_gpu = min(1, arguments.n_gpu)  # with more, the Trainer would split every batch over all GPUs
        model: Any = injected.model
        super().__init__(model=model, args=arguments, train_dataset=examples)
        self.classifies = bool(examples) and not isinstance(examples[0]["labels"], list)
        self.recorded: RecordedSteps | None = None
        # A language model's answers have another number of tokens in every batch.
        if recipe.device.type == "cuda" and settings.cuda_graphs and self.classifies and can_record(model):
            self.recorded = RecordedSteps(model, lambda batch: Trainer.training_step(self, model, batch), recipe.say)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Length-bucketed batches in the order of the run's data stream."""
        examples: Any = self.train_dataset
        generator = stream_generator(self.recipe.seed, "data_order")
        lengths = [len(example["input_ids"]) for example in examples]
        self.longest = max(lengths)
        sampler = LengthBuckets(
            lengths,
            batch_size=self.recipe.settings.batch_size,
            batches=self.recipe.settings.steps,
            generator=generator,
        )
        # Without a generator the loader would draw a seed from the global random state.
        return DataLoader(examples, batch_sampler=sampler, collate_fn=self._collate, generator=generator)

    def train_on(self, start: Snapshot, scratch: str) -> None:
        """Train from a snapshot on, whose tensors are in the model; the Trainer passes over the batches before."""
        self.start = start
        settings = self.args
        state = TrainerState(
            global_step=start.step,
            max_steps=settings.max_steps,
            logging_steps=settings.logging_steps,  # type: ignore[arg-type]  # a whole number here
            train_batch_size=settings.per_device_train_batch_size,
        )
        state.save_to_json(str(Path(scratch, "trainer_state.json")))
        self.train(resume_from_checkpoint=scratch)

    def _load_from_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the model has the snapshot's tensors."""

    def _load_scaler(self, *args: Any) -> None:
        """Nothing: there is none in bfloat16."""

    def _load_optimizer_and_scheduler(self, checkpoint: Any) -> None:
        """From the snapshot, where the Trainer would unpickle a file."""
        if self.start is not None:
            values = self.start.values["optimizer"]
            restore_optimizer(self.optimizer, self.start.part("optimizer"), values)
            restore_schedule(self.lr_scheduler, self.start.step, values["rates"])

    def _load_rng_state(self, checkpoint: Any) -> None:
        """From the snapshot, once the batches before it have been passed over."""
        if self.start is not None:
            states = self.start.part("random")
            set_random_state(self.recipe.device, [states[key] for key in sorted(states)])
            set_host_random_state(self.start.values["host_random"])

    def _collate(self, examples: list[Example]) -> dict[str, Tensor]:
        batch = collate(examples, self.recipe.pad_token_id)
        if self.recipe.device.type == "cpu" or not self.classifies:
            return batch
        return widened(batch, self.recipe.pad_token_id, self.longest)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW with the head at its own rate and everything else at the method's, times the adapter's own ratio.

        Weight decay leaves biases and norms alone, known by their names and classes as transformers knows them,
        unless it is told to act on all.
        """
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        ratios = {
            f"{name}.{parameter}": ratio
            for name, adapter in adapters(self.injected.model).items()
            for parameter, ratio in adapter.lr_ratios.items()
        }
        settings, decaying = self.recipe.settings, set(self.get_decay_parameter_names(self.injected.model))
        for name, parameter in self.injected.model.named_parameters():
            if parameter.requires_grad:
                in_head = name in self.injected.head
                rate = settings.head_lr if in_head else (self.recipe.lr or 0.0) * ratios.get(name, 1.0)
                decay = settings.weight_decay if settings.decay_all or name in decaying else 0.0
                groups.setdefault((rate, decay), []).append(parameter)
        self.optimizer = optimizer_of(
            settings, [{"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in groups.items()]
        )
        return self.optimizer

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The mean loss of what is computed at once, times the share that it has in the batch's."""
        loss = mean_loss(model, inputs)
        return loss if self.share == 1 else loss * self.share

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """The gradient of one batch, in parts that fit; the first one counts what autograd keeps for backward."""
        self.outcome.tokens += int(inputs["attention_mask"].sum())
        size = self.outcome.micro_batch_size or len(inputs["labels"])
        before = random_state(self.recipe.device)
        while True:
            try:
                loss = self._whole_step(model, inputs, size)
                break
            except (torch.OutOfMemoryError, MemoryError):
                size = min(size, len(inputs["labels"])) // 2
                if size == 0 or self.recipe.settings.micro_batch_size:
                    raise
            # Beyond the handler, where the exception's frames no longer hold what didn't fit.
            self._start_over(model, size, before)
        self.first_broken.see("training loss", loss, self.state.global_step + 1)
        self.losses.add(loss)
        return loss

    def _whole_step(self, model: nn.Module, inputs: dict[str, Any], size: int) -> Tensor:
        losses = []
        for index, part in enumerate(micro_batches_of(inputs, size)):
            self.share = part.share
            if self.state.global_step == 0 and index == 0:
                losses.append(self._first_step(model, part.batch))
            elif self.recorded is not None and part.share == 1:
                losses.append(self.recorded(self._prepare_inputs(part.batch)))
            else:
                losses.append(super().training_step(model, part.batch))
        return torch.stack(losses).sum() if len(losses) > 1 else losses[0]

    def _start_over(self, model: nn.Module, size: int, before: list[Tensor]) -> None:
        """Forget what a step that ran out of memory had done, and go on in smaller parts."""
        self.recipe.say(f"out of memory: going on with trainer.micro_batch_size={size}")
        self.outcome.micro_batch_size = size
        model.zero_grad(set_to_none=True)
        set_random_state(self.recipe.device, before)
        if self.recipe.device.type == "cuda":
            torch.cuda.empty_cache()

    def _first_step(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        # By storage, so that views of one tensor count once; parameters count as 0, being there anyway.
        kept: dict[int, int] = {parameter.untyped_storage().data_ptr(): 0 for parameter in model.parameters()}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept.setdefault(storage.data_ptr(), storage.nbytes())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = super().training_step(model, inputs)
        self.outcome.saved_for_backward_bytes = sum(kept.values())
        return loss

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's norm of all gradients before clipping.

        An infinite one would be divided by: clipped to zero, all other gradients would stand still in silence.
        """
        whole: Any = super()
        norm = whole._get_grad_norm(*args, **kwargs)
        self.first_broken.see("norm of the gradients", torch.as_tensor(norm), self.state.global_step + 1)
        return norm


class MeanLoss:
    """The mean of the steps' losses since it was last asked for; on the device, which isn't waited for until then."""

    def __init__(self) -> None:
        self.total, self.steps = torch.tensor(0.0), 0

    def add(self, loss: Tensor) -> None:
        """Take in a step's loss."""
        self.total = self.total.to(loss.device) + loss.detach()
        self.steps += 1

    def take(self) -> float:
        """The mean, from which on others are counted."""
        mean: float = self.total.item() / self.steps
        self.total, self.steps = torch.zeros_like(self.total), 0
        return mean


class _Whole:
    """All that training consists of, to be taken down and to be gone on with."""

    def __init__(self, trainer: _AdapterTrainer, hooks: "_AdapterHooks", best: _Best | None) -> None:
        self.trainer, self.hooks, self.best = trainer, hooks, best
        self.begun, self.seconds_before = time.perf_counter(), 0.0

    def train_seconds(self) -> float:
        """Of all attempts, without validation."""
        return self.seconds_before + time.perf_counter() - self.begun - self.trainer.outcome.eval_seconds

    def snapshot(self) -> Snapshot:
        """Between two steps.

        Raises:
            Diverged: something isn't finite, which would be gone on with.
        """
        trainer, best = self.trainer, self.best
        trainer.first_broken.check()
        moments, optimizer = optimizer_state(trainer.optimizer)
        states = random_state(trainer.recipe.device)
        tensors = {
            **part_of("trained", trainer.injected.saved_tensors()),
            **part_of("optimizer", moments),
            **part_of("random", {str(index): state for index, state in enumerate(states)}),
            **part_of("draws", {"step": self.hooks.generator.get_state()}),
            **part_of("losses", {"total": trainer.losses.total}),
            **part_of("best", best.state if best else {}),
        }
        values = {
            "optimizer": optimizer,
            "host_random": host_random_state(),
            "loss_steps": trainer.losses.steps,
            "best": [best.step, best.signed_score] if best and best.state else None,
            "outcome": {**vars(trainer.outcome), "train_seconds": self.train_seconds()},
        }
        return Snapshot(trainer.state.global_step, tensors, values)

    def restore(self, start: Snapshot) -> None:
        """Go back to a snapshot, but for what the trainer makes when it begins."""
        trainer, values = self.trainer, start.values
        trainer.injected.load(start.part("trained"))
        self.hooks.generator.set_state(start.part("draws")["step"])
        trainer.losses.total, trainer.losses.steps = start.part("losses")["total"], values["loss_steps"]
        if self.best and values["best"]:
            (self.best.step, self.best.signed_score), self.best.state = values["best"], start.part("best")
        asked = trainer.recipe.settings.micro_batch_size
        vars(trainer.outcome).update(values["outcome"] | ({"micro_batch_size": asked} if asked else {}))
        self.seconds_before = trainer.outcome.train_seconds + trainer.outcome.eval_seconds
        self.begun = time.perf_counter()


class _Snapshots(TrainerCallback):
    """Has snapshots kept between steps, and lets an interrupt that waited for it end training."""

    def __init__(self, whole: _Whole, minutes: float, keep: Callable[[Snapshot], None] | None) -> None:
        self.whole, self.keep = whole, keep
        self.seconds = 60 * minutes if minutes else math.inf
        self.last = time.monotonic()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        is_due = time.monotonic() - self.last >= self.seconds
        if self.keep and state.global_step and (is_due or was_interrupted()):
            self.keep(self.whole.snapshot())
            self.last = time.monotonic()
        end_if_interrupted()


class _AdapterHooks(TrainerCallback):
    """Lets adapters prepare for a step, and change their gradients after clipping and before the optimizer's."""

    def __init__(self, model: nn.Module, generator: torch.Generator) -> None:
        self.adapters = list(adapters(model).values())
        self.generator = generator

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        draw = torch.rand((), generator=self.generator).item()
        if self.adapters:
            type(self.adapters[0]).on_step(self.adapters, draw)

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        for adapter in self.adapters:
            adapter.correct_gradients()


class _Watch(TrainerCallback):
    """Collects losses, validates between steps, reports both and stops a diverged run.

    Whether all was finite is looked at where losses are logged, at which the device is waited for in any case, and
    after the last step.
    """

    def __init__(
        self,
        outcome: Training,
        settings: TrainerConfig,
        trainer: _AdapterTrainer,
        validate: Callable[[], Score],
        report: Callable[[int, dict[str, float]], None],
        best: _Best | None,
    ) -> None:
        self.outcome, self.settings, self.validate, self.report = outcome, settings, validate, report
        self.first_broken, self.losses, self.best = trainer.first_broken, trainer.losses, best

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return
        # Stopped here: the steps that are left can't mend the weights.
        self.first_broken.check()
        self._add(state.global_step, {"loss": self.losses.take()})

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = state.global_step
        last = step == self.settings.steps
        # After the last step the runner scores in any case, so that validation is for the choice of a state alone.
        due = self.best is not None if last else step % self.settings.eval_every == 0
        # Read before validation and reset after it: its memory is no part of the peak while training.
        if torch.cuda.is_available() and (due or last):
            peak = self.outcome.peak_allocated_bytes or 0
            self.outcome.peak_allocated_bytes = max(peak, torch.cuda.max_memory_allocated())
        if due:
            start = time.perf_counter()
            score = self._validation(step)
            self.outcome.eval_seconds += time.perf_counter() - start
            self._add(step, {"validation": score.value})
            if self.best is not None:
                self.best.see(step, score)
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        # Of the steps since losses were last logged.
        self.first_broken.check()

    def _validation(self, step: int) -> Score:
        try:
            with interrupts_wait(wait=False):  # which it may be in for long
                return self.validate()
        except Diverged as error:
            self.first_broken.check()  # the loss or the gradients may have been so earlier
            raise Diverged(f"{error}, at step {step}") from error

    def _add(self, step: int, metrics: dict[str, float]) -> None:
        self.outcome.history.append({"step": step, **metrics})
        self.report(step, metrics)
