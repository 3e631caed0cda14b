"""Matthews' correlation of predicted and true classes, -1 to 1, as GLUE reports CoLA. Higher is better.

Follows GLUE's evaluator as Hugging Face carries it (huggingface/evaluate, metrics/glue/glue.py, subset "cola"):
scikit-learn's `matthews_corrcoef`. It is 0.0 where either side is one class throughout, which is what a model that
learnt nothing gives. Tables show it times 100, as papers do.
"""

from typing import Any

import evaluate
from sklearn.metrics import matthews_corrcoef

from src.metrics.inputs import CLASSES


class MatthewsCorrelation(evaluate.Metric):
    """Pearson's correlation of two class assignments."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__ or "",
            citation="",
            inputs_description="predictions, references: class indices",
            features=CLASSES,
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"matthews_correlation": float(matthews_corrcoef(list(references), list(predictions)))}
