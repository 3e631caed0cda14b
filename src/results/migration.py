"""Bring records of an older version up to date, in place.

    python -m src.results.migration results_dir=results/my_study

Older records identify their method and loader by Python paths, have `auto` for a precision and no fingerprint of the
code that made them: that becomes the revision that they name. A run's folder is named by its identity, so it is
renamed. Nothing else changes, and records that are up to date stay as they are.
"""

from pathlib import Path
from typing import Any

from src.config.arguments import answer_help, options
from src.config.composition import user_errors
from src.config.schema import Config
from src.console import steady_output
from src.errors import UserError
from src.files import read_json, write_json
from src.interrupts import interruptible
from src.models.base_model import find_weights
from src.models.weights import description_digests
from src.results.identity import Inputs, identity, run_name
from src.results.schema import SCHEMA_VERSION
from src.results.store import ADAPTER, RESULT, run_folders
from src.results.stored_run import config_from


def migrate(results_dir: Path) -> tuple[dict[str, str], list[str]]:
    """Bring all records under a results folder up to date that can be.

    Returns:
        Old names of runs with their new ones; what is wrong with the records that stay as they are: one can't be read,
        or two turn out to be the same run.
    """
    renamed, problems = dict[str, str](), list[str]()
    for folder in run_folders(results_dir):
        path = folder / RESULT
        try:
            record = read_json(path)
            if record.get("schema_version", 1) < SCHEMA_VERSION:
                renamed[folder.name] = _migrated(folder, record).name
        except FileNotFoundError:
            continue
        except UserError as error:
            problems.append(str(error))
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            problems.append(f"{path} is not a run record ({error}).\nDelete its folder to run it again.")
    return renamed, problems


def _migrated(folder: Path, record: dict[str, Any]) -> Path:
    """Rewrite one record and rename its folder; returns the new one."""
    config = config_from(record["config"])
    values = _identity(config, record)
    target = folder.with_name(run_name(config, values))
    if target.exists():
        raise UserError(f"{folder} and {target} are the same run.\nKeep one of the two: move the other elsewhere.")
    record.pop("results_version", None)
    if "provenance" in record:
        record["provenance"]["code"] = values["code"]
    if (folder / ADAPTER).exists():
        from src.results.digests import tensor_digests  # imports torch

        record["tensors"] = tensor_digests(folder / ADAPTER)
    record |= {"schema_version": SCHEMA_VERSION, "run_id": target.name, "identity": values}
    write_json(folder / RESULT, record)
    return folder.rename(target)


def _identity(config: Config, record: dict[str, Any]) -> dict[str, Any]:
    """The record's identity in today's form; a part that the record doesn't tell is null and equals no new run's."""
    inputs = Inputs(
        data=record["identity"]["task"]["fingerprint"],
        model_files=_model_files(config),
        precision=record.get("memory", {}).get("precision", config.trainer.precision),
        code=_code(config, record),
    )
    return identity(config, inputs)


def _model_files(config: Config) -> dict[str, Any]:
    """Digests of the files beside the weights, where these are at hand and have the recorded checksum."""
    try:
        weights = find_weights(config.model)
    except UserError:
        return {"config": None, "tokenizer": None}
    return dict(description_digests(weights)) if weights else {}


def _code(config: Config, record: dict[str, Any]) -> dict[str, str]:
    """What stands for the code of a record from before fingerprints: its revision, for its method and task."""
    made = record.get("provenance", {})
    revision = f"{made.get('git_revision') or 'unknown'}{' with uncommitted changes' if made.get('git_dirty') else ''}"
    return {"revision": revision, "method": config.adapter.method.rpartition(".")[2], "task": config.task.name}


def main() -> None:
    """Migrate the folder that the command line names; a user's mistake ends the program with status 2."""
    answer_help(__doc__)
    with user_errors():
        results_dir = Path(options(results_dir="results")["results_dir"])
        if not run_folders(results_dir):
            raise UserError(f"{results_dir} holds no runs.\nName a folder with results_dir=...")
        renamed, problems = migrate(results_dir)
        for old, new in renamed.items():
            print(f"{old} -> {new}")
        print(f"{len(renamed)} records brought to version {SCHEMA_VERSION} in {results_dir}")
        if problems:
            raise UserError("\n".join(problems))


if __name__ == "__main__":
    with steady_output(), interruptible():
        main()
