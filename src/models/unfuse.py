"""Turn fused and transposed projections into plain linear layers, one per role, and their weights back.

GPT-2 keeps query, key and value in one `Conv1D`, a linear layer whose weight lies transposed, (in, out); Phi-3 has one
`nn.Linear` for the three and one for both halves of its feed-forward; GPT-NeoX's has the three of the first head, then
those of the second. Methods adapt an `nn.Linear` that plays one role, so every `Conv1D` becomes an equal `nn.Linear`,
and a fused layer a `Split`. Which rows play which role is known of the classes in `LAYOUTS`; others are refused.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from src.errors import UserError, nearest_first
from src.models.dense_weight import dense_weight

if TYPE_CHECKING:
    from src.config.schema import ModelConfig, RoleConfig

ATTENTION = ("query", "key", "value")
FEED_FORWARD = ("gate", "ffn_up")  # the gate is the half that passes the activation


@dataclass(frozen=True)
class Layout:
    """How a fused matrix lays out its roles: one below the other, in as many alternations as `groups` says."""

    roles: tuple[str, ...]
    groups: Callable[[Any], int] = lambda module: 1


def _heads(attention: Any) -> int:
    return int(attention.config.num_attention_heads)


def _falcon_groups(attention: Any) -> int:
    """The heads that share a key: in Falcon's newer form a few each, before that one each or all."""
    config = attention.config
    if config.new_decoder_architecture:
        return int(config.num_kv_heads)
    return 1 if config.multi_query else int(config.num_attention_heads)


# By the class of the module that reads the fused output and the layer's name in it.
LAYOUTS = {
    ("GPT2Attention", "c_attn"): Layout(ATTENTION),
    ("Attention", "c_attn"): Layout(ATTENTION),  # the first GPT
    ("GPTBigCodeAttention", "c_attn"): Layout(ATTENTION, lambda it: 1 if it.multi_query else it.num_heads),
    ("Phi3Attention", "qkv_proj"): Layout(ATTENTION),
    ("Phi3MLP", "gate_up_proj"): Layout(FEED_FORWARD),
    ("GlmMLP", "gate_up_proj"): Layout(FEED_FORWARD),
    ("Glm4MLP", "gate_up_proj"): Layout(FEED_FORWARD),
    ("ModernBertAttention", "Wqkv"): Layout(ATTENTION),
    ("ModernBertMLP", "Wi"): Layout(FEED_FORWARD),
    ("MptAttention", "Wqkv"): Layout(ATTENTION),
    ("GPTNeoXAttention", "query_key_value"): Layout(ATTENTION, _heads),
    ("GPTNeoXJapaneseAttention", "query_key_value"): Layout(ATTENTION, lambda it: it.num_attention_heads),
    ("BloomAttention", "query_key_value"): Layout(ATTENTION, lambda it: it.num_heads),
    ("PersimmonAttention", "query_key_value"): Layout(ATTENTION, lambda it: it.num_heads),
    ("FalconAttention", "query_key_value"): Layout(ATTENTION, _falcon_groups),
    ("FalconFlashAttention2", "query_key_value"): Layout(ATTENTION, _falcon_groups),
    ("DisentangledSelfAttention", "in_proj"): Layout(ATTENTION, lambda it: it.num_attention_heads),  # DeBERTa v1
}
FUSED_NAME = re.compile(r"qkv|query_key_value|gate_up|up_gate|(^|\.)c_attn$", re.IGNORECASE)


class Split(nn.Module):
    """Linear layers over the same input, their outputs put together as one fused layer's.

    Args:
        weight: (out_features, in_features), divided among `names`.
        bias: (out_features,) or None.
        names: the layers' names, in the order of their outputs.
        sizes: the layers' numbers of rows, by default equal ones.
        groups: how many times the layers' rows alternate in the fused weight.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, names: list[str], sizes: list[int] | None = None, groups: int = 1
    ) -> None:
        super().__init__()
        self.names, self.groups = list(names), groups
        self.out_features, self.in_features = weight.shape
        sizes = sizes or [len(weight) // len(names)] * len(names)
        parts = [size // groups for size in sizes]
        for index, name in enumerate(names):
            rows, offsets = (
                None if fused is None else fused.unflatten(0, (groups, -1)).split(parts, 1)[index].flatten(0, 1)
                for fused in (weight, bias)
            )
            assert rows is not None
            self.add_module(name, _linear(rows, offsets))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        outputs = [self.get_submodule(name)(x) for name in self.names]
        if self.groups == 1:
            return torch.cat(outputs, dim=-1)
        return torch.cat([output.unflatten(-1, (self.groups, -1)) for output in outputs], dim=-1).flatten(-2)

    def joined(self, parts: list[Tensor]) -> Tensor:
        """The layers' weights or biases, (out_features of each, ...), as those of the fused layer."""
        return torch.cat([part.unflatten(0, (self.groups, -1)) for part in parts], dim=1).flatten(0, 1)

    @property
    def weight(self) -> Tensor:
        """The fused weight (out_features, in_features), as a module may read it."""
        layers: list[Any] = [self.get_submodule(name) for name in self.names]
        return self.joined([dense_weight(layer) if isinstance(layer, nn.Linear) else layer.weight for layer in layers])


def unfuse(model: nn.Module, fused: dict[str, list[str]], roles: "Mapping[str, RoleConfig] | None" = None) -> None:
    """Replace every `Conv1D` of `model` by an equal `nn.Linear`, and what `fused` names by a `Split`.

    Args:
        fused: the names of the layers by the module's name, in which `*` stands for digits.
        roles: the model's roles by name; they say how many rows each layer has, which are equally many without them.

    Raises:
        UserError: `fused` names a module that the model doesn't have, whose layout isn't known or is another one.
    """
    modules = dict(model.named_modules())
    layers = {name: module for name, module in modules.items() if isinstance(module, Conv1D | nn.Linear)}
    pattern_of = _patterns_by_module(list(layers), fused)
    # All are made before the first is put in, so that a mistake leaves the model as it was.
    replaced = {}
    for name, module in layers.items():
        # A Conv1D's weight is (in, out), a linear layer's (out, in).
        weight = module.weight.detach().T if isinstance(module, Conv1D) else module.weight.detach()
        bias = None if module.bias is None else module.bias.detach()
        if name in pattern_of:
            pattern, parent = pattern_of[name], modules[name.rpartition(".")[0]]
            layout = _layout(name, parent, pattern, fused[pattern], roles or {})
            sizes = _sizes(pattern, fused[pattern], len(weight), layout.groups(parent), roles or {})
            plain: nn.Module = Split(weight, bias, fused[pattern], sizes, layout.groups(parent))
        elif isinstance(module, Conv1D):
            plain = _linear(weight, bias)
        else:
            continue
        replaced[name] = plain.requires_grad_(module.weight.requires_grad).train(module.training)
    for name, plain in replaced.items():
        model.set_submodule(name, plain)


def check_unfused(model: nn.Module, name: str, config: "ModelConfig") -> None:
    """Refuse to adapt a layer that plays several roles in one matrix.

    Raises:
        UserError: it does, with the entry of the yaml that divides it.
    """
    parent_name, _, child = name.rpartition(".")
    module, parent = model.get_submodule(name), model.get_submodule(parent_name)
    layout = LAYOUTS.get((type(parent).__name__, child))
    if isinstance(parent, Split) or not (layout or FUSED_NAME.search(child) or isinstance(module, Conv1D)):
        return
    pattern = re.sub(r"\.\d+\.", ".*.", name)
    if layout:
        remedy = (
            f"Add `fused: {{{pattern}: [{', '.join(layout.roles)}]}}`, and name the roles {pattern}.query and so on."
        )
        raise UserError(
            f"conf/model/{config.name}.yaml: {name} is {', '.join(layout.roles)} in one matrix.\n"
            + remedy.replace(".query", f".{layout.roles[0]}")
        )
    if isinstance(module, Conv1D):
        raise UserError(
            f"conf/model/{config.name}.yaml: {name} is a Conv1D, whose weight lies transposed.\n"
            "Say under `fused` which roles the model's c_attn holds; all of its Conv1D are then linear layers."
        )
    raise UserError(
        f"conf/model/{config.name}.yaml: {name} seems to hold several roles in one matrix, and how "
        f"{type(parent).__name__} lays them out isn't known here.\nLeave the role out, or name other modules."
    )


def _layout(name: str, parent: nn.Module, pattern: str, names: list[str], roles: "Mapping[str, RoleConfig]") -> Layout:
    layout = LAYOUTS.get((type(parent).__name__, name.rpartition(".")[2]))
    if layout is None:
        known = ", ".join(sorted({f"{reader}.{child}" for reader, child in LAYOUTS}))
        raise UserError(
            f"fused names {pattern}, and how {type(parent).__name__} lays out its rows isn't known here.\n"
            f"Known: {known}.\nLeave it whole and adapt other modules."
        )
    role_of = {module: role for role, config in roles.items() for module in config.module.split(" | ")}
    given = [role_of.get(f"{pattern}.{part}") for part in names]
    if len(names) != len(layout.roles) or any(
        role not in (None, right) for role, right in zip(given, layout.roles, strict=True)
    ):
        raise UserError(
            f"fused divides {pattern} into {', '.join(names)}, roles {', '.join(str(role) for role in given)}; "
            f"its rows are {', '.join(layout.roles)}.\nName {len(layout.roles)} layers in that order."
        )
    return layout


def _sizes(pattern: str, names: list[str], rows: int, groups: int, roles: "Mapping[str, RoleConfig]") -> list[int]:
    """Rows of each part: what the roles' out_features say, and an equal share of the rest for a part without a role."""
    size_of = {module: config.out_features for config in roles.values() for module in config.module.split(" | ")}
    given = [size_of.get(f"{pattern}.{name}") for name in names]
    open_parts = given.count(None)
    rest = rows - sum(size for size in given if size is not None)
    sizes = [rest // open_parts if size is None else size for size in given]
    if sum(sizes) != rows or any(size < 1 or size % groups for size in sizes):
        raise UserError(
            f"{pattern} has {rows} rows, which out_features of {', '.join(names)} divide into "
            f"{', '.join(map(str, sizes))}.\nCorrect out_features in the model's yaml: {rows} together, each a "
            f"multiple of {groups}."
        )
    return sizes


def _patterns_by_module(module_names: list[str], fused: dict[str, list[str]]) -> dict[str, str]:
    pattern_of: dict[str, str] = {}
    for fused_name in fused:
        pattern = re.compile(re.escape(fused_name).replace(r"\*", r"\d+"))
        matches = [name for name in module_names if pattern.fullmatch(name)]
        if not matches:
            near = ", ".join(nearest_first(fused_name, module_names)[:5])
            raise UserError(f"fused names {fused_name}; the model has no such linear layer.\nNearest names: {near}.")
        pattern_of |= dict.fromkeys(matches, fused_name)
    return pattern_of


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
        state[key] = tensors[key] if key in tensors else _joined(name, module, kind, tensors)
        if kind == "weight" and isinstance(was, Conv1D) and not isinstance(module, Conv1D):
            state[key] = state[key].T.contiguous()
    return state


def _joined(name: str, module: nn.Module, kind: str, tensors: dict[str, Tensor]) -> Tensor:
    if not isinstance(module, Split):
        raise ValueError(f"{name} is a {type(module).__name__} without its original's weights.\nMerge adapters first.")
    return module.joined([tensors[f"{name}.{part}.{kind}"] for part in module.names])


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    # On the meta device no random numbers are drawn.
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    # Memory of its own: as a view, a part would keep the whole fused weight alive.
    linear.weight = nn.Parameter(weight.clone(memory_format=torch.contiguous_format))
    if bias is not None:
        linear.bias = nn.Parameter(bias.clone())
    return linear
