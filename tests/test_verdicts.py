"""Verdicts follow from tests at a level: equality as statsmodels has it, intervals that agree with p-values."""

from dataclasses import replace

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from src.analysis.error_model import Components
from src.analysis.statistics import Estimate, holm, mean_of
from src.studies.claims import EQUAL, GREATER, Claim
from src.studies.verdicts import (
    Design,
    coverage,
    decision,
    holm_levels,
    p_of,
    p_of_equality,
    turned,
    undecidable,
    what_would_decide,
)

GREATER_CLAIM = Claim("", "", {}, {}, GREATER)
EQUAL_CLAIM = Claim("", "", {}, {}, EQUAL, margin=0.01)


def estimate(value: float, error: float, df: float = 40.0) -> Estimate:
    return Estimate(value, error, df, "seeds and items")


@pytest.mark.parametrize(
    ("claim", "value", "error", "expected"),
    [
        (GREATER_CLAIM, 0.02, 0.005, "reproduced"),
        (GREATER_CLAIM, -0.02, 0.005, "not reproduced"),
        (GREATER_CLAIM, 0.02, 0.02, "undecided"),
        (GREATER_CLAIM, 0.0, 0.0, "undecided"),
        (replace(GREATER_CLAIM, claimed=0.04), 0.02, 0.005, "smaller than claimed"),
        (replace(GREATER_CLAIM, claimed=0.025), 0.02, 0.005, "reproduced"),
        (replace(GREATER_CLAIM, claimed=0.04), 0.005, 0.005, "undecided"),
        (EQUAL_CLAIM, 0.002, 0.003, "equal within the margin"),
        (EQUAL_CLAIM, 0.002, 0.02, "undecided"),
        (EQUAL_CLAIM, 0.03, 0.005, "not reproduced"),
        (EQUAL_CLAIM, -0.03, 0.005, "not reproduced"),
    ],
)
def test_a_decision(claim: Claim, value: float, error: float, expected: str) -> None:
    assert decision(claim, estimate(value, error), 0.05) == expected
    lower_is_better = turned(estimate(-value, error), higher_is_better=False)
    assert decision(claim, lower_is_better, 0.05) == expected


def test_equality_is_statsmodels_two_one_sided_tests() -> None:
    numbers = np.random.default_rng(0).normal(0.2, 1.0, 30)
    for margin in (0.3, 0.6, 1.0):
        expected, *_ = DescrStatsW(numbers).ttost_mean(-margin, margin)
        assert p_of_equality(margin, mean_of(numbers, "seeds only")) == pytest.approx(expected)
        is_equal = decision(replace(EQUAL_CLAIM, margin=margin), mean_of(numbers, "seeds only"), 0.05)
        assert (is_equal == "equal within the margin") == (expected < 0.05)


def test_holms_levels_reject_what_statsmodels_rejects() -> None:
    generator = np.random.default_rng(0)
    for _ in range(6):
        p_values = (generator.uniform(0, 1, 6) ** 3).tolist()
        rejected = multipletests(p_values, method="holm")[0].tolist()
        assert [p < level for p, level in zip(p_values, holm_levels(p_values), strict=True)] == rejected
    assert holm_levels([]) == []


@pytest.mark.parametrize("expected", [GREATER, EQUAL])
def test_an_interval_decides_exactly_where_the_corrected_p_value_does(expected: str) -> None:
    generator = np.random.default_rng(0)
    claim = EQUAL_CLAIM if expected == EQUAL else GREATER_CLAIM
    for _ in range(6):
        estimates = [estimate(generator.normal(0, 0.02), generator.uniform(0.002, 0.01)) for _ in range(5)]
        p_values = [p_of(claim, one) for one in estimates]
        for one, p, level in zip(estimates, holm(p_values), holm_levels(p_values), strict=True):
            assert (decision(claim, one, level) != "undecided") == (p < 0.05)
            low, high = one.interval(coverage(claim, level))
            assert low < one.value < high


def test_what_would_decide_an_open_claim_is_said_with_what_it_assumes() -> None:
    design = Design(Components(1.4e-5, 0.0118, 0.137), seeds=3, items=3000, cells=41)
    open_claim = what_would_decide(GREATER_CLAIM, design, 0.05, observed=-0.012)
    assert open_claim == "if they differ as measured: 5 seeds or 4,400 items"
    assert what_would_decide(EQUAL_CLAIM, design, 0.05, observed=0.0).startswith("if they are equal: ")
    tiny = what_would_decide(replace(GREATER_CLAIM, claimed=1e-4), design, 0.05, observed=0.02)
    assert tiny == "if they differ as claimed: more than 200 seeds"


def test_a_margin_below_what_endless_seeds_find_cant_be_decided() -> None:
    design = Design(Components(1.4e-5, 0.0118, 0.137), seeds=3, items=3000, cells=41)
    limit = np.sqrt(0.0118 / 3000)  # of the standard error; a power of 80 % takes 2.8 of them, of equality 2.93
    assert undecidable(replace(GREATER_CLAIM, claimed=2.7 * limit), design)
    assert not undecidable(replace(GREATER_CLAIM, claimed=2.9 * limit), design)
    assert undecidable(replace(EQUAL_CLAIM, margin=2.85 * limit), design)
    assert not undecidable(replace(EQUAL_CLAIM, margin=3.0 * limit), design)
    assert not undecidable(GREATER_CLAIM, design)
