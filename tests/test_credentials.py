"""Keys and passwords come to lie nowhere: not in a config, not in a record, not in a text."""

import copy
import json
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from src.config.schema import Config
from src.credentials import check_no_secret, redacted, secrets_in
from src.errors import UserError
from src.judging.client import Client, JudgeConfig
from src.results import provenance
from src.results.store import RESULT, TRACEBACK
from src.running import fitting
from src.running.lifecycle import run
from src.running.sweep import Plan
from tests.conftest import composed

SECRET = "hunter2-and-more"
KEY = "sk-" + "a1B2" * 6

GIVEN: list[tuple[str, Any]] = [
    ("task.judge.base_url", f"https://me:{SECRET}@host/v1"),
    ("task.judge.base_url", f"https://{SECRET}@host/v1"),
    ("task.judge.base_url", f"https://host/v1?api_key={SECRET}"),
    ("task.judge.base_url", "https://host/v1?code=1234abcd"),
    ("task.judge.base_url", "https://host/v1;token=1234abcd"),
    ("task.judge.base_url", "https://host/v1#access_token=1234abcd"),
    ("task.judge.base_url", f"https://host/{KEY}/v1"),
    ("task.judge.base_url", f"https://host/{SECRET}/v1"),  # as ${oc.env:SOME_TOKEN} gives it
    ("task.judge.key_variable", KEY),
    ("task.judge.key_variable", SECRET),
    ("task.options", {"api_key": "1234abcd"}),
    ("task.options", {"deep": {"password": "1234abcd"}}),
    ("task.options", {"list": ["a", {"client-secret": "1234abcd"}]}),
    ("task.options", {KEY: 1}),
    ("adapter.options", {"hf_token": "1234abcd"}),
    ("tracking.project", KEY),
    ("model.path", f"https://me:{SECRET}@host/model"),
    ("results_dir", f"/tmp/{KEY}"),
]


@pytest.fixture(scope="module")
def usual() -> Config:
    return composed("adapter=lora")


@pytest.mark.parametrize(("key", "value"), GIVEN)
def test_an_option_with_a_secret_is_refused_without_repeating_it(
    key: str, value: Any, usual: Config, monkeypatch: Any
) -> None:
    monkeypatch.setenv("SOME_TOKEN", SECRET)
    config = copy.deepcopy(usual)
    owner, _, name = key.rpartition(".")
    setattr(attrgetter(owner)(config) if owner else config, name, value)
    with pytest.raises(UserError) as refusal:
        config.checked()
    message = str(refusal.value)
    assert not [secret for secret in (SECRET, KEY, "1234abcd") if secret in message]
    assert key in message
    assert len(message.splitlines()) <= 3


def test_a_client_of_the_judge_takes_no_key_in_its_address() -> None:
    for url in (f"http://a:{SECRET}@host", f"http://host/v1?key={SECRET}", f"http://host/v1;token={SECRET}"):
        with pytest.raises(UserError) as refusal:
            Client(JudgeConfig(base_url=url))
        assert SECRET not in str(refusal.value)


@pytest.mark.parametrize(
    "text",
    [
        "https://api.openai.com/v1", "http://localhost:8000/v1", "sk-learn", "max_new_tokens", "/data/key=2/lr=1",
        "user@example.org", "results/runs/docstrings", "model.layers.*.self_attn.q_proj", "question? token",
        "git@github.com:owner/name", "s0=1;s1=2", "Answer with a key word: a token, a secret",
    ],
)  # fmt: skip
def test_ordinary_values_are_no_secrets(text: str) -> None:
    assert secrets_in(text) == []
    check_no_secret({"task": {"prompt": text, "key_variable": "OPENAI_API_KEY", "pad_token": "<pad>", "key": "query"}})


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("see https://me:pw@host/v1 for it", "see https://[secret]@host/v1 for it"),
        ("GET /v1?a=1&api_key=xyz&b=2 failed", "GET /v1?a=1&[secret]&b=2 failed"),
        (f"Bearer {KEY}.", "Bearer [secret]."),
        (f"it says {SECRET}!", "it says [secret]!"),
        ("hf_" + "x" * 34 + " and AKIA" + "Q" * 16, "[secret] and [secret]"),
    ],
)
def test_secrets_are_blotted_out_of_texts(text: str, right: str, monkeypatch: Any) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f" {SECRET}\n")
    assert redacted(text) == right


def test_a_short_or_empty_variable_hides_no_words(monkeypatch: Any) -> None:
    monkeypatch.setenv("SOME_KEY", "lora")
    monkeypatch.setenv("OTHER_TOKEN", "")
    assert redacted("adapter lora") == "adapter lora"


def test_no_file_of_a_failed_run_has_a_secret_of_the_environment(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setenv("SERVICE_PASSWORD", SECRET)
    monkeypatch.setattr("sys.orig_argv", ["python", "-m", "src.run", f"+x=https://a:{SECRET}@b"])

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError(f"the server https://me:{SECRET}@host said no to {SECRET}")

    monkeypatch.setattr(fitting, "train", fail)
    config = tiny("adapter=lora", "rank=2")
    plan = Plan.of([config])
    assert run(config, plan) == "failed"
    folder = Path(plan.folders[0])
    assert "[secret]" in json.loads((folder / RESULT).read_text())["error"]["message"]
    assert "[secret]" in (folder / TRACEBACK).read_text()
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]
    printed = capsys.readouterr()
    assert SECRET not in printed.out + printed.err


def test_provenance_has_neither_the_commands_nor_the_changes_secrets(monkeypatch: Any) -> None:
    monkeypatch.setenv("SERVICE_PASSWORD", SECRET)
    monkeypatch.setattr("sys.orig_argv", ["python", "-m", "src.run", f"a={SECRET}"])
    monkeypatch.setattr(provenance, "_git", lambda *args, **kwargs: f"+url: https://me:pw@host and {SECRET}\n")
    provenance.uncommitted_diff.cache_clear()
    try:
        stored = json.dumps(provenance.provenance({}, {}))
    finally:
        provenance.uncommitted_diff.cache_clear()
        provenance._revision.cache_clear()
    assert SECRET not in stored
    assert "me:pw" not in stored
    assert "a=[secret]" in stored
