"""Put together a run's model and method from its config: what training, counting and export all start from."""

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from src.adapters.base import Adapter, Method, Setup
from src.adapters.inject import InjectedModel, find_targets, inject
from src.config.schema import AdaptedModel, Config
from src.models.base_model import BaseModel, load_base
from src.streams import stream_generator


def method_of(config: AdaptedModel) -> type[Method]:
    """The class that implements the config's method."""
    module, name = config.adapter.method.rsplit(".", 1)
    method: type[Method] = getattr(importlib.import_module(module), name)
    return method


def empty_setup(config: AdaptedModel, model: nn.Module) -> Setup:
    """The method's setup without its initial values.

    Raises:
        UserError: the model hasn't the modules that its yaml claims.
    """
    return Setup(
        target_modules=find_targets(model, config.model, config.target_roles()),
        rank=config.rank,
        alpha=config.alpha or 1.0,
        # An option that is null is off: the method isn't told of it.
        options={key: value for key, value in config.adapter.options.items() if value is not None},
        # All roles, whatever the run's targets: a method of PEFT may name any of them.
        modules_of_role={role: find_targets(model, config.model, [role]) for role in config.model.roles},
        layers=layer_names(config, model),
        config=config.adapter.config,
        float_weight=_float_weight(config, model) if getattr(config, "quantization", "none") != "none" else None,
    )


def _float_weight(config: AdaptedModel, model: Any) -> Callable[[str], Tensor]:
    """What gives a layer's weight as it was before it was quantized; the base is loaded when it is first asked."""

    def weight(name: str) -> Tensor:
        labels = model.config.num_labels if config.model.architecture == "classifier" else 0
        base = load_base(
            config.model, num_labels=labels, attention=model.config._attn_implementation, quantization="none"
        )
        return base.module.get_parameter(f"{name}.weight")

    return weight


def inject_empty(config: AdaptedModel, model: nn.Module) -> InjectedModel:
    """Inject the config's method into a model without initial values: to be counted, or to be loaded into."""
    return inject(model, method_of(config), empty_setup(config, model), config.model.head)


def fresh_model(config: Config, base: BaseModel, device: str = "cpu") -> Any:
    """A copy of the base model on `device` with the head that the run's seed draws.

    It shares the base's parameters with all other copies where the run's method leaves them as they are.
    """
    method = method_of(config)
    shares = issubclass(method, Adapter) and method.leaves_base
    return base.fresh_copy(config.model.head, stream_generator(config.seed, "head_init"), shares=shares).to(device)  # type: ignore


def restored(config: Config, base: BaseModel, adapter: Path, device: str = "cpu") -> InjectedModel:
    """A run's model again: its saved adapter, read from a file, on a fresh copy of the base."""
    injected = inject_empty(config, fresh_model(config, base, device))
    injected.load(load_file(adapter))
    return injected


def layer_names(config: AdaptedModel, model: nn.Module) -> list[str]:
    """Names of the model's blocks, first to last: what a role's module name says up to its `*`."""
    # Roles lie in blocks, so what stands before the first number is the path of a stack of them.
    stacks = {name.split("*")[0] + "*" for role in config.model.roles.values() for name in role.module.split(" | ")}
    patterns = [re.compile(re.escape(stack).replace(r"\*", r"\d+")) for stack in sorted(stacks)]
    return [name for name, _ in model.named_modules() if any(pattern.fullmatch(name) for pattern in patterns)]
