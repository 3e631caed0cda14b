"""LoRA-FA (Zhang et al. 2023, https://arxiv.org/abs/2308.03303v2): LoRA with A frozen.

    y = x W0^T + bias + scaling * x A^T B^T,    scaling = alpha / rank

Trained: `lora_B` (out_features, rank). Frozen: W0, its bias and the random `lora_A` (rank, in_features). With A
frozen, autograd keeps `x A^T` (rank numbers a token) instead of x (in_features numbers). The second version of
the paper corrects B's gradient so that the update of W is the one closest to full fine-tuning's:

    g_B := g_B (A A^T)^-1 / scaling^2

A never changes, so the inverse is computed once; PEFT's optimizer of this name computes it at every step.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from src.adapters.base import Adapter, LoRAFactors, checked_init, drawn_A, scaled_product
from src.adapters.fused import LowRank


class LoRAFA(Adapter):
    """Low-rank update of one linear layer with a frozen random projection.

    Args:
        init: "gaussian", or "kaiming" as in PEFT, where the authors' code is.
    """

    def create(self, *, init: str = "gaussian") -> None:
        """Make the frozen A and the trained B."""
        self.init = checked_init(init)
        self.lora_A = self.parameter(self.rank, self.in_features, trained=False)  # (rank, in)
        self.lora_B = self.parameter(self.out_features, self.rank)  # (out_features, rank)
        self._gram_inverse: Tensor | None = None  # (rank, rank), of the A whose version it carries
        self._gram_version = -1

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw A in float32 and set B to zero."""
        self.lora_A.copy_(drawn_A(self.init, self.rank, self.in_features, generator))
        self.lora_B.zero_()

    def composed(self, x: Tensor) -> Tensor:
        """Map x (..., in_features) to (..., out_features) by Eq. 1 with A frozen."""
        hidden = F.linear(self.dropout(x), self.lora_A)  # (..., rank): all that backward keeps
        return scaled_product(self.base_layer(x), hidden, self.lora_B, self.scaling)

    def low_rank(self) -> LowRank:
        """A and B."""
        return LowRank(self.lora_A, self.lora_B, self.scaling)

    @torch.no_grad()
    def correct_gradients(self) -> None:
        """Replace B's gradient by the closed form that brings scaling * g_B A nearest to W's gradient."""
        if self.lora_B.grad is None:
            return
        if self._gram_inverse is None or self._gram_version != self.lora_A._version:
            A = self.lora_A.to(torch.promote_types(self.lora_A.dtype, torch.float32))
            self._gram_inverse, self._gram_version = torch.linalg.inv(A @ A.T), self.lora_A._version
        corrected = self.lora_B.grad.to(self._gram_inverse.dtype) @ self._gram_inverse / self.scaling**2
        self.lora_B.grad.copy_(corrected)

    def lora_factors(self) -> LoRAFactors:
        """A and B themselves: what is trained makes no difference."""
        return LoRAFactors(self.lora_A, self.lora_B, self.scaling)

    @staticmethod
    def expected_trainable(in_features: int, out_features: int, rank: int) -> int:
        """r out: B alone."""
        return rank * out_features
