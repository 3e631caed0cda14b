"""Splits share no row, the same rows whatever their order; what they share in spite of that is counted and said."""

import json
import random
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from src.config.schema import Config, TaskConfig
from src.errors import UserError
from src.results.identity import decisive, run_folder
from src.results.store import read_all
from src.tasks.base import LoadedTask, Row, _three_splits, load_task
from src.tasks.overlap import Overlap, SplitInputs, normalized, overlap_warnings, overlaps
from tests.conftest import REAL_DATA, as_on_the_hub, composed, real_data, run_program, some_inputs

TINY_GSM8K = [
    "task=gsm8k", "model=tiny_llama", "model.config.max_position_embeddings=256", "task.max_length=224",
    "task.max_new_tokens=8", "task.validation_size=1", "trainer=smoke", "trainer.precision=fp32", "tracking=none",
]  # fmt: skip


def rows(*texts: str) -> list[dict[str, Any]]:
    return [{"text": text, "label": 0} for text in texts]


def overlap(train: list[Row], held_out: list[Row]) -> Overlap:
    return SplitInputs.of(held_out).found_in(SplitInputs.of(train))


@pytest.mark.parametrize(
    ("trained_on", "asked", "exact", "same"),
    [
        ("A good film.", "A good film.", True, True),
        ("A good film.", "a GOOD film", False, True),
        ("A good film.", "A  good\tfilm\n", False, True),
        ("well-made, isn't it?", "Well made isn t it", False, True),
        ("snake_case", "Snake case", False, True),
        ("Café ﬁnal ① \uff37ide", "cafe\u0301 final 1 wide", False, True),
        ("Straße", "STRASSE", False, True),
        ("A good film.", "A good films.", False, False),
        ("A good film.", "film good A", False, False),
        ("A good film.", "A goodfilm.", False, False),
        ("1.5", "15", False, False),
        ("Café", "Cafe", False, False),
    ],
)
def test_texts_are_the_same_but_for_case_punctuation_spaces_and_unicode_variants(
    trained_on: str, asked: str, exact: bool, same: bool
) -> None:
    assert overlap(rows(trained_on), rows(asked)) == Overlap(items=1, exact=int(exact), normalised=int(same))
    assert (normalized(trained_on) == normalized(asked)) is same


def test_a_pair_is_the_same_in_either_order() -> None:
    train = [{"text": "one", "text_pair": "two", "label": 1}]
    asked = [("one", "two"), ("One!", "two"), ("two", "one"), ("one", "three"), ("three", "two")]
    held_out = [{"text": first, "text_pair": second, "label": 0} for first, second in asked]
    assert overlap(train, held_out) == Overlap(items=5, exact=1, normalised=3)


def test_a_conversation_is_the_same_where_all_its_turns_are() -> None:
    train = [{"turns": ["Hello", "And now?"]}, {"turns": ["Alone"]}]
    turns = [["Hello", "And now?"], ["hello", "and now"], ["Hello"], ["And now?", "Hello"], ["Alone"]]
    assert overlap(train, [{"turns": chat} for chat in turns]) == Overlap(items=5, exact=2, normalised=3)


def test_answers_labels_references_and_sets_have_no_part() -> None:
    train = [{"prompt": "1+1?", "answer": "2", "reference": "2"}, {"prompt": "3?", "answer": "same"}]
    held_out = [{"prompt": "1+1?", "answer": "3", "reference": "3", "set": "s"}, {"prompt": "4?", "answer": "same"}]
    assert overlap(train, held_out) == Overlap(items=2, exact=1, normalised=1)


def test_every_held_out_item_counts_once_however_often_it_was_trained_on() -> None:
    assert overlap(rows("a b", "a b", "A B"), rows("a b", "a b", "a, b", "c")) == Overlap(4, 2, 3)
    assert overlap([], rows("a")) == Overlap(1, 0, 0)


def test_the_order_of_rows_changes_no_count() -> None:
    drawn = random.Random(0)
    words = ["a", "b", "A", "b!", "c d", "C-D", "e", "f"]
    for _ in range(50):
        train, held_out = (rows(*drawn.choices(words, k=drawn.randint(1, 8))) for _ in range(2))
        counted = overlap(train, held_out)
        assert 0 <= counted.exact <= counted.normalised <= counted.items == len(held_out)
        drawn.shuffle(train)
        drawn.shuffle(held_out)
        assert overlap(train, held_out) == counted


def test_the_warning_has_the_counts_and_is_left_out_where_they_are_zero() -> None:
    said = Overlap(items=1200, exact=2, normalised=3).warning("t", "test")
    assert said is not None
    assert said.startswith("task=t: 3 of 1,200 test items are in train too")
    assert "2 " in said.partition("too")[2]
    assert Overlap(items=1200, exact=0, normalised=0).warning("t", "test") is None


def test_every_pair_of_splits_and_every_split_itself_are_compared() -> None:
    train, validation, test = rows("a b", "c", "A B!", "d"), rows("c", "e", "e"), rows("E.", "d", "f", "a b")
    assert overlaps({"train": train, "validation": validation, "test": test}) == {
        "validation": Overlap(items=3, exact=1, normalised=1),
        "test": Overlap(items=4, exact=2, normalised=2),
        "test_validation": Overlap(items=4, exact=0, normalised=1),
        "inside_train": Overlap(items=4, exact=0, normalised=1),
        "inside_validation": Overlap(items=3, exact=1, normalised=1),
        "inside_test": Overlap(items=4, exact=0, normalised=0),
    }


def test_a_test_split_that_validates_too_is_compared_once() -> None:
    test = rows("a", "a")
    found = overlaps({"train": rows("b"), "validation": test, "test": test})
    assert set(found) == {"validation", "test", "inside_train", "inside_test"}


def test_each_comparison_that_found_something_is_said() -> None:
    pair = {"text": "one", "text_pair": "two", "label": 0}
    turned = {"text": "Two", "text_pair": "one", "label": 1}
    found = overlaps({"train": [pair, turned], "validation": [turned], "test": [pair, pair]})
    assert overlap_warnings("t", found, pairs=True) == [
        f"task=t: {said}, {more} up to case, punctuation, spaces and order"
        for said, more in (
            ("1 of 1 validation items are in train too: 1 exactly", 0),
            ("2 of 2 test items are in train too: 2 exactly", 0),
            ("2 of 2 test items are in validation too: 0 exactly", 2),
            ("1 of 2 train items repeat an earlier train item: 0 exactly", 1),
            ("1 of 2 test items repeat an earlier test item: 1 exactly", 0),
        )
    ]


@pytest.mark.parametrize(("one", "other", "same"), [("?!", "?!", True), ("?!", "!!", False), ("😀", "😡", False)])
def test_signs_without_a_word_are_the_same_where_they_are_equal(one: str, other: str, same: bool) -> None:
    assert overlap(rows(one), rows(other)).normalised == int(same)


def test_texts_of_a_pair_are_compared_each_by_itself() -> None:
    train = [{"text": "a b", "text_pair": "c", "label": 0}]
    assert overlap(train, [{"text": "a", "text_pair": "b c", "label": 0}]).normalised == 0


def test_sums_that_are_tested_and_trained_on_are_said_for_every_pair_of_splits(tmp_path: Path) -> None:
    """A test set among the training questions of LLM-Adapters' mathematics, in its format."""
    questions = [f"Tim has {i} apples and finds {i + 1} more. How many has he?" for i in range(12)]
    made = [
        {"instruction": question, "input": "", "output": f"The answer is {2 * i + 1}", "answer": f"{2 * i + 1}.0"}
        for i, question in enumerate(questions)
    ]
    for name, part in {"train": [*made, made[0]], "validation": made[3:5], "test": [*made[:4], made[1]]}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(part))
    columns = ["task.columns.answer=output", "task.columns.reference=answer", "task.metric=last_number"]
    config = composed(
        "task=own", "task.kind=generation", f"task.path={tmp_path}", "task.prompt='{instruction}'", *columns,
        "model=tiny_llama", "model.config.max_position_embeddings=160",
    )  # fmt: skip
    said = load_task(config).warnings(config)
    assert [line.partition(": ")[2].partition(":")[0] for line in said] == [
        "2 of 2 validation items are in train too",
        "5 of 5 test items are in train too",
        "1 of 5 test items are in validation too",
        "1 of 13 train items repeat an earlier train item",
        "1 of 5 test items repeat an earlier test item",
    ]


def words_of(text: str) -> tuple[str, ...]:
    """A second way to the same comparison: the runs of letters and digits."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return tuple("".join(character if character.isalnum() else " " for character in folded).split())


def shared(train: Iterable[str], test: Iterable[str]) -> tuple[int, int]:
    """How many test texts are in train too, exactly and by their words."""
    trained_on, listed = set(train), list(test)
    trained_words = {words_of(text) for text in trained_on}
    return sum(text in trained_on for text in listed), sum(words_of(text) in trained_words for text in listed)


def loaded(*overrides: str) -> LoadedTask:
    return load_task(composed(*overrides, f"task.data_dir={REAL_DATA}", "protocol=paper"))


def test_imdb_has_reviews_in_both_of_its_official_splits() -> None:
    files = [real_data(f"imdb/{split}.jsonl").read_text(encoding="utf-8").split("\n") for split in ("train", "test")]
    train, test = ([json.loads(line)["text"] for line in lines if line] for lines in files)
    counts = loaded("task=imdb").overlaps["test"]
    assert (counts.exact, counts.normalised) == shared(train, test)
    assert counts == Overlap(items=2500, exact=2, normalised=counts.normalised)


def test_arc_easy_asks_two_test_questions_in_training_too() -> None:
    files = [real_data(f"commonsense/ARC-Easy/{split}.json").read_text(encoding="utf-8") for split in ("train", "test")]
    train, test = ([record["instruction"] for record in json.loads(text)] for text in files)
    counts = loaded("task=arc_easy", "model=llama2_7b").overlaps["test"]
    assert (counts.exact, counts.normalised) == shared(train, test)
    assert counts.exact == 2


def test_no_phrase_of_sst2s_dev_set_is_in_its_training_set_as_it_stands() -> None:
    files = [real_data(f"glue/SST-2/{split}.tsv").read_text(encoding="utf-8").split("\n") for split in ("train", "dev")]
    train, test = ([line.split("\t")[0] for line in lines[1:] if line] for lines in files)
    counts = loaded("task=sst2").overlaps["test"]
    assert (counts.exact, counts.normalised) == shared(train, test)
    assert (counts.items, counts.exact) == (872, 0)


def write_gsm8k(folder: Path) -> Path:
    """Three questions of six that were trained on: two as they are, one written otherwise."""
    (folder / "gsm8k").mkdir(parents=True)
    test = ["What is 0+7?", "What is 1+7?", "what is 2 + 7", "Is it 3?", "Is it 4?", "Is it 5?"]
    for split, questions in {"train": [f"What is {i}+7?" for i in range(9)], "test": test}.items():
        lines = [json.dumps({"question": question, "answer": "#### 7"}) + "\n" for question in questions]
        (folder / f"gsm8k/{split}.jsonl").write_text("".join(lines))
    return folder


@pytest.mark.slow
def test_a_sweep_says_once_what_was_trained_on_and_every_record_has_it(tmp_path: Path) -> None:
    where = [f"task.data_dir={write_gsm8k(tmp_path)}", f"results_dir={tmp_path}/r", f"cache_dir={tmp_path}/c"]
    done = run_program("src.run", "-m", "rank=1,2", *TINY_GSM8K, "protocol=paper,strict", *where)
    assert done.returncode == 0, done.stderr
    records: dict[str, list[Any]] = {protocol: [] for protocol in ("paper", "strict")}
    for record in read_all(tmp_path / "r"):
        records[record["config"]["protocol"]].append(record)
    assert [len(group) for group in records.values()] == [2, 2]
    for record in records["paper"]:
        counts = {"items": 6, "exact": 2, "normalised": 3}
        overlap = record["data"]["overlap"]
        assert {split: overlap[split] for split in ("validation", "test")} == {"validation": counts, "test": counts}
        assert record["data"]["rows"] == {"train": 9, "validation": 6, "test": 6}
        assert record["warnings"][0] == "task=gsm8k: protocol=paper validates on the test split"
        assert sum("of 6 test items are in train too" in said for said in record["warnings"]) == 1
    for record in records["strict"]:
        assert record["data"]["rows"] == {"train": 8, "validation": 1, "test": 6}
        assert record["data"]["overlap"]["validation"] == {"items": 1, "exact": 0, "normalised": 0}
        assert not any("validates on the test split" in said for said in record["warnings"])
    said = [line.removeprefix("warning: ") for line in done.stdout.splitlines() if line.startswith("warning: ")]
    assert len(said) == len(set(said))
    assert set(said) == {warning for group in records.values() for record in group for warning in record["warnings"]}


def sst2(folder: Path, train: list[tuple[str, int]], *overrides: str) -> Config:
    """The config of SST-2 with these training rows and three test rows."""
    (folder / "glue/SST-2").mkdir(parents=True, exist_ok=True)
    for file, phrases in {"train": train, "dev": [("x", 0), ("y", 1), ("z", 1)]}.items():
        lines = [f"{text}\t{label}\n" for text, label in phrases]
        (folder / f"glue/SST-2/{file}.tsv").write_text("".join(["sentence\tlabel\n", *lines]))
    return composed("task=sst2", f"task.data_dir={folder}", "task.validation_size=7", *overrides)


UNIQUE = [(f"phrase {i} ", i % 2) for i in range(40)]


def texts(task: LoadedTask, split: str) -> list[str]:
    return [row["text"] for row in task.data.splits[split]]


def test_held_out_rows_are_the_training_rows_that_are_not_trained_on(tmp_path: Path) -> None:
    task = load_task(sst2(tmp_path, UNIQUE))
    train, validation = texts(task, "train"), texts(task, "validation")
    assert (len(train), len(validation)) == (33, 7)
    assert sorted(train + validation) == sorted(text for text, _ in UNIQUE)
    assert texts(task, "test") == ["x", "y", "z"]
    order = [text for text, _ in UNIQUE]
    for split in (train, validation):
        assert split == sorted(split, key=order.index)


def test_the_same_rows_are_held_out_whatever_the_order_of_the_file(tmp_path: Path) -> None:
    held_out = []
    for seed in range(4):
        shuffled = random.Random(seed).sample(UNIQUE, len(UNIQUE))
        held_out.append(set(texts(load_task(sst2(tmp_path / str(seed), shuffled)), "validation")))
    assert held_out == held_out[:1] * 4
    again = load_task(sst2(tmp_path / "again", UNIQUE, f"cache_dir={tmp_path}"))  # another entry of the cache
    assert again.fingerprint == load_task(sst2(tmp_path / "again", UNIQUE)).fingerprint


def test_a_larger_validation_split_holds_the_smaller_one(tmp_path: Path) -> None:
    smaller, larger = (load_task(sst2(tmp_path, UNIQUE, f"task.validation_size={size}")) for size in (5, 20))
    assert set(texts(smaller, "validation")) < set(texts(larger, "validation"))


@pytest.mark.parametrize("size", range(1, 30, 4))
def test_equal_texts_stay_on_one_side_but_for_those_at_the_border(tmp_path: Path, size: int) -> None:
    ways = ("phrase {}", "Phrase {}!", "phrase  {} ")
    repeated = [(way.format(i), i % 2) for way in ways for i in range(10)]
    task = load_task(sst2(tmp_path, repeated, f"task.validation_size={size}"))
    groups = [{words_of(text) for text in texts(task, split)} for split in ("train", "validation")]
    assert len(groups[0] & groups[1]) == (0 if size % 3 == 0 else 1)
    assert task.overlaps["validation"].normalised == size % 3
    assert len(texts(task, "validation")) == size


def test_the_papers_protocol_trains_on_all_validates_on_test_and_says_so(tmp_path: Path) -> None:
    config = sst2(tmp_path, UNIQUE, "protocol=paper", "task.validation_size=0")
    task = load_task(config)
    assert texts(task, "train") == [text for text, _ in UNIQUE]
    assert task.data.splits["validation"] == task.data.splits["test"]
    assert task.warnings(config) == ["task=sst2: protocol=paper validates on the test split"]
    strict = sst2(tmp_path, UNIQUE)
    assert load_task(strict).warnings(strict) == []
    assert load_task(strict).fingerprint != task.fingerprint


def test_a_task_with_a_validation_split_of_its_own_keeps_it_under_the_papers_protocol() -> None:
    overrides = ["task=reverse_words", "model=tiny_llama"]
    paper, strict = composed(*overrides, "protocol=paper"), composed(*overrides)
    assert load_task(paper).data.splits == load_task(strict).data.splits
    assert not any("validates on the test split" in said for said in load_task(paper).warnings(paper))


@pytest.mark.parametrize("size", [0, 40, 41])
def test_a_validation_split_of_nothing_or_of_everything_is_refused(tmp_path: Path, size: int) -> None:
    message = rf"task.validation_size={size} can't be held out of 40 training rows.\nAllowed: 1 to 39\."
    with pytest.raises(UserError, match=message):
        load_task(sst2(tmp_path, UNIQUE, f"task.validation_size={size}"))


def test_a_test_split_without_answers_cannot_be_validated_on() -> None:
    splits: dict[str, list[Row]] = {"train": [{"prompt": "p", "answer": "a"}], "test": [{"turns": ["one", "two"]}]}
    with pytest.raises(UserError, match=r"task=t has no answers in its test split(.|\n)*Allowed: protocol=strict"):
        _three_splits(splits, TaskConfig(name="t"), "paper")


def test_an_unknown_protocol_is_refused_with_those_there_are() -> None:
    with pytest.raises(UserError, match=r"protocol=papers is not known.\nAllowed: paper, strict\."):
        composed("protocol=papers")


def test_the_papers_protocol_is_part_of_a_runs_identity_and_the_usual_one_is_not() -> None:
    paper, strict = (decisive(composed(f"protocol={protocol}")) for protocol in ("paper", "strict"))
    assert paper == {**strict, "protocol": "paper"}
    assert "protocol" not in strict


@pytest.mark.parametrize(
    "override",
    ["task.data_dir=/some/where", "task.sources.train.file=other.tsv", "task.sources.test.hub_id=a/b",
     "task.sources.train.revision=main", "task.sources.train.split=validation", "task.sources.train.hub_config=x",
     "task.validation_size=5"],
)  # fmt: skip
def test_where_the_rows_come_from_is_no_part_of_a_runs_identity(override: str) -> None:
    assert decisive(composed("task=sst2", override)) == decisive(composed("task=sst2"))


def test_a_run_on_files_is_the_run_on_the_hubs_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_files = sst2(tmp_path / "files", UNIQUE)
    splits = {"train": UNIQUE, "validation": [("x", 0), ("y", 1), ("z", 1)]}
    rows_on_hub = {
        split: [{"sentence": text, "label": label, "idx": i} for i, (text, label) in enumerate(phrases)]
        for split, phrases in splits.items()
    }
    as_on_the_hub(tmp_path / "hub", monkeypatch, rows_on_hub, config="sst2")
    on_hub = composed("task=sst2", "task.validation_size=7", f"cache_dir={tmp_path}")
    folders = {run_folder(config, some_inputs(load_task(config).fingerprint)) for config in (on_files, on_hub)}
    assert len(folders) == 1
    other = sst2(tmp_path / "other", [*UNIQUE[:-1], ("phrase 39", 1)])  # without the space at its end
    assert run_folder(other, some_inputs(load_task(other).fingerprint)) not in folders
