"""How much memory a training step takes, found before anything is loaded.

The step's forward pass runs on tensors that have shapes and no numbers, with the run's method, precision and batch, and
what autograd would keep for backward is added up: exact for any architecture, in a second.
"""

import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from src.adapters.seeded_dropout import SeededDropout
from src.config.schema import Config
from src.errors import UserError, first_line
from src.models.base_model import empty_model
from src.models.quantization import quantizable
from src.running.assemble import inject_empty
from src.training.checkpointing import checkpoint_blocks
from src.training.held_weights import hold_weights
from src.training.loss import LOGITS_AT_ONCE

MOMENT_BYTES = {"adamw": 8, "adamw_8bit": 2, "adamw_paged": 0, "adamw_paged_8bit": 0}  # on the device, a parameter
QUANTIZED_BYTES = {"nf4": 0.516, "int8": 1.0}  # a weight; nf4's blocks of 64 have a scale each
LOGIT_BYTES = 10  # bfloat16, its copy in float32, and the gradient of that


@dataclass(frozen=True)
class StepMemory:
    """Bytes on the device in a training step.

    `weights` are the base's as they are held and the adapters', `trained` their gradients and AdamW's moments,
    `activations` what autograd keeps for backward, `transient` the logits of the loss and, where blocks are computed
    again, one block's activations.
    """

    weights: int
    trained: int
    activations: int
    transient: int

    @property
    def total(self) -> int:
        """Their sum."""
        return self.weights + self.trained + self.activations + self.transient


@dataclass(frozen=True)
class Computing:
    """How a step is computed: `precision` bf16 or fp32, transformers' `attention` (on a CPU eager, on a GPU sdpa)."""

    precision: str = "bf16"
    attention: str = "sdpa"
    num_labels: int = 2


def largest_that_fits(config: Config, most_bytes: float, how: Computing) -> tuple[int, StepMemory]:
    """How many of a batch's texts, halved until they fit, are computed at once, and the memory that this takes.

    Texts are as long as the task lets pass. One text may still take more than there is, and so may a size that is asked
    for by `trainer.micro_batch_size`.

    Raises:
        UserError: as `step_memory`.
    """
    texts = config.trainer.micro_batch_size or config.trainer.batch_size
    memory = step_memory(config, texts, config.task.max_length, how)
    while memory.total > most_bytes and texts > 1 and config.trainer.micro_batch_size is None:
        texts //= 2
        memory = step_memory(config, texts, config.task.max_length, how)
    return texts, memory


def step_memory(config: Config, texts: int, tokens: int, how: Computing) -> StepMemory:
    """The memory of a training step on so many texts of so many tokens.

    Raises:
        UserError: the method or the model can't be traced without numbers.
    """
    plain = _traced(config, texts, tokens, how, checkpointing=False)
    if not config.trainer.checkpointing:
        return plain
    again = _traced(config, texts, tokens, how, checkpointing=True)
    block = (plain.activations - again.activations) // max(1, config.model.layers)
    return StepMemory(again.weights, again.trained, again.activations, again.transient + block)


def _traced(config: Config, texts: int, tokens: int, how: Computing, *, checkpointing: bool) -> StepMemory:
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of addresses, which such tensors don't have
            return _step(config, texts, tokens, how, checkpointing)
    except UserError:
        raise
    except Exception as error:  # whatever a model does that needs numbers
        raise UserError(
            f"The memory of model={config.model.name} with adapter={config.adapter.name} can't be predicted: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error


def _step(config: Config, texts: int, tokens: int, how: Computing, checkpointing: bool) -> StepMemory:
    base: Any = empty_model(config.model, num_labels=how.num_labels, attention=how.attention, device="cpu")
    for name in config.model.head:
        _widen(base.get_submodule(name))
    quantized = _saved_by_quantization(config, base)
    model: Any = inject_empty(config, base).model
    model.train()
    if checkpointing:
        checkpoint_blocks(model, preserve_rng_state=False)  # which is a number
    if how.precision == "bf16":
        hold_weights(model, torch.bfloat16)
    for module in model.modules():
        if isinstance(module, SeededDropout):
            module.p = 0.0  # of which nothing is kept, and whose seed is a number
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    answers = 0 if config.task.architecture == "classifier" else texts * tokens
    vocabulary = getattr(base.get_output_embeddings(), "out_features", 0) if answers else 0
    return StepMemory(
        weights=_weight_bytes(model) - quantized,
        trained=trained * (4 + MOMENT_BYTES[config.trainer.optimizer]),
        activations=_kept_bytes(model, _batch(texts, tokens, answers), how.precision, one_logit=bool(answers)),
        transient=min(answers * vocabulary, LOGITS_AT_ONCE) * LOGIT_BYTES,
    )


def _batch(texts: int, tokens: int, answers: int) -> dict[str, Tensor]:
    ids = torch.zeros(texts, tokens, dtype=torch.long)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return batch if answers else batch | {"labels": torch.zeros(texts, dtype=torch.long)}


def _kept_bytes(model: Any, batch: dict[str, Tensor], precision: str, *, one_logit: bool) -> int:
    """What autograd keeps of a forward pass, each storage once, parameters left out."""
    parameters = {one.untyped_storage()._cdata for one in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    def first(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0][:, :1], *inputs[1:])  # the loss's logits are counted apart

    hook = model.get_output_embeddings().register_forward_pre_hook(first) if one_logit else None
    computing: AbstractContextManager[Any] = (
        torch.autocast("cpu", dtype=torch.bfloat16) if precision == "bf16" else nullcontext()
    )
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), computing:
        outputs = model(**batch)
    if hook is not None:
        hook.remove()
    del outputs
    return sum(kept.values())


def _widen(head: nn.Module) -> None:
    """A head in float32, by new parameters: tensors without numbers can't be changed in place."""
    for module in head.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(parameter.float(), requires_grad=False)


def _weight_bytes(model: nn.Module) -> int:
    """All parameters and buffers as they are held, each storage once."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum({one.untyped_storage()._cdata: one.untyped_storage().nbytes() for one in tensors}.values())


def _saved_by_quantization(config: Config, base: Any) -> int:
    if config.quantization == "none":
        return 0
    layers = quantizable(base, config.model.head).values()
    weights = [layer.weight for layer in layers]
    return int(sum(one.numel() * (one.element_size() - QUANTIZED_BYTES[config.quantization]) for one in weights))
