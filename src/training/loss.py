"""The training loss, with logits where labels are and nowhere else.

A language model's output layer is its largest matrix, and most positions are prompt or padding. Here it sees only the
hidden states that a label follows, which saves the others' logits, (vocabulary) numbers each, in memory and time.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.training.batches import IGNORED


def mean_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The mean loss of a batch: over its items for a classifier, over its answers' tokens for a language model."""
    if batch["labels"].dim() == 1:
        loss: Tensor = model(**batch).loss
        return loss
    logits, labels, _ = answer_logits(model, batch)
    return F.cross_entropy(logits.float(), labels)


def answer_logits(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """A language model's logits (n, vocabulary) for the n labels of a batch, those labels (n,), and their rows (n,)."""
    labels = batch["labels"][:, 1:]  # what follows each position but the last
    # Found before the model runs: a GPU is waited for here, and not in the middle of its work.
    rows, columns = torch.nonzero(labels != IGNORED, as_tuple=True)  # (n,) each

    def keep_followed(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = inputs[0][:, -labels.shape[1] - 1 : -1]  # without what a method put before the text
        return (hidden[rows, columns], *inputs[1:])

    plain: Any = model
    hook = plain.get_output_embeddings().register_forward_pre_hook(keep_followed)
    try:
        inputs = {key: tensor for key, tensor in batch.items() if key != "labels"}
        logits = plain(**inputs).logits
    finally:
        hook.remove()
    return logits, labels[rows, columns], rows
