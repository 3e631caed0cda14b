"""IMDB: is a review of a film positive? 25,000 to train on and 25,000 to test on (Maas et al. 2011, aclImdb).

The original data is a folder with a text file per review; here it is a jsonl file per split, with the review's place in
that folder and the text as it is, line breaks of the web page included:

    {"id": "train/neg/0_3", "text": "Story of a man who has unnatural feelings for a pig. Starts out ...", "label": 0}

The hub's stanfordnlp/imdb has the same texts and labels in another order and without ids. Both have all negative
reviews before the first positive one, so that the first few hundred are of a single class. Rows therefore come in the
order of a hash of their text: the same from both sources, the classes mixed.

Papers report accuracy on the official test split. There is no validation split; the 50,000 unlabeled reviews aren't
used. A few test reviews are in the training data too: the overlap report counts them.
"""

import hashlib

from src.tasks.base import Row, TaskData
from src.tasks.source import Source

LABELS = ["neg", "pos"]


def load(source: Source) -> TaskData:
    """Read the official splits, train and test.

    Raises:
        UserError: a file or a column isn't there, or a label is neither 0 nor 1, as those of the unlabeled reviews.
    """
    return TaskData({split: _rows(source, split) for split in ("train", "test")}, LABELS)


def _rows(source: Source, split: str) -> list[Row]:
    records = source.records(split)
    rows = [{"text": record.text("text"), "label": record.label("label", LABELS)} for record in records]
    return sorted(rows, key=_sort_key)


def _sort_key(row: Row) -> tuple[bytes, int]:
    return hashlib.sha256(row["text"].encode()).digest(), row["label"]
