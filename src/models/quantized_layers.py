"""Frozen linear layers of bitsandbytes that compute like `nn.Linear`, and like themselves from call to call.

    y = x W^T + bias,    W dequantised for the product, forward and backward, and never kept

The forward passes of bitsandbytes 0.50 do more. `Linear4bit` fixes the format of its first input for good, rounds
its bias in place to that format, and on a CPU with AVX512-BF16 repacks its weight in place when it is evaluated: it
then computes in bfloat16 and can't train any more. `Linear8bitLt` rounds the inputs to 8 bits as well, on a CPU only
when it is evaluated. Here nothing is changed in place, the product is in the precision that the run computes in, and
what is scored is what was trained. Importing this module imports bitsandbytes.
"""

from collections.abc import Callable
from typing import Any, Self

import bitsandbytes as bnb
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.models.dense_weight import dense_weight


class NF4Linear(bnb.nn.Linear4bit):
    """4-bit NormalFloat (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314v1) with blocks of 64 weights.

    The blocks' scales are float32: without the paper's double quantisation, which saves 0.37 bits a weight.
    """

    weight: Any

    @classmethod
    def of(cls, layer: nn.Linear) -> Self:
        """Quantise a layer; its bias is taken over as it is."""
        quantized = cls(
            layer.in_features,
            layer.out_features,
            bias=False,
            compress_statistics=False,
            quant_type="nf4",
            device="meta",  # draws no random numbers there
        )
        dense = layer.weight.detach().float().contiguous()
        rounded: Any = bnb.nn.Params4bit(dense, compress_statistics=False, quant_type="nf4")
        quantized.weight = rounded.to(dense.device)  # rounds, on the device where it already is
        quantized.bias = layer.bias
        return quantized.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        dtype = _product_dtype(x)
        bias = None if self.bias is None else self.bias.to(dtype)
        output: Tensor = bnb.matmul_4bit(x.to(dtype), self.weight, self.weight.quant_state, bias=bias)
        return output


class Int8Linear(bnb.nn.Linear8bitLt):
    """8-bit integers, scaled row by row to the row's largest: the weights of LLM.int8(), without its 8-bit inputs.

    See Dettmers et al. 2022, https://arxiv.org/abs/2208.07339v2.
    """

    weight: Any

    @classmethod
    def of(cls, layer: nn.Linear) -> Self:
        """Quantise a layer; its bias is taken over as it is."""
        quantized = cls(layer.in_features, layer.out_features, bias=False, has_fp16_weights=False, device="meta")
        rows, scales, _ = bnb.functional.int8_vectorwise_quant(layer.weight.detach().half())
        quantized.weight = bnb.nn.Int8Params(rows, requires_grad=False, SCB=scales)
        quantized.bias = layer.bias
        return quantized.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        dtype = _product_dtype(x)
        multiply: Callable[[Tensor, Int8Linear], Tensor] = _Product.apply
        product = multiply(x.to(dtype), self)
        return product if self.bias is None else product + self.bias.to(dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the weight's scales with it; bitsandbytes leaves them where they are."""
        move: Callable[[Callable[[Tensor], Tensor], bool], Self] = super()._apply
        move(fn, recurse)
        self.weight.SCB = self.weight.SCB.to(self.weight.device)
        return self


class _Product(torch.autograd.Function):
    """x W^T that dequantises W again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: nn.Linear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, dense_weight(layer).to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return gradient @ dense_weight(ctx.layer).to(gradient.dtype), None


def _product_dtype(x: Tensor) -> torch.dtype:
    """The format that `nn.Linear` would multiply in: autocast's where it is on, else the input's."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
