"""Turn fused and transposed projections into plain linear layers, one per role, and their weights back.

GPT-2 keeps query, key and value in one `Conv1D`, a linear layer whose weight lies transposed, (in, out). Methods
adapt an `nn.Linear` that plays one role, so every `Conv1D` becomes an equal `nn.Linear`, and a fused one a `Split`.
"""

import re

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from src.errors import UserError, nearest_first


class Split(nn.Module):
    """Linear layers over the same input, their outputs side by side.

    Args:
        weight: (out_features, in_features), divided equally among `names`.
        bias: (out_features,).
        names: the layers' names, in the order of their outputs.
    """

    def __init__(self, weight: Tensor, bias: Tensor, names: list[str]) -> None:
        super().__init__()
        self.names = list(names)
        count = len(names)
        for name, rows, offsets in zip(names, weight.chunk(count), bias.chunk(count), strict=True):
            self.add_module(name, _linear(rows, offsets))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        return torch.cat([self.get_submodule(name)(x) for name in self.names], dim=-1)


def unfuse(model: nn.Module, fused: dict[str, list[str]]) -> None:
    """Replace every `Conv1D` of `model` by an equal `nn.Linear`, or by a `Split` where `fused` names its layers.

    Args:
        fused: the names of the layers by the module's name, in which `*` stands for digits.

    Raises:
        UserError: `fused` names a module that the model doesn't have.
    """
    modules = {name: module for name, module in model.named_modules() if isinstance(module, Conv1D)}
    names_of = _names_by_module(list(modules), fused)
    for name, module in modules.items():
        weight, bias = module.weight.detach().T, module.bias.detach()
        plain = Split(weight, bias, names_of[name]) if name in names_of else _linear(weight, bias)
        model.set_submodule(name, plain.requires_grad_(module.weight.requires_grad).train(module.training))


def _names_by_module(module_names: list[str], fused: dict[str, list[str]]) -> dict[str, list[str]]:
    names_of: dict[str, list[str]] = {}
    for fused_name, names in fused.items():
        pattern = re.compile(re.escape(fused_name).replace(r"\*", r"\d+"))
        matches = [name for name in module_names if pattern.fullmatch(name)]
        if not matches:
            near = ", ".join(nearest_first(fused_name, module_names)[:5])
            raise UserError(
                f"fused names {fused_name}; the model has no such Conv1D.\nNearest names: {near or 'it has no Conv1D'}."
            )
        names_of |= dict.fromkeys(matches, names)
    return names_of


def fused_state_dict(model: PreTrainedModel) -> dict[str, Tensor]:
    """The weights of an unfused model, its adapters merged, as its plain transformers class names and lays them out.

    `model.save_pretrained(folder, state_dict=fused_state_dict(model))` writes a checkpoint that needs no `unfuse`.
    """
    with torch.device("meta"):
        original = type(model)(model.config)
    state, tensors = {}, model.state_dict()
    for key in original.state_dict():
        name, _, kind = key.rpartition(".")
        was, module = original.get_submodule(name), model.get_submodule(name)
        state[key] = (
            tensors[key] if key in tensors else torch.cat([tensors[f"{part}.{kind}"] for part in _parts(name, module)])
        )
        if kind == "weight" and isinstance(was, Conv1D) and not isinstance(module, Conv1D):
            state[key] = state[key].T.contiguous()
    return state


def _parts(name: str, module: nn.Module) -> list[str]:
    if not isinstance(module, Split):
        raise ValueError(f"{name} is a {type(module).__name__} without its original's weights.\nMerge adapters first.")
    return [f"{name}.{part}" for part in module.names]


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")  # draws no random numbers there
    linear.weight = nn.Parameter(weight.clone(memory_format=torch.contiguous_format))
    linear.bias = nn.Parameter(bias.clone())
    return linear
