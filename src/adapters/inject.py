"""Find the target modules, put a method on a model, and move its state in and out."""

import re

import torch
from torch import Tensor, nn

from src.adapters.base import Adapter, Method, Setup
from src.config import ModelConfig
from src.errors import UserError, nearest_first


def find_targets(model: nn.Module, config: ModelConfig, roles: list[str]) -> list[str]:
    """Names of the modules that play `roles`, in the model's own order.

    Raises:
        UserError: the model has no such module, or one of another size than its yaml says.
    """
    modules = dict(model.named_modules())
    found: set[str] = set()
    for role in roles:
        expected = config.roles[role]
        pattern = re.compile(re.escape(expected.module).replace(r"\*", r"\d+"))
        matches = [name for name in modules if pattern.fullmatch(name)]
        if len(matches) != config.layers:
            near = nearest_first(expected.module, modules)[:5]
            raise UserError(
                f"conf/model/{config.name}.yaml says that {role} is {expected.module} in {config.layers} layers; "
                f"{len(matches)} modules have that name.\nNearest names: {', '.join(near)}."
            )
        for name in matches:
            _check_size(modules[name], name, config, role)
        found.update(matches)
    return [name for name in modules if name in found]


def _check_size(module: nn.Module, name: str, config: ModelConfig, role: str) -> None:
    expected = config.roles[role]
    size = (getattr(module, "out_features", None), getattr(module, "in_features", None))
    if size != (expected.out_features, expected.in_features):
        raise UserError(
            f"conf/model/{config.name}.yaml says that {role} is {expected.out_features} x {expected.in_features}; "
            f"{name} is {size[0]} x {size[1]}.\nCorrect the yaml."
        )


def place(model: nn.Module, method: type[Method], setup: Setup, head: list[str]) -> None:
    """Freeze `model`, apply `method`, and let the head train, as it does with every method."""
    model.requires_grad_(False)
    method.place_on(model, setup)
    for name in head:
        model.get_submodule(name).requires_grad_(True)


def adapters(model: nn.Module) -> dict[str, Adapter]:
    """The model's linear adapters by module name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Adapter)}


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """All that the base model doesn't have: trained parameters, and the frozen tensors of the adapters."""
    state: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for name, adapter in adapters(model).items():
        state |= {f"{name}.{key}": tensor for key, tensor in adapter.own_state().items()}
    return dict(sorted(state.items()))


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's own tensors as they are saved: on the CPU, without gradients."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in own_tensors(model).items()}


@torch.no_grad()
def load_adapter_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Copy a saved state into a model on which the same method was placed.

    Raises:
        UserError: the state is of another method, rank or target set.
    """
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    wanted = {name: tensor.shape for name, tensor in own_tensors(model).items()}
    given = {name: tensor.shape for name, tensor in state.items()}
    if wanted != given:
        differing = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
        raise UserError(
            f"The saved adapter doesn't fit: {len(differing)} tensors differ, {differing[0]} among them "
            f"(saved {given.get(differing[0])}, wanted {wanted.get(differing[0])}).\n"
            "Load it with the method, rank and target it was trained with."
        )
    for name, tensor in state.items():
        own[name].copy_(tensor)
