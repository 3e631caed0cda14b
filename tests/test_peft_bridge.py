"""Methods of PEFT through the bridge: trained, counted, saved and seeded as this project's own, and errors in words."""

import copy
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import peft
import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from src.adapters.base import Setup
from src.adapters.inject import InjectedModel, adapters, inject
from src.adapters.ledger import count
from src.adapters.lora import LoRA
from src.adapters.peft_bridge import PeftBridge, peft_config
from src.config.schema import Config
from src.errors import UserError
from src.models.base_model import load_base
from src.results.store import ADAPTER
from src.running.assemble import empty_setup, inject_empty, method_of
from src.running.execute import execute
from src.running.sweep import Plan
from src.streams import stream_generator
from tests.conftest import ROOT, TINY, composed, run_program

YAMLS = {path.stem for path in (ROOT / "conf/adapter/peft").glob("*.yaml")}
RANK = 4
HEAD = 384 * 10 + 10


class Row(NamedTuple):
    """A method, and what it trains of the tiny Llama at rank 4 beside the head.

    A layer of it has 64 x 64 (q, o), 32 x 64 (k, v), 128 x 64 (gate, up) and 64 x 128 (down), out x in.
    """

    adapter: str
    trained: int
    seeded: bool = True  # the seed changes the initial weights

    @property
    def overrides(self) -> list[str]:
        name, *config = self.adapter.split()
        return [f"adapter=peft/{name}", f"rank={RANK}", *config]


METHODS = [
    Row("vera", 2 * (7 * 4 + 64 + 32 + 32 + 64 + 128 + 128 + 64)),  # rank and out of each matrix
    Row("ia3", 2 * (32 + 32 + 128), seeded=False),  # keys, values and the input of down
    Row("oft", 2 * (6 * 64 + 128) // 4 * (4 * 3 // 2), seeded=False),  # a skew-symmetric block for each 4 inputs
    Row("prefix_tuning", 4 * 2 * 2 * 32),  # 4 keys and values of 2 heads x 16 in 2 layers
    Row("prompt_tuning", 4 * 64),
    Row("custom adapter.config._target_=peft.LoHaConfig", 2 * 2 * 4 * (128 + 96 + 96 + 128 + 192 + 192 + 192)),
    # Kronecker factors of 64 = 8 x 8, 32 = 4 x 8, 128 = 8 x 16; the larger factor in two parts where that is smaller
    Row("custom adapter.config._target_=peft.LoKrConfig", 2 * (128 + 96 + 96 + 128 + 3 * (64 + 4 * (8 + 16)))),
]
each_method = pytest.mark.parametrize("row", METHODS, ids=lambda row: row.adapter.split("peft.")[-1])
each_model = pytest.mark.parametrize("model", ["tiny_llama", "minilm"])


def config_of(overrides: list[str], model: str = "tiny_llama") -> Config:
    return composed(*(TINY if model == "tiny_llama" else ["trainer=smoke", "tracking=none"]), *overrides)


def base_model(config: Config) -> Any:
    base = load_base(config.model, num_labels=10, attention="eager")
    return base.fresh_copy(config.model.head, stream_generator(0, "head_init"))


def injected_into(model: Any, config: Config, seed: int = 0) -> InjectedModel:
    setup = empty_setup(config, model)
    setup.generator = torch.Generator().manual_seed(seed)
    return inject(model, method_of(config), setup, config.model.head)


def inputs_of(config: Config) -> dict[str, Tensor]:
    ids = torch.randint(5, 90, (3, 11), generator=torch.Generator().manual_seed(1))
    labels = ids if config.model.architecture == "causal_lm" else torch.tensor([1, 5, 9])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def train(injected: InjectedModel, inputs: dict[str, Tensor], steps: int = 3) -> None:
    model: Any = injected.model
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(**inputs).loss.backward()
        optimizer.step()
    model.eval()


def logits(injected: InjectedModel, inputs: dict[str, Tensor]) -> Tensor:
    model: Any = injected.model.eval()
    with torch.no_grad():
        written: Tensor = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    return written


def test_every_yaml_of_the_bridge_has_a_row() -> None:
    assert {row.adapter.split()[0] for row in METHODS} == YAMLS
    assert len(YAMLS) >= 6


@each_method
@each_model
def test_exactly_what_peft_trains_and_the_head_is_trained_and_the_head_is_there_once(row: Row, model: str) -> None:
    config = config_of(row.overrides, model)
    base = base_model(config)
    plain = peft.get_peft_model(copy.deepcopy(base), peft_config(empty_setup(config, base), _task(config)))
    theirs = {name for name, p in plain.named_parameters() if p.requires_grad and ".modules_to_save." not in name}
    head = {id(p) for name in config.model.head for p in base.get_submodule(name).parameters()}
    injected = injected_into(base, config)
    trained = {name for name, p in injected.model.named_parameters() if p.requires_grad}
    assert trained - injected.head == theirs
    assert {id(p) for name, p in injected.model.named_parameters() if name in injected.head} == head
    assert count(injected).head_trained == (HEAD if model == "minilm" else 0)
    assert not any("modules_to_save" in name for name, _ in injected.model.named_modules())


def _task(config: Config) -> str:
    return {"classifier": "SEQ_CLS", "causal_lm": "CAUSAL_LM"}[config.model.architecture]


@each_method
@each_model
def test_all_that_is_trained_moves_and_the_base_model_does_not(row: Row, model: str) -> None:
    config = config_of(row.overrides, model)
    base = base_model(config)
    head = {id(p) for name in config.model.head for p in base.get_submodule(name).parameters()}
    before = {tensor: tensor.clone() for tensor in [*base.parameters(), *base.buffers()] if id(tensor) not in head}
    injected = injected_into(base, config)
    assert all(torch.equal(tensor, old) for tensor, old in before.items())
    initial = injected.state()
    initial = {name: tensor.clone() for name, tensor in initial.items()}
    train(injected, inputs_of(config))
    assert all(torch.equal(tensor, old) for tensor, old in before.items())
    moved = {name for name, tensor in injected.state().items() if not torch.equal(tensor, initial[name])}
    assert moved == {name for name, p in injected.model.named_parameters() if p.requires_grad}


@each_method
def test_the_count_is_the_closed_form_and_the_same_without_weights(row: Row) -> None:
    config = config_of(row.overrides)
    ledger = count(injected_into(base_model(config), config))
    assert ledger.adapter_trained == ledger.trained == row.trained
    assert ledger.total == ledger.base_frozen == sum(p.numel() for p in base_model(config).parameters())
    empty = inject_empty(config, base_model(config).to("meta"))
    assert count(empty) == ledger
    assert {tensor.device.type for tensor in empty.saved_tensors().values()} == {"meta"}


@each_method
@each_model
def test_a_saved_state_gives_the_same_outputs_on_a_fresh_model(row: Row, model: str, tmp_path: Path) -> None:
    config = config_of(row.overrides, model)
    inputs, injected = inputs_of(config), injected_into(base_model(config), config, seed=3)
    train(injected, inputs)
    save_file(injected.state(), tmp_path / ADAPTER)
    loaded = inject_empty(config, base_model(config))
    assert not torch.equal(logits(loaded, inputs), logits(injected, inputs))
    loaded.load(load_file(tmp_path / ADAPTER))
    assert torch.equal(logits(loaded, inputs), logits(injected, inputs))


def numpy_words() -> list[int]:
    """The state of numpy's global generator."""
    state: Any = np.random.get_state(legacy=False)
    return [int(word) for word in state["state"]["key"]]


@each_method
def test_the_seed_decides_and_the_global_random_states_are_left_alone(row: Row) -> None:
    config = config_of(row.overrides)
    python_state, numpy_state = random.getstate(), numpy_words()
    states = []
    for seed in (1, 1, 2):
        torch.rand(seed)  # wherever the global state stands
        torch_state = torch.get_rng_state()
        states.append(injected_into(base_model(config), config, seed).state())
        assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == python_state
    assert numpy_words() == numpy_state
    equal = [all(torch.equal(tensor, other[name]) for name, tensor in states[0].items()) for other in states[1:]]
    assert equal == [True, not row.seeded]


@pytest.mark.parametrize(
    ("adapter", "target"),
    [
        ("vera", ["target=qv"]),
        ("oft", ["target=ffn"]),
        ("custom", ["target=attention", "adapter.config._target_=peft.LoHaConfig"]),
        ("custom", ["target.roles=[ffn_down]", "adapter.config._target_=peft.LoraConfig"]),
        ("custom", ["target=all_linear", "adapter.config._target_=peft.LoraConfig"]),
        ("ia3", []),
    ],
)
@each_model
def test_the_targets_are_wrapped_and_nothing_else(model: str, adapter: str, target: list[str]) -> None:
    config = config_of([f"adapter=peft/{adapter}", f"rank={RANK}", *target], model)
    base = base_model(config)
    asked = empty_setup(config, base).target_modules
    injected = injected_into(base, config).model
    wrapped = [name for name, module in injected.named_modules() if isinstance(module, BaseTunerLayer)]
    assert sorted(wrapped) == sorted(f"base_model.model.{name}" for name in asked)
    assert len(wrapped) == config.model.layers * len(config.target_roles())


def test_ia3_scales_the_input_of_the_feed_forward_and_the_output_of_keys_and_values() -> None:
    config = config_of(["adapter=peft/ia3"], "minilm")
    injected = injected_into(base_model(config), config)
    shapes = {name.split(".ia3_l")[0]: tuple(p.shape) for name, p in injected.state().items() if "ia3_l" in name}
    layer = "base_model.model.bert.encoder.layer.0."
    assert shapes[layer + "output.dense"] == (1, 1536)
    assert shapes[layer + "attention.self.key"] == shapes[layer + "attention.self.value"] == (384, 1)


def test_lora_through_the_bridge_has_the_outputs_and_gradients_of_this_project_s_own() -> None:
    config = config_of(["adapter=peft/custom", "adapter.config._target_=peft.LoraConfig", "rank=3", "alpha=5"])
    base, inputs = base_model(config), inputs_of(config)
    theirs = injected_into(base, config)
    setup = Setup(empty_setup(config, base_model(config)).target_modules, rank=3, alpha=5.0)
    ours = inject(base_model(config), LoRA, setup, [])
    parts = dict(theirs.model.named_parameters())
    with torch.no_grad():
        for index, (name, tensor) in enumerate(ours.saved_tensors().items()):
            nn.init.normal_(tensor, std=0.3, generator=torch.Generator().manual_seed(index))
            parts[f"base_model.model.{name}.default.weight"].copy_(tensor)
    for injected in (ours, theirs):
        injected.model(**inputs).loss.backward()
    assert torch.allclose(logits(theirs, inputs), logits(ours, inputs), atol=1e-5)
    assert not torch.allclose(
        logits(ours, inputs), logits(injected_into(base_model(config), config), inputs), atol=1e-2
    )
    assert len(ours.saved_tensors()) == 2 * len(adapters(ours.model)) == 28
    for name, tensor in ours.saved_tensors().items():
        torch.testing.assert_close(parts[f"base_model.model.{name}.default.weight"].grad, tensor.grad)


@pytest.mark.parametrize("adapter", ["prompt_tuning", "prefix_tuning"])
def test_an_answer_after_virtual_tokens_does_not_depend_on_the_other_prompts_of_its_batch(adapter: str) -> None:
    config = config_of([f"adapter=peft/{adapter}", "rank=5"])
    model: Any = sharp(injected_into(base_model(config), config).model)
    generate = {"max_new_tokens": 6, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    ids = torch.tensor([[0, 0, 0, 50, 60, 70], [71, 81, 51, 61, 41, 31]])
    beside = model.generate(input_ids=ids, attention_mask=(ids > 0).long(), eos_token_id=None, **generate)
    alone = model.generate(input_ids=ids[:1, 3:], attention_mask=torch.ones(1, 3).long(), eos_token_id=None, **generate)
    assert alone.sequences[0, 3:].tolist() == beside.sequences[0, 6:].tolist()
    assert len(alone.logits) == 6
    for one, two in zip(alone.logits, beside.logits, strict=True):
        torch.testing.assert_close(one[0], two[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("adapter", ["prompt_tuning", "prefix_tuning"])
def test_a_model_that_would_ignore_virtual_tokens_is_refused(adapter: str) -> None:
    config = config_of([f"adapter=peft/{adapter}", "rank=5"])
    model = base_model(config)
    model.forward = lambda input_ids=None, cache=None, **more: (
        None
    )  # as of transformers 5.24: another name for the cache
    with pytest.raises(
        UserError, match=r"past_key_values, which LlamaForCausalLM of .* doesn't take.\nRun: pip install"
    ):
        injected_into(model, config)


@pytest.mark.parametrize("adapter", ["prompt_tuning", "prefix_tuning"])
def test_generation_computes_what_training_does(adapter: str) -> None:
    config = config_of([f"adapter=peft/{adapter}", "rank=5"])
    model: Any = sharp(injected_into(base_model(config), config).model)
    ids = torch.tensor([[50, 60, 70]])
    generate = {"max_new_tokens": 6, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    written = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), eos_token_id=None, **generate)
    at_once = model(input_ids=written.sequences, attention_mask=torch.ones_like(written.sequences)).logits
    torch.testing.assert_close(torch.stack(written.logits, 1), at_once[:, -7:-1], atol=1e-4, rtol=1e-4)


def sharp(model: nn.Module) -> nn.Module:
    """The model with weights so large that positions matter; a new model's attention is all but uniform."""
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(index))
    return model.eval()


@pytest.mark.parametrize("adapter", ["prompt_tuning", "prefix_tuning"])
@each_model
def test_padding_changes_no_output_after_virtual_tokens(model: str, adapter: str) -> None:
    config = config_of([f"adapter=peft/{adapter}", f"rank={RANK}"], model)
    injected, inputs = injected_into(base_model(config), config), inputs_of(config)
    short = {name: inputs[name][:, :6] for name in ("input_ids", "attention_mask")}
    padded = {"input_ids": inputs["input_ids"], "attention_mask": torch.zeros_like(inputs["attention_mask"])}
    padded["attention_mask"][:, :6] = 1
    first = RANK * (adapter == "prompt_tuning" and model == "tiny_llama")  # the virtual tokens' own outputs
    alone, beside = (logits(injected, batch)[:, first : first + 6] for batch in (short, padded))
    torch.testing.assert_close(alone, beside, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("overrides", "trained"),
    [
        (["custom", "adapter.config._target_=peft.LoraConfig", "target=qv"], 2 * 4 * (64 + 64 + 64 + 32)),
        (["custom", "adapter.config._target_=peft.LoHaConfig", "target=qv"], 2 * 2 * 4 * (64 + 64 + 64 + 32)),
        (["ia3"], 2 * (32 + 32 + 128)),
        (["prompt_tuning"], 4 * 64),
        (["prefix_tuning"], 4 * 2 * 2 * 32),
    ],
    ids=["lora", "loha", "ia3", "prompt_tuning", "prefix_tuning"],
)
def test_a_whole_run_trains_saves_and_counts(
    tiny: Callable[..., Config], tmp_path: Path, overrides: list[str], trained: int
) -> None:
    config = tiny(f"adapter=peft/{overrides[0]}", *overrides[1:], "rank=4", "trainer.max_steps=20", "lr=0.03")
    record = execute(config, tmp_path, report=lambda step, metrics: None)
    losses = [point["loss"] for point in record["history"] if "loss" in point]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert record["parameters"]["adapter_trained"] == record["parameters"]["trained"] == trained
    assert record["parameters"]["total"] == 86592
    assert record["parameters"]["optimizer_bytes"] == 8 * trained
    assert sum(tensor.numel() for tensor in load_file(tmp_path / ADAPTER).values()) == trained
    assert record["metrics"]["test"]["n"] == 64
    assert record["provenance"]["packages"]["peft"] == peft.__version__


LORA, LOHA = "adapter.config._target_=peft.LoraConfig", "adapter.config._target_=peft.LoHaConfig"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["custom"], r"_target_= names no method.\nAllowed: peft\.\w+Config, .*\nSet it to one of PEFT's"),
        (["custom", "adapter.config._target_=peft.LoraConfg"], r"LoraConfg is not known.\nAllowed: peft.LoraConfig, "),
        (["custom", "adapter.config._target_=peff.LoraConfig"], r"is not known.\nAllowed: peft.LoraConfig, "),
        (["custom", "adapter.config._target_=LoHaConfig"], r"is not known.\nAllowed: peft.LoHaConfig, "),
        (["custom", "adapter.config._target_=torch.nn.Linear"], "torch.nn.Linear is no config class of PEFT"),
        (["custom", "adapter.config._target_=peft.PeftConfig"], "peft.PeftConfig is no config class of PEFT"),
        (
            ["custom", LOHA, "+adapter.config.rank_dropot=0.1"],
            r"rank_dropot is no argument of peft.LoHaConfig.\n.*rank_d",
        ),
        (["custom", LORA, "+adapter.config.modules_to_save=[lm_head]"], r"Name modules .* in model.head=\[...\]"),
        (["custom", "adapter.config._target_=peft.IA3Config"], r"takes target of .*\nSet adapter.axes=\[target,lr\]"),
        (
            ["vera", "+adapter.config.r=3"],
            r"takes target of .*axes=\[rank,target,lr\] says.*\nSet adapter.axes=\[target",
        ),
        (["prompt_tuning", "adapter.axes=[lr]"], r"takes rank of .*\nSet adapter.axes=\[rank,lr\]"),
        (["ia3", "adapter.config.feedforward_modules=role:ffn_dwon"], r"role:ffn_dwon.*\nAllowed: role:ffn_down, "),
        (["oft", "adapter.config.oft_block_size=run:rnk"], r"run:rnk, which .*\nAllowed: run:rank, "),
        (["oft", "adapter.config.r=2"], "peft.OFTConfig can't be made: You can only specify either"),
    ],
)
def test_a_config_that_cannot_be_is_refused_before_a_model_is_loaded(overrides: list[str], message: str) -> None:
    config = config_of([f"adapter=peft/{overrides[0]}", *overrides[1:]])
    with pytest.raises(UserError, match=message):
        Plan.of([config])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["oft", "rank=7"], r"rank=7 doesn't fit peft.OFTConfig .* PEFT would take \[8\]"),
        (["custom", LORA, "+adapter.config.init_lora_weights=pissa"], "changes weights of the base model"),
        (
            ["custom", LORA, "+adapter.config.target_modules=[norm]"],
            "this model: Target module LlamaRMSNorm",
        ),
        (["custom", LORA, "+adapter.config.target_modules=[nowhere]"], "nowhere.* not found in the base model"),
        (["custom", "adapter.config._target_=peft.PolyConfig"], "peft.PolyConfig doesn't run on this model: task_ids"),
        (
            ["custom", "adapter.config._target_=peft.AdaLoraConfig", "+adapter.config.total_step=9"],
            "peft.AdaLoraConfig has its parameters allotted anew between steps",
        ),
    ],
)
def test_what_does_not_fit_the_model_is_refused_before_it_is_trained(overrides: list[str], message: str) -> None:
    config = config_of([f"adapter=peft/{overrides[0]}", *overrides[1:]])
    with pytest.raises(UserError, match=message):
        injected_into(base_model(config), config)


def test_a_method_that_needs_the_weights_is_not_counted_without_them() -> None:
    config = config_of(["adapter=peft/custom", "adapter.config._target_=peft.ShiraConfig", f"rank={RANK}"])
    assert count(injected_into(base_model(config), config)).adapter_trained > 0
    with pytest.raises(UserError, match=r"peft\.ShiraConfig can't be put on this model without its weights: "):
        inject_empty(config, base_model(config).to("meta"))


def test_prefix_tuning_is_refused_on_a_model_without_past_keys_and_prompt_tuning_is_not() -> None:
    def injected(kind: str) -> InjectedModel:
        sizes = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2, "vocab_size": 50}
        setup = Setup(rank=3, config={"_target_": f"peft.{kind}Config"}, generator=torch.Generator())
        model = DistilBertForSequenceClassification(DistilBertConfig.from_dict(sizes))
        return inject(model, PeftBridge, setup, ["classifier"])

    assert count(injected("PromptTuning")).adapter_trained == 3 * 32
    with pytest.raises(
        UserError, match="PrefixTuningConfig doesn't run on this model: Model does not support past key"
    ):
        injected("PrefixTuning")


def test_a_config_for_a_method_that_has_none_is_refused() -> None:
    with pytest.raises(UserError, match=r"adapter=lora takes no adapter.config.\nAllowed: "):
        Plan.of([config_of(["adapter=lora", "+adapter.config.r=3"])])


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["adapter.config._target_=peft.LoraConfg"], []])
def test_the_command_line_answers_with_three_lines_and_status_2(arguments: list[str], tmp_path: Path) -> None:
    done = run_program("src.run", *TINY, "adapter=peft/custom", f"results_dir={tmp_path}/r", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: adapter.config._target_=")
    assert len(done.stderr.strip().splitlines()) == 3
    assert not (tmp_path / "r").exists()


def test_checking_a_run_without_the_bridge_does_not_import_peft() -> None:
    code = (
        "import sys; from src.running.sweep import Plan; from tests.conftest import TINY, composed;"
        "Plan.of([composed(*TINY, 'adapter=lora', 'trainer.precision=fp32')]);"
        "assert 'peft' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
