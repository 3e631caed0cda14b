"""One run from its config to its record: prepare, fit, restore, score, record.

The order of the steps is the protocol. The score is that of the adapter read back from disk onto a fresh copy of
the base model, so what is scored is what was saved; the test split is touched after everything else is settled.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from src.adapters.inject import InjectedModel, adapters
from src.config.memo import kept
from src.config.schema import Config
from src.errors import Diverged, first_line
from src.interrupts import end_if_interrupted
from src.results.provenance import made_with
from src.results.schema import Forgetting, Record
from src.results.store import ADAPTER, CHECKPOINT, PREDICTIONS
from src.running.assemble import fresh_model, restored
from src.running.fitting import Fit, Report, fit
from src.running.prepare import Prepared, prepare
from src.running.record import Evaluation, finished_record, write_predictions
from src.training.forgetting import general_loss, source_fingerprint
from src.training.scoring import Scored


def execute(config: Config, folder: Path, report: Report) -> Record:
    """Do the run, leaving its adapter and predictions in `folder`, and return its record (not yet written).

    Where an earlier attempt has trained the adapter and failed later, training isn't repeated, and one that was cut off
    is gone on with at its checkpoint.

    Raises:
        UserError: something the user can put right.
        Diverged: something that was trained or predicted is infinite or NaN.
    """
    start = time.perf_counter()
    run = prepare(config, folder)
    # The adapter of an attempt that failed at scoring is as good as a new one.
    training = Fit.read(folder, made_with(asdict(run.device)))
    if training is None:
        training = fit(run, report, start)
        training.write(folder)
        (folder / CHECKPOINT).unlink(missing_ok=True)
    end_if_interrupted()  # where one came in the last step
    fitted = time.perf_counter()
    before, failed = _measured(lambda: _loss_before(run))  # after training, so that it doesn't share the memory
    injected = restored(config, run.base, folder / ADAPTER, run.device.type)
    model: Any = injected.model
    scored = {split: _scored(run, model, split, training.training.checkpoint_step) for split in run.splits}
    write_predictions(folder / PREDICTIONS, scored)
    after, failed_after = _measured(lambda: general_loss(config, run.base, model, run.device))
    # In this order: the smaller ranks leave the adapters truncated.
    evaluation = Evaluation(
        scored=scored,
        forgetting=_forgetting(before, after),
        forgetting_failed=failed or failed_after or _unmeasured_reason(config, before, after),
        smaller_ranks=_smaller_ranks(run, injected),
        run_seconds=training.seconds + time.perf_counter() - fitted,
    )
    return finished_record(run, training, evaluation)


def _scored(run: Prepared, model: Any, split: str, step: int | None) -> Scored:
    """A split's score with the saved adapter, which is that of a step."""
    try:
        return run.score_with_likelihood(model, split)
    except Diverged as error:
        raise Diverged(f"{error}, with the weights of step {step}") from error


def _decides_loss(run: Prepared) -> Any:
    config = run.config
    # A language model's head is part of what predicts, and where it is trained its start is drawn from the seed.
    head_seed = config.seed if config.model.head and config.model.architecture != "classifier" else None
    text = source_fingerprint(config.forgetting)
    return config.model, config.quantization, text, head_seed, run.device.type, run.device.precision


@kept(1, key=_decides_loss)
def _loss_before(run: Prepared) -> dict[str, Any] | None:
    """The bare model's loss on general text, computed once for all runs on it."""
    model = fresh_model(run.config, run.base, run.device.type)
    return general_loss(run.config, run.base, model, run.device)


def _measured(measure: Callable[[], dict[str, Any] | None]) -> tuple[dict[str, Any] | None, str]:
    """What is measured, or why that failed: a trained run isn't lost for what is said beside its score."""
    try:
        return measure(), ""
    except Exception as error:  # in whatever way an unusual model fails
        return None, f"{type(error).__name__}: {first_line(error)}"


def _unmeasured_reason(config: Config, before: Any, after: Any) -> str:
    """Why there is no loss although the model could have one: the method is put around it."""
    if config.forgetting == "none" or (before is None) == (after is None):
        return ""
    return f"adapter={config.adapter.name} is put around the model, whose body can't be taken below another head"


def _forgetting(before: dict[str, Any] | None, after: dict[str, Any] | None) -> Forgetting | None:
    """Both losses on the general text; None where they couldn't be measured."""
    if before is None or after is None:
        return None
    for when, loss in (("before", before["loss"]), ("after", after["loss"])):
        if not math.isfinite(loss):
            raise Diverged(f"the loss on general text is {loss} {when} training")
    facts: Forgetting = {
        "text": after["text"],
        "fingerprint": after["fingerprint"],
        "tokens": after["tokens"],
        "unit": "nats per token",
        "before": before["loss"],
        "after": after["loss"],
    }
    if after["bytes"] is not None:
        bits_per_nat = after["tokens"] / (math.log(2) * after["bytes"])  # of both losses, and a byte of the text
        facts["bytes"] = after["bytes"]
        facts["bits_per_byte"] = {when: facts[when] * bits_per_nat for when in ("before", "after")}
    return facts


def _smaller_ranks(run: Prepared, injected: InjectedModel) -> list[dict[str, float]]:
    """The scores of the smaller ranks that a nested method's one training gives too, each with its own size.

    Powers of two, the ranks that tables have: each costs a whole evaluation.
    """
    nested = [adapter for adapter in adapters(injected.model).values() if adapter.nested]
    model: Any = injected.model
    rows: list[dict[str, float]] = []
    largest = max((adapter.rank for adapter in nested), default=1)
    # The largest is the run's own, which is scored already.
    for rank in (2**power for power in range(largest.bit_length()) if 2**power < largest):
        for adapter in nested:
            adapter.truncate(rank)
        sizes = [adapter.expected_trainable(adapter.in_features, adapter.out_features, rank) for adapter in nested]
        scores = {split: run.score(model, split).score.value for split in run.splits}
        rows.append({"rank": rank, "adapter_trained": sum(sizes), **scores})
    return rows
