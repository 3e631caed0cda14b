"""The training loss, with logits where labels are and nowhere else.

A language model's output layer is its largest matrix, and most positions are prompt or padding. Here it sees only the
hidden states that a label follows, which saves the others' logits, (vocabulary) numbers each, in memory and time.
Where even those are many, the loss is summed over chunks of them whose logits backward makes again.
"""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from src.training.batches import IGNORED

LOGITS_AT_ONCE = 2**26  # 256 MiB of float32, of which a loss needs several copies
_ends_with_head: "WeakKeyDictionary[nn.Module, bool]" = WeakKeyDictionary()


def mean_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The mean loss of a batch: over its items for a classifier, over its answers' tokens for a language model."""
    if batch["labels"].dim() == 1:
        loss: Tensor = model(**batch).loss
        return loss
    plain: Any = model
    places, vocabulary = _Places(batch["labels"]), getattr(plain.get_output_embeddings(), "out_features", 0)
    if len(places.labels) * vocabulary > LOGITS_AT_ONCE and ends_with_head(model, batch):
        return _loss_in_chunks(plain, batch, places, max(1, LOGITS_AT_ONCE // vocabulary))
    _, logits = _through_head(plain, batch, places, sees=lambda states: states)
    return F.cross_entropy(logits.float(), places.labels)


def _loss_in_chunks(model: Any, batch: dict[str, Tensor], places: "_Places", tokens: int) -> Tensor:
    """The mean loss, so many tokens' logits at a time."""
    head = model.get_output_embeddings()
    hidden, _ = _through_head(model, batch, places, sees=lambda states: states[:1])
    parts = zip(hidden.split(tokens), places.labels.split(tokens), strict=True)
    losses = [checkpoint(_summed_loss, head, states, labels, use_reentrant=False) for states, labels in parts]
    total: Tensor = torch.stack(losses).sum()
    return total / len(places.labels)


def _summed_loss(head: nn.Module, states: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(head(states).float(), labels, reduction="sum")


@torch.no_grad()
def ends_with_head(model: nn.Module, batch: dict[str, Tensor]) -> bool:
    """Whether a model's logits are what its output layer gives, without a factor or a cap after it; tried once."""
    if model not in _ends_with_head:
        first: Any = {name: tensor[:1] for name, tensor in batch.items()}
        places, plain = _Places(first["labels"]), model
        head: Any = plain.get_output_embeddings()  # type: ignore[operator]
        with torch.random.fork_rng(devices=[first["labels"].device] if first["labels"].is_cuda else []):
            hidden, logits = _through_head(plain, first, places, sees=lambda states: states)
            _ends_with_head[model] = torch.equal(head(hidden), logits)
    return _ends_with_head[model]


class _Places:
    """Where a language model's labels are: of which positions the logits are needed."""

    def __init__(self, labels: Tensor) -> None:
        followers = labels[:, 1:]  # what follows each position but the last
        self.length = followers.shape[1]
        # Found before the model runs: a GPU is waited for here, and not in the middle of its work.
        self.rows, self.columns = torch.nonzero(followers != IGNORED, as_tuple=True)  # (n,) each
        self.labels = followers[self.rows, self.columns]


def _through_head(
    model: Any, batch: dict[str, Tensor], places: _Places, *, sees: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """The hidden states (n, width) that labels follow, and the logits of those that the output layer is let see."""
    kept: list[Tensor] = []

    def keep_followed(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = inputs[0][:, -places.length - 1 : -1]  # without what a method put before the text
        kept.append(hidden[places.rows, places.columns])
        return (sees(kept[0]), *inputs[1:])

    hook = model.get_output_embeddings().register_forward_pre_hook(keep_followed)
    try:
        logits = model(**{key: tensor for key, tensor in batch.items() if key != "labels"}).logits
    finally:
        hook.remove()
    return kept[0], logits


def answer_logits(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """A language model's logits (n, vocabulary) for the n labels of a batch, those labels (n,), and their rows (n,)."""
    places = _Places(batch["labels"])
    _, logits = _through_head(model, batch, places, sees=lambda states: states)
    return logits, places.labels, places.rows
