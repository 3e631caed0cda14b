"""What the ROUGE metrics share: google-research's rouge-score over several references, in any script."""

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from nltk.stem.porter import PorterStemmer
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import Tokenizer

from src.metrics.inputs import reference_lists

STEMMED = 3  # characters that a word may have without being stemmed


class WordTokenizer(Tokenizer):  # type: ignore[misc]  # rouge-score has no types
    """Cuts texts into words as rouge-score does, which drops all letters but a to z, and keeps those of other scripts.

    On ASCII texts the words are rouge-score's own. A script without spaces gives words as long as its clauses.
    """

    def __init__(self) -> None:
        self.stemmer = PorterStemmer()

    def tokenize(self, text: str) -> list[str]:
        """A text's words in lower case, stemmed by Porter where they are longer than three letters."""
        words = re.findall(r"[^\W_]+", unicodedata.normalize("NFC", text).lower())
        return [self.stemmer.stem(word) if len(word) > STEMMED else word for word in words]


def best_f1(kind: str, predictions: Iterable[str], references: Iterable[Any]) -> list[float]:
    """Each item's best F1 over its references, words stemmed; `kind` is as in "rouge1"."""
    scorer = RougeScorer([kind], tokenizer=WordTokenizer())
    pairs = zip(predictions, reference_lists(references), strict=True)
    return [scorer.score_multi(right, answer)[kind].fmeasure for answer, right in pairs]
