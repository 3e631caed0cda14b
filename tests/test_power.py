"""Power, and the smallest difference that a design finds, are those of statsmodels and of simulations."""

from math import inf

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import ttest_power

from benchmarks.deciding import detectable, found
from src.analysis.error_model import Components
from src.analysis.power import (
    Noise,
    Question,
    binomial_noise,
    difference_power,
    equality_power,
    items_needed,
    noise_of,
    seeds_needed,
)

STUDY = Components(seed=1.4e-5, item=0.0118, answer=0.137)  # of the order of a committed study's


@pytest.mark.parametrize("df", [2.0, 7.5, 60.0, 3000.0, 1e6])
@pytest.mark.parametrize("shift", [0.0, 0.4, 2.8, 6.0])
def test_the_power_of_a_difference_is_statsmodels(df: float, shift: float) -> None:
    expected = ttest_power(shift, nobs=1, alpha=0.01, df=df)
    assert difference_power(0.005 * shift, Noise(0.005, df), 0.01) == pytest.approx(expected, abs=1e-4)
    assert difference_power(-0.005 * shift, Noise(0.005, df), 0.01) == pytest.approx(expected, abs=1e-4)


def test_equality_is_found_as_often_as_two_one_sided_tests_find_it() -> None:
    error, df, margin = 0.004, 60, 0.012
    drawn = np.random.default_rng(0).normal(0.0, error, 40_000)
    limit = stats.t.isf(0.05, df) * error
    inside = (drawn - limit > -margin) & (drawn + limit < margin)
    assert equality_power(margin, Noise(error, df)) == pytest.approx(inside.mean(), abs=0.01)
    assert equality_power(0.5 * error, Noise(error, df)) == 0.0


@pytest.mark.parametrize("is_equality", [False, True])
@pytest.mark.parametrize("df", [2.0, 40.0, 1e9])
def test_the_smallest_difference_has_a_power_of_80_percent_and_grows_with_the_error(
    is_equality: bool, df: float
) -> None:
    question = Question(is_equality, level=0.05 / 3)
    smallest = question.smallest(Noise(0.004, df))
    assert question.power(smallest, Noise(0.004, df)) == pytest.approx(0.8, abs=1e-4)
    assert question.smallest(Noise(0.008, df)) == pytest.approx(2 * smallest)
    assert question.smallest(Noise(0.0, df)) == 0


def test_noise_falls_with_seeds_and_items_to_what_the_other_leaves() -> None:
    errors = [noise_of(STUDY, seeds, 3000).error for seeds in (3, 12, 1000, inf)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == pytest.approx(np.sqrt(STUDY.item / 3000))
    assert errors[0] == pytest.approx(STUDY.standard_error(3, 3000))
    assert noise_of(STUDY, 3, 10**9).error == pytest.approx(np.sqrt(STUDY.seed / 3), rel=1e-3)


def test_many_cells_say_how_noisy_each_is_until_five_seeds_do() -> None:
    only_seeds = Components(seed=1e-4, item=0.0, answer=0.0)
    assert noise_of(only_seeds, 3, 100, cells=2).df == 2
    assert noise_of(only_seeds, 3, 100, cells=41).df == 80
    assert noise_of(only_seeds, 8, 100, cells=41).df == 14


def test_the_seeds_needed_are_the_first_with_enough_power() -> None:
    question = Question()
    seeds = seeds_needed(question, 0.01, STUDY, 3000, cells=41)
    assert seeds is not None
    powers = [question.power(0.01, noise_of(STUDY, n, 3000, 41)) for n in (seeds - 1, seeds)]
    assert powers[0] < 0.8 <= powers[1]
    assert seeds_needed(question, 0.004, STUDY, 3000, cells=41) is None  # the items alone leave more noise
    assert seeds_needed(question, 0.01, STUDY, 3000, cells=41, above=20) == 21


def test_the_items_needed_are_the_first_with_enough_power() -> None:
    question = Question(is_equality=True)
    items = items_needed(question, 0.01, STUDY, 3, cells=41)
    assert items is not None
    powers = [question.power(0.01, noise_of(STUDY, 3, n, 41)) for n in (items - 1, items)]
    assert powers[0] < 0.8 <= powers[1]
    assert items_needed(question, 0.004, STUDY, 3, cells=41) is None  # three seeds leave more noise


def test_binomial_noise_is_that_of_two_independent_proportions() -> None:
    generator = np.random.default_rng(0)
    differences = generator.binomial(500, 0.7, 20_000) / 500 - generator.binomial(500, 0.7, 20_000) / 500
    assert noise_of(binomial_noise(0.7), 1, 500, cells=9).error == pytest.approx(differences.std(), rel=0.02)


@pytest.mark.slow
def test_the_predicted_smallest_difference_is_within_15_percent_of_the_simulated_one() -> None:
    generator = np.random.default_rng(1)
    predicted = detectable(3, 40, generator)
    assert found(0.85 * predicted, 3, 300, generator) < 0.8 < found(1.15 * predicted, 3, 300, generator)
