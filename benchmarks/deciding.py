"""How often the group-sequential design of `src.decide` is right, and with how many seeds, by simulation.

    python -m benchmarks.deciding

Cells of 0/1 scores on 3,000 items are drawn, of which the first two are compared: an item is hard or easy for all, a
little more so for one of them, a seed shifts all cells, and each cell by a standard deviation of 0.44 points more. A
case that is in the result file already isn't simulated again.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from src.analysis.error_model import CellScores, ErrorModel
from src.analysis.power import Question, noise_of
from src.analysis.statistics import LEVEL, Estimate
from src.files import write_json
from src.studies.claims import EQUAL, GREATER, Claim
from src.studies.deciding import after_look
from src.studies.looks import STAGES
from src.studies.verdicts import Design

RESULT = Path(__file__).with_suffix(".json")
REPETITIONS, SEED = 600, 0  # of predictions
CELLS, ITEMS = 12, 3000
SEED_SD, SHARED_SD = 0.0044, 0.003  # of a cell's score over seeds, and of what a seed does to all cells
MARGIN = 0.01
# By name: the true difference, whether equality is asked, and how often it is simulated: false verdicts are rare.
CASES = {
    "no difference": (0.0, False, 2000),
    "1 point": (0.01, False, 600),
    "1.5 points": (0.015, False, 600),
    "equal": (0.0, True, 600),
    "equal, at the margin": (MARGIN, True, 2000),
}


def simulated(difference: float, seeds: int, generator: np.random.Generator, cells: int = CELLS) -> NDArray[np.float32]:
    """Scores (cells, seeds, items), the first cell better by `difference` than the others, which are equally good."""
    hardness, taste = generator.normal(0.3, 1.4, ITEMS), generator.normal(0, 0.35, (cells, ITEMS))
    noise = 0.8 * generator.normal(size=(1, seeds, ITEMS)) + 0.6 * generator.normal(size=(cells, seeds, ITEMS))
    spread = np.sqrt(1.4**2 + 0.35**2 + 1)
    slope = stats.norm.pdf(0.3 / spread) / spread  # of the score over the latent ability
    shifts = SEED_SD * generator.normal(size=(cells, seeds)) + SHARED_SD * generator.normal(size=seeds)
    shifts[0] += difference
    latent = hardness + taste[:, None] + noise + shifts[:, :, None] / slope
    return np.asarray(latent > 0, dtype=np.float32)


def at_looks(scores: NDArray[np.float32]) -> Iterator[tuple[Estimate, Design]]:
    """The difference of the first two cells at each look; the other cells keep three seeds."""
    for stage in STAGES:
        numbers = [stage, stage] + [STAGES[0]] * (len(scores) - 2)
        cells = [
            CellScores(list(range(n)), cell[:n], "simulated", "r") for n, cell in zip(numbers, scores, strict=True)
        ]
        model = ErrorModel(cells)
        test, components = model.test(0, 1), model.components(0, 1)
        assert test is not None
        assert components is not None
        yield test.estimate, Design(components, stage, scores.shape[2], len(scores))


def sequence(claim: Claim, looks: list[tuple[Estimate, Design]]) -> tuple[str, int]:
    """The verdict of the sequential design, and the seeds at which it is reached."""
    for number, (estimate, design) in enumerate(looks):
        if verdict := after_look(claim, estimate, design, number):
            return verdict.text, STAGES[number]
    raise AssertionError("the last look always has a verdict")


def case(difference: float, *, is_equality: bool, repetitions: int) -> dict[str, object]:
    """The shares of the design's verdicts, its mean number of seeds, and what simpler rules call different."""
    generator = np.random.default_rng(SEED)
    claim = Claim("", "", {}, {}, EQUAL if is_equality else GREATER, MARGIN if is_equality else 0.0)
    verdicts, seeds, below = Counter[str](), [], []
    for _ in range(repetitions):
        looks = list(at_looks(simulated(difference, STAGES[-1], generator)))
        text, used = sequence(claim, looks)
        verdicts[text] += 1
        seeds.append(used)
        below.append([estimate.p_value() < LEVEL for estimate, _ in looks])
    different = np.array(below)
    return {
        "repetitions": repetitions,
        "verdicts": {text: round(count / repetitions, 4) for text, count in sorted(verdicts.items())},
        "mean_seeds": round(float(np.mean(seeds)), 2),
        "different_at_5_percent": {
            "with 3 seeds": round(float(different[:, 0].mean()), 4),
            "with 12 seeds": round(float(different[:, -1].mean()), 4),
            "at any look": round(float(different.any(axis=1).mean()), 4),
        },
    }


def detectable(seeds: int, repetitions: int, generator: np.random.Generator) -> float:
    """The smallest difference that is predicted to be found with a power of 80 %, in the median over simulations."""
    predicted = []
    for _ in range(repetitions):
        components = _model(simulated(0.0, seeds, generator)).components(0, 1)
        assert components is not None
        predicted.append(Question().smallest(noise_of(components, seeds, ITEMS, CELLS)))
    return float(np.median(predicted))


def found(difference: float, seeds: int, repetitions: int, generator: np.random.Generator) -> float:
    """The share of simulations in which a difference is significant."""
    tests = [_model(simulated(difference, seeds, generator)).test(0, 1) for _ in range(repetitions)]
    return float(np.mean([test is not None and test.p_value < LEVEL for test in tests]))


def _model(scores: NDArray[np.float32]) -> ErrorModel:
    return ErrorModel([CellScores(list(range(scores.shape[1])), cell, "simulated", "r") for cell in scores])


def prediction(seeds: int, repetitions: int) -> dict[str, object]:
    """The predicted smallest difference, and how often it, 15 % less and 15 % more are found."""
    generator = np.random.default_rng(SEED)
    predicted = detectable(seeds, repetitions // 5, generator)
    powers = {f"{factor:g}": found(factor * predicted, seeds, repetitions, generator) for factor in (0.85, 1.0, 1.15)}
    return {"detectable_points": round(100 * predicted, 3), "found_at": powers}


def main() -> None:
    """Simulate the cases that aren't in the result file yet, write each as it is done, and print all."""
    done = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name, (difference, is_equality, repetitions) in CASES.items():
        if name not in done:
            done[name] = case(difference, is_equality=is_equality, repetitions=repetitions)
            write_json(RESULT, done)
        print(f"{name}: {done[name]}", flush=True)
    for seeds in (3, 5):
        name = f"prediction with {seeds} seeds"
        if name not in done:
            done[name] = prediction(seeds, REPETITIONS)
            write_json(RESULT, done)
        print(f"{name}: {done[name]}", flush=True)


if __name__ == "__main__":
    main()
