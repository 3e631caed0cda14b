"""What isn't a number never becomes a kept weight or a score: the run is diverged, and its record says where."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from src.config.schema import Config
from src.errors import Diverged
from src.metrics import Score
from src.models.base_model import load_base
from src.results.store import ADAPTER, FIT, PREDICTIONS, RESULT
from src.running import execute as execution
from src.running.lifecycle import run
from src.running.sweep import Plan
from src.training import trainer as training
from src.training.device import find_device
from src.training.finite import FirstBroken, check_rows, check_weights
from src.training.scoring import Scoring
from tests.test_training import run as executed

Make = Callable[..., Config]
BROKEN = (torch.nan, torch.inf, -torch.inf)


@pytest.mark.parametrize("number", BROKEN)
def test_the_first_broken_step_is_kept_without_asking_for_values(number: float) -> None:
    first = FirstBroken()
    for step, value in enumerate((1.0, 2.0, number, 1.0, number), start=1):
        first.see("loss", torch.tensor(value), step)
        first.see("norm", torch.tensor([1.0, number if step == 2 else 0.0]), step)
    with pytest.raises(Diverged, match="the norm isn't finite at step 2"):
        first.check()
    FirstBroken().see("loss", torch.ones(2, device="meta"), 1)  # which has no values to ask for
    whole = FirstBroken()
    whole.see("loss", torch.tensor(3e38), 1)
    whole.check()


@pytest.mark.parametrize("number", BROKEN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_number_among_trained_tensors_is_enough(number: float, dtype: torch.dtype) -> None:
    state = {"a": torch.ones(3, 5, dtype=dtype), "b": torch.zeros(7, dtype=dtype), "codes": torch.ones(2).byte()}
    check_weights(state, 9)
    state["b"][4] = number
    with pytest.raises(Diverged, match="1 of 3 trained tensors aren't finite after step 9: b"):
        check_weights(state, 9)


@pytest.mark.parametrize("number", BROKEN)
def test_one_item_of_a_batch_is_enough(number: float) -> None:
    values = torch.zeros(5, 3)
    check_rows("logits", values)
    values[1, 2] = values[3, 0] = number
    with pytest.raises(Diverged, match="the logits of 2 items in a batch of 5 aren't finite"):
        check_rows("logits", values)


def attempt(config: Config) -> tuple[dict[str, Any], Path]:
    """The record of a run, which must be JSON as the standard has it, and its folder."""
    plan = Plan.of([config])
    run(config, plan)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    folder = Path(plan.folders[0])
    return json.loads((folder / RESULT).read_text(), parse_constant=refuse), folder


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        # All losses are finite, and the last step breaks the weights.
        (["adapter=full", "lr=1e38", "trainer.max_steps=2"], "trained tensors aren't finite after step 2"),
        (["adapter=full", "lr=1e37", "trainer.max_steps=6"], "the training loss isn't finite at step 3"),
        # Finite weights whose products are not: it shows in a validation alone, which comes before the next loss.
        (["adapter=lora", "rank=2", "lr=1e37", "trainer.max_steps=3"], "validation: the logits .* at step 2"),
        (["adapter=lora", "rank=2", "lr=1e37", "trainer.max_steps=2"], "aren't finite, with the weights of step 2"),
    ],
)
def test_a_rate_that_breaks_a_run_makes_it_diverged(tiny: Make, overrides: list[str], reason: str) -> None:
    record, folder = attempt(tiny(*overrides, "forgetting=none"))
    assert record["state"] == "diverged"
    assert "metrics" not in record
    assert record["error"]["class"] == "Diverged"
    assert not (folder / PREDICTIONS).exists()
    assert re.search(reason, record["error"]["message"])


def test_gradients_whose_norm_overflows_are_no_step(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = training._AdapterTrainer.compute_loss

    def steep(self: Any, model: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        value: Tensor = loss(self, model, *args, **kwargs)
        # The same loss with gradients of 1e30: finite, and their squares are not.
        return value + (1e30 * (value - value.detach()) if self.state.global_step == 2 else 0.0)

    monkeypatch.setattr(training._AdapterTrainer, "compute_loss", steep)
    with pytest.raises(Diverged, match="the norm of the gradients isn't finite at step 3"):
        executed(tiny("adapter=lora", "rank=2", "trainer.max_steps=7"), tmp_path)
    assert not (tmp_path / ADAPTER).exists()
    assert not (tmp_path / FIT).exists()


def scorer(config: Config) -> tuple[Scoring, Any]:
    base = load_base(config.model, num_labels=0, attention="eager")
    return Scoring(base.tokenizer, config.task, find_device("fp32"), batch_size=5), base.module


@pytest.mark.parametrize("overrides", [[], ["task.temperature=1.0"]])
def test_a_text_written_from_logits_that_are_no_numbers_is_no_answer(
    tiny: Make, overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scoring_of, model = scorer(tiny(*overrides))
    prompts = [[3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert len(scoring_of._generate(model, prompts)) == 3
    forward = model.forward

    def broken(*args: Any, **kwargs: Any) -> Any:
        outputs = forward(*args, **kwargs)
        outputs.logits[1, :, 7] = torch.nan
        return outputs

    monkeypatch.setattr(model, "forward", broken)
    with pytest.raises(Diverged, match="the logits of 1 items in a batch of 3"):
        scoring_of._generate(model, prompts)


def test_a_token_that_a_model_forbids_is_no_broken_number(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    scoring_of, model = scorer(tiny())
    forward = model.forward

    def forbidding(*args: Any, **kwargs: Any) -> Any:
        outputs = forward(*args, **kwargs)
        outputs.logits[..., 7] = -torch.inf
        return outputs

    monkeypatch.setattr(model, "forward", forbidding)
    assert len(scoring_of._generate(model, [[3, 4, 5], [6, 7, 8]])) == 2


def test_an_answer_whose_loss_is_infinite_is_no_mean(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    scoring_of, model = scorer(tiny())
    examples = [{"input_ids": [3, 4, 5], "labels": [-100, 4, 5]}, {"input_ids": [3, 6, 7], "labels": [-100, 6, 7]}]
    assert scoring_of.answer_loss(model, examples).score.value > 0
    head = model.get_output_embeddings()
    handle = head.register_forward_hook(
        lambda module, inputs, logits: logits.index_fill(1, torch.tensor([7]), -torch.inf)
    )
    try:
        with pytest.raises(Diverged, match="the losses of 1 items"):
            scoring_of.answer_loss(model, examples)
    finally:
        handle.remove()


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
@pytest.mark.parametrize("where", ["value", "more", "sets"])
def test_a_metric_that_is_no_number_is_no_score(
    tiny: Make, monkeypatch: pytest.MonkeyPatch, number: float, where: str
) -> None:
    def broken(name: str, *args: Any, **kwargs: Any) -> Score:
        return Score(name, number if where != "more" else 0.5, more={"part": number if where == "more" else 0.5})

    monkeypatch.setattr("src.training.scoring.score", broken)
    scoring_of, model = scorer(tiny())
    rows: list[Any] = [{"prompt": "a", "answer": "b", **({"set": text} if where == "sets" else {})} for text in "xy"]
    examples = [{"input_ids": [3, 4], "labels": [3, 4], "prompt": [3, 4]} for _ in rows]
    with pytest.raises(Diverged, match=f"the value of .* is {number}"):
        scoring_of.score(model, rows, examples)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_forgetting_that_is_no_number_is_no_result(when: str, number: float) -> None:
    facts = {"text": "a", "fingerprint": "b", "tokens": 3}
    before, after = (facts | {"loss": number if when == which else 2.0} for which in ("before", "after"))
    with pytest.raises(Diverged, match=f"the loss on general text is {number} {when} training"):
        execution._forgetting(before, after)


def test_a_state_that_was_kept_before_training_broke_is_no_result(tiny: Make, tmp_path: Path) -> None:
    kept = ["trainer.checkpoint=best_validation", "trainer.eval_every=1", "trainer.max_grad_norm=0"]
    with pytest.raises(Diverged, match=r"isn't finite|aren't finite"):
        executed(tiny("adapter=full", "lr=1e30", "trainer.max_steps=6", "forgetting=none", *kept), tmp_path)


@pytest.mark.slow
def test_a_diverged_run_says_so_on_every_attempt(tiny: Make) -> None:
    config = tiny("adapter=full", "lr=1e38", "trainer.max_steps=2", "forgetting=none")
    first, again = attempt(config)[0], attempt(config)[0]
    assert first["error"] == again["error"]
