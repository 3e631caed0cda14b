"""E2E NLG: LoRA's text form and the challenge's csv are one task, a row of a held-out split is one restaurant."""

import csv
from pathlib import Path

import pytest

from src.errors import UserError
from src.tasks.base import TaskData, load_task
from tests.conftest import as_on_the_hub, composed, real_data

CSV = ["mr,ref", '"name[Cocum], priceRange[less than £20]","It\'s cheap, at Cocum."', "name[Aromi],Aromi is there."]
CSV += ['"name[Cocum], priceRange[less than £20]",Cheap Cocum. ']


def loaded(root: Path | None, **files: str) -> TaskData:
    folder = [f"task.data_dir={root}"] if root else []
    chosen = [f"task.sources.{split}.file={file}" for split, file in files.items()]
    return load_task(composed("task=e2e", "model=llama2_7b", *folder, *chosen)).data


def of_one_file(path: str) -> TaskData:
    root = real_data(path).parents[1]
    return loaded(root, train=path, validation=path, test=path)


def write(folder: Path, name: str, lines: list[str]) -> dict[str, str]:
    (folder / name).write_text("\n".join([*lines, ""]), encoding="utf-8")
    return {"train": name, "validation": name, "test": name}


@pytest.fixture(scope="module")
def real_csv() -> TaskData:
    return of_one_file("e2e/devset.csv")


@pytest.mark.parametrize(
    ("path", "descriptions", "restaurants"),
    [("e2e/devset.csv", 4672, 547), ("e2e/valid.txt", 4672, 547), ("e2e/test.txt", 4693, 630)],
)
def test_a_real_file_has_a_training_row_a_description_and_a_test_row_a_restaurant(
    path: str, descriptions: int, restaurants: int
) -> None:
    splits = of_one_file(path).splits
    assert len(splits["train"]) == descriptions
    assert len(splits["validation"]) == len(splits["test"]) == restaurants
    assert sum(len(row["reference"]) for row in splits["test"]) == descriptions


def test_both_forms_of_the_real_data_give_the_same_prompts(real_csv: TaskData) -> None:
    lora = of_one_file("e2e/valid.txt")
    for split in ("train", "test"):
        assert [row["prompt"] for row in lora.splits[split]] == [row["prompt"] for row in real_csv.splits[split]]


def test_both_forms_of_the_real_data_differ_in_the_spaces_of_descriptions_alone(real_csv: TaskData) -> None:
    pairs = list(zip(of_one_file("e2e/valid.txt").splits["train"], real_csv.splits["train"], strict=True))
    assert all("".join(one["answer"].split()) == "".join(other["answer"].split()) for one, other in pairs)
    assert any(one["answer"] != other["answer"] for one, other in pairs)


def test_a_real_row_is_what_stands_in_the_csv(real_csv: TaskData) -> None:
    with real_data("e2e/devset.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    first = [row["ref"] for row in rows if row["mr"] == rows[0]["mr"]]
    assert real_csv.splits["test"][0] == {
        "prompt": "name : Alimentum | area : city centre | family friendly : no||",
        "answer": " There is a place in the city centre, Alimentum, that is not family-friendly.",
        "reference": first,
    }
    assert len(first) == 6
    assert real_csv.splits["train"][5] == {
        "prompt": "name : Alimentum | area : city centre | family friendly : no||",
        "answer": " Alimentum in city centre is not a family-friendly place.",
    }


def test_descriptions_of_one_restaurant_are_its_references_in_order_wherever_they_stand(tmp_path: Path) -> None:
    data = loaded(tmp_path, **write(tmp_path, "few.csv", CSV))
    assert data.splits["test"] == [
        {
            "prompt": "name : Cocum | price : less than £ 20||",
            "answer": " It's cheap, at Cocum.",
            "reference": ["It's cheap, at Cocum.", "Cheap Cocum."],
        },
        {"prompt": "name : Aromi||", "answer": " Aromi is there.", "reference": ["Aromi is there."]},
    ]
    assert [row["answer"] for row in data.splits["train"]] == [
        " It's cheap, at Cocum.",
        " Aromi is there.",
        " Cheap Cocum.",
    ]


def test_the_hub_gives_the_rows_of_the_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with real_data("e2e/devset.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    parts = {"train": rows[:40], "validation": rows[2000:2040], "test": rows[4600:]}
    for split, part in parts.items():
        with (tmp_path / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["mr", "ref"])
            writer.writeheader()
            writer.writerows(part)
    files = loaded(tmp_path, **{split: f"{split}.csv" for split in parts}).fingerprint
    names = {"mr": "meaning_representation", "ref": "human_reference"}
    hub = {split: [{names[key]: value for key, value in row.items()} for row in part] for split, part in parts.items()}
    as_on_the_hub(tmp_path / "e2e_on_hub", monkeypatch, hub)
    assert loaded(None).fingerprint == files


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("cut.csv", [*CSV, "name[Aromi]"], r"cut\.csv:5 has no column 'ref'"),
        ("blank.csv", [*CSV, "name[Aromi],"], r"blank\.csv:5 has no description"),
        ("form.csv", [*CSV, "Aromi,Aromi is there."], r"form\.csv:5 has 'Aromi' in column 'mr'"),
        ("half.csv", [*CSV, '"name[Aromi], are",Aromi is there.'], r"half\.csv:5 has 'name\[Aromi\], are'"),
        ("other.csv", ["text,label", "a,1"], r"other\.csv:2 has no column 'mr'.\nIt has: label, text"),
        ("none.csv", CSV[:1], r"none\.csv has no rows"),
        ("cut.txt", ["name : Aromi||It is ."] * 2 + ["name : Aro"], r"cut\.txt:3 has no description"),
    ],
)
def test_bad_files_are_named_with_their_line(tmp_path: Path, name: str, lines: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        loaded(tmp_path, **write(tmp_path, name, lines))


def test_a_folder_without_the_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trainset\.csv doesn't exist.\ntask.data_dir=.* has: nothing"):
        loaded(tmp_path)
