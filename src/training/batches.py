"""From rows to batches: tokenize once, bucket by length, pad to the longest of the batch."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler
from transformers import PreTrainedTokenizerBase

from src.config.memo import kept
from src.config.schema import Config, TaskConfig
from src.tasks.base import Row, load_task

IGNORED = -100  # label of a token that has no part in the loss
BUCKET_BATCHES = 50  # batches whose examples are sorted by length together
Example = dict[str, Any]


def encode(rows: list[Row], tokenizer: PreTrainedTokenizerBase, task: TaskConfig) -> list[Example]:
    """Tokenize rows: `input_ids` and `labels` of each.

    A classifier's label is its class or number; a pair of texts has `token_type_ids` where the model tells them apart.
    A causal language model's labels are the answer and the end-of-text token, with the prompt masked out of the loss.
    What is longer than `max_length` loses its end; a prompt its beginning, so that the answer still follows it.
    """
    encode_all = _encode_texts if task.architecture == "classifier" else _encode_answers
    return encode_all(rows, tokenizer, task.max_length)


def _encode_texts(rows: list[Row], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Example]:
    texts = [[row["text"] for row in rows]]
    if "text_pair" in rows[0]:
        texts.append([row["text_pair"] for row in rows])
    encoded = tokenizer(*texts, truncation=True, max_length=max_length)
    # The types of a single text are all 0, which models take where none are given.
    keys = ["input_ids", *(["token_type_ids"] if len(texts) == 2 and "token_type_ids" in encoded else [])]
    examples = [
        {**{key: encoded[key][index] for key in keys}, "labels": row["label"]} for index, row in enumerate(rows)
    ]
    return [example if example["input_ids"] else _empty(example, tokenizer) for example in examples]


def _empty(example: Example, tokenizer: PreTrainedTokenizerBase) -> Example:
    """The example of a text that has no tokens, with the one token that stands for it: a model needs something."""
    types = {"token_type_ids": [0]} if "token_type_ids" in example else {}
    return {**example, "input_ids": _standing_in(tokenizer), **types}


def _standing_in(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    tokens = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return [token for token in tokens if token is not None][:1]


def _encode_answers(rows: list[Row], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Example]:
    prompts = [row["prompt"] if "prompt" in row else row["turns"][0] for row in rows]
    answers = [row.get("answer", "") for row in rows]
    # Alone too, since a model that answers is given the prompt's tokens and not those of the whole.
    asked = opening_tokens(prompts, tokenizer)
    whole = opening_tokens([prompt + answer for prompt, answer in zip(prompts, answers, strict=True)], tokenizer)
    examples = []
    for prompt, both, answer in zip(asked, whole, answers, strict=True):
        joined = both[: len(prompt)] == prompt  # else a token spans the border, which no prompt alone ends with
        answer_ids = both[len(prompt) :] if joined else tokenizer(answer, add_special_tokens=False)["input_ids"]
        learned = [*answer_ids, tokenizer.eos_token_id][: max_length - 1]
        before = shortened(prompt, max_length - len(learned), tokenizer)
        labels = [IGNORED] * len(before) + learned
        examples.append(
            {"input_ids": before + learned, "labels": labels, "prompt": shortened(prompt, max_length, tokenizer)}
        )
    return examples


def opening_tokens(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """The tokens of texts that go on: begun once, as the tokenizer begins a text, and not ended, as it may end one."""
    before, behind = _added_tokens(tokenizer)
    all_ids = [ids[: len(ids) - behind] for ids in tokenizer(texts)["input_ids"]]
    # A template may have written the token of begin that the tokenizer puts there too.
    twice = [before > 0 and ids[before - 1 : before + 1] == [tokenizer.bos_token_id] * 2 for ids in all_ids]
    return [
        (ids[1:] if doubled else ids) or _standing_in(tokenizer) for ids, doubled in zip(all_ids, twice, strict=True)
    ]


def _added_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """How many tokens the tokenizer puts before a text and behind it."""
    plain, whole = (tokenizer("a text", add_special_tokens=added)["input_ids"] for added in (False, True))
    starts = [start for start in range(len(whole)) if whole[start : start + len(plain)] == plain]
    before = starts[0] if plain and starts else 0
    return before, len(whole) - before - len(plain) if plain else 0


def shortened(prompt: list[int], length: int, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The last `length` tokens of a prompt, the first of them still the token that begins every text."""
    if len(prompt) <= length:
        return prompt
    first = prompt[:1] if length > 1 and prompt[0] == tokenizer.bos_token_id else []
    return first + prompt[len(prompt) - length + len(first) :]


def _decides_examples(config: Config, tokenizer: PreTrainedTokenizerBase) -> tuple[Any, ...]:
    return config.task, load_task(config), tokenizer  # the last two by what they are, not by what they hold


@kept(4, key=_decides_examples)
def encoded_splits(config: Config, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[Example]]:
    """All splits of a run's task, tokenized once per process and tokenizer."""
    return {split: encode(rows, tokenizer, config.task) for split, rows in load_task(config).data.splits.items()}


def pad(sequences: list[list[int]], value: int, *, left: bool = False) -> Tensor:
    """Stack sequences of token ids to (batch, longest), filling up with `value` on the right or the left."""
    longest = max(map(len, sequences))
    fills = [[value] * (longest - len(sequence)) for sequence in sequences]
    pairs = zip(fills, sequences, strict=True)
    return torch.tensor([fill + sequence if left else sequence + fill for fill, sequence in pairs])


def collate(examples: list[Example], pad_token_id: int) -> dict[str, Tensor]:
    """Stack examples for training and classification, padded on the right.

    Returns `input_ids` and `attention_mask` (batch, seq), `token_type_ids` like them where the examples have some, and
    `labels`: (batch,) for a classifier, (batch, seq) for a causal language model.
    """
    ids = [example["input_ids"] for example in examples]
    labels = [example["labels"] for example in examples]
    batch = {
        "input_ids": pad(ids, pad_token_id),
        "attention_mask": pad([[1] * len(sequence) for sequence in ids], 0),
        "labels": pad(labels, IGNORED) if isinstance(labels[0], list) else torch.tensor(labels),
    }
    if "token_type_ids" in examples[0]:
        batch["token_type_ids"] = pad([example["token_type_ids"] for example in examples], 0)
    return batch


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
        # Examples that fill no batch are left out; the next epoch's order leaves out others.
        usable = len(order) - len(order) % self.batch_size
        group = self.batch_size * BUCKET_BATCHES
        for start in range(0, usable, group):
            members = sorted(order[start : min(start + group, usable)], key=lambda index: self.lengths[index])
            batches = [members[at : at + self.batch_size] for at in range(0, len(members), self.batch_size)]
            for index in torch.randperm(len(batches), generator=self.generator).tolist():
                yield batches[index]
