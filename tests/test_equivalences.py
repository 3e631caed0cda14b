"""Codes count as equal only where a compared run stands behind it."""

from pathlib import Path

import pytest
import yaml

from src.errors import UserError
from src.results import equivalences
from src.results.digests import digest
from src.results.equivalences import EQUIVALENCES, Proof, add_equivalence, canonical, read_equivalences
from src.results.identity import run_folder
from src.results.store import read_all
from tests.conftest import ROOT, composed, some_inputs

PROOF: Proof = {"run": "lora-r4-s0", "tensors": "1", "predictions": "2"}
OLDEST = {"revision": "f00d", "method": "LoRA", "task": "t"}
OLDER, NEWER = some_inputs().code, some_inputs().code | {"method": "1" * 16}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(equivalences, "EQUIVALENCES", tmp_path / "equivalences.yaml")
    return tmp_path / "equivalences.yaml"


def test_a_chain_of_equal_codes_leads_to_the_oldest(file: Path) -> None:
    assert canonical(NEWER) == NEWER
    add_equivalence("LoRA", "t", OLDEST, OLDER, PROOF)
    add_equivalence("LoRA", "t", OLDER, NEWER, PROOF)
    add_equivalence("LoRA", "t", OLDER, NEWER, PROOF)
    assert canonical(NEWER) == canonical(OLDER) == canonical(OLDEST) == OLDEST
    assert canonical(NEWER | {"training": "2" * 16}) == NEWER | {"training": "2" * 16}
    assert [len(entry["codes"]) for entry in read_equivalences(file)] == [3]


def test_classes_that_share_a_code_become_one_with_a_proof_for_each_code_but_the_first(file: Path) -> None:
    other = OLDER | {"training": "3" * 16}
    add_equivalence("LoRA", "t", OLDEST, NEWER, PROOF)
    add_equivalence("LoRA", "t", other, OLDER, PROOF | {"run": "b"})
    add_equivalence("LoRA", "t", OLDER, NEWER, PROOF | {"run": "c"})
    (entry,) = read_equivalences(file)
    assert {str(code) for code in entry["codes"]} == {str(code) for code in (OLDEST, NEWER, other, OLDER)}
    assert len(entry["proofs"]) == 3
    assert {canonical(code)["method"] for code in (OLDEST, NEWER, other, OLDER)} == {entry["codes"][0]["method"]}


def test_a_run_is_found_under_every_code_that_is_equal_to_todays(file: Path, tmp_path: Path) -> None:
    config = composed(f"results_dir={tmp_path}")
    made = run_folder(config, some_inputs(code=OLDER))
    made.mkdir(parents=True)
    assert run_folder(config, some_inputs(code=NEWER)) != made
    add_equivalence("LoRA", "t", OLDEST, NEWER, PROOF)
    add_equivalence("LoRA", "t", OLDER, NEWER, PROOF)
    assert canonical(NEWER) == OLDEST
    assert run_folder(config, some_inputs(code=NEWER)) == made


@pytest.mark.parametrize(
    "proofs", [[], [{"run": "x", "tensors": "", "predictions": "2"}], [PROOF, PROOF], [{"run": "x"}]]
)
def test_an_equivalence_that_nothing_verified_is_refused_with_the_command_that_helps(
    file: Path, proofs: list[dict[str, str]]
) -> None:
    file.write_text(yaml.safe_dump([{"method": "LoRA", "task": "t", "codes": [OLDER, NEWER], "proofs": proofs}]))
    with pytest.raises(UserError, match=r"(?s)python -m src\.verify RUN|can't be read"):
        canonical(NEWER)


@pytest.mark.parametrize("text", ["[1, 2", "- method: LoRA", "- 3", "\udcff"])
def test_a_damaged_file_is_refused_with_a_remedy(file: Path, text: str) -> None:
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"equivalences\.yaml can't be read: (.|\n)*git checkout"):
        canonical(NEWER)


def test_every_committed_equivalence_names_a_committed_run_of_its_oldest_code_or_a_later_one() -> None:
    records = {
        record["run_id"]: record
        for study in sorted((ROOT / "results").glob("*/runs"))
        for record in read_all(study.parent)
    }
    for entry in read_equivalences(EQUIVALENCES):
        for proof in entry["proofs"]:
            record = records[proof["run"]]
            assert record["identity"]["adapter"]["method"] == entry["method"]
            assert record["provenance"]["code"] in entry["codes"]
            each = {name: digest(value) for name, value in record["tensors"].items()}
            assert digest(each) == proof["tensors"]
