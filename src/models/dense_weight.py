"""The dense weight of a layer and a new one in its place, whatever format the layer stores it in.

bitsandbytes is imported only for a layer that is in one of its formats.
"""

from typing import Any

import torch
from torch import Tensor, nn


def dense_weight(layer: nn.Linear) -> Tensor:
    """The layer's weight (out_features, in_features) in floating point."""
    weight: Any = layer.weight
    if getattr(weight, "quant_state", None) is not None:
        from bitsandbytes.functional import dequantize_4bit

        weight = dequantize_4bit(weight.data, weight.quant_state)
    elif weight.dtype == torch.int8:
        from bitsandbytes.functional import int8_vectorwise_dequant

        weight = int8_vectorwise_dequant(weight.data, weight.SCB)
    dense: Tensor = weight
    return dense


@torch.no_grad()
def replace_weight(layer: nn.Linear, weight: Tensor) -> None:
    """Give the layer another weight (out_features, in_features), rounded to the format that it stores.

    The layer's parameter stays the same object. What `dense_weight` says afterwards is the rounded weight.
    """
    stored: Any = layer.weight
    if stored.is_floating_point():
        stored.copy_(weight)
        return
    import bitsandbytes as bnb

    dense = weight.detach().to(stored.device, torch.float32).contiguous()
    if getattr(stored, "quant_state", None) is not None:
        state = stored.quant_state
        stored.data, stored.quant_state = bnb.functional.quantize_4bit(
            dense, blocksize=state.blocksize, compress_statistics=state.nested, quant_type=state.quant_type
        )
    else:
        stored.data, stored.SCB, _ = bnb.functional.int8_vectorwise_quant(dense.half())
