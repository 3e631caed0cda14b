"""Two commands are the same run exactly when nothing that can change the result differs."""

import re
from typing import Any

import pytest

from src.config.schema import Config
from src.config.steps import resolved_steps
from src.results.identity import decisive, identity, run_folder
from tests.conftest import composed, some_inputs


def folder(*overrides: str, **inputs: Any) -> str:
    return str(run_folder(composed(*overrides), some_inputs(**inputs)))


@pytest.mark.parametrize(
    "override",
    ["rank=9", "alpha=3", "lr=0.5", "target=qv", "seed=1", "trainer.max_steps=7", "adapter.options.init=kaiming",
     "task.max_length=9", "trainer.head_lr=0.7", "quantization=nf4", "adapter.options.lr_ratio=4",
     "adapter.version=2", "task.version=2", "adapter.method=src.adapters.dora.DoRA"],
)  # fmt: skip
def test_whatever_changes_the_result_changes_the_identity(override: str) -> None:
    assert folder() != folder(override)


@pytest.mark.parametrize("override", ["results_dir=elsewhere", "cache_dir=x", "tracking=none", "tracking.project=p"])
def test_paths_and_tracking_do_not_change_the_identity(override: str) -> None:
    assert folder().split("runs/")[1] == folder(override).split("runs/")[1]


@pytest.mark.parametrize(
    "inputs",
    [{"data": "other"}, {"precision": "bf16"}, {"model_files": {"tokenizer": "1"}}, {"model_files": {"config": "1"}},
     *({"code": {**some_inputs().code, part: "1" * 16}} for part in some_inputs().code)],
)  # fmt: skip
def test_other_data_tokenizer_precision_or_code_is_another_run(inputs: dict[str, Any]) -> None:
    assert folder() != folder(**inputs)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_precision_that_auto_stands_for_is_the_same_spelled_out(precision: str) -> None:
    named = folder(f"trainer.precision={precision}", precision=precision)
    assert named == folder("trainer.precision=auto", precision=precision)


@pytest.mark.parametrize(
    ("key", "moved"),
    [("adapter.method", "src.adapters.moved.LoRA"), ("task.loader", "src.tasks.moved.load")],
)
def test_a_file_that_moves_leaves_its_runs_the_same(key: str, moved: str) -> None:
    assert folder() == folder(f"{key}={moved}")


@pytest.mark.parametrize("adapter", ["full", "head_only"])
def test_a_method_without_a_rank_is_one_run_in_a_rank_and_target_sweep(adapter: str) -> None:
    runs = {
        folder(f"adapter={adapter}", f"rank={rank}", f"target={target}") for rank in (4, 8) for target in ("qv", "ffn")
    }
    assert len(runs) == 1


def test_the_head_alone_is_one_run_in_a_learning_rate_sweep() -> None:
    assert folder("adapter=head_only", "lr=0.1") == folder("adapter=head_only", "lr=0.2")


def test_a_default_spelled_out_is_the_same_run() -> None:
    assert folder("rank=8") == folder("rank=8", "alpha=16", "lr=" + str(composed().lr))


def test_an_option_that_is_off_is_no_part_of_the_identity() -> None:
    assert composed().adapter.options["lr_ratio"] is None
    assert "lr_ratio" not in decisive(composed())["adapter"]["options"]


def test_the_arguments_of_a_bridged_method_are_part_of_the_identity() -> None:
    runs = {folder("adapter=peft/ia3"), folder("adapter=peft/ia3", "+adapter.config.init_ia3_weights=false")}
    assert len(runs) == 2


def test_a_method_with_its_own_roles_is_one_run_in_a_target_sweep() -> None:
    assert folder("adapter=houlsby", "target=qv") == folder("adapter=houlsby", "target=ffn")
    assert folder("adapter=houlsby") != folder("adapter=houlsby", "adapter.roles=[output]")


def test_the_folder_of_a_run_on_a_quantized_base_says_so() -> None:
    assert "/lora-r8-qv-nf4-s0-" in folder("target=qv", "quantization=nf4")


def test_the_folder_names_the_run() -> None:
    name = folder("adapter=lora_fa", "rank=5", "target=ffn", "seed=3")
    assert re.fullmatch(r"results/runs/docstrings/minilm/lora_fa-r5-ffn-s3-[0-9a-f]{8}", name)


def test_the_order_of_roles_does_not_matter() -> None:
    first, second = composed("target.roles=[query,value]"), composed("target.roles=[value,query]")
    assert decisive(first)["target"] == decisive(second)["target"]


def test_the_identity_holds_no_path_of_this_machine() -> None:
    config: Config = composed("results_dir=/some/where", "cache_dir=/else/where")
    assert "where" not in str(identity(config, some_inputs()))


def test_epochs_are_the_same_run_as_the_steps_that_they_come_to() -> None:
    in_epochs = resolved_steps(composed("trainer.epochs=2.5", "trainer.max_steps=null"), 1000)
    assert in_epochs.trainer.max_steps == 80  # 2.5 passes of 32 batches of 32
    assert decisive(in_epochs) == decisive(composed("trainer.max_steps=80"))


def test_a_run_in_epochs_has_no_identity_before_its_data_is_known() -> None:
    with pytest.raises(ValueError, match=r"trainer.epochs=3.0 has no steps before"):
        decisive(composed("trainer.epochs=3", "trainer.max_steps=null"))
