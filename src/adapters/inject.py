"""Find the target modules, inject a method into a model, and move its state in and out."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from src.adapters.base import Adapter, Method, Setup
from src.errors import UserError, nearest_first
from src.models.unfuse import check_unfused

if TYPE_CHECKING:
    from src.config.schema import ModelConfig


def find_targets(model: nn.Module, config: "ModelConfig", roles: list[str]) -> list[str]:
    """Names of the modules that play `roles`, in the model's own order.

    Raises:
        UserError: the model has no such module, or one of another size than its yaml says.
    """
    modules = dict(model.named_modules())
    _check_roles(config)
    targets: set[str] = set()
    role_modules = [(role, module) for role in roles for module in config.roles[role].module.split(" | ")]
    for role, module in role_modules:
        pattern = re.compile(re.escape(module).replace(r"\*", r"\d+"))
        matches = [name for name in modules if pattern.fullmatch(name)]
        if len(matches) != config.depth(module):
            near = nearest_first(module, modules)[:5]
            raise UserError(
                f"conf/model/{config.name}.yaml says that {role} is {module} in {config.depth(module)} layers; "
                f"{len(matches)} modules have that name.\n"
                + (_experts(modules, module) or f"Nearest names: {', '.join(near)}.")
            )
        for name in matches:
            check_unfused(model, name, config)
            _check_size(modules[name], name, config, role)
        targets.update(matches)
    return [name for name in modules if name in targets]


def _check_roles(config: "ModelConfig") -> None:
    """Refuse a module that plays two roles, and a depth of a stack in which nothing plays one."""
    role_of: dict[str, str] = {}
    for role, role_config in config.roles.items():
        for module in role_config.module.split(" | "):
            other = role_of.setdefault(module, role)
            if other != role:
                raise UserError(
                    f"conf/model/{config.name}.yaml says that {other} and {role} are both {module}.\n"
                    f"Name a module each; a matrix that holds several roles is divided by `fused`."
                )
    for stack in config.layers_of:
        if not any(module.startswith(f"{stack}.*.") for module in role_of):
            stacks = {module.split(".*.")[0] for module in role_of if ".*." in module}
            raise UserError(
                f"conf/model/{config.name}.yaml has layers_of: {stack}, where no role lies.\n"
                f"Allowed: {', '.join(nearest_first(stack, stacks))}."
            )


def _experts(modules: dict[str, nn.Module], pattern: str) -> str:
    """Why a layer of a mixture of experts isn't found: transformers keeps all experts' weights in one parameter."""
    for name, module in modules.items():
        fused = [key for key, parameter in module.named_parameters(recurse=False) if parameter.dim() == 3]
        stem = re.sub(r"\.\d+\.", ".*.", name).rpartition(".")[0]
        if fused and "expert" in name and stem and pattern.startswith(stem):
            return (
                f"{name} keeps its experts' weights in parameters of three dimensions ({', '.join(fused)}), which no "
                "method here adapts.\nLeave the role out of the yaml."
            )
    return ""


def _check_size(module: nn.Module, name: str, config: "ModelConfig", role: str) -> None:
    expected = config.roles[role]
    size = (getattr(module, "out_features", None), getattr(module, "in_features", None))
    if size != (expected.out_features, expected.in_features):
        raise UserError(
            f"conf/model/{config.name}.yaml says that {role} is {expected.out_features} x {expected.in_features}; "
            f"{name} is {size[0]} x {size[1]}.\nCorrect the yaml."
        )


@dataclass(frozen=True)
class InjectedModel:
    """A model with a method on it.

    `head` names the parameters of the head, `added` the tensors that the base model doesn't have: trained ones and
    frozen ones that are stored with the adapter. A tensor shared by several modules has the first one's name.
    """

    model: nn.Module
    head: frozenset[str]
    added: frozenset[str]

    def saved_tensors(self) -> dict[str, Tensor]:
        """All that must be saved to have the model again: what is added, and what is trained of the base model."""
        tensors = stored_tensors(self.model)
        return {name: tensor for name, tensor in sorted(tensors.items()) if tensor.requires_grad or name in self.added}

    def state(self) -> dict[str, Tensor]:
        """The model's own tensors as they are saved: on the CPU, without gradients."""
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.saved_tensors().items()}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Copy a saved state into the model.

        Raises:
            UserError: the state is of another method, rank or target set.
        """
        tensors = self.saved_tensors()
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        saved_shapes = {name: tensor.shape for name, tensor in state.items()}
        if shapes != saved_shapes:
            differing = sorted(
                name for name in shapes.keys() | saved_shapes.keys() if shapes.get(name) != saved_shapes.get(name)
            )
            raise UserError(
                f"The saved adapter doesn't fit: {len(differing)} tensors differ, {differing[0]} among them "
                f"(saved {saved_shapes.get(differing[0])}, wanted {shapes.get(differing[0])}).\n"
                "Load it with the method, rank and target it was trained with."
            )
        # Copied, not replaced: a tensor that several modules share stays shared.
        for name, tensor in state.items():
            tensors[name].copy_(tensor)
        for adapter in adapters(self.model).values():
            adapter.after_load()


def inject(model: nn.Module, method: type[Method], setup: Setup, head: list[str]) -> InjectedModel:
    """Freeze `model`, apply `method`, and let the modules named in `head` train, as they do with every method.

    Raises:
        UserError: the method doesn't fit the model, or would train the head alone under its own name.
    """
    before = stored_tensors(model)  # kept alive, so that no new tensor can have an old one's id
    base = {id(tensor) for tensor in before.values()}
    # By identity, since a method that wraps modules gives their parameters other names.
    heads = {id(parameter): parameter for name in head for parameter in model.get_submodule(name).parameters()}
    model.requires_grad_(False)
    injected = method.inject_into(model, setup)
    others = [parameter for parameter in injected.parameters() if id(parameter) not in heads]
    if heads and not method.head_alone and not any(parameter.requires_grad for parameter in others):
        raise UserError(
            f"{method.__name__} finds nothing to train in this {type(model).__name__} but its head.\n"
            "Choose adapter=head_only, which is that, or a method that adds parameters."
        )
    for parameter in heads.values():
        parameter.requires_grad_(True)
    tensors = stored_tensors(injected)
    return InjectedModel(
        injected,
        head=frozenset(name for name, tensor in tensors.items() if id(tensor) in heads),
        added=frozenset(name for name, tensor in tensors.items() if id(tensor) not in base),
    )


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The model's parameters and persistent buffers by name, each once, the very objects."""
    tensors: dict[str, Tensor] = dict(model.named_parameters())
    for prefix, module in model.named_modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                tensors[f"{prefix}.{name}".lstrip(".")] = buffer
    return tensors


def adapters(model: nn.Module) -> dict[str, Adapter]:
    """The model's linear adapters by module name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Adapter)}
