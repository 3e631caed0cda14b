"""Tables and figures are functions of the runs alone, and hide nothing."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from src.analysis.collect import COLUMNS, rows_of_record, settings
from src.analysis.comparison import comparison
from src.analysis.formats import markdown
from src.analysis.tables.comparison_table import readable
from src.analysis.terminal import print_runs
from tests.conftest import ROOT


def run(adapter: str, rank: int | None, seed: int, **facts: object) -> dict[str, object]:
    scores = {"validation": 0.5 + 0.01 * seed, "test": 0.4 + 0.03 * seed}
    counts = {"trained": 1000 * (rank or 1) + 50, "body_trained": 1000 * (rank or 1), "total": 10_000}
    cell = {"task": "t", "model": "m", "adapter": adapter, "rank": rank, "target": "qv", "seed": seed, "lr": 0.1}
    return {"run_id": f"{adapter}-{rank}-{seed}", "state": "done", "settings": {"trainer.steps": "5"}, "alpha": 2.0,
            "run_seconds": 3.0, "metric": "accuracy", "validation_metric": "accuracy", "higher_is_better": True,
            "validation_higher_is_better": True, **cell, **scores, **counts, **facts}  # fmt: skip


def frame(*rows: dict[str, object]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=COLUMNS).astype({"rank": "Int64", "seed": "Int64"})


def test_a_cell_is_the_mean_and_sample_deviation_over_its_seeds() -> None:
    table = comparison(frame(*(run("lora", 4, seed) for seed in (0, 1, 5))))
    scores = np.array([0.4, 0.43, 0.55])
    assert len(table) == 1
    assert table["n"][0] == 3
    assert table["test_mean"][0] == pytest.approx(scores.mean())
    assert table["test_std"][0] == pytest.approx(scores.std(ddof=1))


def test_one_seed_has_no_deviation() -> None:
    text = readable(comparison(frame(run("lora", 4, 0))))
    assert text["test accuracy % ↑"][0] == "40.0"
    assert text["n"][0] == "1"


def test_runs_that_differ_in_a_setting_are_not_averaged_and_the_setting_is_named() -> None:
    other = run("lora", 4, 1, settings={"trainer.steps": "7"})
    table = comparison(frame(run("lora", 4, 0), other))
    assert table["n"].tolist() == [1, 1]
    assert sorted(table["differs"]) == ["trainer.steps=5", "trainer.steps=7"]
    assert "trainer.steps=7" in markdown(readable(table))


def test_options_that_only_one_method_has_are_no_difference() -> None:
    first = run("lora", 4, 0, settings={"trainer.steps": "5", "adapter.options.init": '"gaussian"'})
    assert not comparison(frame(first, run("lora_fa", 4, 0)))["differs"].any()


def test_a_failed_run_is_shown_with_its_reason() -> None:
    failed = {**run("lora", 4, 1), "state": "failed", "reason": "boom\nand more", "test": None, "validation": None}
    table = comparison(frame(run("lora", 4, 0), failed))
    assert (table["n"][0], table["failed"][0]) == (1, 1)
    assert "failed: boom and more" in markdown(readable(table))


def test_a_cell_whose_runs_all_failed_is_still_there() -> None:
    failed = {key: None for key in ("test", "validation", "trained", "body_trained", "total")}
    table = comparison(frame(run("lora", 4, 0), {**run("lora", 8, 0), **failed, "state": "diverged", "reason": "nan"}))
    assert readable(table)["test accuracy % ↑"].tolist() == ["40.0", "-"]


def test_the_same_runs_give_the_same_bytes_in_any_order() -> None:
    rows = [run(adapter, rank, seed) for adapter in ("b", "a") for rank in (8, 2) for seed in (0, 1)]
    first, other = (markdown(readable(comparison(frame(*order)))) for order in (rows, rows[::-1]))
    assert first == other
    assert [line.split()[1:4:2] for line in first.splitlines()[2:4]] == [["a", "2"], ["a", "8"]]


def test_the_smaller_ranks_of_one_training_are_rows_that_say_so() -> None:
    other = {"adapter_trained": 40, "other_trained": 3, "head_trained": 5, "adapter_frozen": 0, "total": 1000}
    record: Any = {
        "run_id": "dylora-r4", "state": "done", "error": None, "seeds": {}, "scaling": 2.0,
        "config": {"task": {"name": "t"}, "model": {"name": "m"}, "target": {"name": "qv"}, "seed": 0, "lr": 0.1,
                   "adapter": {"name": "dylora", "axes": ["rank", "target", "lr"]}, "rank": 4, "alpha": None},
        "identity": {"adapter": {"options": {}}, "model": {}, "task": {}, "trainer": {}},
        "metrics": {"validation": {"name": "accuracy", "value": 0.5}, "test": {"name": "accuracy", "value": 0.4}},
        "parameters": other | {"trained": 48},
        "smaller_ranks": [{"rank": 1, "adapter_trained": 10, "validation": 0.2, "test": 0.1}],
        "time": {"train_seconds": 1.0, "run_seconds": 2.0}, "memory": {"saved_for_backward_bytes": 1, "precision": "x"},
        "provenance": {"device": {"name": "cpu"}, "git_revision": "0", "packages": {}, "code": {"revision": "0"}},
    }  # fmt: skip
    runs = pd.DataFrame(rows_of_record(record), columns=COLUMNS).astype({"rank": "Int64", "trained_rank": "Int64"})
    text = readable(comparison(runs))
    assert text["rank"].tolist() == ["1 of 4", "4 of 4"]
    assert text["test accuracy % ↑"].tolist() == ["10.0", "40.0"]
    assert text["trainable params (w/o head)"].tolist() == ["13", "43"]
    assert runs["trained"].tolist() == [18, 48]


def test_tasks_models_and_metrics_have_columns_where_there_are_several() -> None:
    judged = run("lora", 4, 0, task="u", validation=1.25, validation_metric="loss", validation_unit="nats",
                 validation_higher_is_better=False, metric="judge_rating", test=5.5, unit="rating")  # fmt: skip
    plain = run("lora", 4, 0)
    table = readable(comparison(frame(plain, judged)))
    assert table["task"].tolist() == ["t", "u"]
    assert table["validation by"].tolist() == ["accuracy ↑", "loss ↓"]
    assert table["test by"].tolist() == ["accuracy ↑", "judge_rating ↑"]
    assert table["validation"].tolist() == ["50.0 %", "1.250"]
    assert table["test ↑"].tolist() == ["40.0 %", "5.500"]
    assert "model" not in table
    assert not {"task", "test by", "validation", "test ↑"} & set(readable(comparison(frame(plain))))


def test_a_run_by_a_paper_s_protocol_says_so_in_its_settings() -> None:
    identity: dict[str, Any] = {part: {} for part in ("model", "task", "trainer")} | {"adapter": {"options": {}}}
    assert settings(identity | {"protocol": "paper"})["protocol"] == "paper"
    assert "protocol" not in settings(identity)


def test_the_table_that_ends_a_sweep_names_its_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for study in ("glue_sst2", "glue_mrpc"):
        shutil.copytree(ROOT / "results" / study / "runs", tmp_path / "runs", dirs_exist_ok=True)
    print_runs(sorted(path.parent for path in tmp_path.rglob("result.json")))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["task", "adapter"]
    assert [line.split()[0] for line in lines[1:13]] == ["mrpc"] * 6 + ["sst2"] * 6


def test_the_table_that_ends_a_sweep_marks_doubtful_runs_and_says_what_a_message_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "results/nine_runs/runs", tmp_path / "runs")
    doubtful, failed, *rest = sorted(path.parent for path in tmp_path.rglob("lora-*/result.json"))
    record = json.loads((doubtful / "result.json").read_text())
    (doubtful / "result.json").write_text(json.dumps(record | {"flags": ["at chance"]}))
    record = json.loads((failed / "result.json").read_text())
    message = "model.head=[/x] is not :smile: [bold]known"  # none of which is markup
    record |= {"state": "failed", "error": {"class": "E", "message": message}}
    (failed / "result.json").write_text(json.dumps(record))
    print_runs([doubtful, failed, *rest, tmp_path / "gone"])
    output = capsys.readouterr().out
    rows = [line for line in output.splitlines() if line.startswith("lora ")]
    assert ["*" in row for row in rows] == [True, *[False] * len(rest)]
    assert f"* doubtful: at chance (1 of {1 + len(rest)} runs); `warnings` in result.json says more" in output
    assert message in " ".join(output.split())
    assert "not run: gone: no record" in output


def test_a_sweep_without_runs_ends_without_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_runs([])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("width", [None, 100, 80, 60, 40, 10])
def test_the_table_that_ends_a_sweep_cuts_no_number(
    width: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "results/nine_runs/runs", tmp_path / "runs")
    folders = sorted(path.parent for path in tmp_path.rglob("result.json"))
    monkeypatch.setattr("src.analysis.terminal.columns", lambda: width)
    monkeypatch.setenv("COLUMNS", "30")  # Rich would take it
    print_runs(folders)
    head, *rows = (line.rstrip() for line in capsys.readouterr().out.splitlines())
    rows, notes = rows[: len(folders)], rows[len(folders) :]
    names = head.split()
    for folder, row in zip(folders, rows, strict=True):
        record = json.loads((folder / "result.json").read_text())
        cells = dict(zip(names, row.split(), strict=True))
        ledger = record["parameters"]
        assert cells["params"] == f"{ledger['adapter_trained'] + ledger['other_trained']:,}"
        assert cells["test"] == f"{record['metrics']['test']['value']:.4f}"
    if width is None or width >= 80:
        assert names == ["adapter", "rank", "target", "seed", "lr", "scaling", "params", "val", "test", "s"]
    else:
        assert max(map(len, [head, *rows])) <= max(width, 40)
        left_out = next(note for note in notes if note.startswith("left out for want of width: "))
        assert {"s", "scaling"} <= set(left_out.partition(": ")[2].partition(";")[0].split(", "))


def test_a_reason_with_brackets_is_told_in_full(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "runs" / "a" / "b" / "lora-s0"
    print_runs([folder], {str(folder): "set target.roles=[gate] or [/bold] :smile:"})
    assert "failed: lora-s0: set target.roles=[gate] or [/bold] :smile:" in capsys.readouterr().out
