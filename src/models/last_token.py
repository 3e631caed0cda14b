"""Classifiers that read a text's last token: they find it by the attention mask, not by the padding's id.

Decoders score every position and keep that of the last token which isn't padding. transformers tells padding by its id
alone: a text that ends in that token, as in one that a tokenizer put there, loses it, and behind virtual tokens there
are no ids to look at, so that the padding itself is scored.
"""

from typing import Any

import torch
from torch import Tensor, nn

LAYER = "score"  # transformers' name of the layer in all of them


def pools_last_token(model: nn.Module) -> bool:
    """Whether the model is a classifier of that kind."""
    return isinstance(getattr(model, LAYER, None), nn.Linear)


def read_last_token(model: nn.Module) -> None:
    """Let the model read the last token that its attention mask has, whichever position it picks."""
    if pools_last_token(model):
        reading = _Reading()
        model.register_forward_pre_hook(reading.look, with_kwargs=True)
        model.get_submodule(LAYER).register_forward_hook(reading.read)


class _Reading:
    """Hands the mask that the model is given on to its last layer; copied with the model, as its hooks are."""

    def __init__(self) -> None:
        self.mask: Tensor | None = None

    def look(self, model: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Keep the mask: (batch, seq), or longer by what a method put before the text."""
        self.mask = kwargs.get("attention_mask")

    def read(self, layer: nn.Module, args: Any, scores: Tensor) -> Tensor:
        """Put the last token's scores at all positions of `scores`: (batch, seq, labels)."""
        if self.mask is None or self.mask.dim() != 2 or scores.dim() != 3:
            return scores
        mask, self.mask = self.mask[:, -scores.shape[1] :], None
        places = torch.arange(mask.shape[1], device=mask.device)
        last = (places * (mask != 0)).argmax(-1)  # (batch,)
        return scores[torch.arange(len(scores), device=scores.device), last][:, None].expand_as(scores)
