"""The judge: what it is asked, what is done when it fails, and what is kept; against a server of the test's own."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from src.errors import UserError
from src.judging import judge as judging
from src.judging.client import LONGEST_WAIT_SECONDS, MAX_TOKENS, JudgeConfig, check_judge
from src.judging.judge import ANSWERS, ASKS, JUDGMENTS, JudgedScore, Judgment, judge, mean_scores, read_judgments
from tests.conftest import HANG_SECONDS, ROOT, real_data

KEY = "sk-a-key-that-nobody-may-see"
QUESTIONS = [
    {"question_id": 7, "category": "writing", "turns": ["Write {a} line.", "Shorten it."]},
    {"question_id": 5, "category": "math", "turns": ["What is 3 + 4?", "And doubled?"]},
]
TURNS = {7: ["A {long} line.", "Line."], 5: ["It is 7.", "It is 15."]}
REFERENCES = {5: ["Seven.", "Fourteen."]}
BOTH = "{question_1}|{answer_1}|{question_2}|{answer_2}"
PROMPTS = {
    "single-v1": {"system_prompt": "Help.", "prompt_template": "{question}|{answer}"},
    "single-math-v1": {"system_prompt": "Help.", "prompt_template": "{question}|{ref_answer_1}|{answer}"},
    "single-v1-multi-turn": {"system_prompt": "Judge.", "prompt_template": BOTH},
    "single-math-v1-multi-turn": {
        "system_prompt": "Judge.",
        "prompt_template": "{ref_answer_1}|{ref_answer_2}|" + BOTH,
    },
}


@dataclass
class Reply:
    """What the server says: a judge's text, or with `body` anything."""

    text: str | None = "Good. Rating: [[7]]"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None
    after: threading.Event | None = None  # it is held back until this has happened

    def content(self) -> bytes:
        """The body as bytes."""
        told = {"choices": [{"message": {"role": "assistant", "content": self.text}}]}
        return (json.dumps(told) if self.body is None else self.body).encode()


@dataclass
class Server:
    """A judge that the test programs: `reply` is given the number of the request, from 1."""

    url: str
    reply: Callable[[int], Reply] = lambda number: Reply()
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def prompts(self) -> list[str]:
        """What the judge was given to read, request by request."""
        return [request["messages"][1]["content"] for request in self.requests]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    receiving = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with receiving:
                programmed.requests.append(body)
                programmed.headers.append(dict(self.headers))
                programmed.paths.append(self.path)
                number = len(programmed.requests)
            reply = programmed.reply(number)
            if reply.after is not None:
                reply.after.wait(HANG_SECONDS)
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.content())

        def log_message(self, *args: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *args: Any) -> None:
            pass  # a client that has timed out is gone

    with Quiet(("127.0.0.1", 0), Handler) as listening:
        programmed = Server(f"http://127.0.0.1:{listening.server_port}/v1")
        serving = threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True)
        serving.start()
        yield programmed
        listening.shutdown()


def config_for(server: Server, **changes: Any) -> JudgeConfig:
    return replace(JudgeConfig(base_url=server.url, timeout_seconds=HANG_SECONDS, retries=2, workers=1), **changes)


def rate(server: Server, folder: Path, waits: list[float] | None = None, **changes: Any) -> list[Judgment]:
    """Judge the two questions without waiting between tries; `changes` are of the judge's config or of the call."""
    call: dict[str, Any] = {"questions": QUESTIONS, "answers": TURNS, "prompts": PROMPTS, "references": REFERENCES}
    call |= {"folder": folder, "model_id": "tiny", "wait": (waits if waits is not None else []).append}
    call |= {name: changes.pop(name) for name in list(changes) if name in call}
    return judge(config=config_for(server, **changes), **call)


def test_both_turns_of_every_question_are_rated_in_order(server: Server, tmp_path: Path) -> None:
    server.reply = lambda number: Reply(f"Rating: [[{number}.5]]")
    judgments = rate(server, tmp_path)
    assert [(one.question_id, one.turn, one.score) for one in judgments] == [
        (7, 1, 1.5),
        (7, 2, 2.5),
        (5, 1, 3.5),
        (5, 2, 4.5),
    ]
    assert [one.judge[1] for one in judgments] == [
        "single-v1",
        "single-v1-multi-turn",
        "single-math-v1",
        "single-math-v1-multi-turn",
    ]


def test_the_order_is_the_questions_whichever_answer_comes_first(server: Server, tmp_path: Path) -> None:
    last = threading.Event()

    def reply(number: int) -> Reply:
        if number == 4:
            last.set()
        return Reply(f"[[{number}]]", after=last if number == 1 else None)

    server.reply = reply
    judgments = rate(server, tmp_path, workers=4)
    assert [(one.question_id, one.turn) for one in judgments] == [(7, 1), (7, 2), (5, 1), (5, 2)]


def test_the_judge_reads_question_answer_and_reference(server: Server, tmp_path: Path) -> None:
    rate(server, tmp_path)
    assert server.prompts() == [
        "Write {a} line.|A {long} line.",
        "Write {a} line.|A {long} line.|Shorten it.|Line.",
        "What is 3 + 4?|Seven.|It is 7.",
        "Seven.|Fourteen.|What is 3 + 4?|It is 7.|And doubled?|It is 15.",
    ]


def test_the_request_is_openais_with_the_key_from_the_environment(server: Server, tmp_path: Path) -> None:
    rate(server, tmp_path, model="some-judge", base_url=server.url + "/")
    assert server.paths[0] == "/v1/chat/completions"
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert server.requests[0] == {
        "model": "some-judge",
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
        "messages": [
            {"role": "system", "content": "Help."},
            {"role": "user", "content": "Write {a} line.|A {long} line."},
        ],
    }


def test_the_key_is_that_of_the_named_variable(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_KEY", "other\n")
    rate(server, tmp_path, key_variable="OTHER_KEY")
    assert server.headers[0]["Authorization"] == "Bearer other"


def test_a_server_without_a_key_gets_none(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    rate(server, tmp_path)
    assert "Authorization" not in server.headers[0]


def test_questions_are_asked_at_the_same_time(server: Server, tmp_path: Path) -> None:
    together = threading.Barrier(4, timeout=HANG_SECONDS)

    def reply(number: int) -> Reply:
        together.wait()
        return Reply()

    server.reply = reply
    assert len(rate(server, tmp_path, workers=4)) == 4


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_tried_again_after_growing_waits(server: Server, tmp_path: Path, status: int) -> None:
    server.reply = lambda number: Reply(status=status, body="busy") if number <= 2 else Reply()
    waits: list[float] = []
    assert len(rate(server, tmp_path, waits)) == 4
    assert waits == [2.0, 4.0]


def test_a_server_that_says_when_to_come_back_is_heard(server: Server, tmp_path: Path) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=110), usegmt=True)
    said = ["17", date, "nonsense"]
    server.reply = lambda number: (
        Reply(status=429, headers={"Retry-After": said[number - 1]}) if number <= 3 else Reply()
    )
    waits: list[float] = []
    rate(server, tmp_path, waits, retries=3)
    assert waits[0] == 17
    assert 0 < waits[1] <= 110  # less what has passed since
    assert waits[2] == 8.0


def test_a_server_that_asks_for_too_long_a_wait_is_given_up(server: Server, tmp_path: Path) -> None:
    server.reply = lambda number: Reply(
        status=429, body="quota", headers={"Retry-After": f"{LONGEST_WAIT_SECONDS + 1}"}
    )
    with pytest.raises(UserError, match=r"in 1 tries: HTTP 429: quota \(it asks to wait 121 s\)"):
        rate(server, tmp_path)


def test_a_server_that_keeps_failing_is_given_up(server: Server, tmp_path: Path) -> None:
    server.reply = lambda number: Reply(status=502, body=json.dumps({"error": {"message": "overloaded"}}))
    with pytest.raises(UserError, match="in 3 tries: HTTP 502: overloaded"):
        rate(server, tmp_path)
    assert len(server.requests) == 3


def test_a_server_that_does_not_answer_in_time_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.reply = lambda number: Reply(after=threading.Event() if number == 1 else None)
    assert len(rate(server, tmp_path, timeout_seconds=3)) == 4  # in which the others are answered on a busy machine too
    assert len(server.requests) == 5


def test_a_server_that_never_answers_in_time_is_given_up(server: Server, tmp_path: Path) -> None:
    server.reply = lambda number: Reply(after=threading.Event())
    with pytest.raises(UserError, match=r"in 2 tries: no answer within 0\.1 s"):
        rate(server, tmp_path, timeout_seconds=0.1, retries=1)


def test_no_server_is_told_with_its_address(server: Server, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    with pytest.raises(UserError, match=rf"{url}/chat/completions gave no answer in 3 tries: .*refused"):
        rate(server, tmp_path, base_url=url)


@pytest.mark.parametrize("status", [400, 403, 404])
def test_a_refusal_is_told_at_once_in_the_servers_words(server: Server, tmp_path: Path, status: int) -> None:
    server.reply = lambda number: Reply(status=status, body=json.dumps({"error": {"message": "no such model"}}))
    with pytest.raises(UserError, match=rf"refuses: HTTP {status}: no such model\nCheck .*task\.judge\.model"):
        rate(server, tmp_path)
    assert len(server.requests) == 1


def test_an_unauthorised_user_learns_which_variable_to_set(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.reply = lambda number: Reply(status=401, body=json.dumps({"error": {"message": f"bad key {KEY}"}}))
    with pytest.raises(UserError, match=r"bad key \[key\]\nSet the environment variable OPENAI_API_KEY, which was ref"):
        rate(server, tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="OPENAI_API_KEY, which isn't set"):
        rate(server, tmp_path)


def test_the_key_is_not_taken_to_another_server(server: Server, tmp_path: Path) -> None:
    server.reply = lambda number: Reply(status=302, body="", headers={"Location": server.url + "/elsewhere"})
    with pytest.raises(UserError, match="HTTP 302"):
        rate(server, tmp_path)
    assert server.paths == ["/v1/chat/completions"]


@pytest.mark.parametrize("body", ["<html>Welcome</html>", "[]", '{"choices": []}', '{"choices": null}'])
def test_a_server_that_speaks_otherwise_is_told(server: Server, tmp_path: Path, body: str) -> None:
    server.reply = lambda number: Reply(body=body)
    with pytest.raises(UserError, match=re.escape(body) + r"\nCheck task\.judge\.base_url"):
        rate(server, tmp_path)


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("Rating: [[7]]", 7.0),
        ("Rating: [[8.5]]", 8.5),
        ("[[10]]", 10.0),
        ("[[1]] but then [[9]]", 1.0),
        ("as in [3] it says, [[6]]", 6.0),
        ("Rating: [6]", 6.0),
        ("Rating: [[11]]", None),
        ("Rating: [[0]]", None),
        ("Rating: [[-3]]", None),
        ("Rating: [[rating]]", None),
        ("Rating: 7/10", None),
        ("", None),
    ],
)
def test_the_rating_is_the_first_in_double_brackets_else_in_single_ones(text: str, rating: float | None) -> None:
    assert judging.read_rating(text) == rating


@pytest.mark.parametrize("text", ["I can't say.", "Rating: [[11]]", "", None])
def test_an_answer_without_a_rating_is_asked_for_again(server: Server, tmp_path: Path, text: str | None) -> None:
    server.reply = lambda number: Reply(text) if number < ASKS else Reply()
    assert [one.score for one in rate(server, tmp_path)] == [7, 7, 7, 7]
    assert len(server.requests) == 4 + ASKS - 1


@pytest.mark.parametrize("text", ["I can't say.", "Rating: [[11]]"])
def test_a_judge_without_a_rating_ends_the_judging_and_keeps_the_rest(
    server: Server, tmp_path: Path, text: str
) -> None:
    server.reply = lambda number: Reply(text) if number >= 3 else Reply()
    with pytest.raises(UserError, match=rf"question 5, turn 1, no rating from 1 to 10(?s:.*){re.escape(text)}"):
        rate(server, tmp_path)
    assert len(server.requests) == 2 + ASKS
    assert [one.question_id for one in read_judgments(tmp_path / JUDGMENTS)] == [7, 7]


def test_a_second_call_asks_nothing(server: Server, tmp_path: Path) -> None:
    first = rate(server, tmp_path)
    server.requests.clear()
    assert rate(server, tmp_path) == first
    assert rate(server, tmp_path, base_url=None) == first
    assert server.requests == []


def test_only_what_has_changed_is_asked_again(server: Server, tmp_path: Path) -> None:
    rate(server, tmp_path)
    server.requests.clear()
    judgments = rate(server, tmp_path, answers=TURNS | {5: ["It is 7.", "It is 14."]})
    assert server.prompts() == ["Seven.|Fourteen.|What is 3 + 4?|It is 7.|And doubled?|It is 14."]
    assert len(judgments) == 4


@pytest.mark.parametrize("changes", [{"model": "other-judge"}, {"model_id": "other"}])
def test_another_judge_or_another_model_is_asked_about_anew(
    server: Server, tmp_path: Path, changes: dict[str, Any]
) -> None:
    first = rate(server, tmp_path)
    second = rate(server, tmp_path, **changes)
    assert len(server.requests) == 8
    assert not {one.key for one in first} & {one.key for one in second}
    assert len(read_judgments(tmp_path / JUDGMENTS)) == 8


def test_after_a_failure_only_the_rest_is_asked(server: Server, tmp_path: Path) -> None:
    server.reply = lambda number: Reply(status=400) if number == 3 else Reply()
    with pytest.raises(UserError):
        rate(server, tmp_path)
    server.requests.clear()
    server.reply = lambda number: Reply()
    assert len(rate(server, tmp_path)) == 4
    assert len(server.requests) == 2


def test_one_failure_ends_the_waits_of_the_others(server: Server, tmp_path: Path) -> None:
    asked = threading.Event()

    def reply(number: int) -> Reply:
        if "Shorten" in server.prompts()[number - 1]:
            return Reply(status=400, body="too long", after=asked)
        asked.set()
        return Reply(status=503, headers={"Retry-After": "100"})

    server.reply = reply
    started = time.monotonic()
    with pytest.raises(UserError, match="HTTP 400: too long"):
        rate(server, tmp_path, workers=2, wait=None)
    assert time.monotonic() - started < 90  # the wait was for 100
    assert len(server.requests) == 2


def test_ctrl_c_keeps_what_is_had_and_ends_soon(server: Server, tmp_path: Path) -> None:
    questions = [QUESTIONS[0] | {"question_id": number} for number in range(100)]
    arrived, interrupted = threading.Event(), threading.Event()

    def reply(number: int) -> Reply:
        if number == 6:
            arrived.set()
        return Reply(after=interrupted if number >= 6 else None)

    server.reply = reply
    call: dict[str, Any] = {"questions": questions, "answers": {number: ["One.", "Two."] for number in range(100)}}
    script = (
        "import signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job in the background would ignore it
        "from pathlib import Path\nfrom src.judging.client import JudgeConfig\n"
        "from src.judging.judge import judge\n"
        f"judge(**{call!r}, config=JudgeConfig({server.url!r}, workers=2), prompts={PROMPTS!r}, references={{}},\n"
        f"      folder=Path({str(tmp_path)!r}), model_id='tiny')"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert arrived.wait(HANG_SECONDS)
        process.send_signal(signal.SIGINT)
        interrupted.set()
        told = process.communicate(timeout=HANG_SECONDS)[1]
    assert told.endswith("KeyboardInterrupt\n")
    had = len(server.requests)
    assert had < 100  # of 200; how many more are begun before the signal is heard is up to the machine
    assert len(read_judgments(tmp_path / JUDGMENTS)) == had
    server.requests.clear()
    server.reply = lambda number: Reply()
    assert len(rate(server, tmp_path, **call, workers=8)) == 200
    assert len(server.requests) == 200 - had


def test_a_line_that_was_cut_off_is_asked_for_again(server: Server, tmp_path: Path) -> None:
    first = rate(server, tmp_path)
    path = tmp_path / JUDGMENTS
    path.write_bytes(path.read_bytes()[:-20])
    assert read_judgments(path) == first[:3]
    server.requests.clear()
    rate(server, tmp_path)
    assert len(server.requests) == 1
    assert [one.key for one in read_judgments(path)] == [one.key for one in first]


@pytest.mark.parametrize("line", ["{", "[]", '{"question_id": 7}', '{"judge": 1}'])
def test_a_whole_line_that_is_no_judgment_is_told(server: Server, tmp_path: Path, line: str) -> None:
    (tmp_path / JUDGMENTS).write_text(line + "\n")
    with pytest.raises(UserError, match=rf"{JUDGMENTS} holds a line that is no judgment"):
        rate(server, tmp_path)


def test_a_judgment_is_a_line_in_fastchats_format(server: Server, tmp_path: Path) -> None:
    judgment = rate(server, tmp_path)[2]
    row = json.loads((tmp_path / JUDGMENTS).read_text().splitlines()[2])
    assert abs(row.pop("tstamp") - time.time()) < HANG_SECONDS
    assert row == {
        "question_id": 5,
        "model": "tiny",
        "judge": ["gpt-4", "single-math-v1"],
        "user_prompt": "What is 3 + 4?|Seven.|It is 7.",
        "judgment": "Good. Rating: [[7]]",
        "score": 7,
        "turn": 1,
        "key": judgment.key,
    }


def always(reply: Reply) -> Callable[[int], Reply]:
    return lambda number: reply


def test_the_key_is_in_no_file_and_no_message(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rate(server, tmp_path)
    said = [repr(config_for(server))]
    for status in (400, 401, 429, 500):
        server.reply = always(Reply(status=status, body=f"your key is {KEY}"))
        with pytest.raises(UserError) as error:
            rate(server, tmp_path, model=f"judge-{status}")
        said.append(str(error.getrepr(style="long", chain=True)))
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n{KEY}")
    with pytest.raises(UserError, match="OPENAI_API_KEY holds characters") as error:
        rate(server, tmp_path, model="asked-anew")
    said.append(str(error.value))
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 1
    assert KEY not in "".join(said + written)


def test_without_a_server_the_user_learns_what_to_set() -> None:
    with pytest.raises(UserError, match=r"Set task\.judge\.base_url=\.\.\.(?s:.*)OTHER_KEY"):
        check_judge(JudgeConfig(key_variable="OTHER_KEY"))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"base_url": "localhost:8000/v1"}, "is no address"),
        ({"base_url": "file:///etc/passwd"}, "is no address"),
        ({"base_url": "http://"}, "is no address"),
        ({"base_url": "http://host:port"}, "is no address"),
        ({"workers": 0}, "workers=0 is too small"),
        ({"retries": -1}, "retries=-1 is too small"),
        ({"timeout_seconds": 0}, "timeout_seconds=0 is too small"),
    ],
)
def test_a_config_that_cannot_be_is_told_before_anything_is_asked(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        check_judge(replace(JudgeConfig(base_url="https://host/v1"), **changes))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"answers": {7: ["One.", "Two."]}}, "Question 5 has 0 turns of 'answer'"),
        ({"answers": {7: ["One."], 5: ["One.", "Two."]}}, "Question 7 has 1 turns of 'answer'"),
        ({"references": {}}, "Question 5 has 0 turns of 'ref_answer'"),
        ({"prompts": {"single-v1": PROMPTS["single-v1"]}}, "prompt 'single-v1-multi-turn' is missing"),
    ],
)
def test_what_is_missing_is_told_before_anything_is_asked(
    server: Server, tmp_path: Path, changes: dict[str, Any], match: str
) -> None:
    with pytest.raises(UserError, match=match):
        rate(server, tmp_path, **changes)
    assert server.requests == []


def test_the_score_is_the_mean_of_both_turns(server: Server, tmp_path: Path) -> None:
    server.reply = lambda number: Reply(f"[[{[2, 3, 7, 10][number - 1]}]]")
    assert mean_scores(rate(server, tmp_path), QUESTIONS) == JudgedScore(
        score=5.5, per_turn={1: 4.5, 2: 6.5}, per_category={"writing": 2.5, "math": 8.5}
    )


def test_ratings_that_do_not_cover_the_questions_give_no_score(server: Server, tmp_path: Path) -> None:
    judgments = rate(server, tmp_path)
    for some, questions in [(judgments[:3], QUESTIONS), ([], QUESTIONS), ([], []), (judgments, QUESTIONS[:1])]:
        with pytest.raises(UserError, match="give no score"):
            mean_scores(some, questions)


def test_answers_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / ANSWERS
    answers = {7: ["Zwei\nZeilen \u2028 {x}", ""], 5: ["\U0001f600", '"']}
    judging.write_answers(path, answers, "tiny")
    first = judging.read_rows(path)
    assert judging.read_answers(path) == answers
    judging.write_answers(path, answers, "tiny")
    assert [row["answer_id"] for row in judging.read_rows(path)] == [row["answer_id"] for row in first]
    assert len({row["answer_id"] for row in first}) == 2


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"prompts\.jsonl can't be read as JSON lines"):
        judging.read_prompts(tmp_path / "prompts.jsonl")


def test_answers_are_in_the_format_of_fastchats_own(tmp_path: Path) -> None:
    path = real_data("mt_bench/reference_answer/gpt-4.jsonl")
    theirs = judging.read_rows(path)
    judging.write_answers(tmp_path / ANSWERS, judging.read_answers(path), "gpt-4")
    for mine, their in zip(judging.read_rows(tmp_path / ANSWERS), theirs, strict=True):
        assert list(mine) == list(their)
        assert {name: type(value) for name, value in mine.items()} == {
            name: type(value) for name, value in their.items()
        }
        assert mine["choices"] == their["choices"]


def test_all_of_mt_bench_is_asked_with_the_papers_prompts(server: Server, tmp_path: Path) -> None:
    questions = judging.read_rows(real_data("mt_bench/question.jsonl"))
    prompts = judging.read_prompts(real_data("mt_bench/judge_prompts.jsonl"))
    references = judging.read_answers(real_data("mt_bench/reference_answer/gpt-4.jsonl"))
    answers = {question["question_id"]: ["The first {answer}.", "The second {answer_2}."] for question in questions}
    judgments = rate(
        server, tmp_path, questions=questions, answers=answers, prompts=prompts, references=references, workers=8
    )
    assert len(judgments) == len(server.requests) == 160
    assert mean_scores(judgments, questions).score == 7
    asked = {(one.question_id, one.turn): one for one in judgments}
    for question in questions:
        _check_prompts(question, asked, references)
    assert references[101][0] in asked[101, 1].user_prompt
    assert asked[101, 2].judge == ("gpt-4", "single-math-v1-multi-turn")


def _check_prompts(question: dict[str, Any], asked: dict[tuple[int, int], Judgment], references: Any) -> None:
    """Both prompts hold all that belongs in them, and no placeholder but those that stood in the answers."""
    first, second = (asked[question["question_id"], turn].user_prompt for turn in (1, 2))
    assert question["turns"][0] in first
    assert all(text in second for text in [*question["turns"], "The first {answer}.", "The second {answer_2}."])
    assert "The second" not in first
    if question["category"] in ("math", "reasoning", "coding"):
        assert references[question["question_id"]][0] in first
        assert all(text in second for text in references[question["question_id"]])
    for text in (first, second):
        left = re.findall(r"{(?:question|answer|ref_answer)(?:_\d)?}", text)
        assert set(left) <= {"{answer}", "{answer_2}"}
        assert len(left) == text.count("The first {answer}.") + text.count("The second {answer_2}.")
