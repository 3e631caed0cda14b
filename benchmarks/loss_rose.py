"""How often the flag "loss rose" is set by chance, and how often it finds a rise, by simulation.

    python -m benchmarks.loss_rose

A training's logged losses are exp(trend + noise). Noise is independent, heavy-tailed (Student's t of 3 degrees of
freedom) or has an autocorrelation of 0.5; the trend is flat, falls or rises by a factor of e from start to end.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from src.files import write_json
from src.running.flags import loss_rose

RESULT = Path(__file__).with_suffix(".json")
TRAININGS, SEED = 2000, 0
POINTS = (4, 10, 20, 50, 200)
NOISE = 0.3  # standard deviation of a loss's logarithm
TRENDS = {"flat": 0.0, "falls": -1.0, "rises": 1.0}


def noise(kind: str, points: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Noise of so many points with the standard deviation `NOISE`."""
    if kind == "heavy-tailed":
        tails: NDArray[np.float64] = generator.standard_t(3, points) / np.sqrt(3.0)
        return NOISE * tails
    drawn: NDArray[np.float64] = generator.normal(0.0, 1.0, points)
    if kind == "autocorrelated":
        for place in range(1, points):
            drawn[place] = 0.5 * drawn[place - 1] + np.sqrt(0.75) * drawn[place]
    return NOISE * drawn


def share(kind: str, trend: float, points: int) -> float:
    """The share of simulated trainings that are flagged."""
    generator = np.random.default_rng(SEED)
    slope = np.linspace(0.0, trend, points)
    flagged = [loss_rose(np.exp(slope + noise(kind, points, generator)).tolist()) is not None for _ in range(TRAININGS)]
    return round(float(np.mean(flagged)), 4)


def main() -> None:
    """Write the shares by noise, trend and number of logged losses, and print them."""
    shares = {
        kind: {name: {str(points): share(kind, trend, points) for points in POINTS} for name, trend in TRENDS.items()}
        for kind in ("independent", "heavy-tailed", "autocorrelated")
    }
    write_json(RESULT, {"trainings": TRAININGS, "noise": NOISE, "flagged": shares})
    for kind, trends in shares.items():
        for name, by_points in trends.items():
            print(f"{kind:<15} {name:<6} {'  '.join(f'{points}: {value:6.1%}' for points, value in by_points.items())}")


if __name__ == "__main__":
    main()
