"""Several values are several runs or a refusal, and every job is composed once, from what was typed."""

import math
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton

from src.config.composer import CONF, Composer, composer
from src.config.grammar import parsed, values_of
from src.config.schema import Config
from src.config.sweeps import run_configs, single_job, sweep_jobs
from src.errors import UserError
from src.results.store import read_all
from src.running.launch import run_single, run_sweep
from src.running.sweep import drifting_scales
from src.running.tuning import cells
from src.tune import jobs_to_tune
from tests.conftest import TINY

SMALL = [*TINY, "forgetting=none", "trainer.precision=fp32"]


@pytest.fixture(scope="module")
def reader() -> Iterator[Composer]:
    """One composer for all tests here, as a program has."""
    with composer() as made:
        yield made


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["adapter=[lora_sb,lora]"], r"is a list.*\nAllowed: adapter=lora_sb, or with -m .*: adapter=lora_sb,lora"),
        (["target=[qv,ffn]"], r"is a list.*\nAllowed: target=qv, or with -m .*: target=qv,ffn"),
        (["-m", "adapter=[lora_sb,lora],full"], "is a list"),
        (["experiment=[nine_runs,prompts]"], "is a list"),
        (["trainer={max_steps: 3}"], "is not the name of a file"),
        (["adapter=lora", "adapter=lora_fa"], r"adapter=lora and adapter=lora_fa give adapter twice"),
        (["-m", "rank=4,8", "rank=16"], "give rank twice"),
        (["rank=4", "+rank=8"], "give rank twice"),
        (["+rank=4", "++rank=8"], "give rank twice"),
        (["-m", "seed=0", "seed=0"], "give seed twice"),
        (["rank=4,8"], r"rank=4,8 has 2 values\.\nAdd -m"),
        (["seed=range(0,3)"], r"seed=range\(0,3\) has 3 values\.\nAdd -m"),
        (["adapter=glob(lora*)"], r"has \d values\.\nAdd -m"),
        (["rank=[4,8]"], r"rank=\[4, 8\] is not a whole number\.\nOne value is allowed: rank=4, .*-m .*: rank=4,8"),
        (["-m", "rank=[4,8]"], "is not a whole number"),
        (["rank='4,8'"], "is not a whole number"),
        (["experiment=nine_runs"], r"is a sweep of 45 runs, over seed, adapter, rank\.\nAdd -m"),
        (["experiment=nine_runs", "adapter=lora"], r"is a sweep of 9 runs, over seed, rank\.\nAdd -m"),
        (["experiment=nine_runs,prompts"], "has 2 values"),
        (["experiment=prompts", "trainer=smoke"], r"sets trainer\.max_steps=1500 .* over .* trainer\.max_steps=4"),
        (["-m", "experiment=prompts", "trainer=default,smoke"], "sets trainer.max_steps=1500"),
        (["-m", "experiment=golden", "tracking=wandb_online"], r"sets tracking\.mode=none over"),
        (["-m", "experiment=golden", "task=cola"], r"sets task\.max_length=32"),
        (["-m", "adapter=glob(zzz*)"], "stands for no value"),
        (["-m", "seed=range(5,1)"], "stands for no value"),
        (["-m", "lr=interval(0,1)"], "is an interval"),
        (["-m", "tracking=none,wandb_offline"], "makes no other run"),
        (["-m", "tuning.trials=3,5"], "makes no other run"),
        (["-m", "cache_dir=a,b"], "makes no other run"),
        (["hydra.job.chdir=true"], r"'hydra\.job\.chdir' means nothing here"),
        (["-m", "hydra.job.chdir=true"], r"'hydra\.job\.chdir' means nothing here"),
        (["hydra.mode=MULTIRUN"], "means nothing here"),
        (["hydra/launcher=basic"], "means nothing here"),
        (["-m", "hydra.sweeper.params.rank=2,4"], r"means nothing here\.\nAllowed: .*hydra\.sweep\.dir"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_several_values_are_never_taken_for_one(overrides: list[str], message: str) -> None:
    run = run_sweep if "-m" in overrides else run_single
    with pytest.raises(UserError, match=message):
        run([override for override in overrides if override != "-m"])


def test_two_studies_are_both_swept_each_with_its_own_axes_and_folder() -> None:
    both = run_configs(["experiment=nine_runs,prompts"])
    apart = run_configs(["experiment=nine_runs"]) + run_configs(["experiment=prompts"])
    assert both == apart
    assert {config.results_dir for config in both} == {"results/nine_runs", "results/prompts"}


def test_a_study_whose_axes_are_all_given_is_one_run(reader: Composer) -> None:
    job = single_job(reader, ["experiment=nine_runs", "adapter=lora", "rank=4", "seed=1"])
    config: Config = reader.config(job)
    assert (config.adapter.name, config.rank, config.seed, config.results_dir) == ("lora", 4, 1, "results/nine_runs")


def test_values_of_an_experiment_that_are_given_anew_are_no_contradiction(reader: Composer) -> None:
    given = ["experiment=prompts", "trainer=smoke", "trainer.max_steps=4", "trainer.eval_every=2", "seed=0"]
    assert {reader.config(job).trainer.max_steps for job in sweep_jobs(reader, given)} == {4}


def test_references_are_resolved_in_every_job() -> None:
    configs = run_configs(["rank=2,4", "alpha=${rank}", "results_dir=results/r${rank}"])
    assert [(config.rank, config.alpha, config.results_dir) for config in configs] == [
        (2, 2.0, "results/r2"),
        (4, 4.0, "results/r4"),
    ]


@pytest.mark.parametrize(
    ("override", "values"),
    [
        ("a=1,2", ["1", "2"]),
        ("a='x,y',z", ["'x,y'", "z"]),
        ("a=[1,2],[3]", ["[1,2]", "[3]"]),
        ("a={b: 1, c: 2},{b: 3}", ["{b: 1, c: 2}", "{b: 3}"]),
        ('a="it\'s","x\\",y"', ['"it\'s"', '"x\\",y"']),
        ("a=1e3, 007 ,0.10", ["1e3", "007", "0.10"]),
        (r"a=x\,y,z", [r"x\,y", "z"]),
        ("a=choice(1,2)", ["1", "2"]),
        ("a=range(1,6,2)", ["1", "3", "5"]),
        ("a=sort(8,4)", ["4", "8"]),
        ("a=sort(1,3,2,reverse=true)", ["3", "2", "1"]),
        ("a=sort(choice(8,4))", ["4", "8"]),
        ("a=int(4.0,8.0)", ["4", "8"]),
    ],
)
def test_the_values_of_an_axis_are_taken_as_they_are_written(override: str, values: list[str]) -> None:
    """The oracle is Hydra's own reading: each value alone is what it is among the others."""
    assert values_of(parsed(override)) == values
    if parsed(override).is_choice_sweep():
        elements = list(parsed(override).sweep_iterator())
        assert [parsed(f"a={value}")._value for value in values] == elements


@pytest.mark.parametrize("override", ["a=shuffle(1,2,3)", "a=shuffle(range(1,4))"])
def test_shuffled_values_are_all_there(override: str) -> None:
    assert sorted(values_of(parsed(override))) == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("a=choice(choice(4,8),2)", "can't be listed.\nAllowed: 4,8, choice(4,8), range(4,9,2)"),
        ("a=range(0,1,0)", "can't be listed.\n"),
        ("a=range(1,1e12)", "has over 100,000 values.\n"),
        ("a=range(0,1,1e-9)", "has over 100,000 values.\n"),
        ("a=range(4,1)", "stands for no value.\n"),
    ],
)
def test_an_axis_that_has_no_list_of_values_is_refused(override: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"{override} {message}")):
        values_of(parsed(override))


@contextmanager
def experiment(folder: Path, content: bytes) -> Iterator[str]:
    """The choice of an experiment with this content, in a copy of conf from which the block's composers read."""
    shutil.copytree(CONF, folder / "conf")
    (folder / "conf/experiment/of_a_test.yaml").write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.config.composer.CONF", str(folder / "conf"))
        patch.delitem(Singleton._instances, GlobalHydra, raising=False)  # as in a program that has read nothing yet
        yield "experiment=of_a_test"


def swept(sweeper: str, folder: Path) -> list[Config]:
    """The configs of an experiment with this sweeper."""
    with experiment(folder, f"# @package _global_\nhydra:\n  sweeper:\n{sweeper}".encode()) as chosen:
        return run_configs([chosen])


@pytest.mark.parametrize(
    ("sweeper", "expected"),
    [
        ("    params: {adapter: [lora, full], rank: [2, 4]}\n", [("lora", 2), ("lora", 4), ("full", 2), ("full", 4)]),
        ("    params: {adapter: 'lora,full', rank: 2}\n", [("lora", 2), ("full", 2)]),
        ("    blocks:\n      - {adapter: [lora, lora_fa]}\n", [("lora", 8), ("lora_fa", 8)]),
        ("    params: {alpha: null, rank: 3}\n", [("lora", 3)]),
    ],
)
def test_a_list_among_a_study_s_axes_is_swept_as_written(
    sweeper: str, expected: list[tuple[str, int]], tmp_path: Path
) -> None:
    assert [(config.adapter.name, config.rank) for config in swept(sweeper, tmp_path)] == expected


def test_a_list_of_lists_gives_a_setting_that_is_a_list_one_after_another(tmp_path: Path) -> None:
    configs = swept("    params: {target.roles: [[query], [key, value]], rank: 3}\n", tmp_path)
    assert [(config.target.roles, config.rank) for config in configs] == [(["query"], 3), (["key", "value"], 3)]


@pytest.mark.parametrize(
    ("sweeper", "message"),
    [
        ("    params: {target.roles: [query, key]}\n", "may be one value or several"),
        ("    params: {rank: []}\n", "may be one value or several"),
        ("    params: {rnak: 3}\n", r"'rnak' is not an option\.\nAllowed: rank"),
        ("    param: {rank: 3}\n", r"'param' is not an option\.\nAllowed: params"),
        ("    params: {adapter: 'lora,lorra'}\n", r"adapter=lorra is not known\.\nAllowed: lora"),
    ],
)
def test_axes_of_a_study_that_can_t_be_meant_are_refused(sweeper: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        swept(sweeper, tmp_path)


def test_a_rate_that_follows_another_follows_it_into_the_trials(tmp_path: Path) -> None:
    configs, at = jobs_to_tune([*SMALL, "rank=2,3", "seed=0,1", "trainer.head_lr=${lr}", f"cache_dir={tmp_path}"])
    groups = cells(configs, at)
    assert [len(cell.configs) for cell in groups] == [2, 2]
    trial = groups[0].trial(0.5)
    assert (trial.lr, trial.trainer.head_lr, trial.seed, trial.trainer.score_test) == (0.5, 0.5, 100, False)
    assert [(run.lr, run.trainer.head_lr, run.seed) for run in groups[1].chosen(0.25)] == [
        (0.25, 0.25, 0),
        (0.25, 0.25, 1),
    ]


def test_one_plan_is_written_whatever_the_runs_folders_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = [f"results_dir={tmp_path}/a,{tmp_path}/b", f"cache_dir={tmp_path}/c"]
    assert run_sweep([*SMALL, "rank=2", *where, f"hydra.sweep.dir={tmp_path}/plan"])
    assert "sweep of 2 runs: 0 done already, 2 to run" in capsys.readouterr().out
    assert (tmp_path / "plan/plan.json").exists()
    assert [len(read_all(tmp_path / name)) for name in "ab"] == [1, 1]
    assert run_sweep([*SMALL, "rank=2", *where])
    assert "2 done already, 0 to run" in capsys.readouterr().out


@pytest.mark.slow
def test_a_launcher_s_jobs_are_those_of_the_plan(tmp_path: Path) -> None:
    where = [f"results_dir={tmp_path}/a,{tmp_path}/b", f"cache_dir={tmp_path}/c"]
    assert run_sweep([*SMALL, "rank=2", "alpha=${rank}", *where, "hydra/launcher=basic"])
    records = [record for name in "ab" for record in read_all(tmp_path / name)]
    assert [(record["state"], record["config"]["alpha"]) for record in records] == [("done", 2.0)] * 2


def test_each_job_is_composed_once() -> None:
    """The files of a combination of choices are put together once, however many jobs make it."""
    with composer() as fresh:
        jobs = sweep_jobs(fresh, ["adapter=lora,full", "rank=range(1,5)", "seed=range(0,5)"])
        configs = [fresh.config(job) for job in jobs]
        assert len({(config.adapter.name, config.rank, config.seed) for config in configs}) == len(jobs) == 2 * 4 * 5
        assert fresh._chosen.cache_info().misses <= 3  # both methods, and the axes' own question


def test_every_study_has_as_many_jobs_as_its_yaml_says(reader: Composer) -> None:
    """They are counted here from the text of its axes: the product of their lengths, summed over the blocks."""
    for path in sorted(Path(CONF, "experiment").glob("*.yaml")):
        sweeper = yaml.safe_load(path.read_text())["hydra"]["sweeper"]
        expected = 0
        for block in sweeper.get("blocks") or [{}]:
            axes = [str(value) for value in {**(sweeper.get("params") or {}), **block}.values()]
            expected += math.prod(1 if values.startswith("[") else len(values.split(",")) for values in axes)
        assert len(sweep_jobs(reader, [f"experiment={path.stem}"])) == expected, path.stem


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["adapter=lora,lora_fa", "rank=4,8,16", "alpha=16"], ["lora", "lora_fa"]),
        (["adapter=lora,rslora", "rank=4,8"], []),
        (["adapter=rslora,dylora", "rank=4,8", "alpha=6"], []),  # by their own definition
        (["adapter=lora", "rank=8", "alpha=8,16"], []),
        (["adapter=lora", "rank=4,8", "alpha=8,16"], []),  # both scales at each rank
    ],
)
def test_a_scale_that_follows_the_rank_is_said_before_the_sweep(
    overrides: list[str], expected: list[str], reader: Composer
) -> None:
    said = drifting_scales(run_configs([*SMALL, *overrides]))
    assert [warning.split("'")[0] for warning in said] == expected
    assert all("(4 at 4, 2 at 8, 1 at 16)" in warning for warning in said)
