"""Records of the first version become records of today's, and nothing else about them changes."""

import json
from pathlib import Path
from typing import Any

from src.files import write_json
from src.results.identity import run_name
from src.results.migration import migrate
from src.results.schema import SCHEMA_VERSION
from src.results.store import RESULT, read_all
from src.results.stored_run import config_of
from tests.conftest import ROOT, run_program

TODAY = next((ROOT / "results/nine_runs/runs").rglob(f"lora_fa-r8-*-s0-*/{RESULT}"))


def older(record: dict[str, Any]) -> dict[str, Any]:
    """A record as the first version wrote it."""
    older = json.loads(json.dumps(record)) | {"schema_version": 1, "results_version": 1, "run_id": "lora_fa-old"}
    identity = older["identity"]
    del identity["code"], identity["model"]["files"], older["provenance"]["code"]
    identity["adapter"] = {"method": "src.adapters.lora_fa.LoRAFA", "options": identity["adapter"]["options"]}
    identity["task"]["loader"] = "src.tasks.docstrings.load"
    identity["trainer"]["precision"] = "auto"
    older["config"]["adapter"].pop("version", None)
    return dict(older)


def stored(results_dir: Path, record: dict[str, Any], name: str = "lora_fa-old") -> Path:
    folder = results_dir / "runs/docstrings/minilm" / name
    folder.mkdir(parents=True)
    write_json(folder / RESULT, record)
    return folder


def test_an_older_record_gets_todays_identity_and_name_and_keeps_the_rest(tmp_path: Path) -> None:
    today = json.loads(TODAY.read_text())
    stored(tmp_path, older(today))
    code = {"revision": today["provenance"]["git_revision"], "method": "LoRAFA", "task": "docstrings"}
    identity = today["identity"] | {"code": code}  # the revision is all that an older record says of its code
    assert migrate(tmp_path) == ({"lora_fa-old": run_name(config_of(today), identity)}, [])
    (record,) = read_all(tmp_path)
    assert record["identity"] == identity
    assert record["identity"]["code"] == record["provenance"]["code"] == code
    assert record["schema_version"] == SCHEMA_VERSION
    for key in ("metrics", "parameters", "history", "time", "memory", "data", "seeds", "warnings"):
        assert record[key] == today[key]
    assert migrate(tmp_path) == ({}, [])


def test_a_failed_runs_record_is_brought_up_to_date_too(tmp_path: Path) -> None:
    record = older(json.loads(TODAY.read_text()))
    bare = {key: record[key] for key in ("run_id", "identity", "config")}
    stored(tmp_path, bare | {"state": "failed", "error": {"class": "E", "message": "boom"}})
    assert len(migrate(tmp_path)[0]) == 1
    assert read_all(tmp_path)[0]["state"] == "failed"


def test_a_record_on_changed_code_says_so(tmp_path: Path) -> None:
    record = older(json.loads(TODAY.read_text()))
    record["provenance"]["git_dirty"] = True
    stored(tmp_path, record)
    migrate(tmp_path)
    assert read_all(tmp_path)[0]["identity"]["code"]["revision"].endswith(" with uncommitted changes")


def test_records_that_cant_be_brought_up_to_date_are_told_and_stop_no_other(tmp_path: Path) -> None:
    record = older(json.loads(TODAY.read_text()))
    damaged = stored(tmp_path, {"schema_version": 1}, "a-damaged")
    (stored(tmp_path, record, "b-folder") / RESULT).unlink()
    (tmp_path / "runs/docstrings/minilm/b-folder" / RESULT).mkdir()
    stored(tmp_path, record)
    same = stored(tmp_path, record, "lora_fa-older")
    renamed, problems = migrate(tmp_path)
    assert list(renamed) == ["lora_fa-old"]
    assert len(problems) == 3
    assert f"{damaged / RESULT} is not a run record" in problems[0]
    assert "b-folder" in problems[1]
    assert problems[2].startswith(f"{same} and ")
    assert problems[2].endswith(" are the same run.\nKeep one of the two: move the other elsewhere.")
    assert json.loads((same / RESULT).read_text()) == record


def test_a_folder_without_runs_is_answered(tmp_path: Path) -> None:
    done = run_program("src.results.migration", f"results_dir={tmp_path}")
    assert done.returncode == 2
    assert "holds no runs" in done.stderr
