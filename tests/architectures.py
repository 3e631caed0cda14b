"""Where tiny models of many architectures keep their roles, as their yamls would say it."""

from typing import Any

import torch
from torch import nn

from src.config.schema import ModelConfig, RoleConfig
from src.models.unfuse import unfuse
from tests.tiny_models import SIZES, WIDTH, tiny_model

SIDE_KV = WIDTH // 2  # rows of key and value where two heads share one of each
FFN = 24
BERT = {"query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value",
        "output": "attention.output.dense", "ffn_up": "intermediate.dense", "ffn_down": "output.dense"}  # fmt: skip
LLAMA = {"query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj",
         "output": "self_attn.o_proj", "gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
         "ffn_down": "mlp.down_proj"}  # fmt: skip
BART = {"query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj",
        "output": "self_attn.out_proj", "ffn_up": "fc1", "ffn_down": "fc2"}  # fmt: skip
# By kind: the path of a block, and the roles in it.
PLACES: dict[str, tuple[str, dict[str, str]]] = {
    "bert": ("bert.encoder.layer.*", BERT),
    "roberta": ("roberta.encoder.layer.*", BERT),
    "deberta": (
        "deberta.encoder.layer.*",
        {**{role: f"attention.self.in_proj.{role}" for role in ("query", "key", "value")},
         "output": "attention.output.dense", "ffn_up": "intermediate.dense", "ffn_down": "output.dense"},
    ),
    "deberta-v2": (
        "deberta.encoder.layer.*",
        BERT | {role: f"attention.self.{role}_proj" for role in ("query", "key", "value")},
    ),
    "distilbert": (
        "distilbert.transformer.layer.*",
        {"query": "attention.q_lin", "key": "attention.k_lin", "value": "attention.v_lin",
         "output": "attention.out_lin", "ffn_up": "ffn.lin1", "ffn_down": "ffn.lin2"},
    ),
    "albert": (
        "albert.encoder.albert_layer_groups.*.albert_layers.0",
        {"query": "attention.query", "key": "attention.key", "value": "attention.value", "output": "attention.dense",
         "ffn_up": "ffn", "ffn_down": "ffn_output"},
    ),
    "modernbert": (
        "model.layers.*",
        {"query": "attn.Wqkv.query", "key": "attn.Wqkv.key", "value": "attn.Wqkv.value", "output": "attn.Wo",
         "gate": "mlp.Wi.gate", "ffn_up": "mlp.Wi.up", "ffn_down": "mlp.Wo"},
    ),
    "gpt2": (
        "transformer.h.*",
        {"query": "attn.c_attn.query", "key": "attn.c_attn.key", "value": "attn.c_attn.value", "output": "attn.c_proj",
         "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"},
    ),
    "gpt_neox": (
        "gpt_neox.layers.*",
        {"query": "attention.query_key_value.query", "key": "attention.query_key_value.key",
         "value": "attention.query_key_value.value", "output": "attention.dense", "ffn_up": "mlp.dense_h_to_4h",
         "ffn_down": "mlp.dense_4h_to_h"},
    ),
    "opt": ("model.decoder.layers.*", BART),
    "phi3": (
        "model.layers.*",
        LLAMA | {role: f"self_attn.qkv_proj.{role}" for role in ("query", "key", "value")}
        | {"gate": "mlp.gate_up_proj.gate", "ffn_up": "mlp.gate_up_proj.up"},
    ),
    **{kind: ("model.layers.*", LLAMA) for kind in ("llama", "qwen2", "qwen3", "gemma2", "gemma3_text")},
    # Experts are parameters of three dimensions, which no role can name.
    **{
        kind: ("model.layers.*", {role: LLAMA[role] for role in ("query", "key", "value", "output")})
        for kind in ("mixtral", "qwen2_moe")
    },
}  # fmt: skip
FUSED = {
    "deberta": {"deberta.encoder.layer.*.attention.self.in_proj": ["query", "key", "value"]},
    "modernbert": {"model.layers.*.attn.Wqkv": ["query", "key", "value"], "model.layers.*.mlp.Wi": ["gate", "up"]},
    "gpt2": {"transformer.h.*.attn.c_attn": ["query", "key", "value"]},
    "gpt_neox": {"gpt_neox.layers.*.attention.query_key_value": ["query", "key", "value"]},
    "phi3": {
        "model.layers.*.self_attn.qkv_proj": ["query", "key", "value"],
        "model.layers.*.mlp.gate_up_proj": ["gate", "up"],
    },
}
HEADS = {"distilbert": ["pre_classifier", "classifier"], "deberta": ["pooler", "classifier"],
         "deberta-v2": ["pooler", "classifier"], "modernbert": ["head", "classifier"], "bart": ["classification_head"],
         "t5": ["classification_head"], "bert": ["classifier"], "roberta": ["classifier"],
         "albert": ["classifier"]}  # fmt: skip
ENCODERS = ("bert", "roberta", "deberta", "deberta-v2", "distilbert", "albert", "modernbert")
SEQ2SEQ = ("t5", "bart")
DECODERS = tuple(kind for kind in PLACES if kind not in ENCODERS)
KINDS = [
    *[(kind, "classifier") for kind in (*ENCODERS, *DECODERS, *SEQ2SEQ)],
    *[(kind, "causal_lm") for kind in DECODERS],
    *[(kind, "seq2seq_lm") for kind in SEQ2SEQ],
]
DEEPER_ENCODER = {"t5": {"num_hidden_layers": 3, "num_decoder_layers": 1},
                  "bart": {"num_hidden_layers": 3, "decoder_layers": 1}}  # fmt: skip


def tiny_architecture(kind: str, architecture: str) -> tuple[Any, ModelConfig]:
    """A drawn model in float64, its fused layers divided, and the yaml that it would have."""
    model = tiny_model(kind, architecture, **DEEPER_ENCODER.get(kind, {})).double().eval()
    if kind in ("mixtral", "qwen2_moe"):  # a grouped product has no float64
        model.set_experts_implementation("eager")
    config = yaml_of(kind, architecture, model)
    unfuse(model, config.fused, config.roles)
    return model, config


def yaml_of(kind: str, architecture: str, model: nn.Module) -> ModelConfig:
    """The roles of a model that isn't unfused yet, with their sizes."""
    roles = _seq2seq_roles(kind, architecture) if kind in SEQ2SEQ else _roles(kind)
    decoder = {"t5": "decoder.block", "bart": "model.decoder.layers"}.get(kind, "")
    prefix = "transformer." if (kind, architecture) == ("t5", "classifier") else ""
    return ModelConfig(
        name=f"tiny_{kind}",
        architecture=architecture,
        head=HEADS.get(kind, ["score"]) if architecture == "classifier" else [],
        fused=FUSED.get(kind, {}),
        layers=3 if decoder else 1 if kind == "albert" else 2,
        layers_of={prefix + decoder: 1} if decoder else {},
        roles={role: _sized(model, role, module) for role, module in roles.items()},
    )


def _roles(kind: str) -> dict[str, str]:
    block, roles = PLACES[kind]
    return {role: f"{block}.{module}" for role, module in roles.items()}


def _seq2seq_roles(kind: str, architecture: str) -> dict[str, str]:
    if kind == "bart":
        attention = {role: module.removeprefix("self_attn.") for role, module in BART.items() if "attn" in module}
        stacks = ["model.encoder.layers.*.self_attn", "model.decoder.layers.*.self_attn",
                  "model.decoder.layers.*.encoder_attn"]  # fmt: skip
        ends = {role: [f"model.{side}.layers.*.{BART[role]}" for side in ("encoder", "decoder")]
                for role in ("ffn_up", "ffn_down")}  # fmt: skip
    else:
        start = "transformer." if architecture == "classifier" else ""
        attention = {"query": "q", "key": "k", "value": "v", "output": "o"}
        stacks = [f"{start}encoder.block.*.layer.0.SelfAttention", f"{start}decoder.block.*.layer.0.SelfAttention",
                  f"{start}decoder.block.*.layer.1.EncDecAttention"]  # fmt: skip
        blocks = [f"{start}encoder.block.*.layer.1", f"{start}decoder.block.*.layer.2"]
        ends = {role: [f"{block}.DenseReluDense.{name}" for block in blocks]
                for role, name in (("ffn_up", "wi"), ("ffn_down", "wo"))}  # fmt: skip
    joined = {role: " | ".join(f"{stack}.{name}" for stack in stacks) for role, name in attention.items()}
    return joined | {role: " | ".join(modules) for role, modules in ends.items()}


def _sized(model: nn.Module, role: str, module: str) -> RoleConfig:
    """A role with its size: a layer's own, or a part's as the architecture's config says it."""
    name = module.split(" | ")[0].replace("*", "0")
    try:
        layer: Any = model.get_submodule(name)
    except AttributeError:
        shared = getattr(model.config, "num_key_value_heads", None) == 1 and role in ("key", "value")
        rows = FFN if role in ("gate", "ffn_up") else SIDE_KV if shared else WIDTH
        return RoleConfig(module, rows, WIDTH)
    if hasattr(layer, "nf"):
        return RoleConfig(module, layer.nf, layer.nx)
    return RoleConfig(module, layer.out_features, layer.in_features)


def tiny_batch(kind: str, architecture: str) -> dict[str, torch.Tensor]:
    """Texts of unequal length that end in the end token, with labels; padded on the right as the model expects it."""
    pad = SIZES[kind].get("pad_token_id", 0)
    texts = [[1, 9, 5, 7, 12, 30, 2], [1, 6, 11, 2]]
    longest = max(map(len, texts))
    ids = torch.tensor([text + [pad] * (longest - len(text)) for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts])
    labels = torch.arange(len(texts)) % 2 if architecture == "classifier" else ids.masked_fill(mask == 0, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
