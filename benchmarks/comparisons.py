"""How often the tests of this project are wrong, and how much they see, by simulation under unequal noise.

    python -m benchmarks.comparisons                    # all scenarios, into comparisons.json; goes on where it stopped
    python -m benchmarks.comparisons repetitions=100    # fewer of each

Rows are methods, scored right or wrong on the same items with the same seeds. An item has a difficulty, a method and an
item something together, a seed something that it does to all methods alike, and a run a quality of its own, whose
standard deviation over seeds (in points) is the row's noise. Nothing here is taken from the code that is tested.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from src.analysis.error_model import CellScores, ErrorModel
from src.analysis.statistics import best_set
from src.files import write_json

RESULT = Path(__file__).with_suffix(".json")
ITEMS, ROWS, SEED = 3000, 40, 0
QUIET = 0.44  # points, the median of the committed studies' rows
SPREAD_OF_METHODS, SHARED_NOISE, OWN_NOISE, SEED_EFFECT = 0.35, 0.8, 0.6, 0.3
Table = NDArray[np.float32]


def scores(
    generator: np.random.Generator,
    noise: Sequence[float],
    seeds: int,
    *,
    gains: Sequence[float] = (),
    twins: bool = False,
    items: int = ITEMS,
) -> Table:
    """Simulated scores, (rows, seeds, items).

    Args:
        noise: the standard deviation over seeds of each row, in points.
        gains: how much better the first rows are, in points.
        twins: the second row is nearly the first one, as two versions of a method with one start are.
    """
    rows = len(noise)
    difficulty = generator.normal(0.3, 1.4, items)
    tastes = generator.normal(0.0, SPREAD_OF_METHODS, (rows, items))
    # What a small shift of all items is in points: the slope of the mean of the normal distribution function.
    spread = np.sqrt(1.4**2 + SPREAD_OF_METHODS**2 + SHARED_NOISE**2 + OWN_NOISE**2)
    points = 100 / (spread * np.sqrt(2 * np.pi)) * np.exp(-((0.3 / spread) ** 2) / 2)
    quality = generator.normal(0.0, 1.0, (rows, seeds)) * np.asarray(noise)[:, None] / points
    quality += generator.normal(0.0, SEED_EFFECT / points, seeds)
    quality[: len(gains)] += np.asarray(gains).reshape(-1, 1) / points
    answers = SHARED_NOISE * generator.normal(size=(1, seeds, items)) + OWN_NOISE * generator.normal(
        size=(rows, seeds, items)
    )
    if twins:
        tastes[1], quality[1] = tastes[0], quality[0] - (gains[0] / points if gains else 0.0)
        answers[1] = answers[0] + generator.normal(0.0, 0.05, (seeds, items))
    return np.asarray(difficulty + tastes[:, None] + quality[:, :, None] + answers > 0, dtype=np.float32)


def model_of(table: Table) -> ErrorModel:
    """The error model of simulated rows."""
    return ErrorModel([CellScores(list(range(len(row))), row, "simulated") for row in table])


def rejections(
    repetitions: int,
    seeds: int,
    noise: Sequence[float],
    *,
    gain: float = 0.0,
    twins: bool = False,
    seed: int = SEED,
) -> float:
    """The percentage of repetitions in which the first two rows are called different at 5 %."""
    generator, count = np.random.default_rng([seed, seeds, len(noise)]), 0
    for _ in range(repetitions):
        test = model_of(scores(generator, noise, seeds, gains=(gain,), twins=twins)).test(0, 1)
        assert test is not None
        count += test.p_value < 0.05
    return 100 * count / repetitions


def rejections_over_items(repetitions: int, seeds: int) -> float:
    """The same for two equal rows by the usual test over items alone, which takes the trained models as fixed."""
    generator, count = np.random.default_rng([SEED, seeds]), 0
    for _ in range(repetitions):
        first, second = scores(generator, [QUIET] * 2, seeds)
        count += stats.ttest_1samp((first - second).mean(axis=0), 0.0).pvalue < 0.05
    return 100 * count / repetitions


def left_out(repetitions: int, rows: int, seeds: int = 3) -> float:
    """The percentage of repetitions in which one of equal rows is said to be worse than the best."""
    generator, count = np.random.default_rng([SEED, rows]), 0
    for _ in range(repetitions):
        table = scores(generator, [QUIET] * rows, seeds)
        model = model_of(table)

        count += not all(best_set(table.mean(axis=(1, 2)).tolist(), model.difference))
    return 100 * count / repetitions


def coverage_of_means(repetitions: int, seeds: int) -> float:
    """The percentage of 95 % intervals over runs of which only the means are known that contain the true mean."""
    generator, count = np.random.default_rng([SEED, seeds]), 0
    for _ in range(repetitions):
        means = generator.normal(0.7, 0.01, (seeds, 1)).astype(np.float32)
        estimate = ErrorModel([CellScores(list(range(seeds)), means, "simulated")]).mean(0)
        assert estimate is not None
        low, high = estimate.interval()
        count += low <= 0.7 <= high
    return 100 * count / repetitions


def coverage(repetitions: int, seeds: int, rows: int) -> float:
    """The percentage of a row's 95 % intervals that contain its true mean, over new seeds and items."""
    generator = np.random.default_rng([SEED, seeds, rows])
    truth = float(np.mean([scores(generator, [QUIET], 3, items=50_000).mean() for _ in range(60)]))
    count = 0
    for _ in range(repetitions):
        estimate = model_of(scores(generator, [QUIET] * rows, seeds)).mean(0)
        assert estimate is not None
        low, high = estimate.interval()
        count += low <= truth <= high
    return 100 * count / repetitions


def _with(row: int, noise: float) -> list[float]:
    """The rows' noise, with one that has another."""
    return [noise if index == row else QUIET for index in range(ROWS)]


def scenarios() -> dict[str, Callable[[int], float]]:
    """What is simulated, by name; each takes the number of repetitions and gives a percentage."""
    by_seeds: dict[str, Callable[[int], float]] = {}
    pools = {
        "false positives, equal rows": _with(0, QUIET),
        "false positives, quiet pair beside a 10-point row": _with(5, 10.0),
        "false positives, a 1.3-point row against a quiet one": _with(0, 1.3),
        "false positives, a 10-point row against a quiet one": _with(0, 10.0),
        "false positives, noise from 0.2 to 0.9 points": np.geomspace(0.2, 0.9, ROWS)[::-1].tolist(),
    }
    for name, noise in pools.items():
        for seeds in (3, 5, 10):
            by_seeds[f"{name}, {seeds} seeds"] = lambda n, noise=noise, seeds=seeds: rejections(n, seeds, noise)  # type: ignore[misc]
    return by_seeds | {
        **{f"false positives, over items alone, {seeds} seeds": lambda n, seeds=seeds: rejections_over_items(n, seeds)  # type: ignore[misc]
           for seeds in (3, 10)},
        "power at 1.5 points, equal rows, 3 seeds": lambda n: rejections(n, 3, _with(0, QUIET), gain=1.5),
        "power at 1.5 points, quiet pair beside a 10-point row, 3 seeds": lambda n: rejections(
            n, 3, _with(5, 10.0), gain=1.5
        ),
        "false positives, nearly identical pair, 3 seeds": lambda n: rejections(n, 3, _with(0, QUIET), twins=True),
        "power at 0.5 points, nearly identical pair, 3 seeds": lambda n: rejections(
            n, 3, _with(0, QUIET), gain=0.5, twins=True
        ),
        **{f"some of {rows} equal rows out of bold, 3 seeds": lambda n, rows=rows: left_out(n, rows)  # type: ignore[misc]
           for rows in (10, 35, 100)},
        **{f"coverage of means without items, {seeds} seeds": lambda n, seeds=seeds: coverage_of_means(5 * n, seeds)  # type: ignore[misc]
           for seeds in (2, 3, 5)},
        **{f"coverage of a row's interval, {rows} rows, {seeds} seeds":
           lambda n, rows=rows, seeds=seeds: coverage(n, seeds, rows)  # type: ignore[misc]
           for rows in (1, ROWS) for seeds in (3, 5)},
    }  # fmt: skip


def main() -> None:
    """Simulate what isn't in the file yet, and print all of it."""
    options = dict(argument.split("=", 1) for argument in sys.argv[1:])
    repetitions = int(options.get("repetitions", 200))
    results: dict[str, dict[str, float]] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name, simulate in scenarios().items():
        if results.get(name, {}).get("repetitions", 0) < repetitions:
            results[name] = {"repetitions": repetitions, "percent": round(simulate(repetitions), 2)}
            write_json(RESULT, results)
        print(f"{name:<72} {results[name]['percent']:6.2f} %", flush=True)


if __name__ == "__main__":
    main()
