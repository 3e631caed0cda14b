"""Whether a model can be trained in bfloat16: one step tried on it, before anything depends on the answer.

bfloat16 rounds to 8 bits, and autocast mixes it with float32 in ways that some models don't survive: DeBERTa fills its
attention scores with the smallest float32, which bfloat16 doesn't have. So `precision: auto` takes bf16 only where a
forward and a backward pass in it are finite and near those in float32, and a bf16 that was asked for is refused where
they aren't finite. The gradient is that of the embedded tokens, which goes through the whole model and needs no memory
for the weights' own. Nothing here draws from the global random state.
"""

import hashlib
import json
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from src.config.memo import kept
from src.config.schema import Config
from src.errors import UserError, first_line
from src.files import cached
from src.models.base_model import BaseModel, load_base
from src.quiet import quiet_libraries
from src.tasks.base import load_task
from src.training.batches import Example, collate
from src.training.device import Device, find_device
from src.training.loss import mean_loss

# Rounding to 8 bits moves the gradient at the first layer of a deep model by some percent; an overflow by all of it.
LARGEST_DIFFERENCE = 0.3  # of the gradient's norm, and of the loss
TOKENS = 48
# Of different lengths, since it is at masked padding that formats overflow.
TEXTS = (
    "The quick brown fox jumps over the lazy dog, and the dog, which has seen many foxes in its life, sleeps on in the "
    "sun of the afternoon as if nothing at all had happened.",
    "A short one.",
)


@dataclass(frozen=True)
class Bf16Trial:
    """What a step in bfloat16 showed: the largest relative difference to float32's, None where it isn't finite."""

    difference: float | None
    reason: str = ""

    @property
    def is_finite(self) -> bool:
        """Whether loss and gradient were numbers."""
        return self.difference is not None


def device_for(config: Config) -> Device:
    """The device, with the precision in which the run's model can compute there.

    Raises:
        UserError: bf16 is asked for, and the model isn't finite in it.
    """
    device = find_device(config.trainer.precision)
    if device.precision != "bf16":
        return device
    trial = bf16_trial(config, device)
    if config.trainer.precision == "auto":
        return device if not trial.reason else replace(device, precision="fp32", precision_reason=trial.reason)
    if not trial.is_finite:
        raise UserError(
            f"trainer.precision=bf16: model={config.model.name} can't be trained in it: {trial.reason}.\n"
            "Set trainer.precision=fp32, or auto."
        )
    return device


def _decides_trial(config: Config, device: Device) -> Any:
    return config.model, config.quantization, config.cache_dir, device.type, device.name, device.attention


@kept(64, key=_decides_trial)
def bf16_trial(config: Config, device: Device) -> Bf16Trial:
    """Try a model in bfloat16, once for a model, a device and versions: what was found is kept in the cache."""
    libraries = {name: version(name) for name in ("torch", "transformers")}
    decisive = [asdict(config.model), config.quantization, device.type, device.name, device.attention, libraries]
    facts = [field.name for field in fields(Bf16Trial)]
    digest = hashlib.sha256(json.dumps([*decisive, LARGEST_DIFFERENCE, facts], sort_keys=True).encode()).hexdigest()
    path = Path(config.cache_dir) / "precision" / f"{digest[:16]}.json.gz"
    return Bf16Trial(**cached(path, lambda: asdict(_trial_of(config, device))))


def _trial_of(config: Config, device: Device) -> Bf16Trial:
    quiet_libraries()  # this may be the first model that the process loads
    labels = len(load_task(config).data.label_names)
    base = load_base(config.model, num_labels=labels, attention=device.attention, quantization=config.quantization)
    return try_bf16(base, config.model.head, device, exact=config.model.dtype == "float32")


def try_bf16(base: BaseModel, head: list[str], device: Device, *, exact: bool = True) -> Bf16Trial:
    """Take a step on a copy of a model in both formats and compare.

    Args:
        exact: the weights are float32; without, there is nothing to compare with and only overflow is looked for.
    """
    with torch.random.fork_rng():
        model: Any = base.fresh_copy(head, torch.Generator().manual_seed(0)).to(device.type)  # type: ignore[arg-type]
        model.eval().requires_grad_(False)
        batch = {name: tensor.to(device.type) for name, tensor in _batch(base, model).items()}
        try:
            rounded = _step(model, batch, torch.autocast(device.type, dtype=torch.bfloat16))
        except Exception as error:  # one that fails in float32 too is refused by the pre-flight, in the task's words
            return Bf16Trial(None, f"a step in bf16 fails: {first_line(error)}")
        if not all(value.isfinite().all() for value in rounded):
            return Bf16Trial(None, "its loss or gradient in bf16 isn't finite")
        reference = _step(model, batch, torch.autocast(device.type, enabled=False)) if exact else rounded
    difference = max(_relative(value, right) for value, right in zip(rounded, reference, strict=True))
    if not difference <= LARGEST_DIFFERENCE:
        return Bf16Trial(difference, f"its loss or gradient in bf16 is {difference:.0%} off that in fp32")
    return Bf16Trial(difference)


def _batch(base: BaseModel, model: Any) -> dict[str, Tensor]:
    classifier = not model.can_generate()
    examples: list[Example] = []
    for text in TEXTS:
        ids = base.tokenizer(text, truncation=True, max_length=TOKENS)["input_ids"]
        examples.append({"input_ids": ids, "labels": 0 if classifier else list(ids)})
    return collate(examples, base.tokenizer.pad_token_id)


def _step(model: Any, batch: dict[str, Tensor], computing: AbstractContextManager[Any]) -> list[Tensor]:
    """The loss and the gradient of each use of the embedded tokens, in float32."""
    embedded: list[Tensor] = []

    def begin(module: Any, inputs: Any, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_(True))
        return embedded[-1]

    hook = model.get_input_embeddings().register_forward_hook(begin)
    try:
        with computing:
            loss = _loss(model, batch)
        gradients = torch.autograd.grad(loss, embedded) if embedded else ()
    finally:
        hook.remove()
    return [part.detach().float() for part in (loss, *gradients)]


def _loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    if batch["labels"].dim() > 1:
        return mean_loss(model, batch)
    logits: Tensor = model(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits.float()
    return logits.square().mean() if logits.shape[-1] == 1 else F.cross_entropy(logits, batch["labels"])


def _relative(value: Tensor, right: Tensor) -> float:
    return float((value - right).norm() / right.norm().clamp(min=1e-12))
