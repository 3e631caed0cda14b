"""Which state is kept: the last step's, or that of the best validation."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from src.config.schema import Config
from src.metrics import Score
from src.results.identity import decisive
from src.running.prepare import prepare
from src.training.trainer import Recipe, train
from tests.conftest import composed


def trained(config: Config, scores: list[float], *, higher_is_better: bool) -> tuple[Any, Any, list[Any]]:
    """Train with validations that give the scores one after the other; also the states that they saw."""
    from src.running.fitting import _injected

    run = prepare(replace(config, trainer=replace(config.trainer, precision="fp32")), Path(config.results_dir))
    injected, examples = _injected(run), run.examples["train"]
    recipe = Recipe(config.trainer, config.lr, run.base.tokenizer.pad_token_id, config.seed, run.device)
    remaining, seen = iter(scores), []

    def validate() -> Score:
        seen.append({name: tensor.clone() for name, tensor in injected.state().items()})
        return Score("x", next(remaining), higher_is_better)

    outcome, state = train(injected, examples, recipe, validate=validate, report=lambda step, metrics: None)
    return outcome, state, [*seen, injected.state()]


@pytest.mark.parametrize(
    ("scores", "higher_is_better", "step"),
    [([0.3, 0.5, 0.4], True, 4), ([0.3, 0.5, 0.4], False, 2), ([0.1, 0.2, 0.9], True, 6), ([0.5, 0.5, 0.5], True, 2)],
)
def test_the_best_validation_s_state_is_kept_the_earlier_of_equal_ones(
    tiny: Callable[..., Config], scores: list[float], higher_is_better: bool, step: int
) -> None:
    config = tiny(
        "trainer.checkpoint=best_validation", "trainer.max_steps=6", "trainer.eval_every=2", "lr=0.05", "rank=2"
    )
    outcome, state, seen = trained(config, scores, higher_is_better=higher_is_better)
    assert outcome.checkpoint_step == step
    expected = seen[step // 2 - 1]
    assert all(tensor.equal(expected[name]) for name, tensor in state.items())
    different = [other for index, other in enumerate(seen[:3]) if index != step // 2 - 1]
    assert all(any(not tensor.equal(other[name]) for name, tensor in state.items()) for other in different)


def test_by_default_the_last_state_is_kept_and_the_end_isnt_validated(tiny: Callable[..., Config]) -> None:
    config = tiny("trainer.max_steps=6", "trainer.eval_every=2", "rank=2")
    outcome, state, seen = trained(config, [0.9, 0.1], higher_is_better=True)
    assert outcome.checkpoint_step == 6
    assert all(tensor.equal(seen[-1][name]) for name, tensor in state.items())


def test_the_rule_is_part_of_a_runs_identity_only_where_it_isnt_the_default() -> None:
    usual, best = (decisive(composed(*args))["trainer"] for args in ([], ["trainer.checkpoint=best_validation"]))
    assert "checkpoint" not in usual
    assert best == usual | {"checkpoint": "best_validation"}
