"""The contract of every method, and of the linear adapters among them.

The runner, the trainer and the store know these two classes and no method's name. A `Method` decides which
parameters train; an `Adapter` is the `Method` that wraps linear layers one by one.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor, nn

from src.errors import UserError


@dataclass
class Setup:
    """What a method may need to place itself on a model.

    `generator` None builds the same modules with empty tensors, for a state to be loaded into.
    `update_directions` (by target module) is filled only for a method that asks for it by `needs_gradient`.
    `step_size` is the learning rate of the first step that full fine-tuning would take.
    """

    target_modules: list[str] = field(default_factory=list)
    rank: int = 1
    alpha: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)
    generator: torch.Generator | None = None
    update_directions: dict[str, "UpdateDirection"] = field(default_factory=dict)
    step_size: float = 0.0


@dataclass(frozen=True)
class UpdateDirection:
    """Singular value decomposition of `-sign(G)`, G the averaged gradient of one target's weight.

    `U`: (out_features, k), `S`: (k,), `Vh`: (k, in_features), the k largest singular values first, float32.
    """

    U: Tensor
    S: Tensor
    Vh: Tensor


class Method(ABC):
    """A way to fine-tune a model."""

    needs_gradient: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def place_on(cls, model: nn.Module, setup: Setup) -> None:
        """Set up a frozen `model` so that exactly the method's parameters require gradients."""


class Adapter(nn.Module, Method):
    """A linear adapter: wraps a frozen `nn.Linear` as `base_layer` and changes what it computes.

    Subclasses set the tensors in `__init__` (empty where `generator` is None) and implement `reset_parameters`,
    `forward`, `merged_weight` and `expected_trainable`.

    Args:
        base_layer: the layer to wrap, weight (out_features, in_features); it is frozen.
        rank: inner dimension, 1 to min(out_features, in_features).
        alpha: numerator of `scaling = alpha / rank`.
        dropout: probability of dropping an element of the adapter's input while training.

    Raises:
        UserError: the rank doesn't fit the layer.
    """

    def __init__(self, base_layer: nn.Linear, *, rank: int, alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        largest = min(base_layer.in_features, base_layer.out_features)
        if not 1 <= rank <= largest:
            raise UserError(
                f"rank={rank} doesn't fit a layer of {base_layer.out_features} x {base_layer.in_features}.\n"
                f"Allowed: 1 to {largest}."
            )
        self.base_layer = base_layer.requires_grad_(False)
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        self.rank = rank
        self.scaling = alpha / rank
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()

    @classmethod
    @final
    def place_on(cls, model: nn.Module, setup: Setup) -> None:
        """Replace each target module of `model` by this adapter around it."""
        for name in setup.target_modules:
            parent_name, _, child = name.rpartition(".")
            adapter = cls.build(model.get_submodule(name), name, setup)
            setattr(model.get_submodule(parent_name), child, adapter)

    @classmethod
    def build(cls, base_layer: nn.Module, name: str, setup: Setup) -> Self:
        """Make one adapter from what the setup holds for the module called `name`."""
        given: dict[str, Any] = {"generator": setup.generator, **setup.options}
        return cls(cls.checked_layer(base_layer, name), rank=setup.rank, alpha=setup.alpha, **given)

    @classmethod
    @final
    def checked_layer(cls, module: nn.Module, name: str) -> nn.Linear:
        """The module itself where it is a linear layer.

        Raises:
            UserError: it isn't one.
        """
        if not isinstance(module, nn.Linear):
            raise UserError(f"{name} is a {type(module).__name__}; {cls.__name__} wraps nn.Linear only.")
        return module

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""

    @abstractmethod
    def merged_weight(self) -> Tensor:
        """The one matrix (out_features, in_features) that computes the same as base layer and adapter."""

    @staticmethod
    @abstractmethod
    def expected_trainable(in_features: int, out_features: int, rank: int) -> int:
        """The paper's closed form for the number of trained parameters of one matrix."""

    def merged_bias(self) -> Tensor | None:
        """The bias (out_features,) after merging."""
        return self.base_layer.bias

    def correct_gradients(self) -> None:
        """Change the gradients between clipping and the optimizer's step; most methods don't."""

    @final
    @torch.no_grad()
    def merge(self) -> nn.Linear:
        """A plain linear layer that computes the same; the adapter itself stays as it is."""
        weight, bias = self.merged_weight(), self.merged_bias()
        merged = nn.utils.skip_init(
            nn.Linear, self.in_features, self.out_features, bias=bias is not None, device=weight.device
        ).to(weight.dtype)
        merged.weight.copy_(weight)
        if bias is not None:
            merged.bias.copy_(bias)
        return merged

    @final
    def trainable_count(self) -> int:
        """Number of this adapter's parameters that require gradients."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    @final
    def own_state(self) -> dict[str, Tensor]:
        """The adapter's parameters and buffers, trained and frozen, without the base layer's."""
        return {key: tensor for key, tensor in self.state_dict().items() if not key.startswith("base_layer.")}


def scaled_product(base: Tensor, hidden: Tensor, lora_B: Tensor, scaling: float) -> Tensor:
    """base + scaling * hidden @ lora_B^T in one pass over the output.

    Args:
        base: (..., out_features), what the frozen layer computed.
        hidden: (..., rank).
        lora_B: (out_features, rank).
    """
    flat = torch.addmm(base.flatten(0, -2), hidden.flatten(0, -2), lora_B.T, alpha=scaling)
    return flat.view(base.shape)
