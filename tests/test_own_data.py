"""Own data by one loader: the rows of every kind and format, splits by a seed, and what is refused before training."""

import copy
import json
from collections import Counter
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from src.config.own_data import ANSWER_TOKENS, fill_in_kind
from src.config.schema import Config, SourceConfig, SplitConfig, TaskConfig
from src.errors import UserError
from src.metrics import FOLDER, OF_CLASSES, OF_NUMBERS, TAKES_REFERENCES, metric_names
from src.results.identity import run_folder
from src.running.sweep import Plan
from src.tasks.base import LoadedTask, load_task
from src.tasks.overlap import normalized
from src.tasks.splitting import stratified
from tests.conftest import ROOT, as_on_the_hub, composed, some_inputs

Rows = list[dict[str, Any]]
MODEL = ["model=tiny_llama", "model.config.max_position_embeddings=160"]
REVIEWS = [{"review": f"review number {i}, in words", "stars": str(1 + i % 5)} for i in range(50)]
CLASSES = ["task.kind=classification", "task.columns.text=review", "task.columns.label=stars"]
NUMBERS = ["task.kind=regression", *CLASSES[1:]]
SUMS = [{"question": f"{i} plus 1?", "sum": f"It is {i + 1}", "number": f"{i + 1}"} for i in range(20)]
WRITTEN = ["task.kind=generation", "task.columns.prompt=question", "task.columns.answer=sum"]
ASKED = ["task.kind=generation", "task.columns.answer=sum"]
QUIZ: Rows = [{"asked": f"Which is {i}?", "options": [f"x{i}", f"y{i}", f"z{i}"], "index": i % 3} for i in range(9)]
CHOSEN = ["task.kind=choice", "task.columns.prompt=asked", "task.columns.choices=options"]


def jsonl(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@lru_cache
def blank(model: str) -> Config:
    """The config of own data of which nothing is said yet; composed once, as that takes longer than all else here."""
    reads = ["task.kind=generation", *MODEL] if model == "tiny_llama" else ["task.kind=classification"]
    config = composed("task=own", "task.path=x", *reads)
    config.task.kind = config.task.path = None
    config.task.architecture = config.task.metric = "auto"
    return config


def own(path: Path, *overrides: str) -> Config:
    """The checked config of data at a path, with values as YAML writes them."""
    writes = set(overrides) & {"task.kind=generation", "task.kind=choice"}
    config = copy.deepcopy(blank("tiny_llama" if writes else "minilm"))
    for override in (f"task.path={path}", *overrides):
        key, _, value = override.partition("=")
        *owners, name = key.split(".")
        owner: Any = config
        for part in owners:
            owner = owner[part] if isinstance(owner, dict) else getattr(owner, part)
        given = float(value) if "split" in owners else yaml.safe_load(value)
        if isinstance(owner, dict):
            owner[name] = given
        else:
            setattr(owner, name, given)
    return config.checked()


def of(rows: Rows, tmp_path: Path, *overrides: str) -> LoadedTask:
    return load_task(own(jsonl(tmp_path / "rows.jsonl", rows), f"cache_dir={tmp_path}", *overrides))


def refusal(rows: Rows, tmp_path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as refused:
        of(rows, tmp_path, *overrides)
    said = str(refused.value)
    assert len(said.splitlines()) <= 3
    return said.replace(f"{tmp_path}/", "")


def sizes(task: LoadedTask) -> list[int]:
    return [len(rows) for rows in task.data.splits.values()]


# ---- each kind


def test_classes_are_those_of_the_training_rows_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    rows = [{"review": f"text {i}", "stars": label} for i, label in enumerate(["10", "9", "1"] * 20)]
    task = of(rows, tmp_path, *CLASSES)
    assert task.data.label_names == ["1", "9", "10"]
    by_text = {row["review"]: row["stars"] for row in rows}
    for row in (row for split in task.data.splits.values() for row in split):
        assert task.data.label_names[row["label"]] == by_text[row["text"]]


@pytest.mark.parametrize("labels", [[0, 1], [False, True], ["no", "yes"], [-1, 1]])
def test_classes_may_be_texts_whole_numbers_or_truth_values(labels: list[Any], tmp_path: Path) -> None:
    task = of([{"review": f"t{i}", "stars": labels[i % 2]} for i in range(20)], tmp_path, *CLASSES)
    assert task.data.label_names == [str(label) for label in labels]


def test_pairs_and_numbers_have_the_rows_of_the_tasks_like_them(tmp_path: Path) -> None:
    rows = [{"a": f"a{i}", "b": f"b{i}", "score": f"{i / 4}"} for i in range(20)]
    columns = ["task.columns.text=a", "task.columns.text_pair=b", "task.columns.label=score"]
    task = of(rows, tmp_path, "task.kind=regression", *columns)
    assert task.data.label_names == ["number"]
    assert {"text": "a3", "text_pair": "b3", "label": 0.75} in [row for its in task.data.splits.values() for row in its]
    pairs = of([{**row, "score": i % 2} for i, row in enumerate(rows)], tmp_path / "p", "task.kind=pairs", *columns)
    assert {"text": "a3", "text_pair": "b3", "label": 1} in [row for its in pairs.data.splits.values() for row in its]


def test_a_prompt_is_a_column_or_a_template_and_a_reference_is_what_the_metric_reads(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    for split in ("train", "validation", "test"):
        jsonl(tmp_path / f"rows/{split}.jsonl", SUMS[:2])
    plain = load_task(own(tmp_path / "rows", *WRITTEN))
    assert plain.data.splits["test"][1] == {"prompt": "1 plus 1?", "answer": " It is 2"}
    template = ["task.columns.prompt=''", 'task.prompt="Add: {question}\\n"', "task.columns.reference=number"]
    filled = load_task(own(tmp_path / "rows", *WRITTEN, *template, "task.metric=last_number"))
    assert filled.data.splits["test"][1] == {"prompt": "Add: 1 plus 1?\n", "answer": "It is 2", "reference": "2"}


def test_an_answer_follows_its_prompt_by_one_space(tmp_path: Path) -> None:
    rows = [{"question": f"{i}?", "sum": "  a "} for i in range(10)]
    for name, (end, answer) in {"1": ("", " a"), "2": (" ", "a"), "3": ("\n", "a")}.items():
        task = of([{**row, "question": row["question"] + end} for row in rows], tmp_path / name, *WRITTEN)
        assert {row["answer"] for row in task.data.splits["train"]} == {answer}


@pytest.mark.parametrize(
    ("role", "values"),
    [
        ("answer_index", [0, 1, 2]),
        ("answer_index", ["0", "1", "2"]),
        ("answer_number", [1, 2, 3]),
        ("answer_letter", ["A", "B", "C"]),
        ("answer", None),
    ],
)
def test_the_right_choice_is_given_by_index_number_letter_or_text(
    role: str, values: list[Any] | None, tmp_path: Path
) -> None:
    rows = [{**row, "right": row["options"][row["index"]] if values is None else values[row["index"]]} for row in QUIZ]
    task = of(rows, tmp_path, *CHOSEN, f"task.columns.{role}=right")
    seen = {row["prompt"].split("?")[0]: row for its in task.data.splits.values() for row in its}
    for row in QUIZ:
        made = seen[row["asked"].removesuffix("?")]
        assert made["reference"] == made["answer"].strip() == f"answer{row['index'] + 1}"
        assert f"answer2: {row['options'][1]}\n" in made["prompt"]


def test_choices_may_stand_in_columns_of_their_own_or_as_the_hub_has_ai2s(tmp_path: Path) -> None:
    flat = [
        {"asked": row["asked"], **dict(zip("abc", row["options"], strict=True)), "index": row["index"]} for row in QUIZ
    ]
    nested = [
        {**row, "options": {"text": row["options"], "label": list("PQR")}, "key": "PQR"[row["index"]]} for row in QUIZ
    ]
    listed = of(QUIZ, tmp_path / "1", *CHOSEN, "task.columns.answer_index=index")
    spread = of(flat, tmp_path / "2", *CHOSEN, "task.columns.choices='a, b, c'", "task.columns.answer_index=index")
    lettered = of(nested, tmp_path / "3", *CHOSEN, "task.columns.answer_letter=key")
    assert listed.fingerprint == spread.fingerprint == lettered.fingerprint


# ---- where the data are


def test_the_rows_and_not_their_place_or_format_make_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pd.DataFrame(REVIEWS)
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_csv(tmp_path / "b.csv.gz", index=False)
    frame.to_parquet(tmp_path / "c.parquet")
    (tmp_path / "d.json").write_text(json.dumps(REVIEWS))
    jsonl(tmp_path / "deep/e.jsonl", REVIEWS)
    (tmp_path / "f.tsv").write_text("review\tstars\n" + "".join(f"{r['review']}\t{r['stars']}\n" for r in REVIEWS))
    frame.rename(columns={"review": "text", "stars": "label"}).to_csv(tmp_path / "g.csv", index=False)
    jsonl(tmp_path / "h/train.jsonl", REVIEWS)
    as_on_the_hub(tmp_path / "hub", monkeypatch, {"train": [{**row, "stars": int(row["stars"])} for row in REVIEWS]})
    monkeypatch.setattr("src.tasks.own_records.hub_folder", lambda *args, **kwargs: tmp_path / "hub")
    configs = [
        own(tmp_path / name, *CLASSES)
        for name in ("a.csv", "b.csv.gz", "c.parquet", "d.json", "deep/e.jsonl", "f.tsv", "h")
    ]
    configs.append(own(tmp_path / "g.csv", CLASSES[0]))
    configs.append(composed("task=own", "task.path=someone/reviews@main", *CLASSES))
    configs.append(composed("task=own", f"task.sources.train.file={tmp_path}/a.csv", *CLASSES))
    folders = {run_folder(config, some_inputs(load_task(config).fingerprint)) for config in configs}
    assert len(folders) == 1
    changed = own(jsonl(tmp_path / "i.jsonl", [*REVIEWS[:-1], {**REVIEWS[-1], "review": "another"}]), *CLASSES)
    assert run_folder(changed, some_inputs(load_task(changed).fingerprint)) not in folders


def test_a_folder_has_a_file_a_split_by_any_of_its_usual_names(tmp_path: Path) -> None:
    frame = pd.DataFrame(REVIEWS)
    for split, part in {"train": frame[:30], "val": frame[30:40], "test": frame[40:]}.items():
        part.to_csv(tmp_path / f"{split}.csv", index=False)
    (tmp_path / "README.md").write_text("about")
    assert sizes(load_task(own(tmp_path, *CLASSES))) == [30, 10, 10]
    (tmp_path / "train.csv").unlink()
    for number in range(2):
        frame[number * 15 :][:15].to_parquet(tmp_path / f"train-{number:05}-of-00002.parquet")
    task = load_task(own(tmp_path, *CLASSES, f"cache_dir={tmp_path}/2"))
    assert [row["text"] for row in task.data.splits["train"]] == frame["review"][:30].tolist()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["train.jsonl", "tests.jsonl"], "tests.jsonl is no split's file.\nAllowed: files called train"),
        (["train.jsonl", "valid.jsonl", "dev.jsonl"], "are both files of validation.\n"),
        (["train.jsonl", "train.json"], "are both files of train.\n"),
        (["test.jsonl"], "has no file of training rows, but test.jsonl.\n"),
        ([], "has no file of training rows, but no data.\n"),
        (["train-00000-of-00003.jsonl", "train-00001-of-00003.jsonl"], "has 2 of the 3 files of train.\n"),
        (["train-00001-of-00002.jsonl"], "has 1 of the 2 files of train.\n"),
    ],
)
def test_a_folder_whose_files_are_not_each_a_split_s_is_refused(files: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for file in files:
        jsonl(tmp_path / "d" / file, REVIEWS)
    with pytest.raises(UserError) as refused:
        load_task(own(tmp_path / "d", *CLASSES))
    assert said in str(refused.value)


def test_several_test_sets_are_scored_set_by_set(tmp_path: Path) -> None:
    place = SourceConfig(file=str(jsonl(tmp_path / "r.jsonl", REVIEWS)))
    config = copy.deepcopy(blank("minilm"))
    config.task.kind, config.task.columns["text"], config.task.columns["label"] = "classification", "review", "stars"
    config.task.sources |= {"train": place, "test_one": place, "test_two": place}
    task = load_task(config.checked())
    assert Counter(row.get("set") for row in task.data.splits["test"]) == {"one": 50, "two": 50}
    config.task.sources["tset"] = place
    with pytest.raises(UserError, match=r"task.sources.tset is no split's.\nAllowed: train, validation, test, test_<"):
        load_task(config.checked())


def test_splits_of_the_hub_that_are_not_used_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_on_the_hub(tmp_path / "hub", monkeypatch, {"train": REVIEWS, "test": REVIEWS[:5], "unsupervised": REVIEWS})
    monkeypatch.setattr("src.tasks.own_records.hub_folder", lambda *args, **kwargs: tmp_path / "hub")
    config = composed("task=own", "task.path=someone/reviews", *CLASSES)
    assert load_task(config).data.notes == [
        "task=own: someone/reviews has further splits, which aren't used: unsupervised"
    ]


def test_an_ending_may_be_written_in_capitals(tmp_path: Path) -> None:
    (tmp_path / "R.CSV").write_text(pd.DataFrame(REVIEWS).to_csv(index=False))
    assert sizes(load_task(own(tmp_path / "R.CSV", *CLASSES))) == [36, 4, 10]


def test_a_split_that_would_be_empty_is_refused_with_its_share(tmp_path: Path) -> None:
    rows = [{"review": f"t{i}", "stars": f"class {i}"} for i in range(9)]
    said = refusal(rows, tmp_path, *CLASSES)
    assert said.startswith("task=own has no rows for test.\nRaise task.split.test, or give a file for it")


# ---- splits by a seed


def test_every_class_gives_its_share_and_no_row_is_lost(tmp_path: Path) -> None:
    labels = ["a"] * 50 + ["b"] * 30 + ["c"] * 20
    rows = [{"review": f"text {i}", "stars": label} for i, label in enumerate(labels)]
    task = of(rows, tmp_path, *CLASSES, "task.split.validation=0.25")
    counts = [Counter(row["label"] for row in rows) for rows in task.data.splits.values()]
    assert counts == [{0: 30, 1: 18, 2: 12}, {0: 10, 1: 6, 2: 4}, {0: 10, 1: 6, 2: 4}]
    assert sorted(row["text"] for its in task.data.splits.values() for row in its) == sorted(
        row["review"] for row in rows
    )


def test_the_seed_and_the_texts_decide_and_the_order_of_the_file_does_not() -> None:
    rows = [{"text": f"text {i}", "label": i % 3} for i in range(60)]

    def held_out(rows: Rows, seed: int = 0, purpose: str = "test") -> set[str]:
        return {rows[index]["text"] for index in stratified(rows, 0.3, seed, purpose)}

    first = held_out(rows)
    assert held_out(rows[::-1]) == first
    assert held_out(rows, seed=1) != first
    assert held_out(rows, purpose="validation") != first
    assert len(held_out([row for row in rows if row["text"] not in first], purpose="validation") & first) == 0


def test_equal_texts_are_on_one_side() -> None:
    ways = ("text {}", "Text {}!", "text  {} ")
    rows: Rows = [{"text": way.format(i), "label": i % 2} for way in ways for i in range(20)]
    held_out = stratified(rows, 0.3, 0, "test")
    sides = [{normalized(rows[i]["text"]) for i in range(60) if (i in held_out) is side} for side in (True, False)]
    assert len(held_out) == 18
    assert not sides[0] & sides[1]


@pytest.mark.parametrize("count", range(1, 30))
def test_one_row_at_least_and_never_all_of_a_class_is_held_out(count: int) -> None:
    rows = [{"text": f"{i}", "label": min(i, 2)} for i in range(count)]
    held_out = stratified(rows, 0.1, 0, "test")
    left = Counter(row["label"] for index, row in enumerate(rows) if index not in held_out)
    assert left.keys() == {row["label"] for row in rows}
    assert len(held_out) == (max(1, round(count / 10)) if count > 3 else 0)


def test_the_papers_protocol_keeps_the_test_split_and_validates_on_it(tmp_path: Path) -> None:
    strict, paper = (of(REVIEWS, tmp_path, *CLASSES, f"protocol={protocol}") for protocol in ("strict", "paper"))
    assert strict.data.splits["test"] == paper.data.splits["test"] == paper.data.splits["validation"]
    assert sizes(paper) == [40, 10, 10]


# ---- what is refused


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "task.kind=null is no kind of data.\nAllowed: choice, classification, generation, pairs, regression"),
        (["task.kind=classify"], "task.kind=classify is no kind of data.\nAllowed: classification, "),
        ([*CLASSES, "task.columns.answer=x"], "task.columns.answer=x has no part in task.kind=classification.\n"),
        ([*CLASSES, "task.architecture=causal_lm"], "task.architecture=causal_lm isn't that of task.kind=classif"),
        ([*CLASSES, "task.max_new_tokens=5"], "task.max_new_tokens=5 is for written answers, and task.kind=classif"),
        ([*CLASSES, "task.prompt=x"], "task.prompt has no part in task.kind=classification."),
        ([*CLASSES, "task.labels=[a]"], "task.labels=[a] can't be the classes of task.kind=classification.\n"),
        ([*CLASSES, "task.labels=[a,a]"], "task.labels=[a,a] can't be the classes"),
        ([*WRITTEN, "task.labels=[a,b]"], "task.labels=[a,b] can't be the classes of task.kind=generation."),
        ([*ASKED, "task.prompt=Add"], "task.prompt='Add' shows no column.\nAllowed: names of columns in braces"),
        ([*ASKED, "task.prompt='{question} {sum}'"], "task.prompt shows {sum}, which is the answer itself."),
        ([*ASKED, "task.prompt='{question} {n}'", "task.columns.reference=n"], "task.prompt shows {n}, which is"),
        ([*CLASSES, "task.columns.label=review"], "task.columns.text and task.columns.label are both 'review'."),
        (["task.kind=pairs", "task.columns.text=a", "task.columns.text_pair=a"],
         "task.columns.text and task.columns.text_pair are both 'a'.\nAllowed: a column of its own for each."),
        ([*WRITTEN, "task.prompt='{question}'"], "task.prompt and task.columns.prompt both say what is asked."),
        ([*CLASSES, "task.split.test=1"], "task.split.test=1 is no share of the rows.\nAllowed: between 0 and 1."),
        ([*CLASSES, "task.split.validation=-0.1"], "task.split.validation=-0.1 is no share"),
        ([*CLASSES, "task.sources.train.file=x.csv"], "task=own has task.path and task.sources.train.\n"),
        ([*CHOSEN, "task.columns.answer=x", "task.columns.answer_index=y"], "Several columns say which"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused_without_reading_the_data(overrides: list[str], said: str) -> None:
    with pytest.raises(UserError) as refused:
        own(Path("nowhere.csv"), *overrides)
    assert str(refused.value).startswith(said)


def test_the_length_of_answers_that_nobody_gave_is_the_yaml_s() -> None:
    assert yaml.safe_load((ROOT / "conf/task/own.yaml").read_text())["max_new_tokens"] == ANSWER_TOKENS


@pytest.mark.parametrize(
    "given", [{"kind": "pairs"}, {"path": "x.csv"}, {"labels": ["a", "b"]}, {"split": SplitConfig(seed=1)}]
)
def test_what_only_own_data_have_is_refused_in_other_tasks(given: dict[str, Any]) -> None:
    task = TaskConfig(name="t", loader="src.tasks.glue.load", architecture="classifier", metric="accuracy", **given)
    with pytest.raises(UserError, match=rf"task.{next(iter(given))} has no part in task=t, whose rows src.tasks.glue"):
        fill_in_kind(task)


@pytest.mark.parametrize(
    ("path", "said"),
    [("no.csv", "task.path=no.csv doesn't exist.\nAllowed: a file, a folder"), ("no/such/folder", "doesn't exist"),
     ("./no", "doesn't exist"), ("no/reviews", "There is no file or folder no/reviews here either.")],
)  # fmt: skip
def test_data_that_are_not_there_are_refused(path: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        load_task(composed("task=own", f"task.path={path}", *CLASSES))
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("changed", "overrides", "said"),
    [
        ({"stars": None}, CLASSES, "rows.jsonl:50 has null in column 'stars', where a class must be.\n"),
        ({"stars": ""}, CLASSES, "rows.jsonl:50 has '' in column 'stars', where a class must be."),
        ({"stars": 1.0}, CLASSES, "rows.jsonl:50 has 1.0 in column 'stars', where a class must be.\n"),
        ({"stars": "01"}, CLASSES, "The classes '1' (rows.jsonl:1) and '01' (rows.jsonl:50) look like one.\n"),
        ({"stars": " 5"}, CLASSES, "The classes '5' (rows.jsonl:5) and ' 5' (rows.jsonl:50) look like one."),
        ({"stars": "5.0"}, CLASSES, "The classes '5' (rows.jsonl:5) and '5.0' (rows.jsonl:50) look like one."),
        ({"stars": True}, CLASSES, "The classes '1' (rows.jsonl:1) and 'True' (rows.jsonl:50) look like one."),
        ({"stars": "5\u200b"}, CLASSES, "The classes '5' (rows.jsonl:5) and '5\u200b' (rows.jsonl:50) look like one."),
        ({"stars": "5\ufe0f"}, CLASSES, "The classes '5' (rows.jsonl:5) and '5\ufe0f' (rows.jsonl:50) look like one."),
        ({"review": None}, CLASSES, "rows.jsonl:50 has null in column 'review', where a text must be."),
        ({"review": 7}, CLASSES, "rows.jsonl:50 has 7 in column 'review', where a text must be.\nAllowed: a"),
        ({"stars": "0"}, [*CLASSES, "task.labels=['1','2','3','4','5']"],
         "rows.jsonl:50 has the label '0' in column 'stars'.\nAllowed: 1, 2, 3, 4, 5."),
        ({"stars": "many"}, NUMBERS, "rows.jsonl:50 has 'many' in column 'stars', where a number must be."),
        ({"stars": "nan"}, NUMBERS, "rows.jsonl:50 has 'nan' in column 'stars', where a number must be."),
    ],
)  # fmt: skip
def test_a_value_that_is_none_of_its_kind_is_refused_with_its_line(
    changed: dict[str, Any], overrides: list[str], said: str, tmp_path: Path
) -> None:
    assert refusal([*REVIEWS[:-1], {**REVIEWS[-1], **changed}], tmp_path, *overrides).startswith(said)


@pytest.mark.parametrize(
    "names",
    [
        ("9007199254740993", "9007199254740992"),  # one float
        ("1e999", "1e998"),  # both infinite as floats
        ("1e99999999999999999999", "1e99999999999999999998"),  # beyond any number; as texts in their own order
    ],
)
def test_classes_named_by_long_numbers_are_told_apart_and_ordered(names: tuple[str, str], tmp_path: Path) -> None:
    rows = [{"review": f"t{i}", "stars": names[i % 2]} for i in range(20)]
    assert of(rows, tmp_path, *CLASSES).data.label_names == [names[1], names[0]]


def test_decimal_numbers_of_a_parquet_file_are_numbers(tmp_path: Path) -> None:
    texts = [f"t{i}" for i in range(20)]
    pd.DataFrame({"review": texts, "stars": [Decimal(i) / 4 for i in range(20)]}).to_parquet(tmp_path / "rows.parquet")
    task = load_task(own(tmp_path / "rows.parquet", *NUMBERS))
    read = {row["text"]: row["label"] for rows in task.data.splits.values() for row in rows}
    assert read == {f"t{i}": i / 4 for i in range(20)}


def test_bytes_are_no_text_and_not_shown_as_one(tmp_path: Path) -> None:
    frame = pd.DataFrame({"review": [f"t{i}".encode() for i in range(9)], "stars": list("abc") * 3})
    frame.to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(
        UserError, match=r"row 0 has b't0' in column 'review', where a text must be\.\nAllowed: a text\."
    ):
        load_task(own(tmp_path / "rows.parquet", *CLASSES))


def test_it_is_said_of_which_class_f1_is_where_the_alphabet_decides_it(tmp_path: Path) -> None:
    asked = [*CLASSES, "task.more_metrics=[f1]"]

    def said(zero: str, one: str, *overrides: str) -> list[str]:
        rows = [{"review": f"t{i}", "stars": (zero, one)[i % 2]} for i in range(20)]
        folder = tmp_path / zero  # rows are read once for a place
        return [note for note in of(rows, folder, *asked, *overrides).data.notes if "f1" in note]

    assert said("right", "wrong") == [
        "task=own: f1 is that of the class wrong; of the other, task.labels=[wrong,right]"
    ]
    assert said("right", "wrong", "task.labels=[wrong,right]") == said("0", "1") == []


def test_classes_that_differ_by_case_pass_where_they_are_named(tmp_path: Path) -> None:
    rows = [{"review": f"t{i}", "stars": ("us", "US")[i % 2]} for i in range(20)]
    assert "The classes 'us' (rows.jsonl:1) and 'US' (rows.jsonl:2) look like one." in refusal(rows, tmp_path, *CLASSES)
    assert of(rows, tmp_path, *CLASSES, "task.labels=[us,US]").data.label_names == ["us", "US"]


def test_a_missing_column_is_refused_with_the_setting_that_names_it(tmp_path: Path) -> None:
    said = refusal(REVIEWS, tmp_path, "task.kind=classification", "task.columns.text=reviews")
    assert said == (
        "rows.jsonl:1 has no column 'reviews'.\nIt has: review, stars.\nName the one: task.columns.text=..."
    )
    later = [*REVIEWS, {"review": "x"}]
    assert refusal(later, tmp_path, *CLASSES).startswith("rows.jsonl:51 has no column 'stars'.")


def test_one_class_alone_is_refused_and_no_number_is_made_of_it(tmp_path: Path) -> None:
    rows = [{**row, "stars": "5"} for row in REVIEWS]
    assert refusal(rows, tmp_path, *CLASSES).startswith("All training rows of task=own have the class '5'")


def test_a_class_of_a_test_file_that_no_training_row_has_is_refused_or_said(tmp_path: Path) -> None:
    jsonl(tmp_path / "d/train.jsonl", REVIEWS)
    jsonl(tmp_path / "d/test.jsonl", [*REVIEWS[:4], {"review": "x", "stars": "6"}])
    with pytest.raises(UserError, match=r"test.jsonl:5 has the label '6' in column 'stars'.\nAllowed: 1, 2, 3, 4, 5\."):
        load_task(own(tmp_path / "d", *CLASSES))
    named = own(tmp_path / "d", *CLASSES, "task.labels=['1','2','3','4','5','6']")
    assert "task=own: 1 of 5 test items have a class that no train item has: 6" in load_task(named).warnings(named)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"sum": ""}, "rows.jsonl:20 has an empty answer in column 'sum', from which nothing can be learned.\n"),
        ({"sum": " \n"}, "rows.jsonl:20 has an empty answer"),
        ({"sum": 7}, "rows.jsonl:20 has 7 in column 'sum', where a text must be.\nAllowed: a text, as in \"7\"."),
        ({"question": None}, "rows.jsonl:20 has null in column 'question', where a text must be."),
        ({"number": []}, "rows.jsonl:20 has [] in column 'number'.\nAllowed: a text, or a list of texts."),
        ({"number": ["a", 1]}, "rows.jsonl:20 has ['a', 1] in column 'number'."),
        ({"number": None}, "rows.jsonl:20 has null in column 'number'"),
        (
            {"number": " "},
            "rows.jsonl:20 has an empty text in column 'number', to which an empty answer would be equal.",
        ),
        ({"number": ["a", ""]}, "rows.jsonl:20 has an empty text in column 'number'"),
    ],
)
def test_an_answer_from_which_nothing_is_learned_is_refused(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    rows = [*SUMS[:-1], {**SUMS[-1], **changed}]
    assert refusal(rows, tmp_path, *WRITTEN, "task.columns.reference=number").startswith(said)


@pytest.mark.parametrize(
    ("changed", "role", "said"),
    [
        ({"index": 3}, "answer_index", "rows.jsonl:9 has 3 in column 'index', which is no answer_index.\n"),
        ({"index": 0}, "answer_number", "rows.jsonl:1 has 0 in column 'index', which is no answer_number."),
        ({"index": True}, "answer_index", "rows.jsonl:9 has True in column 'index', which is no answer_index."),
        ({"index": "a"}, "answer_letter", "rows.jsonl:1 has 0 in column 'index', which is no answer_letter."),
        ({"options": ["a"]}, "answer_index", "rows.jsonl:9 has ['a'] in column 'options', where choices must be."),
        ({"options": ["a", "a"]}, "answer_index", "rows.jsonl:9 has ['a', 'a'] in column 'options'"),
        ({"options": "a, b"}, "answer_index", "rows.jsonl:9 has 'a, b' in column 'options'"),
    ],
)  # fmt: skip
def test_a_choice_that_is_none_is_refused(changed: dict[str, Any], role: str, said: str, tmp_path: Path) -> None:
    rows = [*QUIZ[:-1], {**QUIZ[-1], **changed}]
    assert refusal(rows, tmp_path, *CHOSEN, f"task.columns.{role}=index").startswith(said)


@pytest.mark.parametrize(("count", "right"), [(6, 5), (10, 0)])
def test_more_choices_than_the_metric_knows_are_refused(count: int, right: int, tmp_path: Path) -> None:
    """Also where the right one is among those that it knows: it would read "answer10" as answer1."""
    rows = [{**row, "options": [f"c{k}" for k in range(count)], "index": right} for row in QUIZ]
    asked = [*CHOSEN, "task.columns.answer_index=index"]
    assert refusal(rows, tmp_path, *asked) == (
        f"rows.jsonl:1 has {count} choices; the metric choice knows answer1 to answer5.\n"
        "Allowed: fewer choices, or task.metric=exact_match."
    )
    task = of(rows, tmp_path, *asked, "task.metric=exact_match")
    assert task.data.splits["test"][0]["reference"] == f"answer{right + 1}"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([*CLASSES, "task.more_metrics=[f1]"],
         "task.more_metrics=[f1] can't score task=own, which has 5 classes.\nAllowed: accuracy, matthews_correlation."),
        ([*CLASSES, "task.metric=f1"], "task.metric=f1 can't score task=own, which has 5 classes."),
        ([*CLASSES, "task.metric=pearson"], "task.metric=pearson can't score task=own, which has 5 classes."),
        ([*CLASSES, "task.metric=rouge_l"], "task.metric=rouge_l can't score task=own, which has 5 classes."),
        ([*NUMBERS, "task.metric=accuracy"],
         "task.metric=accuracy can't score task=own, which predicts a number.\nAllowed: pearson, spearman."),
        ([*NUMBERS, "task.more_metrics=[f1]"], "task.more_metrics=[f1] can't score"),
    ],
)  # fmt: skip
def test_a_metric_of_another_kind_of_label_is_refused_before_training(
    overrides: list[str], said: str, tmp_path: Path
) -> None:
    assert refusal(REVIEWS, tmp_path, *overrides).startswith(said)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["task.metric=accuracy"], "task.metric=accuracy can't score task=own, whose answers are texts."),
        (["task.more_metrics=[pass_at_k]"], "task.more_metrics=[pass_at_k] can't score task=own, whose answers"),
        (["task.metric=pass_at_k", "task.allow_code_execution=true"], "task.metric=pass_at_k can't score"),
        (["task.more_metrics=[judge_rating]"], "task.more_metrics=[judge_rating] can't score task=own"),
        (["task.metric=logical_form"], "task.metric=logical_form can't read a reference of task=own: The reference "),
        (["task.metric=choice"], "task.metric=choice can't read a reference of task=own: The reference "),
    ],
)  # fmt: skip
def test_a_metric_that_cannot_read_the_references_is_refused_before_training(
    overrides: list[str], said: str, tmp_path: Path
) -> None:
    assert refusal(SUMS, tmp_path, *WRITTEN, *overrides).startswith(said)


def test_several_references_need_a_metric_that_takes_them(tmp_path: Path) -> None:
    rows = [{**row, "number": [row["number"], row["sum"]]} for row in SUMS]
    several = [*WRITTEN, "task.columns.reference=number"]
    assert "whose items have several references.\nAllowed: bleu, " in refusal(rows, tmp_path, *several)
    assert of(rows, tmp_path, *several, "task.metric=rouge_l").data.notes == []


def test_references_that_no_answer_can_reach_are_said(tmp_path: Path) -> None:
    rows = [{**row, "number": "?!"} for row in SUMS]
    (note,) = of(rows, tmp_path, *WRITTEN, "task.columns.reference=number", "task.metric=rouge_l").data.notes
    assert note.endswith("references can't be reached: task.metric=rouge_l doesn't find '?!' equal to itself")


@pytest.mark.slow
def test_what_metrics_take_is_listed_as_they_declare_it() -> None:
    import evaluate

    from src.metrics import inputs

    features = {name: evaluate.load(str(FOLDER / name)).features for name in metric_names()}
    assert {name for name, its in features.items() if its == inputs.CLASSES} == set(OF_CLASSES)
    assert {name for name, its in features.items() if its == inputs.NUMBERS} == set(OF_NUMBERS)
    assert {name for name, its in features.items() if its == inputs.TEXTS_WITH_REFERENCES} == set(TAKES_REFERENCES)


# ---- the sweep


def test_a_sweep_refuses_bad_data_before_it_writes_anything(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("label,text\npos,Item 1 arrived, but I find it great\n")
    config = own(path, "task.kind=classification", f"results_dir={tmp_path}/results", f"cache_dir={tmp_path}/cache")
    with pytest.raises(UserError, match=r"r.csv:2 has 3 fields for 2 columns \(label, text\); too many: ' but I find"):
        Plan.of([config])
    assert list(tmp_path.iterdir()) == [path]
