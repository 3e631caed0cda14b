"""What the ROUGE metrics share: google-research's rouge-score over several references."""

from collections.abc import Iterable
from typing import Any

from rouge_score.rouge_scorer import RougeScorer

from src.metrics.inputs import reference_lists


def best_f1(kind: str, predictions: Iterable[str], references: Iterable[Any]) -> list[float]:
    """Each item's best F1 over its references, words stemmed; `kind` is as in "rouge1"."""
    scorer = RougeScorer([kind], use_stemmer=True)
    pairs = zip(predictions, reference_lists(references), strict=True)
    return [scorer.score_multi(right, text)[kind].fmeasure for text, right in pairs]
