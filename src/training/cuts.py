"""What `task.max_length` cuts off a task's items: how many of them, and whether an answer is left to learn."""

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from src.config.checks import LOSS
from src.config.memo import kept
from src.config.schema import Config, TaskConfig
from src.tasks.base import Row, load_task
from src.training.batches import IGNORED, Example, encoded_splits, opening_tokens


@dataclass(frozen=True)
class Cut:
    """Of a split's items, how many lose a part of their text or prompt, and how many a part of their answer.

    A text loses its end; a prompt its beginning, in training to make room for the answer, else only where it is
    longer than allowed by itself; an answer its end, and with it the sign to stop.
    """

    items: int
    inputs: int
    answers: int


def _decides_cuts(config: Config, tokenizer: PreTrainedTokenizerBase) -> tuple[Any, ...]:
    return config.task, load_task(config), tokenizer  # the last two by what they are, not by what they hold


@kept(4, key=_decides_cuts)
def cut_splits(config: Config, tokenizer: PreTrainedTokenizerBase) -> dict[str, Cut]:
    """What is cut of each split of a run's task, counted once per process and tokenizer."""
    rows, examples = load_task(config).data.splits, encoded_splits(config, tokenizer)
    # A loss is of prompt and answer together, as training is.
    together = {"train": True, "validation": config.task.validation_metric == LOSS}
    return {
        split: cut_items(rows[split], examples[split], tokenizer, config.task, trained=together.get(split, False))
        for split in rows
    }


def cut_items(
    rows: list[Row], examples: list[Example], tokenizer: PreTrainedTokenizerBase, task: TaskConfig, *, trained: bool
) -> Cut:
    """Count a split's items that are cut.

    Args:
        examples: the rows as tokens, as `encode` makes them.
        trained: prompts stand before their answers; else they are continued.
    """
    if task.architecture == "classifier":
        full = [index for index, example in enumerate(examples) if len(example["input_ids"]) >= task.max_length]
        return Cut(len(rows), _longer_texts([rows[index] for index in full], tokenizer, task.max_length), 0)
    answers = sum(example["labels"][-1] != tokenizer.eos_token_id for example in examples)
    if trained:
        return Cut(len(rows), sum(_room_for_prompt(example) < len(example["prompt"]) for example in examples), answers)
    full = [index for index, example in enumerate(examples) if len(example["prompt"]) >= task.max_length]
    prompts = [row["prompt"] if "prompt" in row else row["turns"][0] for row in (rows[index] for index in full)]
    longer = sum(len(ids) > task.max_length for ids in opening_tokens(prompts, tokenizer)) if prompts else 0
    return Cut(len(rows), longer, 0)


def _room_for_prompt(example: Example) -> int:
    return sum(label == IGNORED for label in example["labels"])


def _longer_texts(rows: list[Row], tokenizer: PreTrainedTokenizerBase, length: int) -> int:
    """How many are longer than allowed; only those that fill the length are asked for, as one may just fit."""
    keys = [key for key in ("text", "text_pair") if rows and key in rows[0]]
    texts = [[row[key] for row in rows] for key in keys]
    return sum(len(ids) > length for ids in tokenizer(*texts, verbose=False)["input_ids"]) if texts else 0


def cut_warning(task: TaskConfig, cuts: dict[str, Cut]) -> str | None:
    """A sentence with the share of each split that is cut; None where nothing is."""
    what = "texts" if task.architecture == "classifier" else "prompts"
    parts = [_share(cut.inputs, cut.items, split, what) for split, cut in cuts.items() if cut.inputs]
    parts += [_share(cut.answers, cut.items, split, "answers") for split, cut in cuts.items() if cut.answers]
    return f"task={task.name}: task.max_length={task.max_length} cuts {', '.join(parts)}" if parts else None


def _share(count: int, items: int, split: str, what: str) -> str:
    # Neither a rare cut is 0 % nor one that some escape 100 %.
    percent = min(max(100 * count / items, 0.1), 100.0 if count == items else 99.9)
    return f"{count:,} of {items:,} {split} {what} ({percent:.3g} %)"
