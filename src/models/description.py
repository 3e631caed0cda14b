"""What the model in a folder is, read without its weights: linear layers, head, tokenizer, and the YAML for it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from src.config.checks import check_choice
from src.config.schema import ModelConfig
from src.errors import UserError, first_line
from src.models.base_model import AUTO_CLASSES, import_modeling
from src.models.checkpoint import read_config, whole_modules
from src.models.fit_tokenizer import embedded_tokens, load_tokenizer
from src.models.layout import LinearGroup, linear_groups
from src.models.positions import room
from src.models.weights import local_checksum

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

UNLIMITED = 10**9  # transformers' tokenizers without a limit name a number of thirty digits


@dataclass(frozen=True)
class Description:
    """A folder's model.

    `lacking` are the parameters that the checkpoint doesn't have, `head` the modules to train beside every method.
    """

    folder: Path
    architecture: str
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    groups: list[LinearGroup]
    head: list[str]
    lacking: list[str]


def describe(folder: Path, architecture: str = "") -> Description:
    """Read a folder's model onto the meta device, where it takes no memory.

    Args:
        architecture: what to use it as, where its checkpoint could be used otherwise too.

    Raises:
        UserError: transformers can't read it, or not as this architecture.
    """
    if architecture:
        check_choice("model.architecture", architecture, AUTO_CLASSES)
    local_checksum("the model", str(folder))
    import_modeling()
    import transformers

    config = read_config(folder)
    architecture = architecture or architecture_of(config)
    try:
        model, info = getattr(transformers, AUTO_CLASSES[architecture]).from_pretrained(
            folder,
            device_map="meta",
            local_files_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as error:  # in whatever way transformers says that it has no such class
        raise UserError(
            f"{folder} can't be read as a {architecture}: {first_line(error)}\n"
            f"Set model.architecture to another one: {', '.join(AUTO_CLASSES)}."
        ) from error
    lacking = sorted(info["missing_keys"])
    return Description(
        folder=folder,
        architecture=architecture,
        model=model,
        tokenizer=load_tokenizer(folder, ModelConfig(name=folder.name, architecture=architecture)),
        groups=linear_groups(model),
        head=head_modules(model, lacking) if architecture == "classifier" else [],
        lacking=lacking,
    )


def architecture_of(config: "PreTrainedConfig") -> str:
    """What a saved model is used as: by its own class, or where that is neither by what its kind is made for."""
    from transformers.models.auto import modeling_auto

    classes = {
        "classifier": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        "seq2seq_lm": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        "causal_lm": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    }
    saved = set(config.architectures or [])
    for architecture, names in classes.items():
        if saved & set(names.values()):
            return architecture
    if config.model_type in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.is_encoder_decoder:
        return "classifier"
    order = ("seq2seq_lm", "causal_lm", "classifier")
    return next((architecture for architecture in order if config.model_type in classes[architecture]), "classifier")


def head_modules(model: "PreTrainedModel", lacking: list[str]) -> list[str]:
    """A classifier's head: what is outside of the body, and a pooler in it that the checkpoint lacks."""
    body = f"{model.base_model_prefix}."
    outside = {name for name, _ in model.named_parameters() if not name.startswith(body)}
    return whole_modules(model, outside | {name for name in lacking if "pooler" in name})


def expert_matrices(model: "PreTrainedModel") -> list[str]:
    """Weights of three dimensions, a matrix for each expert, which no method adapts: they are no linear layers."""
    shapes: dict[tuple[str, str], int] = {}
    for name, parameter in model.named_parameters():
        if parameter.dim() == 3:
            key = (re.sub(r"\b\d+\b", "*", name), " x ".join(f"{size:,}" for size in parameter.shape))
            shapes[key] = shapes.get(key, 0) + 1
    return [f"{count} x {name}  {shape}  no linear layers: not adapted" for (name, shape), count in shapes.items()]


def tokenizer_facts(description: Description) -> dict[str, str]:
    """What decides how texts become the model's input, in words."""
    tokenizer, model = description.tokenizer, description.model
    special = {
        "padding": tokenizer.pad_token, "end": tokenizer.eos_token, "beginning": tokenizer.bos_token,
        "separator": tokenizer.sep_token, "mask": tokenizer.mask_token,
    }  # fmt: skip
    reads, positions = tokenizer.model_max_length, room(model)
    return {
        "class": type(tokenizer).__name__,
        "tokens": f"{len(tokenizer):,}, the largest id {max(tokenizer.get_vocab().values()):,}; "
        f"the model embeds {embedded_tokens(model):,}",
        **{name: f"{token} ({tokenizer.convert_tokens_to_ids(token)})" for name, token in special.items() if token},
        "around a text": around(tokenizer),
        "length": f"{f'{reads:,} tokens' if reads < UNLIMITED else 'not limited'}; the model has "
        f"{f'{positions:,} positions' if positions else 'no bound'}",
    }


def around(tokenizer: "PreTrainedTokenizerBase") -> str:
    """The tokens that the tokenizer puts before and behind a text, as in "[CLS] text [SEP]"."""
    ids, bare = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    places = range(len(ids) - len(bare) + 1)
    start = next((place for place in places if ids[place : place + len(bare)] == bare), 0)
    before, behind = (tokenizer.convert_ids_to_tokens(part) for part in (ids[:start], ids[start + len(bare) :]))
    return " ".join([*before, "text", *behind])
