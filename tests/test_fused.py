"""One function for a layer and its update: what PyTorch's own operations give, from fewer bytes kept and one cast."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from src.adapters.fused import can_fuse, shared_cast
from src.adapters.inject import inject
from src.adapters.seeded_dropout import STEPS, SeededDropout, mask_of, masked
from src.training.held_weights import hold_weights
from tests.test_adapters import LINEAR, adapter_at, adapter_of, drawn, inputs, method_class, setup, train

FUSED = [name for name in LINEAR if name not in ("vera", "houlsby")]
every_fused = pytest.mark.parametrize("name", FUSED)


def outputs_and_gradients(adapter: Any, compute: Any, x: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """What is computed from x, and all gradients of its product with random numbers."""
    x = x.detach().requires_grad_(True)
    torch.manual_seed(seed)
    y = compute(x)
    trained = {name: tensor for name, tensor in adapter.named_parameters() if tensor.requires_grad}
    gradients = torch.autograd.grad((y.double() * drawn(*y.shape, seed=5)).sum(), [x, *trained.values()])
    return {"y": y.detach(), **dict(zip(["x", *trained], gradients, strict=True))}


@pytest.mark.parametrize("dropout", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("training", [True, False], ids=["training", "scoring"])
@every_fused
def test_outputs_and_all_gradients_are_those_of_the_equation(name: str, training: bool, dropout: float) -> None:
    adapter = adapter_of(name, setup(scaling=1.7, dropout=dropout))
    train(adapter)
    adapter.train(training)
    adapter.on_step([adapter], 0.5)
    for x in (inputs(), drawn(2, 3, 7, seed=4), drawn(7, seed=6), drawn(2, 3, 2, 7, seed=8)):
        fused = outputs_and_gradients(adapter, adapter, x)
        composed = outputs_and_gradients(adapter, adapter.composed, x)
        for key, tensor in composed.items():
            assert fused[key].shape == tensor.shape
            assert torch.allclose(fused[key], tensor, rtol=1e-10, atol=1e-10), key


@every_fused
def test_a_layer_without_bias_and_an_input_without_a_gradient(name: str) -> None:
    adapter = adapter_of(name)
    train(adapter)
    adapter.base_layer.bias = None  # type: ignore[assignment]
    adapter.zero_grad()
    for compute in (adapter, adapter.composed):
        assert torch.allclose(compute(inputs()), adapter.composed(inputs()), rtol=1e-10)
        compute(inputs()).sum().backward()
    doubled = [tensor.grad for tensor in adapter.parameters() if tensor.requires_grad]
    adapter.zero_grad()
    adapter.composed(inputs()).sum().backward()
    for tensor, both in zip([p for p in adapter.parameters() if p.requires_grad], doubled, strict=True):
        assert tensor.grad is not None
        assert both is not None
        assert torch.allclose(both, 2 * tensor.grad, rtol=1e-10, atol=1e-12)


@every_fused
def test_under_autocast_it_is_as_near_to_float64_as_the_equation(name: str) -> None:
    exact = adapter_of(name)
    train(exact)
    adapter = adapter_of(name, dtype=torch.float32)
    adapter.load_state_dict(exact.state_dict())
    adapter.after_load()
    right = outputs_and_gradients(exact, exact, inputs())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fused = outputs_and_gradients(adapter, adapter, inputs(torch.float32))
        composed = outputs_and_gradients(adapter, adapter.composed, inputs(torch.float32))
    assert fused["y"].dtype == composed["y"].dtype == torch.bfloat16
    for key, tensor in right.items():
        errors = [(rounded[key].double() - tensor).norm() / tensor.norm() for rounded in (fused, composed)]
        assert fused[key].dtype == composed[key].dtype
        assert errors[0] < max(1.5 * errors[1], 0.02), key


def kept_tensors(compute: Any, x: Tensor) -> list[Tensor]:
    """What autograd keeps for backward, each storage once."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        compute(x).sum()
    return list(kept.values())


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@every_fused
def test_no_more_is_kept_than_the_method_needs(name: str, dropout: float) -> None:
    adapter = adapter_of(name, setup(dropout=dropout), dtype=torch.float32)
    hold_weights(adapter, torch.bfloat16)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in adapter.parameters()}
    x = inputs(torch.float32).requires_grad_(True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        kept = [one for one in kept_tensors(adapter, x) if one.untyped_storage().data_ptr() not in parameters]
    tokens = len(x)
    of_tokens = [one for one in kept if tokens in one.shape]
    per_token = sum(one.numel() for one in of_tokens) // tokens
    trains_A = adapter.lora_A.requires_grad
    of_rows = adapter.out_features if name == "dora" else 0
    assert per_token == trains_A * adapter.in_features + adapter.rank + of_rows
    assert all(one.dtype == torch.bfloat16 for one in of_tokens)


def test_layers_that_read_one_tensor_share_its_cast() -> None:
    x = inputs(torch.float32)
    cast = shared_cast(x, torch.bfloat16)
    assert shared_cast(x, torch.bfloat16) is cast
    assert shared_cast(x, torch.float16).dtype == torch.float16
    assert torch.equal(shared_cast(inputs(torch.float32) + 1, torch.bfloat16), (x + 1).bfloat16())
    cast = shared_cast(x, torch.bfloat16)
    x.add_(1)
    assert torch.equal(shared_cast(x, torch.bfloat16), x.bfloat16())
    with torch.inference_mode():
        y = inputs(torch.float32) * 2
        assert torch.equal(shared_cast(y, torch.bfloat16), y.bfloat16())


def test_a_cast_lives_no_longer_than_its_tensor() -> None:
    from src.adapters import fused

    x = inputs(torch.float32)
    shared_cast(x, torch.bfloat16)
    assert fused._Last.cast is not None
    del x
    assert fused._Last.cast is None


def test_what_is_not_a_plain_layer_is_composed() -> None:
    class Special(nn.Linear):
        pass

    x = inputs(torch.float32)
    layer = nn.Linear(7, 5)
    assert can_fuse(layer, x)
    assert not can_fuse(Special(7, 5), x)
    assert not can_fuse(nn.Linear(7, 5, dtype=torch.float64), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert can_fuse(nn.Linear(7, 5, dtype=torch.bfloat16), x)
    handle = layer.register_forward_hook(lambda *_: None)
    assert not can_fuse(layer, x)
    handle.remove()
    assert can_fuse(layer, x)


@every_fused
def test_a_hook_on_the_frozen_layer_is_still_called(name: str) -> None:
    adapter, seen = adapter_of(name), list[Tensor]()
    adapter.base_layer.register_forward_hook(lambda module, given, output: seen.append(output))
    adapter(inputs())
    assert any(one.shape == (len(inputs()), 5) for one in seen)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@every_fused
def test_checkpointing_gives_the_same_gradients(name: str, dropout: float) -> None:
    adapter = adapter_of(name, setup(dropout=dropout))
    train(adapter)
    plain = outputs_and_gradients(adapter, adapter, inputs())
    again = outputs_and_gradients(adapter, lambda x: checkpoint(adapter, x, use_reentrant=False), inputs())
    for key, tensor in plain.items():
        assert torch.equal(again[key], tensor), key


# ---- dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.999, 1.0])
def test_a_mask_drops_the_share_that_is_asked_for_and_changes_nothing_else(p: float, dtype: torch.dtype) -> None:
    x = drawn(1001, 300, seed=1, dtype=dtype)
    dropped = masked(x, mask_of(x.shape, x, p, seed=3))
    zeros = dropped == 0
    spread = (p * (1 - p) / x.numel()) ** 0.5
    assert abs(float(zeros.float().mean()) - p) <= 4 * spread + 1 / STEPS
    assert torch.equal(dropped[~zeros], x[~zeros])
    for axis in (0, 1):
        assert float(zeros.float().mean(axis).std()) < 2 * (p * (1 - p) / x.shape[axis]) ** 0.5 + 1e-9


def test_masks_of_equal_seeds_are_equal_and_of_others_independent() -> None:
    x = torch.ones(400, 500)
    first, again, other = (masked(x, mask_of(x.shape, x, 0.5, seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert torch.equal(first, masked(x.bfloat16(), mask_of(x.shape, x.bfloat16(), 0.5, 1)).float())
    correlation = torch.corrcoef(torch.stack([first.flatten(), other.flatten()]))[0, 1]
    assert abs(float(correlation)) < 4 / x.numel() ** 0.5
    neighbours = torch.corrcoef(torch.stack([first.flatten()[:-1], first.flatten()[1:]]))[0, 1]
    assert abs(float(neighbours)) < 4 / x.numel() ** 0.5


def test_what_is_kept_is_scaled_so_that_the_mean_stays() -> None:
    dropout = SeededDropout(0.1)
    torch.manual_seed(0)
    assert float(dropout(torch.ones(1000, 1000)).mean()) == pytest.approx(1, abs=0.002)
    assert torch.equal(SeededDropout(1.0)(torch.ones(3, 3)), torch.zeros(3, 3))
    assert SeededDropout(0.0).draw() is None
    assert dropout.eval().draw() is None


# ---- held weights


@pytest.mark.parametrize("name", [name for name in FUSED if name != "dora"])
def test_held_weights_give_the_same_bits_under_autocast(name: str) -> None:
    adapter = adapter_of(name, dtype=torch.float32)
    train(adapter)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        exact = outputs_and_gradients(adapter, adapter, inputs(torch.float32))
        hold_weights(adapter, torch.bfloat16)
        held = outputs_and_gradients(adapter, adapter, inputs(torch.float32))
    assert adapter.base_layer.weight.dtype == torch.bfloat16
    for key, tensor in exact.items():
        assert torch.equal(held[key], tensor), key


def test_a_weight_that_others_compute_with_is_not_rounded() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(5, 7)
            self.read, self.alone, self.tied = nn.Linear(7, 5), nn.Linear(7, 5), nn.Linear(7, 5)
            self.tied.weight = self.embedding.weight

    names = ["read", "alone", "tied"]
    for method, rounded in (("lora", {"alone"}), ("dora", set())):
        model = inject(Tied(), method_class(method), replace(setup(), target_modules=names), head=[]).model
        adapters = {name: adapter_at(model, name) for name in names}
        assert adapters["read"].weight is not None  # as a module that computes with it would
        hold_weights(model, torch.bfloat16)
        kept = {name for name, adapter in adapters.items() if adapter.base_layer.weight.dtype == torch.float32}
        assert set(names) - kept == rounded


def test_doras_norms_are_those_of_the_weights_after_a_fused_optimizers_step() -> None:
    """Which leaves the versions of what it changes as they are."""
    adapter = adapter_of("dora", setup())
    optimizer = torch.optim.AdamW([one for one in adapter.parameters() if one.requires_grad], lr=0.1, fused=True)
    for begins in (True, False, True):
        if begins:
            adapter.on_step([adapter], 0.5)
        adapter(inputs()).square().sum().backward()
        adapter.correct_gradients()
        optimizer.step()
        dense = adapter.base_layer.weight + adapter.scaling * adapter.lora_B @ adapter.lora_A
        torch.testing.assert_close(adapter.row_norms(), dense.norm(dim=1).detach(), rtol=1e-10, atol=0)


def test_doras_norms_are_measured_again_after_a_backward_pass_without_the_trainer() -> None:
    adapter = adapter_of("dora", setup())
    optimizer = torch.optim.AdamW([one for one in adapter.parameters() if one.requires_grad], lr=0.1, fused=True)
    for _ in range(3):
        adapter(inputs()).square().sum().backward()
        optimizer.step()
    dense = adapter.base_layer.weight + adapter.scaling * adapter.lora_B @ adapter.lora_A
    torch.testing.assert_close(adapter.row_norms(), dense.norm(dim=1).detach(), rtol=1e-10, atol=0)
