"""LoRA-SB (Ponkshe et al. 2024, https://arxiv.org/abs/2411.19557v4).

    y = x W0^T + bias + scaling * x A^T R^T B^T,    scaling = alpha / rank, by default 1

Trained: `lora_R` (rank, rank). Frozen: W0, its bias, `lora_B` (out_features, rank) and `lora_A`
(rank, in_features). The start approximates the first AdamW step of full fine-tuning, dW = -eta sign(G), by its
truncated SVD dW = U_r S_r V_r^T: B = U_r, A = V_r^T, R = S_r / scaling. So the first output differs from the base
model's by design. B and A are orthonormal, which makes the optimal gradient of R equal to its own gradient up to
1 / scaling^2 (Eq. 8 with B^T B = A A^T = I). The authors' code rounds U, S and V to bfloat16 and resets the
global seed for every layer; this one does neither.
"""

import math
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.adapters.base import Adapter, LoRAFactors, Setup, UpdateDirection, scaled_product
from src.adapters.fused import LowRank
from src.errors import UserError


class LoRASB(Adapter):
    """A trained r x r matrix between frozen singular vectors of the first full update.

    Args:
        direction: SVD of -sign(G) of this layer; None leaves all three matrices at zero, to be loaded.
        step_size: the learning rate of full fine-tuning's first step, which eta is by default.
        eta: the size of the start where it is another one; the authors' runs on language models count the probe's
            batches as steps, which makes it 10 to 15 times smaller.
        probe_dropout: the model's dropout acts while G is estimated, as in the authors' code; whoever makes the
            direction reads it.
    """

    needs_gradient: ClassVar[bool] = True

    def create(
        self,
        *,
        direction: UpdateDirection | None = None,
        step_size: float = 0.0,
        eta: float | None = None,
        probe_dropout: bool = False,
    ) -> None:
        """Make the frozen factors and R, and start from the direction where there is one."""
        if eta is not None and not 0 < eta < math.inf:
            raise UserError(f"adapter.options.eta={eta} is no size of a start.\nAllowed: a number above 0, or null.")
        self.lora_A = self.parameter(self.rank, self.in_features, trained=False)  # (rank, in)
        self.lora_B = self.parameter(self.out_features, self.rank, trained=False)  # (out, rank)
        self.lora_R = self.parameter(self.rank, self.rank)  # (rank, rank)
        if direction is not None:
            self.start(direction, step_size if eta is None else eta)

    @classmethod
    def build(cls, base_layer: nn.Linear, name: str, setup: Setup, shared: dict[str, Any]) -> Self:
        """Make one adapter from its layer's update direction; the method draws no random numbers."""
        direction = setup.update_directions.get(name)
        options: dict[str, Any] = {"direction": direction, "step_size": setup.step_size, **setup.options}
        return cls(base_layer, rank=setup.rank, alpha=setup.alpha, **options)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Nothing is drawn: the start is the direction's."""

    @torch.no_grad()
    def start(self, direction: UpdateDirection, step_size: float) -> None:
        """Start at the best rank-r approximation of eta times the direction (Algorithm 1)."""
        self.lora_B.copy_(direction.U[:, : self.rank])
        self.lora_A.copy_(direction.Vh[: self.rank])
        self.lora_R.copy_(torch.diag(direction.S[: self.rank]) * step_size / self.scaling)

    def composed(self, x: Tensor) -> Tensor:
        """Map x (..., in_features) to (..., out_features): h = W0 x + scaling B R A x."""
        hidden = F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_R)  # (..., rank)
        return scaled_product(self.base_layer(x), hidden, self.lora_B, self.scaling)

    def low_rank(self) -> LowRank:
        """A and B with R between them."""
        return LowRank(self.lora_A, self.lora_B, self.scaling, R=self.lora_R)

    @torch.no_grad()
    def correct_gradients(self) -> None:
        """Divide R's gradient by scaling^2, all that is left of Eq. 8 with orthonormal factors."""
        if self.lora_R.grad is not None and self.scaling != 1:
            self.lora_R.grad.div_(self.scaling**2)

    def lora_factors(self) -> LoRAFactors:
        """R folded into B."""
        return LoRAFactors(self.lora_A, self.lora_B @ self.lora_R, self.scaling)

    @staticmethod
    def expected_trainable(in_features: int, out_features: int, rank: int) -> int:
        """r^2, whatever the layer's size."""
        return rank**2
