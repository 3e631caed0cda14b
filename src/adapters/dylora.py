"""DyLoRA (Valipour et al. 2022, https://arxiv.org/abs/2210.07558v2): one training for every rank up to the largest.

    y = x W0^T + bias + (alpha / b) * x A[:b]^T B[:, :b]^T,    b uniform in 1..rank, drawn anew at every step

Trained: `lora_A` (rank, in_features) and `lora_B` (out_features, rank), of which a step's gradient reaches the first b
rows and columns. Frozen: W0 and its bias. The first ranks serve every b, so the trained adapter can be cut to any
rank. All layers share a step's b, as in the authors' code (https://github.com/huawei-noah/Efficient-NLP at bb44348,
DyLoRA/), where a factor sqrt(rank / b) on each of A and B makes the same alpha / b of alpha / rank. Its example
trains the b-th row and column alone (the paper's FROZEN variant, Eq. 10); here all of the first b are trained, which
does better in the paper's table 4.
"""

from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from src.adapters.base import Adapter, LoRAFactors, checked_init, drawn_A, scaled_product
from src.adapters.fused import LowRank
from src.errors import UserError


class DyLoRA(Adapter):
    """Low-rank update of one linear layer, trained to be cut to any smaller rank.

    Args:
        init: "gaussian", or "kaiming" as in the authors' code.

    Attributes:
        scaling: alpha over the rank in use outside training.
    """

    nested: ClassVar[bool] = True
    replayable: ClassVar[bool] = False  # a step's b is the size of its tensors

    def create(self, *, init: str = "gaussian") -> None:
        """Make A and B, all of whose ranks are in use."""
        self.init = checked_init(init)
        self.drawn_rank = self.kept_rank = self.rank  # b of this training step, and outside training
        self.lora_A = self.parameter(self.rank, self.in_features)  # (rank, in_features)
        self.lora_B = self.parameter(self.out_features, self.rank)  # (out_features, rank)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw A in float32 and set B to zero."""
        self.lora_A.copy_(drawn_A(self.init, self.rank, self.in_features, generator))
        self.lora_B.zero_()

    @classmethod
    def on_step(cls, adapters: list[Self], draw: float) -> None:
        """Take b from the step's number (Algorithm 1 with the uniform distribution)."""
        for adapter in adapters:
            adapter.drawn_rank = 1 + int(draw * adapter.rank)

    def truncate(self, rank: int) -> None:
        """Compute from now on, outside training, with the first `rank` ranks.

        Raises:
            UserError: the adapter hasn't so many.
        """
        if not 1 <= rank <= self.rank:
            raise UserError(f"An adapter of rank {self.rank} can't be cut to rank {rank}.\nAllowed: 1 to {self.rank}.")
        self.kept_rank, self.scaling = rank, self.scaling_of(self.alpha, rank)

    @property
    def rank_in_use(self) -> int:
        """The step's b while training, else that which is kept."""
        return self.drawn_rank if self.training else self.kept_rank

    def composed(self, x: Tensor) -> Tensor:
        """Map x (..., in_features) to (..., out_features): h = W0 x + (alpha / b) B[:, :b] A[:b] x (Eq. 7)."""
        b = self.rank_in_use
        hidden = F.linear(self.dropout(x), self.lora_A[:b])  # (..., b)
        return scaled_product(self.base_layer(x), hidden, self.lora_B[:, :b], self.scaling_of(self.alpha, b))

    def low_rank(self) -> LowRank:
        """The first b rows of A and columns of B."""
        b = self.rank_in_use
        return LowRank(self.lora_A[:b], self.lora_B[:, :b], self.scaling_of(self.alpha, b))

    def lora_factors(self) -> LoRAFactors:
        """The first rows of A and columns of B, up to the rank in use outside training."""
        return LoRAFactors(self.lora_A[: self.kept_rank], self.lora_B[:, : self.kept_rank], self.scaling)

    @staticmethod
    def expected_trainable(in_features: int, out_features: int, rank: int) -> int:
        """r (in + out), as LoRA of the largest rank."""
        return rank * (in_features + out_features)
