"""A folder's model is described well enough to be adapted as it stands, whatever its architecture."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    MobileBertConfig,
    MobileBertForSequenceClassification,
    XLNetConfig,
    XLNetForSequenceClassification,
)

from src.adapters.inject import find_targets
from src.config.schema import ModelConfig, model_config
from src.errors import UserError
from src.inspect import inspection
from src.models.base_model import empty_model, load_base
from src.models.positions import room
from tests.tiny_models import SIZES, saved, tiny_model

ENCODERS = ("bert", "roberta", "albert", "distilbert", "deberta", "deberta-v2", "modernbert")
SEQ2SEQ = {"bart": {"decoder_layers": 3}, "t5": {"num_decoder_layers": 3}}


def architecture_of_kind(kind: str) -> str:
    return "classifier" if kind in ENCODERS else "seq2seq_lm" if kind in SEQ2SEQ else "causal_lm"


def described(folder: Path, architecture: str = "") -> ModelConfig:
    """The config that the printed YAML gives."""
    return model_config(yaml.safe_load(inspection(folder, architecture, "mine", "yaml")))


@pytest.mark.parametrize("kind", sorted(SIZES))
def test_the_yaml_names_every_role_so_that_a_run_finds_it(kind: str, tmp_path: Path) -> None:
    saved(tmp_path, tiny_model(kind, architecture_of_kind(kind), **SEQ2SEQ.get(kind, {})))
    config = described(tmp_path)
    assert config.architecture == architecture_of_kind(kind)
    assert {"query", "key", "value", "output"} <= set(config.roles)
    base = load_base(config, num_labels=2, attention="eager")
    # Names, numbers of layers and sizes are all held against the model here.
    targets = find_targets(base.module, config, list(config.roles))
    assert len(targets) >= 4 * config.layers
    assert find_targets(empty_model(config, num_labels=2), config, list(config.roles)) == targets


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "modernbert", "roberta"])
def test_a_checkpoint_of_another_head_is_described_as_a_classifier_that_a_run_takes(kind: str, tmp_path: Path) -> None:
    masked = kind in ENCODERS
    saved(tmp_path, tiny_model(kind, "AutoModelForMaskedLM" if masked else "causal_lm"))
    config = described(tmp_path, "classifier")
    base = load_base(config, num_labels=3, attention="eager")
    assert base.lacking
    assert all(any(name.startswith(f"{head}.") for head in config.head) for name in base.lacking)


def test_facts_name_experts_the_tokenizer_and_what_the_checkpoint_lacks(tmp_path: Path) -> None:
    saved(tmp_path, tiny_model("qwen2_moe", "causal_lm"))
    page = inspection(tmp_path, "classifier", "", "text")
    assert "2 x model.layers.*.mlp.experts.gate_up_proj  3 x 16 x 16  no linear layers: not adapted" in page
    assert "not in the checkpoint: score.weight" in page
    assert "30, the largest id 29; the model embeds 32" in page


def test_parts_that_a_block_counts_are_named_one_by_one(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"embedding_size": 16, "intra_bottleneck_size": 16, "num_feedforward_networks": 3}
    shape = MobileBertConfig(
        vocab_size=32, hidden_size=32, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, **sizes
    )
    saved(tmp_path, MobileBertForSequenceClassification(shape))
    config = described(tmp_path)
    assert config.layers == 2
    base = load_base(config, num_labels=2, attention="eager")
    assert len(find_targets(base.module, config, ["query", "value"])) == 2 * 2
    assert len(find_targets(base.module, config, ["ffn_up"])) == 2 * 3


def test_a_tower_that_reads_images_has_no_role_and_bounds_no_text(tmp_path: Path) -> None:
    text = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "head_dim": 8,
            "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 48}  # fmt: skip
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    shape = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=31)
    saved(tmp_path, Gemma3ForConditionalGeneration(shape))
    config = described(tmp_path, "causal_lm")
    base = load_base(config, num_labels=2, attention="eager")
    targets = find_targets(base.module, config, list(config.roles))
    assert len(targets) == 2 * 7
    assert all(".language_model." in name for name in targets)
    assert room(base.module) == 48


def test_a_model_whose_code_lies_in_its_folder_is_refused_without_a_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda question: pytest.fail(question))
    saved(tmp_path, tiny_model("llama", "causal_lm"))
    path = tmp_path / "config.json"
    own = {"model_type": "mine", "auto_map": {"AutoConfig": "configuration_mine.MineConfig"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | own))
    (tmp_path / "configuration_mine.py").write_text("raise SystemExit('run')")
    with pytest.raises(UserError, match=r"custom code(.|\n)*never run"):
        inspection(tmp_path, "", "", "yaml")
    config = ModelConfig(name="mine", architecture="causal_lm", path=str(tmp_path))
    with pytest.raises(UserError, match="custom code"):
        load_base(config, num_labels=2, attention="eager")


def test_a_model_whose_layers_have_no_known_names_has_an_empty_table_of_roles(tmp_path: Path) -> None:
    shape = XLNetConfig(vocab_size=32, d_model=16, n_layer=1, n_head=2, d_inner=24)
    saved(tmp_path, XLNetForSequenceClassification(shape))
    assert described(tmp_path, "classifier").roles == {}


def test_sizes_that_differ_within_a_role_are_left_to_the_reader(tmp_path: Path) -> None:
    saved(tmp_path, tiny_model("bart", "seq2seq_lm", decoder_ffn_dim=20))
    text = inspection(tmp_path, "", "mine", "yaml")
    assert "# another size: ffn_up: {module: model.decoder.layers.*.fc1, out_features: 20, in_features: 16}" in text
    config = described(tmp_path)
    assert config.roles["ffn_up"].module == "model.encoder.layers.*.fc1"


def test_a_role_that_only_some_layers_have_is_left_to_the_reader(tmp_path: Path) -> None:
    saved(tmp_path, tiny_model("qwen2_moe", "causal_lm", num_hidden_layers=3, mlp_only_layers=[1]))
    text = inspection(tmp_path, "", "mine", "yaml")
    assert "# in 1 of 3 layers: gate: {module: model.layers.*.mlp.gate_proj, out_features: 24, in_features: 16}" in text
    config = described(tmp_path)
    base = load_base(config, num_labels=0, attention="eager")
    assert len(find_targets(base.module, config, list(config.roles))) == 4 * 3


def test_a_folder_that_holds_no_model_and_an_architecture_that_it_lacks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no config\.json"):
        inspection(tmp_path / "nowhere", "", "", "text")
    saved(tmp_path, tiny_model("llama", "causal_lm"))
    with pytest.raises(UserError, match="can't be read as a seq2seq_lm"):
        inspection(tmp_path, "seq2seq_lm", "", "text")
    with pytest.raises(UserError, match=r"model\.architecture=causallm is not known\.\nAllowed: causal_lm, "):
        inspection(tmp_path, "causallm", "", "text")


def test_a_kind_of_model_that_transformers_lacks_is_refused_and_not_counted(tmp_path: Path) -> None:
    saved(tmp_path, tiny_model("llama", "causal_lm"))
    config = described(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "no_such_kind"}))
    with pytest.raises(UserError, match=r"config\.json can't be read: .*no_such_kind.*\n.*own"):
        inspection(tmp_path, "", "", "text")
    with pytest.raises(UserError, match=r"config\.json can't be read: .*no_such_kind"):
        empty_model(config, num_labels=0)
