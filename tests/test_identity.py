"""Two commands are the same run exactly when nothing that can change the result differs."""

import re

import pytest

from src.config import Config
from src.identity import identity, run_folder
from tests.conftest import composed


def folder(*overrides: str, fingerprint: str = "abc") -> str:
    return str(run_folder(composed(*overrides), fingerprint))


@pytest.mark.parametrize(
    "override",
    ["rank=9", "alpha=3", "lr=0.5", "target=qv", "seed=1", "trainer.max_steps=7", "adapter.options.init=kaiming",
     "task.max_length=9", "trainer.head_lr=0.7", "trainer.precision=fp32"],
)  # fmt: skip
def test_whatever_changes_the_result_changes_the_identity(override: str) -> None:
    assert folder() != folder(override)


@pytest.mark.parametrize("override", ["results_dir=elsewhere", "cache_dir=x", "tracking=none", "tracking.project=p"])
def test_paths_and_tracking_do_not_change_the_identity(override: str) -> None:
    assert folder().split("runs/")[1] == folder(override).split("runs/")[1]


def test_other_data_is_another_run() -> None:
    assert folder(fingerprint="abc") != folder(fingerprint="abd")


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


def test_the_folder_names_the_run() -> None:
    name = folder("adapter=lora_fa", "rank=5", "target=ffn", "seed=3")
    assert re.fullmatch(r"results/runs/docstrings/minilm/lora_fa-r5-ffn-s3-[0-9a-f]{8}", name)


def test_the_order_of_roles_does_not_matter() -> None:
    first, second = composed("target.roles=[query,value]"), composed("target.roles=[value,query]")
    assert identity(first, "x")["target"] == identity(second, "x")["target"]


def test_the_identity_holds_no_path_of_this_machine() -> None:
    config: Config = composed("results_dir=/some/where", "cache_dir=/else/where")
    assert "where" not in str(identity(config, "x"))
