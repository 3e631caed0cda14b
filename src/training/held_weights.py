"""Frozen weights held in the format that autocast computes in, so that no step casts them and keeps the casts."""

from collections import Counter
from typing import Any

import torch
from torch import nn

from src.adapters.inject import adapters


@torch.no_grad()
def hold_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Round the adapted layers' float32 weights, in this model: the products under autocast stay the same, bit for bit.

    Weights that something else computes with are left as they are: a method, a module that reads them, or another
    module that they are tied to.
    """
    uses = Counter(id(parameter) for module in model.modules() for parameter in module._parameters.values())
    for adapter in adapters(model).values():
        weight: Any = adapter.base_layer.weight
        alone = uses[id(weight)] == 1 and not adapter.weight_is_read and not adapter.needs_exact_weight
        if alone and type(adapter.base_layer) is nn.Linear and weight.dtype == torch.float32:
            # Another parameter, as runs may share this one.
            adapter.base_layer.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
