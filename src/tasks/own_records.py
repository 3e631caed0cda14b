"""Where the splits of one's own data are: in one file, in a folder with a file a split, or on the hub."""

import re
from dataclasses import replace
from pathlib import Path

from src.config.own_data import is_on_hub
from src.config.schema import SourceConfig
from src.errors import UserError, first_line
from src.hub import hub_folder
from src.tasks.file_formats import ENDINGS
from src.tasks.source import DataRecord, Source, ending, read

SPLIT_NAMES = {"train": ["train", "training"], "validation": ["validation", "valid", "val", "dev"], "test": ["test"]}
SHARD = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})")
SplitRecords = list[tuple[DataRecord, dict[str, str]]]  # records with the set that each is of, if any


def records_by_split(source: Source) -> tuple[dict[str, SplitRecords], list[str]]:
    """The records of each split that there is, "train" among them, and notes on what isn't used.

    Raises:
        UserError: there are none, or it isn't clear which are whose.
    """
    path = source.task.path
    if path is None:
        return _of_sources(source), []
    if is_on_hub(path):
        return _of_hub(source, path)
    if Path(path).is_dir():
        return {split: _of_files(files) for split, files in _split_files(Path(path)).items()}, []
    if not Path(path).is_file():
        raise UserError(
            f"task.path={path} doesn't exist.\nAllowed: a file, a folder with train.csv and the like, or owner/name on "
            "the hub."
        )
    return {"train": _of_files([Path(path)])}, []


def _of_files(files: list[Path]) -> SplitRecords:
    records = [record for file in files for record in read(file)]
    if not records:
        raise UserError(f"{', '.join(map(str, files))} has no rows.")
    return [(record, {}) for record in records]


def _of_sources(source: Source) -> dict[str, SplitRecords]:
    """The parts that `task.sources` gives a file or a place on the hub."""
    # A file without a folder is looked for from where the program runs.
    task = replace(source.task, data_dir=source.task.data_dir or ".")
    source = Source(task, source.cache_dir)
    found: dict[str, SplitRecords] = {}
    for part, place in task.sources.items():
        split, _, name = part.partition("_")
        if split not in SPLIT_NAMES or (name and split != "test"):
            raise UserError(f"task.sources.{part} is no split's.\nAllowed: train, validation, test, test_<set>.")
        if place.file or place.hub_id:
            found.setdefault(split, []).extend(
                (record, {"set": name} if name else {}) for record in source.records(part)
            )
    return _with_train(found, "task.sources")


def _with_train(found: dict[str, SplitRecords], where: str) -> dict[str, SplitRecords]:
    if "train" not in found:
        raise UserError(f"{where} has no training rows.\nAllowed: {', '.join(SPLIT_NAMES['train'])}.")
    return found


def _split_files(folder: Path) -> dict[str, list[Path]]:
    """The files of each split in a folder, by their names; those of one split may be numbered."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and ending(path) in ENDINGS]
    files = [path for path in files if not path.name.startswith(".") and ending(path) != "txt"]
    found: dict[str, list[Path]] = {}
    for path in files:
        split = _split_of(path)
        if split is None:
            raise UserError(
                f"{path} is no split's file.\nAllowed: files called {_allowed_names()}.\n"
                "Or name each file: task.sources.train.file=... task.sources.test.file=..."
            )
        found.setdefault(split, []).append(path)
    if "train" not in found:
        listed = ", ".join(path.name for path in files[:6]) or "no data"
        raise UserError(f"task.path={folder} has no file of training rows, but {listed}.\nAllowed: train.csv, ...")
    for split, its in found.items():
        _check_shards(split, its)
    return found


def _allowed_names() -> str:
    return ", ".join(name for names in SPLIT_NAMES.values() for name in names)


def _split_of(path: Path) -> str | None:
    stem = path.name.removesuffix(".gz").rpartition(".")[0]
    shard = SHARD.fullmatch(stem)
    name = shard["name"] if shard else stem
    return next((split for split, names in SPLIT_NAMES.items() if name.lower() in names), None)


def _check_shards(split: str, files: list[Path]) -> None:
    """Refuse several files of a split that aren't all of its numbered parts."""
    shards = [SHARD.match(path.name) for path in files]
    counts = {(shard["name"], shard["count"], path.parent) for shard, path in zip(shards, files, strict=True) if shard}
    if len(files) == 1 and not counts:
        return
    if not all(shards) or len(counts) > 1:
        raise UserError(
            f"{files[0]} and {files[1]} are both files of {split}.\nAllowed: one, or parts numbered 00000-of-00002.\n"
            "Or name the one that is meant: task.sources.train.file=... task.sources.test.file=..."
        )
    expected = int(next(iter(counts))[1])
    if len(files) != expected:
        raise UserError(
            f"{files[0].parent} has {len(files)} of the {expected} files of {split}.\nAllowed: all of them."
        )


def _of_hub(source: Source, path: str) -> tuple[dict[str, SplitRecords], list[str]]:
    """The splits of a data set's default configuration on the hub; what is named otherwise is said."""
    hub_id, _, revision = path.partition("@")
    remedy = (
        f"There is no file or folder {path} here either.\n"
        "Give one in task.path, or run once with a network, which fills the cache."
    )
    folder = hub_folder(hub_id, revision or None, kind="dataset", patterns=None, remedy=remedy)
    # Imported here, as it takes long and files need none of it.
    import datasets

    try:
        names = datasets.get_dataset_split_names(str(folder))
    except (ValueError, FileNotFoundError, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            f"task.path={path} has no single configuration that can be read: {first_line(error)}.\n"
            "Name each part: task.sources.train.hub_id=..., .hub_config=..., .split=..., and the same for test."
        ) from error
    found: dict[str, SplitRecords] = {}
    split_of = {name: split for split, known in SPLIT_NAMES.items() for name in known}
    for name in (name for name in names if name in split_of):
        place = SourceConfig(hub_id=hub_id, revision=revision or None, split=name)
        task = replace(source.task, data_dir=None, sources={split_of[name]: place})
        found[split_of[name]] = [(record, {}) for record in Source(task, source.cache_dir).records(split_of[name])]
    unused = [name for name in names if name not in split_of]
    notes = [f"task={source.task.name}: {path} has further splits, which aren't used: {', '.join(unused)}"]
    return _with_train(found, f"task.path={path}"), notes if unused else []
