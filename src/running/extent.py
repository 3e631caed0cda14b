"""How far a task's tokens reach, held against what the model has embeddings and positions for.

Checked on the tokens themselves, before anything is computed with them: on a GPU an index out of range ends the
process, and an encoder whose positions begin behind its padding id reads fewer than its config says.
"""

from dataclasses import dataclass
from typing import Any

from src.config.memo import kept
from src.config.schema import Config
from src.errors import UserError
from src.models.base_model import BaseModel
from src.models.fit_tokenizer import embedded_tokens, type_rows
from src.models.positions import room
from src.tasks.base import load_task
from src.training.batches import Example


@dataclass(frozen=True)
class Extent:
    """Tokens of the longest text with what is written after it, and the largest ids; None where there are none."""

    tokens: int
    largest_id: int
    largest_type: int | None


def _decides_extent(config: Config, base: BaseModel, examples: dict[str, list[Example]]) -> Any:
    return config.task, load_task(config), base.tokenizer


@kept(4, key=_decides_extent)
def extent(config: Config, base: BaseModel, examples: dict[str, list[Example]]) -> Extent:
    """How far the task's tokens reach."""
    every = [example for split in examples.values() for example in split]
    new, prompts = config.task.max_new_tokens, [len(example["prompt"]) for example in every if "prompt" in example]
    if "turns" in load_task(config).data.splits["test"][0]:
        prompts.append(config.task.max_length)  # what is said grows with every turn, up to that
    longest = max(len(example["input_ids"]) for example in every)
    types = [max(example["token_type_ids"]) for example in every if "token_type_ids" in example]
    return Extent(
        tokens=max(longest, max(prompts, default=0) + new if new else 0),
        largest_id=max(max(example["input_ids"]) for example in every),
        largest_type=max(types, default=None),
    )


def check_ids(config: Config, base: BaseModel, examples: dict[str, list[Example]]) -> None:
    """Refuse tokens, types and lengths that the model has nothing for.

    Raises:
        UserError: with the largest, and what the model has.
    """
    reached, name = extent(config, base, examples), config.model.name
    embedded, types = embedded_tokens(base.module), type_rows(base.module)
    if reached.largest_id >= embedded:
        token = base.tokenizer.convert_ids_to_tokens(reached.largest_id)
        raise UserError(
            f"model={name}: its tokenizer gives task={config.task.name} the token {token} of id {reached.largest_id}; "
            f"the model has embeddings for {embedded} tokens.\nGive the tokenizer that the model was trained with."
        )
    if types is not None and (reached.largest_type or 0) >= types:
        raise UserError(
            f"model={name}: its tokenizer gives texts types up to {reached.largest_type}; the model knows {types} "
            "types.\nGive the tokenizer that the model was trained with."
        )
    check_room(config, base, reached.tokens)


def check_room(config: Config, base: BaseModel, tokens: int, virtual_tokens: int = 0) -> None:
    """Refuse texts that are longer, with the virtual tokens before them, than the model can read.

    Raises:
        UserError: with the length that would fit.
    """
    readable, task = room(base.module), config.task
    if readable is None or tokens + virtual_tokens <= readable:
        return
    parts = [f"{tokens} tokens"]
    parts += [f"and {virtual_tokens} virtual ones of adapter={config.adapter.name}"] if virtual_tokens else []
    length = readable - virtual_tokens - task.max_new_tokens
    lower = "Lower the rank, or task.max_new_tokens." if virtual_tokens else "Lower task.max_new_tokens."
    remedy = f"Set task.max_length={length} or less." if length > 1 else lower
    raise UserError(
        f"task={task.name} needs {' '.join(parts)} (task.max_length={task.max_length}, task.max_new_tokens="
        f"{task.max_new_tokens}); model={config.model.name} has positions for {readable}.\n{remedy}"
    )
