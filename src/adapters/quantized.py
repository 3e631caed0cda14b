"""The dense weight of a layer, whatever format it is stored in."""

from torch import Tensor, nn


def dense_weight(layer: nn.Linear) -> Tensor:
    """The layer's weight (out_features, in_features) in floating point."""
    return layer.weight
