"""What a model forgets: its loss on general text that no task trains on, before and after.

A language model's loss is over every token; an encoder's over 15 % masked ones, where its weights come with the head
that predicts them. Text, blocks and masks are the same for all runs.
"""

import hashlib
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoModelForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from src.config.checks import GENERAL_TEXT
from src.config.memo import kept
from src.config.schema import Config, ModelConfig
from src.errors import first_line
from src.models.base_model import BaseModel, find_weights
from src.training.batches import IGNORED
from src.training.device import Device
from src.training.likelihood import unknown_token
from src.training.loss import answer_logits

BLOCKS = 64
BLOCK_TOKENS = 128
BATCH = 16  # blocks
MASKED_SHARE = 0.15  # as BERT was trained (Devlin et al. 2019, section 3.1)
MASK_SEED = 0


@dataclass(frozen=True)
class GeneralText:
    """A text as blocks of tokens: `inputs` and `labels` (blocks, tokens), labels IGNORED where no loss is wanted.

    `bytes` is how long the text of the predicted tokens is in UTF-8, up to a character that a block's edge splits; None
    where it isn't known: of masked tokens, or where the tokenizer doesn't know all characters, or not where they are.
    """

    name: str
    fingerprint: str
    masked: bool
    inputs: Tensor
    labels: Tensor
    bytes: int | None = None

    @property
    def tokens(self) -> int:
        """How many tokens the loss is over; a language model can't predict a block's first."""
        return int(((self.labels if self.masked else self.labels[:, 1:]) != IGNORED).sum())


def general_loss(config: Config, base: BaseModel, model: Any, device: Device) -> dict[str, Any] | None:
    """A model's loss on the text that the config names, and what text that is.

    Args:
        base: whose tokenizer and weights the model has, adapted or not.

    Returns:
        `loss` (nats per token), `text`, `fingerprint`, `tokens`, `bytes`; None where none is asked for or the model
        can't have one: a classifier whose weights come without a masked-token head, or that is prompted rather than
        changed.
    """
    if config.forgetting == "none" or unmeasurable(config, base):
        return None
    with _predicting(config.model, model, device) as whole:
        if whole is None:
            return None
        text = general_text(config, base)
        facts = {"text": text.name, "fingerprint": text.fingerprint, "tokens": text.tokens, "bytes": text.bytes}
        return facts | {"loss": text_loss(whole, text, device)}


def unmeasurable(config: Config, base: BaseModel) -> str:
    """Why a model's loss on general text can't be measured, found before anything is trained; empty where it can."""
    if config.forgetting == "none":
        return ""
    try:
        if config.model.architecture == "classifier":
            reason = _without_masks(config.model, base)
            if reason:
                return reason
        elif config.model.architecture != "causal_lm":
            return f"a {config.model.architecture} has no loss on text without a question"
        text = general_text(config, base)
    except (OSError, ValueError, RuntimeError, KeyError, IndexError) as error:
        return f"the text can't be read by the model: {first_line(error)}"
    return "" if text.tokens else "the text is too short for a block"


def _without_masks(config: ModelConfig, base: BaseModel) -> str:
    """Why masked tokens of a classifier's encoder can't be predicted; empty where they can."""
    kind, mask = type(base.module.config), base.tokenizer.mask_token_id
    if kind not in MODEL_FOR_MASKED_LM_MAPPING:
        return f"transformers has no model of {base.module.config.model_type} that predicts masked tokens"
    embeddings: Any = base.module.get_input_embeddings()
    if mask is None or mask >= embeddings.weight.shape[0]:
        return f"the tokenizer of model={config.name} has no mask token that the model knows"
    if config.init_seed is None and _masked_model(config) is None:
        return f"the weights of model={config.name} come without a head that predicts masked tokens"
    return f"the weights of model={config.name} are drawn" if config.init_seed is not None else ""


@kept(2, key=lambda config, base: (source_fingerprint(config.forgetting), config.model, base.tokenizer))
def general_text(config: Config, base: BaseModel) -> GeneralText:
    """Blocks of equal length that the model can read, evenly spread over the text; an encoder's have masked tokens."""
    tokenizer, (name, text) = base.tokenizer, _read(config.forgetting)
    positions = getattr(base.module.config, "max_position_embeddings", None) or BLOCK_TOKENS
    masked = config.model.architecture == "classifier"
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    room = min(BLOCK_TOKENS, positions, len(ids)) - (tokenizer.num_special_tokens_to_add() if masked else 0)
    starts = torch.linspace(0, len(ids) - room, BLOCKS).long().tolist()
    rows = [ids[start : start + room] for start in starts]
    if masked:
        # An encoder expects its tokens of start and end around every text.
        rows = [_with_special_tokens(row, tokenizer) for row in rows]
    inputs = torch.tensor(rows)
    if masked:
        return GeneralText(name, _fingerprint(text), masked, *_masked(inputs, tokenizer))
    size = _predicted_bytes(text, starts, room, tokenizer)
    return GeneralText(name, _fingerprint(text), masked, inputs, inputs, size)


def _predicted_bytes(text: str, starts: list[int], room: int, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The bytes of all blocks' text but for what a block's first token stands for, which isn't predicted."""
    if not tokenizer.is_fast or room < 1:
        return None
    told: Any = tokenizer(text, add_special_tokens=False, verbose=False, return_offsets_mapping=True)
    if unknown_token(tokenizer) in told["input_ids"]:
        return None
    # From end to end, so that the blanks between two tokens count whichever of them they are taken for.
    ends = [end for _, end in told["offset_mapping"]]
    return sum(len(text[ends[start] : ends[start + room - 1]].encode()) for start in starts)


def source_fingerprint(source: str) -> str:
    """The fingerprint of the text that a config names, as it is now; empty where it names none."""
    return "" if source == "none" else _fingerprint(_read(source)[1])


def _fingerprint(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _with_special_tokens(row: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """A block between what the tokenizer puts before and after every text, which may be nothing."""
    around: list[int] = tokenizer("")["input_ids"]
    before = around[: 1 if len(around) > 1 or around[:1] != [tokenizer.eos_token_id] else 0]
    return [*before, *row, *around[len(before) :]]


def _read(source: str) -> tuple[str, str]:
    """A text's name and content: CPython's own language reference, English prose and some code, or a file."""
    if source != GENERAL_TEXT:
        return Path(source).name, Path(source).read_text(encoding="utf-8")
    from pydoc_data.topics import topics

    return f"pydoc_data of CPython {platform.python_version()}", "\n\n".join(topics[key] for key in sorted(topics))


def _masked(inputs: Tensor, tokenizer: PreTrainedTokenizerBase) -> tuple[Tensor, Tensor]:
    """The blocks with masked tokens, and labels for these alone; special tokens are never masked."""
    drawn = torch.rand(inputs.shape, generator=torch.Generator().manual_seed(MASK_SEED)) < MASKED_SHARE
    chosen = drawn & ~torch.isin(inputs, torch.tensor(tokenizer.all_special_ids))
    mask: Any = tokenizer.mask_token_id
    return inputs.masked_fill(chosen, mask), inputs.masked_fill(~chosen, IGNORED)


def text_loss(model: nn.Module, text: GeneralText, device: Device) -> float:
    """The mean loss of a language model, or of an encoder with its masked-token head, in nats per token."""
    total, was_training = 0.0, model.training
    model.eval()
    with torch.inference_mode(), device.autocast():
        for start in range(0, len(text.inputs), BATCH):
            inputs, labels = (tensor[start : start + BATCH].to(device.type) for tensor in (text.inputs, text.labels))
            batch = {"input_ids": inputs, "attention_mask": torch.ones_like(inputs), "labels": labels}
            logits, targets = _masked_logits(model, batch) if text.masked else answer_logits(model, batch)[:2]
            # Summed and divided at the end, as batches differ in their number of masked tokens.
            total += F.cross_entropy(logits.float(), targets, reduction="sum").item()
    model.train(was_training)
    return total / text.tokens


def _masked_logits(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Logits (n, vocabulary) and labels (n,) of the masked tokens."""
    chosen = batch["labels"] != IGNORED
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return logits[chosen], batch["labels"][chosen]


@contextmanager
def _predicting(config: ModelConfig, model: Any, device: Device) -> Iterator[nn.Module | None]:
    """A model that predicts tokens: a language model itself, or a classifier's encoder below its weights' masked-token
    head; None where they come without one.
    """  # fmt: skip
    if config.architecture != "classifier":
        yield model
        return
    whole: Any = _masked_model(config)
    if whole is None or not isinstance(model, PreTrainedModel):
        yield None
        return
    with _body(whole.to(device.type), model.base_model):
        yield whole


@kept(1)
def _masked_model(config: ModelConfig) -> PreTrainedModel | None:
    """The base model with its masked-token head; None where its weights have no such head."""
    folder = find_weights(config)
    if folder is None:
        return None
    dtype = getattr(torch, config.dtype)
    with torch.random.fork_rng():  # transformers draws a missing head from the global random state
        model, info = AutoModelForMaskedLM.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **config.config,
        )
    # A head that the weights lack was drawn at random, and its loss would say nothing.
    return None if info["missing_keys"] else model


@contextmanager
def _body(whole: PreTrainedModel, body: nn.Module) -> Iterator[None]:
    """Put another encoder below a head, whose output layer is tied to its embeddings, and take it off again."""
    encoder = whole.base_model
    try:
        setattr(whole, whole.base_model_prefix, body)
        whole.tie_weights()
        yield
    finally:
        setattr(whole, whole.base_model_prefix, encoder)
        whole.tie_weights()
