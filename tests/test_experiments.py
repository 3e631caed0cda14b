"""The studies of papers: their runs are those of the papers, no number is lost, and their smoke commands work."""

import shlex
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from src.config.composer import composer
from src.config.schema import Config
from src.config.steps import resolved_steps
from src.config.sweeps import run_configs, sweep_jobs
from src.results.schema import Record
from src.results.store import read_all
from src.studies.paper_tables import paper_of, paper_table, reported_rows
from src.studies.parameter_counts import Counted
from src.studies.study_tables import counted
from tests.conftest import REAL_DATA, ROOT, composed, real_data, run_program
from tests.test_generative_tasks import attempt, of_task, stories

# Methods, ranks, tasks, models and seeds, by hand from the papers.
JOBS = {
    "lora_glue": (3 * 8 + 3 * 8) * 5,  # base: LoRA, BitFit, full; large: LoRA, full, Houlsby
    "lora_gpt3_rank": (5 * 3 + 3 + 1) * 2 * 3,  # Table 6, and what Table 5 has beside it, on two tasks
    "lora_e2e": (4 + 2) * 3,  # medium: LoRA, full, two layers, Houlsby; large: LoRA, full
    "lora_fa_glue": 4 * 8 * 2 * 3,
    "lora_fa_memory": 3 * 2,
    "lora_fa_llm": 3 * 3 * 3,
    "lora_xs_glue": 6 * 6 * 5,
    "lora_sb_arithmetic": (1 + 3 + 3) * 2 * 3,
    "lora_sb_commonsense": (1 + 3 + 3) * 3,
    "lora_sb_glue": (1 + 3 + 3) * 6 * 3,
    "peft_metamathqa": 10 * 3,
}
AGREED = ["task.allow_code_execution=true"]  # HumanEval is refused without
STUDIES = sorted(JOBS)


@lru_cache
def configs(study: str) -> list[Config]:
    """The checked runs of a study's first seed."""
    return run_configs([f"experiment={study}", "seed=0", *AGREED])


def one(study: str, **values: Any) -> Config:
    """The only run of a study's first seed with these names of model, adapter and task, and these values."""
    matches = [
        config for config in configs(study) if all(_value(config, key) == value for key, value in values.items())
    ]
    assert len(matches) == 1
    return matches[0]


def _value(config: Config, key: str) -> Any:
    value = getattr(config, key)
    return getattr(value, "name", value)


def jobs(study: str) -> list[list[str]]:
    """The overrides of all of a study's jobs, uncomposed."""
    with composer() as reader:
        return [job[1:] for job in sweep_jobs(reader, [f"experiment={study}"])]  # without the study itself


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES)
def test_a_study_s_jobs_are_the_paper_s_and_each_can_be_run(study: str) -> None:
    study_jobs = jobs(study)
    seeds = {override for job in study_jobs for override in job if override.startswith("seed=")}
    assert len(study_jobs) == JOBS[study]
    assert len(configs(study)) * len(seeds) == JOBS[study]


@pytest.mark.slow
def test_rates_steps_and_lengths_are_those_of_lora_s_table_9() -> None:
    base = one("lora_glue", model="roberta_base", adapter="lora", task="cola")
    assert (base.lr, base.trainer.head_lr, base.alpha, base.rank) == (4e-4, 4e-4, 8, 8)
    assert (base.trainer.batch_size, base.task.max_length, base.target.name) == (32, 512, "qv")
    assert base.trainer.epochs == 80
    large = one("lora_glue", model="roberta_large", adapter="lora", task="stsb")
    assert (large.lr, large.alpha, large.trainer.batch_size, large.task.max_length) == (2e-4, 16, 8, 512)
    assert large.trainer.epochs == 30
    rates = {
        config.lr
        for config in configs("lora_glue")
        if config.adapter.name == "lora" and config.model.name == "roberta_base"
    }
    assert rates == {4e-4, 5e-4}


@pytest.mark.slow
def test_lora_sb_s_runs_have_the_settings_of_its_code() -> None:
    math_run = one("lora_sb_arithmetic", model="mistral_7b", adapter="lora_sb", rank=96)
    assert (math_run.lr, math_run.alpha) == (1e-4, 96)
    assert (math_run.trainer.schedule, math_run.trainer.warmup_ratio) == ("cosine", 0.02)
    assert math_run.trainer.steps * math_run.trainer.batch_size == 50_000 - 16
    assert math_run.task.sources["train"].split == "train[:50000]"
    glue = one("lora_sb_glue", adapter="lora", task="qnli")
    assert (glue.rank, glue.alpha, glue.target_roles()) == (8, 8, ["query", "value", "output", "ffn_down"])
    assert {config.rank for config in configs("lora_sb_glue") if config.adapter.name == "lora_sb"} == {8, 16, 24}
    # torch's AdamW as it is, on all that is trained; the Trainer clips by default, their own loop for GLUE doesn't.
    clipped = {"lora_sb_arithmetic": 1.0, "lora_sb_commonsense": 1.0, "lora_sb_glue": 0.0}
    for study, norm in clipped.items():
        trainers = {(c.trainer.weight_decay, c.trainer.decay_all, c.trainer.max_grad_norm) for c in configs(study)}
        assert trainers == {(0.01, True, norm)}
    # eta: the rate over the warm-up's share of the probe's batches, 3 texts each of 50,000, 10 of 170,420 in 2 epochs.
    assert math_run.adapter.options["eta"] == pytest.approx(1e-4 / (0.02 * 16_667), rel=1e-3)
    commonsense = one("lora_sb_commonsense", adapter="lora_sb", rank=96)
    assert commonsense.adapter.options["eta"] == pytest.approx(2e-3 / (0.02 * 2 * 17_042), rel=1e-3)
    of_glue = [config.adapter.options for config in configs("lora_sb_glue") if config.adapter.name == "lora_sb"]
    assert {(options["eta"], options["probe_dropout"]) for options in of_glue} == {(None, True)}


@pytest.mark.slow
@pytest.mark.parametrize("study", [*STUDIES, "target_sets_distilbert"])
def test_a_is_drawn_as_in_the_code_of_every_paper_that_has_some(study: str) -> None:
    """loralib, PEFT and the codes on top of them draw A with torch's kaiming_uniform_."""
    starts = {config.adapter.options["init"] for config in configs(study) if "init" in config.adapter.options}
    assert starts == ({"kaiming"} if study != "lora_xs_glue" else set())  # which has LoRA-XS alone


@pytest.mark.slow
def test_decay_and_epsilon_are_those_of_each_code() -> None:
    assert {config.trainer.decay_all for config in configs("peft_metamathqa")} == {True}
    assert {config.trainer.decay_all for config in configs("lora_glue")} == {False}  # transformers' Trainer
    e2e = {(c.trainer.adam_eps, c.trainer.decay_all, c.trainer.max_grad_norm) for c in configs("lora_e2e")}
    assert e2e == {(1e-6, True, 0.0)}


def test_peft_s_runs_have_the_settings_of_its_comparison() -> None:
    by_method = {(config.adapter.name, config.rank): config for config in configs("peft_metamathqa")}
    assert (by_method["rslora", 64].alpha, by_method["lora", 64].alpha, by_method["lora", 32].alpha) == (64, 128, 64)
    assert (by_method["vera", 256].lr, by_method["lora", 32].lr, by_method["full", 8].lr) == (1e-3, 1e-4, 1e-5)
    assert {config.trainer.steps * config.trainer.batch_size for config in by_method.values()} == {20_000}


# Rows to train on, from GLUE's, WikiSQL's and IMDB's own counts, and what protocol=strict holds out for validation.
TRAIN_ROWS = {"mnli": 392_702, "sst2": 67_349, "mrpc": 3_668, "cola": 8_551, "qnli": 104_743, "qqp": 363_846,
              "rte": 2_490, "stsb": 5_749, "wikisql": 56_355, "imdb": 25_000}  # fmt: skip
HELD_OUT = {"mnli": 1000, "sst2": 1000, "mrpc": 370, "cola": 850, "qnli": 1000, "qqp": 1000, "rte": 250, "stsb": 570}
# By task, batch size and epochs: the step counts that the studies had before they had epochs, worked out by hand.
FORMER_STEPS = {
    "lora_glue": {
        ("mnli", 16, 30): 736_320, ("sst2", 16, 60): 252_600, ("mrpc", 16, 30): 6_900, ("cola", 32, 80): 21_440,
        ("qnli", 32, 25): 81_850, ("qqp", 16, 25): 568_525, ("rte", 32, 80): 6_240, ("stsb", 16, 40): 14_400,
        ("mnli", 4, 10): 981_760, ("sst2", 4, 10): 168_380, ("mrpc", 4, 20): 18_340, ("cola", 4, 20): 42_760,
        ("qnli", 4, 10): 261_860, ("qqp", 4, 20): 1_819_240, ("rte", 8, 20): 6_240, ("stsb", 8, 30): 21_570,
        ("mnli", 16, 10): 245_440, ("sst2", 16, 10): 42_100, ("mrpc", 16, 10): 2_300, ("cola", 16, 10): 5_350,
        ("qnli", 16, 10): 65_470, ("qqp", 16, 10): 227_410, ("rte", 16, 10): 1_560, ("stsb", 16, 10): 3_600,
        ("mnli", 32, 5): 61_360, ("sst2", 32, 20): 42_100, ("mrpc", 32, 20): 2_300, ("cola", 32, 20): 5_360,
        ("qnli", 32, 20): 65_480, ("qqp", 32, 20): 227_420, ("rte", 32, 20): 1_560, ("stsb", 32, 20): 3_600,
    },
    "lora_xs_glue": {
        ("cola", 32, 10): 2_680, ("sst2", 32, 10): 21_050, ("qnli", 32, 10): 32_740,
        ("mrpc", 32, 50): 5_750, ("rte", 32, 50): 3_900, ("stsb", 32, 50): 9_000,
    },
    "lora_sb_glue": {
        ("cola", 128, 30): 2_010, ("rte", 128, 30): 600, ("mrpc", 128, 30): 870,
        ("stsb", 128, 30): 1_350, ("qnli", 128, 30): 24_570, ("sst2", 128, 30): 15_810,
    },
    "target_sets_distilbert": {("imdb", 16, 3): 4_689},
}  # fmt: skip
# Their rows held out for validation were counted too: these are others than they were, and stand in CHANGELOG.md.
CHANGED_STEPS = {
    "lora_fa_glue": {
        ("mnli", 32, 3): 3 * 12_241, ("sst2", 32, 3): 3 * 2_074, ("mrpc", 32, 10): 10 * 104,
        ("cola", 32, 10): 10 * 241, ("qnli", 32, 3): 3 * 3_242, ("qqp", 32, 3): 3 * 11_339,
        ("rte", 32, 10): 10 * 70, ("stsb", 32, 10): 10 * 162,
    },
    "lora_gpt3_rank": {("wikisql", 128, 2): 882, ("mnli", 128, 2): 2 * 3_061},
}  # fmt: skip
STEPS = FORMER_STEPS | CHANGED_STEPS


def of_one_length(study: str) -> list[list[str]]:
    """A job of the study for each task, batch size and number of epochs that its overrides name."""
    keys = ("task", "trainer.batch_size", "trainer.epochs")
    first: dict[tuple[str | None, ...], list[str]] = {}
    for job in jobs(study):
        named = dict(override.split("=", 1) for override in job)
        first.setdefault(tuple(named.get(key) for key in keys), job)
    return list(first.values())


@pytest.mark.parametrize("study", sorted(STEPS))
def test_a_study_s_epochs_come_to_the_steps_worked_out_by_hand(study: str) -> None:
    steps = {}
    for job in of_one_length(study):
        config = composed(*{text.partition("=")[0]: text for text in [f"experiment={study}", *job]}.values())
        task, trainer = config.task, config.trainer
        held_out = HELD_OUT.get(task.name, 0) if config.protocol == "strict" else 0
        resolved = resolved_steps(config, TRAIN_ROWS[task.name] - held_out)
        steps[task.name, trainer.batch_size, trainer.epochs] = resolved.trainer.steps
    assert steps == STEPS[study]


def test_what_is_held_out_for_validation_is_no_row_to_train_on() -> None:
    sizes = {
        task: yaml.safe_load((ROOT / f"conf/task/{task}.yaml").read_text())["validation_size"] for task in HELD_OUT
    }
    assert sizes == HELD_OUT


# ---- the papers' tables


@pytest.mark.parametrize("study", STUDIES)
def test_without_runs_every_number_of_a_paper_is_there_with_its_verdict(study: str) -> None:
    table = paper_table(study, pd.DataFrame(), pd.DataFrame(), lambda overrides: Counted(None))
    paper = paper_of(study)
    assert paper is not None
    assert len(table) == len(reported_rows(paper))
    if table.empty:
        assert study == "lora_sb_commonsense"  # none of its numbers is among the reported
        return
    assert set(table["verdict"]) <= {"not run", "not comparable"}
    assert (table.loc[table["verdict"] == "not comparable", "why"] != "").all()
    assert (table.loc[table["verdict"] == "not run", "why"] == "").all()


def verdicts(study: str) -> "pd.Series[Any]":
    """The reasons, or the verdicts where there is none, by method and task."""
    table = paper_table(study, pd.DataFrame(), pd.DataFrame(), lambda overrides: Counted(None))
    return table.set_index(["model", "method", "rank", "task"]).apply(lambda row: row["why"] or row["verdict"], axis=1)


@pytest.mark.slow
def test_a_paper_s_rows_are_comparable_but_for_what_is_said() -> None:
    glue = verdicts("lora_glue")
    assert glue["RoBERTa-base", "LoRA", "8", "MNLI"] == "not run"
    assert glue["RoBERTa-base", "LoRA", "8", "RTE"].startswith("it starts from an MNLI checkpoint")
    assert glue["RoBERTa-base", "LoRA", "8", "Avg"] == "Avg isn't a task here"
    assert glue["RoBERTa-large", "Adapter^H (dagger)", "", "RTE"] == "not run"
    assert len(glue) == (3 + 3) * 9
    memory = verdicts("lora_fa_memory")
    assert set(memory) == {"neither batch nor length nor rank of these runs is given"}
    small = verdicts("lora_fa_glue")
    assert small["RoBERTa-base (inferred from the reviewer comparison)", "LoRA", "", "RTE"] == "its rank isn't given"
    peft = verdicts("peft_metamathqa")
    assert (peft == "not run").sum() == len(peft) - 1 == 9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("study", "model", "method", "counts"),
    [
        ("lora_glue", "RoBERTa-base", "LoRA", {294_912}),  # reported as 0.3M
        ("lora_glue", "RoBERTa-large", "Adapter^H (dagger)", {835_968}),  # 0.8M
        ("lora_sb_glue", "RoBERTa-large", "LoRA-SB", {55_296}),  # 55.2K
        ("lora_sb_arithmetic", "Mistral-7B", "LoRA-XS", {2_064_384}),  # 2.06M
        ("peft_metamathqa", "Llama-3.2-3B", "lora/llama-3.2-3B-rank32-lorafa", {3_670_016}),  # to the last parameter
    ],
)
def test_counts_beside_a_paper_s_numbers_are_the_reported_ones(
    study: str, model: str, method: str, counts: set[int]
) -> None:
    def only(overrides: list[str]) -> Counted:
        return counted(overrides) if overrides[1:] and f"model={names[model]}" == overrides[0] else Counted(None)

    names = yaml.safe_load((ROOT / "experiments/reported/readings.yaml").read_text())["models"]
    table = paper_table(study, pd.DataFrame(), pd.DataFrame(), lru_cache_of(only))
    rows = table[(table["model"] == model) & (table["method"] == method)]
    assert set(rows["computed"]) == counts


def lru_cache_of(counted: Any) -> Any:
    """The same count once for the same overrides."""
    kept: dict[tuple[str, ...], Counted] = {}

    def once(overrides: list[str]) -> Counted:
        key = tuple(overrides)
        if key not in kept:
            kept[key] = counted(overrides)
        return kept[key]

    return once


# ---- the smoke commands


def smoke_command(study: str) -> list[str]:
    """The smoke command of a study's README: the words after `python -m`."""
    text = (ROOT / "experiments" / study / "README.md").read_text().replace("\\\n", " ")
    (command,) = [line for line in text.splitlines() if line.startswith("    python") and "results/smoke" in line]
    return shlex.split(command)[2:]


@pytest.mark.parametrize("study", STUDIES)
def test_a_smoke_command_runs_the_study_on_a_tiny_model(study: str) -> None:
    module, *arguments = smoke_command(study)
    assert module in ("src.run", "src.tune")
    assert f"experiment={study}" in arguments
    assert "model=minilm" in arguments or "model=tiny_llama" in arguments


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES)
def test_a_study_s_smoke_command_works(study: str, tmp_path: Path) -> None:
    """Every method of the study is trained, saved, read back and scored."""
    module, *arguments = smoke_command(study)
    others = [argument for argument in arguments if not argument.startswith("results_dir=")]
    ran = run_program(module, *others, f"results_dir={tmp_path}")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    records = read_all(tmp_path)
    assert {record["state"] for record in records} == {"done"}
    methods = {record["config"]["adapter"]["name"] for record in records}
    assert methods == {config.adapter.name for config in configs(study)}


# ---- the studies on their tasks' files


REAL = [
    ("lora_glue", "houlsby", "mrpc", ["glue/MRPC/train.tsv", "glue/MRPC/dev.tsv"]),
    ("lora_xs_glue", "lora_xs", "sst2", ["glue/SST-2/train.tsv", "glue/SST-2/dev.tsv"]),
    ("lora_sb_glue", "lora_sb", "mrpc", ["glue/MRPC/train.tsv", "glue/MRPC/dev.tsv"]),
    ("lora_fa_memory", "lora_fa", "imdb", ["imdb/train.jsonl", "imdb/test.jsonl"]),
    ("lora_gpt3_rank", "lora", "wikisql", []),
    ("lora_fa_llm", "lora_fa", "metamathqa", []),
    ("lora_sb_arithmetic", "lora_sb", "metamathqa", []),
    ("lora_sb_commonsense", "lora_sb", "commonsense_170k", []),
    ("peft_metamathqa", "vera", "metamathqa", []),
]
FEW = ["rank=2", "trainer.epochs=null", "trainer.max_steps=4", "trainer.eval_every=4", "trainer.batch_size=4",
       "trainer.eval_limit=4", "trainer.calibration_samples=8", "tracking=none", "forgetting=none"]  # fmt: skip


def first_job(study: str, adapter: str, task: str) -> list[str]:
    """The overrides of a study's first job of a method on a task, which a study of one task doesn't name."""
    default = composed(f"experiment={study}").task.name
    for job in jobs(study):
        named = dict(override.split("=", 1) for override in job)
        if (named["adapter"], named.get("task", default)) == (adapter, task):
            return job
    raise AssertionError(f"{study} has no {adapter} on {task}")


def attempt_first(study: str, adapter: str, task: str, folder: Path, overrides: list[str]) -> Record:
    """Run that job, small and with other overrides, and return its record."""
    job = first_job(study, adapter, task)
    all_overrides = [f"experiment={study}", *job, f"task={task}", *FEW, f"results_dir={folder}/results", *overrides]
    kept = {override.partition("=")[0]: override for override in all_overrides}  # the last of each key
    record, _ = attempt(composed(*kept.values()))
    return record


@pytest.mark.slow
@pytest.mark.parametrize(("study", "adapter", "task", "files"), REAL)
def test_a_study_s_job_works_on_its_task_s_files(
    study: str, adapter: str, task: str, files: list[str], tmp_path: Path
) -> None:
    for file in files:
        real_data(file)
    if files:
        overrides = ["model=minilm", f"task.data_dir={REAL_DATA}", "task.max_length=64"]
    else:
        overrides = [*stories(), *of_task(task, tmp_path, "task.max_length=448", "task.max_new_tokens=12")]
    record = attempt_first(study, adapter, task, tmp_path, overrides)
    assert record["state"] == "done", record["error"]
    assert record["config"]["adapter"]["name"] == adapter


@pytest.mark.slow
def test_the_study_of_e2e_reads_the_authors_files(tmp_path: Path) -> None:
    (tmp_path / "e2e").mkdir()
    for name in ("valid.txt", "test.txt"):
        (tmp_path / "e2e" / name).symlink_to(real_data(f"e2e/{name}"))
    lines = real_data("e2e/valid.txt").read_text(encoding="utf-8").splitlines(keepends=True)[:200]
    (tmp_path / "e2e/train.txt").write_text("".join(lines), encoding="utf-8")  # which the data folder doesn't have
    overrides = [*stories(), f"task.data_dir={tmp_path}", "task.max_length=448", "task.max_new_tokens=12"]
    record = attempt_first("lora_e2e", "lora", "e2e", tmp_path, overrides)
    assert record["state"] == "done", record["error"]
    assert record["data"]["rows"]["train"] == len(lines)
