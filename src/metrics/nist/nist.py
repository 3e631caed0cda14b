"""NIST of a corpus with one or several references an item, in points from 0 (on E2E, 8 to 9). Higher is better.

n-gram matches for n = 1 to 5, each weighed by how rare it is in the references, times a penalty for short output
(Doddington 2002). Follows the E2E NLG challenge's evaluator in its Python version (tuetschek/e2e-metrics,
metrics/pymteval.py, `NISTScore`), in lower case, on the tokens of `bleu`. The evaluator's default, the Perl script, is
the same for items with equally many references; by pymteval's own note it treats a varying number of them otherwise.
nltk's `corpus_nist` is not used: it matches each order against the one best reference, not all references together.
"""

import math
from collections import Counter
from functools import reduce
from operator import or_
from typing import Any

from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from src.metrics.base import OneNumber
from src.metrics.inputs import TEXTS_WITH_REFERENCES, reference_lists

ORDERS = range(1, 6)
BETA = math.log(0.5) / math.log(1.5) ** 2  # the penalty is a half where the output is two thirds as long


def ngrams(words: list[str], order: int) -> Counter[tuple[str, ...]]:
    """How often each n-gram occurs."""
    return Counter(zip(*(words[start:] for start in range(order)), strict=False))


def information(counts: Counter[tuple[str, ...]], ngram: tuple[str, ...]) -> float:
    """Doddington's Eq. 2: bits that the last word adds to those before it, by the references' counts."""
    return math.log2(counts[ngram[:-1]] / counts[ngram])


def penalty(ratio: float) -> float:
    """The factor of Doddington's Eq. 3 for output `ratio` times as long as the references on average."""
    return math.exp(BETA * math.log(min(ratio, 1)) ** 2) if ratio > 0 else 0.0


def reference_counts(references: list[list[list[str]]]) -> Counter[tuple[str, ...]]:
    """How often each n-gram occurs in all references; the empty one as often as there are words."""
    counts: Counter[tuple[str, ...]] = Counter()
    for words in (words for item in references for words in item):
        counts[()] += len(words)
        for order in ORDERS:
            counts.update(ngrams(words, order))
    return counts


def nist(outputs: list[list[str]], references: list[list[list[str]]]) -> float:
    """NIST of tokenized outputs against tokenized references."""
    counts = reference_counts(references)
    total = 0.0
    for order in ORDERS:
        gained, length = 0.0, 0
        for words, item in zip(outputs, references, strict=True):
            counted = ngrams(words, order)
            allowed = reduce(or_, (ngrams(reference, order) for reference in item))  # the largest count in any
            gained += sum(hits * information(counts, ngram) for ngram, hits in (counted & allowed).items())
            length += counted.total()
        total += gained / length if length else 0.0
    mean_length = sum(sum(map(len, item)) / len(item) for item in references)
    return total * penalty(sum(map(len, outputs)) / mean_length)


class Nist(OneNumber):
    """Information gained per n-gram, summed over n = 1 to 5, times the length penalty."""

    name = "nist"
    citation = "Doddington 2002, Automatic evaluation of machine translation quality, HLT"
    unit = "points"
    takes = "predictions: texts; references: a text or a list of texts each"
    features = TEXTS_WITH_REFERENCES

    def _value(self, predictions: Any, references: Any) -> float:
        tokens = Tokenizer13a()
        outputs = [tokens(text.lower()).split() for text in predictions]
        rights = [[tokens(text.lower()).split() for text in item] for item in reference_lists(references)]
        return nist(outputs, rights)
