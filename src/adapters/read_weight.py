"""A wrapped layer's weight as other modules read it.

A module may ask the weight of a layer inside it for its format, as T5's feed-forward does before each product, or
compute with the weight itself, as `nn.MultiheadAttention` does with its output projection. The first is answered by
the base layer's; for the second the adapter is merged then and there, so that its gradients are right. Merging costs
a product of matrices, so it isn't done before it is needed.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from src.errors import UserError

if TYPE_CHECKING:
    from src.adapters.base import Adapter

FORM = ("dtype", "device", "shape", "layout", "ndim", "is_cuda", "is_meta", "requires_grad")
FACTS: set[Any] = {
    *(getattr(Tensor, name).__get__ for name in FORM),
    *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point, Tensor.element_size),
}


class ReadWeight(Tensor):
    """(out_features, in_features) without numbers of its own: any operation on it is one on the merged weight."""

    adapter: "Adapter"

    @staticmethod
    def __new__(cls: type[Self], adapter: "Adapter") -> Self:
        """Make the tensor in the base layer's format and place."""
        stored, shape = adapter.base_layer.weight, (adapter.out_features, adapter.in_features)
        # Without memory: code that goes around `__torch_function__` fails instead of computing without the adapter.
        read: Self = Tensor._make_wrapper_subclass(cls, shape, dtype=stored.dtype, device=stored.device)
        read.adapter = adapter
        return read

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Answer what is asked of its form; else merge and compute."""
        if func in FACTS:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        merged_args, merged_kwargs = tree_map_only(ReadWeight, ReadWeight._merged, (args, kwargs or {}))
        return func(*merged_args, **merged_kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """Refuse what reaches the numbers in another way.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(f"{func} reads the weight of an adapter by itself.\nMerge the adapter first.")

    def _merged(self) -> Tensor:
        adapter = self.adapter
        if adapter.training and adapter.dropout.p > 0:
            raise UserError(
                f"This model computes with the weight of a layer that {type(adapter).__name__} wraps, where dropout of "
                "its input has no place.\nSet adapter.options.dropout=null, or choose another target."
            )
        return adapter.merged_weight()
