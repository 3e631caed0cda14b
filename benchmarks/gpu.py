"""A training step on a GPU beside PEFT's and beside the limit: a frozen base, forward and the gradient of its inputs.

    python -m benchmarks.gpu [models=minilm,roberta_large,llama3_2_3b,mistral_7b] [rounds=3]

Models have the shapes of their yaml and random weights, methods rank 8 on all linear layers; the variants take turns on
one base. A step is what the trainer does: bfloat16 autocast, loss, backward, corrected gradients, AdamW. Writes
`benchmarks/gpu.json`: milliseconds, tokens a second, and the peak of the memory beside the weights.
"""

import gc
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import peft
import torch
import transformers
from torch import Tensor, nn

from src.adapters.base import Setup, UpdateDirection
from src.adapters.inject import adapters, find_targets, inject
from src.config.composer import composer
from src.config.schema import CountConfig
from src.models.base_model import AUTO_CLASSES, empty_model
from src.quiet import quiet_libraries
from src.running.assemble import method_of
from src.training.batches import IGNORED
from src.training.loss import mean_loss

RESULT = Path(__file__).with_suffix(".json")
RANK, ALPHA = 8, 16
WARM_UP, STEPS = 4, 10
ANSWER_SHARE = 4  # the last quarter of a text is what a language model learns
# Texts of a batch and their tokens.
BATCHES = {"minilm": (32, 64), "roberta_large": (32, 128), "llama3_2_3b": (4, 1024), "mistral_7b": (4, 512)}
# PiSSA computes as LoRA does and LoRA-XS as LoRA-SB; their start takes a decomposition of every weight.
OURS = ["lora", "lora_fa", "lora_sb", "dora", "vera"]
PEFT: dict[str, dict[str, Any]] = {
    "peft lora": {},
    "peft lora, A frozen": {},
    "peft dora": {"use_dora": True},
}


@dataclass(frozen=True)
class Base:
    """A model on the GPU, the names of its linear layers, and a batch of random texts."""

    config: CountConfig
    model: Any
    targets: list[str]
    batch: dict[str, Tensor]

    @property
    def loss(self) -> Tensor:
        """As in training: a language model has logits where labels are and nowhere else."""
        if self.batch["labels"].dim() > 1:
            return mean_loss(self.model, self.batch)
        loss: Tensor = self.model(**self.batch).loss
        return loss


def config_of(*overrides: str) -> CountConfig:
    """What is to be measured, without a task."""
    with composer(CountConfig) as reader:
        config: CountConfig = reader.config([*overrides, f"rank={RANK}", f"alpha={ALPHA}", "target=all_linear"])
    return config


def base_of(name: str) -> Base:
    """A model of the yaml's shapes and format with random weights, made where it is used."""
    config = config_of(f"model={name}")
    described = empty_model(config.model, num_labels=10).config
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = getattr(transformers, AUTO_CLASSES[config.model.architecture]).from_config(
            described, dtype=getattr(torch, config.model.dtype), attn_implementation="sdpa"
        )
    model.train().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return Base(config, model, find_targets(model, config.model, config.target_roles()), batch_of(name, model))


def batch_of(name: str, model: Any) -> dict[str, Tensor]:
    """Random texts of one length, the labels a class each or the last quarter of the tokens."""
    rows, tokens = BATCHES[name]
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, model.config.vocab_size, (rows, tokens), generator=generator)
    labels = torch.randint(0, 10, (rows,), generator=generator)
    if model.can_generate():
        labels = ids.clone()
        labels[:, : -tokens // ANSWER_SHARE] = IGNORED
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    return {key: tensor.to("cuda") for key, tensor in batch.items()}


@contextmanager
def frozen(base: Base) -> Iterator[Callable[[], None]]:
    """The limit: nothing is trained, and the gradient goes back to the embedded tokens."""

    def needing_gradient(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output.requires_grad_(True)

    hook = base.model.get_input_embeddings().register_forward_hook(needing_gradient)
    yield lambda: None
    hook.remove()


@contextmanager
def ours(base: Base, name: str) -> Iterator[Callable[[], None]]:
    """One of this project's methods on the base; gives the optimizer's step."""
    config = config_of(f"model={base.config.model.name}", f"adapter={name}")
    modules = {target: base.model.get_submodule(target) for target in base.targets}
    method = method_of(config)
    setup = Setup(
        base.targets,
        rank=RANK,
        alpha=ALPHA,
        options={key: value for key, value in config.adapter.options.items() if value is not None},
        generator=torch.Generator().manual_seed(0),
        update_directions={key: drawn_direction(module) for key, module in modules.items()}
        if name == "lora_sb"
        else {},
        step_size=1e-3,
    )
    injected = inject(base.model, method, setup, head=[])
    injected.model.to("cuda")
    step = optimizer_step(injected.model, list(adapters(injected.model).values()))
    yield step
    restore(base, modules)


def drawn_direction(layer: Any) -> UpdateDirection:
    """Orthonormal factors in place of a gradient's."""
    U, _ = torch.linalg.qr(torch.randn(layer.out_features, RANK, device="cuda"))
    V, _ = torch.linalg.qr(torch.randn(layer.in_features, RANK, device="cuda"))
    return UpdateDirection(U.cpu(), torch.linspace(2, 1, RANK), V.T.contiguous().cpu())


@contextmanager
def theirs(base: Base, name: str) -> Iterator[Callable[[], None]]:
    """PEFT's method on the base, with its defaults."""
    modules = {target: base.model.get_submodule(target) for target in base.targets}
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=base.targets, **PEFT[name])
    peft.get_peft_model(base.model, config)
    for key, parameter in base.model.named_parameters():
        parameter.requires_grad_("lora_" in key and not ("A frozen" in name and "lora_A" in key))
    yield optimizer_step(base.model, [])
    restore(base, modules)


def restore(base: Base, modules: dict[str, nn.Module]) -> None:
    """Put the base's own layers back."""
    for name, module in modules.items():
        base.model.set_submodule(name, module)
    base.model.requires_grad_(False)


def optimizer_step(model: nn.Module, corrected: list[Any]) -> Callable[[], None]:
    """What follows backward: the methods' corrections, the optimizer, no gradient left."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)

    def step() -> None:
        for adapter in corrected:
            adapter.correct_gradients()
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure(base: Base, step: Callable[[], None]) -> tuple[list[float], int]:
    """Milliseconds of each step by the GPU's clock, and the peak bytes beside what was there before."""
    milliseconds = []
    before = torch.cuda.memory_allocated()
    for _ in range(WARM_UP + STEPS):
        torch.cuda.reset_peak_memory_stats()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = base.loss
        loss.backward()
        step()
        end.record()
        end.synchronize()
        milliseconds.append(begin.elapsed_time(end))
        del loss
    return milliseconds[WARM_UP:], torch.cuda.max_memory_allocated() - before


def rows_of(name: str, rounds: int) -> list[dict[str, Any]]:
    """A model's variants, measured in turn."""
    base = base_of(name)
    weights = torch.cuda.memory_allocated()
    variants = {"limit": frozen} | {one: ours for one in OURS} | {one: theirs for one in PEFT}
    times: dict[str, list[float]] = {}
    peaks: dict[str, int] = {}
    for _ in range(rounds):
        for variant, on in variants.items():
            with on(base) if on is frozen else on(base, variant) as step:  # type: ignore[call-arg]
                milliseconds, peaks[variant] = measure(base, step)
            times.setdefault(variant, []).extend(milliseconds)
            gc.collect()
            torch.cuda.empty_cache()
    texts, tokens = BATCHES[name]
    return [
        {
            "model": name, "texts": texts, "tokens": tokens, "variant": variant,
            "milliseconds": round(median(values), 2),
            "of_limit": round(median(values) / median(times["limit"]), 3),
            "tokens_per_second": round(1000 * texts * tokens / median(values)),
            "peak_megabytes_beside_weights": round(peaks[variant] / 1e6, 1),
            "weights_megabytes": round(weights / 1e6, 1),
            "each_milliseconds": [round(value, 2) for value in values],
        }
        for variant, values in times.items()
    ]  # fmt: skip


def measured_before(machine: dict[str, str], names: list[str]) -> list[dict[str, Any]]:
    """The rows of other models that the same card and libraries gave: each part may be a command of its own."""
    written = json.loads(RESULT.read_text()) if RESULT.exists() else {"rows": []}
    rows: list[dict[str, Any]] = written.pop("rows")
    return [row for row in rows if row["model"] not in names] if written == machine else []


def main() -> None:
    """Measure the models and write what came out, after each."""
    quiet_libraries()
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    names, rounds = given.get("models", ",".join(BATCHES)).split(","), int(given.get("rounds", 3))
    machine = {"card": torch.cuda.get_device_name(), "torch": torch.__version__, "peft": peft.__version__}
    machine |= {"transformers": transformers.__version__, "precision": "bfloat16 autocast"}
    rows = measured_before(machine, names)
    for name in names:
        rows += rows_of(name, rounds)
        for row in rows:
            if row["model"] == name:
                print({key: value for key, value in row.items() if key != "each_milliseconds"}, flush=True)
        RESULT.write_text(json.dumps({**machine, "rows": rows}, indent=1) + "\n")
        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
