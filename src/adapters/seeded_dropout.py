"""Dropout whose mask is made from a seed, and made again in backward: nothing of the input's size is kept for it.

Bits decide for 16-bit numbers at once: a mask of -1 and 0 that is laid over the numbers' own bits, drawn four to a
64-bit number.
"""

import math

import torch
from torch import Tensor, nn

STEPS = 2**15  # the probability is rounded to multiples of 1 / STEPS, and what is kept scaled by the rounded one
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the bytes of a number


class SeededDropout(nn.Module):
    """Sets elements to zero with probability p while training, and scales the others by 1 / (1 - p).

    Args:
        p: 0 to 1.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = round(p * STEPS) / STEPS

    @property
    def scale(self) -> float:
        """The factor of what is kept."""
        return 1 / (1 - self.p) if self.p < 1 else 0.0

    def draw(self) -> int | None:
        """The seed of a mask, from the global random state; None where nothing is dropped."""
        return int(torch.randint(2**62, ()).item()) if self.training and self.p > 0 else None

    def dropped(self, x: Tensor, seed: int) -> Tensor:
        """x with zeros, and not scaled: equal seeds, devices and numbers of elements have equal zeros."""
        return _Masked.apply(x, self.p, seed)  # type: ignore[no-untyped-call, no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """x with zeros and scaled; x itself where nothing is dropped."""
        seed = self.draw()
        return x if seed is None else self.dropped(x, seed) * self.scale

    def extra_repr(self) -> str:
        """The probability, for printing."""
        return f"p={self.p}"


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, p: float, seed: int) -> Tensor:
        ctx.p, ctx.seed = p, seed  # type: ignore[attr-defined]
        return masked(x, mask_of(x.shape, x, p, seed))

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None, None]:
        dy = gradients[0]
        return masked(dy, mask_of(dy.shape, dy, ctx.p, ctx.seed)), None, None  # type: ignore[attr-defined]


def mask_of(shape: tuple[int, ...], like: Tensor, p: float, seed: int) -> Tensor:
    """The seed's mask of a shape: all bits where an element is kept, none where it isn't.

    Args:
        like: whose device it is on, and whose numbers are as wide as its integers.
    """
    count, device = math.prod(shape), like.device
    generator = torch.Generator(device).manual_seed(seed)
    drawn = torch.empty(-(-count // 4), dtype=torch.int64, device=device).random_(-(2**63), None, generator=generator)
    numbers = drawn.view(torch.int16)[:count].view(shape)
    # An arithmetic shift of the sign: -1, all bits, where the lower 15 bits are at least p, and else 0.
    kept = numbers.bitwise_and_(STEPS - 1).neg_().add_(round(p * STEPS) - 1).bitwise_right_shift_(15)
    return kept.to(BITS[like.element_size()])


def masked(x: Tensor, mask: Tensor) -> Tensor:
    """x with zeros where the mask has them."""
    return x.contiguous().view(mask.dtype).bitwise_and(mask).view(x.dtype)
