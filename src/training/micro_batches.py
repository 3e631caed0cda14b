"""A batch in parts that fit the memory, whose gradients add up to the whole batch's."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from src.training.batches import IGNORED


@dataclass(frozen=True)
class MicroBatch:
    """Some texts of a batch, and the share that their mean loss has in the batch's."""

    batch: dict[str, Tensor]
    share: float


def micro_batches_of(batch: dict[str, Tensor], size: int) -> Iterator[MicroBatch]:
    """A batch in parts of so many texts, the last one perhaps smaller, each as wide as its longest text.

    The batch's loss is a mean over all of its texts, or over all tokens of its answers, and so is the sum of the parts'
    means times their shares: a part with longer answers counts more.

    Args:
        batch: as `collate` makes it.
    """
    texts = len(batch["labels"])
    if size >= texts:
        yield MicroBatch(batch, 1.0)
        return
    whole = _counted(batch["labels"])
    for start in range(0, texts, size):
        part = {name: tensor[start : start + size] for name, tensor in batch.items()}
        counted = _counted(part["labels"])
        if counted:
            width = int(part["attention_mask"].sum(1).max())
            yield MicroBatch({name: _cut(tensor, width) for name, tensor in part.items()}, counted / whole)


def _counted(labels: Tensor) -> int:
    """How many numbers a loss is the mean of: a label a text, or those a token that a position before them predicts."""
    return len(labels) if labels.dim() == 1 else int(torch.count_nonzero(labels[:, 1:] != IGNORED))


def _cut(tensor: Tensor, width: int) -> Tensor:
    """Without the columns in which every text is padding."""
    return tensor if tensor.dim() == 1 else tensor[:, :width]
