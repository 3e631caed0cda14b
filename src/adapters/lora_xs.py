"""LoRA-XS (Balazy et al. 2024, https://arxiv.org/abs/2405.17604v3).

    y = x W0^T + bias + scaling * x A^T R^T B^T,    scaling = alpha / rank

Trained: `lora_R` (rank, rank). Frozen: W0, its bias, and the factors of W0's truncated SVD, `lora_B` = U_r
(out_features, rank) and `lora_A` = S_r V_r^T (rank, in_features): the singular values sit on the input side, as
in the authors' code. R starts near zero, not at it, so the first output is the base model's up to 1e-5.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from src.adapters.base import Adapter, LoRAFactors, scaled_product
from src.adapters.decomposition import leading_factors
from src.adapters.fused import LowRank
from src.models.dense_weight import dense_weight

INITIAL_STD = 1e-5


class LoRAXS(Adapter):
    """A trained r x r matrix between frozen singular vectors of the layer's own weight."""

    def create(self) -> None:
        """Make the frozen factors and R."""
        self.lora_A = self.parameter(self.rank, self.in_features, trained=False)  # (rank, in)
        self.lora_B = self.parameter(self.out_features, self.rank, trained=False)  # (out, rank)
        self.lora_R = self.parameter(self.rank, self.rank)  # (rank, rank)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Decompose W0 in float32 and draw R from N(0, 1e-5^2) (section 3)."""
        U, S, Vh = leading_factors(dense_weight(self.base_layer), self.rank)
        self.lora_B.copy_(U)
        self.lora_A.copy_(S[:, None] * Vh)
        self.lora_R.copy_(torch.empty(self.rank, self.rank).normal_(0.0, INITIAL_STD, generator=generator))

    def composed(self, x: Tensor) -> Tensor:
        """Map x (..., in_features) to (..., out_features) by Eq. 2: h = W0 x + B R A x."""
        hidden = F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_R)  # (..., rank)
        return scaled_product(self.base_layer(x), hidden, self.lora_B, self.scaling)

    def low_rank(self) -> LowRank:
        """A and B with R between them."""
        return LowRank(self.lora_A, self.lora_B, self.scaling, R=self.lora_R)

    def lora_factors(self) -> LoRAFactors:
        """R folded into B."""
        return LoRAFactors(self.lora_A, self.lora_B @ self.lora_R, self.scaling)

    @staticmethod
    def expected_trainable(in_features: int, out_features: int, rank: int) -> int:
        """r^2, whatever the layer's size."""
        return rank**2
