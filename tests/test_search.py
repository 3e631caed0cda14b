"""Which rates are tried and which is chosen, on score curves with noise and cliffs whose truth is known."""

import math
import random
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from src.running.search import Budget, Curve, Trial, rate_at
from src.running.tuning_noise import expected_regret, pairs_of, pooled_variance, trial_sd

Score = Callable[[int, int], float | str | None]  # by position and seed: a score, None where it diverges, or a state
FLAGGED = "at chance"


def trial(value: float, outcome: float | str | None) -> Trial:
    """A trial with a score; None stands for one that diverged, a text for a state or for a flag."""
    if outcome is None:
        return Trial(value, "diverged")
    if isinstance(outcome, str):
        return Trial(value, "done", 0.5, (FLAGGED,)) if outcome == FLAGGED else Trial(value, outcome)
    return Trial(value, "done", outcome)


def searched(
    score: Score, trials: int = 5, extensions: int = 6, *, higher_is_better: bool = True
) -> tuple[Curve, list[list[tuple[int, int]]]]:
    """A search to its end, with the rounds of trials that it asked for."""
    tried: dict[int, tuple[Trial, ...]] = {}
    rounds: list[list[tuple[int, int]]] = []
    while True:
        curve = Curve(dict(tried), Budget(trials, extensions), higher_is_better)
        wanted = curve.wanted()
        if not wanted:
            return curve, rounds
        rounds.append(wanted)
        for position, seed in wanted:
            assert len(tried.get(position, ())) == seed, "no trial is asked for twice, nor a second seed first"
            tried[position] = (*tried.get(position, ()), trial(rate_at(0.003, position), score(position, seed)))


def peak(at: float, cliff: float = math.inf) -> Score:
    return lambda position, seed: None if position >= cliff else 0.6 - 0.004 * (position - at) ** 2


# ---- the grid


@pytest.mark.parametrize("prior", [0.001, 0.003, 0.3, 1.0, 9.5, 0.0995, 1.05e-7, 0.00123456, 1e-100, 9.99e99])
def test_no_two_positions_have_one_rate_and_neighbors_are_a_quarter_of_a_decade_apart(prior: float) -> None:
    rates = [rate_at(prior, position) for position in range(-40, 41)]
    assert rates[40] == prior
    steps = [math.log10(after / before) for before, after in pairwise(rates)]
    assert steps == pytest.approx([0.25] * 80, abs=0.045)  # two digits: at most 5 % off
    assert all(float(f"{rate:g}") == rate for rate in rates)


def test_half_decades_have_the_rates_that_older_searches_tried() -> None:
    for prior in (3e-5, 1e-3, 3e-3, 0.01, 0.3):
        older = [float(f"{prior * math.sqrt(10) ** steps:.2g}") if steps else prior for steps in range(-2, 3)]
        assert [rate_at(prior, 2 * steps) for steps in range(-2, 3)] == older


# ---- what is tried


def test_half_decades_come_first_then_quarters_beside_the_best_then_the_second_seed_of_the_two_best() -> None:
    curve, rounds = searched(peak(1.2))
    assert rounds == [
        [(-4, 0), (-2, 0), (0, 0), (2, 0), (4, 0)],
        [(1, 0), (3, 0)],
        [(1, 1), (2, 1)],
    ]
    assert curve.chosen == 1


@pytest.mark.parametrize("best", [-9, -7, -6, -5, 5, 6, 7, 9])
def test_the_grid_is_extended_until_the_best_is_inside(best: int) -> None:
    curve, _ = searched(peak(best))
    assert curve.chosen == best
    assert curve.edge(best) == 0
    assert {best - 1, best + 1} <= set(curve.tried)


@pytest.mark.parametrize("slope", [1, -1])
def test_a_monotone_curve_ends_at_the_cap_and_says_so(slope: int) -> None:
    curve, _ = searched(lambda position, seed: 0.5 + 0.01 * slope * position, trials=3, extensions=2)
    assert len(curve.tried) == 3 + 2 + 2
    assert curve.chosen is not None
    assert curve.edge(curve.chosen) == slope
    assert "at the edge" in curve.why()


def test_without_extensions_a_cell_has_its_first_rates_and_two_more() -> None:
    for score in (peak(0.3), peak(9), peak(0, cliff=1)):
        curve, rounds = searched(score, trials=3, extensions=0)
        assert rounds[0] == [(-2, 0), (0, 0), (2, 0)]
        assert len(curve.tried) == 5


def test_every_rate_that_broke_is_replaced_by_a_sound_one() -> None:
    curve, _ = searched(peak(0, cliff=1))
    assert len(curve.broken) == 3
    assert len(curve.sound) == curve.budget.useful
    assert "asked for" not in curve.why()


def test_replacements_that_cant_all_be_had_are_said() -> None:
    curve, _ = searched(peak(0, cliff=1), extensions=1)
    assert len(curve.sound) < curve.budget.useful
    assert "7 sound rates were asked for" in curve.why()


def test_a_rate_whose_run_failed_is_neither_replaced_nor_a_cliff() -> None:
    curve, _ = searched(lambda position, seed: "failed" if position == 2 else 0.6 - 0.004 * position**2)
    assert curve.chosen == 0
    assert len(curve.tried) == curve.budget.useful
    assert curve.broken == []


def test_where_every_run_failed_nothing_more_is_tried() -> None:
    curve, rounds = searched(lambda position, seed: "failed")
    assert (len(rounds), curve.chosen) == (1, None)


def test_where_everything_broke_the_grid_grows_to_its_cap_and_no_rate_is_chosen() -> None:
    curve, _ = searched(lambda position, seed: None, trials=3, extensions=4)
    assert (sorted(curve.tried), curve.chosen) == ([-14, -12, -10, -8, -6, -4, -2, 0, 2], None)
    with pytest.raises(ValueError, match="none is sound"):
        curve.why()
    both, _ = searched(lambda position, seed: FLAGGED, trials=3, extensions=2)
    assert sorted(both.tried) == [-6, -4, -2, 0, 2, 4, 6]  # at chance: too high or too low, nobody knows


def test_a_search_that_starts_where_all_break_finds_what_is_sound_below() -> None:
    curve, _ = searched(peak(-9, cliff=-5), trials=3)
    assert curve.chosen == -9


# ---- what is chosen


def test_a_rate_next_to_the_cliff_is_left_for_the_best_whose_neighbors_are_sound() -> None:
    curve, _ = searched(lambda position, seed: None if position > 2 else 0.5 + 0.01 * position)
    assert curve.chosen == 1
    assert "scored higher beside a rate that broke" in curve.why()
    assert not curve.is_beside_broken(1)


def test_between_the_best_and_what_broke_a_rate_is_tried_first() -> None:
    curve, _ = searched(lambda position, seed: None if position > 1 else 0.5 + 0.01 * position)
    assert 1 in curve.tried
    assert curve.chosen == 0  # position 2 broke beside 1, which is sound


def test_a_rate_that_breaks_with_the_second_seed_is_a_cliff_too() -> None:
    curve, _ = searched(lambda position, seed: None if seed and position >= 1 else 0.6 - 0.004 * (position - 1) ** 2)
    assert 1 in curve.broken
    assert curve.chosen is not None
    assert curve.chosen < 0


def test_where_every_sound_rate_is_beside_one_that_broke_the_best_is_chosen_and_said() -> None:
    curve, _ = searched(lambda position, seed: 0.5 if position == 0 else FLAGGED, trials=3)
    assert curve.chosen == 0
    assert "beside a rate that broke, as no other is left" in curve.why()


def test_the_mean_over_both_seeds_decides_between_the_two_best() -> None:
    scores = {(0, 0): 0.60, (0, 1): 0.50, (1, 0): 0.59, (1, 1): 0.58}
    curve, _ = searched(lambda position, seed: scores.get((position, seed), 0.4))
    assert curve.finalists() == [0, 1]
    assert curve.chosen == 1
    assert curve.judged()[0].validation == pytest.approx(0.585)


def test_a_second_seed_that_one_of_the_two_lacks_judges_neither() -> None:
    scores: dict[tuple[int, int], float | str] = {(0, 0): 0.60, (0, 1): 0.50, (1, 0): 0.59, (1, 1): "failed"}
    curve, _ = searched(lambda position, seed: scores.get((position, seed), 0.4))
    assert curve.chosen == 0
    assert curve.judged_seeds() == [0]


def test_of_equal_rates_the_nearest_to_the_prior_is_chosen_and_below_it_first() -> None:
    curve, _ = searched(lambda position, seed: 0.5)
    assert curve.chosen == 0
    assert set(curve.finalists()) == {0, -1}


def test_lower_is_better_mirrors_the_search() -> None:
    upward, rounds = searched(peak(2.3, cliff=6))
    downward, mirrored = searched(
        lambda position, seed: None if position >= 6 else -0.6 + 0.004 * (position - 2.3) ** 2, higher_is_better=False
    )
    assert (upward.chosen, rounds) == (downward.chosen, mirrored)


def test_a_score_that_is_no_finite_number_is_never_chosen() -> None:
    for bad in (math.nan, math.inf, -math.inf):
        curve, _ = searched(lambda position, seed, bad=bad: bad if position == 0 else 0.5)  # type: ignore[misc]
        assert curve.chosen != 0
        assert 0 in curve.broken


def test_on_any_curve_the_chosen_rate_is_inside_sound_and_no_neighbor_of_a_broken_one() -> None:
    """2,000 random curves: a peak, noise, and breakage from some rate on that shifts from seed to seed."""
    draw = random.Random(0)
    for _ in range(2000):
        at, cliff, noise = draw.uniform(-8, 8), draw.uniform(-8, 12), draw.choice([0.0, 0.005, 0.02])
        kinds: dict[tuple[int, int], float | str | None] = {}

        def score(
            position: int, seed: int, at: float = at, cliff: float = cliff, noise: float = noise,
            kinds: dict[tuple[int, int], float | str | None] = kinds,
        ) -> float | str | None:  # fmt: skip
            broke = position > cliff + draw.gauss(0, 0.3)
            score = 0.6 - 0.003 * (position - at) ** 2 + draw.gauss(0, noise)
            return kinds.setdefault((position, seed), draw.choice([None, FLAGGED]) if broke else score)

        curve, _ = searched(score, extensions=30)
        assert curve.chosen is not None
        assert curve.edge(curve.chosen) == 0
        assert not curve.is_beside_broken(curve.chosen)
        assert len(curve.sound) >= curve.budget.useful
        assert len(curve.tried) <= curve.budget.most
        assert curve.judged_seeds() == [0, 1]


# ---- the noise


def test_the_variance_of_a_trial_is_half_the_mean_square_of_its_pairs() -> None:
    generator = np.random.default_rng(0)
    noise = generator.normal(0, 0.02, size=(200, 40, 2))
    found = []
    for cell in noise:
        curve, _ = searched(lambda position, seed, cell=cell: 0.5 - 0.01 * abs(position) + cell[position, seed])  # type: ignore[misc]
        found += pairs_of(curve)
    pooled = pooled_variance(found)
    assert len(found) == 400
    assert pooled is not None
    assert math.sqrt(pooled) == pytest.approx(0.02, rel=0.15)
    assert pooled_variance([0.01] * 20 + [100.0]) == pytest.approx(0.01 / 0.4549)  # one noisy cell doesn't decide
    assert pooled_variance([]) is None


def test_the_items_bound_the_noise_from_below_where_scores_are_shares() -> None:
    def curve(items: int | None) -> Curve:
        trials = {at: (Trial(1.0, "done", 0.5, items=items),) * 2 for at in (-1, 0, 1)}
        return Curve(trials, Budget(3, 0))

    assert trial_sd(curve(2500), 0.0) == pytest.approx(0.01)
    assert trial_sd(curve(2500), None) == pytest.approx(0.01)
    assert trial_sd(curve(None), None) is None
    assert trial_sd(curve(None), 0.0) is None


def test_the_expected_regret_is_that_of_drawing_the_true_scores() -> None:
    scores = {-2: 0.40, -1: 0.50, 0: 0.53, 1: 0.52, 2: 0.41}
    curve = Curve({at: (Trial(1.0, "done", score),) for at, score in scores.items()}, Budget(3, 0))
    generator = np.random.default_rng(0)
    gains = [scores[at] - 0.53 + 0.02 * math.sqrt(2) * generator.normal(size=400_000) for at in (-2, -1, 1, 2)]
    drawn = max(float(np.maximum(gain, 0).mean()) for gain in gains)
    assert expected_regret(curve, 0.02) == pytest.approx(drawn, rel=0.02)
    mirrored = Curve({at: (Trial(1.0, "done", -score),) for at, score in scores.items()}, Budget(3, 0), False)
    assert expected_regret(mirrored, 0.02) == pytest.approx(expected_regret(curve, 0.02) or 0.0)


def test_a_rate_without_rivals_has_no_regret_that_is_known() -> None:
    alone = Curve({0: (Trial(1.0, "done", 0.5),)}, Budget(3, 0))
    assert expected_regret(alone, 0.02) is None
    assert expected_regret(Curve({0: (Trial(1.0, "diverged"),)}, Budget(3, 0)), 0.02) is None
