"""How many held-out items were trained on: the first thing that makes a score too good."""

import re
import unicodedata
from dataclasses import dataclass
from typing import Any

BETWEEN_WORDS = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Overlap:
    """Of `items` inputs, how many occur in the training data character by character, and how many normalised."""

    items: int
    exact: int
    normalised: int

    def warning(self, task: str, split: str) -> str | None:
        """A sentence for people; None where there is nothing to warn of."""
        if not self.normalised:
            return None
        return (
            f"task={task}: {self.normalised:,} of {self.items:,} {split} items are in train too: "
            f"{self.exact:,} exactly, {self.normalised - self.exact:,} up to case, punctuation and spaces"
        )


def overlap(train: list[dict[str, Any]], held_out: list[dict[str, Any]]) -> Overlap:
    """Count the held-out rows whose input is also the input of a training row; labels and answers have no part."""
    trained = {input_text(row) for row in train}
    trained_normalized = {normalised(text) for text in trained}
    texts = [input_text(row) for row in held_out]
    return Overlap(
        items=len(texts),
        exact=sum(text in trained for text in texts),
        normalised=sum(normalised(text) in trained_normalized for text in texts),
    )


def input_text(row: dict[str, Any]) -> str:
    """What a model is shown of a row: its text or texts, its prompt, or the turns of a conversation."""
    shown = row.get("turns") or [row[key] for key in ("text", "text_pair", "prompt") if key in row]
    return "\n".join(shown)


def normalised(text: str) -> str:
    """The text without case, punctuation, spacing and Unicode variants."""
    return BETWEEN_WORDS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()
