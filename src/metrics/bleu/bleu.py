"""BLEU-4 of a corpus with one or several references an item, 0 to 1. Higher is better.

Follows the E2E NLG challenge's evaluator (tuetschek/e2e-metrics, measure_scores.py, which runs NIST's
mteval-v13a-sig.pl): tokens as mteval-v13a cuts them, in lower case, n-gram counts clipped by the largest count in any
reference, the brevity penalty from the reference nearest in length (the shorter of two equally near), and halving
smoothing for orders without a match. These are sacrebleu's `tokenize="13a"`, `lowercase=True`, `smooth_method="exp"`.

What differs: corpora without one common word give 0.0 where mteval smooths even the unigrams. The evaluator's Python
version (its option -p, metrics/pymteval.py) replaces smoothing by a tiny constant, which only matters for corpora
without any common 4-gram. Papers often show BLEU times 100, as tables here do.

E2E's other scores: `nist` and `rouge_l_coco`. Its METEOR 1.5 and its CIDEr are not computed: METEOR is a Java program
with a paraphrase table (nltk's is another variant and downloads WordNet), CIDEr comes with that evaluator's Java
tokenizer, and no maintained package has either without Java or downloads.
"""

from itertools import zip_longest
from typing import Any

from sacrebleu.metrics.bleu import BLEU

from src.metrics.base import OneNumber
from src.metrics.inputs import TEXTS_WITH_REFERENCES, reference_lists


class Bleu(OneNumber):
    """Brevity penalty times the geometric mean of the n-gram precisions for n = 1 to 4."""

    name = "bleu"
    citation = "Papineni et al. 2002, https://aclanthology.org/P02-1040"
    takes = "predictions: texts; references: a text or a list of texts each"
    features = TEXTS_WITH_REFERENCES

    def _value(self, predictions: Any, references: Any) -> float:
        bleu = BLEU(lowercase=True, tokenize="13a", smooth_method="exp")
        streams = list(zip_longest(*reference_lists(references)))  # the first references, the second ones, ...
        score: float = bleu.corpus_score(list(predictions), streams).score
        return score / 100
