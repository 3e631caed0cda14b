"""What the correlation metrics share: a value also where the correlation is undefined."""

from collections.abc import Callable
from typing import Any

import numpy as np


def defined(correlation: Callable[..., Any], predictions: Any, references: Any) -> float:
    """One of scipy's correlations, 0.0 where either side is constant or not finite, for which scipy gives NaN."""
    sides = np.array([list(predictions), list(references)])
    if not np.isfinite(sides).all() or not np.ptp(sides, axis=1).all():
        return 0.0
    return float(correlation(*sides).statistic)
