"""Every model's yaml describes the published model: it is built without weights, and its parameters counted."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from transformers import PreTrainedModel

from src.adapters.inject import find_targets
from src.config.schema import ModelConfig
from src.errors import UserError
from src.models.base_model import empty_model, find_weights, load_base

YAMLS = {path.stem: path for path in sorted((Path(__file__).parents[1] / "conf" / "model").glob("*.yaml"))}

# All parameters, each tied one once; classifiers with two labels. The numbers are those of the published checkpoints.
PUBLISHED = {
    "distilbert": 66_955_010,
    "bert_base": 109_483_778,
    "roberta_base": 124_647_170,
    "roberta_large": 355_361_794,
    "gpt2_medium": 354_823_168,
    "gpt2_large": 774_030_080,
    "t5_base": 222_903_552,
    "llama_7b": 6_738_415_616,
    "llama_13b": 13_015_864_320,
    "llama2_7b": 6_738_415_616,
    "llama3_8b": 8_030_261_248,
    "llama3_2_3b": 3_212_749_824,
    "mistral_7b": 7_241_732_096,
    "gemma2_9b": 9_241_705_984,
    "qwen2_5_0_5b": 494_032_768,
    "stories260k": 260_032,
}


def config_of(name: str) -> ModelConfig:
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelConfig), OmegaConf.load(YAMLS[name])))
    assert isinstance(config, ModelConfig)
    return config


@lru_cache
def empty(name: str, num_labels: int = 2) -> PreTrainedModel:
    return empty_model(config_of(name), num_labels=num_labels)


def count(name: str) -> int:
    return sum(parameter.numel() for parameter in empty(name).parameters())


@pytest.mark.parametrize("name", YAMLS)
def test_every_role_of_every_yaml_is_in_every_layer_with_its_size(name: str) -> None:
    config, model = config_of(name), empty(name)
    alternatives = [module for role in config.roles.values() for module in role.module.split(" | ")]
    targets = find_targets(model, config, list(config.roles))
    assert config.name == name
    assert len(targets) == config.layers * len(alternatives)
    assert {type(model.get_submodule(target)) for target in targets} == {torch.nn.Linear}


@pytest.mark.parametrize("name", YAMLS)
def test_the_roles_are_all_linear_layers_of_the_blocks(name: str) -> None:
    config, model = config_of(name), empty(name)
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    in_blocks = [name for name in linear if any(part.isdigit() for part in name.split("."))]
    assert find_targets(model, config, list(config.roles)) == in_blocks


@pytest.mark.parametrize("name", YAMLS)
def test_an_empty_model_has_no_weights_and_its_head(name: str) -> None:
    model = empty(name)
    assert {tensor.device.type for tensor in model.parameters()} == {"meta"}
    assert all(list(model.get_submodule(module).parameters()) for module in config_of(name).head)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_model_has_as_many_parameters_as_the_published_one(name: str) -> None:
    assert count(name) == PUBLISHED[name]


def test_gpt3_has_the_parameters_that_its_sizes_give_by_hand() -> None:
    width, layers, positions, vocab = 12_288, 96, 2_048, 50_257
    block = 12 * width**2 + 13 * width  # matrices 3 + 1 + 4 + 4; their biases, and two norms of 2
    by_hand = (vocab + positions) * width + layers * block + 2 * width
    assert by_hand == 174_604_259_328  # "175 billion"
    assert count("gpt3_175b") == by_hand


def test_deberta_v2_xxl_has_the_parameters_that_its_sizes_give_by_hand() -> None:
    """The paper says 1.5 billion; no exact count is published, so each part is counted here."""
    width, ffn, layers, vocab, buckets, labels = 1_536, 6_144, 48, 128_100, 256, 2
    norm = 2 * width
    embeddings = vocab * width + norm  # neither positions nor token types are added to the input
    relative = 2 * buckets * width + norm  # one table, which query and key matrices of every layer share
    convolution = 3 * width * width + width + norm  # beside the first layer
    attention = 4 * (width * width + width) + norm
    feed_forward = (ffn * width + ffn) + (width * ffn + width) + norm
    head = (width * width + width) + (labels * width + labels)  # pooler and classifier
    by_hand = embeddings + relative + convolution + layers * (attention + feed_forward) + head
    assert by_hand == 1_566_913_538
    assert count("deberta_v2_xxl") == by_hand


@pytest.mark.parametrize(("name", "num_labels"), [("minilm", 5), ("tiny_llama", 0)])
def test_an_empty_model_has_the_names_and_shapes_of_the_loaded_one(name: str, num_labels: int) -> None:
    loaded = load_base(config_of(name), num_labels=num_labels, attention="eager").module
    shapes = {key: tensor.shape for key, tensor in loaded.state_dict().items()}
    assert {key: tensor.shape for key, tensor in empty(name, num_labels).state_dict().items()} == shapes


@pytest.mark.parametrize("name", ["bert_base", "gpt2_medium", "t5_base", "gemma2_9b", "deberta_v2_xxl"])
def test_building_an_empty_model_draws_no_random_numbers(name: str) -> None:
    state = torch.random.get_rng_state()
    empty_model(config_of(name), num_labels=2)
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_yaml_without_sizes_is_refused_with_what_it_lacks() -> None:
    config = config_of("bert_base")
    config.sizes = {}
    with pytest.raises(UserError, match=r"bert_base\.yaml has no sizes(.|\n)*`sizes`: model_type"):
        empty_model(config, num_labels=2)


@pytest.mark.parametrize(
    ("name", "sizes", "reason"),
    [
        ("bert_base", {"model_type": "bertt"}, "bertt"),
        ("roberta_base", {"num_attention_heads": 7}, r"768\) is not a multiple of .*\(7\)"),
        ("roberta_base", {"hidden_size": -3}, "negative dimension -3"),
        ("tiny_llama", {"num_attention_heads": 0}, "division"),
    ],
)
def test_sizes_that_fit_no_model_are_refused_in_two_lines(name: str, sizes: dict[str, Any], reason: str) -> None:
    config = config_of(name)
    config.config |= sizes
    with pytest.raises(UserError, match=rf"^model={name} can't be built: .*{reason}.*\n.*$"):
        empty_model(config, num_labels=2)
    with pytest.raises(UserError, match=rf"^model={name} can't be built: .*{reason}.*\n.*$"):
        load_base(replace(config, init_seed=0), num_labels=2, attention="eager")


def test_a_model_whose_weights_were_never_published_can_t_be_loaded() -> None:
    with pytest.raises(
        UserError, match=r"gpt3_175b has no weights: (.|\n)*neither a package nor a hub_id\.\n.*counted"
    ):
        find_weights(config_of("gpt3_175b"))


def test_an_unknown_architecture_is_refused_with_the_known_ones() -> None:
    config = config_of("bert_base")
    config.architecture = "causal"
    with pytest.raises(UserError, match=r"architecture: causal\.\nAllowed: causal_lm, "):
        empty_model(config, num_labels=2)


def test_each_alternative_of_a_role_is_found_in_the_model_s_order() -> None:
    targets = find_targets(empty("t5_base"), config_of("t5_base"), ["query"])
    assert len(targets) == 3 * 12
    assert targets[11:15] == [
        "encoder.block.11.layer.0.SelfAttention.q",
        "decoder.block.0.layer.0.SelfAttention.q",
        "decoder.block.0.layer.1.EncDecAttention.q",
        "decoder.block.1.layer.0.SelfAttention.q",
    ]


def test_an_alternative_that_is_nowhere_is_refused_by_its_own_name() -> None:
    config = config_of("t5_base")
    config.roles["query"].module = config.roles["query"].module.replace(
        "decoder.block.*.layer.1", "encoder.block.*.layer.1"
    )
    with pytest.raises(UserError, match=r"query is encoder\S*EncDecAttention\.q in 12 layers; 0 modules"):
        find_targets(empty("t5_base"), config, ["query"])
