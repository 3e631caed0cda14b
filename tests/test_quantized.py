"""Quantized bases: weights as the paper defines them, layers that compute what they hold, whole runs on top."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from src.adapters.calibrate import update_directions
from src.adapters.inject import adapters, inject
from src.adapters.ledger import count
from src.adapters.lora import LoRA
from src.adapters.pissa import PiSSA
from src.config.schema import Config, ModelConfig
from src.errors import UserError
from src.models import quantization
from src.models.base_model import load_base
from src.models.dense_weight import dense_weight, replace_weight
from src.results.schema import Record
from src.results.store import ADAPTER
from src.running.assemble import empty_setup, inject_empty
from src.running.execute import execute
from src.running.sweep import Plan
from src.streams import stream_generator
from src.training.batches import collate, encoded_splits
from tests.conftest import HANG_SECONDS, ROOT, TINY, composed
from tests.tiny_models import COMMON, SIZES

pytest.importorskip("bitsandbytes", reason="bitsandbytes isn't installed: pip install -e '.[quantization]'")

Make = Callable[..., Config]
KINDS = ["nf4", "int8"]
# Appendix E of the QLoRA paper (arXiv 2305.14314v1): the 16 values of NF4.
NF4_VALUES = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip
NF4_BLOCK = 64


def rounded_to_nf4(weight: Tensor) -> Tensor:
    """Every weight as the nearest of the 16 values times the largest magnitude of its block of 64."""
    flat = weight.flatten()
    blocks = F.pad(flat, (0, -len(flat) % NF4_BLOCK)).view(-1, NF4_BLOCK)
    scales = blocks.abs().amax(dim=1, keepdim=True)
    values = torch.tensor(NF4_VALUES)
    nearest = (blocks / scales).unsqueeze(-1).sub(values).abs().argmin(-1)
    return (values[nearest] * scales).flatten()[: len(flat)].view(weight.shape)


def assert_is_rounded(kind: str, rounded: Tensor, weight: Tensor) -> None:
    """Hold a dequantized weight against the papers: NF4, or the nearest whole 127th of its row's largest magnitude."""
    if kind == "nf4":
        torch.testing.assert_close(rounded, rounded_to_nf4(weight), rtol=0, atol=1e-6)
        return
    half = weight.half().float()  # bitsandbytes rounds to float16 first
    steps = half.abs().amax(dim=1, keepdim=True) / 127
    torch.testing.assert_close(rounded / steps, (rounded / steps).round(), rtol=0, atol=1e-3)
    assert ((rounded - half).abs() <= 0.501 * steps).all()


def layer(kind: str, out_features: int = 96, in_features: int = 64, seed: int = 0) -> tuple[nn.Linear, Any]:
    plain = nn.Linear(in_features, out_features)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        plain.weight.normal_(0.0, 0.1, generator=generator)
        plain.bias.normal_(generator=generator)
    return plain, quantization._layer_class(kind).of(plain)


def inputs(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def linear_at(model: nn.Module, name: str) -> nn.Linear:
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    return layer


def quantized_model(kind: str, *overrides: str) -> nn.Module:
    config = composed(*TINY, f"quantization={kind}", *overrides)
    return load_base(config.model, num_labels=0, attention="eager", quantization=kind).module


@pytest.mark.parametrize("shape", [(96, 64), (5, 7), (33, 128)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_dequantized_weight_is_the_paper_s(kind: str, shape: tuple[int, int]) -> None:
    plain, quantized = layer(kind, *shape)
    assert_is_rounded(kind, dense_weight(quantized), plain.weight.detach())
    assert dense_weight(quantized).dtype == torch.float32
    assert dense_weight(plain) is plain.weight


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_put_in_its_place_is_rounded_the_same_way(kind: str) -> None:
    plain, quantized = layer(kind)
    other, _ = layer(kind, seed=1)
    parameter = quantized.weight
    for linear in (plain, quantized):
        replace_weight(linear, other.weight)
    assert torch.equal(plain.weight, other.weight)
    assert quantized.weight is parameter
    assert_is_rounded(kind, dense_weight(quantized), other.weight.detach())


@pytest.mark.parametrize("shape", [(96, 64), (5, 7)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_computes_with_its_dequantized_weight_trained_or_evaluated(kind: str, shape: tuple[int, int]) -> None:
    # bitsandbytes' own layers evaluate in bfloat16 (4 bits) or with 8-bit inputs (8 bits) on this very CPU or another
    _, quantized = layer(kind, *shape)
    before = copy.deepcopy(quantized)
    x = inputs(2, 9, shape[1]).requires_grad_(True)
    expected = F.linear(x, dense_weight(quantized), quantized.bias)
    (gradient,) = torch.autograd.grad(expected.sin().sum(), x)
    for training in (False, True, False):
        outputs = quantized.train(training)(x)
        torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(torch.autograd.grad(outputs.sin().sum(), x)[0], gradient, rtol=1e-5, atol=1e-5)
        with torch.inference_mode():
            torch.testing.assert_close(quantized(x), expected.detach(), rtol=1e-5, atol=1e-5)
    assert torch.equal(quantized.weight, before.weight)
    assert torch.equal(quantized.bias, before.bias)


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_rules_a_layer_as_it_rules_a_plain_one(kind: str) -> None:
    plain, quantized = layer(kind)
    x = inputs(4, 64)
    with torch.no_grad():
        plain.weight.copy_(dense_weight(quantized))
        quantized(x)  # the format of the first input must not stick
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs, expected = quantized(x), plain(x)
    assert outputs.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(outputs, expected, rtol=0.02, atol=0.02)
    assert quantized.bias.dtype == torch.float32
    assert torch.equal(quantized.bias, plain.bias)


@pytest.mark.parametrize("kind", KINDS)
def test_a_deep_copy_is_equal_and_independent(kind: str) -> None:
    _, quantized = layer(kind)
    expected, x = dense_weight(quantized).clone(), inputs(3, 64)
    with torch.no_grad():
        quantized(x)
        copied = copy.deepcopy(quantized).to("cpu").float()
        assert torch.equal(copied(x), quantized(x))
        replace_weight(copied, expected + 1)
    assert torch.equal(dense_weight(quantized), expected)
    assert not torch.equal(dense_weight(copied), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_every_linear_layer_but_the_head_is_quantized(kind: str) -> None:
    classifier = load_base(composed().model, num_labels=10, attention="eager", quantization=kind).module
    named = {name: type(module) for name, module in classifier.named_modules() if isinstance(module, nn.Linear)}
    assert named.pop("classifier") is nn.Linear
    assert len(named) == 6 * 6 + 1  # six in each of six blocks, and the pooler
    assert set(named.values()) == {quantization._layer_class(kind)}
    decoder = quantized_model(kind)
    assert type(decoder.get_submodule("lm_head")) is nn.Linear
    assert type(decoder.get_submodule("model.layers.1.mlp.up_proj")) is quantization._layer_class(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_that_transformers_quantizes_on_loading(kind: str) -> None:
    from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig

    from src.models.base_model import find_weights

    kinds: dict[str, dict[str, Any]] = {
        "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        "int8": {"load_in_8bit": True},
    }
    weights = find_weights(composed().model)
    assert weights is not None
    theirs = AutoModelForSequenceClassification.from_pretrained(
        weights,
        quantization_config=BitsAndBytesConfig(llm_int8_skip_modules=["classifier"], **kinds[kind]),
        device_map={"": "cpu"},
        dtype=torch.float32,
    )
    ours = load_base(composed().model, num_labels=10, attention="eager", quantization=kind).module
    for name in ("bert.encoder.layer.0.attention.self.query", "bert.encoder.layer.5.output.dense"):
        assert torch.equal(dense_weight(linear_at(theirs, name)), dense_weight(linear_at(ours, name)))


def test_a_base_is_loaded_once_for_every_quantization() -> None:
    config = composed(*TINY).model
    loaded = [load_base(config, num_labels=0, attention="eager", quantization=kind) for kind in ("nf4", "none", "nf4")]
    assert loaded[0] is loaded[2]
    assert loaded[0] is not loaded[1]
    assert type(loaded[1].module.model.layers[0].mlp.up_proj) is nn.Linear


@pytest.mark.parametrize("kind", KINDS)
def test_the_ledger_counts_weights_and_not_bytes(kind: str) -> None:
    config = composed(*TINY, "adapter=lora", "rank=3")
    ledgers = []
    for quantized in ("none", kind):
        base = load_base(config.model, num_labels=0, attention="eager", quantization=quantized)
        ledgers.append(count(inject_empty(config, base.fresh_copy([], stream_generator(0, "head_init")))))
    assert ledgers[0] == ledgers[1]
    assert ledgers[0].base_frozen > 80_000


@pytest.mark.parametrize("kind", KINDS)
def test_merging_adds_the_adapter_to_the_dequantized_weight(kind: str) -> None:
    _, quantized = layer(kind)
    adapter = LoRA(quantized, rank=3, alpha=6.0, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        adapter.lora_B.normal_(generator=torch.Generator().manual_seed(1))
    assert adapter.lora_A.dtype == torch.float32
    merged, x = adapter.merge(), inputs(4, 64)
    expected = dense_weight(quantized) + 2.0 * adapter.lora_B @ adapter.lora_A
    assert type(merged) is nn.Linear
    torch.testing.assert_close(merged.weight, expected)
    torch.testing.assert_close(merged(x), adapter(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [(12,), (5, 7)], ids=str)
def test_a_gradient_taken_at_outputs_is_the_one_of_the_dequantized_weights(kind: str, sizes: tuple[int, ...]) -> None:
    config = composed(*TINY)
    base = load_base(config.model, num_labels=0, attention="eager", quantization=kind)
    examples = encoded_splits(config, base.tokenizer)["train"]
    parts, batches = iter(examples), []
    for size in sizes:
        batches.append(collate([next(parts) for _ in range(size)], base.tokenizer.pad_token_id))
    quantized, dense = (copy.deepcopy(base.module) for _ in range(2))
    names = [name for name, module in dense.named_modules() if type(module) is quantization._layer_class(kind)]
    for name in names:
        linear = linear_at(dense, name)
        plain = nn.Linear(linear.in_features, linear.out_features, bias=False)
        plain.weight = nn.Parameter(dense_weight(linear).clone())
        dense.set_submodule(name, plain)
    actual, expected = update_directions(quantized, names, batches), update_directions(dense, names, batches)
    assert list(actual) == names
    for name in names:
        products = [d.U @ torch.diag(d.S) @ d.Vh for d in (actual[name], expected[name])]
        agreeing = (products[0].round() == products[1].round()).float().mean()
        assert agreeing > 0.999, name  # a gradient at the edge of rounding may change its sign
    assert not any(hooks for module in quantized.modules() for hooks in (module._forward_hooks,))


@pytest.mark.parametrize(("kind", "rank"), [("nf4", 8), ("nf4", 32), ("int8", 8)])
def test_pissa_is_nearer_to_the_weight_than_its_quantization_is_since_the_residual_alone_is_rounded(
    kind: str, rank: int
) -> None:
    """Section 4 of the paper (arXiv 2404.02948v4): MiniLM's first query matrix, errors relative to its norm."""
    plain_base, quantized_base = (
        load_base(composed().model, num_labels=10, attention="eager", quantization=which) for which in ("none", kind)
    )
    name = "bert.encoder.layer.0.attention.self.query"
    weight = linear_at(plain_base.module, name).weight.detach()

    def error(other: Tensor) -> float:
        return float(torch.linalg.norm(other.detach() - weight) / torch.linalg.norm(weight))

    def start(**given: Any) -> PiSSA:
        base_layer = copy.deepcopy(linear_at(quantized_base.module, name))
        return PiSSA(base_layer, rank=rank, alpha=rank, generator=torch.Generator(), **given)

    rounded = error(dense_weight(linear_at(quantized_base.module, name)))
    once, twice = start(float_weight=lambda: weight), start()  # the second decomposes what was rounded already
    assert error(once.merged_weight()) < 0.94 * rounded < rounded < error(twice.merged_weight())
    U, S, Vh = torch.linalg.svd(weight.double())
    residual = weight.double() - U[:, :rank] * S[:rank] @ Vh[:rank]
    _, reference = layer(kind, *weight.shape)
    replace_weight(reference, residual.float())
    expected = error(dense_weight(reference) + (weight.double() - residual).float())
    assert error(once.merged_weight()) == pytest.approx(expected, rel=2e-3)
    if (kind, rank) == ("nf4", 8):
        assert (error(once.merged_weight()), rounded, error(twice.merged_weight())) == pytest.approx(
            (0.0847, 0.0928, 0.1250), abs=1e-3
        )


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_s_pissa_starts_from_the_weight_before_it_was_quantized(kind: str) -> None:
    config = composed(*TINY, "adapter=pissa", "rank=4", f"quantization={kind}")
    plain, quantized = (
        load_base(config.model, num_labels=0, attention="eager", quantization=which) for which in ("none", kind)
    )
    model = quantized.fresh_copy([], stream_generator(0, "head_init"))
    setup = empty_setup(config, model)
    setup.generator = torch.Generator()
    injected = inject(model, PiSSA, setup, head=[])
    for name, adapter in adapters(injected.model).items():
        weight = linear_at(plain.module, name).weight.double()
        U, S, Vh = torch.linalg.svd(weight, full_matrices=False)
        expected = U[:, :4] * S[:4] @ Vh[:4]
        factors = adapter.get_parameter("initial_B") @ adapter.get_parameter("initial_A")
        torch.testing.assert_close(factors.double(), expected, rtol=0, atol=1e-5)
        assert_is_rounded(kind, dense_weight(adapter.base_layer), (weight - factors).float())


def run(config: Config, folder: Path) -> Record:
    folder.mkdir(parents=True, exist_ok=True)
    return execute(config, folder, report=lambda step, metrics: None)


METHODS = ["lora", "lora_sb", "pissa", "dora", "vera", "lora_fa", "lora_xs", "dylora", "rslora"]


@pytest.mark.parametrize(
    ("kind", "adapter"), [*(("nf4", adapter) for adapter in METHODS), ("int8", "lora"), ("int8", "lora_sb")]
)
def test_a_whole_run_trains_only_the_adapter_and_scores_what_it_saved(
    tiny: Make, tmp_path: Path, monkeypatch: Any, kind: str, adapter: str
) -> None:
    from src.running import fitting

    short = ["trainer.max_steps=3", "trainer.precision=fp32"]
    config = tiny(f"adapter={adapter}", "rank=4", f"quantization={kind}", *short)
    base = load_base(config.model, num_labels=0, attention="eager", quantization=kind)
    before = {name: tensor.clone() for name, tensor in base.module.state_dict().items()}
    trained: list[Any] = []
    injected = fitting._injected

    def placing(run: Any) -> Any:
        trained.append(injected(run))
        return trained[0]

    monkeypatch.setattr(fitting, "_injected", placing)
    record = run(config, tmp_path)
    assert all(torch.equal(before[name], tensor) for name, tensor in base.module.state_dict().items())
    loaded = inject_empty(config, base.fresh_copy([], stream_generator(0, "head_init")))
    loaded.load(load_file(tmp_path / ADAPTER))
    ids = torch.tensor([[5, 9, 13, 4, 8]])
    with torch.inference_mode():
        logits = [model.eval()(ids).logits for model in (trained[0].model, loaded.model, base.module)]
    assert torch.equal(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2], atol=1e-5)
    assert all(
        isinstance(module.base_layer, quantization._layer_class(kind)) for module in adapters(loaded.model).values()
    )
    assert record["parameters"]["total"] == sum(parameter.numel() for parameter in quantized_model("none").parameters())


def test_the_same_quantized_run_twice_is_equal_to_the_bit(tiny: Make, tmp_path: Path) -> None:
    config = tiny("adapter=lora", "rank=3", "quantization=nf4", "trainer.max_steps=3")
    first, again = (run(config, tmp_path / name) for name in ("a", "b"))
    assert first["history"] == again["history"]
    assert (tmp_path / "a" / ADAPTER).read_bytes() == (tmp_path / "b" / ADAPTER).read_bytes()


@pytest.mark.slow
def test_a_quantized_run_has_a_folder_of_its_own_and_another_update_direction(tiny: Make, tmp_path: Path) -> None:
    plain, quantized = (
        run(tiny("adapter=lora_sb", "rank=4", f"quantization={kind}", "trainer.max_steps=2"), tmp_path / kind)
        for kind in ("none", "nf4")
    )
    assert plain["identity"] != quantized["identity"]
    assert (tmp_path / "none" / ADAPTER).read_bytes() != (tmp_path / "nf4" / ADAPTER).read_bytes()


def test_missing_bitsandbytes_is_said_before_anything_is_loaded(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    quantization.check_quantization("none")
    with pytest.raises(UserError, match=r"quantization=nf4 needs bitsandbytes(.|\n)*pip install bitsandbytes"):
        quantization.check_quantization("nf4")


def test_a_bitsandbytes_that_cannot_work_here_is_said_with_its_reason(monkeypatch: Any) -> None:
    def broken(kind: str) -> None:
        raise RuntimeError("\nno kernel for this machine\nmany more lines")

    monkeypatch.setattr(quantization, "_try", broken)
    with pytest.raises(UserError, match=r"doesn't work on this machine: no kernel for this machine\nRun `python -m"):
        quantization.check_quantization("int8")


@pytest.mark.parametrize("kind", ["none", *KINDS])
def test_what_works_passes_the_check(kind: str) -> None:
    state = torch.random.get_rng_state()
    quantization.check_quantization(kind)
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_command_line_refuses_a_quantized_run_without_bitsandbytes(tmp_path: Path) -> None:
    (tmp_path / "bitsandbytes.py").write_text("raise ImportError('broken on purpose')")
    command = [sys.executable, "-m", "src.run", *TINY, "quantization=nf4", f"results_dir={tmp_path}/r"]
    path = {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | path, capture_output=True, text=True, timeout=HANG_SECONDS
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: quantization=nf4 doesn't work on this machine: broken on purpose")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_in_bfloat16_is_quantized_too(tiny: Make, tmp_path: Path, kind: str) -> None:
    short = ["trainer.max_steps=3", "trainer.precision=bf16", "model.dtype=bfloat16"]
    record = run(tiny("adapter=lora", "rank=4", f"quantization={kind}", *short), tmp_path)
    assert record["identity"]["quantization"] == kind
    assert {tensor.dtype for tensor in load_file(tmp_path / ADAPTER).values()} == {torch.float32}


def drawn(kind: str, **values: Any) -> ModelConfig:
    sizes = {"model_type": kind, **COMMON, **SIZES[kind]}
    return ModelConfig(kind, "causal_lm", init_seed=0, config=sizes, layers=2, **values)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model_kind", ["mixtral", "qwen2_moe"])
def test_a_base_whose_experts_stay_in_floating_point_is_refused_with_its_share(kind: str, model_kind: str) -> None:
    config = composed(*TINY, f"quantization={kind}")
    config.model = drawn(model_kind)
    model = load_base(config.model, num_labels=0, attention="eager", quantization=kind).module
    linear = [module for name, module in model.named_modules() if isinstance(module, nn.Linear) and name != "lm_head"]
    rounded = sum(module.in_features * module.out_features for module in linear)
    others = sum(p.numel() for n, p in model.named_parameters() if "experts." in n or n.endswith("mlp.gate.weight"))
    with pytest.raises(UserError, match=f"reaches {rounded / (rounded + others):.1%} of the matrix weights") as raised:
        quantization.quantized_share(model, config)
    assert "mlp.experts.gate_up_proj" in str(raised.value)
    with pytest.raises(UserError, match="of the matrix weights"):  # before anything is loaded
        Plan.of([config])
    config.quantization_partial = True
    assert quantization.quantized_share(model, config) == pytest.approx(rounded / (rounded + others))


@pytest.mark.parametrize(("model", "task"), [("minilm", "docstrings"), ("tiny_llama", "reverse_words")])
def test_shipped_models_are_quantized_whole_but_for_embeddings_and_head(model: str, task: str) -> None:
    config = composed(f"model={model}", f"task={task}", "quantization=nf4")
    base = load_base(config.model, num_labels=10, attention="eager", quantization="nf4")
    assert quantization.quantized_share(base.module, config) == 1.0


def test_gpt2_s_transposed_layers_are_quantized_where_they_are_divided_and_refused_where_not() -> None:
    config = composed(*TINY, "quantization=int8")

    def share(**values: Any) -> float:
        config.model = drawn("gpt2", **values)
        model = load_base(config.model, num_labels=0, attention="eager", quantization="int8").module
        return quantization.quantized_share(model, config)

    assert share(fused={"transformer.h.*.attn.c_attn": ["query", "key", "value"]}) == 1.0
    with pytest.raises(UserError, match=r"reaches 0\.0%"):
        share()


def test_a_run_records_its_quantized_share(tiny: Make) -> None:
    config = tiny("quantization=nf4", "forgetting=none", "trainer.max_steps=1", "trainer.eval_limit=2", "rank=2")
    assert execute(config, Path(config.results_dir), lambda step, metrics: None)["quantized_share"] == 1.0
