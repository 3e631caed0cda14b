"""A run is repeated from its record alone, and what differs is said."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from safetensors.torch import load_file

from src.config.schema import Config
from src.errors import UserError
from src.files import write_json
from src.results import checkout, digests, equivalences
from src.results.checkout import check_out
from src.results.equivalences import canonical, read_equivalences
from src.results.store import ADAPTER, PREDICTIONS, RESULT, read_record
from src.running.lifecycle import run
from src.running.repeat import repeat
from src.running.sweep import Plan
from src.verify import runs_below, verify
from tests.conftest import HANG_SECONDS, ROOT, run_here

Make = Callable[..., Config]


@pytest.fixture
def finished(tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a finished run, and no equivalences but this test's."""
    monkeypatch.setattr(equivalences, "EQUIVALENCES", tmp_path / "equivalences.yaml")
    config = tiny("adapter=lora", "rank=2", "trainer.max_steps=3")
    plan = Plan.of([config])
    assert run(config, plan) == "done"
    return Path(plan.folders[0])


def change(folder: Path, **changes: Any) -> None:
    """Change parts of a run's record, one level deep."""
    record: Any = read_record(folder)
    for key, values in changes.items():
        record[key] = {**record[key], **values} if isinstance(values, dict) else values
    write_json(folder / RESULT, record)


def test_a_run_repeated_from_its_record_is_the_same_bit_for_bit(finished: Path) -> None:
    (finished / ADAPTER).unlink()  # as committed records are
    repetition = repeat(finished)
    assert repetition.is_same
    assert not repetition.made_with
    assert not repetition.is_proof
    assert repetition.equal.pop("tensors") > 2
    others = {"predictions": 128, "history": 4, "metrics": 2, "parameters": 9, "forgetting": 6}
    assert repetition.equal == others


def test_a_run_from_before_something_was_measured_is_compared_in_what_it_has(finished: Path) -> None:
    record: Any = read_record(finished)
    for score in record["metrics"].values():
        del score["secondary"]
    write_json(finished / RESULT, record)
    table = pd.read_parquet(finished / PREDICTIONS)
    table = table.drop(columns=["answer_nats", "answer_tokens", "answer_bytes"])
    table.to_parquet(finished / PREDICTIONS, index=False)
    repetition = repeat(finished)
    assert repetition.is_same
    assert repetition.equal["predictions"] == 128
    record["metrics"]["test"]["earlier"] = 1.0  # what isn't measured any more is a difference
    table.assign(earlier=1.0).to_parquet(finished / PREDICTIONS, index=False)
    write_json(finished / RESULT, record)
    assert repeat(finished).different.keys() == {"metrics", "predictions"}


def test_a_run_of_other_code_that_comes_out_the_same_makes_the_codes_equal(finished: Path, capsys: Any) -> None:
    older = {"revision": "f00d", "method": "LoRA", "task": "reverse_words"}
    change(finished, provenance={"code": older})
    assert verify([finished])
    assert "it was made with other code of revision f00d" in capsys.readouterr().out
    (entry,) = read_equivalences()
    assert entry["codes"][0] == older
    assert canonical(entry["codes"][1]) == older
    assert entry["proofs"][0]["run"] == finished.name


@pytest.mark.parametrize("kind", ["tensors", "metrics", "history", "predictions"])
def test_what_differs_is_named_and_makes_no_codes_equal(finished: Path, capsys: Any, kind: str) -> None:
    record: Any = read_record(finished)
    if kind == "predictions":
        table = pd.read_parquet(finished / PREDICTIONS)
        table.loc[0, "prediction"] += "x"
        table.to_parquet(finished / PREDICTIONS, index=False)
    else:
        changes = {
            "tensors": {next(iter(record["tensors"])): "0" * 16},
            "metrics": {"test": record["metrics"]["test"] | {"value": 0.75}},
            "history": [{**record["history"][0], "loss": 99.0}, *record["history"][1:]],
        }
        change(finished, **{kind: changes[kind]})
    change(finished, provenance={"code": {"revision": "f00d", "method": "LoRA", "task": "reverse_words"}})
    assert not verify([finished])
    printed = capsys.readouterr().out
    assert f"  {kind} differ: " in printed
    assert "0 of 1 runs bit-identical" in printed
    assert read_equivalences() == []


def test_without_digests_of_tensors_no_code_is_called_equal(finished: Path, capsys: Any) -> None:
    record: Any = read_record(finished)
    del record["tensors"]
    record["provenance"]["code"] = {"revision": "f00d", "method": "LoRA", "task": "reverse_words"}
    write_json(finished / RESULT, record)
    assert verify([finished])
    assert "its record has no digests of tensors" in capsys.readouterr().out
    assert read_equivalences() == []


def test_other_versions_and_hardware_are_named(finished: Path) -> None:
    record: Any = read_record(finished)
    packages, device = record["provenance"]["packages"], record["provenance"]["device"]
    change(finished, provenance={"packages": packages | {"torch": "1.0"}, "device": device | {"name": "a GPU"}})
    torch, hardware = repeat(finished).made_with
    assert torch.startswith("torch 1.0 (here ")
    assert hardware.startswith(f"a GPU, {device['precision']} (here ")


def test_a_run_that_cannot_be_repeated_hides_no_other(finished: Path, capsys: Any) -> None:
    other = Path(shutil.copytree(finished, finished.with_name("other")))
    record: Any = read_record(other)
    change(other, identity={"task": record["identity"]["task"] | {"fingerprint": "beef"}})
    assert not verify([other, finished])
    printed = capsys.readouterr().out
    assert "can't be repeated here: " in printed
    assert "1 of 2 runs bit-identical" in printed


def test_other_data_is_refused_before_anything_is_trained(finished: Path) -> None:
    record: Any = read_record(finished)
    change(finished, identity={"task": record["identity"]["task"] | {"fingerprint": "beef"}})
    with pytest.raises(UserError, match="was made on the rows beef; here task=reverse_words has "):
        repeat(finished)


def test_runs_are_named_by_their_folders_or_by_one_above(finished: Path) -> None:
    results = finished.parents[3]
    assert runs_below([str(finished)]) == runs_below([str(results)]) == runs_below([str(finished.parent)]) == [finished]
    with pytest.raises(UserError, match="has no finished run"):
        runs_below([str(results / "elsewhere")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Which run?"),
        (["results/nosuch"], "results/nosuch has no finished run"),
        (["results/nine_runs", "chekout=x"], "chekout is not an option.\nAllowed: checkout=..."),
        (["results/nine_runs/runs/docstrings", "checkout=x"], "has no record that says what made it"),
    ],
)
def test_a_mistake_on_the_command_line_is_answered(arguments: list[str], message: str) -> None:
    done = run_here("src.verify", *arguments)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a committed and then changed file, in which checkouts are made."""
    root = tmp_path / "clone"
    (root / "src").mkdir(parents=True)
    (root / "src/code.py").write_text("value = 1\n")
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *arguments], check=True)
    (root / "src/code.py").write_text("value = 2\n")
    (root / "src/new.py").write_text("value = 3\n")
    monkeypatch.setattr(checkout, "ROOT", root)
    monkeypatch.setattr("src.results.provenance.ROOT", root)
    return root


def made_by(repository: Path, folder: Path, diff: str | None = None) -> Path:
    """A record of a run on the repository's changed code, or with another diff."""
    from src.results import provenance

    revision = subprocess.run(["git", "-C", str(repository), "rev-parse", "HEAD"], capture_output=True, text=True)
    diff = provenance.uncommitted_diff.__wrapped__() if diff is None else diff
    record = json.loads(next((ROOT / "results/nine_runs/runs").rglob(RESULT)).read_text())
    record["provenance"] |= {"git_revision": revision.stdout.strip(), "git_diff": diff}
    folder.mkdir()
    write_json(folder / RESULT, record)
    return folder


def test_the_code_of_an_uncommitted_state_comes_back(repository: Path, tmp_path: Path) -> None:
    check_out(made_by(repository, tmp_path / "run"), tmp_path / "then")
    assert (tmp_path / "then/src/code.py").read_text() == "value = 2\n"
    assert (tmp_path / "then/src/new.py").read_text() == "value = 3\n"


def test_a_diff_that_does_not_apply_and_an_unknown_revision_are_said(repository: Path, tmp_path: Path) -> None:
    other = "--- a/src/code.py\n+++ b/src/code.py\n@@ -1 +1 @@\n-value = 7\n+value = 8\n"
    with pytest.raises(UserError, match=r"don't apply to revision(.|\n)*has the revision without them"):
        check_out(made_by(repository, tmp_path / "run", other), tmp_path / "then")
    change(tmp_path / "run", provenance={"git_revision": "f" * 40})
    with pytest.raises(UserError, match=r"this clone doesn't have(.|\n)*git fetch"):
        check_out(tmp_path / "run", tmp_path / "other")


def test_changes_that_the_record_does_not_hold_are_said(repository: Path, tmp_path: Path) -> None:
    run = made_by(repository, tmp_path / "run", "")
    change(run, provenance={"git_dirty": True})
    with pytest.raises(UserError, match=r"that its record doesn't hold\.\nIts revision alone: git worktree add"):
        check_out(run, tmp_path / "then")


def test_a_users_settings_for_diffs_do_not_spoil_the_stored_one(repository: Path, tmp_path: Path) -> None:
    for key, value in (("diff.noprefix", "true"), ("color.ui", "always"), ("diff.external", "echo")):
        subprocess.run(["git", "-C", str(repository), "config", key, value], check=True)
    check_out(made_by(repository, tmp_path / "run"), tmp_path / "then")
    assert (tmp_path / "then/src/code.py").read_text() == "value = 2\n"


def test_a_folder_that_is_taken_is_said(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "then").mkdir()
    (tmp_path / "then/file").touch()
    with pytest.raises(UserError, match=r"checkout=.* can't be made"):
        check_out(made_by(repository, tmp_path / "run"), tmp_path / "then")


def test_digests_tell_tensors_apart_by_bits_shape_and_format(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    base = torch.arange(6, dtype=torch.float32)
    variants = [base, base.reshape(2, 3), base.bfloat16(), base.clone().index_fill_(0, torch.tensor([0]), -0.0)]
    seen = set()
    for number, tensor in enumerate(variants):
        save_file({"x": tensor}, tmp_path / f"{number}.safetensors")
        seen |= set(digests.tensor_digests(tmp_path / f"{number}.safetensors").values())
    assert len(seen) == len(variants)


GOLDEN = """
import sys
from pathlib import Path
from src.results import equivalences
from src.verify import runs_below, verify
equivalences.EQUIVALENCES = Path(sys.argv[1])  # a copy: a test writes no proofs
sys.exit(0 if verify(runs_below(["results/golden"])) else 1)
"""


@pytest.mark.slow
def test_the_golden_runs_come_out_as_they_were(tmp_path: Path) -> None:
    """Where the hardware or a version is another, bits may differ without a fault: then there is nothing to show."""
    shutil.copy(ROOT / "results/equivalences.yaml", tmp_path)
    # Tests have one thread each, and another number is other hardware.
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", GOLDEN, str(tmp_path / "equivalences.yaml")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment,
        timeout=HANG_SECONDS,
    )
    if done.returncode and "(here " in done.stdout:
        pytest.skip(f"made elsewhere: {re.findall('made with other (.*)', done.stdout)[0]}")
    methods = len(list((ROOT / "conf/adapter").rglob("*.yaml"))) - 1  # peft/custom names no method
    assert f"{methods} of {methods} runs bit-identical" in done.stdout, done.stdout + done.stderr


def test_a_saved_adapter_has_the_recorded_digests(finished: Path) -> None:
    record: Any = read_record(finished)
    assert set(record["tensors"]) == set(load_file(finished / ADAPTER))
    assert record["tensors"] == digests.tensor_digests(finished / ADAPTER)
