"""ROUGE-L: F1 of the longest common subsequence of words, the mean over items, 0 to 1. Higher is better.

Follows the usual evaluation of SAMSum (huggingface/transformers, examples/pytorch/summarization/run_summarization.py):
google-research's rouge-score with Porter stemming, the F1 of `rougeL`. With several references an item's best counts,
as in that library's `score_multi`. What differs: the plain mean over items, not the median of a bootstrap around it,
and whole texts (rougeL), not line by line (rougeLsum).
"""

from collections.abc import Iterable
from typing import Any

from src.metrics.base import MeanOfItems
from src.metrics.inputs import TEXTS_WITH_REFERENCES
from src.metrics.rouge import best_f1


class RougeL(MeanOfItems):
    """Mean over items of the best F1 over an item's references."""

    name = "rouge_l"
    citation = "Lin 2004, https://aclanthology.org/W04-1013"
    takes = "predictions: texts; references: a text or a list of texts each"
    features = TEXTS_WITH_REFERENCES

    def _items(self, predictions: Any, references: Any) -> Iterable[float]:
        return best_f1("rougeL", predictions, references)
