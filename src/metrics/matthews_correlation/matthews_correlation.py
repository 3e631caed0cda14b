"""Matthews' correlation of predicted and true classes, -1 to 1, as GLUE reports CoLA. Higher is better.

Follows GLUE's evaluator as Hugging Face carries it (huggingface/evaluate, metrics/glue/glue.py, subset "cola"):
scikit-learn's `matthews_corrcoef`. It is 0.0 where either side is one class throughout, which is what a model that
learned nothing gives. Tables show it times 100, as papers do.
"""

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
        return float(matthews_corrcoef(list(references), list(predictions)))
