"""The contract of every method, and of the linear adapters among them.

The runner, the trainer and the store know these two classes and no method's name. A `Method` decides which
parameters train; an `Adapter` is the `Method` that wraps linear layers one by one.
"""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

import torch
from torch import Tensor, nn

from src.adapters.fused import LowRank, can_fuse, low_rank_linear
from src.adapters.read_weight import ReadWeight
from src.adapters.seeded_dropout import SeededDropout
from src.errors import UserError, nearest_first
from src.models.dense_weight import dense_weight

if TYPE_CHECKING:
    from src.config.schema import AdaptedModel


# What a keyword of `create` may be called in a yaml, by its annotation; bool is an int to Python, but no number here.
OPTION_TYPES: dict[Any, tuple[type, ...]] = {
    bool: (bool,), int: (int,), float: (int, float), float | None: (int, float), str: (str,),
}  # fmt: skip
INITS = ("gaussian", "kaiming")


@dataclass
class Setup:
    """What a method may need to inject itself into a model.

    `generator` None builds the same modules with empty tensors, for a state to be loaded into.
    `modules_of_role` has the names of the modules by role, `layers` those of the model's blocks, first to last;
    `config` is the adapter's yaml of that name. `update_directions` (by target module) is filled only for a method
    that asks for it by `needs_gradient`. `step_size` is the learning rate of the first step that full fine-tuning
    would take. `float_weight` gives a target's weight as it was before the base was quantized; None where it isn't.
    """

    target_modules: list[str] = field(default_factory=list)
    rank: int = 1
    alpha: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)
    modules_of_role: dict[str, list[str]] = field(default_factory=dict)
    layers: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    generator: torch.Generator | None = None
    update_directions: dict[str, "UpdateDirection"] = field(default_factory=dict)
    step_size: float = 0.0
    float_weight: Callable[[str], Tensor] | None = None


@dataclass(frozen=True)
class UpdateDirection:
    """Singular value decomposition of `-sign(G)`, G the averaged gradient of one target's weight.

    `U`: (out_features, k), `S`: (k,), `Vh`: (k, in_features), the k largest singular values first, float32; `residual`
    is how far they are from being singular vectors, see `src.adapters.decomposition`.
    """

    U: Tensor
    S: Tensor
    Vh: Tensor
    residual: float = 0.0


class Method(ABC):
    """A way to fine-tune a model."""

    needs_gradient: ClassVar[bool] = False
    head_alone: ClassVar[bool] = False  # trains nothing beside the head, and is meant to

    @classmethod
    def check(cls, config: "AdaptedModel") -> None:
        """Check `adapter.config` before any model is loaded; called where there is one.

        Raises:
            UserError: the method can't use it; most methods have none.
        """
        raise UserError(
            f"adapter={config.adapter.name} takes no adapter.config.\nAllowed: adapter.options, or adapter=peft/custom."
        )

    @classmethod
    @abstractmethod
    def inject_into(cls, model: nn.Module, setup: Setup) -> nn.Module:
        """Set up a frozen `model` so that exactly the method's parameters require gradients; return what to train."""


@dataclass(frozen=True)
class LoRAFactors:
    """An adapter's update of W0 as scaling * B A, in whatever rank that takes.

    `A`: (rank, in_features), `B`: (out_features, rank). `magnitude`: (out_features,) where the rows of W0 + update
    are scaled to these lengths, as in DoRA.
    """

    A: Tensor
    B: Tensor
    scaling: float
    magnitude: Tensor | None = None


class Adapter(nn.Module, Method):
    """A linear adapter: wraps a frozen `nn.Linear` as `base_layer` and changes what it computes.

    A method's file says what that method differs in: `create` makes its tensors and takes its options,
    `reset_parameters` sets them to its start, `forward`, `lora_factors` or `merged_weight`, and `expected_trainable`.
    The other methods have defaults that suit most.

    Args:
        base_layer: the layer to wrap, weight (out_features, in_features), quantized or not; it is frozen.
        rank: inner dimension, 1 to min(out_features, in_features).
        alpha: numerator of `scaling`, by default alpha / rank.
        dropout: probability of dropping an element of the adapter's input while training.
        generator: source of the start's random numbers; None leaves the tensors at zero, for a state to be loaded.
        options: the method's own, the keywords of its `create`.

    Attributes:
        lr_ratios: how many times the method's learning rate a parameter of that name gets, where it isn't 1.

    Raises:
        UserError: the rank doesn't fit the layer, or the dropout is no probability.
    """

    replayable: ClassVar[bool] = True  # a training step does the same with other numbers: see `src.training.graphs`
    leaves_base: ClassVar[bool] = True  # its parameters as they are, so that runs may share them
    any_rank: ClassVar[bool] = False  # the rank may exceed the layer's size
    nested: ClassVar[bool] = False  # one training gives an adapter of every smaller rank too: see `truncate`
    has_dropout: ClassVar[bool] = True
    needs_exact_weight: ClassVar[bool] = False  # beside the product with x, for which a rounded weight does as well
    outside_peft: ClassVar[tuple[str, ...]] = ()  # frozen tensors that are no parameters where PEFT has the method

    @final
    def __init__(
        self,
        base_layer: nn.Linear,
        *,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        largest = min(base_layer.in_features, base_layer.out_features)
        if rank < 1 or (rank > largest and not self.any_rank):
            raise UserError(
                f"rank={rank} doesn't fit a layer of {base_layer.out_features} x {base_layer.in_features}.\n"
                f"Allowed: 1 {'or more' if self.any_rank else f'to {largest}'}."
            )
        self.base_layer = base_layer.requires_grad_(False)
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        self.rank, self.alpha = rank, alpha
        self.scaling = self.scaling_of(alpha, rank)
        if not 0 <= dropout <= 1:
            raise UserError(f"adapter.options.dropout={dropout} is no probability.\nAllowed: 0 to 1.")
        self.dropout = SeededDropout(dropout)
        self.weight_is_read = False  # by a module that computes with this one's weight itself
        self.lr_ratios: dict[str, float] = {}
        self.create(**options)
        if generator is not None:
            self.reset_parameters(generator)

    @abstractmethod
    def create(self) -> None:
        """Make the tensors, of zeros; a method's options are the keywords of its own, typed and with defaults."""

    @abstractmethod
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Set the tensors to the method's start."""

    @classmethod
    @final
    def inject_into(cls, model: nn.Module, setup: Setup) -> nn.Module:
        """Replace each target module of `model` by this adapter around it.

        Raises:
            UserError: a target is no linear layer, or the method hasn't one of the options.
        """
        # Looked at before the first is replaced, so that a target of another kind leaves the model as it was.
        cls.check_options(setup)
        layers = {name: cls.checked_layer(model.get_submodule(name), name) for name in setup.target_modules}
        shared = cls.shared_tensors(layers, setup)
        made = {name: cls.build(layer, name, setup, shared) for name, layer in layers.items()}
        cls.settle(model, made)
        built = {id(layers[name]): adapter for name, adapter in made.items()}
        # Wherever the layer stands: a module that two others share is adapted in both.
        for parent in [module for module in model.modules() if not isinstance(module, Adapter)]:
            for child, module in parent._modules.items():
                if id(module) in built:
                    setattr(parent, child, built[id(module)])
        return model

    @classmethod
    def settle(cls, model: nn.Module, adapters: dict[str, Self]) -> None:
        """Change what stands around the layers whose place the adapters are about to take; most methods don't."""

    @classmethod
    def check_options(cls, setup: Setup) -> None:
        """Refuse an option that the method doesn't have, or a value of another type.

        Raises:
            UserError: there is one.
        """
        keywords = inspect.signature(cls.create).parameters.values()
        # Tensors among the keywords come from `build` and `shared_tensors`, never from a yaml.
        plain = {keyword.name: keyword.annotation for keyword in keywords if keyword.annotation in OPTION_TYPES}
        # Nor is a keyword an option that the setup has a field for, such as LoRA-SB's step_size.
        types = {name: kind for name, kind in plain.items() if not hasattr(setup, name)}
        types |= {"dropout": float} if cls.has_dropout else {}
        for option, value in setup.options.items():
            if option not in types:
                allowed = ", ".join(nearest_first(option, types)) or "none"
                raise UserError(f"adapter.options.{option} is no option of {cls.__name__}.\nAllowed: {allowed}.")
            _check_type(option, value, OPTION_TYPES[types[option]])

    @classmethod
    def build(cls, base_layer: nn.Linear, name: str, setup: Setup, shared: dict[str, Any]) -> Self:
        """Make one adapter from what the setup holds for the module called `name`."""
        arguments: dict[str, Any] = {"generator": setup.generator, **shared, **setup.options}
        return cls(base_layer, rank=setup.rank, alpha=setup.alpha, **arguments)

    @classmethod
    def shared_tensors(cls, layers: dict[str, nn.Linear], setup: Setup) -> dict[str, Any]:
        """Arguments that all adapters of a model are built with; most methods share nothing."""
        return {}

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

    @staticmethod
    def scaling_of(alpha: float, rank: int) -> float:
        """The factor of the update: alpha / rank."""
        return alpha / rank

    @property
    def weight(self) -> Tensor:
        """What a module reads that expects a linear layer here: (out_features, in_features), see `ReadWeight`."""
        self.weight_is_read = True
        return ReadWeight(self)

    @property
    def bias(self) -> Tensor | None:
        """The bias (out_features,) that belongs to `weight`."""
        return self.merged_bias()

    @final
    def parameter(self, *shape: int, trained: bool = True) -> nn.Parameter:
        """A new parameter of zeros beside the base layer's weight, in float32 or its finer format."""
        return parameter_beside(self.base_layer, *shape, trained=trained)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features): what `composed` does, in one function where that is possible.

        A method whose update isn't low-rank has a `forward` of its own instead of `composed` and `low_rank`.
        """
        if not can_fuse(self.base_layer, x):
            return self.composed(x)
        return low_rank_linear(x, self.base_layer, self.low_rank(), self.dropout)

    def composed(self, x: Tensor) -> Tensor:
        """The paper's equation in PyTorch's own operations, which the one function is held to."""
        raise NotImplementedError(f"{type(self).__name__} must say what it computes.")

    def low_rank(self) -> LowRank:
        """The update as it is trained, for the function that computes layer and update at once."""
        raise NotImplementedError(f"{type(self).__name__} must say what it trains.")

    def merged_weight(self) -> Tensor:
        """The one matrix (out_features, in_features) that computes the same: W0 and the update by `lora_factors`."""
        factors = self.lora_factors()
        if factors is None or factors.magnitude is not None:
            raise NotImplementedError(f"{type(self).__name__} must say how it merges.")
        return dense_weight(self.base_layer) + factors.scaling * factors.B @ factors.A

    @staticmethod
    @abstractmethod
    def expected_trainable(in_features: int, out_features: int, rank: int) -> int:
        """The paper's closed form for the number of trained parameters of one matrix."""

    def merged_bias(self) -> Tensor | None:
        """The bias (out_features,) after merging."""
        return self.base_layer.bias

    def correct_gradients(self) -> None:
        """Change the gradients between clipping and the optimizer's step; most methods don't."""

    @classmethod
    def on_step(cls, adapters: list[Self], draw: float) -> None:
        """Prepare a model's adapters for a training step; `draw` is one number from [0, 1) for all of them."""

    def after_load(self) -> None:
        """Take up a state just loaded into the tensors; most methods have nothing to do."""

    def truncate(self, rank: int) -> None:
        """Compute from now on, outside training, with the first `rank` of a nested method's ranks."""
        raise NotImplementedError(f"{type(self).__name__} isn't nested.")

    def lora_factors(self) -> LoRAFactors | None:
        """The update as a LoRA or a DoRA of some rank; None where it isn't one."""
        return None

    @final
    @torch.no_grad()
    def merge(self) -> nn.Linear:
        """A plain linear layer that computes the same; the adapter itself stays as it is."""
        weight, bias = self.merged_weight(), self.merged_bias()
        # Without a start: drawing one would move the global random state.
        merged: nn.Linear = nn.utils.skip_init(
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


def _check_type(option: str, value: Any, types: tuple[type, ...]) -> None:
    """Refuse an option's value of another type than its method takes."""
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        kind = "a number" if float in types else {bool: "true or false", int: "a whole number", str: "a word"}[types[0]]
        raise UserError(f"adapter.options.{option}={value} isn't {kind}.\nAllowed: {kind}.")


def drawn_A(init: str, rank: int, in_features: int, generator: torch.Generator) -> Tensor:
    """The start of a LoRA's A, (rank, in_features), in float32.

    Args:
        init: "gaussian" for variance 1 / in_features, or "kaiming" for the uniform distribution of loralib and PEFT,
            whose variance is a third of that.
    """
    drawn = torch.empty(rank, in_features)
    if init == "gaussian":
        return drawn.normal_(0.0, 1 / math.sqrt(in_features), generator=generator)
    return nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)


def checked_init(init: str) -> str:
    """The name of A's start itself.

    Raises:
        UserError: there is no such start.
    """
    if init not in INITS:
        raise UserError(f"adapter.options.init={init} is not known.\nAllowed: {', '.join(nearest_first(init, INITS))}.")
    return init


def parameter_beside(layer: nn.Linear, *shape: int, trained: bool = True) -> nn.Parameter:
    """A new parameter of zeros on the layer's device, in float32, or its weight's format where that is finer."""
    floating = layer.weight.dtype if layer.weight.is_floating_point() else torch.float32
    dtype = torch.promote_types(floating, torch.float32)
    return nn.Parameter(torch.zeros(*shape, dtype=dtype, device=layer.weight.device), requires_grad=trained)


def scaled_product(base: Tensor, hidden: Tensor, lora_B: Tensor, scaling: float) -> Tensor:
    """base + scaling * hidden @ lora_B^T in one pass over the output.

    Args:
        base: (..., out_features), what the frozen layer computed.
        hidden: (..., rank).
        lora_B: (out_features, rank).
    """
    rows, read = (tensor.reshape(-1, tensor.shape[-1]) for tensor in (base, hidden))
    flat = torch.addmm(rows, read, lora_B.T, alpha=scaling)
    return flat.view(base.shape)
