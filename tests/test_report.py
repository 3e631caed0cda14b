"""The report is one file that needs nothing else, the same for the same runs, and works in a real browser."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from src.analysis.collect import collect
from src.analysis.report.data import report_data
from src.analysis.sweep import load
from src.report import write_report
from src.results.store import RESULT
from tests.conftest import HANG_SECONDS, ROOT, run_here

NINE_RUNS = ROOT / "results/nine_runs"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--virtual-time-budget=4000"]  # fmt: skip
# What every script of a test may use: `rows` and `column` of the table of runs, and what it finds.
HELPERS = """
const rows = () => [...document.querySelectorAll("#runs tbody tr")];
const position = (name) => [...document.querySelectorAll("#runs th")].findIndex((cell) => cell.textContent === name);
const column = (name) => rows().map((row) => row.children[position(name)].textContent);
const press = (name) => document.querySelector(`#runs th button[data-column="${name}"]`).click();
const choose = (select, value) => { select.value = value; select.dispatchEvent(new Event("change")); };
const write = (text) => {
  document.querySelector("#text").value = text;
  document.querySelector("#text").dispatchEvent(new Event("input"));
};
const plotOf = (section) => document.querySelector(`#${section} .plot`);
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed nine runs, of which one failed and one is of another machine."""
    made = tmp_path_factory.mktemp("report") / "nine_runs"
    shutil.copytree(NINE_RUNS / "runs", made / "runs")
    failed, moved = (
        next(made.rglob(f"{name}-*/{RESULT}")) for name in ("lora-r4-all_linear-s1", "lora_fa-r8-all_linear-s2")
    )
    record = json.loads(failed.read_text())
    failed.write_text(
        json.dumps(record | {"state": "failed", "error": {"class": "X", "message": "</script> out of memory"}})
    )
    record = json.loads(moved.read_text())
    record["provenance"]["device"]["name"] = "another machine"
    moved.write_text(json.dumps(record))
    return made


@pytest.fixture(scope="module")
def report(folder: Path) -> Path:
    return write_report(folder)


def in_browser(report: Path, tmp_path: Path, script: str) -> Any:
    """What a script finds in the report when a browser has loaded it: the value that it returns."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    ending = (
        f"<script>addEventListener('load', async () => {{ {HELPERS}\n"
        f"const value = await (async () => {{ {script} }})().catch((fault) => String(fault.stack));\n"
        "const made = document.createElement('pre'); made.id = 'value'; made.textContent = JSON.stringify(value);"
        "document.body.replaceChildren(made); });</script></body>"
    )
    before, _, after = report.read_text(encoding="utf-8").rpartition("</body>")
    page = tmp_path / "page.html"
    page.write_text(before + ending + after, encoding="utf-8")
    command = [browser, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS, check=True)
    text = re.search(r'<pre id="value">(.*?)</pre>', done.stdout, re.DOTALL)
    assert text, f"the script didn't end:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return json.loads(unescape(text[1]))


def test_the_report_loads_without_a_fault_or_a_request_and_draws_its_figures(report: Path, tmp_path: Path) -> None:
    seen = in_browser(
        report,
        tmp_path,
        """
        return {fault: !document.querySelector("#problem").hidden, rows: rows().length,
                drawn: ["cost", "ranks", "training"].map((name) => plotOf(name).querySelectorAll(".trace").length),
                asked: performance.getEntriesByType("resource").map((entry) => entry.name),
                title: document.title,
                tables: [...document.querySelectorAll("#tables h3")].map((title) => title.textContent)};
        """,
    )
    assert seen["fault"] is False
    assert seen["asked"] == []
    assert seen["rows"] == 33
    assert seen["drawn"] == [5, 5, 33 - 1]
    assert seen["title"] == "nine_runs: report"
    assert {"Comparison", "Rank versus accuracy", "Memory and time", "Equal parameters"} <= set(seen["tables"])


def test_the_table_of_runs_sorts_by_numbers_both_ways_and_puts_what_is_missing_last(
    report: Path, tmp_path: Path
) -> None:
    seen = in_browser(
        report,
        tmp_path,
        """
        press("test"); const down = column("test");
        press("test"); const up = column("test");
        press("adapter"); const words = column("adapter");
        const marked = document.querySelectorAll('#runs th[aria-sort="ascending"]').length;
        return {down, up, words, marked};
        """,
    )
    lost = "adapter == 'lora' and rank == 4 and seed == 1"
    tests = sorted(collect(NINE_RUNS).query(f"not ({lost})")["test"].map(lambda score: round(score, 4)), reverse=True)
    assert [float(text) for text in seen["down"][:-1]] == tests
    assert [float(text) for text in seen["up"][:-1]] == tests[::-1]
    assert seen["down"][-1] == seen["up"][-1] == "-"
    assert seen["words"] == sorted(seen["words"])
    assert seen["marked"] == 1


def test_filters_act_on_runs_and_figures_together_and_can_be_taken_back(report: Path, tmp_path: Path) -> None:
    seen = in_browser(
        report,
        tmp_path,
        """
        const counts = () => [rows().length, plotOf("cost").data.length, document.querySelector("#shown").textContent];
        choose(document.querySelector('#filters [data-key="adapter"]'), "lora_sb");
        const method = [counts(), [...new Set(column("adapter"))]];
        write("r16"); const both = counts();
        write("nothing has this"); const none = [rows().length, plotOf("cost").textContent];
        document.querySelector("#clear").click();
        return {method, both, none, cleared: counts()};
        """,
    )
    assert seen["method"] == [[9, 1, "9 of 33 runs"], ["lora_sb"]]
    assert seen["both"][0] == 3
    assert seen["none"] == [0, "Nothing to draw of what is chosen above."]
    assert seen["cleared"] == [33, 5, "33 of 33 runs"]


def test_the_axes_of_the_pareto_front_are_the_readers_choice_and_a_point_tells_its_runs(
    report: Path, tmp_path: Path
) -> None:
    seen = in_browser(
        report,
        tmp_path,
        """
        const plot = plotOf("cost"), axis = () => plot.layout.xaxis.title.text;
        const first = [axis(), plot.data[0].marker.symbol];
        choose(document.querySelector("#x"), "train_seconds");
        const second = [axis(), plot.data.map((trace) => trace.x.length)];
        choose(document.querySelector("#y"), "validation_mean");
        return {first, second, up: plot.layout.yaxis.title.text, text: plot.data[2].text[0],
                offered: [...document.querySelector("#x").options].map((option) => option.value)};
        """,
    )
    assert seen["first"][0] == "trained parameters with the head"
    assert seen["second"] == ["seconds of training", [1, 1, 3, 4, 3]]
    assert seen["up"] == "validation accuracy, %"
    assert "<b>lora r 4 all_linear</b>" in seen["text"]
    assert "165,888 trained without the head" in seen["text"]
    assert len(re.search(r"runs: (.*?)<br>", seen["text"])[1].split(", ")) == 2  # type: ignore[index]
    assert "forgetting_mean" not in seen["offered"]  # no run measured it


def test_nothing_of_the_page_comes_from_outside_and_no_text_ends_its_script(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert not re.search(r'<(script|link|img)[^>]+(src|href)="(?!data:)', text)
    stored = text.partition('id="data">')[2].partition("</script>")[0]
    assert "</script> out of memory" in json.dumps(json.loads(stored))


def test_the_report_opens_with_the_claims_and_their_verdicts_and_then_the_forest(tmp_path: Path) -> None:
    study = tmp_path / "target_sets"
    shutil.copytree(ROOT / "results/target_sets/runs", study / "runs")
    seen = in_browser(
        write_report(study),
        tmp_path,
        """
        const plot = plotOf("forest");
        return {order: [...document.querySelectorAll("main section:not([hidden])")].map((section) => section.id),
                claims: [...document.querySelectorAll("#claims th")].map((cell) => cell.textContent),
                verdicts: [...document.querySelectorAll("#claims td:nth-child(2)")].map((cell) => cell.textContent),
                names: plot.data.flatMap((trace) => trace.y), ends: plot.data.flatMap((trace) => trace.x),
                verdict: Object.fromEntries(plot.data.flatMap((trace) => trace.y.map((name) => [name, trace.name])))};
        """,
    )
    assert seen["order"][:3] == ["claims", "forest", "warnings"]
    assert seen["claims"][:4] == ["claim", "verdict", "difference", "p"]
    assert len(seen["verdicts"]) == 6
    sweep = load(study)
    baseline = sweep.names[sweep.baseline()]
    others = [name for name in sweep.names if name != baseline]
    assert dict(zip(seen["names"], seen["ends"], strict=True)) == pytest.approx(
        {name: 100 * sweep.test(name, baseline).difference for name in others}, abs=1e-6
    )
    assert seen["verdict"]["full"] == "better"
    assert seen["verdict"]["head_only"] == "worse"


def test_a_folder_that_is_no_study_has_no_claims_in_its_report(report: Path, tmp_path: Path) -> None:
    assert in_browser(report, tmp_path, 'return document.querySelector("#claims").hidden') is True


def test_the_same_runs_give_the_same_bytes(folder: Path, report: Path) -> None:
    before = report.read_bytes()
    assert write_report(folder).read_bytes() == before


def test_what_to_know_before_believing_a_number_is_said_first(folder: Path) -> None:
    said = report_data(load(folder), {})["warnings"]
    assert "failed: </script> out of memory" in said[0]
    assert "another machine (1)" in said[1]
    assert "12 of 12 rows have a learning rate that wasn't tuned for them." in said


def test_a_folder_without_runs_is_refused_with_what_to_do(tmp_path: Path) -> None:
    done = run_here("src.report", f"results_dir={tmp_path}")
    assert done.returncode == 2
    assert "holds no runs" in done.stderr
    assert "Traceback" not in done.stderr
