"""Matthews' correlation of predicted and true classes, -1 to 1, as GLUE reports CoLA. Higher is better.

Follows GLUE's evaluator as Hugging Face carries it (huggingface/evaluate, metrics/glue/glue.py, subset "cola"):
scikit-learn's `matthews_corrcoef`. Where either side is one class throughout it is 0/0: scikit-learn gives 0.0,
and so does this, marked in tables as undefined. Tables show it times 100, as papers do.
"""

import math
from typing import Any

from sklearn.metrics import matthews_corrcoef

from src.metrics.base import OneNumber
from src.metrics.inputs import CLASSES


class MatthewsCorrelation(OneNumber):
    """Pearson's correlation of two class assignments."""

    name = "matthews_correlation"
    citation = "Matthews 1975, https://doi.org/10.1016/0005-2795(75)90109-9"
    takes = "predictions, references: class indices"
    features = CLASSES

    def _value(self, predictions: Any, references: Any) -> float:
        if min(len(set(predictions)), len(set(references))) < 2:
            return math.nan
        return float(matthews_corrcoef(list(references), list(predictions)))
