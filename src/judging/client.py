"""The judge as a chat server that speaks OpenAI's protocol: its configuration, and one question at a time.

What may pass (no connection, a time-out, HTTP 429, HTTP 5xx) is tried again after growing waits; everything else is
told at once in the server's own words. The key comes from the environment and goes nowhere but into the request.
"""

import json
import os
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from src.config.checks import check_judge_numbers
from src.credentials import check_no_secret
from src.errors import UserError

MAX_TOKENS = 2048  # of the judge's answer, as in FastChat
FIRST_WAIT_SECONDS = 2.0  # before the second try; it doubles with every further one
LONGEST_WAIT_SECONDS = 120.0  # a server that asks for more is given up
SHOWN_CHARACTERS = 300  # of what a server says


@dataclass
class JudgeConfig:
    """The model that rates answers, and how it is asked: timeout, retries and concurrency."""

    base_url: str | None = None  # the address to which "/chat/completions" is added
    model: str = "gpt-4"  # its name there
    key_variable: str = "OPENAI_API_KEY"  # the environment variable with the key; a server of one's own needs none
    timeout_seconds: float = 60  # for an answer
    retries: int = 4  # tries after the first
    workers: int = 4  # questions under way at the same time


def check_judge(config: JudgeConfig) -> None:
    """Make sure that there is a server to ask and that the key can be sent, without asking it anything.

    Raises:
        UserError: no server is named, or a value can't be.
    """
    if not config.base_url:
        raise UserError(
            "This task is rated by a judge, and task.judge.base_url isn't set.\n"
            f"Set task.judge.base_url=... to a server with OpenAI's API (such as https://api.openai.com/v1), and the "
            f"environment variable {config.key_variable} to its key; a server of your own may need none."
        )
    check_address(config)
    check_judge_numbers(config)
    _read_key(config)


def check_address(config: JudgeConfig) -> None:
    """Make sure that what names the server and the key is a name, and no key itself: both are stored with a run.

    Raises:
        UserError: one isn't.
    """
    url = config.base_url or ""
    check_no_secret({"task.judge.base_url": url, "task.judge.key_variable": config.key_variable})
    # Not repeated in the messages, as either may be the key.
    if not config.key_variable.isidentifier():
        raise UserError(
            "task.judge.key_variable is no name of an environment variable.\n"
            "Give the name of the one that holds the key, such as OPENAI_API_KEY."
        )
    if set(url) & set("?#;"):
        raise UserError(
            f"task.judge.base_url={re.split('[?#;]', url)[0]}... has something after its path, "
            "where no server looks for it: /chat/completions is added to it.\n"
            f"Give the address alone, and a key in the environment variable {config.key_variable}."
        )
    if url and not _is_address(url):
        raise UserError(f"task.judge.base_url={url} is no address.\nAllowed: http://... or https://....")


class Stopped(Exception):
    """The client was told to stop before it had an answer."""


class _Passing(Exception):
    """A failure that may pass; `wait_seconds` is what the server asks for, if it does."""

    def __init__(self, reason: str, wait_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


class _NoRedirect(HTTPRedirectHandler):
    """Makes a redirect an error: followed, it would take the key to another server."""

    def redirect_request(self, *args: Any) -> None:
        """Name no new address."""
        return None


class Client:
    """Asks the judge; may be shared by threads.

    Raises:
        UserError: the config names no server, or a value can't be.
    """

    def __init__(self, config: JudgeConfig, *, wait: Callable[[float], object] | None = None) -> None:
        check_judge(config)
        assert config.base_url is not None
        self.config = config
        self._url = config.base_url.rstrip("/") + "/chat/completions"
        self._key = _read_key(config)
        self._opener = build_opener(_NoRedirect)
        self._stopped = threading.Event()
        self._wait = wait or self._stopped.wait  # so that a stop ends the wait too

    def stop(self) -> None:
        """Let every thread end after the try that it is at."""
        self._stopped.set()

    def ask(self, system: str, user: str) -> str:
        """The judge's answer, which may be empty.

        Raises:
            UserError: the server can't be reached, doesn't answer or refuses.
            Stopped: `stop` was called.
        """
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        body = {"model": self.config.model, "messages": messages, "temperature": 0, "max_tokens": MAX_TOKENS}
        content = json.dumps(body).encode()
        tried = 0
        while not self._stopped.is_set():
            try:
                return self._answer_in(self._post(content))
            except _Passing as failure:
                self._wait(self._pause(failure, tried))
            tried += 1
        raise Stopped

    def _pause(self, failure: _Passing, tried: int) -> float:
        """How long to wait before the next try.

        Raises:
            UserError: there is none.
        """
        pause = FIRST_WAIT_SECONDS * 2**tried if failure.wait_seconds is None else failure.wait_seconds
        if tried < self.config.retries and pause <= LONGEST_WAIT_SECONDS:
            return pause
        asks = f" (it asks to wait {pause:.0f} s)" if pause == failure.wait_seconds else ""
        raise UserError(
            f"The judge at {self._url} gave no answer in {tried + 1} tries: {failure}{asks}.\n"
            "See that it runs and can be reached, then start again; task.judge.retries, task.judge.timeout_seconds and "
            "task.judge.workers set how it is asked."
        ) from failure

    def _post(self, content: bytes) -> bytes:
        try:
            return self._post_once(content)
        except (OSError, HTTPException) as error:  # URLError and TimeoutError are kinds of OSError
            reason = getattr(error, "reason", error)
            timed_out = isinstance(reason, TimeoutError)
            said = f"no answer within {self.config.timeout_seconds:g} s" if timed_out else str(reason) or repr(reason)
            raise _Passing(said) from error

    def _post_once(self, content: bytes) -> bytes:
        # Some servers refuse urllib's own User-Agent.
        headers = {"Content-Type": "application/json", "User-Agent": "adapter-comparison"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = Request(self._url, data=content, headers=headers, method="POST")
        try:
            with self._opener.open(request, timeout=self.config.timeout_seconds) as response:
                body: bytes = response.read()
                return body
        except HTTPError as error:
            with error:
                failure = self._failure(error.code, error.headers, error.read())
        raise failure

    def _failure(self, status: int, headers: Message, body: bytes) -> Exception:
        """What an error status means: a failure that may pass, or the user's to put right."""
        said = f"HTTP {status}: {self._shown(_message_in(body))}"
        if status == 429 or status >= 500:
            return _Passing(said, _seconds(headers.get("Retry-After")))
        if status == 401:
            state = "was refused" if self._key else "isn't set"
            remedy = f"Set the environment variable {self.config.key_variable}, which {state}, to a key of this server."
        else:
            remedy = "Check task.judge.base_url and task.judge.model."
        return UserError(f"The judge at {self._url} refuses: {said}\n{remedy}")

    def _answer_in(self, body: bytes) -> str:
        """The text in a response; a model that says nothing sends null."""
        try:
            return str(json.loads(body)["choices"][0]["message"]["content"] or "")
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(
                f"{self._url} doesn't answer as OpenAI's API does: {self._shown(body.decode(errors='replace'))}\n"
                "Check task.judge.base_url; it often ends in /v1."
            ) from error

    def _shown(self, text: str) -> str:
        """The beginning of what the server said, without the key, which some servers repeat."""
        return (text.replace(self._key, "[key]") if self._key else text).strip()[:SHOWN_CHARACTERS]


def _read_key(config: JudgeConfig) -> str:
    """The key, or "" where there is none.

    Raises:
        UserError: it can't stand in a header; urllib's own error would print it.
    """
    key = os.environ.get(config.key_variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise UserError(
            f"The environment variable {config.key_variable} holds characters that no key has.\n"
            "Set it to the key alone."
        )
    return key


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and url.isascii()
    except ValueError:  # a port that is no number
        return False


def _message_in(body: bytes) -> str:
    """The error's text in OpenAI's form, else the whole body."""
    text = body.decode(errors="replace")
    with suppress(ValueError, LookupError, TypeError):
        return str(json.loads(text)["error"]["message"])
    return text


def _seconds(retry_after: str | None) -> float | None:
    """The seconds that a Retry-After header asks for, given as a number or as a date."""
    if retry_after is None:
        return None
    with suppress(ValueError):
        return max(0.0, float(retry_after))
    with suppress(ValueError, TypeError):  # no date, or one without a zone
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    return None
