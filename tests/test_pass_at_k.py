"""pass@k against counting by hand, the programs of HumanEval, and completions that try to harm or to cheat."""

import gzip
import json
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from src.errors import UserError
from src.metrics import score
from src.metrics.pass_at_k.pass_at_k import STOPS, completion_of, estimate, outcomes, program_of
from src.running.lifecycle import _outcome
from src.sandbox.outside import BACKENDS, isolating_backend, why_not_isolating
from tests.conftest import real_data

ANSWER = {
    "prompt": 'from math import pi\n\n\ndef answer(question: str) -> int:\n    """The answer to a question."""\n',
    "test": "def check(candidate):\n    assert candidate('') == 42\n    assert candidate('why?') == 42\n",
    "entry_point": "answer",
}
RIGHT, WRONG = "    return 42\n", "    return 41\n"


@pytest.fixture
def isolated() -> None:
    """Skips the test where no backend isolates."""
    if not any(not why_not_isolating(name) for name in BACKENDS):
        pytest.skip("; ".join(f"{name}: {why_not_isolating(name)}" for name in BACKENDS))


def pass_at_k(predictions: list[Any], problems: list[dict[str, str]] | None = None, **options: Any) -> float:
    references = [json.dumps(problem) for problem in problems or [ANSWER] * len(predictions)]
    options = {"allow_code_execution": True, "workers": 2, "timeout_seconds": 60.0} | options
    return score("pass_at_k", predictions, references, **options).value


def humaneval() -> list[dict[str, str]]:
    with gzip.open(real_data("humaneval/HumanEval.jsonl.gz"), "rt") as file:
        return [json.loads(line) for line in file]


# ---- the estimate


@pytest.mark.parametrize("n", range(1, 8))
def test_the_estimate_equals_the_share_of_subsets_with_a_passing_completion(n: int) -> None:
    for c in range(n + 1):
        for k in range(1, n + 1):
            subsets = list(combinations([index < c for index in range(n)], k))
            assert estimate(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)


def test_the_estimate_stays_exact_for_many_completions() -> None:
    assert estimate(10**6, 1, 1) == pytest.approx(1e-6, rel=1e-6)
    assert estimate(200, 200, 100) == estimate(200, 101, 100) == 1.0


@pytest.mark.usefixtures("isolated")
def test_the_score_is_the_mean_of_the_estimates_over_problems() -> None:
    predictions = [[RIGHT, WRONG, WRONG, RIGHT], [WRONG, WRONG, RIGHT, WRONG], [WRONG] * 4]
    assert pass_at_k(predictions) == pytest.approx((2 / 4 + 1 / 4 + 0) / 3)
    assert pass_at_k(predictions, k=2) == pytest.approx((1 - 1 / 6 + 1 / 2 + 0) / 3)  # of 6 pairs
    assert pass_at_k(predictions, k=4) == pytest.approx(2 / 3)


@pytest.mark.usefixtures("isolated")
def test_one_completion_a_problem_may_be_a_plain_string() -> None:
    assert pass_at_k([RIGHT, WRONG, RIGHT]) == pass_at_k([[RIGHT], [WRONG], [RIGHT]]) == pytest.approx(2 / 3)


@pytest.mark.usefixtures("isolated")
@pytest.mark.parametrize("k", [0, 3])
def test_k_beyond_the_fewest_completions_is_refused(k: int) -> None:
    with pytest.raises(UserError, match=rf"k={k} (.|\n)*between 1 and 2"):
        pass_at_k([[RIGHT] * 5, [RIGHT] * 2], k=k)


def test_code_runs_only_where_the_user_allowed_it() -> None:
    for options in ({"allow_code_execution": False}, {}):
        with pytest.raises(UserError, match=r"task\.allow_code_execution=true"):
            score("pass_at_k", [[RIGHT]], [json.dumps(ANSWER)], **options)


# ---- completions that harm or cheat


@pytest.mark.usefixtures("isolated")
@pytest.mark.parametrize(
    "body",
    [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "raise SystemExit",
        "print('passed')",
        "import os; os.kill(os.getppid(), 9)",
        "while True: pass",
        "import os\n    while True: os.fork()",
        "return ' ' * 2**40",
        "return answer(question)",
        "import os; return int(os.environ['ANSWER_OF_THE_TEST'])",
        "import sys; sys.modules['__main__'].check = print",
        "pass\ndef check(candidate): pass",
        "return 42\nimport os; os._exit(0)",
        "return 42\nraise SystemExit",
        "return 42 if question else 0",
        "return (",
        "",
    ],
)
def test_a_completion_that_does_not_solve_the_problem_scores_zero(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANSWER_OF_THE_TEST", "42")
    assert pass_at_k([[f"    {body}\n"]], timeout_seconds=1.0) == 0


@pytest.mark.usefixtures("isolated")
def test_a_completion_that_takes_too_long_scores_zero_and_one_that_does_not_scores_one() -> None:
    slow = "    import time\n    time.sleep(0.4)\n    return 42\n"  # the test calls it twice
    assert pass_at_k([[slow]], timeout_seconds=0.05) == 0  # ten times as long in all
    assert pass_at_k([[slow]]) == 1


BUSY = "    import time\n    while time.process_time() < 0.6: pass\n    return 42\n"


@pytest.mark.usefixtures("isolated")
def test_programs_that_time_out_are_counted() -> None:
    problems = [json.dumps(ANSWER)] * 3
    samples = [[RIGHT, "    while True: pass\n"], [WRONG, "    import time; time.sleep(60)\n"], [RIGHT, WRONG]]
    scored = score("pass_at_k", samples, problems, allow_code_execution=True, workers=2, timeout_seconds=0.3)
    assert (scored.items, scored.more) == ([0.5, 0.0, 0.5], {"timed_out": 2.0})
    scored = score("pass_at_k", [[WRONG]], problems[:1], allow_code_execution=True)
    assert (scored.items, scored.more) == ([0.0], {"timed_out": 0.0})


def test_time_outs_are_said_at_the_end_of_a_run() -> None:
    split = {"value": 0.5, "more": {"timed_out": 2.0}}
    record: Any = {"error": None, "metrics": {"test": split}, "history": [], "time": {"run_seconds": 1}}
    assert "test 0.5000  (2 programs timed out, counted as wrong)" in _outcome(record)
    split["more"] = {"timed_out": 0.0}
    assert "timed out" not in _outcome(record)


@pytest.mark.slow
@pytest.mark.usefixtures("isolated")
def test_a_busy_machine_fails_no_solution() -> None:
    """Four programs a processor at a time, each of which needs most of the processor time that it is allowed."""
    processors = len(os.sched_getaffinity(0))
    assert pass_at_k([[BUSY]] * 4 * processors, workers=4 * processors, timeout_seconds=1.0) == 1


# ---- from a model's text to a completion


@pytest.mark.parametrize("stop", STOPS)
def test_a_continuation_ends_before_the_first_stop_sequence(stop: str) -> None:
    text = f"    if question:\n        return 42\n    # all others\n    return 42\n{stop} more\nprint(1)\nclass B: pass"
    assert completion_of(text, "answer") == text[: text.index(stop)]


def test_a_continuation_without_a_stop_sequence_is_unchanged() -> None:
    for text in (RIGHT, f"\n{RIGHT}", " \n    return 42", "", "\n"):
        assert completion_of(text, "answer") == text


FUNCTION = "def answer(question):\n    return helper(question)\n"
HELPER = "import re\n\n\ndef helper(question):\n    return 42\n"
ANSWERS = {
    "bare": f"{HELPER}\n{FUNCTION}",
    "fenced": f"```python\n{HELPER}\n{FUNCTION}```",
    "with prose around it": f"Sure! Here is the function:\n\n```python\n{HELPER}\n{FUNCTION}```\n6 * 7 is 42.",
    "prose without a fence": f"from here on, code:\n{HELPER}\n{FUNCTION}\nThis is right, I'm sure.",
    "with examples that fail": f"```py\n{HELPER}\n{FUNCTION}\nprint(1 / 0)\nassert answer('') == 0\n```",
    "with a main part": f"```\n{HELPER}\n{FUNCTION}\nif __name__ == '__main__':\n    print(input())\n```",
    "cut off afterwards": f"```python\n{HELPER}\n{FUNCTION}\ndef test_answer():\n    assert answer('",
    "leading space": f" Of course:\n```python\n{HELPER}\n{FUNCTION}```",
    "two blocks": f"```python\nanswer('')\n```\nwhere\n```python\n{HELPER}\n{FUNCTION}```",
    "decorated": f"import functools\n{HELPER}\n@functools.cache\n{FUNCTION}",
    "asked in turn": f"```python\n{HELPER}\n{FUNCTION}```\n```python\ndef other():\n    return 1\n```",
}


@pytest.mark.usefixtures("isolated")
@pytest.mark.parametrize("text", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_with_the_whole_function_passes_in_place_of_the_stub(text: str) -> None:
    completion = completion_of(text, "answer")
    assert pass_at_k([[completion]]) == 1
    assert completion_of(completion, "answer").strip() == completion.strip()


def test_a_decorator_stays_with_its_function() -> None:
    assert "@functools.cache\ndef answer" in completion_of(ANSWERS["decorated"], "answer")


@pytest.mark.usefixtures("isolated")
def test_the_imports_of_the_prompt_serve_a_whole_function() -> None:
    assert pass_at_k([[completion_of("def answer(question):\n    return int(pi * 13.5)", "answer")]]) == 1


def test_a_fence_around_the_body_alone_is_taken_off() -> None:
    assert completion_of("```python\n    return 42\n```\nThat is all.", "answer") == "    return 42"


def test_texts_without_code_raise_nothing() -> None:
    for text in (
        "I cannot.",
        "```",
        "def answer(",
        "def answer(" * 50,
        "\0",
        "x = 1\n" * 2000 + "def answer(:",
        "(" * 10**5,
    ):
        completion_of(text, "answer")


# ---- HumanEval


def test_the_prompts_of_humaneval_are_whole_functions_and_the_solutions_continuations() -> None:
    for problem in humaneval():
        compile(problem["prompt"], "prompt", "exec")
        assert completion_of(problem["canonical_solution"], problem["entry_point"]) == problem["canonical_solution"]


@pytest.mark.usefixtures("isolated")
def test_all_164_solutions_of_humaneval_pass() -> None:
    problems = humaneval()
    assert len(problems) == 164
    assert pass_at_k([problem["canonical_solution"] for problem in problems], problems) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("isolated")
def test_all_164_solutions_of_humaneval_pass_as_answers_with_the_whole_function() -> None:
    problems = humaneval()
    texts = [f"Here:\n```python\n{each['prompt']}{each['canonical_solution']}```\nDone." for each in problems]
    completions = [completion_of(text, problem["entry_point"]) for text, problem in zip(texts, problems, strict=True)]
    assert pass_at_k(completions, problems) == 1


MUTANT_SECONDS = 10  # for a changed solution to end, of which some never do


def mutant(solution: str, seed: int) -> str:
    """The solution with one character, drawn with the seed, replaced: by its like where it has one, else by any."""
    generator = random.Random(seed)
    like = {character: kind for kind in ("0123456789", "<>", "+-*") for character in kind}
    places = [index for index, character in enumerate(solution) if not character.isspace()]
    place = generator.choice([index for index in places if solution[index] in like and seed % 2] or places)
    choices = like.get(solution[place], "abcdxyz01_.,:# ").replace(solution[place], "")
    return solution[:place] + generator.choice(choices) + solution[place + 1 :]


def passes_outside(program: str, folder: Path) -> bool:
    """Whether a harmless program ends without an error in a plain Python, with the sandbox's time and memory."""
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**29, 2**29))\n"
    command = [sys.executable, "-P", "-s", "-S", "-c", f"{limit}exec({program!r}, {{}})"]
    try:
        run = subprocess.run(
            command, cwd=folder, capture_output=True, timeout=MUTANT_SECONDS, env=os.environ | {"PYTHONHASHSEED": "0"}
        )
    except subprocess.TimeoutExpired:
        return False
    return run.returncode == 0


@pytest.mark.slow
@pytest.mark.usefixtures("isolated")
def test_solutions_with_one_character_changed_are_judged_as_by_a_plain_python(tmp_path: Path) -> None:
    problems = humaneval()
    programs = [program_of(each, mutant(each["canonical_solution"], seed)) for seed, each in enumerate(problems)]
    with ThreadPoolExecutor(2) as pool:
        outside = list(pool.map(lambda program: passes_outside(program, tmp_path), programs))
    inside = [outcome.ended for outcome in outcomes(programs, timeout_seconds=MUTANT_SECONDS, workers=2)]
    assert inside == outside
    assert 0 < sum(inside) < 82  # some changes, such as one inside a comment, break nothing


def test_the_first_backend_that_isolates_is_taken() -> None:
    expected = [name for name in BACKENDS if not why_not_isolating(name)]
    if expected:
        assert isolating_backend() == expected[0]
