"""A model's weights: which files they are, the checksum that names them, and the run that they make."""

import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from src.config.schema import Config
from src.errors import UserError
from src.models.base_model import find_weights, load_base
from src.models.weights import checksum, description_digests, local_checksum, weight_files
from src.results.identity import run_folder
from tests.conftest import composed, real_data, some_inputs

STORIES = ["model=stories260k", "task=reverse_words", "trainer=smoke", "tracking=none"]


def digest(content: bytes) -> str:
    return sha256(content).hexdigest()


def write(folder: Path, **contents: bytes) -> Path:
    """A folder with these files; "__" stands for a dot in their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name.replace("__", ".")).write_bytes(content)
    return folder


def test_the_checksum_of_one_file_is_its_sha_256(tmp_path: Path) -> None:
    folder = write(tmp_path, config__json=b"{}", model__safetensors=b"w" * 10**6, tokenizer__json=b"{}")
    assert checksum(folder) == digest(b"w" * 10**6)


def test_the_checksum_of_several_files_is_that_of_theirs_in_the_order_of_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    for part in (2, 1):  # written in another order than that of their names
        (folder / f"model-0000{part}-of-00002.safetensors").write_bytes(b"part %d" % part)
    assert [path.name[:11] for path in weight_files(folder)] == ["model-00001", "model-00002"]
    assert checksum(folder) == digest(f"{digest(b'part 1')}\n{digest(b'part 2')}".encode())


def test_safetensors_are_taken_before_pickles_as_transformers_does(tmp_path: Path) -> None:
    both = write(tmp_path / "both", pytorch_model__bin=b"old", model__safetensors=b"new")
    old = write(tmp_path / "old", pytorch_model__bin=b"old", optimizer__bin=b"x")
    assert [checksum(folder) for folder in (both, old)] == [digest(b"new"), digest(b"old")]
    assert weight_files(write(tmp_path / "none", config__json=b"{}")) == []


def test_a_file_that_was_written_again_has_its_new_checksum(tmp_path: Path) -> None:
    folder = write(tmp_path, model__safetensors=b"one")
    assert checksum(folder) == digest(b"one")
    write(tmp_path, model__safetensors=b"two")
    assert checksum(folder) == digest(b"two")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"model__safetensors": b"w"}, "has no config.json (it has: model.safetensors)."),
        ({"config__json": b"{}"}, "has no *.safetensors or pytorch_model*.bin (it has: config.json)."),
        ({"readme__md": b""}, "has no config.json and no *.safetensors or pytorch_model*.bin (it has: readme.md)."),
        ({}, "has no config.json and no *.safetensors or pytorch_model*.bin (it has: nothing)."),
        (None, "has no config.json and no *.safetensors or pytorch_model*.bin (it has: no such folder)."),
    ],
)
@pytest.mark.parametrize("with_checksum", [True, False])
def test_a_path_that_is_no_models_folder_is_refused_with_what_it_has(
    tmp_path: Path, files: dict[str, bytes] | None, said: str, with_checksum: bool
) -> None:
    folder = tmp_path / "m" if files is None else write(tmp_path / "m", **files)
    # whether the model's yaml says which weights it wants
    args = [] if with_checksum else ["model.weights_sha256=null"]
    with pytest.raises(UserError) as refused:
        find_weights(composed(*STORIES, f"model.path={folder}", *args).model)
    assert str(refused.value).startswith(f"model.path={folder} {said}\n")
    assert "Give the folder where stories260k was saved by transformers' save_pretrained" in str(refused.value)


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[str], Path]:
    """Makes copies of a small model's folder."""
    original = real_data("models/stories260K-hf")

    def copy(name: str) -> Path:
        (tmp_path / name).mkdir()
        for path in original.iterdir():
            shutil.copyfile(path, tmp_path / name / path.name)
        return tmp_path / name

    return copy


def of_path(folder: Path) -> Config:
    return composed(*STORIES, f"model.path={folder}", "model.weights_sha256=null")


def test_the_checksum_of_a_users_weights_is_filled_in(saved: Callable[[str], Path]) -> None:
    folder = saved("a")
    expected = digest((folder / "model.safetensors").read_bytes())
    assert of_path(folder).model.weights_sha256 == expected == local_checksum("any", str(folder))
    assert find_weights(of_path(folder).model) == folder


def test_weights_that_the_yaml_knows_are_found_by_their_path_alone(saved: Callable[[str], Path]) -> None:
    folder = saved("a")
    assert find_weights(composed(*STORIES, f"model.path={folder}").model) == folder


def test_another_models_weights_are_refused_with_both_checksums(saved: Callable[[str], Path]) -> None:
    folder = changed(saved("a"))
    actual = digest((folder / "model.safetensors").read_bytes())
    config = composed(*STORIES, f"model.path={folder}")
    with pytest.raises(UserError) as refused:
        find_weights(config.model)
    assert f"the weights in {folder} have the checksum\n  {actual}, not\n" in str(refused.value)
    assert str(config.model.weights_sha256) in str(refused.value)
    assert "give another model.path, or correct model.weights_sha256" in str(refused.value)


def changed(folder: Path) -> Path:
    """Change a single number of the weights."""
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_the_same_weights_in_two_folders_are_one_run_and_changed_ones_another(saved: Callable[[str], Path]) -> None:
    first, second, other = (of_path(folder) for folder in (saved("a"), saved("b"), changed(saved("c"))))
    by_checksum = composed(*STORIES, f"model.path={first.model.path}")
    folders = [run_folder(config, some_inputs()) for config in (first, second, by_checksum, other)]
    assert folders[0] == folders[1] == folders[2] != folders[3]


def test_a_model_without_a_source_says_that_it_needs_a_path() -> None:
    with pytest.raises(UserError, match=r"model=stories260k has no weights: (.|\n)*Set model.path=<its folder>"):
        find_weights(composed(*STORIES).model)


def test_a_model_drawn_from_a_seed_needs_no_weights() -> None:
    assert find_weights(composed("model=tiny_llama", "task=reverse_words").model) is None


@pytest.mark.parametrize("shard", ["5GB", "300KB"])
def test_a_model_saved_by_transformers_is_loaded_from_its_folder_in_one_file_or_in_several(
    saved: Callable[[str], Path], tmp_path: Path, shard: str
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = saved("a")
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "again", max_shard_size=shard)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "again")
    config = of_path(tmp_path / "again")
    files = weight_files(tmp_path / "again")
    assert (len(files) > 1) is (shard == "300KB")
    each = [digest(path.read_bytes()) for path in files]
    assert config.model.weights_sha256 == (each[0] if len(each) == 1 else digest("\n".join(each).encode()))
    original, again = (
        load_base(model, num_labels=0, attention="eager") for model in (of_path(folder).model, config.model)
    )
    mine, theirs = original.module.state_dict(), again.module.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert again.tokenizer("Once upon a time")["input_ids"] == original.tokenizer("Once upon a time")["input_ids"]


def test_a_configuration_does_not_change_the_checksum_of_the_weights(saved: Callable[[str], Path]) -> None:
    folder = saved("a")
    before = checksum(folder)
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**described, "rope_theta": 1.0}))
    assert checksum(folder) == before


@pytest.mark.parametrize(
    ("name", "key", "value", "same"),
    [
        ("config.json", "transformers_version", "0.1", True),
        ("config.json", "_name_or_path", "/some/where", True),
        ("tokenizer_config.json", "name_or_path", "/some/where", True),
        ("config.json", "rms_norm_eps", 0.5, False),
        ("tokenizer_config.json", "eos_token", "!", False),
        ("tokenizer.json", "added_tokens", [], False),
    ],
)
def test_equal_weights_with_another_tokenizer_or_config_are_another_run_and_with_another_origin_are_not(
    saved: Callable[[str], Path], name: str, key: str, value: Any, same: bool
) -> None:
    first, second = saved("a"), saved("b")
    content = json.loads((second / name).read_text())
    (second / name).write_text(json.dumps({**content, key: value}, indent=3))
    assert checksum(first) == checksum(second)
    assert (description_digests(first) == description_digests(second)) is same


@pytest.mark.parametrize(
    "name", ["spiece.model", "qwen.tiktoken", "source.spm", "bpe.codes", "entity_vocab.json", "emoji.json"]
)
def test_whatever_file_a_tokenizer_is_read_from_counts(tmp_path: Path, name: str) -> None:
    seen = set()
    for content in ("[1]", "[2]"):
        (tmp_path / name).write_text(content)
        seen.add(description_digests(tmp_path)["tokenizer"])
    assert len(seen) == 2


@pytest.mark.parametrize(
    "name", ["generation_config.json", "trainer_state.json", "model.safetensors.index.json", "README.txt"]
)
def test_other_files_beside_the_weights_do_not_count(tmp_path: Path, name: str) -> None:
    before = description_digests(tmp_path)
    (tmp_path / name).write_text("[1]")
    assert description_digests(tmp_path) == before
