"""rsLoRA (Kalajdzievski 2023, https://arxiv.org/abs/2312.03732v1): LoRA whose factor shrinks with the root of the rank.

    y = x W0^T + bias + scaling * x A^T B^T,    scaling = alpha / sqrt(rank)

Trained: `lora_A` (rank, in_features) and `lora_B` (out_features, rank). Frozen: W0 and its bias. Under LoRA's
alpha / rank the learning slows down as the rank grows; with the root, activations and gradients keep their size at
every rank (theorem 3.2). At rank 1 the two are the same method.
"""

import math

from src.adapters.lora import LoRA


class RSLoRA(LoRA):
    """LoRA with the rank-stabilized factor; everything else is LoRA's, its options too."""

    @staticmethod
    def scaling_of(alpha: float, rank: int) -> float:
        """The factor of the update: alpha / sqrt(rank), theorem 3.2's only stable order."""
        return alpha / math.sqrt(rank)
