"""LoRA-FA as first published (Zhang et al. 2023, https://arxiv.org/abs/2308.03303v1): LoRA with A frozen, and no more.

    y = x W0^T + bias + scaling * x A^T B^T,    scaling = alpha / rank

Trained: `lora_B` (out_features, rank). Frozen: W0, its bias and the random `lora_A` (rank, in_features). This
version leaves B's gradient as autograd gives it; the second version of the paper corrects it (`lora_fa.py`), which
is what PEFT's optimizer of that name does.
"""

from src.adapters.lora_fa import LoRAFA


class LoRAFAv1(LoRAFA):
    """LoRA-FA without the correction of B's gradient; everything else is the same."""

    def correct_gradients(self) -> None:
        """Leave the gradient as it is."""
