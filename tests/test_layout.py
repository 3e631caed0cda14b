"""The roles that are guessed are those that the layers play, as far as their behaviour shows."""

from typing import Any

import pytest
import torch

from src.models.layout import LinearGroup, linear_groups
from src.models.unfuse import ATTENTION
from tests.tiny_models import tiny_model

FUSED_ATTENTION = [
    *[("bloom", {}), ("deberta", {}), ("gpt2", {}), ("gpt_neox", {}), ("modernbert", {}), ("phi3", {}), ("mpt", {})],
    ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    ("falcon", {"new_decoder_architecture": False, "multi_query": True}),
    ("falcon", {"new_decoder_architecture": False, "multi_query": False}),
]


def rows_of(group: LinearGroup) -> dict[str, list[int]]:
    """The outputs of each role in a fused layer."""
    rows: dict[str, list[int]] = {role: [] for role in group.roles}
    start = 0
    for _ in range(group.groups):
        for role, size in group.roles.items():
            rows[role] += range(start, start + size // group.groups)
            start += size // group.groups
    return rows


def sensitive(model: Any, layer: str, block: str, ids: list[int], read: int, at: int) -> set[int]:
    """Those outputs of `layer` at the position `at` on which what attention writes at the position `read` depends."""
    seen: dict[str, Any] = {}

    def keep(name: str) -> Any:
        return lambda module, inputs, output: seen.update({name: output[0] if isinstance(output, tuple) else output})

    hooks = [model.get_submodule(name).register_forward_hook(keep(name)) for name in (layer, block)]
    model(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    seen[layer].retain_grad()
    written = seen[block].reshape(len(ids), -1)[read]
    weights = torch.randn(written.shape, generator=torch.Generator().manual_seed(0), dtype=written.dtype)
    (gradient,) = torch.autograd.grad((written * weights).sum(), seen[layer])
    return set(gradient.reshape(len(ids), -1)[at].abs().gt(1e-9).nonzero().flatten().tolist())


@pytest.mark.parametrize(("kind", "changes"), FUSED_ATTENTION)
def test_a_fused_layer_s_rows_play_the_roles_that_are_guessed(kind: str, changes: dict[str, Any]) -> None:
    # In float64, where what cancels out is below the threshold on every processor.
    model = tiny_model(kind, "classifier", **changes).double()
    group = next(group for group in linear_groups(model) if tuple(group.roles) == ATTENTION)
    rows = rows_of(group)
    layer = group.module.replace("*", "0")
    block = layer.rpartition(".")[0]
    # A text of one token attends to itself, whatever the queries and keys are: only values count.
    assert sensitive(model, layer, block, [5], read=0, at=0) == set(rows["value"])
    # What the second token reads of the first one is its key and its value, not its query.
    assert sensitive(model, layer, block, [5, 9], read=1, at=0) == set(rows["key"]) | set(rows["value"])
