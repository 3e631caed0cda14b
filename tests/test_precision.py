"""bf16 is taken only on a model that a step in it leaves finite and near float32's."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from src.config.schema import Config
from src.errors import UserError
from src.models.base_model import BaseModel
from src.running.inputs import inputs_of
from src.running.prepare import prepare
from src.training import precision
from src.training.device import Device
from src.training.precision import device_for, try_bf16
from tests.tiny_models import of_folder, saved, tiny_model, tiny_tokenizer

FAST = Device("cpu", "a fast one", "bf16", 2.0, "eager")


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which bf16 is fast."""
    monkeypatch.setattr(precision, "find_device", lambda asked: FAST)


def tiny_base(kind: str, architecture: str = "classifier") -> BaseModel:
    return BaseModel(tiny_model(kind, architecture), tiny_tokenizer())


@pytest.mark.parametrize(
    ("kind", "architecture"),
    [("bert", "classifier"), ("deberta-v2", "classifier"), ("modernbert", "classifier"), ("llama", "causal_lm"),
     ("gemma2", "causal_lm"), ("gpt_neox", "causal_lm"), ("t5", "classifier")],
)  # fmt: skip
def test_a_usual_model_can_be_trained_in_bf16(kind: str, architecture: str) -> None:
    model = tiny_model(kind, architecture)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.2)
    trial = try_bf16(BaseModel(model, tiny_tokenizer("$A </s>")), [], FAST)
    assert not trial.reason
    assert trial.difference is not None
    assert 0 < trial.difference < 0.1


def test_deberta_v1_can_t_since_its_masked_scores_overflow() -> None:
    trial = try_bf16(tiny_base("deberta"), [], FAST)
    assert not trial.is_finite
    assert "in bf16 fails" in trial.reason


def test_whatever_a_model_raises_at_the_trial_s_texts_is_its_reason() -> None:
    base = BaseModel(tiny_model("bart", "classifier"), tiny_tokenizer("$A"))  # BART reads a text at its end token
    assert "in bf16 fails: Each example must contain at least one <eos> token" in try_bf16(base, [], FAST).reason


def test_a_model_that_leaves_bf16_s_range_is_told() -> None:
    base = tiny_base("llama", "causal_lm")
    with torch.no_grad():
        for name, parameter in base.module.named_parameters():
            parameter.mul_(1e38 if "q_proj" in name or "down_proj" in name else 1.0)
    assert "isn't finite" in try_bf16(base, [], FAST).reason


def test_a_model_that_is_far_from_float32_is_told_by_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "LARGEST_DIFFERENCE", 1e-6)
    trial = try_bf16(tiny_base("llama", "causal_lm"), [], FAST)
    assert trial.reason == f"its loss or gradient in bf16 is {trial.difference:.0%} off that in fp32"


def test_a_trial_draws_nothing_from_the_global_random_state_and_changes_no_weight() -> None:
    base, state = tiny_base("bert"), torch.random.get_rng_state()
    before = {name: tensor.clone() for name, tensor in base.module.state_dict().items()}
    try_bf16(base, [], FAST)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in base.module.state_dict().items())
    assert all(parameter.requires_grad for parameter in base.module.parameters())


@pytest.mark.usefixtures("fast")
def test_auto_is_resolved_by_the_model_and_that_is_in_identity_and_record(
    tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny("trainer.precision=auto")
    assert device_for(config).precision == inputs_of(config).precision == "bf16"
    failed = precision.Bf16Trial(None, "a step in bf16 fails")
    monkeypatch.setattr(precision, "bf16_trial", lambda config, device: failed)
    device = prepare(tiny("trainer.precision=auto", "forgetting=none"), Path()).device
    assert device.precision == inputs_of(config).precision == "fp32"
    assert device.precision_reason == "a step in bf16 fails"


@pytest.mark.usefixtures("fast")
def test_a_bf16_that_was_asked_for_is_refused_where_the_model_isn_t_finite_in_it(
    tmp_path: Path, tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny("trainer.precision=bf16")
    config.model = of_folder(saved(tmp_path / "deberta", tiny_model("deberta", "classifier")))
    two_labels = SimpleNamespace(data=SimpleNamespace(label_names=["a", "b"]))
    monkeypatch.setattr(precision, "load_task", lambda config: two_labels)
    with pytest.raises(UserError, match=r"can't be trained in it: a step in bf16 fails(.|\n)*precision=fp32"):
        device_for(config)


@pytest.mark.usefixtures("fast")
def test_a_model_is_tried_once_and_what_came_out_is_kept_on_disk(
    tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, tried = tiny("trainer.precision=auto", "model.init_seed=7"), list[Any]()
    real = precision.try_bf16

    def counted(*args: Any, **kwargs: Any) -> precision.Bf16Trial:
        tried.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(precision, "try_bf16", counted)
    fresh: Any = precision.bf16_trial
    results = [device_for(config).precision, fresh.__wrapped__(config, FAST).reason, device_for(config).precision]
    assert results == ["bf16", "", "bf16"]
    assert len(tried) == 1
    (file,) = (Path(config.cache_dir) / "precision").iterdir()
    file.write_text("{damaged")
    assert not fresh.__wrapped__(config, FAST).reason
    assert len(tried) == 2


def test_fp32_is_never_tried(tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "try_bf16", lambda *args, **kwargs: pytest.fail("tried"))
    assert device_for(tiny("trainer.precision=fp32")).precision == "fp32"


def test_a_head_of_one_number_is_tried_as_well() -> None:
    model = tiny_model("bert", "classifier", num_labels=1)
    nn.init.normal_(model.classifier.weight)
    assert try_bf16(BaseModel(model, tiny_tokenizer()), [], FAST).is_finite


@pytest.mark.usefixtures("fast")
def test_a_cache_that_can_not_be_written_is_done_without(tiny: Callable[..., Config], tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("")
    config = tiny("trainer.precision=auto", "model.init_seed=8", f"cache_dir='{tmp_path}/a file'")
    assert precision.bf16_trial(config, FAST).reason == ""
