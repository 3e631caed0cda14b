"""The last blocks of the base model, whole: partial fine-tuning, the method that adapters were first held against.

Trained: every parameter of the model's last k blocks, with the head. Frozen: the embeddings, the earlier blocks, and
what comes between the last block and the head. In an encoder-decoder the blocks are counted over both, so the last
ones are the decoder's.
"""

from torch import nn

from src.adapters.base import Method, Setup
from src.errors import UserError


class LastK(Method):
    """Train the last blocks; option `layers` says how many, by default 1."""

    @classmethod
    def inject_into(cls, model: nn.Module, setup: Setup) -> nn.Module:
        """Let every parameter of the last blocks require gradients.

        Raises:
            UserError: the model doesn't have so many.
        """
        blocks, count = setup.layers, setup.options.get("layers", 1)
        if not isinstance(count, int) or not 1 <= count <= len(blocks):
            raise UserError(
                f"adapter.options.layers={count} doesn't fit a model of {len(blocks)} blocks.\n"
                f"Allowed: 1 to {len(blocks)}."
            )
        for name in blocks[-count:]:
            model.get_submodule(name).requires_grad_(True)
        return model
