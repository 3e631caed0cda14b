r"""Share of texts whose final answer equals the reference's as algebra, by Math-Verify. Higher is better.

Two answers, read as `math_equivalence` reads them, are equal if their texts are, white space aside, or if
huggingface/Math-Verify takes them for equal: 1/2, 0.5 and \frac12 are, x+1 and 1+x, \{1,2\} and \{2,1\}. Percent signs
are dropped.

It is more lenient than MATH's own check, and not only where it should be: for Math-Verify 2516_8 is 2516_9, .0000672 is
.0000673, "10, 4, -2" is "4, 10, -2", A is a and 15\text{cm}^2 is 15\text{cm}^3, while "35 dollars" is a product of
variables and not 35. Scores aren't comparable with those of papers; for these take `math_equivalence` or `metamath`.

Nothing hangs: Math-Verify stops reading or comparing after three seconds, and an answer of more than 400 characters is
compared as text only. What takes longer or can't be read is wrong. The time limits are signals, which only a process's
main thread gets: elsewhere Math-Verify refuses to run, with a ValueError.
"""

import re
from collections.abc import Iterable
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify

from src.metrics.base import MeanOfItems
from src.metrics.boxed import marked_answer
from src.metrics.inputs import TEXTS

LIMIT_SECONDS = 3
LIMIT_CHARACTERS = 400
DROPPED = re.compile(r"(?<!\\)\$|\\?%")  # a sum of money's dollar sign is \$


def equal_as_algebra(answer: str, right: str) -> bool:
    """Whether two answers are equal, as text or as algebra."""
    answer, right = (DROPPED.sub("", text).strip().rstrip(".").strip() for text in (answer, right))
    if "".join(answer.split()) == "".join(right.split()):
        return True
    if len(answer) > LIMIT_CHARACTERS or not re.search(r"\w", answer):  # "((((" would take all the time allowed
        return False
    latex = [LatexExtractionConfig()]  # alone: else a number is picked out of prose
    read = [parse(f"${text}$", latex, parsing_timeout=LIMIT_SECONDS) for text in (right, answer)]
    return bool(verify(*read, timeout_seconds=LIMIT_SECONDS))


class MathVerify(MeanOfItems):
    """Share of final answers that are equal as algebra, 0 to 1."""

    name = "math_verify"
    citation = "Kydlíček 2025, https://github.com/huggingface/Math-Verify"
    takes = "predictions: texts; references: solutions or answers, in LaTeX"
    features = TEXTS

    def _items(self, predictions: Any, references: Any) -> Iterable[float]:
        pairs = zip(predictions, references, strict=True)
        return (equal_as_algebra(marked_answer(answer), marked_answer(right)) for answer, right in pairs)
