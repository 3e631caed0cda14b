"""Every method against its row of the table; the linear ones on a layer of odd size, in = 7 and out = 5."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import pytest
import torch
from hydra.utils import get_class
from numpy.typing import NDArray
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from src.adapters.base import Adapter, Setup, UpdateDirection
from src.adapters.inject import InjectedModel, inject
from src.errors import UserError

YAMLS = sorted((Path(__file__).parents[1] / "conf" / "adapter").glob("*.yaml"))
IN, OUT, RANK, TOKENS = 7, 5, 3, 11
LAST = 9  # outputs of the second layer, where a test needs two
STEP_SIZE = 0.02

if TYPE_CHECKING:

    class AnyAdapter(Adapter):
        """An adapter with all that some method has, so that a test may look at what its own has."""

        lora_A: nn.Parameter
        lora_B: nn.Parameter
        lora_R: nn.Parameter
        lora_magnitude_vector: nn.Parameter
        vera_A: nn.Parameter
        vera_B: nn.Parameter
        vera_lambda_d: nn.Parameter
        vera_lambda_b: nn.Parameter
        down: nn.Parameter
        down_bias: nn.Parameter
        up: nn.Parameter
        up_bias: nn.Parameter

        base_squares: Tensor

        def row_norms(self) -> Tensor: ...


class Row(NamedTuple):
    """What a method promises; the last five fields are those of linear methods."""

    name: str
    start: str  # how near step 0 is to the base model: exact, rounding, nearly (below `near`) or no
    trained_count: Callable[[int, int, int], int]  # of in_features, out_features and rank, one matrix with a bias
    trained: frozenset[str] = frozenset()
    frozen: frozenset[str] = frozenset()  # stored with the adapter beside what is trained
    merges: bool = True
    seeded: bool = True  # the seed changes the initial weights
    near: float = 1e-4


def names(*tensors: str) -> frozenset[str]:
    return frozenset(tensors)


METHODS = [
    Row("full", "exact", lambda n_in, n_out, r: n_in * n_out + n_out),
    Row("head_only", "exact", lambda n_in, n_out, r: 0),
    Row("bitfit", "exact", lambda n_in, n_out, r: n_out),
    Row("last_k", "exact", lambda n_in, n_out, r: n_in * n_out + n_out),
    Row("lora", "exact", lambda n_in, n_out, r: r * (n_in + n_out), names("lora_A", "lora_B")),
    Row("rslora", "exact", lambda n_in, n_out, r: r * (n_in + n_out), names("lora_A", "lora_B")),
    Row(
        "pissa",
        "rounding",
        lambda n_in, n_out, r: r * (n_in + n_out),
        names("lora_A", "lora_B"),
        names("initial_A", "initial_B"),
        seeded=False,
    ),
    Row(
        "dora",
        "exact",
        lambda n_in, n_out, r: r * (n_in + n_out) + n_out,
        names("lora_A", "lora_B", "lora_magnitude_vector"),
    ),
    Row("dylora", "exact", lambda n_in, n_out, r: r * (n_in + n_out), names("lora_A", "lora_B")),
    Row("lora_fa", "exact", lambda n_in, n_out, r: r * n_out, names("lora_B"), names("lora_A")),
    Row("lora_fa_v1", "exact", lambda n_in, n_out, r: r * n_out, names("lora_B"), names("lora_A")),
    Row("lora_xs", "nearly", lambda n_in, n_out, r: r * r, names("lora_R"), names("lora_A", "lora_B")),
    Row("lora_sb", "no", lambda n_in, n_out, r: r * r, names("lora_R"), names("lora_A", "lora_B")),
    Row(
        "vera",
        "exact",
        lambda n_in, n_out, r: r + n_out,
        names("vera_lambda_d", "vera_lambda_b"),
        names("vera_A", "vera_B"),
    ),
    Row(
        "houlsby",
        "nearly",
        lambda n_in, n_out, r: 2 * r * n_out + r + n_out,
        names("down", "down_bias", "up", "up_bias"),
        merges=False,
        near=1e-3,
    ),
]
ROWS = {row.name: row for row in METHODS}
LINEAR = [row.name for row in METHODS if row.trained]
MERGING = [name for name in LINEAR if ROWS[name].merges]
every_method = pytest.mark.parametrize("row", METHODS, ids=lambda row: row.name)
linear_method = pytest.mark.parametrize("name", LINEAR)
merging_method = pytest.mark.parametrize("name", MERGING)


def yaml_of(name: str) -> Any:
    return OmegaConf.load(next(path for path in YAMLS if path.stem == name))


def method_class(name: str) -> Any:
    return get_class(yaml_of(name).method)


def options_of(name: str) -> dict[str, Any]:
    return {key: value for key, value in yaml_of(name).get("options", {}).items() if value is not None}


def drawn(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def linear(n_in: int, n_out: int, dtype: torch.dtype = torch.float64) -> nn.Linear:
    layer = nn.Linear(n_in, n_out, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(0.25 * drawn(n_out, n_in, seed=1))
        layer.bias.copy_(drawn(n_out, seed=2))
    return layer


def base_model(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    return nn.Sequential(linear(IN, OUT, dtype))


def two_layers() -> nn.Sequential:
    return nn.Sequential(linear(IN, OUT), nn.Tanh(), linear(OUT, LAST))


def first_update(seed: int) -> NDArray[np.float64]:
    """-sign of a made-up gradient whose singular values are well apart: what LoRA-SB decomposes."""
    return -array(drawn(OUT, IN, seed=108 + seed).sign())


def direction(seed: int) -> UpdateDirection:
    parts = np.linalg.svd(first_update(seed), full_matrices=False)
    U, S, Vh = (torch.tensor(part, dtype=torch.float32) for part in parts)
    return UpdateDirection(U, S, Vh)


def setup(*, seed: int | None = 0, rank: int = RANK, scaling: float = 2.0, **options: object) -> Setup:
    """What places a method on the layer called 0; `seed` None leaves the tensors to be loaded."""
    return Setup(
        target_modules=["0"],
        layers=["0"],
        rank=rank,
        alpha=scaling * rank,
        options=dict(options),
        generator=None if seed is None else torch.Generator().manual_seed(seed),
        update_directions={} if seed is None else {"0": direction(seed)},
        step_size=STEP_SIZE,
    )


def placement(name: str, method_setup: Setup | None = None, *, dtype: torch.dtype = torch.float64) -> InjectedModel:
    return inject(base_model(dtype), method_class(name), method_setup or setup(), head=[])


def injected(name: str, method_setup: Setup | None = None, *, dtype: torch.dtype = torch.float64) -> Any:
    return placement(name, method_setup, dtype=dtype).model


def adapter_at(model: nn.Module, name: str = "0") -> "AnyAdapter":
    adapter = model.get_submodule(name)
    assert isinstance(adapter, Adapter)
    return cast("AnyAdapter", adapter)


def adapter_of(name: str, method_setup: Setup | None = None, *, dtype: torch.dtype = torch.float64) -> "AnyAdapter":
    return adapter_at(injected(name, method_setup, dtype=dtype))


def inputs(dtype: torch.dtype = torch.float64) -> Tensor:
    return drawn(TOKENS, IN, seed=3, dtype=dtype)


def loss_of(output: Tensor) -> Tensor:
    return (output - drawn(TOKENS, output.shape[-1], seed=4, dtype=output.dtype)).square().mean()


def computing_in(dtype: torch.dtype) -> torch.autocast:
    """How a base model in `dtype` is run: with autocast where it is coarser than what is trained."""
    return torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16)


def train(model: nn.Module, steps: int = 3) -> None:
    """A few steps of an adapter, or of a model with adapters in it."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    dtype = min((weight.dtype for weight in model.parameters()), key=lambda dtype: dtype.itemsize)
    for _ in range(steps):
        optimizer.zero_grad()
        with computing_in(dtype):
            loss = loss_of(model(inputs(dtype)))
        loss.backward()
        for module in model.modules():
            if isinstance(module, Adapter):
                module.correct_gradients()
        optimizer.step()


def full_gradient(weight: Tensor, bias: Tensor) -> NDArray[np.float64]:
    """The gradient of a plain layer's weight: what full fine-tuning would see."""
    weight = weight.detach().clone().requires_grad_(True)
    loss_of(inputs() @ weight.T + bias).backward()
    return array(gradient(weight))


def gradient(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad


def array(tensor: Tensor) -> NDArray[np.float64]:
    numbers: NDArray[np.float64] = tensor.detach().numpy()
    return numbers


def best_approximation(matrix: NDArray[np.float64], rank: int) -> tuple[NDArray[np.float64], float]:
    """The best approximation of a lower rank, and the error that no other one can undercut (Eckart-Young)."""
    U, S, Vh = np.linalg.svd(matrix, full_matrices=False)
    return U[:, :rank] * S[:rank] @ Vh[:rank], float(np.sqrt((S[rank:] ** 2).sum()))


def test_every_yaml_has_a_row_and_every_row_a_yaml() -> None:
    assert [path.stem for path in YAMLS] == sorted(row.name for row in METHODS)


def test_every_yaml_is_named_like_its_file() -> None:
    assert all(OmegaConf.load(path).name == path.stem for path in YAMLS)


def test_every_linear_method_says_what_it_trains() -> None:
    assert {row.name for row in METHODS if issubclass(method_class(row.name), Adapter)} == set(LINEAR)


@linear_method
def test_a_method_takes_every_option_that_its_yaml_offers(name: str) -> None:
    injected(name, setup(**options_of(name)))


@every_method
def test_a_yaml_says_whether_weights_of_the_base_model_are_trained(row: Row) -> None:
    model = base_model()
    inject(model, method_class(row.name), setup(), head=[])
    layer = model[0]
    weight = (layer if isinstance(layer, nn.Linear) else adapter_at(model).base_layer).weight
    assert bool(yaml_of(row.name).get("trains_base")) == weight.requires_grad


@linear_method
def test_a_yaml_says_whether_the_rank_is_bound_by_the_matrix(name: str) -> None:
    assert bool(yaml_of(name).get("any_rank")) == method_class(name).any_rank


@every_method
def test_trained_parameters_are_as_many_as_the_closed_form_says(row: Row) -> None:
    trained = sum(p.numel() for p in injected(row.name).parameters() if p.requires_grad)
    assert trained == row.trained_count(IN, OUT, RANK)


@every_method
def test_output_at_step_0_is_as_near_to_the_base_model_as_the_row_says(row: Row) -> None:
    before, after = base_model()(inputs()), injected(row.name)(inputs())
    deviation = (after - before).abs().max().item()
    assert {
        "exact": deviation == 0,
        "rounding": 0 < deviation < 1e-12,
        "nearly": 0 < deviation < row.near,
        "no": deviation > 1e-2,
    }[row.start]


@every_method
def test_a_method_can_be_counted_on_the_meta_device(row: Row) -> None:
    with torch.device("meta"):
        model = base_model()
    parameters = list(inject(model, method_class(row.name), setup(seed=None), head=[]).model.parameters())
    assert all(p.is_meta for p in parameters)
    assert sum(p.numel() for p in parameters if p.requires_grad) == row.trained_count(IN, OUT, RANK)


@linear_method
def test_counted_expected_and_closed_form_agree(name: str) -> None:
    adapter, row = adapter_of(name), ROWS[name]
    assert adapter.trainable_count() == row.trained_count(IN, OUT, RANK)
    assert type(adapter).expected_trainable(IN, OUT, RANK) == row.trained_count(IN, OUT, RANK)


@linear_method
def test_gradients_reach_exactly_the_trained_set(name: str) -> None:
    adapter = adapter_of(name)
    train(adapter)
    reached = {key for key, p in adapter.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert reached == ROWS[name].trained
    assert {key for key, p in adapter.named_parameters() if p.grad is not None} == ROWS[name].trained


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
    assert {key for key in before if not torch.equal(before[key], after[key])} == ROWS[name].trained


@linear_method
def test_what_is_trained_has_float32_beside_a_bfloat16_weight(name: str) -> None:
    adapter = adapter_of(name, dtype=torch.bfloat16)
    assert adapter.base_layer.weight.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in adapter.parameters() if parameter.requires_grad} == {torch.float32}


@merging_method
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5), (torch.bfloat16, 0.02)], ids=str
)
def test_merged_layer_computes_the_same_after_training(name: str, dtype: torch.dtype, tolerance: float) -> None:
    adapter = adapter_of(name, dtype=dtype)
    train(adapter)
    merged = adapter.merge()
    with computing_in(dtype):
        output, expected = merged(inputs(dtype)).double(), adapter(inputs(dtype)).double()
    assert type(merged) is nn.Linear
    assert merged.weight.dtype == torch.promote_types(dtype, torch.float32)
    assert not torch.equal(merged.weight, adapter.base_layer.weight)
    assert ((output - expected).abs().max() / expected.abs().max()).item() < tolerance


@merging_method
def test_merge_leaves_the_adapter_as_it_is_and_shares_no_memory_with_it(name: str) -> None:
    adapter = adapter_of(name)
    before = deepcopy(adapter.state_dict())
    merged = adapter.merge()
    nn.init.zeros_(merged.weight)
    nn.init.zeros_(merged.bias)
    assert all(torch.equal(before[key], tensor) for key, tensor in adapter.state_dict().items())


@merging_method
def test_a_layer_without_bias_merges_to_one_without_bias(name: str) -> None:
    model = nn.Sequential(nn.Linear(IN, OUT, bias=False, dtype=torch.float64))
    inject(model, method_class(name), setup(), head=[])
    train(model)
    merged = adapter_at(model).merge()
    assert merged.bias is None
    torch.testing.assert_close(merged(inputs()), model(inputs()), rtol=0, atol=1e-10)


def test_a_method_that_does_not_merge_says_so_and_what_to_do() -> None:
    assert set(LINEAR) - set(MERGING) == {"houlsby"}
    with pytest.raises(UserError, match=r"houlsby .*can't be merged.\n.*adapter=lora"):
        adapter_of("houlsby").merge()


@merging_method
def test_the_factors_of_the_update_give_the_merged_weight(name: str) -> None:
    adapter = adapter_of(name)
    train(adapter)
    factors = adapter.lora_factors()
    assert factors is not None
    weight = array(linear(IN, OUT).weight) + factors.scaling * array(factors.B) @ array(factors.A)
    if factors.magnitude is not None:
        weight *= (array(factors.magnitude) / np.linalg.norm(weight, axis=1))[:, None]
    np.testing.assert_allclose(array(adapter.merged_weight()), weight, rtol=0, atol=1e-10)


def test_a_bottleneck_has_no_factors() -> None:
    assert adapter_of("houlsby").lora_factors() is None


@linear_method
def test_saved_state_gives_an_empty_copy_the_same_outputs(name: str, tmp_path: Path) -> None:
    trained, copy = placement(name), placement(name, setup(seed=None))
    train(adapter_at(trained.model))
    assert not torch.equal(copy.model(inputs()), trained.model(inputs()))
    save_file(trained.state(), tmp_path / "adapter.safetensors")
    copy.load(load_file(tmp_path / "adapter.safetensors"))
    assert torch.equal(copy.model(inputs()), trained.model(inputs()))


@linear_method
def test_saved_state_gives_an_empty_copy_of_layers_of_different_sizes_the_same_outputs(
    name: str, tmp_path: Path
) -> None:
    first, second = setup(), setup(seed=None)
    first.target_modules = second.target_modules = ["0", "2"]
    trained, copy = (
        inject(two_layers(), method_class(name), method_setup, head=[]) for method_setup in (first, second)
    )
    train(trained.model)
    save_file(trained.state(), tmp_path / "adapter.safetensors")
    copy.load(load_file(tmp_path / "adapter.safetensors"))
    assert torch.equal(copy.model(inputs()), trained.model(inputs()))


@linear_method
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_a_state_loaded_twice_is_the_state(name: str, dtype: torch.dtype) -> None:
    trained, copy = placement(name, dtype=dtype), placement(name, dtype=dtype)
    train(trained.model)
    for _ in range(2):
        copy.load(trained.state())
        with computing_in(dtype):
            assert torch.equal(copy.model(inputs(dtype)), trained.model(inputs(dtype)))


@linear_method
def test_saved_state_holds_the_adapter_without_the_base_layer(name: str) -> None:
    expected = ROWS[name].trained | ROWS[name].frozen
    assert set(placement(name).state()) == {f"0.{key}" for key in expected}


@linear_method
def test_the_seed_alone_decides_the_weights(name: str) -> None:
    first, same, other = (placement(name, setup(seed=seed)).state() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first) == ROWS[name].seeded


@pytest.mark.parametrize("name", ["lora_sb", "pissa"])
def test_a_decomposition_draws_no_random_numbers(name: str) -> None:
    method_setup = setup()
    assert method_setup.generator is not None
    before = method_setup.generator.get_state()
    adapter_of(name, method_setup)
    assert torch.equal(method_setup.generator.get_state(), before)


@linear_method
def test_the_global_random_state_is_as_it_was(name: str) -> None:
    model, method_setup = base_model(), setup()
    before = torch.get_rng_state()
    inject(model, method_class(name), method_setup, head=[])
    if ROWS[name].merges:
        adapter_at(model).merge()
    assert torch.equal(torch.get_rng_state(), before)


@linear_method
@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize("rank", [0, 6])
def test_a_rank_that_does_not_fit_is_refused_with_the_allowed_range(name: str, rank: int) -> None:
    method_setup, bound = setup(seed=0), not method_class(name).any_rank
    method_setup.rank = rank
    if rank > 0 and not bound:
        injected(name, method_setup)
        return
    with pytest.raises(UserError, match=rf"rank={rank} .*5 x 7(.|\n)*1 {'to 5' if bound else 'or more'}"):
        injected(name, method_setup)


@linear_method
def test_a_module_that_is_not_linear_is_refused_by_name(name: str) -> None:
    with pytest.raises(UserError, match="0 is a Tanh"):
        inject(nn.Sequential(nn.Tanh()), method_class(name), setup(), head=[])


@pytest.mark.parametrize("name", [name for name in LINEAR if "dropout" in options_of(name)])
def test_dropout_acts_on_the_adapter_alone_and_only_while_training(name: str) -> None:
    adapter = adapter_of(name, setup(dropout=1.0))
    for key in ROWS[name].trained:
        nn.init.ones_(adapter.get_parameter(key))
    if name == "dora":  # whose lengths are no part of what is dropped: those of the directions as they are
        adapter.lora_magnitude_vector.data.copy_(adapter.row_norms())
    assert torch.equal(adapter.train()(inputs()), adapter.base_layer(inputs()))
    assert not torch.equal(adapter.eval()(inputs()), adapter.base_layer(inputs()))


@linear_method
def test_more_than_one_batch_dimension_keeps_its_shape(name: str) -> None:
    adapter, x = adapter_of(name), drawn(2, 3, IN, seed=5)
    train(adapter)
    expected = torch.stack([torch.stack([adapter(token[None])[0] for token in row]) for row in x])
    torch.testing.assert_close(adapter(x), expected, rtol=0, atol=1e-10)


@linear_method
def test_an_option_that_a_method_does_not_have_is_refused_with_those_that_it_has(name: str) -> None:
    with pytest.raises(UserError, match=r"adapter.options.foo is no option of \w+.\nAllowed: ") as refusal:
        injected(name, setup(foo=1))
    allowed = str(refusal.value).partition("Allowed: ")[2]
    assert set(allowed.rstrip(".").split(", ")) == set(yaml_of(name).get("options", {}) or ["none"])


def test_an_unknown_initialization_of_lora_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"init=x (.|\n)*gaussian, kaiming"):
        injected("lora", setup(init="x"))


def test_gaussian_lora_has_variance_1_over_in_features() -> None:
    model = nn.Sequential(nn.Linear(401, 211))
    inject(model, method_class("lora"), setup(rank=199), head=[])
    assert adapter_at(model).lora_A.std().item() * 401**0.5 == pytest.approx(1, abs=0.02)


def test_kaiming_lora_stays_within_the_bound_of_peft_and_fills_it() -> None:
    largest = adapter_of("lora", setup(rank=5, init="kaiming")).lora_A.abs().max().item()
    assert 0.8 * IN**-0.5 < largest <= IN**-0.5


@pytest.mark.parametrize("name", ["lora", "rslora", "dora", "dylora", "lora_fa", "lora_fa_v1"])
def test_kaiming_is_torch_s_default_of_a_linear_layer_for_every_method_that_draws_a(name: str) -> None:
    expected = torch.empty(RANK, IN)
    nn.init.kaiming_uniform_(expected, a=math.sqrt(5), generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(adapter_of(name, setup(seed=4, init="kaiming")).lora_A.float(), expected)
    assert not torch.equal(adapter_of(name, setup(seed=4)).lora_A.float(), expected)
    with pytest.raises(UserError, match=r"adapter\.options\.init=kaming is not known.\nAllowed: kaiming, gaussian"):
        adapter_of(name, setup(init="kaming"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lora", {"dropout": "0.1x"}, "dropout=0.1x isn't a number"),
        ("lora", {"dropout": True}, "dropout=True isn't a number"),
        ("lora", {"dropout": -0.1}, r"dropout=-0.1 is no probability.\nAllowed: 0 to 1"),
        ("vera", {"dropout": math.nan}, r"dropout=nan is no probability"),
        ("dora", {"dropout": 1.5}, r"dropout=1.5 is no probability"),
        ("lora", {"init": 3}, "init=3 isn't a word"),
        ("lora", {"lr_ratio": "fast"}, "lr_ratio=fast isn't a number"),
        ("lora", {"lr_ratio": [1, 2]}, r"lr_ratio=\[1, 2\] isn't a number"),
        ("lora_sb", {"eta": 0.0}, r"eta=0.0 is no size of a start.\nAllowed: a number above 0"),
        ("lora_sb", {"eta": math.inf}, "eta=inf is no size of a start"),
        ("lora_sb", {"eta": math.nan}, "eta=nan is no size of a start"),
        ("lora_sb", {"probe_dropout": 0.1}, "probe_dropout=0.1 isn't true or false"),
        ("houlsby", {"activation": True}, "activation=True isn't a word"),
    ],
)
def test_an_option_that_can_not_be_meant_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    model = base_model()
    with pytest.raises(UserError, match=rf"adapter\.options\.{message}"):
        inject(model, method_class(name), setup(**options), head=[])
    assert type(model[0]) is nn.Linear


def test_eta_of_lora_sb_is_the_size_of_its_start() -> None:
    plain, sized = adapter_of("lora_sb"), adapter_of("lora_sb", setup(eta=STEP_SIZE / 4))
    torch.testing.assert_close(plain.lora_R, 4 * sized.lora_R, rtol=1e-6, atol=0)
    expected, _ = best_approximation(STEP_SIZE / 4 * first_update(seed=0), RANK)
    update = sized.scaling * array(sized.lora_B @ sized.lora_R @ sized.lora_A)
    np.testing.assert_allclose(update, expected, rtol=0, atol=1e-7)


def peft_layer(config: str, alpha: int | None, arguments: dict[str, object], base: nn.Module) -> tuple[nn.Module, Any]:
    """PEFT's method on the layer called 0, in the base model's format: the model and the adapted layer."""
    peft = pytest.importorskip("peft")
    scale = {} if alpha is None else {"lora_alpha": alpha}
    dtype = next(base.parameters()).dtype
    model = peft.get_peft_model(base, getattr(peft, config)(r=RANK, target_modules=["0"], **scale, **arguments))
    return model.to(dtype), model.base_model.model[0]


def theirs_of(layer: Any, key: str) -> Tensor:
    """The tensor of PEFT's layer that has our name `key`."""
    tensor: Tensor | nn.Module = getattr(layer, key)["default"]
    return tensor.get_parameter("weight") if isinstance(tensor, nn.Module) else tensor


def peft_copy(name: str, adapter: Adapter, alpha: int | None) -> tuple[nn.Module, Any]:
    """PEFT's method with the adapter's tensors."""
    config, arguments = PEFT_CONFIGS[name]
    model, layer = peft_layer(config, alpha, arguments, base_model(adapter.base_layer.weight.dtype))
    with torch.no_grad():
        layer.base_layer.weight.copy_(adapter.base_layer.weight)
        for key in (ROWS[name].trained | ROWS[name].frozen) - {"initial_A", "initial_B"}:
            theirs_of(layer, key).copy_(adapter.get_parameter(key))
    return model, layer


PEFT_CONFIGS: dict[str, tuple[str, dict[str, object]]] = {
    "lora": ("LoraConfig", {}),
    "lora_fa": ("LoraConfig", {}),
    "rslora": ("LoraConfig", {"use_rslora": True}),
    "pissa": ("LoraConfig", {}),
    "dora": ("LoraConfig", {"use_dora": True}),
    "vera": ("VeraConfig", {}),
}


@pytest.mark.parametrize("name", ["lora", "rslora", "pissa", "dora", "vera"])
def test_outputs_and_gradients_are_those_of_peft(name: str) -> None:
    adapter = adapter_of(name, setup(scaling=4.0))
    train(adapter)
    adapter.zero_grad()
    model, layer = peft_copy(name, adapter, None if name == "vera" else 4 * RANK)
    ours_x, theirs_x = inputs().requires_grad_(True), inputs().requires_grad_(True)
    ours, theirs = adapter(ours_x), model(theirs_x)
    loss_of(ours).backward()
    loss_of(theirs).backward()
    pairs = [(ours, theirs), (ours_x.grad, theirs_x.grad)]
    pairs += [(adapter.get_parameter(key).grad, theirs_of(layer, key).grad) for key in ROWS[name].trained]
    for actual, expected in pairs:
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


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
    np.testing.assert_allclose(2.0 * array(gradient(adapter.lora_B)) @ A, (A.T @ solution).T, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=str)
def test_one_step_of_lora_fa_equals_the_optimizer_of_peft(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, tolerance: float
) -> None:
    lorafa = pytest.importorskip("peft.optimizers.lorafa")
    monkeypatch.setattr(lorafa, "is_bf16_available", lambda: False)  # else it corrects in bfloat16
    adapter = adapter_of("lora_fa", setup(scaling=4.0), dtype=dtype)
    nn.init.normal_(adapter.lora_B, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        adapter.lora_A.mul_(1000)  # so large that the 1e-8 which PEFT adds to A A^T's diagonal is below rounding
        adapter.lora_B.div_(1000)
    model, layer = peft_copy("lora_fa", adapter, 4 * RANK)
    start = adapter.lora_B.detach().clone()
    theirs = lorafa.create_lorafa_optimizer(model, r=RANK, lora_alpha=4 * RANK, lr=0.1)
    theirs.param_groups[0]["eps"] = 1e-5  # so large that the size of the gradient shows in Adam's first step
    eps = 1e-5 / (1 - 0.999) ** 0.5  # PEFT adds it before the second moment's bias correction, torch after it
    ours = torch.optim.AdamW([adapter.lora_B], lr=0.1, betas=(0.9, 0.999), eps=eps, weight_decay=0.0)
    for module in (model, adapter):
        loss_of(module(inputs(dtype))).backward()
    adapter.correct_gradients()
    theirs.step()
    ours.step()
    assert (adapter.lora_B - start).abs().min() > 1e-4
    torch.testing.assert_close(adapter.lora_B, theirs_of(layer, "lora_B"), rtol=0, atol=tolerance)


def test_lora_fa_inverts_the_gram_matrix_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []
    inverse: Callable[[Tensor], Tensor] = torch.linalg.inv

    def counted(matrix: Tensor) -> Tensor:
        calls.append(tuple(matrix.shape))
        return inverse(matrix)

    monkeypatch.setattr(torch.linalg, "inv", counted)
    train(adapter_of("lora_fa"), steps=3)
    assert calls == [(RANK, RANK)]


@contextmanager
def saved_numbers(module: nn.Module) -> Iterator[list[int]]:
    """The size of each tensor that autograd keeps for backward, parameters left out."""
    parameters = {p.untyped_storage().data_ptr() for p in module.parameters()}
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in parameters:
            sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield sizes


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lora", [TOKENS * RANK, TOKENS * IN]),
        ("lora_fa", [TOKENS * RANK]),
        ("dora", [TOKENS * RANK, TOKENS * OUT, TOKENS * IN]),
        ("vera", [TOKENS * RANK, TOKENS * OUT]),
    ],
    ids=["lora", "lora_fa", "dora", "vera"],
)
def test_backward_keeps_the_activations_that_the_trained_tensors_need_and_no_others(
    name: str, expected: list[int]
) -> None:
    adapter = adapter_of(name)
    with saved_numbers(adapter) as sizes:
        adapter(inputs().requires_grad_(True))
    assert sorted(size for size in sizes if size > OUT) == expected


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
    np.testing.assert_allclose(array(gradient(adapter.lora_R)), raw, rtol=0, atol=1e-10)
    adapter.correct_gradients()
    np.testing.assert_allclose(array(gradient(adapter.lora_R)), optimal, rtol=0, atol=1e-5)


def test_rslora_scales_by_the_root_of_the_rank() -> None:
    assert adapter_of("rslora", setup(rank=4, scaling=2.0)).scaling == 8 / 4**0.5


def test_the_first_version_of_lora_fa_leaves_the_gradient_as_it_is() -> None:
    corrected, plain = adapter_of("lora_fa"), adapter_of("lora_fa_v1")
    for adapter in (corrected, plain):
        loss_of(adapter(inputs())).backward()
    before = gradient(plain.lora_B).clone()
    torch.testing.assert_close(gradient(corrected.lora_B), before, rtol=0, atol=0)
    for adapter in (corrected, plain):
        adapter.correct_gradients()
    assert torch.equal(gradient(plain.lora_B), before)
    assert not torch.equal(gradient(corrected.lora_B), before)


def test_pissa_starts_from_the_residual_and_the_factors_of_peft() -> None:
    adapter = adapter_of("pissa", setup(scaling=4.0), dtype=torch.float32)  # PEFT refuses float64
    arguments: dict[str, object] = {"init_lora_weights": "pissa"}
    _, layer = peft_layer("LoraConfig", 4 * RANK, arguments, base_model(torch.float32))
    theirs_A, theirs_B = theirs_of(layer, "lora_A"), theirs_of(layer, "lora_B")
    sign = (adapter.lora_A * theirs_A).sum(1).sign()  # (rank,): a singular pair is determined up to its sign
    torch.testing.assert_close(adapter.base_layer.weight, layer.base_layer.weight, rtol=0, atol=1e-6)
    torch.testing.assert_close(sign[:, None] * adapter.lora_A, theirs_A, rtol=0, atol=1e-6)
    torch.testing.assert_close(adapter.lora_B * sign, theirs_B, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scaling", [1.0, 2.0])
def test_pissa_leaves_the_base_layer_what_the_best_approximation_lacks(scaling: float) -> None:
    adapter, weight = adapter_of("pissa", setup(scaling=scaling)), array(linear(IN, OUT).weight)
    best, error = best_approximation(weight, RANK)
    np.testing.assert_allclose(scaling * array(adapter.lora_B @ adapter.lora_A), best, rtol=0, atol=1e-5)
    np.testing.assert_allclose(array(adapter.base_layer.weight), weight - best, rtol=0, atol=1e-5)
    assert np.linalg.norm(array(adapter.base_layer.weight)) == pytest.approx(error, abs=1e-5)


def test_pissa_writes_the_residual_once() -> None:
    injected = placement("pissa", setup(seed=None))
    weight, state = adapter_at(injected.model).base_layer.weight, placement("pissa").state()
    writes = []
    for _ in range(3):
        injected.load(state)
        writes.append(weight._version)
    assert writes == [1 + linear(IN, OUT).weight._version] * 3


def test_pissa_takes_the_factors_of_another_start_out_of_the_plain_weight() -> None:
    trained, copy = placement("pissa", setup(seed=None)), placement("pissa")
    state = {key: 0.3 * drawn(*tensor.shape, seed=index) for index, (key, tensor) in enumerate(copy.state().items())}
    trained.load(state)
    copy.load(state)
    torch.testing.assert_close(copy.model(inputs()), trained.model(inputs()), rtol=0, atol=1e-12)


@contextmanager
def made_matrices(module: nn.Module) -> Iterator[list[tuple[int, ...]]]:
    """Shapes of the new matrices that operations make inside, views of parameters left out."""
    parameters = {p.untyped_storage().data_ptr() for p in module.parameters()}
    shapes: list[tuple[int, ...]] = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            if isinstance(made, Tensor) and made.ndim == 2 and made.untyped_storage().data_ptr() not in parameters:
                shapes.append(tuple(made.shape))
            return made

    recorder: Any = Recorder  # its base class has no types
    with recorder():
        yield shapes


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_norm_of_dora_is_that_of_the_dense_product_which_is_never_made(bias: bool, dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(IN, OUT, bias=bias, dtype=dtype))
    inject(model, method_class("dora"), setup(), head=[])
    adapter = adapter_at(model)
    nn.init.normal_(adapter.lora_B, generator=torch.Generator().manual_seed(6))
    dense = adapter.base_layer.weight + 2.0 * adapter.lora_B @ adapter.lora_A
    expected = torch.linalg.norm(dense.double(), dim=1).to(dtype)
    torch.testing.assert_close(adapter.row_norms(), expected, rtol=1e-12 if dtype == torch.float64 else 1e-6, atol=0)
    with made_matrices(adapter) as shapes:
        loss_of(adapter(inputs(dtype))).backward()
    assert (TOKENS, OUT) in shapes
    assert not {(OUT, IN), (IN, OUT), (IN, IN), (OUT, OUT)} & set(shapes)


@pytest.mark.parametrize("left", [0.3, 0.1, 0.01, 0.001])
@pytest.mark.parametrize("rank", [3, 48])
def test_the_norm_of_dora_is_dense_where_the_update_cancels_the_weight(rank: int, left: float) -> None:
    size = 48
    model = nn.Sequential(nn.Linear(size, size))
    inject(model, method_class("dora"), setup(rank=rank), head=[])
    adapter, noise = adapter_at(model), drawn(size, size, seed=7)
    with torch.no_grad():
        adapter.lora_B.copy_(drawn(size, rank, seed=8))
        if rank < size:
            adapter.base_layer.weight.copy_(left * noise - 2.0 * adapter.lora_B @ adapter.lora_A)
        else:  # A has full rank, so that B can take away most of any weight, with entries far larger than its product
            adapter.lora_B.copy_(-(1 - left) / 2 * adapter.base_layer.weight @ torch.linalg.inv(adapter.lora_A))
        adapter.lora_B[:5] = 0  # rows where nothing cancels
        adapter.base_squares.copy_(adapter.base_layer.weight.square().sum(1))
    # In float32 B A itself is rounded, by so much of the entries that it is summed from.
    update = 2.0 * adapter.lora_B.double() @ adapter.lora_A.double()
    summed = 2.0 * adapter.lora_B.double().abs() @ adapter.lora_A.double().abs()
    expected = torch.linalg.norm(adapter.base_layer.weight.double() + update, dim=1)
    rounding = 1e-6 * expected + 3e-7 * torch.linalg.norm(summed, dim=1) / math.sqrt(rank)
    deviation = (adapter.row_norms().double() - expected).abs()
    # Up to a hundredth may be left of what is summed, so that the last two of seven digits are the machine's own.
    assert (deviation <= rounding + 1e-5 * expected).all(), (deviation / expected).max()


def test_a_row_that_the_update_leaves_nothing_of_has_a_finite_scale() -> None:
    adapter = adapter_of("dora", setup(rank=5), dtype=torch.float32)
    with torch.no_grad():
        weight = adapter.base_layer.weight[:, :5] @ torch.eye(5, IN)
        adapter.base_layer.weight.copy_(weight)
        adapter.base_squares.copy_(weight.square().sum(1))
        adapter.lora_A.copy_(torch.eye(5, IN))
        adapter.lora_B.copy_(-weight[:, :5] / 2)
    assert adapter(inputs(torch.float32)).isfinite().all()


def test_the_norm_of_dora_is_computed_in_float32_under_autocast() -> None:
    adapter = adapter_of("dora", dtype=torch.float32)
    nn.init.normal_(adapter.lora_B, generator=torch.Generator().manual_seed(6))
    plain = adapter.row_norms()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(adapter.row_norms(), plain)
        output = adapter(inputs(torch.float32))
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), adapter(inputs(torch.float32)), rtol=0.02, atol=0.05)


def test_a_row_of_zeros_under_dora_gives_no_nan() -> None:
    model = base_model()
    nn.init.zeros_(model.get_parameter("0.weight")[1])
    inject(model, method_class("dora"), setup(), head=[])
    train(model)
    assert all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())


@pytest.mark.parametrize(("draw", "b"), [(0.0, 1), (0.33, 1), (0.34, 2), (0.66, 2), (0.67, 3), (1 - 2**-24, 3)])
def test_a_step_of_dylora_is_one_of_a_lora_of_the_drawn_rank(draw: float, b: int) -> None:
    adapter = adapter_of("dylora", setup(scaling=4.0))
    train(adapter)
    adapter.zero_grad()
    adapter.on_step([adapter], draw)
    lora = method_class("lora")(linear(IN, OUT), rank=b, alpha=4.0 * RANK)
    lora.lora_A.data.copy_(adapter.lora_A[:b])
    lora.lora_B.data.copy_(adapter.lora_B[:, :b])
    output, expected = adapter(inputs()), lora(inputs())
    loss_of(output).backward()
    loss_of(expected).backward()
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient(adapter.lora_A)[:b], gradient(lora.lora_A), rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient(adapter.lora_B)[:, :b], gradient(lora.lora_B), rtol=0, atol=1e-12)
    assert not gradient(adapter.lora_A)[b:].any()
    assert not gradient(adapter.lora_B)[:, b:].any()


@pytest.mark.parametrize("b", [1, 2, 3])
def test_dylora_has_the_factor_of_the_authors_code(b: int) -> None:
    adapter = adapter_of("dylora", setup(scaling=4.0))
    train(adapter)
    adapter.on_step([adapter], (b - 0.5) / RANK)
    root = math.sqrt(RANK / b)  # on both factors, beside alpha / rank
    A, B = root * array(adapter.lora_A)[:b], root * array(adapter.lora_B)[:, :b]
    weight = array(adapter.base_layer.weight) + 4.0 * B @ A
    expected = inputs().numpy() @ weight.T + array(adapter.base_layer.bias)
    np.testing.assert_allclose(array(adapter(inputs())), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("b", [1, 2, 3])
def test_dylora_computes_and_merges_at_any_smaller_rank(b: int) -> None:
    adapter = adapter_of("dylora", setup(scaling=4.0))
    train(adapter)
    adapter.truncate(b)
    delta = 4.0 * RANK / b * array(adapter.lora_B)[:, :b] @ array(adapter.lora_A)[:b]
    factors = adapter.lora_factors()
    assert factors is not None
    assert adapter.scaling == 4.0 * RANK / b
    assert factors.A.shape == (b, IN)
    np.testing.assert_allclose(factors.scaling * array(factors.B @ factors.A), delta, rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        array(adapter.merged_weight()), array(adapter.base_layer.weight) + delta, rtol=0, atol=1e-12
    )
    adapter.eval()
    adapter.on_step([adapter], 0.0)  # a draw is for training alone
    torch.testing.assert_close(adapter(inputs()), adapter.merge()(inputs()), rtol=0, atol=1e-12)


def test_dylora_uses_all_its_ranks_until_it_is_told_otherwise() -> None:
    adapter = adapter_of("dylora")
    train(adapter)
    assert torch.equal(adapter.eval()(inputs()), adapter.train()(inputs()))
    assert adapter.scaling == 2.0


@pytest.mark.parametrize("rank", [0, 4])
def test_dylora_is_not_cut_to_a_rank_that_it_does_not_have(rank: int) -> None:
    with pytest.raises(UserError, match=rf"rank 3 can't be cut to rank {rank}(.|\n)*1 to 3"):
        adapter_of("dylora").truncate(rank)


@linear_method
def test_only_a_nested_method_can_be_cut(name: str) -> None:
    assert method_class(name).nested == (name == "dylora")
    if name != "dylora":
        with pytest.raises(NotImplementedError):
            adapter_of(name).truncate(1)


def vera_on_two_layers(seed: int | None = 0) -> InjectedModel:
    method_setup = setup(seed=seed)
    method_setup.target_modules = ["0", "2"]
    return inject(two_layers(), method_class("vera"), method_setup, head=[])


def test_vera_shares_one_pair_of_the_largest_size_and_stores_it_once() -> None:
    injected = vera_on_two_layers()
    first, second = adapter_at(injected.model, "0"), adapter_at(injected.model, "2")
    assert first.vera_A is second.vera_A
    assert first.vera_B is second.vera_B
    shapes = {key: tuple(tensor.shape) for key, tensor in injected.state().items()}
    assert shapes == {
        "0.vera_A": (RANK, IN),
        "0.vera_B": (LAST, RANK),
        **{f"{layer}.vera_lambda_d": (RANK,) for layer in (0, 2)},
        "0.vera_lambda_b": (OUT,),
        "2.vera_lambda_b": (LAST,),
    }


def test_a_smaller_layer_under_vera_uses_the_first_columns_and_rows() -> None:
    injected = vera_on_two_layers()
    train(injected.model)
    layer, x = adapter_at(injected.model, "2"), drawn(TOKENS, OUT, seed=5)
    A, B = array(layer.vera_A)[:, :OUT], array(layer.vera_B)[:LAST]
    d, b = array(layer.vera_lambda_d), array(layer.vera_lambda_b)
    expected = array(layer.base_layer(x)) + b * (d * (x.numpy() @ A.T) @ B.T)
    np.testing.assert_allclose(array(layer(x)), expected, rtol=0, atol=1e-12)


def test_vera_draws_the_pair_of_peft_from_the_same_seed() -> None:
    adapter = adapter_of("vera", setup(seed=5), dtype=torch.float32)
    _, layer = peft_layer("VeraConfig", None, {"projection_prng_key": 5}, base_model(torch.float32))
    for key in ("vera_A", "vera_B", "vera_lambda_d", "vera_lambda_b"):
        torch.testing.assert_close(adapter.get_parameter(key), theirs_of(layer, key), rtol=0, atol=1e-7)


def test_houlsby_is_a_bottleneck_after_the_layer() -> None:
    for activation, module in (("gelu", nn.GELU()), ("relu", nn.ReLU())):
        adapter = adapter_of("houlsby", setup(activation=activation))
        train(adapter)
        down, up = nn.Linear(OUT, RANK).double(), nn.Linear(RANK, OUT).double()
        down.load_state_dict({"weight": adapter.down, "bias": adapter.down_bias})
        up.load_state_dict({"weight": adapter.up, "bias": adapter.up_bias})
        h = base_model()[0](inputs())
        torch.testing.assert_close(adapter(inputs()), h + up(module(down(h))), rtol=0, atol=1e-12)


def test_houlsby_starts_within_two_standard_deviations_and_without_biases() -> None:
    model = nn.Sequential(nn.Linear(211, 199))
    inject(model, method_class("houlsby"), setup(rank=101), head=[])
    adapter = adapter_at(model)
    assert not adapter.down_bias.any()
    assert not adapter.up_bias.any()
    for matrix in (adapter.down, adapter.up):
        assert 0.0199 < matrix.abs().max().item() <= 0.02
        assert matrix.std().item() == pytest.approx(0.00880, abs=1e-4)  # of a Gaussian cut off at two of its own


def test_an_unknown_activation_of_houlsby_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"activation=x (.|\n)*gelu, relu"):
        injected("houlsby", setup(activation="x"))


class WithMask(nn.Module):
    """A module with a buffer called bias, as GPT-2's attention has, and an embedding called so, as T5's has."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bias", torch.ones(3))
        self.relative_attention_bias = nn.Embedding(3, 2)
        self.norm = nn.LayerNorm(4)


def test_bitfit_trains_the_biases_of_layers_and_norms_and_nothing_that_is_only_called_so() -> None:
    model = nn.Sequential(nn.Linear(IN, 4), WithMask(), nn.Linear(4, OUT, bias=False))
    inject(model, method_class("bitfit"), setup(), head=[])
    assert {key for key, p in model.named_parameters() if p.requires_grad} == {"0.bias", "1.norm.bias"}
    assert not model[1].bias.requires_grad


def test_bitfit_refuses_a_model_without_biases() -> None:
    with pytest.raises(UserError, match=r"bitfit trains biases; this Sequential has none.\n"):
        inject(nn.Sequential(nn.Linear(IN, OUT, bias=False)), method_class("bitfit"), setup(), head=[])


def blocks(count: int) -> tuple[nn.Sequential, Setup]:
    method_setup = setup()
    method_setup.layers = [str(index) for index in range(1, 1 + count)]
    return nn.Sequential(*(nn.Linear(4, 4) for _ in range(2 + count))), method_setup


@pytest.mark.parametrize(("layers", "trained"), [(None, {"3"}), (1, {"3"}), (2, {"2", "3"}), (3, {"1", "2", "3"})])
def test_last_k_trains_the_last_blocks_whole_and_nothing_after_them(layers: int | None, trained: set[str]) -> None:
    model, method_setup = blocks(3)
    method_setup.options = {} if layers is None else {"layers": layers}
    inject(model, method_class("last_k"), method_setup, head=[])
    trainable = {key for key, p in model.named_parameters() if p.requires_grad}
    assert trainable == {f"{block}.{part}" for block in trained for part in ("weight", "bias")}


@pytest.mark.parametrize("layers", [0, 4, -1, 1.5])
def test_last_k_refuses_more_or_fewer_blocks_than_there_are(layers: float) -> None:
    model, method_setup = blocks(3)
    method_setup.options = {"layers": layers}
    with pytest.raises(UserError, match=rf"layers={layers} .*3 blocks(.|\n)*1 to 3"):
        inject(model, method_class("last_k"), method_setup, head=[])
