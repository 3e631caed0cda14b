"""The head alone on a frozen base model: what any adapter has to beat."""

from typing import ClassVar

from torch import nn

from src.adapters.base import Method, Setup


class HeadOnly(Method):
    """Train nothing of the base model; the runner trains the head with every method."""

    head_alone: ClassVar[bool] = True

    @classmethod
    def inject_into(cls, model: nn.Module, setup: Setup) -> nn.Module:
        """Leave the model frozen."""
        return model
