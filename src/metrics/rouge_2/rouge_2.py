"""ROUGE-2: F1 of the word pairs that prediction and reference share, the mean over items, 0 to 1. Higher is better.

Follows the usual evaluation of SAMSum (huggingface/transformers, examples/pytorch/summarization/run_summarization.py):
google-research's rouge-score with Porter stemming, the F1 of `rouge2`. With several references an item's best counts,
as in that library's `score_multi`. What differs: the plain mean over items, not the median of a bootstrap around it.
"""

from typing import Any

import evaluate
from rouge_score.rouge_scorer import RougeScorer

from src.metrics.inputs import TEXTS_WITH_REFERENCES, reference_lists


class Rouge2(evaluate.Metric):
    """Mean over items of the best F1 over an item's references."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__ or "",
            citation="https://aclanthology.org/W04-1013",
            inputs_description="predictions: texts; references: a text or a list of texts each",
            features=TEXTS_WITH_REFERENCES,
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        scorer = RougeScorer(["rouge2"], use_stemmer=True)
        pairs = zip(predictions, reference_lists(references), strict=True)
        values = [scorer.score_multi(right, given)["rouge2"].fmeasure for given, right in pairs]
        return {"rouge_2": sum(values) / len(values)}
