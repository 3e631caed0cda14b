"""A run whose score is doubtful is marked, by rules that few items and a noisy loss don't trigger."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from src.config.checks import LOSS
from src.metrics import Score, score
from src.running.execute import execute
from src.running.flags import AT_CHANCE, CONSTANT, LEVEL, LOSS_ROSE, UNDEFINED, flags
from src.training.scoring import Scored, Scoring
from tests.conftest import ROOT, composed
from tests.test_glue import files_of, made_up, write_original


def scored(predictions: list[Any], references: list[Any], metric: str = "accuracy") -> Scored:
    hits = [float(answer == right) for answer, right in zip(predictions, references, strict=True)]
    return Scored(predictions, references, Score(metric, sum(hits) / len(hits), items=hits))


BY_LOSS = Scored([1.0, 2.0], [3, 4], Score(LOSS, 1.5, higher_is_better=False, unit="nats"))


def kinds(found: Scored, losses: list[float] | None = None) -> set[str]:
    return set(flags(found, [{"step": step, "loss": loss} for step, loss in enumerate(losses or [])]))


def at_least(hits: int, items: int, share: float) -> float:
    """The chance of so many hits or more, summed term by term."""
    terms = (math.comb(items, k) * share**k * (1 - share) ** (items - k) for k in range(hits, items + 1))
    return math.fsum(terms)


@pytest.mark.parametrize(
    ("references", "flagged"),
    [
        ([0, 1] * 8, True),
        ([0, 0, 0, 1], False),  # 0.75^4 = 0.32
        ([0, 1] * 2, False),  # 0.5^4 = 0.06
        ([0, 1] * 2 + [0], False),  # 0.6^5 = 0.08
        ([0, 1, 2, 3], True),  # 0.25^4 = 0.004
        ([0] * 61 + [1] * 3, True),  # 0.953^64 = 0.046
        ([0] * 62 + [1] * 2, False),  # 0.969^64 = 0.13
        ([0] * 12, False),  # nothing else to say
    ],
)
def test_equal_predictions_are_said_where_references_vary_enough(references: list[int], flagged: bool) -> None:
    """Where answers that are drawn at the references' shares would all be the most common one less often than LEVEL."""
    found = kinds(scored([0] * len(references), references))
    assert (CONSTANT in found) is flagged


def test_equal_texts_and_equal_numbers_are_constant_too() -> None:
    assert CONSTANT in kinds(scored(["the"] * 9, [str(number) for number in range(9)], "exact_match"))
    numbers = Scored([2.5] * 9, [*range(9)], Score("pearson", 0.0), undefined=["pearson"])
    assert kinds(numbers) == {CONSTANT, UNDEFINED}
    assert CONSTANT not in kinds(scored(["a", "b"] * 5, [str(number) for number in range(10)], "exact_match"))


@pytest.mark.parametrize(("items", "hits"), [(64, 39), (64, 40), (872, 460), (872, 461), (872, 200), (16, 8)])
def test_at_chance_is_the_exact_binomial_test_against_the_most_common_answer(items: int, hits: int) -> None:
    references = [0, 1] * (items // 2)
    predictions = [right if index < hits else 1 - right for index, right in enumerate(references)]
    significant = at_least(hits, items, 0.5) <= LEVEL
    enough = items > 16  # 16 items miss a model that is right in three of four cases in a third of all cases
    assert (AT_CHANCE in kinds(scored(predictions, references))) is (enough and not significant)


def test_the_fewest_items_of_two_equal_classes_are_those_that_the_page_says() -> None:
    constant = [CONSTANT in kinds(scored([0] * items, [0, 1] * (items // 2))) for items in (2, 4, 6, 8)]
    assert constant == [False, False, True, True]
    reversed_answers = {items: scored([1, 0] * (items // 2), [0, 1] * (items // 2)) for items in (38, 40, 44, 46, 60)}
    said = [items for items, answers in reversed_answers.items() if AT_CHANCE in kinds(answers)]
    assert said == [44, 46, 60]
    page = " ".join((ROOT / "docs/statistics.md").read_text().split())
    assert "two equal classes from 6 items on" in page
    assert "for two equal classes 44 or more" in page


def test_few_items_or_a_rare_second_class_say_nothing_of_chance() -> None:
    assert at_least(12, 16, 0.75) < 1 - LEVEL < at_least(40, 64, 0.75)
    assert AT_CHANCE not in kinds(scored([0, 1] * 8, [1, 0] * 8))
    assert AT_CHANCE not in kinds(scored([1] + [0] * 63, [0] * 63 + [1]))


def test_chance_is_that_of_each_kind_of_choices() -> None:
    references = ["true", "true", "false"] * 50 + ["answer1", "answer2", "answer2", "answer2"] * 40
    constant = ["true" if reference in ("true", "false") else "answer2" for reference in references]
    answers = [answer if index % 9 else "none" for index, answer in enumerate(constant)]
    found = flags(scored(answers, references, "choice"), [])
    assert found[AT_CHANCE].endswith(f"and {100 + 120} with the most common answer alone")
    assert AT_CHANCE not in kinds(scored(references, references, "choice"))


@pytest.mark.parametrize(
    ("losses", "rose"),
    [
        ([0.7] * 20, False),
        ([0.7] * 15 + [3.0] * 5, True),
        ([0.7, 0.6, 0.5, 0.4] * 5, False),
        ([0.7] * 19 + [9.0], True),  # only the last
        ([4.606, 4.587, 406.0, 2656.0, 3597.0, 2270.0], True),  # six steps at a rate that is far too high
        ([0.71, 0.69, 0.70, 0.72], False),  # noise
        ([0.7, 80.0, 900.0], False),  # of three the noise isn't known
        ([1.0, 5.0, 0.8, 0.5, 0.4, 0.3, 0.3, 0.3, 0.3, 0.3], False),  # a rise that it got over
        (list(np.linspace(1.0, 1.5, 20)), True),
        ([0.0] * 10 + [0.1] * 10, True),
    ],
)
def test_a_loss_that_ends_above_its_start_is_said_unless_it_is_noise(losses: list[float], rose: bool) -> None:
    assert (LOSS_ROSE in kinds(BY_LOSS, losses)) is rose


def test_a_loss_without_a_trend_is_flagged_no_more_often_than_its_level() -> None:
    draw = np.random.default_rng(0)
    for points in (4, 20):
        flagged = [bool(kinds(BY_LOSS, list(np.exp(row)))) for row in draw.normal(size=(1000, points))]
        assert np.mean(flagged) < LEVEL + 0.035  # successive differences give rougher tails than t's at four points


@pytest.mark.parametrize(
    ("metric", "predictions", "references"),
    [
        ("pearson", [2.5] * 3, [1.0, 2.0, 4.0]),
        ("spearman", [1.0, 2.0, 4.0], [3.0] * 3),
        ("matthews_correlation", [1, 1, 1], [1, 0, 1]),
        ("f1", [0, 0, 0], [0, 0, 0]),
    ],
)
def test_a_metric_that_is_undefined_counts_as_zero_and_says_so(
    metric: str, predictions: list[Any], references: list[Any]
) -> None:
    found = score(metric, predictions, references)
    assert (found.value, found.undefined) == (0.0, True)
    assert not score(metric, [0, 1, 2] if metric in ("pearson", "spearman") else [0, 1, 1], [0, 1, 1]).undefined


def test_a_run_says_what_is_doubtful_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {file: made_up("cola", file, 40) for file in files_of("cola")}
    root = write_original(tmp_path / "root", "cola", parts)
    monkeypatch.setattr(
        Scoring, "_classify", lambda self, model, examples: ([1] * len(examples), torch.zeros(len(examples), 2))
    )
    config = composed("task=cola", f"task.data_dir={root}", "task.validation_size=9", "adapter=lora", "rank=2",
                      "target=qv", "trainer=smoke", "forgetting=none")  # fmt: skip
    record = execute(config, tmp_path, lambda step, metrics: None)
    assert record["flags"] == [CONSTANT, UNDEFINED]
    assert any(text.startswith(f"{CONSTANT}: all ") for text in record["warnings"])
    assert record["metrics"]["test"]["value"] == 0.0
