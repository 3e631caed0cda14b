"""Training is what a plain loop of PyTorch and PEFT does with the same batches, starts and dropout masks: its losses.

The loop is written without this project: PEFT's layers, torch's AdamW, the schedules and the rule of decay by their
formulas. Of ours it takes the batches, the values that training starts from and the random state before each step.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from src.adapters.inject import inject
from src.models.base_model import load_base
from src.running.assemble import empty_setup, method_of
from src.streams import stream_generator
from src.training import trainer as training
from src.training.batches import encoded_splits
from src.training.device import find_device
from src.training.trainer import Recipe
from tests.conftest import composed

STEPS, WARMUP, RATE = 30, 6, 0.01
GIVEN = ["model=tiny_llama", "task=reverse_words", "tracking=none", "trainer.precision=fp32", "rank=4", "alpha=8",
         "target=attention", f"trainer.max_steps={STEPS}", "trainer.eval_every=1000", "trainer.batch_size=8",
         f"trainer.warmup_ratio={WARMUP / STEPS}", f"lr={RATE}", "+model.config.attention_dropout=0.1"]  # fmt: skip
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]


@dataclass
class Seen:
    """What our training showed: its start, and of every step the batch, the random state before it and its loss."""

    base: Any  # the model before the method was put on it
    start: dict[str, Tensor]
    batches: list[dict[str, Tensor]] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


@pytest.fixture
def seen_by(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Seen]:
    """Trains with these overrides by our trainer."""

    def train(*overrides: str) -> Seen:
        config = composed(*GIVEN, *overrides)
        base = load_base(config.model, num_labels=0, attention="eager", quantization=config.quantization)
        model = base.fresh_copy(config.model.head, stream_generator(0, "head_init"))
        plain, setup = copy.deepcopy(model), empty_setup(config, model)
        setup.generator = stream_generator(0, "adapter_init")
        injected = inject(model, method_of(config), setup, config.model.head)
        start = {name: tensor.detach().clone() for name, tensor in injected.model.state_dict().items()}
        seen, step = Seen(plain, start), training._AdapterTrainer.training_step

        def spy(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
            seen.batches.append({key: tensor.clone() for key, tensor in inputs.items()})
            seen.states.append(torch.get_rng_state())
            loss = step(self, model, inputs, *args, **kwargs)
            seen.losses.append(loss.item())
            return loss

        monkeypatch.setattr(training._AdapterTrainer, "training_step", spy)
        recipe = Recipe(config.trainer, config.lr, base.tokenizer.pad_token_id, seed=0, device=find_device("fp32"))
        examples = encoded_splits(config, base.tokenizer)["train"]
        training.train(injected, examples, recipe, validate=_never, report=lambda step, metrics: None)
        return seen

    return train


def _never() -> Any:
    raise AssertionError("nothing is validated here")


def scheduled(step: int, schedule: str) -> float:
    """The share of the rate at a step, from 0."""
    if step < WARMUP:
        return step / WARMUP
    left = (step - WARMUP) / (STEPS - WARMUP)
    return {"linear": 1 - left, "cosine": (1 + math.cos(math.pi * left)) / 2, "constant": 1.0}[schedule]


def plain_loop(
    model: Any, seen: Seen, *, schedule: str = "linear", decay: float = 0.0, ratio: float = 1.0, eps: float = 1e-8,
    clip: float = 1.0, decay_all: bool = False,
) -> list[float]:  # fmt: skip
    """Train what requires gradients in the model, on the batches that ours saw; the losses."""
    groups: list[dict[str, Any]] = [
        {
            "params": [parameter],
            "lr": RATE * (ratio if "lora_B" in name else 1.0),
            # A bias or a norm is a vector, and nothing else that is trained here.
            "weight_decay": decay if parameter.ndim > 1 or decay_all or "magnitude" in name else 0.0,
        }
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    optimizer = torch.optim.AdamW(groups, eps=eps)
    rates, losses = [group["lr"] for group in groups], []
    model.train()
    for step, (batch, state) in enumerate(zip(seen.batches, seen.states, strict=True)):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * scheduled(step, schedule)
        torch.set_rng_state(state)
        loss = model(**batch).loss
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_([parameter for group in groups for parameter in group["params"]], clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def peft_model(seen: Seen, base: Any = None, **arguments: Any) -> Any:
    """PEFT's LoRA on the model, started from our values."""
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": TARGETS, **arguments})
    model: Any = get_peft_model(seen.base if base is None else base, config)
    with torch.no_grad():
        for name, module in model.named_modules():
            ours = name.removeprefix("base_model.model.")
            for key in ("lora_A", "lora_B", "lora_magnitude_vector"):
                if f"{ours}.{key}" in seen.start:
                    getattr(module, key)["default"].weight.copy_(seen.start[f"{ours}.{key}"])
            if f"{ours}.base_layer.weight" in seen.start and base is None:
                module.base_layer.weight.copy_(seen.start[f"{ours}.base_layer.weight"])
            if hasattr(module, "lora_dropout") and arguments.get("lora_dropout"):
                module.lora_dropout["default"] = DroppingAsOurs(arguments["lora_dropout"])
    return model


class DroppingAsOurs(nn.Module):
    """A mask by one draw of the global state: its 15-bit numbers, four to a word, from p * 2^15 on are kept."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None, generator=generator)
        numbers = torch.stack([(words >> shift) & 0x7FFF for shift in (0, 16, 32, 48)], dim=1).flatten()
        return x * (numbers[: x.numel()] >= self.p * 2**15).view_as(x) / (1 - self.p)


def assert_equal(ours: list[float], theirs: list[float]) -> None:
    assert len(ours) == STEPS
    assert ours[-1] < ours[0] - 0.05  # it learns, so that the losses say something
    assert ours == pytest.approx(theirs, rel=0, abs=1e-5)


DROPOUT = {"lora_dropout": 0.25}


@pytest.mark.parametrize(
    ("overrides", "arguments", "loop"),
    [
        (["adapter.options.dropout=0.25", "trainer.weight_decay=0.5", "trainer.schedule=cosine"], DROPOUT,
         {"decay": 0.5, "schedule": "cosine"}),
        pytest.param(["adapter.options.lr_ratio=8", "trainer.weight_decay=0.5"], {}, {"ratio": 8, "decay": 0.5},
                     marks=pytest.mark.slow),
        pytest.param(["adapter.options.init=kaiming", "trainer.schedule=constant", "trainer.adam_eps=1e-3"], {},
                     {"schedule": "constant", "eps": 1e-3}, marks=pytest.mark.slow),
        pytest.param(["trainer.max_grad_norm=0"], {}, {"clip": 0}, marks=pytest.mark.slow),
    ],
    ids=["dropout-decay-cosine", "lora-plus", "constant-epsilon", "no-clipping"],
)  # fmt: skip
def test_lora(overrides: list[str], arguments: dict[str, Any], loop: dict[str, Any], seen_by: Any) -> None:
    seen = seen_by("adapter=lora", *overrides)
    assert_equal(seen.losses, plain_loop(peft_model(seen, **arguments), seen, **loop))


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_rslora(schedule: str, seen_by: Any) -> None:
    seen = seen_by("adapter=rslora", "alpha=4", f"trainer.schedule={schedule}")
    assert_equal(seen.losses, plain_loop(peft_model(seen, lora_alpha=4, use_rslora=True), seen, schedule=schedule))


@pytest.mark.slow
def test_dora(seen_by: Any) -> None:
    seen = seen_by("adapter=dora", "trainer.weight_decay=0.5")
    assert_equal(seen.losses, plain_loop(peft_model(seen, use_dora=True), seen, decay=0.5))


@pytest.mark.slow
def test_pissa(seen_by: Any) -> None:
    """Both factors and the residual are ours; that they are PEFT's too is shown in test_adapters.py."""
    seen = seen_by("adapter=pissa", "adapter.options.dropout=0.25")
    assert_equal(seen.losses, plain_loop(peft_model(seen, **DROPOUT), seen))


@pytest.mark.slow
@pytest.mark.parametrize("decay_all", [False, True])
def test_full_fine_tuning(decay_all: bool, seen_by: Any) -> None:
    """Where norms decay too the losses are others, by more than the tolerance."""
    seen = seen_by("adapter=full", "trainer.weight_decay=0.5", f"trainer.decay_all={str(decay_all).lower()}")
    models = [seen.base.requires_grad_(True), copy.deepcopy(seen.base)]
    assert_equal(seen.losses, plain_loop(models[0], seen, decay=0.5, decay_all=decay_all))
    other = plain_loop(models[1], seen, decay=0.5, decay_all=not decay_all)
    assert max(abs(a - b) for a, b in zip(seen.losses, other, strict=True)) > 1e-3


@pytest.mark.slow
def test_qlora(seen_by: Any, tmp_path: Path) -> None:
    """The base is quantized by transformers as it is loaded, and PEFT's 4-bit layers are trained on it."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes isn't installed: pip install -e '.[quantization]'")
    seen = seen_by("adapter=lora", "quantization=nf4", "adapter.options.dropout=0.25")
    config = composed(*GIVEN)
    load_base(config.model, num_labels=0, attention="eager", quantization="none").module.save_pretrained(tmp_path)
    four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(
        tmp_path,
        quantization_config=four_bits,
        device_map={"": "cpu"},
        dtype=torch.float32,
        attn_implementation="eager",
    ).requires_grad_(False)
    assert_equal(seen.losses, plain_loop(peft_model(seen, base, **DROPOUT), seen))
