"""On a GPU every method gives what it gives on a CPU: `python -m pytest -m gpu`, skipped where there is none."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from src.adapters.base import Setup, UpdateDirection
from src.adapters.inject import adapters, inject
from src.results.store import ADAPTER, PREDICTIONS, RESULT
from src.training.device import find_device
from src.training.graphs import RecordedSteps
from src.training.held_weights import hold_weights
from tests.conftest import HANG_SECONDS, ROOT, TINY
from tests.test_adapters import (
    LINEAR,
    METHODS,
    adapter_of,
    drawn,
    gradient,
    inputs,
    method_class,
    setup,
    train,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that PyTorch can use"),
]

AROUND_THE_MODEL = ["peft/prefix_tuning", "peft/prompt_tuning", "peft/ia3", "peft/oft"]
# The tiny model has neither a head nor biases.
ON_THE_MODEL = [row.name for row in METHODS if row.name not in ("head_only", "bitfit")]
ADAPTERS = [*ON_THE_MODEL, *AROUND_THE_MODEL]
STEPS = 5
WIDTH, LAYERS, LONG = 1024, 8, 4096  # of the stack whose memory is measured, and the tokens that go through it

Runs = dict[str, Path]


@pytest.fixture(autouse=True)
def all_memory_returned() -> Iterator[None]:
    """One test's peak isn't another's."""
    yield
    torch.cuda.empty_cache()


@pytest.mark.parametrize("trained", [False, True], ids=["at the start", "trained"])
@pytest.mark.parametrize("name", LINEAR)
def test_outputs_and_gradients_in_float64_are_those_of_the_cpu(name: str, trained: bool) -> None:
    on_cpu = adapter_of(name, setup(scaling=1.5))
    if trained:
        train(on_cpu)
    on_cpu.zero_grad()
    on_gpu = deepcopy(on_cpu).to("cuda")
    for actual, expected in zip(_outputs_and_gradients(on_gpu), _outputs_and_gradients(on_cpu), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def _outputs_and_gradients(adapter: Any) -> list[Tensor]:
    """The output, the gradient of the input, and those of all that is trained as the optimizer sees them."""
    device = next(adapter.parameters()).device
    adapter.on_step([adapter], 0.4)
    x = inputs().to(device).requires_grad_(True)
    output = adapter(x)
    (output - drawn(*output.shape, seed=4).to(device)).square().mean().backward()
    adapter.correct_gradients()
    trained = [gradient(parameter) for parameter in adapter.parameters() if parameter.requires_grad]
    return [tensor.detach().cpu() for tensor in (output, gradient(x), *trained)]


def sweep(folder: Path, *overrides: str, cpu: bool = False) -> Runs:
    """The folders of every method's run of a few steps on the tiny model, made by the command that users give."""
    environment = os.environ | ({"CUDA_VISIBLE_DEVICES": ""} if cpu else {})
    arguments = [*TINY, f"adapter={','.join(ADAPTERS)}", "rank=4", f"trainer.max_steps={STEPS}", *overrides]
    process = subprocess.run(
        [sys.executable, "-m", "src.run", "-m", *arguments, f"results_dir={folder}", f"cache_dir={folder}/cache"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=HANG_SECONDS,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout[-4000:] + process.stderr[-2000:]
    return {record(path.parent)["config"]["adapter"]["name"]: path.parent for path in folder.glob(f"**/{RESULT}")}


def record(folder: Path) -> Any:
    return json.loads((folder / RESULT).read_text())


def losses(folder: Path) -> list[float]:
    return [point["loss"] for point in record(folder)["history"] if "loss" in point]


@pytest.fixture(scope="module")
def in_float32(tmp_path_factory: pytest.TempPathFactory) -> tuple[Runs, Runs]:
    """The sweep on the GPU and on the CPU."""
    folder = tmp_path_factory.mktemp("float32")
    return sweep(folder / "gpu", "trainer.precision=fp32"), sweep(folder / "cpu", "trainer.precision=fp32", cpu=True)


@pytest.fixture(scope="module")
def in_bfloat16(tmp_path_factory: pytest.TempPathFactory) -> tuple[Runs, Runs]:
    """The sweep in bfloat16 on the GPU, twice."""
    folder = tmp_path_factory.mktemp("bfloat16")
    return sweep(folder / "a", "trainer.precision=bf16"), sweep(folder / "b", "trainer.precision=bf16")


def test_all_methods_run_on_it(in_float32: tuple[Runs, Runs]) -> None:
    on_gpu, on_cpu = in_float32
    assert len(on_gpu) == len(on_cpu) == len(ADAPTERS)
    for folder in on_gpu.values():
        environment = record(folder)
        assert environment["state"] == "done"
        assert torch.cuda.get_device_name() in json.dumps(environment)
        assert environment["memory"]["peak_allocated_bytes"] > 0


@pytest.mark.parametrize("name", ON_THE_MODEL)
def test_five_steps_in_float32_are_those_of_the_cpu(name: str, in_float32: tuple[Runs, Runs]) -> None:
    on_gpu, on_cpu = (runs[name] for runs in in_float32)
    assert losses(on_gpu) == pytest.approx(losses(on_cpu), rel=1e-4)
    states = [without_signs(load_file(folder / ADAPTER)) for folder in (on_gpu, on_cpu)]
    assert states[0].keys() == states[1].keys()
    for key, trained in states[0].items():
        # AdamW's first steps are those of a sign, so that a gradient near zero may go either way.
        away = (trained - states[1][key]).norm() / states[1][key].norm().clamp(min=1e-6)
        assert away < 0.02, (key, float(away))


def without_signs(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state with each layer's factors multiplied out: the signs of singular vectors are the library's choice."""
    products: dict[str, Tensor] = {}
    for key, tensor in state.items():
        layer, _, name = key.rpartition(".")
        if f"{layer}.lora_R" in state or f"{layer}.initial_A" in state:
            B, A = ("initial_B", "initial_A") if name.startswith("initial") else ("lora_B", "lora_A")
            middle = state.get(f"{layer}.lora_R", torch.eye(len(state[f"{layer}.{A}"])))
            products[f"{layer}.{B} {A}"] = state[f"{layer}.{B}"] @ middle @ state[f"{layer}.{A}"]
        else:
            products[key] = tensor.float()
    return products


@pytest.mark.parametrize("name", ON_THE_MODEL)
def test_bfloat16_is_near_float32(name: str, in_float32: tuple[Runs, Runs], in_bfloat16: tuple[Runs, Runs]) -> None:
    assert losses(in_bfloat16[0][name]) == pytest.approx(losses(in_float32[0][name]), rel=0.02)


@pytest.mark.parametrize("name", ON_THE_MODEL)
def test_the_same_run_twice_is_equal_to_the_bit(name: str, in_bfloat16: tuple[Runs, Runs]) -> None:
    first, again = (runs[name] for runs in in_bfloat16)
    assert record(first)["history"] == record(again)["history"]
    assert (first / ADAPTER).read_bytes() == (again / ADAPTER).read_bytes()
    pd.testing.assert_frame_equal(*(pd.read_parquet(folder / PREDICTIONS) for folder in (first, again)))


def test_auto_takes_bfloat16_where_the_card_computes_it_fast() -> None:
    from_ampere_on = torch.cuda.get_device_capability() >= (8, 0)
    assert find_device("auto").precision == ("bf16" if from_ampere_on else "fp32")


def stack(name: str) -> nn.Module:
    """Frozen linear layers with a method on each, on the GPU."""
    layers = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)))
    method_setup = setup(rank=8)
    method_setup.target_modules[:] = method_setup.layers[:] = [str(layer) for layer in range(LAYERS)]
    return inject(layers, method_class(name), method_setup, head=[]).model.to("cuda")


def peak_bytes(name: str) -> int:
    """What a forward and a backward pass take at most beside what is there before and after them."""
    model = stack(name)
    x = torch.randn(LONG, WIDTH, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    for _ in range(2):  # the first makes the gradients and what the libraries keep
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        model(x).square().mean().backward()
        torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def test_a_frozen_a_saves_the_input_of_every_layer() -> None:
    """LoRA keeps each layer's input (tokens x width); LoRA-FA, arXiv 2308.03303, its product with A in its place."""
    saved = peak_bytes("lora") - peak_bytes("lora_fa")
    activation = 4 * LONG * WIDTH
    # The input of the first layer is the caller's own.
    assert saved > 0.9 * (LAYERS - 1) * activation


@pytest.fixture
def classifier() -> Any:
    torch.manual_seed(0)
    config: Any = BertConfig
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    model: Any = BertForSequenceClassification(config(vocab_size=99, num_labels=3, **sizes))
    return model.to("cuda")


def batch_of(texts: int, tokens: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 99, (texts, tokens), generator=generator)
    labels = torch.randint(0, 3, (texts,), generator=generator)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    return {name: tensor.to("cuda") for name, tensor in batch.items()}


def step_of(model: Any) -> Any:
    def step(batch: dict[str, Tensor]) -> Tensor:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss: Tensor = model(**batch).loss
        loss.backward()
        return loss.detach()

    return step


@pytest.mark.parametrize("name", [name for name in LINEAR if method_class(name).replayable])
def test_recorded_steps_train_as_plain_ones(name: str, classifier: Any) -> None:
    """With the base's own dropout, two shapes in turn, and the method's corrections."""
    targets = [name for name, module in classifier.named_modules() if name.endswith(("query", "dense"))]
    trained = []
    for recorded in (False, True):
        model = inject(deepcopy(classifier), method_class(name), setup_for(classifier, targets, name), head=[]).model
        model.to("cuda").train()
        said: list[str] = []
        steps = RecordedSteps(model, step_of(model), said.append) if recorded else step_of(model)
        found = list(adapters(model).values())
        optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-2)
        torch.manual_seed(5)
        losses = []
        for index in range(10):
            type(found[0]).on_step(found, 0.5)
            losses.append(steps(batch_of(6, 16 + 16 * (index % 2), index)))
            for adapter in found:
                adapter.correct_gradients()
            optimizer.step()
            optimizer.zero_grad()
        assert not said
        assert not recorded or len(steps.recordings) == 2
        trained.append([torch.stack(losses), *(one.detach() for one in model.parameters() if one.requires_grad)])
    for plain, replayed in zip(*trained, strict=True):
        torch.testing.assert_close(replayed, plain, rtol=1e-4, atol=1e-5)


def setup_for(model: nn.Module, targets: list[str], name: str) -> Setup:
    modules: dict[str, Any] = {target: model.get_submodule(target) for target in targets}
    directions = {}
    if method_class(name).needs_gradient:
        for target, layer in modules.items():
            U, S, Vh = torch.linalg.svd(drawn(layer.out_features, layer.in_features, seed=1).float().sign())
            directions[target] = UpdateDirection(U[:, :4].contiguous(), S[:4], Vh[:4].contiguous())
    generator = torch.Generator().manual_seed(0)
    return Setup(targets, rank=4, alpha=8, generator=generator, update_directions=directions, step_size=1e-3)


def test_a_model_that_draws_on_the_host_is_not_recorded(classifier: Any) -> None:
    layer = classifier.bert.encoder.layer[0]
    layer.register_forward_hook(lambda module, inputs, output: output if torch.rand(()) < 2 else None)
    said: list[str] = []
    steps = RecordedSteps(classifier, step_of(classifier), said.append)
    for index in range(4):
        steps(batch_of(2, 16, index))
        classifier.zero_grad()
    assert not steps.recordings
    assert "random numbers on the host" in said[0]


def test_a_model_that_looks_at_its_numbers_is_not_recorded_and_goes_on(classifier: Any) -> None:
    layer = classifier.bert.encoder.layer[0]
    layer.register_forward_hook(
        lambda module, inputs, output: output if float(inputs[0].detach().sum()) < 1e9 else None
    )
    said: list[str] = []
    steps = RecordedSteps(classifier, step_of(classifier), said.append)
    losses = []
    for index in range(4):
        losses.append(float(steps(batch_of(2, 16, index))))
        classifier.zero_grad()
    assert not steps.recordings
    assert len(said) == 1
    assert all(loss > 0 for loss in losses)


def test_held_weights_give_the_same_bits(classifier: Any) -> None:
    targets = [name for name, module in classifier.named_modules() if name.endswith(("query", "dense"))]
    model = inject(classifier, method_class("lora"), setup_for(classifier, targets, "lora"), head=[]).model
    model.to("cuda").eval()
    before = float(step_of(model)(batch_of(6, 16, 0)))
    hold_weights(model, torch.bfloat16)
    assert float(step_of(model)(batch_of(6, 16, 0))) == before
