"""Codes that give the same results, each proven by a run that came out bit for bit the same under both.

`results/equivalences.yaml` has classes of equal codes, the oldest first. A run's identity has the oldest, so results
outlive a refactoring that `python -m src.verify` has compared with a stored run.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any, TypedDict

import yaml

from src.errors import UserError
from src.files import replacing
from src.results.code import ROOT, Code

EQUIVALENCES = ROOT / "results" / "equivalences.yaml"
HEAD = "# Codes with the same results, oldest first; written by `python -m src.verify`, which compared the runs named.\n"


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
    """The oldest code that is proven to give the same results, else the code itself.

    Raises:
        UserError: the file is damaged, or has an equivalence that nothing verified.
    """
    for equivalence in read_equivalences():
        if code in equivalence["codes"]:
            return equivalence["codes"][0]
    return code


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
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} can't be read: {reason}.\nRestore it: git checkout -- {path.name}") from error
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
    """Write that a run of the older code came out the same under the newer one."""
    path = path or EQUIVALENCES
    equivalences = [dict(equivalence) for equivalence in read_equivalences(path)]
    joined: Any = next((entry for entry in equivalences if older in entry["codes"]), None)  # type: ignore[operator]
    if joined is None:
        joined = {"method": method, "task": task, "codes": [older], "proofs": []}
        equivalences.append(joined)
    if newer in joined["codes"]:
        return
    joined["codes"], joined["proofs"] = [*joined["codes"], newer], [*joined["proofs"], proof]
    equivalences.sort(key=lambda entry: (str(entry["method"]), str(entry["task"])))
    with replacing(path) as partial:
        text = yaml.safe_dump(equivalences, sort_keys=False, default_flow_style=None, width=160)
        partial.write_text(HEAD + text, encoding="utf-8")
