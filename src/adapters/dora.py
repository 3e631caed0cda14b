"""DoRA (Liu et al. 2024, https://arxiv.org/abs/2402.09353v6): length and direction of the weight's rows, apart.

    y = x V^T * (m / ||V||) + bias,    V = W0 + scaling * B A,    ||V|| the norms of V's rows,    scaling = alpha / rank

Trained: `lora_A` (rank, in_features), `lora_B` (out_features, rank) and the lengths m, `lora_magnitude_vector`
(out_features,), which start at W0's. Frozen: W0 and its bias. ||V|| takes no part in the gradient: section 4.3
treats it as a constant, which saves memory and costs next to no accuracy. Rows, one for each output, as in the
authors' code and PEFT.

PEFT makes V at every step; here its norm comes from the factors, so nothing of V's size is made:

    ||V||^2 = ||W0||^2 + 2 scaling <W0 A^T, B> + scaling^2 <B (A A^T), B>,    <,> the rows' inner products

W0 A^T is what the base layer makes of A, so the base may be quantized. Where the terms of a row all but cancel, their
sum is mostly rounding: such rows of V are made after all, and measured. Dropout acts on the low-rank path alone;
PEFT's drops out the input of the (m / ||V|| - 1) W0 x part as well, and runs the base layer twice for it.
"""

from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

from src.adapters.base import Adapter, LoRAFactors, checked_init, drawn_A, scaled_product
from src.adapters.fused import LowRank
from src.models.dense_weight import dense_weight

CANCELLED = 1e-2  # share of the terms' own squares that is left: below, two digits or more are lost


class DoRA(Adapter):
    """Low-rank update of the direction of a weight's rows, with their lengths trained beside it.

    Args:
        init: "gaussian", or "kaiming" as in the authors' code and PEFT.
    """

    needs_exact_weight: ClassVar[bool] = True  # for the rows' norms
    base_squares: Tensor  # (out_features,), ||W0||^2

    def create(self, *, init: str = "gaussian") -> None:
        """Make A, B and m, and keep the rows' lengths of W0."""
        self.init = checked_init(init)
        self.lora_A = self.parameter(self.rank, self.in_features)  # (rank, in_features)
        self.lora_B = self.parameter(self.out_features, self.rank)  # (out_features, rank)
        self.lora_magnitude_vector = self.parameter(self.out_features)  # (out_features,)
        weight = dense_weight(self.base_layer).detach()
        wide = torch.promote_types(weight.dtype, torch.float32)
        squares = torch.linalg.vector_norm(weight, dim=1, dtype=wide).square()
        self.register_buffer("base_squares", squares, persistent=False)
        self._norms: Tensor | None = None
        self._measured_of: list[Any] = []  # the state of all that the norms depend on; empty: not known any more
        self._in_step = False  # from a training step's beginning to its optimizer

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw A in float32, set B to zero and m to ||W0||."""
        self.lora_A.copy_(drawn_A(self.init, self.rank, self.in_features, generator))
        self.lora_B.zero_()
        self.lora_magnitude_vector.copy_(self.row_norms())

    @classmethod
    def on_step(cls, adapters: list[Self], draw: float) -> None:
        """Measure all layers' norms, and ask a GPU only once whether any of their rows must be measured densely."""
        squares = [adapter._squares() for adapter in adapters]
        cancelled = torch.stack([rows.any() for _, rows in squares]).tolist()
        for adapter, (sums, rows), any_row in zip(adapters, squares, cancelled, strict=True):
            adapter._keep_norms(sums, rows if any_row else None)
            adapter._in_step = True

    def correct_gradients(self) -> None:
        """Change none, but forget the norms: the optimizer's step follows."""
        self._in_step = False
        self._forget_norms()

    def row_norms(self) -> Tensor:
        """||W0 + scaling B A||, (out_features,), in float32 or wider; measured once as long as nothing changes."""
        if not self._in_step and (self._norms is None or self._measured_of != self._versions()):
            self._keep_norms(*self._squares())
        assert self._norms is not None
        return self._norms

    def _forget_norms(self, gradient: Tensor | None = None) -> None:
        self._measured_of = []

    def _versions(self) -> list[Any]:
        tensors = (self.lora_A, self.lora_B, self.base_layer.weight, self.base_squares)
        return [(tensor.untyped_storage()._cdata, tensor._version, tensor.device, tensor.dtype) for tensor in tensors]

    @torch.no_grad()
    def _keep_norms(self, squares: Tensor, cancelled: Tensor | None) -> None:
        """Take the roots of the rows' squares, those that cancelled measured densely."""
        # Tensors without numbers, with which memory is predicted, have no rows to choose.
        if cancelled is not None and not isinstance(cancelled, FakeTensor) and len(rows := cancelled.nonzero()[:, 0]):
            B = self.lora_B[rows].to(squares.dtype)
            dense = dense_weight(self.base_layer)[rows].to(B.dtype) + self.scaling * B @ self.lora_A.to(B.dtype)
            squares[rows] = dense.square().sum(1)
        norms = squares.clamp(min=torch.finfo(squares.dtype).tiny).sqrt()  # a row of zeros divides by no zero
        if self._norms is not None and self._norms.device == norms.device and self._norms.dtype == norms.dtype:
            self._norms.copy_(norms)  # where a recorded step reads them
        else:
            self._norms = norms
        self._measured_of = self._versions()

    @torch.no_grad()
    def _squares(self) -> tuple[Tensor, Tensor]:
        """The norms' squares from the factors, and the rows where the terms all but cancel, (out_features,) each."""
        weight = self.base_layer.weight
        with torch.autocast(self.lora_A.device.type, enabled=False):
            factor = self.lora_A.to(weight.dtype) if weight.is_floating_point() else self.lora_A
            projected = self.base_layer(factor)  # (rank, out_features)
            if self.base_layer.bias is not None:
                projected = projected - self.base_layer.bias
            A, B = self.lora_A.to(self.base_squares.dtype), self.lora_B.to(self.base_squares.dtype)
            cross = (projected.T * B).sum(1)  # <W0 A^T, B>
            square = (B @ (A @ A.T) * B).sum(1)  # <B (A A^T), B>
            squares: Tensor = self.base_squares + 2 * self.scaling * cross + self.scaling**2 * square
            return squares, self._cancelled(squares, A, B)

    def _cancelled(self, squares: Tensor, A: Tensor, B: Tensor) -> Tensor:
        """Which rows' squares are too small a remainder of what they were summed from, (out_features,)."""
        # What the square would be if W0 and the products of B's entries with A's rows were all orthogonal.
        summed = self.base_squares + self.scaling**2 * B.square() @ A.square().sum(1)
        return squares < CANCELLED * summed

    def row_scales(self) -> Tensor:
        """m / ||V||, (out_features,), with ||V|| a constant to the gradient (section 4.3): exactly 1 at the start."""
        scales = self.lora_magnitude_vector / self.row_norms().to(self.lora_magnitude_vector.dtype)
        if scales.requires_grad:
            # After a backward pass the tensors may change, and a fused optimizer leaves their versions as they are.
            scales.register_hook(self._forget_norms)
        return scales

    def composed(self, x: Tensor) -> Tensor:
        """Map x (..., in_features) to (..., out_features) by Eq. 5: h = m (W0 + BA) x / ||W0 + BA||."""
        hidden = F.linear(self.dropout(x), self.lora_A)  # (..., rank)
        plain = scaled_product(self.base_layer(x), hidden, self.lora_B, self.scaling)  # x V^T + bias
        bias = self.base_layer.bias
        product = plain if bias is None else plain - bias.to(plain.dtype)  # x V^T: kept for m's gradient
        return torch.addcmul(plain, product, (self.row_scales() - 1).to(plain.dtype))

    def low_rank(self) -> LowRank:
        """A and B, and the factors of the rows."""
        return LowRank(self.lora_A, self.lora_B, self.scaling, row_scales=self.row_scales())

    def merged_weight(self) -> Tensor:
        """m (W0 + scaling B A) / ||W0 + scaling B A||, (out_features, in_features)."""
        return self.row_scales()[:, None] * (dense_weight(self.base_layer) + self.scaling * self.lora_B @ self.lora_A)

    def lora_factors(self) -> LoRAFactors:
        """A and B themselves, with the rows' lengths."""
        return LoRAFactors(self.lora_A, self.lora_B, self.scaling, magnitude=self.lora_magnitude_vector)

    @staticmethod
    def expected_trainable(in_features: int, out_features: int, rank: int) -> int:
        """r (in + out) + out: LoRA's count and the lengths."""
        return rank * (in_features + out_features) + out_features
