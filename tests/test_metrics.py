"""Metrics against scikit-learn and counts by hand."""

import numpy as np
import pytest

from src.errors import UserError
from src.metrics import known_metrics, score


def test_accuracy_equals_scikit_learn() -> None:
    from sklearn.metrics import accuracy_score

    draws = np.random.default_rng(0).integers(0, 3, size=(2, 137))
    predictions, references = draws.tolist()
    assert score("accuracy", predictions, references) == pytest.approx(accuracy_score(references, predictions))


def test_exact_match_ignores_white_space_around_an_answer_and_nothing_else() -> None:
    predictions = ["abc", " abc\n", "ABC", "a bc", "", "abcd", "abc"]
    references = ["abc", "abc", "abc", "abc", "", "abc", "\tabc"]
    assert score("exact_match", predictions, references) == pytest.approx(4 / 7)  # items 1, 2, 5 and 7


def test_predictions_and_references_of_unequal_number_are_refused() -> None:
    with pytest.raises(ValueError, match=r"length|Mismatch"):
        score("accuracy", [1, 0, 1], [1, 0])


def test_an_unknown_metric_is_refused_with_the_known_ones_nearest_first() -> None:
    with pytest.raises(UserError, match=r"task\.metric=acuracy (.|\n)*Allowed: accuracy, exact_match"):
        score("acuracy", [1], [1])


def test_both_metrics_are_found_in_their_folders() -> None:
    assert known_metrics() == ["accuracy", "exact_match"]
