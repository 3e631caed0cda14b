"""The kinds of data of one's own (`task=own`): which columns each needs, which model and metric it is for."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from src.errors import UserError, nearest_first

if TYPE_CHECKING:
    from src.config.schema import TaskConfig

AUTO = "auto"  # the kind's
ANSWER_TOKENS = 32  # task.max_new_tokens where none is given, as in conf/task/own.yaml
LOADER = "own.load"  # the last parts of the loader's path
FILE_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt", ".gz")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


@dataclass(frozen=True)
class Kind:
    """A kind of data: its architecture, its metric where none is given, and its columns by what they are to it."""

    architecture: str
    metric: str
    columns: tuple[str, ...]  # needed; called so where no name is given
    further: tuple[str, ...] = ()  # read where a name is given


RIGHT_CHOICE = ("answer", "answer_index", "answer_number", "answer_letter")  # ways to say which one is right
KINDS = {
    "classification": Kind("classifier", "accuracy", ("text", "label"), ("text_pair",)),
    "pairs": Kind("classifier", "accuracy", ("text", "text_pair", "label")),
    "regression": Kind("classifier", "pearson", ("text", "label"), ("text_pair",)),
    "choice": Kind("causal_lm", "choice", ("prompt", "choices"), RIGHT_CHOICE),
    "generation": Kind("causal_lm", "exact_match", ("prompt", "answer"), ("reference",)),
}


def fill_in_kind(task: "TaskConfig") -> None:
    """Set a task's architecture and metric to its kind's; those of other tasks stay as they are.

    Raises:
        UserError: the task is of no kind, says not where its data are, or names columns that its kind doesn't have; or
            another task has what only these have.
    """
    if not task.loader.endswith(LOADER):
        _check_unused(task)
        return
    if task.kind not in KINDS:
        raise UserError(
            f"task.kind={'null' if task.kind is None else task.kind} is no kind of data.\n"
            f"Allowed: {', '.join(nearest_first(str(task.kind), KINDS))} (see docs/own-data.md)."
        )
    kind = KINDS[task.kind]
    _check_model(task, kind)
    task.architecture = kind.architecture
    if kind.architecture == "classifier":
        task.max_new_tokens = 0
    if task.metric == AUTO:
        task.metric = kind.metric
    _check_columns(task, kind)
    _check_prompt(task, kind)
    _check_labels(task)
    _check_shares(task)
    given = [part for part, source in task.sources.items() if source.file or source.hub_id]
    if (task.path is None) == (not given):
        problem = "doesn't say where its data are" if not given else f"has task.path and task.sources.{given[0]}"
        raise UserError(
            f"task={task.name} {problem}.\nAllowed: task.path=<a file, a folder, or owner/name on the hub>, or\n"
            "task.sources.train.file=... and task.sources.test.file=..."
        )


def _check_model(task: "TaskConfig", kind: Kind) -> None:
    """Refuse another architecture than the kind's, and a length of answers where none is written."""
    if task.architecture not in (AUTO, kind.architecture):
        raise UserError(
            f"task.architecture={task.architecture} isn't that of task.kind={task.kind}.\n"
            f"Leave it out ({kind.architecture}), or choose another kind."
        )
    if kind.architecture == "classifier" and task.max_new_tokens not in (0, ANSWER_TOKENS):
        raise UserError(
            f"task.max_new_tokens={task.max_new_tokens} is for written answers, and task.kind={task.kind} has none.\n"
            "Leave it out, or choose the kind generation or choice."
        )


def column_of(task: "TaskConfig", role: str) -> str:
    """The column that has a role: the one that is named, or of the role's own name."""
    return task.columns.get(role) or role


def is_on_hub(path: str) -> bool:
    """Whether a task's path is a data set on the hub: owner/name, and nothing here is called so."""
    is_file = Path(path).exists() or Path(path).suffix in FILE_SUFFIXES
    return not is_file and HUB_ID.fullmatch(path) is not None and not path.startswith(".")


def _check_unused(task: "TaskConfig") -> None:
    """Refuse what only own data have, where another loader wouldn't read it."""
    default = type(task)()
    for key in ("kind", "path", "labels", "split"):
        if getattr(task, key) != getattr(default, key):
            raise UserError(
                f"task.{key} has no part in task={task.name}, whose rows {task.loader} makes.\n"
                f"Allowed: task=own task.{key}=..., or a task with `defaults: [own, _self_]`."
            )


def _check_columns(task: "TaskConfig", kind: Kind) -> None:
    """Refuse columns that the kind doesn't read, and one that is two things at once."""
    roles = [*kind.columns, *kind.further]
    for role, column in task.columns.items():
        if column and role not in roles:
            raise UserError(
                f"task.columns.{role}={column} has no part in task.kind={task.kind}.\n"
                f"Allowed: {', '.join(nearest_first(role, roles))}."
            )
    if task.kind == "choice" and sum(bool(task.columns.get(role)) for role in RIGHT_CHOICE) > 1:
        raise UserError(f"Several columns say which choice is right.\nAllowed: one of {', '.join(RIGHT_CHOICE)}.")
    read = [role for role in roles if role in kind.columns or task.columns.get(role)]
    # What is compared with may be the answer, and a template stands in place of a prompt's column.
    read = [role for role in read if role != "reference" and not (role == "prompt" and task.prompt)]
    for index, role in enumerate(read):
        for other in read[:index]:
            if column_of(task, role) == column_of(task, other):
                raise UserError(
                    f"task.columns.{other} and task.columns.{role} are both '{column_of(task, role)}'.\n"
                    "Allowed: a column of its own for each."
                )


def _check_prompt(task: "TaskConfig", kind: Kind) -> None:
    """Refuse a template that nobody reads, that is the same for all rows, or that gives the answer away."""
    if not task.prompt:
        return
    if "prompt" not in kind.columns:
        raise UserError(f"task.prompt has no part in task.kind={task.kind}.\nAllowed: choice and generation.")
    if task.columns.get("prompt"):
        raise UserError("task.prompt and task.columns.prompt both say what is asked.\nAllowed: one of the two.")
    if "{" not in task.prompt:
        raise UserError(f"task.prompt='{task.prompt}' shows no column.\nAllowed: names of columns in braces.")
    for role in [role for role in (*RIGHT_CHOICE, "reference") if task.columns.get(role)] or ["answer"]:
        if f"{{{column_of(task, role)}}}" in task.prompt:
            raise UserError(
                f"task.prompt shows {{{column_of(task, role)}}}, which is the {role} itself.\nAllowed: other columns."
            )


def _check_labels(task: "TaskConfig") -> None:
    of_classes = task.kind in ("classification", "pairs")
    if task.labels and not (of_classes and len(set(task.labels)) == len(task.labels) > 1):
        raise UserError(
            f"task.labels=[{','.join(task.labels)}] can't be the classes of task.kind={task.kind}.\n"
            "Allowed: two or more different names, for classification and pairs."
        )


def _check_shares(task: "TaskConfig") -> None:
    for key, share in (("validation", task.split.validation), ("test", task.split.test)):
        if not 0 < share < 1:
            raise UserError(f"task.split.{key}={share:g} is no share of the rows.\nAllowed: between 0 and 1.")
