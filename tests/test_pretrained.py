"""What a checkpoint gives is kept, what it lacks is the head or refused: no weight of a model is random in silence."""

import inspect
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from src.adapters.base import Setup
from src.adapters.head_only import HeadOnly
from src.adapters.inject import inject
from src.config.schema import ModelConfig
from src.errors import UserError
from src.models.base_model import BaseModel, empty_model, find_weights, load_base
from src.models.weights import local_checksum
from tests.tiny_models import COMMON, of_folder, saved, tiny_model

Folders = Callable[[str, str], Path]
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Folders of tiny models, each made once: by kind and by class of transformers."""
    made: dict[tuple[str, str], Path] = {}

    def original(kind: str, architecture: str) -> Path:
        if (kind, architecture) not in made:
            folder = tmp_path_factory.mktemp(f"{kind}_{architecture}")
            made[kind, architecture] = saved(folder, tiny_model(kind, architecture))
        return made[kind, architecture]

    return original


@pytest.fixture
def copied(originals: Folders, tmp_path: Path) -> Folders:
    """Copies of the folders, to be changed."""
    return lambda kind, architecture: Path(shutil.copytree(originals(kind, architecture), tmp_path / "model"))


def change(folder: Path, **values: Any) -> Path:
    """Set fields of the folder's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return folder


def rewrite(folder: Path, rewritten: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """Save the folder's weights again, as a function of them by name."""
    save_file(rewritten(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def without(folder: Path, part: str) -> Path:
    """Take the weights away that have a part in their names."""
    return rewrite(folder, lambda w: {name: tensor for name, tensor in w.items() if part not in name})


def in_shards(folder: Path, model: Any, size: str = "4KB") -> Path:
    """A folder with a model whose weights are in files of at most this size."""
    saved(folder, model)
    (folder / WEIGHTS).unlink()
    model.save_pretrained(folder, max_shard_size=size)
    return folder


def loaded(config: ModelConfig, num_labels: int = 2) -> BaseModel:
    base: BaseModel = inspect.unwrap(load_base)(config, num_labels=num_labels, attention="eager")
    return base


def refusal(config: ModelConfig, num_labels: int = 2) -> str:
    with pytest.raises(UserError) as refused:
        loaded(config, num_labels)
    assert len(str(refused.value).splitlines()) <= 3
    return str(refused.value)


def copy_of(base: BaseModel, head: list[str], seed: int = 0) -> nn.Module:
    return base.fresh_copy(head, torch.Generator().manual_seed(seed))


def assert_equal(actual: nn.Module, folder: Path, but: tuple[str, ...] = ("classifier.",)) -> None:
    """All of a file's weights are the model's, bit for bit, but for those whose names begin so."""
    stored = load_file(folder / WEIGHTS)
    compared = [name for name in stored if not name.startswith(but)]
    assert compared
    state = actual.state_dict()
    for name in compared:
        assert torch.equal(state[name], stored[name].to(state[name].dtype)), name


# ---- what is missing


def test_a_checkpoint_without_its_pooler_is_refused_by_the_names_of_what_it_lacks(copied: Folders) -> None:
    said = refusal(of_folder(without(copied("bert", "classifier"), "pooler")))
    assert "lacks weights of the model: bert.pooler.dense.bias, bert.pooler.dense.weight." in said
    assert "model.head=[classifier,bert.pooler]" in said


def test_what_is_named_in_the_head_may_be_missing_and_comes_from_the_runs_seed_alone(copied: Folders) -> None:
    folder = without(copied("bert", "classifier"), "pooler")
    head = ["bert.pooler", "classifier"]
    copies = []
    for state in (1, 2):  # another process has another global state
        torch.manual_seed(state)
        copies.append(copy_of(loaded(of_folder(folder, head=head)), head))
    first, again = (copy.state_dict() for copy in copies)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert_equal(copies[0], folder)
    other = copy_of(loaded(of_folder(folder, head=head)), head, seed=1).get_parameter("bert.pooler.dense.weight")
    assert not torch.equal(other, first["bert.pooler.dense.weight"])
    injected = inject(copies[0], HeadOnly, Setup(), head)
    assert {name for name in injected.state() if "pooler" in name} == {
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
    }


@pytest.mark.parametrize(
    ("prefix", "kind"), [("module.", "bert"), ("_orig_mod.", "gpt2"), ("base_model.model.", "llama")]
)
def test_weights_under_a_wrappers_names_are_refused_with_those_names(copied: Folders, prefix: str, kind: str) -> None:
    folder = rewrite(copied(kind, "AutoModel"), lambda w: {f"{prefix}{name}": tensor for name, tensor in w.items()})
    head = ["classifier"] if kind == "bert" else ["score"]
    said = refusal(of_folder(folder, head=head))
    assert "lacks weights of the model" in said
    assert f"It has, unused: {prefix}" in said


def test_an_output_layer_that_the_config_does_not_tie_may_not_be_missing(copied: Folders) -> None:
    folder = without(copied("llama", "causal_lm"), "lm_head.weight")
    assert "lacks weights of the model: lm_head.weight" in refusal(of_folder(folder, "causal_lm"))


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("bert", "classifier"),
        ("roberta", "classifier"),
        ("distilbert", "pre_classifier,classifier"),
        ("deberta-v2", "pooler,classifier"),
        ("modernbert", "head,classifier"),
        ("llama", "score"),
        ("t5", "classification_head"),
    ],
)
def test_a_classifier_without_a_head_is_refused_by_the_head_that_would_do(
    originals: Folders, kind: str, head: str
) -> None:
    folder = originals(kind, "AutoModel")
    said = refusal(of_folder(folder, head=[]))
    assert said.endswith(f"Set model.head=[{head}].")
    base = loaded(of_folder(folder, head=head.split(",")))
    assert base.lacking
    assert all(name.startswith(tuple(head.split(","))) for name in base.lacking)


def test_a_head_that_leaves_a_drawn_layer_out_is_refused_with_the_one_that_has_it(originals: Folders) -> None:
    said = refusal(of_folder(originals("distilbert", "AutoModel")))
    assert "its head would never be trained: pre_classifier." in said
    assert said.endswith("Set model.head=[classifier,pre_classifier].")


def test_a_drawn_classifier_and_a_counted_one_need_a_head_too() -> None:
    sizes = {"model_type": "bert", **COMMON}
    drawn = ModelConfig(name="tiny", architecture="classifier", init_seed=0, config=sizes)
    assert refusal(drawn).endswith("Set model.head=[classifier].")
    with pytest.raises(UserError, match=r"Set model.head=\[classifier\]"):
        empty_model(drawn, num_labels=2)


@pytest.mark.parametrize(
    ("head", "near"),
    [("no_such", ""), ("clasifier", "Nearest names: classifier"), ("classifier.weight", "Nearest names: classifier")],
)
def test_a_head_that_is_no_module_is_refused_with_the_nearest(originals: Folders, head: str, near: str) -> None:
    said = refusal(of_folder(originals("bert", "classifier"), head=[head]))
    assert f"has no module '{head}' with weights" in said
    assert near in said
    with pytest.raises(UserError, match=f"no module '{head}'"):
        empty_model(of_folder(originals("bert", "classifier"), head=[head], sizes={"model_type": "bert"}), num_labels=2)


# ---- what is there is kept


@pytest.mark.parametrize("module", ["model.embed_tokens", "lm_head", "model.norm", "model.layers.1"])
@pytest.mark.parametrize("tied", [False, True])
def test_what_is_pretrained_is_never_drawn_when_it_is_named_as_head(tmp_path: Path, module: str, tied: bool) -> None:
    model = tiny_model("llama", "causal_lm", tie_word_embeddings=tied)
    folder = saved(tmp_path, model)
    base = loaded(of_folder(folder, "causal_lm", head=[module]))
    copy = copy_of(base, [module])
    assert_equal(copy, folder)
    injected = inject(copy, HeadOnly, Setup(), [module])
    trained = {id(parameter) for parameter in copy.parameters() if parameter.requires_grad}
    assert trained == {id(parameter) for parameter in copy.get_submodule(module).parameters()}
    assert len(injected.state()) == len(trained)


def test_a_classifier_of_as_many_classes_starts_from_its_own_head(originals: Folders) -> None:
    folder = originals("bert", "classifier")
    base = loaded(of_folder(folder))
    assert base.lacking == set()
    assert base.notes == ["model=tiny: the head starts from the checkpoint's own, as it has one for 2"]
    assert_equal(copy_of(base, ["classifier"]), folder, but=())


def test_of_a_head_only_the_layer_for_other_classes_is_drawn(tmp_path: Path) -> None:
    folder = saved(tmp_path, tiny_model("roberta", "classifier", num_labels=10))
    base = loaded(of_folder(folder), num_labels=3)
    assert base.lacking == {"classifier.out_proj.weight", "classifier.out_proj.bias"}
    copy = copy_of(base, ["classifier"])
    assert copy.get_parameter("classifier.out_proj.weight").shape == (3, 16)
    assert copy.get_parameter("classifier.out_proj.weight").std().item() == pytest.approx(0.02, rel=0.4)
    assert_equal(copy, folder, but=("classifier.out_proj.",))


@pytest.mark.parametrize(
    ("kind", "architecture", "head", "norm", "one"),
    [
        ("modernbert", "classifier", ["head", "classifier"], "head.norm.weight", 1.0),
        ("gemma2", "causal_lm", ["model.norm"], "model.norm.weight", 0.0),
    ],
)
def test_a_norm_that_is_drawn_passes_its_input_on(
    copied: Folders, kind: str, architecture: str, head: list[str], norm: str, one: float
) -> None:
    """Gemma's norms multiply by one more than their weight."""
    base = loaded(of_folder(without(copied(kind, architecture), f"{head[0]}."), architecture, head=head))
    assert norm in base.lacking
    weight = copy_of(base, head).get_parameter(norm)
    assert torch.equal(weight, torch.full_like(weight, one))


def test_a_module_that_is_named_twice_is_drawn_once(originals: Folders) -> None:
    base = loaded(of_folder(originals("roberta", "AutoModel")))
    once, twice = copy_of(base, ["classifier"]), copy_of(base, ["classifier", "classifier.out_proj", "classifier"])
    assert all(torch.equal(a, b) for a, b in zip(once.parameters(), twice.parameters(), strict=True))


def test_the_draw_is_what_it_was_for_every_run_so_far(originals: Folders) -> None:
    """Weights from N(0, 0.02^2) one after the other, biases zero, as a plain loop over the head draws them."""
    base = loaded(of_folder(originals("distilbert", "AutoModel"), head=["pre_classifier", "classifier"]), 3)
    generator = torch.Generator().manual_seed(5)
    expected = {
        name: torch.empty(shape).normal_(0.0, 0.02, generator=generator)
        for name, shape in (("pre_classifier", (16, 16)), ("classifier", (3, 16)))
    }
    copy = copy_of(base, ["pre_classifier", "classifier"], seed=5)
    for name, weight in expected.items():
        assert torch.equal(copy.get_parameter(f"{name}.weight"), weight)
        assert not copy.get_parameter(f"{name}.bias").any()


# ---- checkpoints for other ends


@pytest.mark.parametrize(
    ("num_labels", "before", "expected"),
    [
        (2, "regression", lambda logits, labels: F.cross_entropy(logits, labels)),
        (3, "multi_label_classification", lambda logits, labels: F.cross_entropy(logits, labels)),
        (1, "single_label_classification", lambda logits, labels: F.mse_loss(logits[:, 0], labels.float())),
    ],
)
def test_an_export_for_another_task_is_a_base_and_this_task_decides_the_loss(
    tmp_path: Path, num_labels: int, before: str, expected: Any
) -> None:
    folder = change(saved(tmp_path, tiny_model("bert", "classifier", num_labels=10)), problem_type=before)
    base = loaded(of_folder(folder), num_labels)
    model: Any = copy_of(base, ["classifier"]).eval()
    labels = torch.tensor([1, 0, 1])
    output = model(
        input_ids=torch.tensor([[5, 6], [7, 8], [9, 4]]), labels=labels if num_labels > 1 else labels.float()
    )
    assert output.logits.shape == (3, num_labels)
    assert output.loss.item() == pytest.approx(expected(output.logits, labels).item())
    assert_equal(model, folder)


@pytest.mark.parametrize(
    ("kind", "stored", "head", "unused"),
    [
        ("bert", "AutoModelForPreTraining", "classifier", 7),
        ("distilbert", "AutoModelForMaskedLM", "pre_classifier,classifier", 5),
        ("roberta", "AutoModel", "classifier", 2),  # a pooler, for which the classifier has no place
        ("modernbert", "AutoModelForMaskedLM", "head,classifier", 1),
        ("llama", "causal_lm", "score", 1),
        ("bart", "seq2seq_lm", "classification_head", 1),
    ],
)
def test_a_checkpoint_with_another_head_is_a_base_and_what_it_has_beyond_is_counted(
    originals: Folders, kind: str, stored: str, head: str, unused: int
) -> None:
    folder = originals(kind, stored)
    base = loaded(of_folder(folder, head=head.split(",")))
    assert len(base.unused) == unused
    state, weights = base.module.state_dict(), load_file(folder / WEIGHTS)
    prefix = f"{base.module.base_model_prefix}." if stored == "AutoModel" else ""
    kept = [name for name in weights if prefix + name in state]
    assert len(kept) > 5
    assert all(torch.equal(state[prefix + name], weights[name]) for name in kept)


@pytest.mark.parametrize("stored", ["AutoModelForMaskedLM", "AutoModelForTokenClassification"])
def test_a_checkpoint_whose_own_task_had_no_pooler_is_refused(originals: Folders, stored: str) -> None:
    assert "lacks weights of the model: bert.pooler.dense" in refusal(of_folder(originals("bert", stored)))


@pytest.mark.parametrize(("kind", "head"), [("bert", "classifier"), ("gpt2", "score"), ("t5", "classification_head")])
def test_a_body_that_was_saved_alone_is_a_base(originals: Folders, kind: str, head: str) -> None:
    folder = originals(kind, "AutoModel")
    base: Any = loaded(of_folder(folder, head=[head]))
    assert_equal(base.module.base_model, folder, but=())
    assert not base.unused


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shard", ["5GB", "4KB"])
def test_weights_of_half_the_bits_in_one_file_or_several_are_had_in_float32(
    tmp_path: Path, dtype: torch.dtype, shard: str
) -> None:
    model = tiny_model("llama", "causal_lm").to(dtype)
    folder = in_shards(tmp_path, model, shard)
    assert (folder / "model.safetensors.index.json").exists() is (shard == "4KB")
    base = loaded(of_folder(folder, "causal_lm"))
    state = base.module.state_dict()
    assert all(tensor.dtype == torch.float32 for tensor in state.values())
    assert all(torch.equal(state[name], tensor.float()) for name, tensor in model.state_dict().items())


# ---- files that aren't a model


@pytest.mark.parametrize("whole", [True, False])
def test_a_folder_that_holds_an_adapter_is_refused(copied: Folders, whole: bool) -> None:
    folder = copied("bert", "classifier")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "x"}')
    if not whole:
        (folder / WEIGHTS).rename(folder / "adapter_model.safetensors")
        (folder / "config.json").unlink()
    for check in (lambda: find_weights(of_folder(folder)), lambda: local_checksum("tiny", str(folder))):
        with pytest.raises(UserError, match=r"has an adapter_config\.json, so transformers would put that adapter"):
            check()


@pytest.mark.parametrize(
    ("quantized", "said"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False}, "4 bits by bitsandbytes"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": False, "load_in_8bit": True}, "8 bits by bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4}, "fewer bits (gptq)"),
        ({"quant_method": "fp8"}, "fewer bits (fp8)"),
    ],
)
def test_a_base_that_was_saved_in_fewer_bits_is_refused_before_the_run(
    copied: Folders, quantized: dict[str, Any], said: str
) -> None:
    folder = change(copied("bert", "classifier"), quantization_config=quantized)
    with pytest.raises(UserError) as refused:
        find_weights(of_folder(folder))
    assert f"were saved in {said}: they can't be had in floating point." in str(refused.value)
    assert "set quantization=nf4 or int8" in str(refused.value)


def test_a_file_that_the_index_names_and_is_not_there_is_refused_before_the_run(tmp_path: Path) -> None:
    folder = in_shards(tmp_path, tiny_model("llama", "causal_lm"))
    shards = sorted(folder.glob("model-*.safetensors"))
    shards[1].unlink()
    with pytest.raises(UserError) as refused:
        find_weights(of_folder(folder, "causal_lm"))
    assert f"lacks 1 of the {len(shards)} files that its model.safetensors.index.json names" in str(refused.value)
    assert shards[1].name in str(refused.value)


def test_an_index_that_names_weights_which_its_files_lack_is_refused(tmp_path: Path) -> None:
    folder = in_shards(tmp_path, tiny_model("llama", "causal_lm"))
    shard = next(path for path in sorted(folder.glob("model-*.safetensors")) if "model.norm.weight" in load_file(path))
    left = {name: tensor for name, tensor in load_file(shard).items() if name != "model.norm.weight"}
    save_file(left or {"other": torch.ones(1)}, shard, metadata={"format": "pt"})
    assert "lacks weights of the model: model.norm.weight" in refusal(of_folder(folder, "causal_lm"))


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ("cut", "transformers can't load"),
        ("empty", "transformers can't load"),
        ("config", "is no JSON"),
        ("index", "is no JSON"),
        ("no tokenizer", "no vocabulary"),
        ("no vocabulary", "has no vocabulary, only"),
        ("unknown", "transformers can't load"),
    ],
)
def test_a_damaged_folder_is_refused_in_a_line(copied: Folders, broken: str, expected: str) -> None:
    folder = copied("bert", "classifier")
    weights = (folder / WEIGHTS).read_bytes()
    if broken in ("cut", "empty"):
        (folder / WEIGHTS).write_bytes(weights[: len(weights) // 2] if broken == "cut" else b"")
    elif broken == "config":
        (folder / "config.json").write_text('{"model_type": "bert", ')
    elif broken == "index":
        (folder / WEIGHTS).rename(folder / "model-00001-of-00001.safetensors")
        (folder / "model.safetensors.index.json").write_text("[")
    elif broken in ("no tokenizer", "no vocabulary"):
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
        if broken == "no tokenizer":
            (folder / "tokenizer_config.json").unlink()
    else:
        change(folder, model_type="no_such_architecture")
    assert expected in refusal(of_folder(folder))


# ---- a config that isn't the weights'


def test_sizes_that_are_not_the_weights_are_refused_with_both(copied: Folders) -> None:
    said = refusal(of_folder(change(copied("bert", "classifier"), intermediate_size=20)))
    assert "bert.encoder.layer.0.intermediate.dense.bias is 24 in" in said
    assert "and 20 by its config" in said


def test_another_vocabulary_is_not_drawn_even_where_it_is_the_head(copied: Folders) -> None:
    folder = change(copied("llama", "causal_lm"), vocab_size=40)
    said = refusal(of_folder(folder, "causal_lm", head=["model.embed_tokens", "lm_head"]))
    assert "is 32 x 16 in" in said
    assert "40 x 16 by its config" in said


@pytest.mark.parametrize("stored", ["classifier", "AutoModel"])
def test_layers_that_the_config_leaves_out_are_refused_unless_they_are_left_out_on_purpose(
    copied: Folders, stored: str
) -> None:
    folder = copied("bert", stored)
    on_purpose = of_folder(folder, config={"num_hidden_layers": 1})
    assert len(loaded(on_purpose).unused) == 16
    said = refusal(of_folder(change(folder, num_hidden_layers=1)))
    prefix = "bert." if stored == "classifier" else ""
    assert f"has weights that its config leaves out: {prefix}encoder.layer.1.attention" in said
    assert "and 12 others" in said


@pytest.mark.parametrize("name", ["h.0.attn.bias", "h.1.attn.masked_bias", "transformer.wte._weight", "mtp.0.weight"])
def test_what_older_versions_saved_beside_the_weights_is_no_false_alarm(copied: Folders, name: str) -> None:
    folder = rewrite(copied("gpt2", "AutoModel"), lambda w: {**w, name: torch.ones(2)})
    assert loaded(of_folder(folder, head=["score"])).unused <= {name}  # transformers knows some itself


def test_biases_that_the_config_leaves_out_are_refused(copied: Folders) -> None:
    folder = copied("llama", "causal_lm")
    rewrite(folder, lambda w: {**w, "model.layers.0.self_attn.q_proj.bias": torch.ones(16)})
    said = refusal(of_folder(folder, "causal_lm"))
    assert "has weights that its config leaves out: model.layers.0.self_attn.q_proj.bias." in said


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["bert.encoder.layer.1.output.dense.weight", "bert.embeddings.LayerNorm.bias"])
def test_a_weight_that_is_no_number_is_refused_by_its_name(copied: Folders, value: float, name: str) -> None:
    def spoiled(weights: dict[str, Any]) -> dict[str, Any]:
        weights[name].view(-1)[3] = value
        return weights

    said = refusal(of_folder(rewrite(copied("bert", "classifier"), spoiled)))
    assert f"1 of the {'16' if name.endswith('bias') else '384'} numbers of {name}" in said


def test_a_head_for_other_classes_may_hold_what_is_no_number_as_it_is_drawn(copied: Folders) -> None:
    folder = copied("bert", "classifier")
    rewrite(folder, lambda w: {**w, "classifier.weight": torch.full((2, 16), float("nan"))})
    assert "classifier.weight" in refusal(of_folder(folder), 2)
    model = copy_of(loaded(of_folder(folder), 3), ["classifier"])
    assert all(parameter.isfinite().all() for parameter in model.parameters())
