"""Files appear whole or not at all and are everyone's as the umask says; caches that are damaged are made again."""

import errno
import gzip
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from src import caches
from src.caches import place_caches
from src.errors import UserError
from src.files import cached, open_to_others, replacing, write_json, write_text
from src.tasks import docstrings
from tests.conftest import ROOT


@pytest.fixture(params=[0o022, 0o027, 0o002])
def umask(request: Any) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_a_file_has_the_permissions_that_the_umask_gives(umask: int, tmp_path: Path) -> None:
    with replacing(tmp_path / "adapter.safetensors") as partial:
        save_file({"weight": torch.ones(2)}, partial)
    save_file({"weight": torch.ones(2)}, tmp_path / "model.safetensors")
    open_to_others(tmp_path)
    write_json(tmp_path / "a.json", {"a": 1})
    cached(tmp_path / "c.json.gz", lambda: 1)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o666 & ~umask}
    assert load_file(tmp_path / "adapter.safetensors")["weight"].tolist() == [1, 1]


@pytest.mark.parametrize("at", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_other(at: str, tmp_path: Path, monkeypatch: Any) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "result.json"
    write_json(path, {"a": 1})
    monkeypatch.setattr(
        *{"write": (Path, "write_text"), "fsync": (os, "fsync"), "replace": (Path, "replace")}[at], full
    )
    with pytest.raises(OSError, match="No space left"):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_system_without_fsync_is_no_reason_to_lose_a_file(tmp_path: Path, monkeypatch: Any) -> None:
    def unknown(descriptor: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", unknown)
    write_text(tmp_path / "a", "b")
    assert (tmp_path / "a").read_text() == "b"


def test_a_name_that_is_no_utf8_is_written_and_read_back(tmp_path: Path) -> None:
    name = os.fsdecode(b"results-\xff")
    write_json(tmp_path / "a.json", {"results_dir": name, "text": "±"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"results_dir": name, "text": "±"}


def test_two_writers_with_one_process_id_do_not_share_a_file(tmp_path: Path) -> None:
    with replacing(tmp_path / "a") as first, replacing(tmp_path / "a") as second:
        assert first != second
        first.write_text("1")
        second.write_text("2")
    assert (tmp_path / "a").read_text() == "1"
    assert len(list(tmp_path.iterdir())) == 1


def packed(text: str) -> bytes:
    return gzip.compress(text.encode())


def with_digest(text: str) -> bytes:
    """A cache's whole file."""
    return packed(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")


WHOLE = with_digest('{"texts": ["a", "b"]}')
DAMAGED = {
    "empty": b"",
    "cut off": WHOLE[:-9],
    "cut to its head": WHOLE[:5],
    "not packed": b'{"texts": ["a"]}',
    "overwritten": WHOLE[:12] + bytes(8) + WHOLE[20:],
    "of an older format": packed('{"texts": ["a"]}'),
    "of another digest": packed('0\n{"texts": ["a", "b"]}'),
    "no text": gzip.compress(b"\xff\xfe\xff"),
    "no JSON": with_digest('{"texts": ['),
    "nothing in it": packed(""),
}


@pytest.mark.parametrize(
    ("content", "value"), [(WHOLE, {"texts": ["a", "b"]}), (with_digest("0"), 0)], ids=["texts", "a number"]
)
def test_a_whole_cache_is_read(content: bytes, value: Any, tmp_path: Path) -> None:
    path = tmp_path / "c.json.gz"
    path.write_bytes(content)
    assert cached(path, lambda: pytest.fail("made again")) == value


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_cache_is_made_again(content: bytes, tmp_path: Path) -> None:
    path, value = tmp_path / "folder" / "c.json.gz", {"texts": ["a", "±"]}
    path.parent.mkdir()
    path.write_bytes(content)
    assert cached(path, lambda: value) == value
    assert cached(path, lambda: None) == value
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("how", ["a file in the way", "a folder of that name", "a full disk"])
def test_a_cache_that_cannot_be_written_is_done_without(
    how: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    path = tmp_path / "folder" / "c.json.gz"
    if how == "a file in the way":
        path.parent.touch()
    elif how == "a folder of that name":
        path.mkdir(parents=True)
    else:
        monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    assert [cached(path, lambda: [1]) for _ in range(2)] == [[1], [1]]
    assert "made again each time" in capsys.readouterr().out


def test_two_programs_may_fill_a_cache_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from src.files import cached\n"
        "for number in range(60):\n"
        "    assert cached(Path(sys.argv[1], f'{number}.json.gz'), lambda: list(range(999))) == list(range(999))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    programs = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) for _ in range(3)]
    assert [program.communicate()[1] for program in programs] == [b""] * 3
    assert len(list(tmp_path.iterdir())) == 60


def test_the_docstrings_come_from_a_whole_cache_alone(tmp_path: Path, monkeypatch: Any) -> None:
    reads = []

    def read() -> dict[str, list[str]]:
        reads.append(1)
        return {"pandas": ["a text"]}

    monkeypatch.setattr(docstrings, "_read_texts", read)
    for _ in range(2):
        assert docstrings._cached_texts(tmp_path) == {"pandas": ["a text"]}
    assert len(reads) == 1
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-10])
    assert docstrings._cached_texts(tmp_path) == {"pandas": ["a text"]}
    assert len(reads) == 2


VARIABLES = (
    "HF_HOME", "HF_HUB_CACHE", "HF_MODULES_CACHE", "HF_DATASETS_CACHE", "HF_EVALUATE_CACHE", "HF_METRICS_CACHE",
    "MPLCONFIGDIR", "TRITON_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR",
    "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME",
)  # fmt: skip


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No variable moves a cache, and what the code sets is undone."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "undone at the end")
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize("home", ["/proc/nowhere", "~", "/dev/null"])
def test_without_a_home_all_caches_are_in_cache_dir(home: str, environ: Any, tmp_path: Path) -> None:
    environ.setenv("HOME", home)
    place_caches(tmp_path)
    moved = [os.environ[name] for name in VARIABLES if name in os.environ]
    assert len(moved) == 10
    assert all(Path(path).is_relative_to(tmp_path / "libraries") for path in moved)
    for name in VARIABLES:
        environ.delenv(name, raising=False)
    with pytest.raises(UserError, match="Set cache_dir=<folder>") as refusal:
        place_caches(Path("/proc/nowhere"))
    assert len(str(refusal.value).splitlines()) == 2


def test_with_a_home_no_cache_is_moved(environ: Any, tmp_path: Path) -> None:
    environ.setenv("HOME", str(tmp_path / "not" / "made" / "yet"))
    place_caches(Path("/proc/nowhere"))
    assert not [name for name in VARIABLES if name in os.environ]


def test_what_the_user_named_and_what_an_administrator_filled_stay(environ: Any, tmp_path: Path) -> None:
    (tmp_path / "shared" / "hub").mkdir(parents=True)
    environ.setattr(caches, "_can_write", lambda path: path.is_relative_to(tmp_path / "libraries"))
    environ.setenv("HOME", "/proc/nowhere")
    environ.setenv("HF_HOME", str(tmp_path / "shared"))
    environ.setenv("MPLCONFIGDIR", "mine")
    place_caches(tmp_path)
    assert "HF_HUB_CACHE" not in os.environ  # read where it is
    assert os.environ["HF_MODULES_CACHE"] == str(tmp_path / "libraries" / "hf_modules_cache")
    assert os.environ["MPLCONFIGDIR"] == "mine"


def test_no_folder_for_temporary_files_is_refused_before_anything_runs(environ: Any, tmp_path: Path) -> None:
    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    environ.setattr("tempfile.gettempdir", none)
    with pytest.raises(UserError, match="Set TMPDIR"):
        place_caches(tmp_path)
