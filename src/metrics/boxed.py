"""Where a solution of MATH has its answer: in a box, or behind the words that say so."""

import re

MARK = re.compile(r"the answer is\s*:?\s*", re.IGNORECASE)


def last_boxed(text: str) -> str | None:
    r"""What the last `\boxed`, or else `\fbox`, holds: up to its closing brace, or one character.

    This is `last_boxed_only_string` of hendrycks/math (modeling/dataset/util.py), and `\boxed 5` besides.
    """
    box = next((box for box in (r"\boxed", r"\fbox") if box in text), None)
    inside = text.rpartition(box)[2].lstrip() if box else ""
    if not inside.startswith("{"):
        return inside[:1] or None
    depth = 0
    for position, character in enumerate(inside):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return inside[1:position]
    return None


def marked_answer(text: str) -> str:
    """What the last box holds, else what follows the last "The answer is" in its line, else the whole text."""
    answer = last_boxed(text)
    if answer is None:
        _, *behind = MARK.split(text)
        answer = behind[-1].partition("\n")[0] if behind else text
    return answer
