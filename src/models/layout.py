"""A model's linear layers, grouped by their names, with the roles that those names suggest.

The roles are guesses from the names in transformers' models. They are printed for a reader to check, and a run holds
names and sizes against the weights. How one matrix holds several roles can't be seen from a name: that is known of the
classes in `src/models/unfuse.py`.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from src.models.unfuse import ATTENTION as ATTENTION_ROLES
from src.models.unfuse import LAYOUTS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NUMBER = re.compile(r"\b\d+\b")
IN_ATTENTION = re.compile(r"attn|[aA]ttention")
# How the names of the layers end that have a role, by where they are: one name may mean two roles.
ATTENTION_LEAVES = {
    "query": ("q", "query", "q_proj", "query_proj", "q_lin"),
    "key": ("k", "key", "k_proj", "key_proj", "k_lin"),
    "value": ("v", "value", "v_proj", "value_proj", "v_lin"),
    "output": ("o", "o_proj", "out_proj", "out_lin", "c_proj", "Wo", "dense"),
}
FEED_FORWARD_LEAVES = {
    "ffn_up": ("wi", "wi_1", "up_proj", "fc1", "fc_in", "lin1", "c_fc", "dense_h_to_4h", "ffn", "intermediate.dense"),
    "ffn_down": ("wo", "down_proj", "fc2", "fc_out", "lin2", "c_proj", "dense_4h_to_h", "ffn_output", "Wo", "dense"),
    "gate": ("gate_proj", "wi_0"),
}


@dataclass(frozen=True)
class LinearGroup:
    """Linear layers of one size, with one name but for the number of their block, `*`.

    `roles` are guesses, in the order of the outputs, with the rows of each: one role, several where one matrix holds
    them, or none. The roles alternate in the outputs as often as `groups` says.
    """

    module: str
    count: int
    out_features: int
    in_features: int
    roles: dict[str, int]
    groups: int = 1


def linear_groups(model: "PreTrainedModel") -> list[LinearGroup]:
    """The model's linear layers by name and size, in its own order; transposed ones (`Conv1D`) are such too.

    Those that read something else than text have no role: texts alone would never train them.
    """
    from src.models.text_part import beside_text

    elsewhere = beside_text(model)
    modules = dict(model.named_modules())
    sizes = {name: size for name, module in modules.items() if (size := _size(module)) is not None}
    members: dict[tuple[str, int, int], list[str]] = {}
    for name, (rows, columns) in sizes.items():
        members.setdefault((_pattern(name), rows, columns), []).append(name)
    groups = []
    for (module, rows, columns), names in members.items():
        parent = modules[names[0].rpartition(".")[0]]
        roles, alternations = ({}, 1) if module.startswith(elsewhere) else _roles(module, parent, rows, model.config)
        groups.append(LinearGroup(module, len(names), rows, columns, roles, alternations))
    return groups


def _size(module: Any) -> tuple[int, int] | None:
    """Rows and columns of a linear layer's matrix; None for another module."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, Conv1D):
        return module.weight.shape[1], module.weight.shape[0]
    return (module.out_features, module.in_features) if isinstance(module, nn.Linear) else None


def _pattern(name: str) -> str:
    """The name with `*` for its block's number alone: T5 and MobileBERT count the parts of a block too."""
    return NUMBER.sub("*", name, count=1)


def _roles(module: str, parent: Any, rows: int, config: Any) -> tuple[dict[str, int], int]:
    """The roles in a layer with the rows of each, and how often they alternate."""
    layout = LAYOUTS.get((type(parent).__name__, module.rpartition(".")[2]))
    if layout is None:
        return {role: rows for role in _guess(module)}, 1
    if layout.roles != ATTENTION_ROLES:
        return {role: rows // len(layout.roles) for role in layout.roles}, layout.groups(parent)
    keys = _key_rows(config, rows, layout.groups(parent))
    return {"query": rows - 2 * keys, "key": keys, "value": keys}, layout.groups(parent)


def _key_rows(config: Any, rows: int, groups: int) -> int:
    """Rows of the keys, and of the values, in a layer that holds the queries too."""
    if config.model_type == "falcon":
        return _head_size(config) * groups
    if getattr(config, "multi_query", False):  # GPT-BigCode
        return _head_size(config)
    heads = getattr(config, "num_key_value_heads", None)
    return int(heads * _head_size(config)) if heads else rows // 3


def _head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _guess(module: str) -> tuple[str, ...]:
    """The role of a layer in a block, if its name tells; a layer outside of all blocks, as a head, has none."""
    leaves_of = ATTENTION_LEAVES if IN_ATTENTION.search(module) else FEED_FORWARD_LEAVES
    ends = {role: tuple(f".{leaf}" for leaf in leaves) for role, leaves in leaves_of.items()}
    return tuple(role for role, leaves in ends.items() if module.endswith(leaves) and "*" in module)[:1]
