"""PiSSA (Meng et al. 2024, https://arxiv.org/abs/2404.02948v4): LoRA on the principal part of the weight itself.

    y = x W_res^T + bias + scaling * x A^T B^T,    W_res = W0 - scaling * B_0 A_0,    scaling = alpha / rank

Trained: `lora_A` (rank, in_features) and `lora_B` (out_features, rank), which start at A_0 and B_0, the r largest
singular triples of W0 with the singular values shared equally. Frozen: the bias and the residual W_res, written into
the base layer, so the first output is the base model's up to rounding. A_0 and B_0 are stored as `initial_A` and
`initial_B`: a saved adapter is loaded onto the plain base model, whose residual they give back bit for bit.
The initialization is PEFT's with an exact decomposition; the authors' and PEFT's faster, random one isn't used.
On a quantized base the weight before it was quantized is decomposed, and the residual is rounded once (section 4).
It is smaller than W0, so the first output is nearer to the unquantized model's than the quantized base model's is.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.adapters.base import Adapter, LoRAFactors, Setup, scaled_product
from src.adapters.decomposition import leading_factors
from src.adapters.fused import LowRank
from src.models.dense_weight import dense_weight, replace_weight


class PiSSA(Adapter):
    """Low-rank update of one linear layer, in place of the principal part of its weight.

    Args:
        float_weight: gives the layer's weight (out_features, in_features) as it was before it was quantized.
    """

    leaves_base: ClassVar[bool] = False  # the base layer keeps the residual
    outside_peft: ClassVar[tuple[str, ...]] = ("initial_A", "initial_B")  # decomposed anew there when it is loaded
    removed_A: Tensor  # (rank, in_features), the A_0 that the base layer's weight is without
    removed_B: Tensor  # (out_features, rank), the B_0

    def create(self, *, float_weight: Callable[[], Tensor] | None = None) -> None:
        """Make the factors, and copies of their start."""
        self.float_weight = float_weight
        self.lora_A = self.parameter(self.rank, self.in_features)  # (rank, in_features)
        self.lora_B = self.parameter(self.out_features, self.rank)  # (out_features, rank)
        self.initial_A = self.parameter(self.rank, self.in_features, trained=False)  # (rank, in_features)
        self.initial_B = self.parameter(self.out_features, self.rank, trained=False)  # (out_features, rank)
        self.register_buffer("removed_A", torch.zeros_like(self.initial_A), persistent=False)
        self.register_buffer("removed_B", torch.zeros_like(self.initial_B), persistent=False)

    @classmethod
    def build(cls, base_layer: nn.Linear, name: str, setup: Setup, shared: dict[str, Any]) -> Self:
        """Make one adapter, with its layer's weight in floating point where the base is quantized."""
        given = {} if setup.float_weight is None else {"float_weight": partial(setup.float_weight, name)}
        return super().build(base_layer, name, setup, shared | given)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Decompose W0 in float32 and move its principal part into the factors (section 3)."""
        U, S, Vh = leading_factors(self._original_weight(), self.rank)
        roots = (S / self.scaling).sqrt()  # (rank,)
        self.lora_A.copy_(roots[:, None] * Vh)
        self.lora_B.copy_(U * roots)
        self.initial_A.copy_(self.lora_A)
        self.initial_B.copy_(self.lora_B)
        self.after_load()

    @torch.no_grad()
    def after_load(self) -> None:
        """Make the base layer's weight the residual of the initial factors, whatever it was the residual of."""
        if torch.equal(self.removed_A, self.initial_A) and torch.equal(self.removed_B, self.initial_B):
            return
        replace_weight(self.base_layer, self._original_weight() - self.scaling * self.initial_B @ self.initial_A)
        self.removed_A.copy_(self.initial_A)
        self.removed_B.copy_(self.initial_B)

    def _original_weight(self) -> Tensor:
        """W0, (out_features, in_features): before it was quantized, else what is left of it and what was taken out."""
        if self.float_weight is not None:
            return self.float_weight().to(self.base_layer.weight.device, self.lora_A.dtype)
        return dense_weight(self.base_layer) + self.scaling * self.removed_B @ self.removed_A

    def composed(self, x: Tensor) -> Tensor:
        """Map x (..., in_features) to (..., out_features): h = W_res x + BA x (section 3)."""
        hidden = F.linear(self.dropout(x), self.lora_A)  # (..., rank)
        return scaled_product(self.base_layer(x), hidden, self.lora_B, self.scaling)

    def low_rank(self) -> LowRank:
        """A and B."""
        return LowRank(self.lora_A, self.lora_B, self.scaling)

    def merged_weight(self) -> Tensor:
        """W_res + scaling B A, (out_features, in_features)."""
        return dense_weight(self.base_layer) + self.scaling * self.lora_B @ self.lora_A

    def lora_factors(self) -> LoRAFactors:
        """The update of W0 in twice the rank: the factors as trained, less those at the start."""
        A = torch.cat([self.lora_A, self.initial_A])  # (2 rank, in_features)
        B = torch.cat([self.lora_B, -self.initial_B], dim=1)  # (out_features, 2 rank)
        return LoRAFactors(A, B, self.scaling)

    @staticmethod
    def expected_trainable(in_features: int, out_features: int, rank: int) -> int:
        """r (in + out), as LoRA."""
        return rank * (in_features + out_features)
