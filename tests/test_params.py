"""The parameter ledger without weights: counts that were published, and the command that prints them."""

import csv
import json
from io import StringIO
from typing import Any

import pytest
import torch

from src.adapters.ledger import Ledger
from src.models.base_model import empty_model
from src.studies.counting import count_configs, layer_sum, ledger_of
from tests.conftest import run_here

BOTH_HEADS = "model=distilbert"
ONE_HEAD = "model.head=[classifier]"


def ledger(*overrides: str) -> Ledger:
    (config,) = count_configs(list(overrides))
    return ledger_of(config)


@pytest.mark.parametrize(
    ("overrides", "trained"),
    [
        (["adapter=head_only", ONE_HEAD], 1_538),
        (["adapter=lora", "rank=4", "target=qv"], 665_858),
        (["adapter=lora", "rank=8", "target=qv"], 739_586),
        (["adapter=lora", "rank=16", "target=qv"], 887_042),
        (["adapter=lora", "rank=8", "target=attention"], 887_042),
        (["adapter=lora", "rank=8", "target=all_linear"], 1_255_682),
        (["adapter=full"], 66_955_010),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_the_seven_rows_of_the_distilbert_blog_post_are_exact(overrides: list[str], trained: int) -> None:
    assert ledger("model=distilbert", *overrides).trained == trained


def test_the_blog_post_s_line_in_peft_s_style_is_exact() -> None:
    counts = ledger("model=distilbert", "rank=8", "target=qv")
    line = f"{counts.trained:,} || {counts.peft_total:,} || {counts.trained_percent:.2f}%"
    assert line == "739,586 || 67,694,596 || 1.10%"


def test_peft_itself_counts_as_the_ledger_says_it_does() -> None:
    peft = pytest.importorskip("peft")
    (config,) = count_configs(["model=distilbert", "rank=8", "target=qv"])
    lora = peft.LoraConfig(task_type="SEQ_CLS", r=8, target_modules=["q_lin", "v_lin"])
    with torch.device("meta"):
        model = peft.get_peft_model(empty_model(config.model, num_labels=2), lora)
    assert model.get_nb_trainable_parameters() == (739_586, 67_694_596)


@pytest.mark.parametrize(
    ("method", "kind", "options"),
    [
        ("lora", "LoraConfig", {}),
        ("dora", "LoraConfig", {"use_dora": True}),
        ("pissa", "LoraConfig", {}),  # its start, which needs weights, changes no size
        ("rslora", "LoraConfig", {"use_rslora": True}),
        ("vera", "VeraConfig", {}),
        ("peft/vera", "VeraConfig", {}),
    ],
)
def test_the_total_in_peft_s_style_is_what_peft_counts_for_the_method(
    method: str, kind: str, options: dict[str, Any]
) -> None:
    peft = pytest.importorskip("peft")
    overrides = ["model=distilbert", f"adapter={method}", "rank=8", "target=qv"]
    (config,) = count_configs(overrides)
    made = getattr(peft, kind)(task_type="SEQ_CLS", r=8, target_modules=["q_lin", "v_lin"], **options)
    with torch.device("meta"):
        model = peft.get_peft_model(empty_model(config.model, num_labels=2), made)
    counts = ledger(*overrides)
    assert model.get_nb_trainable_parameters() == (counts.trained, counts.peft_total)


def test_vera_on_distilbert_has_the_total_that_peft_prints() -> None:
    assert ledger("model=distilbert", "adapter=vera", "rank=8", "target=qv").peft_total == 67_556_452


@pytest.mark.parametrize(
    ("overrides", "count"),
    [
        # LoRA, Table 4 and Table 15 (v2), in full: 4 x 12,288 x 96 for each unit of rank on two matrices
        (["model=gpt3_175b", "adapter=lora", "rank=1", "target=qv"], 4 * 12_288 * 96),
        (["model=gpt3_175b", "adapter=lora", "rank=4", "target=qv"], 18_874_368),
        (["model=gpt3_175b", "adapter=houlsby", "rank=4"], 2 * 96 * (2 * 12_288 * 4 + 4 + 12_288)),
        # LoRA-SB, Tables 1 and 3: r^2 for each of 7 matrices in 32 layers, and of 4 in 24
        (["model=mistral_7b", "adapter=lora_sb", "rank=96"], 32 * 7 * 96**2),
        (["model=roberta_large", "adapter=lora_sb", "rank=24", "target.roles=[query,value,output,ffn_down]"], 55_296),
        # PEFT's comparison on Llama-3.2-3B: q_proj and v_proj
        (["model=llama3_2_3b", "adapter=lora", "rank=32", "target=qv"], 9_175_040),
        (["model=llama3_2_3b", "adapter=lora_fa", "rank=32", "target=qv"], 3_670_016),
        (["model=llama3_2_3b", "adapter=dora", "rank=32", "target=qv"], 9_289_728),
        (["model=llama3_2_3b", "adapter=vera", "rank=256", "target=qv"], 129_024),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_published_adapter_counts_are_exact(overrides: list[str], count: int) -> None:
    assert ledger(*overrides).adapter_trained == count


def test_last_two_blocks_of_gpt2_medium_are_the_published_25_19_million() -> None:
    counts = ledger("model=gpt2_medium", "adapter=last_k", "adapter.options.layers=2")
    assert counts.other_trained == 2 * (12 * 1024**2 + 13 * 1024)
    assert round(counts.other_trained / 1e6, 2) == 25.19


def test_the_papers_convention_leaves_the_head_out() -> None:
    counts = ledger("model=roberta_large", "adapter=lora", "rank=8", "target=qv", "num_labels=3")
    assert counts.head_trained == 1024 * 1024 + 1024 + 3 * 1024 + 3
    assert counts.paper_trained == 786_432


def test_layer_sums_add_up_to_the_count() -> None:
    (config,) = count_configs(["model=t5_base", "adapter=lora", "rank=3", "target=qv"])
    assert layer_sum(config) == "12 layers x (query 3 x 4,608 + value 3 x 4,608)"
    assert ledger_of(config).adapter_trained == 12 * 6 * 4_608


def test_json_is_a_list_of_objects_with_the_ledger_s_keys() -> None:
    done = run_here("src.params", "-m", "model=distilbert", "rank=4,8", "target=qv", "format=json")
    rows = json.loads(done.stdout)
    assert [(row["model"], row["adapter"], row["rank"], row["target"]) for row in rows] == [
        ("distilbert", "lora", 4, "qv"),
        ("distilbert", "lora", 8, "qv"),
    ]
    assert [row["trained"] for row in rows] == [665_858, 739_586]
    assert {"adapter_frozen", "base_frozen", "total", "adapter_bytes", "optimizer_bytes"} <= rows[0].keys()


def test_a_method_without_a_rank_is_counted_once_in_a_sweep_of_ranks() -> None:
    done = run_here("src.params", "-m", "adapter=head_only,lora", "rank=4,8", "format=csv")
    rows = list(csv.DictReader(StringIO(done.stdout)))
    assert [(row["adapter"], row["rank"]) for row in rows] == [("head_only", ""), ("lora", "4"), ("lora", "8")]


def test_what_cannot_be_counted_does_not_keep_a_sweep_from_the_rest() -> None:
    done = run_here("src.params", "-m", "model=tiny_llama", "adapter=bitfit,lora", "rank=4,8", "format=json")
    assert [row["rank"] for row in json.loads(done.stdout)] == [4, 8]
    assert (
        done.stderr
        == "not counted: model=tiny_llama adapter=bitfit: bitfit trains biases; this LlamaForCausalLM has none.\n"
    )
    assert done.returncode == 1


def test_a_sweep_in_which_nothing_can_be_counted_says_so_alone() -> None:
    done = run_here("src.params", "-m", "model=tiny_llama", "adapter=bitfit", "format=csv")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)


def test_the_page_of_one_count_has_all_three_conventions() -> None:
    done = run_here("src.params", "model=distilbert", "rank=8", "target=qv")
    for expected in ("739,586 || 67,694,596 || 1.10%", "without the head: 147,456", "66,955,010"):
        assert expected in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model=mistral7b"], "model=mistral7b is not known.\nAllowed: mistral_7b"),
        (["rank=9999"], "rank=9999 is above the size of minilm's query matrix"),
        (["model=gpt2_medium", "target.roles=[gate]"], "needs gate, which model=gpt2_medium doesn't have"),
        (["task=docstrings"], "'task' is not an option.\nAllowed: "),
        (["format=xml"], "format=xml is not known.\nAllowed: csv, json, table."),
        (["num_labels=0"], "num_labels=0 is too small"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_answered_with_what_is_allowed(arguments: list[str], message: str) -> None:
    done = run_here("src.params", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
