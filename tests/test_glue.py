"""GLUE's nine tasks: the same rows from files as download_glue_data.py writes them and from the hub's columns."""

import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.errors import UserError
from src.tasks.base import LoadedTask, Row, TaskData, load_task
from tests.conftest import REAL_DATA, as_on_the_hub, composed, real_data

TEXTS = [
    'He said " go , Amélie .',
    "a phrase with a space at its end ",
    "tabs\u00a0no, other spaces yes",
    'It \'s "quoted"',
    "Über ½ of them",
    "plain",
]
MNLI_HEADER = (
    "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse\t"
    "sentence1\tsentence2\t"
)

# task: (folder, the hub's text columns, labels as the original files write them, header, line)
FORMATS: dict[str, tuple[str, list[str], list[str], str, str]] = {
    "cola": ("CoLA", ["sentence"], ["0", "1"], "", "gj04\t{label}\t*\t{a}"),
    "sst2": ("SST-2", ["sentence"], ["0", "1"], "sentence\tlabel\n", "{a}\t{label}"),
    "mrpc": (
        "MRPC",
        ["sentence1", "sentence2"],
        ["0", "1"],
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n",
        "{label}\t702876\t702977\t{a}\t{b}",
    ),
    "stsb": (
        "STS-B",
        ["sentence1", "sentence2"],
        ["0.000", "3.867", "5.000"],
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n",
        "{i}\tmain-captions\tMSRvid\t2012test\t0001\tnone\tnone\t{a}\t{b}\t{label}",
    ),
    "qqp": (
        "QQP",
        ["question1", "question2"],
        ["0", "1"],
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n",
        "{i}\t1\t2\t{a}\t{b}\t{label}",
    ),
    "mnli": (
        "MNLI",
        ["premise", "hypothesis"],
        ["entailment", "neutral", "contradiction"],
        MNLI_HEADER + "label1\tgold_label\n",
        "{i}\t31193\t31193n\tgovernment\t( a )\t( b )\t(ROOT a)\t(ROOT b)\t{a}\t{b}\tlabel-of-one\t{label}",
    ),
    "qnli": (
        "QNLI",
        ["question", "sentence"],
        ["entailment", "not_entailment"],
        "index\tquestion\tsentence\tlabel\n",
        "{i}\t{a}\t{b}\t{label}",
    ),
    "rte": (
        "RTE",
        ["sentence1", "sentence2"],
        ["entailment", "not_entailment"],
        "index\tsentence1\tsentence2\tlabel\n",
        "{i}\t{a}\t{b}\t{label}",
    ),
    "wnli": (
        "WNLI",
        ["sentence1", "sentence2"],
        ["0", "1"],
        "index\tsentence1\tsentence2\tlabel\n",
        "{i}\t{a}\t{b}\t{label}",
    ),
}
# what GLUE's paper and Hugging Face's data card have; not read from the yaml
NAMES = {
    "cola": ["unacceptable", "acceptable"],
    "sst2": ["negative", "positive"],
    "mrpc": ["not_equivalent", "equivalent"],
    "stsb": ["similarity"],
    "qqp": ["not_duplicate", "duplicate"],
    "mnli": ["entailment", "neutral", "contradiction"],
    "qnli": ["entailment", "not_entailment"],
    "rte": ["entailment", "not_entailment"],
    "wnli": ["not_entailment", "entailment"],
}


def made_up(task: str, split: str, count: int) -> list[dict[str, Any]]:
    """Records by their hub columns, with the label as an index, or a score as text."""
    columns, labels = FORMATS[task][1], FORMATS[task][2]
    return [
        {
            **{column: f"{split} {i} {TEXTS[(i + n) % len(TEXTS)]}" for n, column in enumerate(columns)},
            "label": labels[i % len(labels)] if task == "stsb" else i % len(labels),
        }
        for i in range(count)
    ]


def files_of(task: str) -> dict[str, str]:
    """The official file and the hub's split of each part."""
    if task == "mnli":
        return {"train": "train", "dev_matched": "validation_matched", "dev_mismatched": "validation_mismatched"}
    return {"train": "train", "dev": "validation"}


def write_original(root: Path, task: str, parts: dict[str, list[dict[str, Any]]]) -> Path:
    folder, columns, labels, header, line = FORMATS[task]
    (root / "glue" / folder).mkdir(parents=True)
    for file, records in parts.items():
        text = header
        for i, record in enumerate(records):
            label = record["label"] if task == "stsb" else labels[record["label"]]
            text += line.format(i=i, a=record[columns[0]], b=record[columns[-1]], label=label) + "\n"
        if file.startswith("dev_"):  # MNLI's dev files have all five annotators' labels
            text = text.replace("\tlabel1\t", "\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\t")
            text = text.replace("\tlabel-of-one\t", "\tlabel-of-one" * 5 + "\t")
        (root / "glue" / folder / f"{file}.tsv").write_text(text, encoding="utf-8")
    return root


def on_the_hub(task: str, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    score = (lambda text: float(np.float32(text))) if task == "stsb" else int
    return [{**record, "label": score(record["label"]), "idx": i} for i, record in enumerate(records)]


def load(task: str, cache: Path, *overrides: str) -> LoadedTask:
    return load_task(composed(f"task={task}", "model=minilm", f"cache_dir={cache}", *overrides))


def loaded(task: str, cache: Path, *overrides: str) -> TaskData:
    return load(task, cache, *overrides).data


@pytest.mark.parametrize("task", FORMATS)
def test_files_and_hub_give_the_same_rows(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {file: made_up(task, file, 31 if file == "train" else 13) for file in files_of(task)}
    root = write_original(tmp_path / "root", task, parts)
    data = loaded(task, tmp_path, f"task.data_dir={root}", "task.validation_size=9")

    splits = {files_of(task)[file]: on_the_hub(task, records) for file, records in parts.items()}
    as_on_the_hub(tmp_path / "hub", monkeypatch, splits, config=task)
    assert loaded(task, tmp_path, "task.validation_size=9").fingerprint == data.fingerprint

    assert data.label_names == NAMES[task]
    expected = [record for file, records in parts.items() if file != "train" for record in records]
    columns = FORMATS[task][1]
    assert [row["text"] for row in data.splits["test"]] == [record[columns[0]] for record in expected]
    assert [row["label"] for row in data.splits["test"]] == [
        float(record["label"]) if task == "stsb" else record["label"] for record in expected
    ]
    assert [row.get("text_pair") for row in data.splits["test"]] == [
        record[columns[1]] if len(columns) == 2 else None for record in expected
    ]
    assert (len(data.splits["train"]), len(data.splits["validation"])) == (22, 9)


def test_both_of_mnlis_dev_sets_are_tested_on_and_told_apart(tmp_path: Path) -> None:
    parts = {file: made_up("mnli", file, size) for file, size in zip(files_of("mnli"), (20, 5, 7), strict=True)}
    root = write_original(tmp_path, "mnli", parts)
    data = loaded("mnli", tmp_path, f"task.data_dir={root}", "task.validation_size=5")
    assert Counter(row["set"] for row in data.splits["test"]) == {"matched": 5, "mismatched": 7}
    assert all(row["text"].startswith(f"dev_{row['set']} ") for row in data.splits["test"])
    assert not any("set" in row for split in ("train", "validation") for row in data.splits[split])


def test_a_score_is_a_number_with_the_files_three_decimals(tmp_path: Path) -> None:
    root = write_original(tmp_path, "stsb", {file: made_up("stsb", file, 12) for file in ("train", "dev")})
    rows = loaded("stsb", tmp_path, f"task.data_dir={root}", "task.validation_size=3").splits["test"]
    assert [row["label"] for row in rows[:3]] == [0.0, 3.867, 5.0]
    assert all(type(row["label"]) is float for row in rows)


@pytest.fixture
def qqp(tmp_path: Path) -> Path:
    return write_original(tmp_path / "root", "qqp", {file: made_up("qqp", file, 300) for file in ("train", "dev")})


def test_a_line_of_qqp_that_is_broken_in_two_is_left_out(qqp: Path, tmp_path: Path) -> None:
    options = (f"task.data_dir={qqp}", "task.validation_size=30")
    whole = loaded("qqp", tmp_path, *options)
    with (qqp / "glue/QQP/train.tsv").open("a") as file:
        file.write("900\t1\t2\tWhat is\nthis?\tWhat is that?\t0\n901\t1\t2\tNo label?\tNone?\t\n")
    again = loaded("qqp", tmp_path / "again", *options)
    assert again.fingerprint == whole.fingerprint
    assert (whole.notes, again.notes) == ([], ["task=qqp: 3 of 303 lines of train are broken and left out"])


def test_a_file_of_broken_lines_is_refused_at_the_first(qqp: Path, tmp_path: Path) -> None:
    with (qqp / "glue/QQP/train.tsv").open("a") as file:
        file.write("900\t1\t2\tWhat is\nthis?\tWhat is that?\t0\n" * 9)
    with pytest.raises(UserError, match=r"train\.tsv:302 has no column 'question2'"):
        loaded("qqp", tmp_path, f"task.data_dir={qqp}")


def replaced(old: str, new: str) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return spoil


@pytest.mark.parametrize(
    ("task", "spoil", "message"),
    [
        ("rte", replaced("\tentailment\n", "\tperhaps\n"), r"train\.tsv:2 has the label 'perhaps' in column 'label'"),
        ("wnli", replaced("\t1\n", "\t2\n"), r"train\.tsv:3 has the label '2'.*\nAllowed: not_entailment \(0\)"),
        ("sst2", replaced("sentence\tlabel", "sentence\tclass"), r"train\.tsv:2 has no column 'label'"),
        ("mrpc", replaced("#1 String", "#1 Text"), r"train\.tsv:2 has no column '#1 String'.\nIt has: .*#1 Text,"),
        ("stsb", replaced("\t3.867\n", "\t-1.000\n"), r"train\.tsv:3 has the score '-1.000'.*\nAllowed: .* 0 to 5"),
        ("stsb", replaced("\t3.867\n", "\tn/a\n"), r"train\.tsv:3 has the score 'n/a' in column 'score'"),
        ("stsb", replaced("\t3.867\n", "\tnan\n"), r"train\.tsv:3 has the score 'nan'"),
        ("qnli", lambda path: path.write_text("index\tquestion\tsentence\tlabel\n"), r"train\.tsv has no rows"),
        ("cola", lambda path: path.write_text("gj04\t1\n"), r"train\.tsv:1 has no column 'sentence'"),
        ("cola", lambda path: path.unlink(), r"glue/CoLA/train\.tsv doesn't exist.\n.*\nGive the folder that holds"),
    ],
)
def test_a_file_that_is_not_the_official_one_is_refused_with_its_line(
    task: str, spoil: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    root = write_original(tmp_path, task, {file: made_up(task, file, 20) for file in files_of(task)})
    spoil(root / "glue" / FORMATS[task][0] / "train.tsv")
    with pytest.raises(UserError, match=message):
        loaded(task, tmp_path, f"task.data_dir={root}", "task.validation_size=5")


def test_the_hubs_hidden_labels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = {"train": [{"sentence": "a", "label": 1}], "test": [{"sentence": "b", "label": -1}]}
    as_on_the_hub(tmp_path / "hub", monkeypatch, splits, config="sst2")
    with pytest.raises(UserError, match=r"nyu-mll/glue test, row 0 has the label '-1'"):
        loaded("sst2", tmp_path, "task.sources.test.split=test")


def by_hand(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


@pytest.fixture(scope="module")
def sst2(tmp_path_factory: pytest.TempPathFactory) -> LoadedTask:
    real_data("glue/SST-2")
    return load("sst2", tmp_path_factory.mktemp("sst2"), f"task.data_dir={REAL_DATA}")


@pytest.fixture(scope="module")
def mrpc(tmp_path_factory: pytest.TempPathFactory) -> TaskData:
    real_data("glue/MRPC")
    return loaded("mrpc", tmp_path_factory.mktemp("mrpc"), f"task.data_dir={REAL_DATA}")


def counted(rows: list[Row]) -> dict[int, int]:
    return dict(Counter(row["label"] for row in rows))


def test_sst2_is_whole_and_its_trailing_spaces_are_kept(sst2: LoadedTask) -> None:
    train, validation, test = (sst2.data.splits[split] for split in ("train", "validation", "test"))
    assert (len(train), len(validation), len(test)) == (66_349, 1_000, 872)
    assert counted(train + validation) == {0: 29_780, 1: 37_569}
    assert counted(test) == {0: 428, 1: 444}
    lines = by_hand(real_data("glue/SST-2/dev.tsv"))
    assert test == [{"text": line["sentence"], "label": int(line["label"])} for line in lines]
    assert test[0]["text"].endswith("journey . ")


def test_mrpc_is_whole_in_spite_of_unpaired_quotes(mrpc: TaskData) -> None:
    train, validation, test = (mrpc.splits[split] for split in ("train", "validation", "test"))
    assert (len(train), len(validation), len(test)) == (3_298, 370, 408)
    assert counted(train + validation) == {0: 1_194, 1: 2_474}
    assert counted(test) == {0: 129, 1: 279}
    assert test == [
        {"text": line["#1 String"], "text_pair": line["#2 String"], "label": int(line["Quality"])}
        for line in by_hand(real_data("glue/MRPC/dev.tsv"))
    ]
    assert test[0]["text_pair"].startswith('" The foodservice pie business')


def test_validation_rows_are_held_out_of_train_the_same_every_time(mrpc: TaskData, tmp_path: Path) -> None:
    pairs = {
        split: {(row["text"], row["text_pair"]) for row in mrpc.splits[split]} for split in ("train", "validation")
    }
    assert not pairs["train"] & pairs["validation"]
    assert loaded("mrpc", tmp_path, f"task.data_dir={REAL_DATA}").fingerprint == mrpc.fingerprint


def test_the_paper_protocol_trains_on_all_rows_and_chooses_on_the_dev_set(mrpc: TaskData, tmp_path: Path) -> None:
    paper = loaded("mrpc", tmp_path, f"task.data_dir={REAL_DATA}", "protocol=paper")
    assert len(paper.splits["train"]) == 3_668
    assert paper.splits["validation"] == paper.splits["test"] == mrpc.splits["test"]


def test_few_of_sst2s_test_phrases_are_in_its_train_set(sst2: LoadedTask) -> None:
    def key(text: str) -> str:
        return " ".join("".join(letter if letter.isalnum() else " " for letter in text.casefold()).split())

    trained_on = {key(row["text"]) for row in sst2.data.splits["train"]}
    counts = sst2.overlaps["test"]
    assert (counts.items, counts.exact) == (872, 0)
    assert counts.normalised == sum(key(row["text"]) in trained_on for row in sst2.data.splits["test"]) == 2


@pytest.mark.parametrize("task", ["sst2", "mrpc"])
def test_real_records_are_the_same_rows_from_the_hub(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, columns = FORMATS[task][:2]
    fields = ["sentence", "label"] if task == "sst2" else ["#1 String", "#2 String", "Quality"]
    splits: dict[str, list[dict[str, Any]]] = {}
    for file, split in files_of(task).items():
        path = real_data(f"glue/{folder}/{file}.tsv")
        shortened = tmp_path / "root/glue" / folder / f"{file}.tsv"
        shortened.parent.mkdir(parents=True, exist_ok=True)
        shortened.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:60]))
        splits[split] = [
            {
                **{column: line[field] for column, field in zip(columns, fields, strict=False)},
                "label": int(line[fields[-1]]),
            }
            for line in by_hand(shortened)
        ]
    from_files = loaded(task, tmp_path, f"task.data_dir={tmp_path / 'root'}", "task.validation_size=9")
    as_on_the_hub(tmp_path / "hub", monkeypatch, splits, config=task)
    assert loaded(task, tmp_path, "task.validation_size=9").fingerprint == from_files.fingerprint
