"""VeRA (Kopiczko et al. 2023, https://arxiv.org/abs/2310.11454v2): two trained vectors a layer, all else is shared.

    y = x W0^T + bias + b * ((d * (x A^T)) B^T)

Trained: `vera_lambda_d` = d (rank,), which starts at 0.1, and `vera_lambda_b` = b (out_features,), at zero, so the
first output is the base model's. Frozen: W0, its bias, and the random `vera_A` and `vera_B`, one pair for all layers
of a model. The pair has the size of the largest layer, and a smaller one uses its first columns of A and rows of B,
as in PEFT. The rank isn't bound by a layer's size: random vectors are cheap, and the paper's ranks go up to 1024.
There is no scaling and alpha is unused; d's initial value has their part.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.adapters.base import Adapter, LoRAFactors, Setup, parameter_beside

INITIAL_D = 0.1


class VeRA(Adapter):
    """Scaled random projection beside one linear layer.

    Args:
        vera_A: (rank, in_features or more), shared by the layers of a model; without it the layer makes its own.
        vera_B: (out_features or more, rank), likewise.
    """

    any_rank: ClassVar[bool] = True
    outside_peft: ClassVar[tuple[str, ...]] = ("vera_A", "vera_B")  # buffers there

    def create(self, *, vera_A: nn.Parameter | None = None, vera_B: nn.Parameter | None = None) -> None:
        """Make d and b beside the projection."""
        self.draws_projection = vera_A is None or vera_B is None
        if vera_A is None or vera_B is None:
            vera_A, vera_B = self.shared_tensors({"": self.base_layer}, Setup(rank=self.rank)).values()
        self.vera_A, self.vera_B = vera_A, vera_B
        self.vera_lambda_d = self.parameter(self.rank)  # (rank,)
        self.vera_lambda_b = self.parameter(self.out_features)  # (out_features,)

    @classmethod
    def shared_tensors(cls, layers: dict[str, nn.Linear], setup: Setup) -> dict[str, Any]:
        """One A and one B for all `layers`, as large as the largest needs."""
        first = next(iter(layers.values()))
        columns = max(layer.in_features for layer in layers.values())
        rows = max(layer.out_features for layer in layers.values())
        vera_A = parameter_beside(first, setup.rank, columns, trained=False)  # (rank, largest in_features)
        vera_B = parameter_beside(first, rows, setup.rank, trained=False)  # (largest out_features, rank)
        if setup.generator is not None:
            cls.draw(vera_A, vera_B, setup.generator)
        return {"vera_A": vera_A, "vera_B": vera_B}

    @staticmethod
    @torch.no_grad()
    def draw(vera_A: Tensor, vera_B: Tensor, generator: torch.Generator) -> None:
        """Fill the projection, Kaiming-uniform in float32 (section 3.3)."""
        for matrix in (vera_A, vera_B):
            matrix.copy_(nn.init.kaiming_uniform_(torch.empty(matrix.shape), generator=generator))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Set d to its initial value and b to zero (section 3.3), and draw a projection that no one shares."""
        if self.draws_projection:
            self.draw(self.vera_A, self.vera_B, generator)
        self.vera_lambda_d.fill_(INITIAL_D)
        self.vera_lambda_b.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., in_features) to (..., out_features) by Eq. 2: h = W0 x + diag(b) B diag(d) A x."""
        hidden = F.linear(self.dropout(x), self.vera_A[:, : self.in_features])  # (..., rank)
        hidden = hidden * self.vera_lambda_d.to(hidden.dtype)
        projected = F.linear(hidden, self.vera_B[: self.out_features])  # (..., out_features)
        return torch.addcmul(self.base_layer(x), projected, self.vera_lambda_b.to(projected.dtype))

    def lora_factors(self) -> LoRAFactors:
        """The vectors folded into this layer's parts of A and B."""
        A = self.vera_lambda_d[:, None] * self.vera_A[:, : self.in_features]  # (rank, in_features)
        B = self.vera_lambda_b[:, None] * self.vera_B[: self.out_features]  # (out_features, rank)
        return LoRAFactors(A, B, self.scaling)

    @staticmethod
    def scaling_of(alpha: float, rank: int) -> float:
        """1: VeRA's update isn't scaled."""
        return 1.0

    @staticmethod
    def expected_trainable(in_features: int, out_features: int, rank: int) -> int:
        """r + out: section 3.2's count for one matrix."""
        return rank + out_features
