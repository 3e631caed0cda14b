"""The statistics hold against scipy and definitions; the paired test calls equals different one time in twenty."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from src.analysis.statistics import (
    ITEMS,
    SEEDS,
    SEEDS_AND_ITEMS,
    SeedVariance,
    bootstrap_intervals,
    holm,
    paired_test,
    pareto_front,
    pooled_seed_variance,
    seeds_and_items_test,
    sign_flip_test,
)

REPETITIONS = 200


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def experiment(
    seeds: int, items: int, rng: np.random.Generator, *, advantage: float = 0.0, seed_effect: float = 0.35
) -> tuple[np.ndarray, np.ndarray]:
    """0/1 scores of two methods on the same seeds and items: items differ in difficulty, each run in its quality."""
    difficulty = rng.normal(0.0, 1.5, size=items)
    shared = rng.normal(0.0, seed_effect, size=(seeds, 1))  # the same batches: what both runs of a seed have in common
    methods = []
    for gain in (advantage, 0.0):
        quality = shared + rng.normal(gain, seed_effect, size=(seeds, 1))
        methods.append((quality + rng.normal(size=(seeds, items)) > difficulty).astype(float))
    return methods[0], methods[1]


def rejections(seeds: int, items: int, *, advantage: float = 0.0, items_alone: bool = False) -> float:
    """The share of repeated comparisons that call the two methods different at the 5 % level."""
    rng, count = generator(seeds), 0
    for _ in range(REPETITIONS):
        first, second = experiment(seeds, items, rng, advantage=advantage)
        if items_alone:
            p_value = stats.ttest_1samp((first - second).mean(axis=0), 0).pvalue
        else:
            test = paired_test(first, second, rng)
            assert test is not None
            p_value = test.p_value
        count += p_value < 0.05
    return count / REPETITIONS


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_two_methods_that_are_the_same_are_called_different_in_about_5_percent(seeds: int) -> None:
    low, high = stats.binom.ppf([0.005, 0.995], REPETITIONS, 0.05) / REPETITIONS
    assert low <= rejections(seeds, 401) <= high


def test_a_test_over_items_alone_would_call_equal_methods_different_far_too_often() -> None:
    assert rejections(3, 401, items_alone=True) > 0.3


def test_a_true_difference_is_called_one() -> None:
    assert rejections(5, 401, advantage=1.2) > 0.8


def test_with_items_that_dont_matter_the_test_is_the_t_test_over_seeds() -> None:
    by_seed = np.array([0.1, 0.3, -0.05, 0.2])
    test = seeds_and_items_test(np.repeat(by_seed[:, None], 7, axis=1))
    expected = stats.ttest_1samp(by_seed, 0.0)
    assert test.p_value == pytest.approx(expected.pvalue)
    assert (test.low, test.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_the_test_is_hillis_formula_written_with_anova_sums() -> None:
    table = generator(5).normal(size=(3, 11))
    grand = table.mean()
    total = ((table - grand) ** 2).sum()
    seeds, items = 11 * ((table.mean(1) - grand) ** 2).sum(), 3 * ((table.mean(0) - grand) ** 2).sum()
    ms_seeds, ms_items, ms_rest = seeds / 2, items / 10, (total - seeds - items) / 20
    ms_seeds = max(ms_seeds, ms_rest)
    variance = ms_seeds + max(ms_items - ms_rest, 0)
    df = variance**2 / (ms_seeds**2 / 2)
    expected = 2 * stats.t.sf(abs(grand) / np.sqrt(variance / 33), df)
    assert seeds_and_items_test(table).p_value == pytest.approx(expected)


def test_the_seed_variance_of_two_methods_is_theirs_and_of_several_that_of_the_analysis_of_variance() -> None:
    first, second, third = generator(8).normal(size=(3, 4, 9))
    means = np.stack([scores.mean(axis=1) for scores in (first, second, third)])
    test = paired_test(first, second, generator(), pooled_seed_variance(means[:2]))
    assert test == paired_test(first, second, generator())
    blocks = means - means.mean(axis=0)  # friedman-like: seeds taken out, then one-way analysis of variance
    within = sum(((row - row.mean()) ** 2).sum() for row in blocks)
    assert pooled_seed_variance(means).variance == pytest.approx(within / 6)
    assert pooled_seed_variance(means).df == 6


def test_three_seeds_that_happen_to_agree_are_no_proof() -> None:
    """Three equal differences over seeds, by chance, would else give p below 1e-30."""
    differences = generator(2).choice([-1.0, 0.0, 1.0], p=[0.1, 0.79, 0.11], size=(3, 3000))
    differences -= differences.mean(axis=1, keepdims=True) - 0.01
    assert seeds_and_items_test(differences).p_value > 0.02


@pytest.mark.parametrize("pooled", [False, True])
def test_very_small_p_values_are_as_rare_as_they_say(pooled: bool) -> None:
    """Of 1,000 comparisons of equal methods about one has p below 0.001: what Holm's correction rests on."""
    rng, count = generator(4), 0
    for _ in range(250):
        first, second = experiment(3, 201, rng)
        third, fourth = experiment(3, 201, rng)
        seed_variance = (
            pooled_seed_variance(np.stack([scores.mean(axis=1) for scores in (first, second, third, fourth)]))
            if pooled
            else None
        )
        for pair in ((first, second), (third, fourth)):
            test = paired_test(*pair, rng, seed_variance)
            assert test is not None
            count += test.p_value < 0.001
    assert count <= stats.binom.ppf(0.995, 500, 0.001)


def test_identical_methods_have_p_1_and_a_constant_difference_p_0() -> None:
    scores = generator().integers(0, 2, size=(3, 50)).astype(float)
    same, constant = paired_test(scores, scores, generator()), paired_test(scores + 0.5, scores, generator())
    assert same is not None
    assert constant is not None
    assert (same.difference, same.p_value) == (0.0, 1.0)
    assert (constant.difference, constant.p_value) == (0.5, 0.0)


def test_the_permutation_test_agrees_with_scipys_and_with_exact_mcnemar() -> None:
    first, second = (scores[0] for scores in experiment(1, 301, generator(3), advantage=0.4))
    differences = first - second
    ours = sign_flip_test(differences, generator(1))
    scipys = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=9999, rng=generator(2)
    ).pvalue
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    mcnemar = stats.binomtest(wins, wins + losses, 0.5).pvalue
    assert ours == pytest.approx(scipys, abs=0.02)
    assert ours == pytest.approx(mcnemar, abs=0.02)
    assert sign_flip_test(np.zeros(9), generator()) == 1.0


def test_what_a_test_speaks_of_follows_from_what_there_is() -> None:
    both, one_seed, one_item = (generator().normal(size=shape) for shape in ((3, 9), (1, 9), (3, 1)))
    tests = [
        paired_test(scores, scores + generator(1).normal(size=scores.shape), generator(2))
        for scores in (both, one_seed, one_item)
    ]
    assert [test.over if test else None for test in tests] == [SEEDS_AND_ITEMS, ITEMS, SEEDS]
    assert paired_test(one_seed[:, :1], one_seed[:, 1:2], generator()) is None


def test_without_items_the_test_is_scipys_paired_t_test() -> None:
    first, second = generator().normal(size=(2, 5, 1))
    test = paired_test(first, second, generator())
    assert test is not None
    assert test.p_value == pytest.approx(stats.ttest_rel(first[:, 0], second[:, 0]).pvalue)


@pytest.mark.parametrize(("seeds", "items"), [(2, 16), (3, 16), (5, 50)])
def test_coarse_scores_without_items_are_never_certainly_different(seeds: int, items: int) -> None:
    """Runs of equal methods, right on 70 % of few items, often differ by the same at every seed."""
    rng = generator(6)
    scores = (rng.binomial(items, 0.7, size=(1000, 2, seeds, 1)) / items).astype(np.float32)
    p_values = [test.p_value for first, second in scores if (test := paired_test(first, second, rng)) is not None]
    assert min(p_values) > 1e-6
    assert sum(p < 0.05 for p in p_values) <= stats.binom.ppf(0.999, 1000, 0.05)


def test_equal_differences_without_items_are_no_test_and_none_at_all_is_p_1() -> None:
    first = np.array([[0.9], [0.8], [0.7]], dtype=np.float32)  # rounded: the differences are equal but for that
    assert paired_test(first, first - np.float32(0.1), generator()) is None
    assert paired_test(first, first - np.float32(0.1), generator(), SeedVariance(0.0, 4)) is None
    same = paired_test(first, first, generator())
    assert same is not None
    assert same.p_value == 1.0


def test_unequal_shapes_and_nans_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 4\) and \(3, 5\)"):
        paired_test(np.zeros((3, 4)), np.zeros((3, 5)), generator())
    with pytest.raises(ValueError, match="NaN"):
        paired_test(np.full((2, 2), np.nan), np.zeros((2, 2)), generator())
    with pytest.raises(ValueError, match="empty"):
        bootstrap_intervals([np.zeros((0, 4))], generator())


def test_over_items_alone_the_interval_is_scipys_bootstrap() -> None:
    scores = (generator().random(size=(1, 701)) < 0.7).astype(float)
    ((low, high),) = bootstrap_intervals([scores], generator(1), replicates=4000)
    expected = stats.bootstrap((scores[0],), np.mean, method="percentile", n_resamples=4000, rng=generator(2))
    assert (low, high) == pytest.approx(tuple(expected.confidence_interval), abs=0.004)


def test_over_seeds_alone_the_interval_is_scipys_bootstrap() -> None:
    scores = generator().normal(size=(6, 1))
    ((low, high),) = bootstrap_intervals([scores], generator(1), replicates=4000)
    expected = stats.bootstrap((scores[:, 0],), np.mean, method="percentile", n_resamples=4000, rng=generator(2))
    assert (low, high) == pytest.approx(tuple(expected.confidence_interval), abs=0.06)


def test_an_interval_over_seeds_and_items_is_wider_than_over_either() -> None:
    rng = generator(4)
    scores, _ = experiment(8, 151, rng, seed_effect=0.5)
    widths = [
        high - low
        for low, high in bootstrap_intervals(
            [scores, scores.mean(1, keepdims=True), scores.mean(0, keepdims=True)], rng
        )
    ]
    assert widths[0] > max(widths[1:])


def test_holm_multiplies_the_smallest_by_the_number_of_tests_and_keeps_the_order() -> None:
    p_values = [0.04, 0.01, 0.03, 0.005]
    adjusted = holm(p_values)
    assert adjusted == pytest.approx([0.06, 0.03, 0.06, 0.02])
    ordered = [p for _, p in sorted(zip(p_values, adjusted, strict=True))]
    assert all(before <= after for before, after in pairwise(ordered))
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_point_is_off_the_pareto_front_only_if_one_that_costs_no_more_is_significantly_better() -> None:
    costs, scores = [10, 20, 30, 40, 40], [0.5, 0.3, 0.45, 0.9, 0.8]
    told_apart = {(0, 1), (3, 0), (3, 2), (3, 4)}
    asked = []

    def p_value(better: int, worse: int) -> float:
        asked.append((better, worse))
        return 0.001 if (better, worse) in told_apart else 0.5

    assert pareto_front(costs, scores, p_value) == [True, False, True, True, False]
    assert asked == [(0, 1), (0, 2), (3, 4)]  # nothing dearer, and only the best that costs no more


def test_the_pareto_front_minds_how_many_points_were_tested() -> None:
    assert pareto_front([1, 1, 1], [3, 2, 1], lambda better, worse: 0.03) == [True, True, True]
    assert pareto_front([1, 1], [2, 1], lambda better, worse: 0.03) == [True, False]
