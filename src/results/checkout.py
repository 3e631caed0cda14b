"""The code that made a run, in a folder of its own: its revision, with the uncommitted changes that its record holds."""

import subprocess
from pathlib import Path

from src.errors import UserError
from src.results.code import ROOT
from src.results.store import read_record


def check_out(run: Path, folder: Path) -> None:
    """Make a git worktree of the run's revision in `folder` and apply the record's diff there.

    Raises:
        UserError: no record, no such revision in this clone, the folder is taken, or the diff doesn't apply.
    """
    record = read_record(run)
    if record is None or "provenance" not in record:
        raise UserError(f"{run} has no record that says what made it.\nName a finished run.")
    revision, diff = record["provenance"]["git_revision"], record["provenance"].get("git_diff")
    if record["provenance"]["git_dirty"] and not diff:
        raise UserError(
            f"{run} was made with uncommitted changes that its record doesn't hold.\n"
            f"Its revision alone: git worktree add {folder} {revision}"
        )
    if revision is None or _git("cat-file", "-e", f"{revision}^{{commit}}").returncode:
        raise UserError(
            f"{run} was made by revision {revision}, which this clone doesn't have.\n"
            "Run it in a clone that does: git fetch --all, or git fetch --unshallow."
        )
    made = _git("worktree", "add", "--detach", str(folder.absolute()), revision)
    if made.returncode:
        reason = made.stderr.strip().splitlines()[-1]
        raise UserError(f"checkout={folder} can't be made: {reason}.\nChoose an empty folder, or one that isn't there.")
    applied = _git("-C", str(folder.absolute()), "apply", "-", text=diff) if diff else None
    if applied and applied.returncode:
        raise UserError(
            f"The uncommitted changes that {run} was made with don't apply to revision {revision[:8]}: "
            f"{applied.stderr.strip().splitlines()[0]}.\n"
            f"{folder} has the revision without them; they are in its {run.name}/result.json under provenance.git_diff."
        )
    changes = " with its uncommitted changes" if diff else ""
    print(f"{folder}: revision {revision[:8]}{changes}\nmade by: {record['provenance']['command']}")


def _git(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, input=text)
