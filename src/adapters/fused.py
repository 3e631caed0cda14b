"""A frozen linear layer and its low-rank update as one function, which keeps and moves no more than it must.

    y = (x W0^T + scaling * drop(x) A^T R^T B^T) * row_scales + bias

`R` is LoRA-XS's and LoRA-SB's, `row_scales` DoRA's; other methods have neither. Composed of PyTorch's own operations
the same keeps more for backward: under autocast each use of x a cast of its own, and the cast of every frozen weight.
Here x is cast once for all layers that read it and kept only if A is trained; else only the `rank` numbers a token of
x A^T are. Backward adds the adapter's part of x's gradient in the same pass as the layer's.
"""

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from src.adapters.seeded_dropout import SeededDropout, mask_of, masked


@dataclass(frozen=True)
class LowRank:
    """An update of a frozen layer, as it is trained.

    `A`: (rank, in_features), `B`: (out_features, rank), `R`: (rank, rank) where there is one, `row_scales`:
    (out_features,) by which the rows of W0 + update are multiplied where they are.
    """

    A: Tensor
    B: Tensor
    scaling: float
    R: Tensor | None = None
    row_scales: Tensor | None = None


def can_fuse(layer: nn.Linear, x: Tensor) -> bool:
    """Whether the function computes what the layer does: a plain one, with nothing that listens to its calls."""
    listens = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    plain = type(layer) is nn.Linear and layer.weight.is_floating_point() and not listens
    # Where nothing casts, a layer of another format refuses its input, as it should.
    casts = torch.is_autocast_enabled(x.device.type)
    return plain and not torch.compiler.is_compiling() and (casts or x.dtype == layer.weight.dtype)


def low_rank_linear(x: Tensor, layer: nn.Linear, update: LowRank, dropout: SeededDropout | None = None) -> Tensor:
    """What a frozen layer and its update make of x.

    Args:
        x: (..., in_features).
        dropout: acts on what the update reads.

    Returns:
        (..., out_features), in the format that autocast computes in, or else in x's.
    """
    seed, scaling = dropout.draw() if dropout else None, update.scaling
    drop = None
    if dropout and seed is not None:
        drop, scaling = (dropout.p, seed), scaling * dropout.scale
    tensors = (
        shared_cast(x, _computed_in(x)),
        layer.weight,
        layer.bias,
        update.A,
        update.R,
        update.B,
        update.row_scales,
    )
    y: Tensor = _LowRankLinear.apply(x, *tensors, scaling, drop)  # type: ignore[no-untyped-call]
    return y


def _computed_in(x: Tensor) -> torch.dtype:
    """The format that a matrix product with x is computed in here."""
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


class _Last:
    """The last tensor that was cast, and its cast; forgotten with the tensor."""

    source: Any = staticmethod(lambda: None)
    version = -1
    cast: Tensor | None = None

    @classmethod
    def forget(cls, source: Any) -> None:
        if cls.source is source:
            cls.cast = None


def shared_cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor in another format, without a gradient; the same for query, key and value, which read one tensor.

    Its owner may change it in place: then it is cast anew.
    """
    if x.dtype == dtype or x.is_inference():
        return x.detach().to(dtype)
    cast = _Last.cast
    if _Last.source() is not x or _Last.version != x._version or cast is None or cast.dtype != dtype:
        cast = x.detach().to(dtype)
        _Last.source, _Last.version, _Last.cast = weakref.ref(x, _Last.forget), x._version, cast
    return cast


class _LowRankLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        cast: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        A: Tensor,
        R: Tensor | None,
        B: Tensor,
        row_scales: Tensor | None,
        scaling: float,
        drop: tuple[float, int] | None,
    ) -> Tensor:
        dtype = cast.dtype
        rows = cast.reshape(-1, cast.shape[-1])  # (tokens, in_features)
        read = rows if drop is None else masked(rows, mask_of(rows.shape, rows, *drop))
        # With the tokens last: a CPU takes longer for the same products with the rank last.
        hidden = A.to(dtype) @ read.T  # (rank, tokens)
        inner = hidden if R is None else R.to(dtype) @ hidden
        scaled_B = (scaling * B).to(dtype)
        weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        y = F.linear(rows, weight, bias if row_scales is None else None).addmm_(inner.T, scaled_B.T)
        product = y
        if row_scales is not None:
            y = product * row_scales.to(dtype)
            if bias is not None:
                y += bias
        trains_A, trains_R, trains_B, trains_rows = ctx.needs_input_grad[4:8]
        ctx.save_for_backward(
            rows if trains_A else None,
            hidden if trains_R or (trains_B and R is None) else None,
            inner if trains_B and R is not None else None,
            product if trains_rows else None,
            weight, A, R, B, row_scales,
        )  # fmt: skip
        ctx.scaling, ctx.drop, ctx.shape, ctx.x_dtype, ctx.dtype = scaling, drop, x.shape, x.dtype, dtype
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, hidden, inner, product, weight, A, R, B, row_scales = ctx.saved_tensors
        dtype = ctx.dtype
        _, _, trains_A, trains_R, trains_B, trains_rows = ctx.needs_input_grad[2:8]
        needs_x = ctx.needs_input_grad[0]
        dy = gradients[0].to(dtype).reshape(-1, gradients[0].shape[-1])  # (tokens, out_features)
        d_rows_scales = (dy * product).sum(0).to(row_scales.dtype) if trains_rows else None
        if row_scales is not None:
            dy = dy * row_scales.to(dtype)
        d_B = None
        if trains_B:
            d_B = ((hidden if R is None else inner) @ dy).T.to(B.dtype).mul_(ctx.scaling)
        d_A = d_R = d_x = None
        if needs_x or trains_A or trains_R:
            d_inner = (ctx.scaling * B).to(dtype).T @ dy.T  # (rank, tokens)
            if trains_R:
                d_R = (d_inner @ hidden.T).to(R.dtype)
            d_hidden = d_inner if R is None else R.to(dtype).T @ d_inner
            mask = None
            if ctx.drop is not None and (trains_A or needs_x):
                mask = mask_of((len(dy), A.shape[1]), dy, *ctx.drop)
            if trains_A:
                d_A = (d_hidden @ (rows if mask is None else masked(rows, mask))).to(A.dtype)
            if needs_x:
                d_x = dy @ weight
                if mask is None:
                    d_x.addmm_(d_hidden.T, A.to(dtype))
                else:
                    d_x += masked(d_hidden.T @ A.to(dtype), mask)
                d_x = d_x.view(ctx.shape).to(ctx.x_dtype)
        return d_x, None, None, None, d_A, d_R, d_B, d_rows_scales, None, None
