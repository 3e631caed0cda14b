"""The loss on general text is transformers' own, and changes with what training changes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

from src.config.schema import Config
from src.errors import UserError
from src.models.base_model import load_base
from src.results.store import read_record
from src.running.execute import execute
from src.training.batches import IGNORED
from src.training.device import find_device
from src.training.forgetting import general_loss, general_text, source_fingerprint, text_loss, unmeasurable
from tests.architectures import HEADS
from tests.conftest import composed, real_data, run_program
from tests.tiny_models import of_folder, saved, tiny_model

WORDS = "the of and to in is that it was for on are with as by be this from or have an not which but all can more about"
FP32 = "trainer.precision=fp32"


@pytest.fixture
def bert(tmp_path: Path) -> list[str]:
    """The overrides of a small encoder whose weights come with a masked-token head, and a text of its words."""
    folder = tmp_path / "bert"
    folder.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    torch.manual_seed(3)
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 1536}
    sizes |= {"vocab_size": len(vocabulary), "max_position_embeddings": 512}
    model = BertForMaskedLM(BertConfig.from_dict(sizes))
    model.save_pretrained(folder)
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    (tmp_path / "text.txt").write_text(
        " ".join(WORDS.split()[index * index % len(WORDS.split())] for index in range(3001))
    )
    return [
        f"model.path={folder}",
        "model.weights_sha256=null",
        "model.head=[classifier,bert.pooler]",  # a masked-token model has no pooler
        f"forgetting={tmp_path}/text.txt",
        FP32,
        "trainer=smoke",
        "tracking=none",
    ]


def loaded(config: Config) -> tuple[Any, Any]:
    base = load_base(config.model, num_labels=3, attention="eager")
    return base, base.fresh_copy(config.model.head, torch.Generator())


def test_a_language_models_loss_is_transformers_own(tiny: Callable[..., Config]) -> None:
    config = tiny(FP32)
    base, model = loaded(config)
    text = general_text(config, base)
    assert text.inputs.shape == (64, 64)  # blocks are no longer than the model reads
    assert text.tokens == 64 * 63
    expected = model(input_ids=text.inputs, labels=text.inputs).loss.item()
    assert text_loss(model, text, find_device("fp32")) == pytest.approx(expected, rel=1e-5)


def test_a_text_that_changes_within_a_process_is_read_again(tiny: Callable[..., Config], tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text(WORDS * 60)
    config = tiny(FP32, f"forgetting={path}")
    base, _ = loaded(config)
    first = general_text(config, base)
    path.write_text("Another text. " * 700)
    second = general_text(config, base)
    assert second.fingerprint == source_fingerprint(str(path)) != first.fingerprint
    assert not torch.equal(second.inputs, first.inputs)


@pytest.mark.slow
def test_a_run_of_a_language_model_stores_its_loss_before_and_after(tiny: Callable[..., Config]) -> None:
    config = tiny("adapter=full", "rank=2", FP32, "trainer.max_steps=20")
    done = run_program("src.run", *overrides(config), "adapter=full", FP32, "trainer.max_steps=20")
    assert done.returncode == 0, done.stderr
    (record,) = [read_record(path.parent) for path in Path(config.results_dir).rglob("result.json")]
    assert record is not None
    stored = record["forgetting"]
    base, model = loaded(config)
    measured = general_loss(config, base, model, find_device("fp32"))
    assert measured is not None
    assert stored["before"] == pytest.approx(measured["loss"])
    assert (stored["tokens"], stored["unit"]) == (64 * 63, "nats per token")
    assert abs(stored["after"] - stored["before"]) > 0.01


def overrides(config: Config) -> list[str]:
    return ["model=tiny_llama", "task=reverse_words", "tracking=none", "trainer=smoke",
            f"results_dir={config.results_dir}", f"cache_dir={config.cache_dir}"]  # fmt: skip


def test_an_encoders_loss_is_its_masked_language_models(bert: list[str]) -> None:
    config = composed(*bert)
    base, model = loaded(config)
    measured = general_loss(config, base, model, find_device("fp32"))
    text = general_text(config, base)
    whole = BertForMaskedLM.from_pretrained(config.model.path).eval()
    with torch.no_grad():
        expected = whole(input_ids=text.inputs, labels=text.labels).loss.item()
    assert measured is not None
    assert measured["loss"] == pytest.approx(expected, rel=1e-4)
    chosen = text.labels != IGNORED
    assert chosen.float().mean().item() == pytest.approx(0.15, abs=0.01)
    assert (text.inputs[chosen] == base.tokenizer.mask_token_id).all()
    assert not (chosen[:, 0] | chosen[:, -1]).any()


@pytest.mark.slow
def test_the_head_has_no_part_in_it_and_the_encoder_has(bert: list[str]) -> None:
    config = composed(*bert)
    base, model = loaded(config)
    device = find_device("fp32")
    losses = [general_loss(config, base, model, device)]
    with torch.no_grad():
        model.classifier.weight.add_(1.0)
        losses.append(general_loss(config, base, model, device))
        model.bert.encoder.layer[2].output.dense.weight.mul_(1.5)
        losses.append(general_loss(config, base, model, device))
        losses.append(general_loss(config, base, base.module, device))
    first, other_head, other_body, bare = (measured["loss"] for measured in losses if measured)
    assert first == other_head == bare
    assert other_body != first


def test_weights_without_a_masked_token_head_have_no_such_loss() -> None:
    config = composed("model=minilm", FP32)
    assert general_loss(config, *loaded(config), find_device("fp32")) is None


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("llama", "transformers has no model of llama"), ("gpt2", "transformers has no model of gpt2"),
     ("t5", "transformers has no model of t5"), ("bert", "has no mask token"), ("albert", "has no mask token"),
     ("modernbert", "has no mask token")],
)  # fmt: skip
def test_a_classifier_that_can_t_predict_masked_tokens_is_known_before_training(
    kind: str, reason: str, tmp_path: Path
) -> None:
    folder = saved(tmp_path, tiny_model(kind, "classifier"))
    config = composed(FP32)
    config.model = of_folder(folder, head=HEADS.get(kind, ["score"]))
    base = load_base(config.model, num_labels=2, attention="eager")
    assert reason in unmeasurable(config, base)
    assert general_loss(config, base, base.module, find_device("fp32")) is None


def test_weights_without_the_head_and_a_text_of_nothing_are_known_before_training(
    tmp_path: Path, tiny: Callable[..., Config]
) -> None:
    config = composed("model=minilm", FP32)
    assert "come without a head" in unmeasurable(config, loaded(config)[0])
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    for name, reason in (("empty", "too short for a block"), ("latin", "can't be read")):
        config = tiny(f"forgetting={tmp_path}/{name}.txt")
        assert reason in unmeasurable(config, loaded(config)[0])


def test_a_measurable_model_has_no_reason(bert: list[str], tiny: Callable[..., Config]) -> None:
    for config in (composed(*bert), tiny(FP32), tiny("forgetting=none")):
        assert not unmeasurable(config, loaded(config)[0])


def test_a_failure_after_training_is_recorded_and_loses_no_run(
    tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*arguments: Any) -> None:
        raise ValueError("an unusual model")

    (tmp_path / "short.txt").write_text("a short text")
    config = tiny(f"forgetting={tmp_path}/short.txt", FP32, "trainer.max_steps=2", "trainer.eval_limit=2", "rank=2")
    monkeypatch.setattr("src.running.execute.general_loss", fail)
    record = execute(config, Path(config.results_dir), lambda step, metrics: None)
    assert record["state"] == "done"
    assert "forgetting" not in record
    assert record["forgetting_skipped"] == "ValueError: an unusual model"


def test_none_is_measured_where_none_is_asked_for(tiny: Callable[..., Config]) -> None:
    config = tiny("forgetting=none")
    assert general_loss(config, *loaded(config), find_device("fp32")) is None


def test_a_text_that_isnt_there_is_refused_and_a_short_one_is_used_whole(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"forgetting=nowhere\.txt is no file"):
        composed("forgetting=nowhere.txt")
    (tmp_path / "short.txt").write_text("a short text")
    config = composed("model=tiny_llama", "task=reverse_words", f"forgetting={tmp_path}/short.txt")
    text = general_text(config, loaded(config)[0])
    assert (text.name, text.inputs.shape) == ("short.txt", (64, 12))


def test_a_pretrained_model_knows_english_better_than_chance() -> None:
    folder = real_data("models/stories260K-hf")
    config = composed("model=stories260k", "task=reverse_words", f"model.path={folder}", FP32)
    base, model = loaded(config)
    measured = general_loss(config, base, model, find_device("fp32"))
    assert measured is not None
    assert 1.0 < measured["loss"] < torch.tensor(float(base.tokenizer.vocab_size)).log().item()
