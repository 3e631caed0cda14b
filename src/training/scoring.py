"""Predict every item of a split and score the predictions with the task's metric."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from src.config import TaskConfig
from src.metrics import score
from src.tasks.base import Row
from src.training.batches import Example, by_length, collate, pad
from src.training.device import Device


@dataclass(frozen=True)
class Scored:
    """One split's predictions and references, in the order of its rows, and the metric over all of them."""

    predictions: list[Any]
    references: list[Any]
    value: float


@torch.inference_mode()
def score_split(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: TaskConfig,
    rows: list[Row],
    examples: list[Example],
    *,
    device: Device,
    batch_size: int,
) -> Scored:
    """Predict in batches of similar length and score; the model's mode is left as it was."""
    was_training = model.training
    model.eval()
    predictions: list[Any] = [None] * len(examples)
    predict = _classify if task.architecture == "classifier" else _generate
    for batch in by_length(examples, batch_size):
        with device.autocast():
            answers = predict(model, tokenizer, task, [examples[index] for index in batch])
        for index, answer in zip(batch, answers, strict=True):
            predictions[index] = answer
    model.train(was_training)
    references = [row["label"] if task.architecture == "classifier" else row["answer"] for row in rows]
    return Scored(predictions, references, score(task.metric, predictions, references))


def _classify(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: TaskConfig, examples: list[Example]
) -> list[int]:
    batch = collate(examples, tokenizer.pad_token_id)
    batch.pop("labels")
    logits = model(**{key: value.to(model.device) for key, value in batch.items()}).logits  # (batch, labels)
    return logits.argmax(-1).tolist()


def _generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: TaskConfig, examples: list[Example]
) -> list[str]:
    """Answer prompts greedily; padded on the left, so that every answer follows its prompt directly."""
    prompts = [example["prompt"] for example in examples]
    ids = pad(prompts, tokenizer.pad_token_id, left=True).to(model.device)
    mask = pad([[1] * len(prompt) for prompt in prompts], 0, left=True).to(model.device)
    generate: Any = model.generate
    written = generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=task.max_new_tokens,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return tokenizer.batch_decode(written[:, ids.shape[1] :], skip_special_tokens=True)
