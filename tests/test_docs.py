"""The documentation: its links lead somewhere, its settings are the code's, and its instructions work."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir

from docs import settings
from src.config.schema import Config, SweeperConfig, TrainerConfig
from src.results.store import read_all
from src.tasks.base import load_task
from tests.conftest import ROOT, composed

DOCS = sorted((ROOT / "docs").glob("*.md"))
LINKING = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "AGENTS.md", "CHANGELOG.md", "benchmarks/README.md")),
    *(ROOT / "results" / name for name in ("README.md", "READING.md")),
    *DOCS,
    *sorted(ROOT.glob("experiments/*/README.md")),
]
LARGEST_README = 9_000  # bytes


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# ---- the front door and the links


def test_the_readme_is_a_front_door() -> None:
    assert (ROOT / "README.md").stat().st_size <= LARGEST_README


def test_the_readme_leads_to_every_page() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [path.name for path in DOCS if f"](docs/{path.name}" not in readme] == []


def without_code(markdown: str) -> str:
    """The text without fenced and indented blocks of code."""
    unfenced = re.sub(r"^(```|~~~).*?^\1", "", markdown, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(?<=\n\n)(?: {4}.*\n)+", "", unfenced)


def anchors(markdown: str) -> set[str]:
    """The anchors of the headings, as viewers of a repository make them: a heading that repeats gets a number."""
    names: set[str] = set()
    seen: Counter[str] = Counter()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", without_code(markdown), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        kept = "".join(c for c in text if c in " -_" or unicodedata.category(c)[0] in "LN").replace(" ", "-")
        names.add(f"{kept}-{seen[kept]}" if seen[kept] else kept)
        seen[kept] += 1
    return names


def links(markdown: str) -> list[str]:
    """Where links and images lead, those to other hosts left out."""
    prose = re.sub(r"`[^`\n]*`", "", without_code(markdown))
    return [target for target in re.findall(r"\]\(([^)\s]+)", prose) if not re.match(r"[a-z]+:", target)]


def dead_links(path: Path) -> list[str]:
    """The relative links of a page that lead to no file, or to no heading in it."""
    dead = []
    for link in links(path.read_text()):
        file, _, anchor = link.partition("#")
        target = path.parent / unquote(file) if file else path
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            dead.append(link)
    return dead


@pytest.mark.parametrize("path", LINKING, ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading(path: Path) -> None:
    assert dead_links(path) == []


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `code` heading, twice\n\n# A `code` heading, twice\n\n```sh\n# none\n[x](in_code.md)\n```\n")
    good = "[a](page.md#a-code-heading-twice) [b](#a-code-heading-twice-1) [c](https://a.b/c.md) `[d](e.md)`\n"
    page.write_text(page.read_text() + good + "\n[e](no.md) ![f](no.png) [g](#none) [h](page.md#no)\n")
    assert dead_links(page) == ["no.md", "no.png", "#none", "page.md#no"]


def test_the_links_that_are_checked_are_there() -> None:
    assert sum(len(links(path.read_text())) for path in LINKING) > 100


# ---- the reference of the settings


def test_the_settings_page_is_the_generated_one() -> None:
    assert settings.PAGE.read_text() == settings.page(), "run: python -m docs.settings"


def test_every_setting_has_a_type_a_default_and_a_meaning() -> None:
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in settings.page().splitlines() if line.startswith("| `")]
    assert all(len(row) == 4 and all(cell.strip() for cell in row) for row in rows)
    named = [row[0].strip(" `") for row in rows]
    assert len(named) == len(set(named))
    assert {f"trainer.{name}" for name in TrainerConfig.__dataclass_fields__} <= set(named)
    groups = {name.partition(".")[0] for name in named}
    assert set(Config.__dataclass_fields__) <= groups


def test_a_comment_is_read_at_the_end_of_a_line_and_above_it() -> None:
    said = settings.comments(TrainerConfig)
    assert said["max_steps"] == "optimizer steps; null where `epochs` says how long"
    above = settings.comments(SweeperConfig)["blocks"]
    assert above == "axes that belong together, each block a grid of its own"


# ---- the site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="MkDocs Material is not installed: make docs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_the_site_has_every_page_and_every_study(site: Path) -> None:
    assert {path.stem for path in DOCS} <= {path.stem for path in site.glob("*.html")}
    studies = {path.parent.name for path in ROOT.glob("experiments/*/README.md")}
    assert {path.parent.name for path in site.glob("experiments/*/index.html")} == studies


def test_the_site_fetches_nothing_from_another_host(site: Path) -> None:
    fetched = re.compile(r"<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\s\"'>]+)")
    assert [address for page in site.rglob("*.html") for address in fetched.findall(page.read_text())] == []


def test_the_site_s_own_links_lead_somewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        if page.name == "404.html":
            continue
        for link in re.findall(r"<(?:a|img)\b[^>]*?\b(?:href|src)=\"(?!https?:)([^\"#]+)", page.read_text()):
            assert (page.parent / unquote(link)).exists(), f"{page.relative_to(site)} links to {link}"


# ---- the pages that say what to do


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, its title and its text."""

    language: str
    title: str
    text: str


def blocks(page: str, section: str) -> list[Block]:
    """The fenced blocks of a section of a page in docs/."""
    text = (ROOT / "docs" / page).read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    fence = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return [Block(*match.groups(default="")) for match in fence.finditer(text)]


def follow(instructions: list[Block], folder: Path) -> str:
    """Do what a page says in a copy of the project: write its titled files, run its commands; what they printed."""
    for part in ("src", "conf"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    printed = ""
    for block in instructions:
        if block.title:
            write_files([block], folder)
        elif block.language == "sh":
            command, environment = ["bash", "-euc", block.text], os.environ | {"PATH": path}
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
            assert done.returncode == 0, done.stdout + done.stderr
            printed += done.stdout
    return printed


@pytest.mark.slow
def test_a_classifier_s_own_data_can_be_brought_as_the_page_says(tmp_path: Path) -> None:
    follow(blocks("own-data.md", "Classify texts"), tmp_path)
    records = read_all(tmp_path / "results")
    assert [record["config"]["adapter"]["name"] for record in records] == ["head_only", "lora"]
    for record in records:
        assert record["state"] == "done"
        assert record["data"]["rows"] == {"train": 7, "validation": 1, "test": 2}
    table = pd.read_csv(tmp_path / "results/tables/comparison.csv")
    assert sorted(table["adapter"]) == ["head_only", "lora"]
    assert (tmp_path / "results/tables/comparison.md").is_file()


KINDS_OF_THE_PAGE = {
    "Classify texts": ({"train": 7, "validation": 1, "test": 2}, ["billing", "technical"]),
    "Pairs of texts": ({"train": 3, "validation": 1, "test": 2}, ["0", "1"]),
    "Predict a number": ({"train": 3, "validation": 2, "test": 3}, ["number"]),
    "Choose an answer": ({"train": 2, "validation": 1, "test": 1}, []),
    "Write answers": ({"train": 4, "validation": 2, "test": 3}, []),
}


def write_files(page: list[Block], folder: Path) -> None:
    """Write the titled blocks of a page as it says."""
    for block in page:
        if block.title and block.title != "output":
            (folder / block.title).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.title).write_text(block.text)


def overrides_of(page: list[Block]) -> list[str]:
    """The arguments of a page's first command, but for what a sweep alone can take."""
    (command, *_) = [block.text for block in page if block.language == "sh"]
    words = shlex.split(command.replace("\\\n", " ").splitlines()[0])
    return [word.partition(",")[0] if word.startswith("adapter=") else word for word in words[3:] if word != "-m"]


@pytest.mark.parametrize("section", KINDS_OF_THE_PAGE)
def test_the_data_of_each_kind_are_read_as_the_page_says(
    section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = blocks("own-data.md", section)
    write_files(page, tmp_path)
    monkeypatch.chdir(tmp_path)
    config = composed(*overrides_of(page))
    data = load_task(config).data
    assert ({split: len(rows) for split, rows in data.splits.items()}, data.label_names) == KINDS_OF_THE_PAGE[section]


def test_a_task_s_own_yaml_gives_the_rows_of_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = blocks("own-data.md", "Classify texts")
    (yaml,) = blocks("own-data.md", "A task by name")
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    write_files([*page, yaml], tmp_path)
    monkeypatch.chdir(tmp_path)
    with initialize_config_dir(str(tmp_path / "conf"), version_base="1.3"):
        named = Config.from_hydra(compose("config", ["task=tickets"]))
    assert (named.task.name, named.task.architecture, named.task.metric) == ("tickets", "classifier", "accuracy")
    assert load_task(named).fingerprint == load_task(composed(*overrides_of(page))).fingerprint


@pytest.mark.slow
@pytest.mark.parametrize("section", [name for name in KINDS_OF_THE_PAGE if name != "Classify texts"])
def test_own_data_of_each_kind_can_be_brought_as_the_page_says(section: str, tmp_path: Path) -> None:
    follow(blocks("own-data.md", section), tmp_path)
    (record,) = read_all(tmp_path / "results")
    assert record["state"] == "done"
    rows, _ = KINDS_OF_THE_PAGE[section]
    assert record["data"]["rows"] == rows
    assert record["metrics"]["test"]["n"] == rows["test"]


@pytest.mark.slow
def test_an_own_model_can_be_brought_as_the_page_says(tmp_path: Path) -> None:
    page = blocks("own-model.md", "Another shape")
    printed = follow(page, tmp_path)
    (listed,) = [block.text for block in page if block.title == "output"]
    assert listed in printed
    assert "as PEFT prints it: 1,024 || " in printed
    records = read_all(tmp_path / "results")
    trained = {record["config"]["adapter"]["name"]: record["parameters"]["adapter_trained"] for record in records}
    assert trained == {"lora": 1024, "lora_fa": 512}
    assert {record["state"] for record in records} == {"done"}


def test_the_page_of_cases_names_tests_that_there_are() -> None:
    names = set(re.findall(r"\btest_\w+", (ROOT / "tests" / "README.md").read_text()))
    sources = {path.stem: path.read_text() for path in (ROOT / "tests").glob("test_*.py")}
    defined = {name for text in sources.values() for name in re.findall(r"def (test_\w+)", text)}
    assert len(names) > 100
    assert names <= defined | sources.keys()


def test_every_test_that_the_list_of_cases_names_is_there() -> None:
    tests, file = ROOT / "tests", ROOT
    for module, test in re.findall(r"(test_\w+\.py)|::(test_\w+)", (tests / "README.md").read_text()):
        file = tests / module if module else file
        assert not test or re.search(rf"def {test}\b", file.read_text()), f"{file.name}::{test}"
