"""What the correlation metrics share: when a correlation is undefined."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np


def defined(correlation: Callable[..., Any], predictions: Any, references: Any) -> float:
    """One of scipy's correlations, NaN where either side is constant, of which scipy would warn.

    Raises:
        ValueError: a prediction or a reference is infinite or NaN.
    """
    sides = np.array([list(predictions), list(references)])
    if not np.isfinite(sides).all():
        raise ValueError("A correlation takes finite numbers, and some of these are infinite or NaN.")
    return float(correlation(*sides).statistic) if np.ptp(sides, axis=1).all() else math.nan
