"""One bad record, file or name is one row that says so, and everything else goes on."""

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from src import verify
from src.analysis.collect import collect
from src.analysis.comparison import compare
from src.analysis.figures.save import save_all
from src.analysis.formats import latex, markdown
from src.analysis.report.page import page
from src.analysis.sweep import load
from src.analysis.terminal import print_runs
from src.config.schema import Config
from src.errors import UserError
from src.files import read_json
from src.report import write_report
from src.results import store
from src.results.schema import Record, misfit
from src.results.store import CLAIM, CONFIG, FIT, PREDICTIONS, RESULT, check_writable, read_record, run_folders
from src.results.stored_run import finished_run
from src.running import lifecycle
from src.running.fitting import Fit
from src.running.lifecycle import run
from src.running.sweep import Plan
from src.running.tuning import Cell, curve_of
from src.studies.study_tables import made_tables
from tests.conftest import ROOT

Make = Callable[..., Config]
SOURCES = sorted(path.parent for path in (ROOT / "results/nine_runs/runs").rglob(f"lora-*/{RESULT}"))[:3]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder with three finished runs, of which the tests damage the first."""
    for source in SOURCES:
        shutil.copytree(source, tmp_path / "runs/docstrings/minilm" / source.name)
    return tmp_path


def first(results: Path) -> Path:
    return results / "runs/docstrings/minilm" / SOURCES[0].name


def changed(**changes: Any) -> Callable[[str], str]:
    """Damage by other values, with dots in the keys for those inside."""

    def damage(text: str) -> str:
        record = json.loads(text)
        for key, value in changes.items():
            *outer, last = key.split("__")
            inner = record
            for name in outer:
                inner = inner[name]
            inner[last] = value
        return json.dumps(record)

    return damage


TUNED = {"axis": "lr", "chosen": 0.1, "at_edge": False}  # but for its trials
# Each is read in one place: that all else goes on is tested with some of them below.
DAMAGED: dict[str, Callable[[str], str | bytes]] = {
    "a seed beyond 64 bits": changed(config__seed=2**63),
    "a seed far beyond": changed(config__seed=10**400),
    "a seed that is a text": changed(config__seed="0"),
    "a seed that is true": changed(config__seed=True),
    "a rank that is a list": changed(config__rank=[8]),
    "a rank that is half a number": changed(config__rank=8.5),
    "a rate that is a text": changed(config__lr="0.1"),
    "a name that is a number": changed(config__adapter__name=7),
    "a name that is missing": changed(config__model__name=None),
    "a name with a line break": changed(config__adapter__name="a\nb"),
    "a name with a NUL": changed(config__task__name="a\0b"),
    "axes that are no list": changed(config__adapter__axes=3),
    "a config that is a list": changed(config=[1]),
    "an identity that is a text": changed(identity="x"),
    "settings of another kind": changed(identity__trainer=[1, 2]),
    "a state that is a number": changed(state=3),
    "a state that no run has": changed(state="finished"),
    "another seed than its identity's": changed(config__seed=7),
    "another rank than its identity's": changed(config__rank=64),
    "another rate than its identity's": changed(identity__lr=5.0),
    "a share in percent": changed(metrics__test__value=73.5),
    "a share below all shares": changed(metrics__validation__value=-1.5),
    "a time that is negative": changed(time__run_seconds=-10.0),
    "a count that is negative": changed(parameters__trained=-5),
    "no memory at all": changed(memory={}),
    "a time that is a text": changed(time__train_seconds="long"),
    "a count beyond 64 bits": changed(parameters__adapter_trained=2**64),
    "a sum of counts beyond 64 bits": changed(parameters__adapter_trained=2**63 - 1, parameters__other_trained=1),
    "a score that is null": changed(metrics__test__value=None),
    "a score that is a text": changed(metrics__test__value="good"),
    "metrics that are a list": changed(metrics=[]),
    "a history of texts": changed(history=["loss"]),
    "a history without steps": changed(history=[{"loss": 1.0}]),
    "warnings that are a text": changed(warnings="beware"),
    "flags that are numbers": changed(flags=[1]),
    "a tuning without trials": changed(tuning=TUNED),
    "a trial without a rate": changed(tuning={**TUNED, "trials": [{"state": "done", "validation": 0.5}]}),
    "a version that is a text": changed(schema_version="two"),
    "packages that are a list": changed(provenance__packages=["torch"]),
    "NaN": lambda text: text.replace('"value": 0.', '"value": NaN, "was": 0.', 1),
    "minus infinity": lambda text: text.replace('"scaling": ', '"scaling": -Infinity, "was": ', 1),
    "a number beyond doubles": lambda text: text.replace('"value": 0.', '"value": 1e999, "was": 0.', 1),
    "a key twice": lambda text: text.replace('"state"', '"run_id": "x", "state"', 1),
    "cut off": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "a list": lambda text: "[]",
    "no JSON": lambda text: "<html>",
    "a byte order mark": lambda text: "\ufeff" + text,
    "nested without end": lambda text: '{"a":' * 100_000,
    "an endless number": lambda text: text.replace('"seed": ', '"seed": ' + "9" * 5000, 1),
    "Latin-1": lambda text: text.replace('"command": "', '"command": "\xe9', 1).encode("latin-1"),
    "half a surrogate pair": lambda text: text.replace('"command": "', r'"command": "\ud800', 1),
}  # fmt: skip


def damage(folder: Path, how: Callable[[str], str | bytes]) -> None:
    path = folder / RESULT
    content = how(path.read_text(encoding="utf-8"))
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def check_one_row_is_lost(results: Path) -> pd.DataFrame:
    """One row says that its record can't be read, in a line, and the others are as they were."""
    runs = collect(results)
    lost = runs[runs["state"] != "done"]
    assert len(runs) == len(SOURCES)
    assert lost["state"].tolist() == ["unreadable"]
    assert lost["run_id"].tolist() == [SOURCES[0].name]
    assert "\n" not in lost["reason"].iloc[0]
    assert lost["reason"].iloc[0].startswith(f"{SOURCES[0].name}: ")
    return runs


@pytest.mark.parametrize("how", DAMAGED.values(), ids=DAMAGED)
def test_a_bad_record_is_one_row_that_says_why(results: Path, how: Callable[[str], str | bytes]) -> None:
    damage(first(results), how)
    check_one_row_is_lost(results)


# What is no record, and one that no table can hold.
@pytest.mark.parametrize("name", ["Latin-1", "a seed beyond 64 bits"])
def test_everything_else_goes_on_beside_a_bad_record(
    name: str, results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(first(results), DAMAGED[name])
    runs = check_one_row_is_lost(results)
    cells = compare(runs).cells
    assert (cells["n"].sum(), cells["failed"].sum()) == (len(SOURCES) - 1, 1)
    tables = made_tables("any", runs, compare(runs))
    assert f"unreadable: {SOURCES[0].name}" in markdown(tables["comparison"].text)
    assert all(latex(table.text, table.notes).isascii() for table in tables.values())
    assert "unreadable" in write_report(results).read_text()
    print_runs(run_folders(results))
    printed = capsys.readouterr().out
    rows = [line.split()[:3] for line in printed.splitlines() if line.startswith("lora")]
    assert rows == [["lora", "16", "all_linear"]] * (len(SOURCES) - 1)
    assert f"unreadable:{SOURCES[0].name}:" in re.sub(r"\s+", "", printed)  # it is wrapped
    check_writable(results)
    asked: list[str] = []

    def repeated(folder: Path) -> None:
        asked.append(folder.name)
        if folder == first(results):
            finished_run(folder)
        raise TypeError("what nobody has thought of")

    monkeypatch.setattr(verify, "repeat", repeated)
    assert verify.verify(verify.runs_below([str(results)])) is False
    assert asked == [source.name for source in SOURCES]


def test_figures_are_drawn_beside_a_bad_record_and_an_odd_name(results: Path) -> None:
    damage(first(results), DAMAGED["a seed beyond 64 bits"])
    for source in SOURCES[1:]:
        # Each would be a folder, a formula or a tag where it isn't a text.
        odd = changed(config__adapter__name="a$b$\\frac{<!--<script>", config__task__name="../no/where")
        damage(results / "runs/docstrings/minilm" / source.name, odd)
    files, _ = save_all(load(results), results / "figures")
    assert files
    assert {path.parent for path in files} == {results / "figures"}


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


@pytest.mark.parametrize("make", [as_folder, as_link_to_itself])
def test_what_is_no_file_is_a_row_too(results: Path, make: Callable[[Path], None]) -> None:
    make(first(results) / RESULT)
    check_one_row_is_lost(results)


@pytest.mark.parametrize("name", [RESULT, CONFIG])
def test_a_file_that_may_not_be_read_is_a_row(results: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read_text = Path.read_text

    def guarded(path: Path, *args: Any, **kwargs: Any) -> str:
        # As for whoever isn't root with a file of mode 000.
        if path in (first(results) / RESULT, first(results) / name):
            raise PermissionError(13, "Permission denied", str(path))
        return read_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", guarded)
    runs = check_one_row_is_lost(results)
    assert "Permission denied" in runs[runs["state"] != "done"]["reason"].iloc[0]


def test_a_folder_that_may_not_be_looked_into_is_a_row(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir, read_text = os.scandir, Path.read_text

    def refused(path: Any) -> None:
        if Path(path) in (first(results), first(results) / RESULT, first(results) / CONFIG):
            raise PermissionError(13, "Permission denied", str(path))

    def guarded(path: Any) -> Any:
        refused(path)
        return scandir(path)

    def guarded_text(path: Path, *args: Any, **kwargs: Any) -> str:
        refused(path)
        return read_text(path, *args, **kwargs)

    monkeypatch.setattr(os, "scandir", guarded)
    monkeypatch.setattr(Path, "read_text", guarded_text)
    check_one_row_is_lost(results)


def test_a_folder_name_that_is_no_text_is_a_row_and_can_be_written(results: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(first(results).parent) + b"/lora-\xff"))
    try:
        shutil.copytree(first(results), folder)
    except OSError as error:
        pytest.skip(f"this file system has no such names: {error}")
    (folder / RESULT).write_text("{")
    (folder / CONFIG).write_text("{")
    runs = collect(results)
    assert sorted(runs["state"]) == ["done"] * len(SOURCES) + ["unreadable"]
    markdown(compare(runs).cells.astype(str)).encode()
    write_report(results)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet", None])
def test_predictions_that_cant_be_read_are_a_footnote(results: Path, content: bytes | None) -> None:
    path = first(results) / PREDICTIONS
    path.unlink(missing_ok=True)
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    cells = compare(collect(results)).cells
    assert cells["n"].sum() == len(SOURCES)
    assert sum("items not used" in note for note in cells["notes"]) == 1


def test_predictions_of_another_kind_are_a_footnote(results: Path) -> None:
    texts = pd.DataFrame({"split": ["test", "validation"], "score": ["good", "bad"]})
    texts.to_parquet(first(results) / PREDICTIONS, index=False)
    assert sum("items not used" in note for note in compare(collect(results)).cells["notes"]) == 1


# --- where runs are looked for ---


def test_links_are_followed_and_each_run_is_there_once(results: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("scratch") / "minilm"
    (results / "runs/docstrings/minilm").rename(elsewhere)
    (results / "runs/docstrings/minilm").symlink_to(elsewhere)
    (elsewhere / "up").symlink_to(results / "runs")  # back to where it is
    (elsewhere / "again").symlink_to(elsewhere / SOURCES[0].name)
    (elsewhere / "gone").symlink_to(elsewhere / "nowhere")
    (results / "runs/other").symlink_to(results / "runs/docstrings")
    runs = collect(results)
    assert sorted(runs["run_id"]) == [source.name for source in SOURCES]
    assert {folder.resolve() for folder in runs["folder"]} == {elsewhere / source.name for source in SOURCES}
    assert [folder.name for folder in verify.runs_below([str(results)])] == sorted(source.name for source in SOURCES)


def test_a_folder_goes_by_its_own_path_where_a_link_leads_there_too(results: Path) -> None:
    (results / "runs/a-link").symlink_to(results / "runs/docstrings")
    assert run_folders(results) == [results / "runs/docstrings/minilm" / source.name for source in SOURCES]


def test_what_was_exported_into_a_run_is_no_run(results: Path) -> None:
    (first(results) / "export/merged").mkdir(parents=True)
    (first(results) / "export/merged" / CONFIG).write_text("{}")
    assert len(run_folders(results)) == len(SOURCES)


# --- the report ---


@pytest.mark.parametrize(
    "text",
    ["<!--<script>", "</script>", "<!--", "]]>", "/*PLOTLY*/", "/*SCRIPT*/ \\1 \\g<0>", "\u2028", "</ScRiPt >", "&lt;"],
)
def test_no_text_in_a_run_ends_or_changes_the_report(text: str) -> None:
    made = page({"runs": text, text: [text]})
    script = re.search(r'<script type="application/json" id="data">(.*?)</script>', made, re.DOTALL)
    assert script is not None
    assert "<" not in script[1]
    assert json.loads(script[1]) == {"runs": text, text: [text]}
    plain = page({})
    assert len(made) - len(script[1]) == len(plain) - len("{}")


# --- claims ---


def claim_of(host: str, folder: Path, silent_seconds: float) -> None:
    (folder / CLAIM).write_text(json.dumps({"host": host, "pid": 1, "started": 0}))
    os.utime(folder / CLAIM, (time.time() - silent_seconds,) * 2)


@pytest.mark.parametrize("ahead_seconds", [-86_400, -660, 660, 86_400])
def test_no_machines_clock_decides_whether_a_worker_elsewhere_lives(
    tmp_path: Path, ahead_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time
    claim_of("elsewhere", tmp_path, 1)
    monkeypatch.setattr(time, "time", lambda: real() + ahead_seconds)
    assert store.is_held(tmp_path)
    with store.claimed(tmp_path) as mine:
        assert not mine
    assert [path.name for path in tmp_path.iterdir()] == [CLAIM]


def test_a_share_whose_clock_is_behind_is_compared_with_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    behind_seconds = 3600.0
    touch = Path.touch

    def touched(path: Path, *args: Any, **kwargs: Any) -> None:
        touch(path, *args, **kwargs)
        os.utime(path, (time.time() - behind_seconds,) * 2)

    monkeypatch.setattr(Path, "touch", touched)
    claim_of("elsewhere", tmp_path, behind_seconds + 30)  # renewed half a minute ago, by the share's clock
    assert store.is_held(tmp_path)
    claim_of("elsewhere", tmp_path, behind_seconds + store.STALE_SECONDS + 30)
    assert not store.is_held(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[]", "null", '{"host": 7}', '{"host": "x", "pid": "y"}', "\udcff", "[" * 100_000, '{"host": "x"}']
)
def test_a_claim_that_says_nothing_is_judged_by_its_silence(tmp_path: Path, text: str) -> None:
    (tmp_path / CLAIM).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert store.is_held(tmp_path)
    os.utime(tmp_path / CLAIM, (0, 0))
    assert not store.is_held(tmp_path)
    with store.claimed(tmp_path) as mine:
        assert mine


def test_a_process_number_that_no_process_has_is_a_dead_workers(tmp_path: Path) -> None:
    (tmp_path / CLAIM).write_text(json.dumps({"host": os.uname().nodename, "pid": 10**30}))
    assert not store.is_held(tmp_path)


# --- runs ---


@pytest.mark.parametrize("make", [as_folder, lambda path: path.write_text('{"state": "do')])
def test_a_run_whose_record_cant_be_read_ends_in_a_line_and_stays_as_it_is(
    tiny: Make, make: Callable[[Path], Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = [tiny("adapter=lora", "rank=2", f"seed={seed}") for seed in (0, 1)]
    monkeypatch.setattr(lifecycle, "_execute_tracked", failing)
    for folder in Plan.of(configs).folders:
        Path(folder).mkdir(parents=True)
    path = Path(Plan.of(configs).folders[0]) / RESULT
    path.write_text("")
    make(path)
    plan = Plan.of(configs)
    assert plan.to_run == plan.folders
    assert [run(config, plan) for config in configs] == ["unreadable", "failed"]
    assert "unreadable: " in capsys.readouterr().out
    assert path.exists()
    assert not (path.parent / CONFIG).exists()
    assert plan.seconds_left() is None
    print_runs([Path(folder) for folder in plan.folders])
    assert "boom" in capsys.readouterr().out


def failing(*args: Any) -> Record:
    raise RuntimeError("boom")


def test_a_trial_whose_record_cant_be_read_is_none(tiny: Make) -> None:
    cell = Cell([tiny("adapter=lora", "rank=2")])
    folder = Path(Plan.of([cell.trial(0.1)]).folders[0])
    folder.mkdir(parents=True)
    (folder / RESULT).write_text("{")
    curve = curve_of(cell, {(0, 0): cell.trial(0.1), (2, 0): cell.trial(0.2)})
    tried = [trial for trials in curve.tried.values() for trial in trials]
    assert [(trial.state, trial.is_sound) for trial in tried] == [("unreadable", False), ("not run", False)]
    assert not any(trial.is_broken for trial in tried)
    assert curve.chosen is None


def test_a_run_that_cant_write_its_record_ends_in_a_line(
    tiny: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    config = tiny("adapter=lora", "rank=2")
    plan = Plan.of([config])
    monkeypatch.setattr(lifecycle, "write_json", full)
    assert run(config, plan) == "failed"
    assert "no record could be written: OSError: [Errno 28] No space left on device" in capsys.readouterr().out
    assert not (Path(plan.folders[0]) / CLAIM).exists()


def test_a_run_whose_data_went_away_ends_in_a_line(
    tiny: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(config: Config) -> None:
        raise UserError("the rows are gone")

    config = tiny("adapter=lora", "rank=2")
    plan = Plan.of([config])
    monkeypatch.setattr(lifecycle, "inputs_of", gone)
    assert run(config, plan) == "failed"
    assert capsys.readouterr().out == "failed: lora on reverse_words: the rows are gone\n"


def test_a_record_with_a_number_that_isnt_finite_is_diverged(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> Any:
        record = json.loads((SOURCES[0] / RESULT).read_text())
        record["metrics"]["test"]["more"] = {"f1": float("nan")}
        return record

    monkeypatch.setattr("src.running.execute.execute", broken)
    config = tiny("adapter=lora", "rank=2")
    plan = Plan.of([config])
    assert run(config, plan) == "diverged"
    record = read_record(Path(plan.folders[0]))
    assert record is not None
    assert record["error"] is not None
    assert "isn't finite" in record["error"]["message"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"training": 3}', '{"training": {"steps": 1}}'])
def test_a_damaged_fit_is_no_fit(tmp_path: Path, text: str) -> None:
    (tmp_path / store.ADAPTER).touch()
    (tmp_path / FIT).write_text(text)
    assert Fit.read(tmp_path, {}) is None


def test_a_run_that_broke_and_gives_no_reason_is_said_so(results: Path) -> None:
    damage(first(results), changed(state="diverged"))
    reasons = set(collect(results)["reason"].dropna())
    assert reasons == {"its record gives no reason"}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("name", "f1", "metric"), ("unit", "points", "unit"), ("higher_is_better", False, "higher_is_better")],
)
def test_runs_of_one_cell_that_differ_in_what_they_measure_are_said(
    results: Path, key: str, value: Any, said: str
) -> None:
    damage(first(results), changed(**{f"metrics__test__{key}": value}))
    notes = "; ".join(compare(collect(results)).cells["notes"])
    assert f"its runs differ in {said}: " in notes


@pytest.mark.parametrize("name", ["a rank that is a list", "cut off"])
def test_what_is_asked_of_a_bad_record_is_answered(results: Path, name: str) -> None:
    damage(first(results), DAMAGED[name])
    with pytest.raises(UserError, match="is not a run record"):
        finished_run(first(results))


def test_committed_records_are_of_the_schema() -> None:
    paths = sorted((ROOT / "results").glob("*/runs/**/result.json"))
    assert len(paths) > 400
    assert [text for path in paths[::9] if (text := misfit(read_json(path), Record))] == []
