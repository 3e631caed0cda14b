"""Spell a made-up word backwards, letter by letter: `"abc>"` is answered by `"cba"`.

Words are drawn without repetition, so no test word was trained on.
"""

import itertools
import random

from src.errors import UserError
from src.tasks.base import SPLITS, TaskData
from src.tasks.source import Source


def load(
    source: Source,
    *,
    letters: str,
    min_letters: int,
    max_letters: int,
    train_size: int,
    validation_size: int,
    test_size: int,
    data_seed: int,
) -> TaskData:
    """Draw the words of all three splits from `data_seed`.

    Raises:
        UserError: fewer words exist than the splits need.
    """
    sizes = (train_size, validation_size, test_size)
    words = [
        "".join(word)
        for length in range(min_letters, max_letters + 1)
        for word in itertools.product(letters, repeat=length)
    ]
    if sum(sizes) > len(words):
        raise UserError(
            f"task=reverse_words asks for {sum(sizes)} words, but {min_letters} to {max_letters} of the letters "
            f"'{letters}' make only {len(words)}.\nLower task.options.train_size or raise task.options.max_letters."
        )
    # One draw without repetition for all splits, so that no word is in two of them.
    drawn = iter(random.Random(data_seed).sample(words, sum(sizes)))
    splits = {
        split: [{"prompt": f"{word}>", "answer": word[::-1]} for word in itertools.islice(drawn, size)]
        for split, size in zip(SPLITS, sizes, strict=True)
    }
    return TaskData(splits=splits, label_names=[])
