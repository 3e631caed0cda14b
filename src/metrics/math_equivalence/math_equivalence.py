r"""Share of texts whose final answer equals the reference's as mathematics, for MATH. Higher is better.

The final answer is the content of the last `\boxed{...}` (hendrycks/math, modeling/dataset/util.py,
`last_boxed_only_string`), else what follows the last "The answer is" up to the line's end (meta-math/MetaMath,
eval_math.py), else the whole text, which suits references that are bare answers. Two answers are equal if their texts
are, white space aside, or if huggingface/Math-Verify takes them for equal: 1/2, 0.5 and \frac12 are. Percent signs are
dropped, as by hendrycks/math.

What differs: hendrycks/math and MetaMath compare normalised texts (`is_equiv`), which is stricter: 1/4 isn't 0.25.
Math-Verify by itself looks for an answer anywhere in a text, which is more lenient: here prose without a mark is wrong.

Nothing hangs: Math-Verify stops reading or comparing after three seconds, and an answer of more than 400 characters is
compared as text only. What takes longer or can't be read is wrong. The time limits are signals, which only a process's
main thread gets: elsewhere Math-Verify refuses to run, with a ValueError.
"""

import re
from collections.abc import Iterable
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify

from src.metrics.base import MeanOfItems
from src.metrics.boxed import last_boxed
from src.metrics.inputs import TEXTS

LIMIT_SECONDS = 3
LIMIT_CHARACTERS = 400
DROPPED = re.compile(r"(?<!\\)\$|\\?%")  # a sum of money's dollar sign is \$
MARK = re.compile(r"the answer is\s*:?\s*", re.IGNORECASE)


def final_answer(text: str) -> str:
    """A text's answer, by the rule above, without dollar signs around mathematics, percent signs and a full stop."""
    answer = last_boxed(text)
    if answer is None:
        _, *behind = MARK.split(text)
        answer = behind[-1].partition("\n")[0] if behind else text
    return DROPPED.sub("", answer).strip().rstrip(".").strip()


def equivalent(answer: str, right: str) -> bool:
    """Whether two answers are equal, as text or as mathematics."""
    if "".join(answer.split()) == "".join(right.split()):
        return True
    if len(answer) > LIMIT_CHARACTERS or not re.search(r"\w", answer):  # "((((" would take all the time allowed
        return False
    latex = [LatexExtractionConfig()]  # alone: else a number is picked out of prose
    read = [parse(f"${answer}$", latex, parsing_timeout=LIMIT_SECONDS) for answer in (right, answer)]
    return bool(verify(*read, timeout_seconds=LIMIT_SECONDS))


class MathEquivalence(MeanOfItems):
    """Share of equivalent final answers, 0 to 1."""

    name = "math_equivalence"
    citation = "Hendrycks et al. 2021, https://arxiv.org/abs/2103.03874"
    takes = "predictions: texts; references: solutions or answers, in LaTeX"
    features = TEXTS

    def _items(self, predictions: Any, references: Any) -> Iterable[float]:
        pairs = zip(predictions, references, strict=True)
        hits = (equivalent(final_answer(answer), final_answer(right)) for answer, right in pairs)
        return hits
