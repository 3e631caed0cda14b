"""F1 of class 1: the harmonic mean of its precision and recall, 0 to 1. Higher is better.

Reported for MRPC and QQP. Follows GLUE's evaluator as Hugging Face carries it (huggingface/evaluate,
metrics/glue/glue.py, `acc_and_f1`): scikit-learn's `f1_score` with its defaults. Where neither side has a 1, F1 is 0/0:
scikit-learn warns and gives 0.0, this gives 0.0, marked in tables as undefined.
"""

import math
from typing import Any

from sklearn.metrics import f1_score

from src.metrics.base import OneNumber
from src.metrics.inputs import CLASSES


class F1(OneNumber):
    """2 · hits / (predicted ones + true ones), of the classes 0 and 1."""

    name = "f1"
    citation = "van Rijsbergen 1979, Information Retrieval, chapter 7"
    takes = "predictions, references: classes 0 and 1"
    features = CLASSES

    def _value(self, predictions: Any, references: Any) -> float:
        return float(f1_score(list(references), list(predictions), zero_division=math.nan))
