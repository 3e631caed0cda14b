"""pass@k: the chance that at least one of k sampled programs passes a problem's tests. Higher is better.

Chen et al. 2021, arXiv 2107.03374v2. Programs are put together and judged as in openai/human-eval (execution.py), but
run in `src.sandbox.outside`, with the standard library only: a completion that imports numpy does not pass.

What differs: there a program has three seconds, which on a busy machine fails right solutions; here it has them of
processor time, and the programs that were stopped are counted (`timed_out`).
"""

import ast
import json
import os
import re
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from math import prod
from typing import Any

import datasets

from src.errors import UserError
from src.metrics import TIMED_OUT
from src.metrics.base import ITEMS, Metric
from src.sandbox.outside import Outcome, isolating_backend, run_isolated

# Chen et al. 2021, section 3.2, then the two that bigcode-evaluation-harness adds (bigcode_eval/tasks/humaneval.py)
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint", "\n@", "\n```")
KEPT = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
FORMS = [  # several completions of a problem, or one
    datasets.Features(predictions=prediction, references=datasets.Value("string"))
    for prediction in (datasets.Sequence(datasets.Value("string")), datasets.Value("string"))
]
HEAD = re.compile(r"(async |def |class |from |import |@|\w+ *=)")


class PassAtK(Metric):
    """Mean over problems of the unbiased estimate of pass@k, 0 to 1, and how many programs timed out.

    A prediction is a problem's n completions, or one as a plain string. A reference is a string of JSON with the
    problem's `prompt`, `test` and `entry_point`. What runs of a model's text is what `completion_of` makes of it.
    """

    name = "pass_at_k"
    citation = "Chen et al. 2021, https://arxiv.org/abs/2107.03374"
    takes = "predictions: completions of each problem; references: problems as JSON"
    features = FORMS

    def _compute(
        self,
        predictions: Any,
        references: Any,
        k: int = 1,
        timeout_seconds: float = 3.0,
        allow_code_execution: bool = False,
        workers: int | None = None,
    ) -> dict[str, Any]:
        samples = [[prediction] if isinstance(prediction, str) else list(prediction) for prediction in predictions]
        check_allowed(allow_code_execution)
        check_enough(samples, k)
        programs = [
            program_of(problem, completion_of(text, problem["entry_point"]))
            for problem, texts in zip(map(json.loads, references), samples, strict=True)
            for text in texts
        ]
        ended = outcomes(programs, timeout_seconds, workers)
        passed = (outcome.ended for outcome in ended)
        items = [estimate(len(each), sum(next(passed) for _ in each), k) for each in samples]
        timed_out = sum(outcome.timed_out for outcome in ended)
        return {self.name: sum(items) / len(items), TIMED_OUT: timed_out, ITEMS: items}


def check_allowed(allow_code_execution: bool) -> None:
    """Make sure that the user agreed to run a model's code, and that it can be isolated.

    Raises:
        UserError: either is not so.
    """
    if not allow_code_execution:
        raise UserError(
            "task.metric=pass_at_k runs code that a model wrote, which nobody has read, and that was not allowed.\n"
            "It runs in a sandbox without network, files or secrets; src/sandbox says what it protects from.\n"
            "To allow it, set task.allow_code_execution=true."
        )
    isolating_backend()


def check_enough(samples: list[list[str]], k: int) -> None:
    """Make sure that each problem has k completions or more.

    Raises:
        UserError: k is below 1, or above the number of a problem's completions.
    """
    fewest = min(len(completions) for completions in samples)
    if not 1 <= k <= fewest:
        raise UserError(
            f"pass@k with k={k} needs k completions or more of each problem; the fewest are {fewest}.\n"
            f"Set k between 1 and {fewest}, or sample more completions."
        )


def program_of(problem: dict[str, str], completion: str) -> str:
    """The text that passes if it runs to its end, as in `check_correctness` of openai/human-eval."""
    return f"{problem['prompt']}{completion}\n{problem['test']}\ncheck({problem['entry_point']})"


def outcomes(programs: list[str], timeout_seconds: float, workers: int | None = None) -> list[Outcome]:
    """How each program ends; `workers` at a time, by default one a processor."""
    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(lambda program: run_isolated(program, timeout_seconds=timeout_seconds), programs))


def estimate(n: int, c: int, k: int) -> float:
    """1 - C(n-c, k) / C(n, k), for c of n completions that pass: Eq. 1, as the product of the paper's Figure 3."""
    if n - c < k:
        return 1.0
    return 1.0 - prod(1.0 - k / i for i in range(n - c + 1, n + 1))


# ---- from what a model wrote to a completion


def completion_of(text: str, entry_point: str) -> str:
    """What of a model's text to put after the prompt.

    A text that goes on inside the function, as a base model's does, ends before the first stop sequence. One with the
    whole function, as an instruction-tuned model's answer, gives that function with its imports and helpers, which
    replaces the prompt's stub by coming after it; this follows `sanitize` of evalplus, without its pruning of helpers.
    """
    first_line = next((line for line in text.splitlines() if line.strip()), "")
    if not first_line.startswith(("  ", "\t")) and (answer := definitions(text, entry_point)):
        return f"\n{answer}\n"
    return truncated(fenced(text))


def truncated(completion: str) -> str:
    """The text before the first stop sequence, as `_stop_at_stop_token` of bigcode-evaluation-harness."""
    return completion[: min((completion.find(stop) for stop in STOPS if stop in completion), default=None)]


def fenced(text: str) -> str:
    """The body of a text that opens with a Markdown fence; other texts unchanged."""
    return re.sub(r"\A\s*```\w*\n(.*?)(\n```.*)?\Z", r"\1", text, flags=re.DOTALL)


def definitions(text: str, entry_point: str) -> str:
    """Imports, functions, classes and assignments of the longest run of lines that is Python and has the function."""
    function = re.compile(rf"(async )?def {re.escape(entry_point)}\b")
    blocks = [block for block in python_blocks(text.splitlines()) if any(map(function.match, block))]
    block = max(blocks, key=len, default=[])
    kept = [node for node in parsed(block).body if isinstance(node, KEPT)]
    return "\n".join(line for node in kept for line in block[first_line_of(node) - 1 : node.end_lineno])


def python_blocks(lines: list[str]) -> Iterator[list[str]]:
    """The longest runs of lines that parse, each from a line that begins as a definition, import or assignment does."""
    number = 0
    while number < len(lines):
        block = longest_python(lines[number:]) if HEAD.match(lines[number]) else []
        yield block
        number += len(block) or 1


def longest_python(lines: list[str]) -> list[str]:
    """The longest beginning of the lines that parses."""
    while lines:
        try:
            parsed(lines)
        except SyntaxError as error:
            lines = lines[: min(len(lines), error.lineno or 1) - 1]  # no longer beginning parses: all have the error
        except (ValueError, RecursionError, MemoryError):  # zero bytes, or nested too deeply
            return []
        else:
            break
    return lines


def parsed(lines: list[str]) -> ast.Module:
    """The syntax tree of some lines, without warnings about their style."""
    with warnings.catch_warnings(action="ignore"):
        return ast.parse("\n".join(lines))


def first_line_of(node: ast.stmt) -> int:
    """The line on which a statement or the first of its decorators begins."""
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(each.lineno for each in decorators)])
