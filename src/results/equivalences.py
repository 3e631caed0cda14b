"""Codes that give the same results, each proven by a run that came out bit for bit the same under both.

`results/equivalences.yaml` has classes of equal codes. The first of a class stands for all, and a run is looked for under
each of them, so results outlive a refactoring that `python -m src.verify` has compared with a stored run.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any, TypedDict

import yaml

from src.errors import UserError, first_line
from src.files import write_text
from src.results.code import ROOT, Code

EQUIVALENCES = ROOT / "results" / "equivalences.yaml"
HEAD = "# Codes with the same results; written by `python -m src.verify`, which compared the runs named.\n"


class Proof(TypedDict):
    """The run that a code repeated: its folder, and digests of what was equal."""

    run: str
    tensors: str
    predictions: str


class Equivalence(TypedDict):
    """A class of equal codes for one method and task; `proofs` has one for each code but the first."""

    method: str
    task: str
    codes: list[Code]
    proofs: list[Proof]


def canonical(code: Code) -> Code:
    """The code that stands for all that are proven to give the same results: the first of its class, or itself.

    Raises:
        UserError: the file is damaged, or has an equivalence that nothing verified.
    """
    return equal_codes(code)[0]


def equal_codes(code: Code) -> list[Code]:
    """All codes that are proven to give the same results as a code, itself among them.

    Raises:
        UserError: as `canonical`.
    """
    return next((entry["codes"] for entry in read_equivalences() if code in entry["codes"]), [code])


def read_equivalences(path: Path | None = None) -> list[Equivalence]:
    """All classes of a file, by default of this installation's.

    Raises:
        UserError: as `canonical`.
    """
    path = path or EQUIVALENCES
    return _read(path, path.stat().st_mtime_ns) if path.exists() else []


@lru_cache(maxsize=4)
def _read(path: Path, changed_ns: int) -> list[Equivalence]:
    try:
        equivalences: Any = yaml.safe_load(path.read_text(encoding="utf-8")) or []
        for equivalence in equivalences:
            _check(equivalence, path)
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} can't be read: {first_line(error)}.\nRestore it: git checkout -- {path.name}") from error
    return list(equivalences)


def _check(equivalence: Equivalence, path: Path) -> None:
    """Refuse a class with a code that no compared run stands behind."""
    codes, proofs = equivalence["codes"], equivalence["proofs"]
    complete = all(proof["run"] and proof["tensors"] and proof["predictions"] for proof in proofs)
    if len(proofs) != len(codes) - 1 or not complete:
        raise UserError(
            f"{path} calls codes of {equivalence['method']} on {equivalence['task']} equal that nothing verified.\n"
            "Remove that entry, and let `python -m src.verify RUN` write it from a run of that method and task."
        )


def add_equivalence(method: str, task: str, older: Code, newer: Code, proof: Proof, path: Path | None = None) -> None:
    """Write that a run of the older code came out the same under the newer one; classes that this joins become one."""
    path = path or EQUIVALENCES
    entries = read_equivalences(path)
    joined: Equivalence = {"method": method, "task": task, "codes": [older], "proofs": []}
    for entry in (entry for entry in entries if older in entry["codes"] or newer in entry["codes"]):
        joined = _joined(entry, joined, proof) if entry["codes"][0] != older else _joined(joined, entry, proof)
    if newer not in joined["codes"]:
        joined = _joined(joined, {**joined, "codes": [newer], "proofs": []}, proof)
    others = [entry for entry in entries if not any(code in joined["codes"] for code in entry["codes"])]
    written = sorted([*others, joined], key=lambda entry: (entry["method"], entry["task"]))
    write_text(path, HEAD + yaml.safe_dump(written, sort_keys=False, default_flow_style=None, width=160))


def _joined(first: Equivalence, second: Equivalence, proof: Proof) -> Equivalence:
    """Two classes as one that keeps the first's name; the proof is what links the second's first code to it."""
    proofs = dict(zip(map(str, second["codes"]), [proof, *second["proofs"]], strict=True))
    added = [code for code in second["codes"] if code not in first["codes"]]
    return {
        "method": first["method"],
        "task": first["task"],
        "codes": [*first["codes"], *added],
        "proofs": [*first["proofs"], *(proofs[str(code)] for code in added)],
    }
