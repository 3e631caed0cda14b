"""How likely a model finds the right answers: a number for each item that has less noise than being right or wrong.

Two outcomes, by the task; numbers to be predicted, and rows without an answer, have none:

- `log_probability`, in nats, up to 0: of a class, its log-softmax. Of a choice, the log-probability that a model which
  writes none but the allowed answers, token by token, writes the right one: at each token of the right answer only
  those tokens count with which an allowed answer goes on, and their probabilities are made to sum to 1. Allowed are the
  training answer and those with another choice in its place, of the choices that the prompt names. The probabilities of
  an item's choices sum to 1, and one pass over the right answer gives its own.
- `bits_per_byte` of written answers: the negative log-likelihood of all answers, in bits, over their length in bytes of
  UTF-8. The token that ends an answer counts as a part of it without bytes of its own, as every tokenizer has one; so
  the number is comparable across tokenizers. The answer is the one that training would use, the first of several.

Prompts and answers are the tokens of training. An answer that `task.max_length` cuts, or that has a character which the
tokenizer doesn't know, has no number: its probability would be that of another text.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import fmean

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from src.config.schema import TaskConfig
from src.metrics.choice.choice import kind_of
from src.tasks.base import Row
from src.training.batches import IGNORED, Example, encode, pad
from src.training.finite import check_rows

LOG_PROBABILITY, BITS_PER_BYTE = "log_probability", "bits_per_byte"
UNITS = {LOG_PROBABILITY: "nats", BITS_PER_BYTE: "bits per byte"}
Numbers = list[float | None]  # one an item, None where it has none


@dataclass(frozen=True)
class Likelihood:
    """What the right answers of a split's rows are given.

    `value` is that of all items that have a number, `n` of them; where the split is made of several sets it is their
    unweighted mean, as the metric's is, and `sets` has each set's own. It is None where a set has no number. `columns`
    has what is stored for each item, by name.
    """

    name: str
    value: float | None
    n: int
    columns: dict[str, Numbers]
    sets: dict[str, float] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        """What the value is counted in."""
        return UNITS[self.name]

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger value is a better one."""
        return self.name == LOG_PROBABILITY


def members_of_sets(rows: list[Row]) -> dict[str, list[int]]:
    """The indices of the rows of each set that a split is made of; one set without a name where it is of one piece."""
    members: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        members.setdefault(row.get("set", ""), []).append(index)
    return members


def of_classes(logits: Tensor, rows: list[Row]) -> Likelihood | None:
    """The log-probability of the rows' labels, of logits (items, classes) in float32; None for a single number.

    Raises:
        Diverged: one of them is infinite or NaN.
    """
    if logits.shape[1] == 1:
        return None
    labels = torch.tensor([row["label"] for row in rows])
    right = F.log_softmax(logits, dim=-1).gather(1, labels[:, None])
    check_rows("log-probabilities", right)
    return log_probability(right[:, 0].tolist(), rows)


def log_probability(numbers: Numbers, rows: list[Row]) -> Likelihood:
    """The mean log-probability of the right answers, given that of each row in nats."""
    return _of_items(LOG_PROBABILITY, rows, numbers, [1] * len(rows), {LOG_PROBABILITY: numbers})


def bits_per_byte(nats: Numbers, examples: list[Example], rows: list[Row]) -> Likelihood:
    """The bits that a byte of the answers takes, given the negative log-likelihood of each in nats."""
    tokens = [len(answer_tokens(example)) for example in examples]
    sizes = [len(row["answer"].encode()) for row in rows]
    columns = {"answer_nats": nats, "answer_tokens": _where(nats, tokens), "answer_bytes": _where(nats, sizes)}
    bits = [None if each is None else each / math.log(2) for each in nats]
    return _of_items(BITS_PER_BYTE, rows, bits, sizes, columns)


def _where(known: Numbers, numbers: list[int]) -> Numbers:
    return [None if other is None else number for other, number in zip(known, numbers, strict=True)]


def _of_items(name: str, rows: list[Row], tops: Numbers, bottoms: list[int], columns: dict[str, Numbers]) -> Likelihood:
    """An outcome that is a ratio of two sums over items, of those that have a number."""
    ratios = {}
    for set_name, members in members_of_sets(rows).items():
        found = [(top, bottoms[index]) for index in members if (top := tops[index]) is not None]
        size = sum(bottom for _, bottom in found)
        ratios[set_name] = sum(top for top, _ in found) / size if size else None
    known = {set_name: ratio for set_name, ratio in ratios.items() if ratio is not None}
    value = fmean(known.values()) if len(known) == len(ratios) else None
    n = sum(top is not None for top in tops)
    return Likelihood(name, value, n, columns, known if len(ratios) > 1 else {})


def answer_tokens(example: Example) -> list[int]:
    """The tokens that a language model learns of an example: its answer's and the one that ends it."""
    return [label for label in example["labels"] if label != IGNORED]


def is_whole(example: Example, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether an example's tokens are all of its answer: none is cut off, and none stands for what isn't known."""
    tokens = answer_tokens(example)
    return tokens[-1:] == [tokenizer.eos_token_id] and unknown_token(tokenizer) not in tokens


def unknown_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that stands for all characters which a tokenizer doesn't know; None where it has none of its own."""
    token: int | None = tokenizer.unk_token_id
    return None if token in (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id) else token


def allowed_answers(row: Row) -> list[str]:
    """A row's answer with each of the choices that its prompt names, the right one first.

    Empty where the answer doesn't say the right choice, or the prompt doesn't name it and another.
    """
    right: str = row["reference"] if "reference" in row else row["answer"]
    before, found, behind = row["answer"].rpartition(right)
    others = dict.fromkeys(kind_of(right).findall(row["prompt"]))
    if not found or right not in others or len(others) < 2:
        return []
    return [row["answer"], *(f"{before}{other}{behind}" for other in others if other != right)]


def choice_branches(rows: list[Row], tokenizer: PreTrainedTokenizerBase, task: TaskConfig) -> list[list[list[int]]]:
    """For each token of a row's right answer, the tokens with which an allowed answer goes on there, its own first.

    Empty where the allowed answers aren't known, aren't whole, or are the same tokens.
    """
    answers = [allowed_answers(row) for row in rows]
    asked = [{**row, "answer": answer} for row, allowed in zip(rows, answers, strict=True) for answer in allowed]
    examples = iter(encode(asked, tokenizer, task) if asked else [])
    return [_branches([next(examples) for _ in allowed], tokenizer) for allowed in answers]


def _branches(allowed: list[Example], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    answers = [answer_tokens(example) for example in allowed]
    distinct = len(set(map(tuple, answers))) == len(answers)
    if not allowed or not distinct or not all(is_whole(example, tokenizer) for example in allowed):
        return []
    return [list(dict.fromkeys(_goes_on(answers, length))) for length in range(len(answers[0]))]


def _goes_on(answers: list[list[int]], length: int) -> Iterator[int]:
    """The next tokens of those answers whose first `length` tokens are the first answer's."""
    return (tokens[length] for tokens in answers if tokens[:length] == answers[0][:length] and len(tokens) > length)


def among(logits: Tensor, branches: list[list[int]]) -> Tensor:
    """The log-probability (n,) of the first token of each list among the tokens of that list.

    Args:
        logits: (n, vocabulary), in float32.
        branches: n lists of tokens, each of any length.
    """
    tokens = pad(branches, -1).to(logits.device)  # (n, most)
    kept = logits.gather(1, tokens.clamp(min=0)).masked_fill(tokens < 0, -torch.inf)
    return F.log_softmax(kept, dim=-1)[:, 0]
