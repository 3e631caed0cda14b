"""Blocks of which only the input is kept for backward, and that are computed again there."""

from typing import Any

from src.errors import UserError


def checkpoint_blocks(model: Any, **how: Any) -> None:
    """Let transformers checkpoint a model's blocks while it trains.

    Args:
        how: further arguments of `torch.utils.checkpoint.checkpoint`.
    """
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    # The other kind has no gradient where the embedded tokens need none: the first adapters would stand still.
    enable({"use_reentrant": False, **how})


def release_blocks(model: Any) -> None:
    """Keep everything again."""
    disable = getattr(model, "activation_checkpointing_disable", None) or model.gradient_checkpointing_disable
    disable()


def check_checkpointing(model: Any, name: str) -> None:
    """Refuse to compute blocks again where transformers knows no blocks.

    Raises:
        UserError: so it is.
    """
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise UserError(
            f"trainer.checkpointing=true: transformers can't checkpoint the blocks of model={name}.\n"
            "Set trainer.checkpointing=false, and trainer.micro_batch_size to fewer texts."
        )
