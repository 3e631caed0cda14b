"""Random models of many architectures, small enough to be made, saved and loaded in a fraction of a second."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, PreTrainedTokenizerFast

from src.config.schema import ModelConfig
from src.models.base_model import AUTO_CLASSES

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
WORDS = [*SPECIAL, *"abcdefghijklmnopqrstuvwxyz"]
WIDTH = 16
COMMON: dict[str, Any] = {
    "vocab_size": 32, "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
DECODER = {"num_key_value_heads": 1, "head_dim": 8}
EXPERTS = {**DECODER, "num_experts": 3, "num_local_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
SIZES: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {"pad_token_id": 1, "bos_token_id": 0, "type_vocab_size": 1},
    "albert": {"embedding_size": 8},
    "distilbert": {"dim": WIDTH, "hidden_dim": 24, "n_layers": 2, "n_heads": 2},
    "deberta": {"pooler_hidden_size": WIDTH, "relative_attention": True, "pos_att_type": "c2p|p2c"},
    "deberta-v2": {"pooler_hidden_size": WIDTH, "relative_attention": True, "position_biased_input": False,
                   "pos_att_type": "c2p|p2c", "position_buckets": 8, "type_vocab_size": 0},
    "modernbert": {"cls_token_id": 1, "sep_token_id": 2},
    "gpt2": {"n_embd": WIDTH, "n_layer": 2, "n_head": 2, "n_positions": 40},
    "gpt_neox": {},
    "bloom": {"n_head": 2, "n_layer": 2},
    "falcon": {"num_attention_heads": 4, "alibi": False},
    "mpt": {"d_model": WIDTH, "n_heads": 2, "n_layers": 2},
    "opt": {"ffn_dim": 24, "word_embed_proj_dim": WIDTH},
    "llama": DECODER,
    "qwen2": DECODER,
    "qwen3": DECODER,
    "gemma2": DECODER,
    "gemma3_text": DECODER,
    "phi3": DECODER,
    "mixtral": EXPERTS,
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 8},
    "bart": {"d_model": WIDTH, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
             "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "decoder_start_token_id": 2,
             "forced_eos_token_id": None},
    "t5": {"d_model": WIDTH, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0,
           "max_position_embeddings": None},
}  # fmt: skip


def tiny_model(kind: str, architecture: str, **changes: Any) -> Any:
    """A model of an architecture as transformers names it, drawn from a seed of its own."""
    config = AutoConfig.for_model(kind, **{**COMMON, **SIZES[kind], **changes})
    config.initializer_range = 0.5  # large enough for an error in padding to be seen
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(transformers, AUTO_CLASSES.get(architecture, architecture)).from_config(config).eval()


def tiny_tokenizer(ends: str = "$A", pair: str = "$A $B:1", **special: Any) -> PreTrainedTokenizerFast:
    """A tokenizer of single letters; `ends` is what it puts around a text, as in "<s> $A </s>"."""
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    around = [(token, WORDS.index(token)) for token in SPECIAL]
    inner.post_processor = processors.TemplateProcessing(single=ends, pair=pair, special_tokens=around)
    tokens = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", **special}
    named: Any = {name: token for name, token in tokens.items() if token is not None}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **named)


def saved(folder: Path, model: Any, tokenizer: Any = None) -> Path:
    """A folder with the model and its tokenizer."""
    model.save_pretrained(folder)
    (tokenizer or tiny_tokenizer()).save_pretrained(folder)
    return folder


def of_folder(folder: Path, architecture: str = "classifier", **changes: Any) -> ModelConfig:
    """The config of a model that lies in a folder, its head that of most encoders."""
    head = ["classifier"] if architecture == "classifier" else []
    values = {"name": "tiny", "architecture": architecture, "path": str(folder), "head": head, "layers": 2, **changes}
    return ModelConfig(**values)
