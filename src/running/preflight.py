"""The pre-flight: a run's model, tokenizer, task and method tried together before anything is trained.

A few of the task's texts are scored alone and in one padded batch. Whatever goes wrong between a tokenizer's padding,
the positions, the attention mask, virtual tokens and the place that a classifier reads shows as a difference, which no
later number would show: predictions would depend on their neighbours in a batch.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from src.adapters.inject import InjectedModel, adapters
from src.config.memo import kept
from src.errors import UserError, first_line
from src.models.checkpoint import in_head
from src.models.fit_tokenizer import embedded_tokens
from src.models.positions import room
from src.running.assemble import method_of
from src.running.extent import check_room, extent
from src.running.prepare import Prepared
from src.tasks.base import load_task
from src.training.batches import IGNORED, Example, by_length, collate, pad
from src.training.loss import answer_logits
from src.training.scoring import evaluating

ANSWER_TOKENS = 8  # of a text, the last ones: their logits have the size of the vocabulary
# Of the largest score. In float32 other shapes of a product move scores by 1e-6 to 1e-5, an error in padding by 1e-2
# and more. bfloat16 rounds to 2^-9 in each of some hundred sums, and int8 by the largest value of a whole batch.
TOLERANCE, COARSE_TOLERANCE = 1e-3, 0.1


def preflight(run: Prepared, injected: InjectedModel) -> dict[str, Any]:
    """Try a run's model with its method on it; returns what was found, as it is recorded.

    Returns:
        `head_drawn` and `head_pretrained`, parameters by name; `unused_weights` of the checkpoint; `tokens` of the
        longest text, `virtual_tokens` before it and `positions` of the model; `largest_id` and `embedded_tokens`;
        `padding`, the largest difference between alone and padded as a share of the largest score.

    Raises:
        UserError: the texts don't fit, the model doesn't run on them, or padding changes its scores.
    """
    config, base = run.config, run.base
    reached, virtual = extent(config, base, run.examples), _virtual_tokens(injected.model)
    check_room(config, base, reached.tokens, virtual)
    names = [
        name for name, _ in base.module.named_parameters(remove_duplicate=False) if in_head(name, config.model.head)
    ]
    return {
        "head_drawn": [name for name in names if name in base.lacking],
        "head_pretrained": [name for name in names if name not in base.lacking],
        "unused_weights": len(base.unused),
        "tokens": reached.tokens,
        "virtual_tokens": virtual,
        "positions": room(base.module),
        "largest_id": reached.largest_id,
        "embedded_tokens": embedded_tokens(base.module),
        "padding": _padding(run, injected),
    }


def _padding(run: Prepared, injected: InjectedModel) -> float | None:
    """What was found of padding; marks the adapters whose weights the model reads, which the trial alone sees."""
    difference, read = _tried(run, injected)
    for name, adapter in adapters(injected.model).items():
        adapter.weight_is_read |= name in read
    return difference


def _virtual_tokens(model: Any) -> int:
    settings: Any = getattr(model, "active_peft_config", None)
    return int(settings.num_virtual_tokens) if getattr(settings, "is_prompt_learning", False) else 0


def _pads(run: Prepared) -> bool:
    """Whether any of the run's batches can have padding."""
    sizes = (run.config.trainer.batch_size, run.config.trainer.eval_batch_size)
    return max(sizes) > 1 or method_of(run.config).needs_gradient


def _decides_padding(run: Prepared, injected: InjectedModel) -> Any:
    """A method on parts of a model and the texts: neither rank nor seed, so that a sweep tries it once."""
    config = run.config
    base = (config.model, config.quantization, run.device.type, run.device.precision)
    return (*base, config.adapter, config.target_roles(), config.task, load_task(config), _pads(run))


@kept(64, key=_decides_padding)
def _tried(run: Prepared, injected: InjectedModel) -> tuple[float | None, list[str]]:
    """How far scores of texts alone and together are apart, and the adapters whose weights the model read.

    The first is a share of the largest score, None where nothing is padded.

    Raises:
        UserError: further than rounding explains, or the model fails at the texts or sees what it is to say.
    """
    model: Any = injected.model
    texts = _of_different_lengths(run.examples["train"])
    exact = all(parameter.dtype in (torch.float32, torch.float64) for parameter in model.parameters())
    tolerance = TOLERANCE if exact else COARSE_TOLERANCE
    # What is tried is the mask and the positions, which float32 shows best; coarse weights need the run's own format.
    computing = torch.autocast(run.device.type, enabled=False) if exact else run.device.autocast()
    with evaluating(model), computing, _refusing(run):
        if run.config.task.architecture != "classifier":
            _check_reading(run, model, texts[0], tolerance)
        apart = {
            side: _difference([way(run, model, [text]) for text in texts], way(run, model, texts))
            for side, way in _ways(run).items()
        }
    for side, difference in apart.items():
        if not difference <= tolerance:  # NaN isn't either
            lengths = ", ".join(str(len(text["input_ids"])) for text in texts)
            raise UserError(
                f"model={run.config.model.name}: padding on the {side} changes what it computes: texts of {lengths} "
                f"tokens have other scores together than alone, by {difference:.1%} of the largest.\nGive a tokenizer "
                "whose padding the model knows, or set trainer.batch_size=1 and trainer.eval_batch_size=1."
            )
    read = [name for name, adapter in adapters(injected.model).items() if adapter.weight_is_read]
    return max(apart.values(), default=None), read


def _ways(run: Prepared) -> dict[str, Callable[[Prepared, Any, list[Example]], Tensor]]:
    """By the side on which they pad, the ways in which the run has several texts scored at once."""
    if not _pads(run):
        return {}
    if run.config.task.architecture == "classifier":
        return {"right": _classified}
    return {"right": _learned, "left": _written}


def _check_reading(run: Prepared, model: Any, text: Example, tolerance: float) -> None:
    """Refuse a language model that sees the answer it is to say, as an encoder does with such a head."""
    ids = text["input_ids"]
    other = {**text, "input_ids": [*ids[:-1], next((index for index in ids if index != ids[-1]), 0)]}
    if _difference([_learned(run, model, [text])], _learned(run, model, [other])) > tolerance:
        raise UserError(
            f"model={run.config.model.name} reads ahead: what it says of a token changes with those after it.\n"
            "Give a model that writes from left to right, or set +model.config.is_decoder=true where it has that."
        )


def _of_different_lengths(examples: list[Example]) -> list[Example]:
    """The longest text, a middle one and the shortest, cut where all are as long; its last token stays its last."""
    order = by_length(examples, len(examples))[0]
    longest, middle, shortest = (examples[order[place]] for place in (0, len(order) // 2, -1))
    if len(shortest["input_ids"]) == len(longest["input_ids"]):
        shortest = {
            key: [*value[: len(value) // 2], *value[-1:]] if isinstance(value, list) else value
            for key, value in shortest.items()
        }
    return [longest, middle, shortest]


def _difference(alone: list[Tensor], together: Tensor) -> float:
    """The largest difference of scores, as a share of the largest of them."""
    single = torch.cat(alone)
    largest = single.abs().max().item()
    return (together - single).abs().max().item() / (largest or 1.0)


def _classified(run: Prepared, model: Any, texts: list[Example]) -> Tensor:
    """Scores (texts, labels) of a classifier."""
    batch = collate(texts, run.base.tokenizer.pad_token_id)
    batch.pop("labels")
    scores: Tensor = model(**_on_device(run, batch)).logits
    return scores.float()


def _learned(run: Prepared, model: Any, texts: list[Example]) -> Tensor:
    """Logits (tokens, vocabulary) of the answers' last tokens, padded on the right as for training."""
    ends = [{**text, "labels": _last(text["labels"])} for text in texts]
    logits = answer_logits(model, _on_device(run, collate(ends, run.base.tokenizer.pad_token_id)))[0]
    return logits.float()


def _last(labels: list[int]) -> list[int]:
    return [IGNORED] * len(labels[:-ANSWER_TOKENS]) + labels[-ANSWER_TOKENS:]


def _written(run: Prepared, model: Any, texts: list[Example]) -> Tensor:
    """Logits (texts, vocabulary) of the first token after the prompts, padded on the left as for writing."""
    pad_token_id = run.base.tokenizer.pad_token_id
    prompts = [text["prompt"] for text in texts]
    mask = [[1] * len(prompt) for prompt in prompts]
    batch = {"input_ids": pad(prompts, pad_token_id, left=True), "attention_mask": pad(mask, 0, left=True)}
    one_token = GenerationConfig(
        max_new_tokens=1,
        do_sample=False,
        pad_token_id=pad_token_id,
        eos_token_id=run.base.tokenizer.eos_token_id,
        output_logits=True,
        return_dict_in_generate=True,
    )
    logits: Tensor = model.generate(**_on_device(run, batch), generation_config=one_token).logits[0]
    return logits.float()


def _on_device(run: Prepared, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(run.device.type) for name, tensor in batch.items()}


@contextmanager
def _refusing(run: Prepared) -> Iterator[None]:
    """Say as a user's mistake, with its first line, whatever the model raises at the texts."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, UserError):
        raise
    except Exception as error:
        raise UserError(
            f"model={run.config.model.name} doesn't run on the texts of task={run.config.task.name} with "
            f"adapter={run.config.adapter.name}: {first_line(error)}\n"
            "Look at model.architecture, and at whether the tokenizer is the one that the model was trained with; or "
            "choose another adapter."
        ) from error
