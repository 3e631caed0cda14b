"""From rows to batches: tokenise once, bucket by length, pad to the longest of the batch."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler
from transformers import PreTrainedTokenizerBase

from src.config import TaskConfig
from src.tasks.base import Row, load_task

IGNORED = -100  # label of a token that has no part in the loss
BUCKET_BATCHES = 50  # batches whose examples are sorted by length together
Example = dict[str, Any]


def encode(rows: list[Row], tokenizer: PreTrainedTokenizerBase, task: TaskConfig) -> list[Example]:
    """Tokenise rows: `input_ids` and `labels` of each.

    A classifier's label is its class. A causal language model's labels are the answer and the end-of-text token,
    with the prompt masked out of the loss.
    """
    if task.architecture == "classifier":
        ids = tokenizer([row["text"] for row in rows], truncation=True, max_length=task.max_length)["input_ids"]
        return [{"input_ids": own, "labels": row["label"]} for own, row in zip(ids, rows, strict=True)]
    examples = []
    for row in rows:
        prompt = tokenizer(row["prompt"])["input_ids"]
        answer = [*tokenizer(row["answer"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        labels = [IGNORED] * len(prompt) + answer
        examples.append(
            {"input_ids": (prompt + answer)[: task.max_length], "labels": labels[: task.max_length], "prompt": prompt}
        )
    return examples


def encoded_splits(task: TaskConfig, cache_dir: str, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[Example]]:
    """All splits of a task, tokenised once per process and tokenizer."""
    return _encoded_splits(json.dumps(asdict(task), sort_keys=True), cache_dir, tokenizer)


@lru_cache(maxsize=4)
def _encoded_splits(task_json: str, cache_dir: str, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[Example]]:
    task = TaskConfig(**json.loads(task_json))
    data, _ = load_task(task, cache_dir)
    return {split: encode(rows, tokenizer, task) for split, rows in data.splits.items()}


def pad(sequences: list[list[int]], value: int, *, left: bool = False) -> Tensor:
    """Stack sequences of token ids to (batch, longest), filling up with `value` on the right or the left."""
    longest = max(map(len, sequences))
    fills = [[value] * (longest - len(sequence)) for sequence in sequences]
    pairs = zip(fills, sequences, strict=True)
    return torch.tensor([fill + own if left else own + fill for fill, own in pairs])


def collate(examples: list[Example], pad_token_id: int) -> dict[str, Tensor]:
    """Stack examples for training and classification, padded on the right.

    Returns `input_ids` and `attention_mask` (batch, seq), and `labels`: (batch,) for a classifier, (batch, seq)
    for a causal language model.
    """
    ids = [example["input_ids"] for example in examples]
    labels = [example["labels"] for example in examples]
    return {
        "input_ids": pad(ids, pad_token_id),
        "attention_mask": pad([[1] * len(own) for own in ids], 0),
        "labels": pad(labels, IGNORED) if isinstance(labels[0], list) else torch.tensor(labels),
    }


def by_length(examples: list[Example], batch_size: int) -> list[list[int]]:
    """Indices of all examples in batches of similar length, longest first: scoring pads next to nothing."""
    order = sorted(range(len(examples)), key=lambda index: (-len(examples[index]["input_ids"]), index))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


class LengthBuckets(Sampler[list[int]]):
    """A fixed number of training batches whose examples have similar lengths, in random order.

    Each epoch shuffles all examples, sorts them by length within groups of 50 batches, and shuffles the batches
    of a group. The same generator seed gives the same batches, whatever the method.
    """

    def __init__(self, lengths: list[int], *, batch_size: int, batches: int, generator: torch.Generator) -> None:
        self.lengths = lengths
        self.batch_size = min(batch_size, len(lengths))
        self.batches = batches
        self.generator = generator

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        left = self.batches
        while left > 0:
            for batch in self._epoch():
                if left == 0:
                    return
                left -= 1
                yield batch

    def _epoch(self) -> Iterator[list[int]]:
        order = torch.randperm(len(self.lengths), generator=self.generator).tolist()
        usable = len(order) - len(order) % self.batch_size
        group = self.batch_size * BUCKET_BATCHES
        for start in range(0, usable, group):
            members = sorted(order[start : min(start + group, usable)], key=lambda index: self.lengths[index])
            batches = [members[at : at + self.batch_size] for at in range(0, len(members), self.batch_size)]
            for index in torch.randperm(len(batches), generator=self.generator).tolist():
                yield batches[index]
