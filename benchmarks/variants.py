"""A model with random weights, and what is measured on it in turn: a frozen base, our methods, PEFT's.

All are on all linear layers, of rank 8 where nothing else is said; each is set up around the same model and taken off
again.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
from src.running.assemble import method_of
from src.training.batches import IGNORED
from src.training.held_weights import hold_weights
from src.training.loss import mean_loss

RANK, ALPHA = 8, 16
ANSWER_SHARE = 4  # the last quarter of a text is what a language model learns
PEFT: dict[str, dict[str, Any]] = {
    "peft lora": {},
    "peft lora, A frozen": {},
    "peft dora": {"use_dora": True},
}
# The configuration of the variant before stays an attribute of the model.
warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")


@dataclass(frozen=True)
class Base:
    """A model, the names of its linear layers, and a batch of random texts."""

    config: CountConfig
    model: Any
    targets: list[str]
    batch: dict[str, Tensor]

    @property
    def loss(self) -> Tensor:
        """The batch's, as in training."""
        return self.loss_of(self.batch)

    def loss_of(self, batch: dict[str, Tensor]) -> Tensor:
        """As in training: a language model has logits where labels are and nowhere else."""
        return mean_loss(self.model, batch)


def config_of(*overrides: str) -> CountConfig:
    """What is to be measured, without a task."""
    with composer(CountConfig) as reader:
        config: CountConfig = reader.config([*overrides, f"rank={RANK}", f"alpha={ALPHA}", "target=all_linear"])
    return config


def base_of(name: str, batch: tuple[int, int], device: str, attention: str = "sdpa") -> Base:
    """A model of the yaml's shapes and format with random weights, made where it is used.

    Args:
        batch: texts, and the tokens of each.
    """
    config = config_of(f"model={name}")
    described = empty_model(config.model, num_labels=10).config
    torch.manual_seed(0)
    with torch.device(device):
        model = getattr(transformers, AUTO_CLASSES[config.model.architecture]).from_config(
            described, dtype=getattr(torch, config.model.dtype), attn_implementation=attention
        )
    model.train().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return Base(config, model, find_targets(model, config.model, config.target_roles()), batch_of(batch, model))


def batch_of(batch: tuple[int, int], model: Any) -> dict[str, Tensor]:
    """Random texts of one length, the labels a class each or the last quarter of the tokens."""
    rows, tokens = batch
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, model.config.vocab_size, (rows, tokens), generator=generator)
    labels = torch.randint(0, 10, (rows,), generator=generator)
    if model.can_generate():
        labels = ids.clone()
        labels[:, : -tokens // ANSWER_SHARE] = IGNORED
    made = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    return {key: tensor.to(model.device) for key, tensor in made.items()}


@dataclass(frozen=True)
class Around:
    """What a method does before a step's forward pass and after its backward pass, the optimizer included."""

    begin: Callable[[], None]
    end: Callable[[], None]


@contextmanager
def frozen(base: Base) -> Iterator[Around]:
    """The limit: nothing is trained, and the gradient goes back to the embedded tokens."""

    def needing_gradient(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output.requires_grad_(True)

    hook = base.model.get_input_embeddings().register_forward_hook(needing_gradient)
    yield Around(lambda: None, lambda: None)
    hook.remove()


@contextmanager
def ours(base: Base, name: str, *, autocast: bool = True, rank: int = RANK, **options: Any) -> Iterator[Around]:
    """One of this project's methods on the base with options of its own; gives what surrounds a step."""
    config = config_of(f"model={base.config.model.name}", f"adapter={name}")
    modules: dict[str, Any] = {target: base.model.get_submodule(target) for target in base.targets}
    method = method_of(config)
    setup = Setup(
        base.targets,
        rank=rank,
        alpha=ALPHA,
        options={key: value for key, value in config.adapter.options.items() if value is not None} | options,
        generator=torch.Generator().manual_seed(0),
        update_directions={key: drawn_direction(module, rank) for key, module in modules.items()}
        if name == "lora_sb"
        else {},
        step_size=1e-3,
    )
    injected = inject(base.model, method, setup, head=[])
    injected.model.to(base.model.device)
    weights = {target: module.weight.data for target, module in modules.items()}
    if autocast:
        hold_weights(injected.model, torch.bfloat16)
    yield around(injected.model, list(adapters(injected.model).values()))
    restore(base, modules)
    for target, module in modules.items():
        module.weight.data = weights[target]


def drawn_direction(layer: Any, rank: int) -> UpdateDirection:
    """Orthonormal factors in place of a gradient's."""
    U, _ = torch.linalg.qr(torch.randn(layer.out_features, rank, device=layer.weight.device))
    V, _ = torch.linalg.qr(torch.randn(layer.in_features, rank, device=layer.weight.device))
    return UpdateDirection(U.cpu(), torch.linspace(2, 1, rank), V.T.contiguous().cpu())


@contextmanager
def theirs(base: Base, name: str, rank: int = RANK, **options: Any) -> Iterator[Around]:
    """PEFT's method on the base, with its defaults but for the options."""
    modules = {target: base.model.get_submodule(target) for target in base.targets}
    config = peft.LoraConfig(r=rank, lora_alpha=ALPHA, target_modules=base.targets, **PEFT[name], **options)
    peft.get_peft_model(base.model, config)
    for key, parameter in base.model.named_parameters():
        parameter.requires_grad_("lora_" in key and not ("A frozen" in name and "lora_A" in key))
    yield around(base.model, [])
    restore(base, modules)


def restore(base: Base, modules: dict[str, nn.Module]) -> None:
    """Put the base's own layers back."""
    for name, module in modules.items():
        base.model.set_submodule(name, module)
    base.model.requires_grad_(False)


def around(model: nn.Module, corrected: list[Any]) -> Around:
    """What a step does before its forward pass and after its backward pass."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)

    def begin() -> None:
        if corrected:
            type(corrected[0]).on_step(corrected, 0.5)

    def end() -> None:
        for adapter in corrected:
            adapter.correct_gradients()
        optimizer.step()
        optimizer.zero_grad()

    return Around(begin, end)
