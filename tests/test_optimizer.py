"""What the optimizer is told: rates, decay and epsilon by parameter, against transformers' Trainer and plain AdamW."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from src.adapters.inject import InjectedModel, inject
from src.errors import UserError
from src.models.base_model import load_base
from src.results.identity import decisive
from src.running.assemble import empty_setup, method_of
from src.streams import stream_generator
from src.training.device import find_device
from src.training.trainer import Recipe, Training, _AdapterTrainer, warmup_steps
from tests.conftest import TINY, composed

ENCODER = ["trainer=smoke", "tracking=none"]  # has biases and layer norms
ADAPTERS = ["full", "last_k", "bitfit", "lora", "dora", "vera", "houlsby", "peft/ia3", "peft/prefix_tuning"]


def trainer_of(injected: InjectedModel, folder: Path, *overrides: str) -> _AdapterTrainer:
    config = composed(*overrides)
    recipe = Recipe(config.trainer, config.lr, pad_token_id=0, seed=0, device=find_device("fp32"))
    return _AdapterTrainer(injected, [], recipe, Training(), str(folder))


def optimizer_of(injected: InjectedModel, folder: Path, *overrides: str) -> Any:
    return trainer_of(injected, folder, *overrides).create_optimizer()


def injected_of(*overrides: str) -> InjectedModel:
    config = composed(*overrides)
    base = load_base(config.model, num_labels=10, attention="eager")
    model = base.fresh_copy(config.model.head, stream_generator(0, "head_init"))
    setup = empty_setup(config, model)
    setup.generator = torch.Generator().manual_seed(0)
    return inject(model, method_of(config), setup, config.model.head)


def groups_of(injected: InjectedModel, optimizer: Any, key: str) -> dict[str, Any]:
    names = {id(parameter): name for name, parameter in injected.model.named_parameters()}
    return {names[id(p)]: group[key] for group in optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_decay_acts_on_what_transformers_own_trainer_lets_it_act_on(adapter: str, tmp_path: Path) -> None:
    overrides = [*ENCODER, f"adapter={adapter}", "rank=2", "trainer.weight_decay=0.125"]
    injected = injected_of(*overrides)
    arguments = TrainingArguments(str(tmp_path), weight_decay=0.125, use_cpu=True, report_to="none")
    theirs = Trainer(injected.model, arguments).create_optimizer()
    ours = optimizer_of(injected, tmp_path, *overrides)
    decays = groups_of(injected, ours, "weight_decay")
    assert decays == groups_of(injected, theirs, "weight_decay")
    assert set(decays.values()) <= {0.125, 0.0}


def test_a_bias_and_a_norm_of_each_architecture_s_naming_are_left_alone(tmp_path: Path) -> None:
    injected = injected_of(*ENCODER, "adapter=full")
    decays = groups_of(injected, optimizer_of(injected, tmp_path, *ENCODER, "trainer.weight_decay=0.5"), "weight_decay")
    assert decays["bert.encoder.layer.0.attention.output.LayerNorm.weight"] == 0
    assert decays["bert.encoder.layer.0.attention.self.query.bias"] == decays["classifier.bias"] == 0
    assert decays["bert.encoder.layer.0.attention.self.query.weight"] == decays["classifier.weight"] == 0.5
    llama: nn.Module = LlamaForCausalLM(
        LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)
    )
    whole = InjectedModel(llama, frozenset(), frozenset())
    decays = groups_of(whole, optimizer_of(whole, tmp_path, *TINY, "trainer.weight_decay=0.5"), "weight_decay")
    assert {name for name, decay in decays.items() if decay == 0} == {
        "model.norm.weight", "model.layers.0.input_layernorm.weight", "model.layers.0.post_attention_layernorm.weight",
    }  # fmt: skip


def test_all_decay_where_it_is_asked_for(tmp_path: Path) -> None:
    overrides = [*ENCODER, "adapter=full", "trainer.weight_decay=0.5", "trainer.decay_all=true"]
    injected = injected_of(*overrides)
    optimizer = optimizer_of(injected, tmp_path, *overrides)
    assert set(groups_of(injected, optimizer, "weight_decay").values()) == {0.5}


def test_without_decay_there_is_a_group_a_rate(tmp_path: Path) -> None:
    overrides = [*ENCODER, "adapter=lora", "rank=2", "lr=0.01", "trainer.head_lr=0.25"]
    injected = injected_of(*overrides)
    optimizer = optimizer_of(injected, tmp_path, *overrides)
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.01, 0), (0.25, 0)]


@pytest.mark.parametrize("eps", [1e-8, 1e-3])
def test_epsilon_is_adam_s(eps: float, tmp_path: Path) -> None:
    injected = injected_of(*ENCODER, "adapter=head_only")
    optimizer = optimizer_of(injected, tmp_path, *ENCODER, "adapter=head_only", f"trainer.adam_eps={eps}",
                             "trainer.head_lr=0.5")  # fmt: skip
    weight = injected.model.get_submodule("classifier").weight
    assert isinstance(weight, Tensor)
    before, gradient = weight.detach().clone(), torch.full_like(weight, 2e-3)
    weight.grad = gradient
    optimizer.step()
    # The first step of Adam (Kingma and Ba 2014, Algorithm 1): both means are corrected to the gradient itself.
    torch.testing.assert_close(before - weight.detach(), 0.5 * gradient / (gradient + eps))


@pytest.mark.parametrize("value", ["0", "-1e-8", "nan"])
def test_an_epsilon_that_divides_by_zero_is_refused(value: str) -> None:
    with pytest.raises(UserError, match=r"trainer\.adam_eps="):
        composed(*TINY, f"trainer.adam_eps={value}")


@pytest.mark.parametrize(("ratio", "steps", "expected"), [(0, 1, 0), (0, 200, 0), (0.06, 4, 1), (0.06, 200, 12),
                                                          (0.001, 200, 1), (1, 7, 7)])  # fmt: skip
def test_warm_up_is_none_or_at_least_a_step(ratio: float, steps: int, expected: int) -> None:
    trainer = composed(*TINY, f"trainer.warmup_ratio={ratio}", f"trainer.max_steps={steps}").trainer
    assert warmup_steps(trainer) == expected


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize(("ratio", "moves"), [(0, True), (0.5, False)])
def test_without_warm_up_a_single_step_trains(schedule: str, ratio: float, moves: bool, tmp_path: Path) -> None:
    overrides = [*TINY, "adapter=full", f"trainer.schedule={schedule}", f"trainer.warmup_ratio={ratio}",
                 "trainer.max_steps=1", "lr=0.25"]  # fmt: skip
    trainer = trainer_of(injected_of(*overrides), tmp_path, *overrides)
    optimizer = trainer.create_optimizer()
    trainer.create_scheduler(1)
    assert optimizer.param_groups[0]["lr"] == (0.25 if moves else 0.0)


def test_a_new_setting_is_part_of_the_identity_where_it_changes_a_run() -> None:
    plain = decisive(composed(*TINY))["trainer"]
    assert not {"decay_all", "adam_eps", "checkpoint", "warmup"} & plain.keys()
    assert decisive(composed(*TINY, "trainer.decay_all=true"))["trainer"] == plain  # nothing decays
    more = {"adam_eps=1e-6": "adam_eps", "weight_decay=0.1": "decay_all", "warmup_ratio=0": "warmup"}
    for override, key in more.items():
        assert decisive(composed(*TINY, f"trainer.{override}"))["trainer"].keys() - plain.keys() == {key}
    decaying = [decisive(composed(*TINY, "trainer.weight_decay=0.1", f"trainer.decay_all={which}"))["trainer"]
                for which in ("true", "false")]  # fmt: skip
    assert decaying[0] != decaying[1]
