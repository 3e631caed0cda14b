"""Every method against its row of the table; the linear ones on a layer of odd size, in = 7 and out = 5."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hydra.utils import get_class
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from src.adapters.base import Adapter, Setup, UpdateDirection
from src.adapters.inject import Placed, place
from src.errors import UserError

YAMLS = sorted((Path(__file__).parents[1] / "conf" / "adapter").glob("*.yaml"))
IN, OUT, RANK, TOKENS = 7, 5, 3, 11
STEP_SIZE = 0.02


class Row(NamedTuple):
    name: str
    start: str  # how near step 0 is to the base model: exact, nearly or no
    trained: Callable[[int, int, int], int]  # of in_features, out_features and rank, one matrix with a bias


METHODS = [
    Row("full", "exact", lambda n_in, n_out, r: n_in * n_out + n_out),
    Row("head_only", "exact", lambda n_in, n_out, r: 0),
    Row("lora", "exact", lambda n_in, n_out, r: r * (n_in + n_out)),
    Row("lora_fa", "exact", lambda n_in, n_out, r: r * n_out),
    Row("lora_xs", "nearly", lambda n_in, n_out, r: r * r),
    Row("lora_sb", "no", lambda n_in, n_out, r: r * r),
]
TRAINED = {
    "lora": {"lora_A", "lora_B"},
    "lora_fa": {"lora_B"},
    "lora_xs": {"lora_R"},
    "lora_sb": {"lora_R"},
}
every_method = pytest.mark.parametrize("row", METHODS, ids=lambda row: row.name)
linear_method = pytest.mark.parametrize("name", list(TRAINED))


def method_class(name: str) -> Any:
    return get_class(OmegaConf.load(next(path for path in YAMLS if path.stem == name)).method)


def drawn(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def base_model(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    layer = nn.Linear(IN, OUT, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(0.25 * drawn(OUT, IN, seed=1))
        layer.bias.copy_(drawn(OUT, seed=2))
    return nn.Sequential(layer)


def first_update(seed: int) -> np.ndarray:
    """-sign of a made-up gradient whose singular values are well apart: what LoRA-SB decomposes."""
    return -np.sign(drawn(OUT, IN, seed=108 + seed).numpy())


def direction(seed: int) -> UpdateDirection:
    U, S, Vh = np.linalg.svd(first_update(seed), full_matrices=False)
    return UpdateDirection(*(torch.tensor(part, dtype=torch.float32) for part in (U, S, Vh)))


def setup(*, seed: int | None = 0, rank: int = RANK, scaling: float = 2.0, **options: object) -> Setup:
    """What places a method on the layer called 0; `seed` None leaves the tensors to be loaded."""
    return Setup(
        target_modules=["0"],
        rank=rank,
        alpha=scaling * rank,
        options=dict(options),
        generator=None if seed is None else torch.Generator().manual_seed(seed),
        update_directions={} if seed is None else {"0": direction(seed)},
        step_size=STEP_SIZE,
    )


def placement(name: str, given: Setup | None = None, *, dtype: torch.dtype = torch.float64) -> Placed:
    return place(base_model(dtype), method_class(name), given or setup(), head=[])


def placed(name: str, given: Setup | None = None, *, dtype: torch.dtype = torch.float64) -> Any:
    return placement(name, given, dtype=dtype).model


def adapter_of(name: str, given: Setup | None = None, *, dtype: torch.dtype = torch.float64) -> Adapter:
    adapter = placed(name, given, dtype=dtype)[0]
    assert isinstance(adapter, Adapter)
    return adapter


def inputs(dtype: torch.dtype = torch.float64) -> Tensor:
    return drawn(TOKENS, IN, seed=3, dtype=dtype)


def loss_of(output: Tensor) -> Tensor:
    return (output - drawn(TOKENS, OUT, seed=4, dtype=output.dtype)).square().mean()


def train(adapter: nn.Module, steps: int = 3) -> None:
    optimizer = torch.optim.AdamW([p for p in adapter.parameters() if p.requires_grad], lr=0.1)
    dtype = next(adapter.parameters()).dtype
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(adapter(inputs(dtype))).backward()
        adapter.correct_gradients()
        optimizer.step()


def full_gradient(weight: Tensor, bias: Tensor) -> np.ndarray:
    """The gradient of a plain layer's weight: what full fine-tuning would see."""
    weight = weight.detach().clone().requires_grad_(True)
    loss_of(inputs() @ weight.T + bias).backward()
    return weight.grad.numpy()


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy()


def best_approximation(matrix: np.ndarray, rank: int) -> tuple[np.ndarray, float]:
    """The best approximation of a lower rank, and the error that no other one can undercut (Eckart-Young)."""
    U, S, Vh = np.linalg.svd(matrix, full_matrices=False)
    return U[:, :rank] * S[:rank] @ Vh[:rank], float(np.sqrt((S[rank:] ** 2).sum()))


def test_every_yaml_has_a_row_and_every_row_a_yaml() -> None:
    assert [path.stem for path in YAMLS] == sorted(row.name for row in METHODS)


def test_every_yaml_is_named_like_its_file() -> None:
    assert all(OmegaConf.load(path).name == path.stem for path in YAMLS)


def test_every_linear_method_says_what_it_trains() -> None:
    assert {row.name for row in METHODS if issubclass(method_class(row.name), Adapter)} == set(TRAINED)


@every_method
def test_trained_parameters_are_as_many_as_the_closed_form_says(row: Row) -> None:
    trained = sum(p.numel() for p in placed(row.name).parameters() if p.requires_grad)
    assert trained == row.trained(IN, OUT, RANK)


@every_method
def test_output_at_step_0_is_as_near_to_the_base_model_as_the_row_says(row: Row) -> None:
    before, after = base_model()(inputs()), placed(row.name)(inputs())
    deviation = (after - before).abs().max().item()
    assert {"exact": deviation == 0, "nearly": 0 < deviation < 1e-4, "no": deviation > 1e-2}[row.start]


@linear_method
def test_counted_expected_and_closed_form_agree(name: str) -> None:
    adapter, row = adapter_of(name), next(row for row in METHODS if row.name == name)
    assert adapter.trainable_count() == row.trained(IN, OUT, RANK)
    assert type(adapter).expected_trainable(IN, OUT, RANK) == row.trained(IN, OUT, RANK)


@linear_method
def test_gradients_reach_exactly_the_trained_set(name: str) -> None:
    adapter = adapter_of(name)
    train(adapter)
    reached = {key for key, p in adapter.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert reached == TRAINED[name]
    assert {key for key, p in adapter.named_parameters() if p.grad is not None} == TRAINED[name]


@linear_method
def test_an_adapter_freezes_the_layer_that_it_wraps(name: str) -> None:
    layer = nn.Linear(IN, OUT)
    adapter = method_class(name)(layer, rank=RANK, alpha=1.0)
    assert adapter.base_layer is layer
    assert not layer.weight.requires_grad
    assert not layer.bias.requires_grad


@linear_method
def test_training_changes_the_trained_set_and_nothing_else_bit_for_bit(name: str) -> None:
    adapter = adapter_of(name)
    before = deepcopy(adapter.state_dict())
    train(adapter)
    after = adapter.state_dict()
    assert {key for key in before if not torch.equal(before[key], after[key])} == TRAINED[name]


@linear_method
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5), (torch.bfloat16, 0.02)], ids=str
)
def test_merged_layer_computes_the_same_after_training(name: str, dtype: torch.dtype, tolerance: float) -> None:
    adapter = adapter_of(name, dtype=dtype)
    train(adapter)
    merged = adapter.merge()
    output, expected = merged(inputs(dtype)).double(), adapter(inputs(dtype)).double()
    assert type(merged) is nn.Linear
    assert merged.weight.dtype == dtype
    assert not torch.equal(merged.weight, adapter.base_layer.weight)
    assert ((output - expected).abs().max() / expected.abs().max()).item() < tolerance


@linear_method
def test_merge_leaves_the_adapter_as_it_is_and_shares_no_memory_with_it(name: str) -> None:
    adapter = adapter_of(name)
    before = deepcopy(adapter.state_dict())
    merged = adapter.merge()
    nn.init.zeros_(merged.weight)
    nn.init.zeros_(merged.bias)
    assert all(torch.equal(before[key], tensor) for key, tensor in adapter.state_dict().items())


@linear_method
def test_a_layer_without_bias_merges_to_one_without_bias(name: str) -> None:
    model = nn.Sequential(nn.Linear(IN, OUT, bias=False, dtype=torch.float64))
    place(model, method_class(name), setup(), head=[])
    merged = model[0].merge()
    assert merged.bias is None
    torch.testing.assert_close(merged(inputs()), model(inputs()), rtol=0, atol=1e-10)


@linear_method
def test_saved_state_gives_an_empty_copy_the_same_outputs(name: str, tmp_path: Path) -> None:
    trained, copy = placement(name), placement(name, setup(seed=None))
    train(trained.model[0])
    assert not torch.equal(copy.model(inputs()), trained.model(inputs()))
    save_file(trained.state(), tmp_path / "adapter.safetensors")
    copy.load(load_file(tmp_path / "adapter.safetensors"))
    assert torch.equal(copy.model(inputs()), trained.model(inputs()))


@linear_method
def test_saved_state_holds_the_adapter_without_the_base_layer(name: str) -> None:
    expected = {"lora_A", "lora_B"} | TRAINED[name]
    assert set(placement(name).state()) == {f"0.{key}" for key in expected}


@linear_method
def test_the_seed_alone_decides_the_weights(name: str) -> None:
    first, same, other = (placement(name, setup(seed=seed)).state() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_lora_sb_draws_no_random_numbers() -> None:
    given = setup()
    assert given.generator is not None
    before = given.generator.get_state()
    adapter_of("lora_sb", given)
    assert torch.equal(given.generator.get_state(), before)


@linear_method
def test_the_global_random_state_is_as_it_was(name: str) -> None:
    model, given = base_model(), setup()
    before = torch.get_rng_state()
    place(model, method_class(name), given, head=[])
    model[0].merge()
    assert torch.equal(torch.get_rng_state(), before)


@linear_method
@pytest.mark.parametrize("rank", [0, 6])
def test_a_rank_that_does_not_fit_is_refused_with_the_allowed_range(name: str, rank: int) -> None:
    given = setup(seed=0)
    given.rank = rank
    with pytest.raises(UserError, match=rf"rank={rank} .*5 x 7(.|\n)*1 to 5"):
        placed(name, given)


@linear_method
def test_a_module_that_is_not_linear_is_refused_by_name(name: str) -> None:
    with pytest.raises(UserError, match="0 is a Tanh"):
        place(nn.Sequential(nn.Tanh()), method_class(name), setup(), head=[])


@linear_method
def test_dropout_acts_on_the_adapter_alone_and_only_while_training(name: str) -> None:
    model = placed(name, setup(dropout=1.0))
    nn.init.ones_(model[0].lora_B)
    assert torch.equal(model.train()(inputs()), base_model()(inputs()))
    assert not torch.equal(model.eval()(inputs()), base_model()(inputs()))


@linear_method
def test_more_than_one_batch_dimension_keeps_its_shape(name: str) -> None:
    adapter, x = adapter_of(name), drawn(2, 3, IN, seed=5)
    train(adapter)
    expected = torch.stack([torch.stack([adapter(token[None])[0] for token in row]) for row in x])
    torch.testing.assert_close(adapter(x), expected, rtol=0, atol=1e-10)


def test_an_unknown_initialisation_of_lora_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"init=x (.|\n)*gaussian, kaiming"):
        placed("lora", setup(init="x"))


def test_gaussian_lora_has_variance_1_over_in_features() -> None:
    model = nn.Sequential(nn.Linear(401, 211))
    place(model, method_class("lora"), setup(rank=199), head=[])
    assert model[0].lora_A.std().item() * 401**0.5 == pytest.approx(1, abs=0.02)


def test_kaiming_lora_stays_within_the_bound_of_peft_and_fills_it() -> None:
    largest = adapter_of("lora", setup(rank=5, init="kaiming")).lora_A.abs().max().item()
    assert 0.8 * IN**-0.5 < largest <= IN**-0.5


def peft_model(A: Tensor, B: Tensor, alpha: int, dtype: torch.dtype) -> tuple[nn.Module, Tensor, Tensor]:
    """PEFT's LoRA on the same layer with the same factors: the model, its A and its B."""
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(base_model(dtype), peft.LoraConfig(r=RANK, lora_alpha=alpha, target_modules=["0"]))
    layer = model.base_model.model[0]
    theirs_A, theirs_B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        theirs_A.copy_(A)
        theirs_B.copy_(B)
    return model, theirs_A, theirs_B


def test_lora_has_the_outputs_and_gradients_of_peft() -> None:
    adapter = adapter_of("lora", setup(scaling=4.0))
    train(adapter)
    adapter.zero_grad()
    model, theirs_A, theirs_B = peft_model(adapter.lora_A, adapter.lora_B, 4 * RANK, torch.float64)
    ours_x, theirs_x = inputs().requires_grad_(True), inputs().requires_grad_(True)
    ours, theirs = adapter(ours_x), model(theirs_x)
    loss_of(ours).backward()
    loss_of(theirs).backward()
    pairs = [(ours, theirs), (ours_x.grad, theirs_x.grad)]
    pairs += [(adapter.lora_A.grad, theirs_A.grad), (adapter.lora_B.grad, theirs_B.grad)]
    for own, other in pairs:
        torch.testing.assert_close(own, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("steps", [0, 3])
def test_lora_fa_corrects_to_the_projection_of_the_full_gradient(steps: int) -> None:
    adapter = adapter_of("lora_fa")
    train(adapter, steps)
    A = array(adapter.lora_A)
    G = full_gradient(adapter.base_layer.weight + 2.0 * adapter.lora_B @ adapter.lora_A, adapter.base_layer.bias)
    adapter.zero_grad()
    loss_of(adapter(inputs())).backward()
    adapter.correct_gradients()
    solution = np.linalg.lstsq(A.T, G.T, rcond=None)[0]  # (rank, out): nearest combination of A's rows
    np.testing.assert_allclose(2.0 * adapter.lora_B.grad.numpy() @ A, (A.T @ solution).T, rtol=0, atol=1e-10)


def test_one_step_of_lora_fa_equals_the_optimizer_of_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    lorafa = pytest.importorskip("peft.optimizers.lorafa")
    monkeypatch.setattr(lorafa, "is_bf16_available", lambda: False)  # else it corrects in bfloat16
    adapter = adapter_of("lora_fa", setup(scaling=4.0), dtype=torch.float32)
    nn.init.normal_(adapter.lora_B, generator=torch.Generator().manual_seed(6))
    model, _, theirs_B = peft_model(adapter.lora_A, adapter.lora_B, 4 * RANK, torch.float32)
    theirs = lorafa.create_lorafa_optimizer(model, r=RANK, lora_alpha=4 * RANK, lr=0.1)
    theirs.param_groups[0]["eps"] = 0.01  # so large that the size of the gradient shows in Adam's first step
    eps = 0.01 / (1 - 0.999) ** 0.5  # PEFT adds it before the second moment's bias correction, torch after it
    ours = torch.optim.AdamW([adapter.lora_B], lr=0.1, betas=(0.9, 0.999), eps=eps, weight_decay=0.0)
    for module in (model, adapter):
        loss_of(module(inputs(torch.float32))).backward()
    adapter.correct_gradients()
    theirs.step()
    ours.step()
    torch.testing.assert_close(adapter.lora_B, theirs_B, rtol=0, atol=1e-5)


def test_lora_fa_inverts_the_gram_matrix_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, inverse = [], torch.linalg.inv

    def counted(matrix: Tensor) -> Tensor:
        calls.append(tuple(matrix.shape))
        return inverse(matrix)

    monkeypatch.setattr(torch.linalg, "inv", counted)
    train(adapter_of("lora_fa"), steps=3)
    assert calls == [(RANK, RANK)]


@contextmanager
def saved_numbers(module: nn.Module) -> Iterator[list[int]]:
    """The size of each tensor that autograd keeps for backward, parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield sizes


@pytest.mark.parametrize(
    ("name", "expected"),
    [("lora", [TOKENS * RANK, TOKENS * IN]), ("lora_fa", [TOKENS * RANK])],
    ids=["lora", "lora_fa"],
)
def test_lora_keeps_its_input_for_backward_and_lora_fa_only_the_projection(name: str, expected: list[int]) -> None:
    adapter = adapter_of(name)
    with saved_numbers(adapter) as sizes:
        adapter(inputs().requires_grad_(True))
    assert sorted(sizes) == expected


def test_lora_xs_factors_are_the_best_approximation_of_the_weight() -> None:
    adapter = adapter_of("lora_xs")
    weight = array(adapter.base_layer.weight)
    best, error = best_approximation(weight, RANK)
    product = array(adapter.lora_B @ adapter.lora_A)
    np.testing.assert_allclose(product, best, rtol=0, atol=1e-5)
    assert np.linalg.norm(weight - product) == pytest.approx(error, abs=1e-5)


def test_lora_xs_has_the_singular_values_on_the_input_side() -> None:
    adapter = adapter_of("lora_xs")
    values = np.linalg.svd(array(adapter.base_layer.weight), compute_uv=False)[:RANK]
    A, B = array(adapter.lora_A), array(adapter.lora_B)
    np.testing.assert_allclose(B.T @ B, np.eye(RANK), rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(A, axis=1), values, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scaling", [1.0, 2.0])
def test_lora_sb_starts_at_the_best_approximation_of_the_first_update(scaling: float) -> None:
    adapter, update = adapter_of("lora_sb", setup(scaling=scaling)), STEP_SIZE * first_update(seed=0)
    best, error = best_approximation(update, RANK)
    start = scaling * array(adapter.lora_B @ adapter.lora_R @ adapter.lora_A)
    np.testing.assert_allclose(start, best, rtol=0, atol=1e-5 * STEP_SIZE)
    assert np.linalg.norm(update - start) == pytest.approx(error, rel=1e-5)


def test_lora_sb_factors_are_orthonormal() -> None:
    adapter = adapter_of("lora_sb")
    A, B = array(adapter.lora_A), array(adapter.lora_B)
    np.testing.assert_allclose(B.T @ B, np.eye(RANK), rtol=0, atol=1e-6)
    np.testing.assert_allclose(A @ A.T, np.eye(RANK), rtol=0, atol=1e-6)


@pytest.mark.parametrize("scaling", [1.0, 2.0])
def test_lora_sb_corrects_to_the_optimal_gradient(scaling: float) -> None:
    adapter = adapter_of("lora_sb", setup(scaling=scaling))
    A, B, R = (array(tensor) for tensor in (adapter.lora_A, adapter.lora_B, adapter.lora_R))
    effective = adapter.base_layer.weight + torch.tensor(scaling * B @ R @ A)
    G = full_gradient(effective, adapter.base_layer.bias)
    raw = scaling * B.T @ G @ A.T  # what autograd gives R
    optimal = np.linalg.inv(B.T @ B) @ raw @ np.linalg.inv(A @ A.T) / scaling**2
    loss_of(adapter(inputs())).backward()
    np.testing.assert_allclose(adapter.lora_R.grad.numpy(), raw, rtol=0, atol=1e-10)
    adapter.correct_gradients()
    np.testing.assert_allclose(adapter.lora_R.grad.numpy(), optimal, rtol=0, atol=1e-5)
