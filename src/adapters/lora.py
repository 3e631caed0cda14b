"""LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685v2).

    y = x W0^T + bias + scaling * x A^T B^T,    scaling = alpha / rank

Trained: `lora_A` (rank, in_features) and `lora_B` (out_features, rank). Frozen: W0 and its bias. B starts at
zero, so the first output is the base model's. A's Gaussian has variance 1 / in_features, which keeps the size of
`x A^T` the same at every rank and width; the paper leaves the variance open, PEFT's own Gaussian has 1 / rank^2.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from src.adapters.base import Adapter, LoRAFactors, checked_init, drawn_A, scaled_product
from src.adapters.fused import LowRank
from src.errors import UserError


class LoRA(Adapter):
    """Low-rank update of one linear layer, both factors trained.

    Args:
        init: "gaussian" (the paper), or "kaiming" for the uniform initialization of PEFT's default.
        lr_ratio: LoRA+ (Hayou et al. 2024, https://arxiv.org/abs/2402.12354v2): B's learning rate over A's.
    """

    def create(self, *, init: str = "gaussian", lr_ratio: float = 1.0) -> None:
        """Make A and B, and take the options."""
        if not lr_ratio > 0:
            raise UserError(f"adapter.options.lr_ratio={lr_ratio} can't train B.\nAllowed: a number above 0.")
        self.init = checked_init(init)
        self.lr_ratios = {"lora_B": lr_ratio}
        self.lora_A = self.parameter(self.rank, self.in_features)  # (rank, in_features)
        self.lora_B = self.parameter(self.out_features, self.rank)  # (out_features, rank)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw A from `generator` in float32 and set B to zero (section 4.1)."""
        self.lora_A.copy_(drawn_A(self.init, self.rank, self.in_features, generator))
        self.lora_B.zero_()

    def composed(self, x: Tensor) -> Tensor:
        """Map x (..., in_features) to (..., out_features) by Eq. 3: h = W0 x + BA x."""
        hidden = F.linear(self.dropout(x), self.lora_A)  # (..., rank)
        return scaled_product(self.base_layer(x), hidden, self.lora_B, self.scaling)

    def low_rank(self) -> LowRank:
        """A and B."""
        return LowRank(self.lora_A, self.lora_B, self.scaling)

    def lora_factors(self) -> LoRAFactors:
        """A and B themselves."""
        return LoRAFactors(self.lora_A, self.lora_B, self.scaling)

    @staticmethod
    def expected_trainable(in_features: int, out_features: int, rank: int) -> int:
        """r (in + out): section 4.2's count for one matrix."""
        return rank * (in_features + out_features)
