"""The hub: from the cache where it has all, over the network once, and a quick answer where there is neither.

A server on this machine stands in for the hub: it answers as the hub's client asks, and counts.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from src import hub
from src.errors import UserError
from src.hub import CONNECT_SECONDS, hub_folder
from tests.conftest import HANG_SECONDS, ROOT

REVISION = "0123456789abcdef0123456789abcdef01234567"
SLEPT = "the program slept"
# Runs a program in which nothing may wait for a second try.
WITHOUT_SLEEP = f"""
import runpy, sys, time
def sleep(seconds):
    print("{SLEPT}", seconds, file=sys.stderr)
time.sleep = sleep
sys.argv[0] = "src/run.py"
runpy.run_module("src.run", run_name="__main__", alter_sys=True)
"""
# Not by tests.conftest, which forbids the network.
COMPOSE = """
import sys
from hydra import compose, initialize_config_dir
from src.config.composer import CONF
from src.config.composition import user_errors
from src.config.schema import Config
with initialize_config_dir(CONF, version_base="1.3"):
    config = Config.from_hydra(compose("config", sys.argv[1:]))
"""
LOAD = f"""{COMPOSE}
from src.tasks.base import load_task
splits = load_task(config).data.splits
print({{split: len(rows) for split, rows in splits.items()}}, splits["test"])
"""
FIND = f"""{COMPOSE}
from src.models.base_model import find_weights
with user_errors():
    print(find_weights(config.model))
"""


class LocalHub:
    """Repositories as the hub serves them: `files` by "datasets/<id>" or "models/<id>", or an error for all."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.error: tuple[int, str] | None = None
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def do_HEAD(self) -> None:
                outer.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request and note it."""
        path = unquote(urlsplit(request.path).path)
        self.asked.append(path)
        if self.error and path.startswith("/api/"):
            status, code = self.error
            return self.send(request, status, b"{}", {"X-Error-Code": code} if code else {})
        for name, files in self.files.items():
            resolve = f"/{name.removeprefix('models/')}/resolve/{REVISION}/"
            if path == f"/api/{name}/tree/{REVISION}":
                listed = [
                    {"type": "file", "path": file, "size": len(content), "oid": sha256(content).hexdigest()[:40]}
                    for file, content in files.items()
                ]
                return self.send(request, 200, json.dumps(listed).encode(), {"Content-Type": "application/json"})
            if path == f"/api/{name}/revision/main" or path == f"/api/{name}":
                info = json.dumps({"id": name.partition("/")[2], "sha": REVISION, "siblings": []}).encode()
                return self.send(request, 200, info, {"Content-Type": "application/json"})
            if path.startswith(resolve) and (content := files.get(path.removeprefix(resolve))) is not None:
                headers = {"ETag": f'"{sha256(content).hexdigest()[:40]}"', "X-Repo-Commit": REVISION}
                return self.send(request, 200, content, headers)
        return self.send(request, 404, b"{}", {"X-Error-Code": "EntryNotFound"})

    @staticmethod
    def send(request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Send an answer; of a HEAD request's the headers alone."""
        request.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            request.send_header(key, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)


@pytest.fixture
def local_hub() -> Iterator[LocalHub]:
    made = LocalHub()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def closed() -> str:
    """The address of a port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"http://127.0.0.1:{listening.getsockname()[1]}"


Program = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Runs code with an empty cache of the hub's and no proxy but what is given."""

    def run(code: str, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        kept = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        del kept["HF_HUB_OFFLINE"]
        settings = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_TOKEN": ""}
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=ROOT,
            env=kept | settings | variables,
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
        )

    return run


def refused(done: "subprocess.CompletedProcess[str]", folder: Path) -> str:
    """The message of a program that has refused as it should, leaving nothing in `folder`."""
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert SLEPT not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 2
    assert not folder.exists()
    return done.stderr


@pytest.mark.parametrize("task", ["sst2", "gsm8k"])
def test_without_a_network_a_task_of_the_hub_is_refused_at_once_with_what_to_do(
    program: Program, tmp_path: Path, closed: str, task: str
) -> None:
    model = [f"model={'minilm' if task == 'sst2' else 'tiny_llama'}"]
    model += [] if task == "sst2" else ["model.config.max_position_embeddings=768"]
    overrides = [f"task={task}", *model, f"results_dir={tmp_path}/r"]
    message = refused(program(WITHOUT_SLEEP, *overrides, HF_ENDPOINT=closed), tmp_path / "r")
    file = {"sst2": "glue/SST-2/train.tsv", "gsm8k": "gsm8k/train.jsonl"}[task]
    assert message.splitlines()[0].endswith(": it isn't in the cache and the hub can't be reached.")
    assert message.splitlines()[1] == (
        f"Set task.data_dir=<folder> to one that holds {file} (see conf/task/{task}.yaml), "
        "or run once with a network, which fills the cache."
    )


def test_without_a_network_a_model_of_the_hub_is_refused_at_once_with_what_to_do(
    program: Program, tmp_path: Path, closed: str
) -> None:
    done = program(WITHOUT_SLEEP, "model=distilbert", f"results_dir={tmp_path}/r", HF_ENDPOINT=closed)
    message = refused(done, tmp_path / "r")
    assert "the model distilbert" in message
    assert "it isn't in the cache and the hub can't be reached.\nSet model.path=<its folder>, or run once" in message


def test_behind_a_proxy_that_is_down_it_is_refused_at_once_too(program: Program, tmp_path: Path, closed: str) -> None:
    done = program(WITHOUT_SLEEP, "task=sst2", f"results_dir={tmp_path}/r", HTTPS_PROXY=closed)
    assert "it isn't in the cache and the hub can't be reached.\n" in refused(done, tmp_path / "r")


def test_offline_by_choice_means_that_nobody_is_asked(program: Program, tmp_path: Path, local_hub: LocalHub) -> None:
    choice = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": local_hub.address}
    message = refused(program(WITHOUT_SLEEP, "task=sst2", f"results_dir={tmp_path}/r", **choice), tmp_path / "r")
    assert "it isn't in the cache and HF_HUB_OFFLINE is set.\nSet task.data_dir=<folder>" in message
    assert local_hub.asked == []


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (404, "RevisionNotFound", "it has no such revision."),
        (404, "RepoNotFound", "there is no such repository, or it is private."),
        (401, "RepoNotFound", "there is no such repository, or it is private."),
        (403, "GatedRepo", "its terms must be accepted on its page, and `hf auth login` done here."),
        (418, "", "HfHubHTTPError: Client error '418 "),
    ],
)
def test_what_the_hub_answers_is_said_in_a_sentence(
    program: Program, tmp_path: Path, local_hub: LocalHub, status: int, code: str, said: str
) -> None:
    local_hub.error = (status, code)
    overrides = ["task=sst2", f"task.sources.train.revision={REVISION}", f"results_dir={tmp_path}/r"]
    message = refused(program(WITHOUT_SLEEP, *overrides, HF_ENDPOINT=local_hub.address), tmp_path / "r")
    assert f"the dataset nyu-mll/glue at revision {REVISION} can't be had from the hub: {said}" in message
    assert "\nSet task.data_dir=<folder>" in message


def glue(train: int, test: int) -> dict[str, bytes]:
    """A small repository laid out like nyu-mll/glue, with one of its configurations."""
    import io

    import datasets

    files = {}
    lines = ["---", "configs:", "- config_name: sst2", "  data_files:"]
    for split, count in {"train": train, "validation": test}.items():
        rows = [{"sentence": f"{split} {i} ", "label": i % 2, "idx": i} for i in range(count)]
        buffer = io.BytesIO()
        datasets.Dataset.from_list(rows).to_parquet(buffer)
        files[f"sst2/{split}-00000-of-00001.parquet"] = buffer.getvalue()
        lines += [f"  - split: {split}", f"    path: sst2/{split}-*"]
    return {"README.md": "\n".join([*lines, "---", ""]).encode(), **files}


SST2 = ["task=sst2", "task.validation_size=3"]
SST2 += [f"task.sources.{part}.revision={REVISION}" for part in ("train", "test")]
LOADED = f"{dict(train=5, validation=3, test=2)} {[{'text': f'validation {i} ', 'label': i} for i in range(2)]}\n"


@pytest.mark.slow
def test_a_data_set_is_downloaded_once_and_read_from_the_cache_ever_after(
    program: Program, local_hub: LocalHub, closed: str
) -> None:
    local_hub.files["datasets/nyu-mll/glue"] = glue(train=8, test=2)
    first = program(LOAD, *SST2, HF_ENDPOINT=local_hub.address)
    assert (first.stdout, first.returncode) == (LOADED, 0), first.stderr
    asked = len(local_hub.asked)
    assert asked > 0
    for way in ({"HF_ENDPOINT": local_hub.address}, {"HF_ENDPOINT": closed}, {"HF_HUB_OFFLINE": "1"}):
        assert program(LOAD, *SST2, **way).stdout == LOADED
    assert len(local_hub.asked) == asked


def test_a_cache_that_has_some_of_the_files_is_completed_where_there_is_a_network(
    program: Program, local_hub: LocalHub
) -> None:
    local_hub.files["datasets/nyu-mll/glue"] = glue(train=8, test=2)
    one = f"hf_hub_download('nyu-mll/glue', 'README.md', repo_type='dataset', revision='{REVISION}')"
    one = f"from huggingface_hub import hf_hub_download; {one}"
    assert program(one, HF_ENDPOINT=local_hub.address).returncode == 0
    done = program(LOAD, *SST2, HF_ENDPOINT=local_hub.address)
    assert (done.stdout, done.returncode) == (LOADED, 0), done.stderr


def test_a_cache_filled_by_an_older_client_serves_without_a_network(
    program: Program, local_hub: LocalHub, closed: str, tmp_path: Path
) -> None:
    local_hub.files["datasets/nyu-mll/glue"] = glue(train=8, test=2)
    assert program(LOAD, *SST2, HF_ENDPOINT=local_hub.address).returncode == 0
    (listings,) = tmp_path.glob("hf/hub/*/trees")
    shutil.rmtree(listings)
    done = program(LOAD, *SST2, HF_ENDPOINT=closed)
    assert (done.stdout, done.returncode) == (LOADED, 0), done.stderr


def test_a_model_is_downloaded_with_the_files_it_needs_checked_and_read_from_the_cache_ever_after(
    program: Program, local_hub: LocalHub, closed: str, tmp_path: Path
) -> None:
    needed = {"config.json": b"{}", "model.safetensors": b"some weights", "tokenizer.json": b'{"a": 1}'}
    local_hub.files["models/someone/small"] = {**needed, "pytorch_model.bin": b"the same again", "README.md": b"#"}
    named = ["model=stories260k", "task=reverse_words", "model.hub_id=someone/small", f"model.revision={REVISION}"]
    right = f"model.weights_sha256={sha256(b'some weights').hexdigest()}"
    first = program(FIND, *named, right, HF_ENDPOINT=local_hub.address)
    assert first.returncode == 0, first.stderr
    folder = Path(first.stdout.strip())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == needed
    asked = len(local_hub.asked)
    assert program(FIND, *named, right, HF_ENDPOINT=closed).stdout == first.stdout
    wrong = program(FIND, *named, "model.weights_sha256=abc", HF_ENDPOINT=local_hub.address)
    assert wrong.returncode == 2
    assert f"have the checksum\n  {sha256(b'some weights').hexdigest()}, not\n  abc.\n" in wrong.stderr
    assert "install someone/small again" in wrong.stderr
    assert len(local_hub.asked) == asked


def test_a_model_without_weights_of_the_kind_that_is_read_is_refused(program: Program, local_hub: LocalHub) -> None:
    local_hub.files["models/someone/small"] = {"config.json": b"{}", "tf_model.h5": b"x"}
    named = ["model=stories260k", "task=reverse_words", "model.hub_id=someone/small", f"model.revision={REVISION}"]
    done = program(FIND, *named, HF_ENDPOINT=local_hub.address)
    assert done.returncode == 2
    assert "error: model=stories260k: someone/small in " in done.stderr
    assert "has no *.safetensors.\nSet model.path=<its folder>" in done.stderr


def test_without_a_revision_the_newest_is_taken(program: Program, local_hub: LocalHub, closed: str) -> None:
    local_hub.files["datasets/nyu-mll/glue"] = glue(train=8, test=2)
    newest = [argument.replace(REVISION, "null") for argument in SST2]
    assert program(LOAD, *newest, HF_ENDPOINT=local_hub.address).stdout == LOADED
    assert program(LOAD, *newest, HF_ENDPOINT=closed).stdout == LOADED


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[str, int], float]]:
    """The connections that are tried, each with its timeout; all fail, and no proxy is set."""
    tried: list[tuple[tuple[str, int], float]] = []

    def fail(address: tuple[str, int], timeout: float) -> None:
        tried.append((address, timeout))
        raise TimeoutError

    for key in [key for key in os.environ if key.lower().endswith("_proxy")]:
        monkeypatch.delenv(key)
    monkeypatch.setattr(socket, "create_connection", fail)
    hub._is_reachable.cache_clear()
    return tried


@pytest.mark.parametrize(
    ("address", "variables", "tried"),
    [
        ("https://huggingface.co", {}, ("huggingface.co", 443)),
        ("http://mirror.example", {}, ("mirror.example", 80)),
        ("https://mirror.example:8443", {}, ("mirror.example", 8443)),
        ("https://huggingface.co", {"https_proxy": "http://proxy.example:3128"}, ("proxy.example", 3128)),
        ("https://huggingface.co", {"HTTPS_PROXY": "proxy.example:3128"}, ("proxy.example", 3128)),
        ("https://huggingface.co", {"all_proxy": "http://u:p@proxy.example"}, ("proxy.example", 80)),
        ("https://huggingface.co", {"http_proxy": "http://proxy.example:3128"}, ("huggingface.co", 443)),
        ("http://127.0.0.1:9", {"http_proxy": "http://proxy.example:1", "no_proxy": "127.0.0.1"}, ("127.0.0.1", 9)),
    ],
)  # fmt: skip
def test_one_connection_is_tried_for_three_seconds_where_the_hub_or_the_proxy_is(
    monkeypatch: pytest.MonkeyPatch,
    connections: list[tuple[tuple[str, int], float]],
    address: str,
    variables: dict[str, str],
    tried: tuple[str, int],
) -> None:
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    assert not hub._is_reachable(address)
    assert connections == [(tried, CONNECT_SECONDS)]
    assert CONNECT_SECONDS == 3


def test_a_hub_that_swallows_packets_is_waited_for_once_a_process(
    monkeypatch: pytest.MonkeyPatch, connections: list[tuple[tuple[str, int], float]], tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for _ in range(3):
        with pytest.raises(UserError, match=r"the model a/b can't be had .* the hub can't be reached.\nDo this"):
            hub_folder("a/b", None, kind="model", patterns=["*.json"], remedy="Do this")
    assert len(connections) == 1
