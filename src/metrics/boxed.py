"""Where a solution of MATH has its answer: in a box."""


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
