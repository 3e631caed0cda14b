"""A tokenizer put in order for its model: what it fills up with, how a text ends, and what it tells beside tokens.

A tokenizer comes with a checkpoint, but nothing makes sure that they agree. Padding is masked wherever it is used, so
another token can stand in for one that is missing; a model that finds a text's end by its padding is told of it.
"""

import inspect
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from src.config.schema import ModelConfig
from src.errors import UserError, first_line
from src.models.last_token import pools_last_token


def load_tokenizer(folder: Path, config: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer in a model's folder.

    Raises:
        UserError: there is none, or it can't be read.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # in whatever way a missing or damaged file fails
        raise UserError(
            f"model={config.name}: transformers finds no tokenizer in {folder}: {first_line(error)}\n"
            "Save the model's tokenizer there, as tokenizer.save_pretrained does."
        ) from error
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):  # made of nothing where a folder has no vocabulary
        raise UserError(
            f"model={config.name}: the tokenizer in {folder} has no vocabulary, only {len(tokenizer)} special tokens.\n"
            "Save the model's tokenizer there, as tokenizer.save_pretrained does."
        )
    return tokenizer


def fit_tokenizer(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, config: ModelConfig) -> list[str]:
    """Change what a tokenizer says, and the model's padding id, until the two fit; returns what to know of it.

    Raises:
        UserError: it has no token that can stand in.
    """
    notes = [*_end(tokenizer, model, config), *_padding(tokenizer, model, config)]
    if "token_type_ids" in tokenizer.model_input_names and not _has_types(model):
        tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
        tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names  # so that it is saved with them
    tokenizer.truncation_side = "right"  # a text that is too long loses its end, whatever tokenizer it has
    return notes


def embedded_tokens(model: PreTrainedModel) -> int:
    """How many token ids the model has embeddings for."""
    weight: Any = model.get_input_embeddings().weight
    return int(weight.shape[0])


def type_rows(model: PreTrainedModel) -> int | None:
    """How many kinds of text the model tells apart by embeddings; None where it has none."""
    sizes = [
        module.num_embeddings
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and "token_type" in name
    ]
    return min(sizes, default=None)


def _has_types(model: PreTrainedModel) -> bool:
    """Whether the model tells the two texts of a pair apart. GPT-2 takes types too, as the embeddings of words."""
    if "token_type_ids" not in inspect.signature(model.forward).parameters:
        return False
    compared = any("seg_embed" in name for name, _ in model.named_parameters())  # XLNet's way
    return compared or (type_rows(model) or 0) > 1


def _end(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, config: ModelConfig) -> list[str]:
    """See that a language model has a token that ends what it writes."""
    if config.architecture == "classifier" or _is_embedded(tokenizer.eos_token_id, model):
        return []
    given: Any = model.config.get_text_config().eos_token_id
    index = given[0] if isinstance(given, list) and given else given
    token = tokenizer.convert_ids_to_tokens(index) if _is_embedded(index, model) else None
    if token is None:
        raise UserError(
            f"model={config.name}: its tokenizer has no token that ends a text (eos_token: {tokenizer.eos_token}, id "
            f"{tokenizer.eos_token_id} of {embedded_tokens(model)}), so no answer would end.\n"
            "Name one of its tokens as eos_token in the folder's tokenizer_config.json."
        )
    tokenizer.eos_token = token
    return [f"model={config.name}: texts end with {token}, which its config.json names and its tokenizer doesn't"]


def _padding(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, config: ModelConfig) -> list[str]:
    """See that batches can be filled up, and that a model that looks for padding looks for what is there."""
    notes, named = [], tokenizer.pad_token
    if not _is_embedded(tokenizer.pad_token_id, model):
        tokenizer.pad_token = _substitute(tokenizer, model, config)
        if named is not None:
            notes.append(f"model={config.name} has no embedding for {named}: padded with {tokenizer.pad_token}")
    text_config: Any = model.config.get_text_config()
    if config.architecture == "classifier" and (pools_last_token(model) or text_config.pad_token_id is None):
        # Both: the one is read, the other is saved.
        model.config.pad_token_id = text_config.pad_token_id = tokenizer.pad_token_id
    return notes


def _substitute(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, config: ModelConfig) -> str:
    """A special token to fill up with, the one that is least likely to be part of a text."""
    special = {tokenizer.convert_tokens_to_ids(token): token for token in tokenizer.all_special_tokens}
    given: Any = model.config.get_text_config().pad_token_id
    ends, others = [tokenizer.eos_token_id], [tokenizer.unk_token_id, *special]
    # A classifier may read its text's last token, which a tokenizer may have made the end token.
    ids = [given, *others] if config.architecture == "classifier" else [*ends, given, *others]
    found = next((special[index] for index in ids if index in special and _is_embedded(index, model)), None)
    if found is None and _is_embedded(given, model):
        found = str(tokenizer.convert_ids_to_tokens(given))
    if found is None:
        raise UserError(
            f"model={config.name}: its tokenizer has no token to fill up batches with.\n"
            "Name one of its tokens as pad_token in the folder's tokenizer_config.json."
        )
    return str(found)


def _is_embedded(index: Any, model: PreTrainedModel) -> bool:
    return index is not None and 0 <= index < embedded_tokens(model)
