"""Houlsby adapters (Houlsby et al. 2019, https://arxiv.org/abs/1902.00751v2): a bottleneck after a sub-layer.

    h = dropout(x W0^T + bias),    y = h + activation(h down^T + down_bias) up^T + up_bias

Trained: `down` (rank, out_features), `up` (out_features, rank) and their biases. Frozen: W0 and its bias. `rank` is the
bottleneck's size, m in the paper. It follows the projection that ends the attention and the one that ends the
feed-forward part, after the model's own dropout and before the skip connection (section 2.1, and the authors' code).
Both matrices start near zero, so the first output is nearly the base model's. The activation keeps it from being
merged, so it costs time whenever the model is used. The paper trains the layer norms too, which this method leaves
frozen. The authors' code approximates gelu by tanh and starts at a tenth of the paper's standard deviation; this one
does neither.
"""

from collections.abc import Callable
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.adapters.base import Adapter
from src.adapters.dropout_after import dropouts_after
from src.errors import UserError

INITIAL_STD = 0.01
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu}


class Houlsby(Adapter):
    """A trained bottleneck with a skip connection after one linear layer.

    Args:
        alpha: unused.
        activation: "gelu" (the authors' code) or "relu".
    """

    has_dropout: ClassVar[bool] = False

    def create(self, *, activation: str = "gelu") -> None:
        """Make the matrices and their biases."""
        if activation not in ACTIVATIONS:
            raise UserError(
                f"adapter.options.activation={activation} is not known.\nAllowed: {', '.join(ACTIVATIONS)}."
            )
        self.activation = ACTIVATIONS[activation]
        self.sublayer_dropout: nn.Module = nn.Identity()  # the model's own, where it has one after the layer
        self.down = self.parameter(self.rank, self.out_features)  # (rank, out_features)
        self.down_bias = self.parameter(self.rank)  # (rank,)
        self.up = self.parameter(self.out_features, self.rank)  # (out_features, rank)
        self.up_bias = self.parameter(self.out_features)  # (out_features,)

    @classmethod
    def settle(cls, model: nn.Module, adapters: dict[str, Self]) -> None:
        """Take the dropout that follows the layer between the layer and the bottleneck."""
        layers = {name: adapter.base_layer for name, adapter in adapters.items()}
        for name, dropout in dropouts_after(model, layers).items():
            adapters[name].sublayer_dropout = model.get_submodule(dropout)
            model.set_submodule(dropout, nn.Identity())

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw the matrices in float32 from a Gaussian cut off at two standard deviations (section 3.6)."""
        for matrix, bias in ((self.down, self.down_bias), (self.up, self.up_bias)):
            drawn, end = torch.empty(matrix.shape), 2 * INITIAL_STD
            matrix.copy_(nn.init.trunc_normal_(drawn, std=INITIAL_STD, a=-end, b=end, generator=generator))
            bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., in_features) to (..., out_features) through base layer and bottleneck (figure 2)."""
        h: Tensor = self.sublayer_dropout(self.base_layer(x))  # (..., out_features)
        hidden = self.activation(F.linear(h, self.down, self.down_bias))  # (..., rank)
        return h + F.linear(hidden, self.up, self.up_bias)

    def merged_weight(self) -> Tensor:
        """There is none.

        Raises:
            UserError: always.
        """
        raise UserError(
            "houlsby adds a bottleneck with an activation after the layer, so it can't be merged.\n"
            "Keep the adapter beside the base model, or train a method that merges, such as adapter=lora."
        )

    @staticmethod
    def scaling_of(alpha: float, rank: int) -> float:
        """1: the bottleneck isn't scaled."""
        return 1.0

    @staticmethod
    def expected_trainable(in_features: int, out_features: int, rank: int) -> int:
        """2 m d + d + m: section 2.1's count of one adapter."""
        return 2 * rank * out_features + out_features + rank
