"""Train a run's method and save its adapter; what training showed is kept beside it until the run is scored."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from src.adapters.inject import InjectedModel, adapters, inject
from src.adapters.ledger import Ledger, closed_form, count
from src.errors import UserError
from src.files import replacing, write_json
from src.results.digests import tensor_digests
from src.results.provenance import made_with
from src.results.store import ADAPTER, FIT
from src.running.assemble import empty_setup, fresh_model, method_of
from src.running.checkpoints import read_checkpoint, write_checkpoint
from src.running.preflight import preflight
from src.running.prepare import Prepared
from src.running.progress import say_once, screen
from src.running.starts import directions, largest_residual
from src.streams import stream_generator
from src.training.checkpointing import check_checkpointing
from src.training.held_weights import hold_weights
from src.training.trainer import Recipe, Training, train, warmup_steps

Report = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class Fit:
    """What is known of a run once its adapter is trained and saved.

    `seconds` is what all of it took, `made_with` the device and the packages, `tensors` the digests of the adapter.
    """

    training: Training
    parameters: dict[str, Any]
    scaling: float | None
    setup_seconds: float
    seconds: float
    made_with: dict[str, str]
    tensors: dict[str, str]
    preflight: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, made_with: dict[str, str]) -> "Fit | None":
        """The fit that an earlier attempt at the run left before it failed at scoring.

        None where there is none, it isn't of the adapter that is there, or was made with something else: the record
        has one device and one set of versions for all of the run.
        """
        # Damaged, either file is no worse than missing: the adapter is trained again.
        with suppress(OSError, ValueError, TypeError, KeyError, SafetensorError):
            values = json.loads((folder / FIT).read_text(encoding="utf-8"))
            found = cls(**{**values, "training": Training(**values["training"])})
            if found.made_with == made_with and found.tensors == tensor_digests(folder / ADAPTER):
                return found
        return None

    def write(self, folder: Path) -> None:
        """Leave the fit beside its adapter."""
        write_json(folder / FIT, asdict(self))


def fit(run: Prepared, report: Report, start: float) -> Fit:
    """Train the run's method and save its adapter at the step that the config's checkpoint rule chooses.

    Args:
        report: told the step and the metrics as they come.
        start: when the run began, by `time.perf_counter`.

    Raises:
        UserError: the method doesn't fit the model.
        Diverged: the loss, the gradients, the weights or what they predict became infinite or NaN.
        KeyboardInterrupt: after the step under way, and a checkpoint.
    """
    config = run.config
    injected = _injected(run)
    ledger = _counted(run, injected)
    checked = preflight(run, injected) | largest_residual(run)
    if config.trainer.checkpointing:
        check_checkpointing(injected.model, config.model.name)
    if run.device.precision == "bf16":
        hold_weights(injected.model, torch.bfloat16)
    # Setup ends here: loading, estimating and injecting, but no step.
    setup_seconds = time.perf_counter() - start
    recipe = Recipe(
        settings=config.trainer,
        lr=config.lr if config.has_axis("lr") else None,
        pad_token_id=run.base.tokenizer.pad_token_id,
        seed=config.seed,
        device=run.device,
        say=say_once,
    )
    model: Any = injected.model
    made = made_with(asdict(run.device))
    begun = read_checkpoint(run.folder, made, screen().say)
    training, state = train(
        injected,
        run.examples["train"],
        recipe,
        validate=lambda: run.score(model, "validation").score,
        report=report,
        start=begun,
        keep=lambda snapshot: write_checkpoint(run.folder, snapshot, made, say_once),
    )
    fitted = time.perf_counter()
    scalings = {adapter.scaling for adapter in adapters(model).values()} if config.has_axis("alpha") else set()
    # Whole or not at all: another attempt takes the file for a trained adapter.
    with replacing(run.folder / ADAPTER) as partial:
        save_file(state, partial)
    return Fit(
        training=training,
        parameters=ledger.as_dict(),
        scaling=next(iter(scalings), None),
        setup_seconds=setup_seconds,
        seconds=setup_seconds + time.perf_counter() - fitted + training.train_seconds + training.eval_seconds,
        made_with=made,
        tensors=tensor_digests(run.folder / ADAPTER),
        preflight=checked,
    )


def _injected(run: Prepared) -> InjectedModel:
    """The method on a fresh copy of the model, with its initial values."""
    config, model = run.config, fresh_model(run.config, run.base, run.device.type)
    method, setup = method_of(config), empty_setup(config, model)
    setup.generator = stream_generator(config.seed, "adapter_init")
    setup.step_size = (config.lr or 0.0) / max(1, warmup_steps(config.trainer))  # without warm-up the rate itself
    if method.needs_gradient:
        setup.update_directions = directions(run, model, setup.target_modules)
    return inject(model, method, setup, config.model.head)


def _counted(run: Prepared, injected: InjectedModel) -> Ledger:
    """The run's ledger, held against the papers' closed forms where the method is made of linear adapters."""
    ledger, config = count(injected), run.config
    if ledger.trained == 0:
        raise UserError(
            f"adapter={config.adapter.name} trains nothing of model={config.model.name}, which has no head to train.\n"
            "Choose a method that adds parameters, or name modules to train in model.head=[...]."
        )
    if adapters(injected.model):
        # No `assert`, which Python leaves out under -O: the tables print these counts.
        expected = closed_form(injected)
        if ledger.adapter_trained != expected:
            raise UserError(
                f"adapter={config.adapter.name} trains {ledger.adapter_trained:,} parameters, and {expected:,} by its "
                "closed form.\nMend its `expected_trainable`, or what it trains."
            )
    return ledger
