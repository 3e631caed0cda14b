"""Predict every item of a split and score the predictions with the task's metrics."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from src.config.checks import LOSS
from src.config.schema import TaskConfig
from src.errors import Diverged
from src.metrics import Score, score
from src.tasks.base import Row
from src.training.batches import Example, by_length, collate, opening_tokens, pad, shortened
from src.training.device import Device
from src.training.finite import check_rows
from src.training.likelihood import (
    Likelihood,
    among,
    answer_tokens,
    bits_per_byte,
    choice_branches,
    is_whole,
    log_probability,
    members_of_sets,
    of_classes,
)
from src.training.loss import answer_logits

CHOICE = "choice"  # the metric of texts that name one of a few choices
# (logits (n, vocabulary) in float32, labels (n,), the examples of the batch) to a number for each label (n,).
OfTokens = Callable[[Tensor, Tensor, list[int]], Tensor]


@dataclass(frozen=True)
class Scored:
    """One split's predictions and references in the order of its rows, and what the metrics say of them.

    `score` is the primary metric's; where the split is made of several sets, its value is their unweighted mean and
    `sets` has each set's own. `more` has the values of the task's other metrics and of the primary's parts.
    `score.items` has a number for each row where the metric is a mean over items; `undefined` names the metrics that
    can't be computed of these predictions. `likelihood` is what the right answers were given, where that was asked.
    """

    predictions: list[Any]
    references: list[Any]
    score: Score
    more: dict[str, float] = field(default_factory=dict)
    sets: dict[str, float] = field(default_factory=dict)
    undefined: list[str] = field(default_factory=list)
    likelihood: Likelihood | None = None


@dataclass(frozen=True)
class Scoring:
    """How splits are scored: with which tokenizer and metrics, where, and in what batches.

    `metric_options` go to the primary metric as they are; `seed` decides what is drawn where texts are sampled.
    """

    tokenizer: PreTrainedTokenizerBase
    task: TaskConfig
    device: Device
    batch_size: int
    seed: int = 0
    metric_options: dict[str, Any] = field(default_factory=dict)

    def answer_loss(self, model: PreTrainedModel, examples: list[Example]) -> Scored:
        """The mean negative log-likelihood of the answers' tokens, in nats; predictions are the items' own means.

        Raises:
            Diverged: the loss of an answer is infinite or NaN.
        """
        sums = self._token_sums(model, examples, "losses", _losses)
        counts = [len(answer_tokens(example)) for example in examples]
        each = [total / count for total, count in zip(sums, counts, strict=True)]
        return Scored(each, counts, Score(LOSS, sum(sums) / sum(counts), higher_is_better=False, unit="nats"))

    def likelihood(self, model: PreTrainedModel, rows: list[Row], examples: list[Example]) -> Likelihood | None:
        """How likely a language model finds the rows' answers, in one pass over them; None where rows have none.

        Raises:
            Diverged: the loss of an answer, or the log-probability of a choice, is infinite or NaN.
        """
        if any("answer" not in row for row in rows):
            return None
        return (self._of_choices if self.task.metric == CHOICE else self._of_answers)(model, rows, examples)

    def _of_choices(self, model: PreTrainedModel, rows: list[Row], examples: list[Example]) -> Likelihood:
        branches = choice_branches(rows, self.tokenizer, self.task)
        known = [index for index, of_row in enumerate(branches) if of_row]

        def of_tokens(logits: Tensor, labels: Tensor, batch: list[int]) -> Tensor:
            return among(logits, [tokens for index in batch for tokens in branches[known[index]]])

        numbers = self._token_sums(model, [examples[index] for index in known], "log-probabilities", of_tokens)
        return log_probability(_spread(numbers, known, len(rows)), rows)

    def _of_answers(self, model: PreTrainedModel, rows: list[Row], examples: list[Example]) -> Likelihood:
        known = [index for index, example in enumerate(examples) if is_whole(example, self.tokenizer)]
        nats = self._token_sums(model, [examples[index] for index in known], "losses", _losses)
        return bits_per_byte(_spread(nats, known, len(rows)), examples, rows)

    def _token_sums(
        self, model: PreTrainedModel, examples: list[Example], what: str, of_tokens: OfTokens
    ) -> list[float]:
        """The sum over each example's labels of a number that is made of the logits before them."""
        sums = [0.0] * len(examples)
        with evaluating(model):
            for batch in by_length(examples, self.batch_size):
                tensors = collate([examples[index] for index in batch], self.tokenizer.pad_token_id)
                with self.device.autocast():
                    logits, labels, rows = answer_logits(model, _moved(tensors, model))
                # Outside autocast and in float32: bfloat16 would leave a loss two or three digits.
                numbers = of_tokens(logits.float(), labels, batch)
                check_rows(what, numbers[:, None])
                for row, number in zip(rows.tolist(), numbers.tolist(), strict=True):
                    sums[batch[row]] += number
        return sums

    def score(self, model: PreTrainedModel, rows: list[Row], examples: list[Example]) -> Scored:
        """Predict in batches of similar length and score.

        Raises:
            Diverged: a prediction is made of logits that are infinite or NaN, or a metric's value is so.
        """
        predictions, logits = self._predictions(model, rows, examples)
        references = [_reference(row) for row in rows]
        others = [score(name, predictions, references) for name in self.task.more_metrics]
        more = {other.name: other.value for other in others}
        whole, sets = self._by_set(rows, predictions, references)
        _check_values({whole.name: whole.value} | more | whole.more | sets)
        undefined = [metric.name for metric in (whole, *others) if metric.undefined]
        likelihood = of_classes(torch.stack(logits), rows) if logits else None
        return Scored(predictions, references, whole, more | whole.more, sets, undefined, likelihood)

    def predict(self, model: PreTrainedModel, rows: list[Row], examples: list[Example]) -> list[Any]:
        """The model's predictions in the order of the rows: classes, numbers, texts, or lists of texts.

        Raises:
            Diverged: one is made of logits that are infinite or NaN.
        """
        return self._predictions(model, rows, examples)[0]

    def _predictions(
        self, model: PreTrainedModel, rows: list[Row], examples: list[Example]
    ) -> tuple[list[Any], list[Tensor]]:
        """The predictions in the order of the rows, and a classifier's logits (labels,) behind each, in float32."""
        predictions: list[Any] = [None] * len(examples)
        logits: list[Any] = [None] * len(examples) if self.task.architecture == "classifier" else []
        with evaluating(model), self.device.autocast(), _drawing(self.seed, self.task.temperature > 0):
            for batch in by_length(examples, self.batch_size):
                if logits:
                    made, behind = self._classify(model, [examples[index] for index in batch])
                    for index, row_logits in zip(batch, behind, strict=True):
                        logits[index] = row_logits
                else:
                    made = self._write(model, [rows[index] for index in batch], [examples[index] for index in batch])
                for index, prediction in zip(batch, made, strict=True):
                    predictions[index] = prediction
        return predictions, logits

    def _by_set(self, rows: list[Row], predictions: list[Any], references: list[Any]) -> tuple[Score, dict[str, float]]:
        members = members_of_sets(rows)
        scores = {
            name: score(
                self.task.metric,
                [predictions[index] for index in indices],
                [references[index] for index in indices],
                **self.metric_options,
            )
            for name, indices in members.items()
        }
        first = next(iter(scores.values()))
        if len(scores) == 1:
            return first, {}
        # Each set counts the same, however many rows it has.
        values = {name: set_score.value for name, set_score in scores.items()}
        items = _in_order(members, {name: set_score.items for name, set_score in scores.items()})
        undefined = any(set_score.undefined for set_score in scores.values())
        mean = fmean(values.values())
        return Score(first.name, mean, first.higher_is_better, first.unit, {}, items, undefined), values

    def _write(self, model: PreTrainedModel, rows: list[Row], examples: list[Example]) -> list[Any]:
        if "turns" in rows[0]:
            return self._converse(model, [row["turns"] for row in rows])
        return self._generate(model, [example["prompt"] for example in examples])

    def _classify(self, model: PreTrainedModel, examples: list[Example]) -> tuple[list[Any], Tensor]:
        """A batch's classes or numbers, and the logits (batch, labels) that they are made of, in float32."""
        batch = collate(examples, self.tokenizer.pad_token_id)
        # With labels the model would compute a loss that nobody reads.
        batch.pop("labels")
        logits = model(**_moved(batch, model)).logits  # (batch, labels)
        check_rows("logits", logits)  # the largest of NaN is class 0
        # A single output is a number to predict, not a class.
        predictions: list[Any] = logits[:, 0].float().tolist() if logits.shape[1] == 1 else logits.argmax(-1).tolist()
        return predictions, logits.float().cpu()

    def _converse(self, model: PreTrainedModel, conversations: list[list[str]]) -> list[list[str]]:
        """Answer the turns of conversations one after the other, each with all that was said before it."""
        said = [""] * len(conversations)
        answers: list[list[str]] = [[] for _ in conversations]
        for turn in range(max(map(len, conversations))):
            # Conversations may differ in their number of turns.
            going = [index for index, turns in enumerate(conversations) if turn < len(turns)]
            for index in going:
                said[index] += conversations[index][turn]
            # From the text: the tokens of an answer as it was written needn't be those of its text.
            prompts = opening_tokens([said[index] for index in going], self.tokenizer)
            written = self._generate(
                model, [shortened(prompt, self.task.max_length, self.tokenizer) for prompt in prompts]
            )
            for index, answer in zip(going, written, strict=True):
                answers[index].append(answer.strip())
                said[index] += f"{answer}\n\n"
        return answers

    def _generate(self, model: PreTrainedModel, prompts: list[list[int]]) -> list[Any]:
        """Continue prompts, padded on the left, so that every answer follows its prompt directly.

        Returns one text a prompt, or a list of them where several `samples` are drawn.
        """
        ids = pad(prompts, self.tokenizer.pad_token_id, left=True).to(model.device)
        mask = pad([[1] * len(prompt) for prompt in prompts], 0, left=True).to(model.device)
        generate: Any = model.generate
        watch = _FiniteLogits()
        written = generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=self.decoding(),
            logits_processor=LogitsProcessorList([watch]),
        )
        check_rows("logits", watch.largest)
        texts = self.tokenizer.batch_decode(written[:, ids.shape[1] :], skip_special_tokens=True)
        texts = [_stopped(text, self.task.stop) for text in texts]
        if self.task.samples == 1:
            return texts
        # transformers puts the samples of a prompt next to each other.
        return [texts[start : start + self.task.samples] for start in range(0, len(texts), self.task.samples)]

    def decoding(self) -> GenerationConfig:
        """How texts are written: greedily, or drawn at the task's temperature."""
        # From the whole distribution; by default transformers would draw from the 50 likeliest tokens.
        drawn = {"do_sample": True, "temperature": self.task.temperature, "top_k": 0, "top_p": 1.0}
        return GenerationConfig(
            max_new_tokens=self.task.max_new_tokens,
            num_return_sequences=self.task.samples,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=self.tokenizer.eos_token_id,
            **(drawn if self.task.temperature > 0 else {"do_sample": False}),
        )


class _FiniteLogits(LogitsProcessor):
    """Keeps the largest logit of each text so far; one that is infinite or NaN stays for good.

    A single logit may be minus infinity, which is how a model forbids a token.
    """

    def __init__(self) -> None:
        self.largest = torch.zeros(1, 1)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Take note of the logits (texts, vocabulary) of the next tokens, and give them back."""
        now = scores.amax(dim=-1, keepdim=True)  # NaN where one is
        broken = ~now.isfinite()
        self.largest = torch.where(self.largest.to(now.device).isfinite(), now, self.largest.to(now.device))
        # Drawing from NaN would end the whole process on a GPU, and this run is lost in any case.
        return scores.masked_fill(broken, 0.0)


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Put the model in evaluation mode without gradients; its mode is afterwards as it was."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


@contextmanager
def _drawing(seed: int, enabled: bool) -> Iterator[None]:
    """Let transformers' sampling, which knows only the global random state, draw from `seed`, and put that back."""
    with torch.random.fork_rng(enabled=enabled):
        if enabled:
            torch.manual_seed(seed)
        yield


def _check_values(values: dict[str, float]) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise Diverged(f"the value of {name} is {value}")


def _losses(logits: Tensor, labels: Tensor, batch: list[int]) -> Tensor:
    """The loss (n,) of each label, in nats."""
    return F.cross_entropy(logits, labels, reduction="none")


def _spread(numbers: list[float], indices: list[int], size: int) -> list[float | None]:
    """The numbers at their indices in a list of a size, which has none elsewhere."""
    spread: list[float | None] = [None] * size
    for index, number in zip(indices, numbers, strict=True):
        spread[index] = number
    return spread


def _moved(batch: dict[str, torch.Tensor], model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {key: tensor.to(model.device) for key, tensor in batch.items()}


def _reference(row: Row) -> Any:
    return row["label"] if "label" in row else row.get("reference", row.get("answer"))


def _in_order(members: dict[str, list[int]], items: dict[str, list[float]]) -> list[float]:
    """The items' numbers of all sets in the order of the rows; none where the metric has none."""
    scored = [name for name, numbers in items.items() if numbers]
    each = {index: item for name in scored for index, item in zip(members[name], items[name], strict=True)}
    return [each[index] for index in sorted(each)]


def _stopped(text: str, stops: list[str]) -> str:
    """The text up to the first of the strings that end an answer."""
    return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))]
