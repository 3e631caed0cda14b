"""Full fine-tuning: every parameter of the base model is trained, with the head."""

from torch import nn

from src.adapters.base import Method, Setup


class Full(Method):
    """Train all weights."""

    @classmethod
    def inject_into(cls, model: nn.Module, setup: Setup) -> nn.Module:
        """Let every parameter require gradients."""
        return model.requires_grad_(True)
