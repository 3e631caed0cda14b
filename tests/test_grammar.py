"""One grammar for all commands: what is typed is what is meant, and what is printed can be typed again."""

import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hydra.errors import HydraException

from src.config.arguments import options, split_own, split_sweep
from src.config.composer import Composer, composer
from src.config.composition import explain
from src.config.grammar import parsed
from src.config.schema import Config
from src.config.sweeps import single_job
from src.config.yaml_files import reading
from src.errors import UserError
from src.quoting import command_line, shell_word, written
from src.results.provenance import this_command
from src.results.stored_run import command
from tests.conftest import composed, run_program
from tests.test_sweeps import experiment

ODD_TEXTS = [
    "a b", "a=b", "50%", "it's", '"quoted"', "a,b", "[a]", "{a: 1}", "(a)", "a\\b", "a\\", "\\'", "\\\\'",
    "${rank}", "$HOME",
    "a#b", "~/x", "007", "1e3", "1_000", "-1", "null", "None", "true", "NaN", "inf", "-inf", " a ", "a:b", "é", "日本",
    "*?",
    "!x", "`ls`", "a;b", "a&b", "a|b", "<a>", "glob(*)", "range(3)", "@x", "%x", "/abs/p-a_t.h", "..", "+a", "a\tb",
]  # fmt: skip


@pytest.fixture(scope="module")
def reader() -> Iterator[Composer]:
    """One composer for all tests here, as a program has."""
    with composer() as made:
        yield made


def folder_of(reader: Composer, program: str, argument: str) -> str:
    """The folder of results that a program takes from an argument."""
    if program == "src.run":
        return results_dir_of(reader, argument)
    return options([argument], results_dir="")["results_dir"]


def results_dir_of(reader: Composer, argument: str) -> str:
    """The folder that `src.run` takes from an argument."""
    config: Config = reader.config(single_job(reader, [argument]))
    return config.results_dir


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_a_printed_option_is_read_back_as_it_was_by_every_command(reader: Composer, text: str) -> None:
    """The oracle is Python's own splitting of a shell's command line."""
    line = command_line("src.run", [f"task.prompt={written(text)}", f"results_dir={written(text)}"])
    _, _, _, prompt, folder = shlex.split(line)
    tree, _ = reader.tree([prompt])
    assert tree["task"]["prompt"] == text
    if "\t" not in text:  # which a folder's name may not have
        assert results_dir_of(reader, folder) == text
        assert options([folder], results_dir="") == {"results_dir": text}


@pytest.mark.parametrize("value", [None, True, 3, -0.5, 1e-30, [1, "a,b", None], {"a": [1, {"b": "x y"}]}, "", []])
def test_values_of_other_types_are_read_back_too(reader: Composer, value: object) -> None:
    tree, _ = reader.tree([f"+task.options.x={written(value)}"])
    assert tree["task"]["options"]["x"] == value
    assert type(tree["task"]["options"]["x"]) is type(value)


@pytest.mark.parametrize(
    "argument", ["1e3", "007", "1_0", "50%", "a b", "true", "0x10", "1.50", "-3", "nan", "+5", "a:b"]
)
def test_a_text_is_the_same_for_every_command(reader: Composer, argument: str) -> None:
    """A text that looks like a number isn't one where a text is asked for."""
    assert options([f"results_dir={argument}"], results_dir="") == {"results_dir": argument}
    assert results_dir_of(reader, f"results_dir={argument}") == argument


@pytest.mark.parametrize("text", ["a=b", "a,", "[a", "it's", "a#b", 'x"y'])
def test_what_can_t_be_read_is_answered_with_the_quotes_that_make_it_readable(reader: Composer, text: str) -> None:
    for program in ("src.run", "src.tables"):
        with pytest.raises(UserError) as refused:
            folder_of(reader, program, f"results_dir={text}")
        advice = str(refused.value).splitlines()[-1].partition(": ")[2]
        (word,) = shlex.split(advice)
        assert folder_of(reader, program, word) == text


@pytest.mark.parametrize(
    ("argument", "fault"),
    [
        ("rank = 8", "a space stands beside its name; without: rank=8."),
        ("rank=4,", "a comma has nothing on one side; several values have commas without spaces, as in rank=4,8."),
        ("rank=4,,8", "a comma has nothing on one side"),
        ("task.path=~/rows.csv", "the shell leaves a ~ behind = as it is; write $HOME for your home folder."),
        ("rank=a=b", "its value has characters that mean something in Hydra's grammar."),
    ],
)
def test_what_can_t_be_read_is_told_by_what_is_wrong_with_it(argument: str, fault: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"can't be read: {fault}")):
        parsed(argument)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["results_dir=a,b"], "takes one value"),
        (["results_dir=a", "results_dir=b"], "takes one value"),
        (["results_dir=[a,b]"], "takes one value"),
        (["results_dirs=a"], r"results_dirs is not an option\.\nAllowed: results_dir=\.\.\., table=\.\.\."),
        (["+results_dir=a"], "is not an option"),
        (["results"], r"results is not an option\.\nOptions are written key=value"),
        (["--table", "x"], "is not an option"),
        (["~table"], "is not an option"),
    ],
)
def test_programs_that_read_results_refuse_what_they_would_not_read(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        options(arguments, results_dir="", table="")


def test_a_sweep_s_flag_may_stand_anywhere_and_no_other_flag_is_taken_for_an_option() -> None:
    assert split_sweep(["rank=1,2", "-m"]) == (["rank=1,2"], True)
    assert split_sweep(["--multirun", "rank=1"]) == (["rank=1"], True)
    with pytest.raises(UserError, match=r"--rank is not a flag here\.\nAllowed: -m .*--help"):
        split_sweep(["--rank", "8"])


@pytest.mark.parametrize("folder", ["results/x", "a b", "it's", "1e3", "${rank}", "a=b,c", "$HOME/x"])
def test_the_command_that_makes_a_run_again_can_be_pasted(reader: Composer, folder: str) -> None:
    options_of_run = ["adapter=lora", "rank=3", "seed=0", "+task.options.note='a, b'"]
    config = composed(*options_of_run, f"results_dir={written(folder)}")
    words = shlex.split(command(config))
    assert words[:3] == ["python", "-m", "src.run"]
    again: Config = reader.config(single_job(reader, words[3:]))
    assert again == config


def test_the_command_of_a_record_can_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ["python", "-m", "src.run", "results_dir='a b'", "task.prompt=${x}", "note=it's"]
    monkeypatch.setattr(sys, "orig_argv", argv)
    assert shlex.split(this_command())[1:] == argv[1:]


@pytest.mark.parametrize("text", ["a'b", "plain", 'a"b', "a'b\"c", "a'$b"])
def test_a_shell_s_word_is_read_back(text: str) -> None:
    assert shlex.split(shell_word(text)) == [text]


# ---- files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"rank:\n\t4\n", r"line 2: a tab indents it"),
        (b"\xef\xbb\xbf# @package _global_\nrank: 4\n", "byte order mark"),
        (b"rank: 4\n", r"has no line `# @package _global_` at its top"),
        (b"# @package adapter\nrank: 4\n", r"has no line `# @package _global_`"),
        ("# @package _global_\nname: é\n".encode("latin-1"), "is not a text in UTF-8"),
        (b"# @package _global_\nrank: 4\nrank: 8\n", r"line 3: found duplicate key rank"),
        (b"# @package _global_\nrank: [4\n", r", line \d: "),
        (b"# @package _global_\n- rank\n", "no table of keys and values"),
        (b"# @package _global_\njust a text\n", "'just a text' is not an option"),
        (b"# @package _global_\nhydra:\n  job: {chdir: true}\n", r"sets 'hydra\.job', which means nothing here"),
        (b"# @package _global_\ndefaults:\n  - override /hydra/launcher: x\n", r"hydra/launcher=x"),
        (b"# @package _global_\ntrainer:\n  max_step: 3\n", r"'trainer\.max_step' is not an option"),
        (b"# @package _global_\nlr: 1:30\n", r"line 2: yaml takes 1:30 for 90\.\nWrite the plain number"),
        (b"# @package _global_\n\nseed: 010\n", r"line 3: yaml takes 010 for 8\."),
        (b"# @package _global_\nrank: 0x10\n", r"line 2: yaml takes 0x10 for 16\."),
        (b"# @package _global_\nrank: 1_6\n", r"line 2: yaml takes 1_6 for 16\."),
        (b"# @package _global_\ntask: {name: 12:30}\n", r"line 2: yaml takes 12:30 for 750\."),
        (b"# @package _global_\nresults_dir: 1e3\n", r"results_dir=1000\.0 is not a text\.\nPut it in quotes"),
        (b"# @package _global_\ndefaults:\n  - override /adapter: lorra\n", r"adapter=lorra is not known"),
        (
            b"# @package _global_\nhydra:\n  sweeper:\n    param: {seed: 1}\n",
            r"param' is not an option\.\nAllowed: .*params",
        ),
    ],
)
def test_an_experiment_s_yaml_is_answered_for_what_is_wrong_with_it(
    content: bytes, message: str, tmp_path: Path
) -> None:
    with experiment(tmp_path, content) as chosen, composer() as fresh, pytest.raises(UserError, match=message):
        fresh.config(single_job(fresh, [chosen]))


@pytest.mark.parametrize("line", ["/adapter: lora_fa", "override adapter: lora_fa"])
def test_a_file_that_overrides_a_group_in_another_way_is_answered_with_the_way(line: str, tmp_path: Path) -> None:
    content = f"# @package _global_\ndefaults:\n  - {line}\n".encode()
    with experiment(tmp_path, content) as chosen, composer() as fresh, pytest.raises(HydraException) as refused:
        fresh.config(single_job(fresh, [chosen]))
    assert "In a file's defaults: - override /adapter: lora," in explain(refused.value)


def test_what_only_looks_like_another_number_is_read(tmp_path: Path) -> None:
    path = tmp_path / "good.yaml"
    path.write_text("# at 10:30, 1_000 runs\na: '010'\nb: 0\nc: 0.05\nd: 1e-3\ne: a_1\nf: |\n  0x10\ng: 2020-01-01\n")
    with reading(path):
        values = yaml.safe_load(path.read_text())
    assert list(values) == list("abcdefg")


def test_a_launcher_that_isn_t_installed_is_said_to_be_missing(tmp_path: Path) -> None:
    done = run_program("src.run", "-m", "rank=2,4", "hydra/launcher=joblib", f"results_dir={tmp_path}/r")
    assert done.returncode == 2
    assert done.stderr.startswith("error: hydra/launcher=joblib is not known.\nAllowed: basic")
    assert "hydra-joblib-launcher" in done.stderr


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        ("src.verify", ["a", "b", "checkout=c"], "checkout=c is for the code of one run, and 2 are named"),
        ("src.verify", ["a", "checkuot=c"], "checkuot is not an option.\nAllowed: checkout="),
        ("src.verify", ["a", "checkout=b", "checkout=c"], "takes one value"),
        ("src.verify", ["-m", "a"], "-m is not a flag here"),
        ("src.verify", ["results/a=b"], "results/a=b has no finished run"),
        ("src.export", ["a", "--format", "peft", "--format", "merged"], "--format is given twice"),
        ("src.export", ["a", "--format", "peft", "--to", "b", "--to", "c"], "--to is given twice"),
        ("src.export", ["a", "--form", "peft"], "arguments are required: --format"),
        ("src.export", ["a", "b", "--format", "peft"], "unrecognized arguments: b"),
        ("src.tables", ["results_dir=a", "table=comparison,claims"], "table takes one value"),
        ("src.report", ["results_dir='a=b'"], "a=b holds no runs"),
        ("src.figures", ["results_dir=007"], "007 holds no runs"),
        ("src.params", ["rank=4,8"], "rank=4,8 has 2 values.\nAdd -m"),
        ("src.params", ["+adapter.rank=64"], "'adapter.rank' is not an option.\nAllowed: rank, "),
        ("src.params", ["rank=4", "rank=8"], "give rank twice"),
        ("src.params", ["num_labels=nan"], "num_labels=nan is not a whole number"),
        ("src.tune", ["adapter=lora", "adapter=full"], "give adapter twice"),
        ("src.tune", ["hydra/launcher=basic"], "'hydra/launcher' means nothing here"),
        ("src.run", ["--cfg", "job"], "--cfg is not a flag here"),
    ],
)
def test_every_command_reads_the_same_grammar_and_refuses_the_rest(
    program: str,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = importlib.import_module(program)
    monkeypatch.setattr(sys, "argv", [f"python -m {program}", *arguments])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) <= 4


@pytest.mark.parametrize(
    "program", ["run", "tune", "tables", "figures", "report", "params", "export", "verify", "decide", "inspect"]
)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_helps_whatever_else_it_is_asked(
    program: str, flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(f"src.{program}")
    monkeypatch.setattr(sys, "argv", [program, "nonsense", flag])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 0
    assert f"python -m src.{program}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("written", "meant"), [("maxruns=3", "max_runs"), ("max_hour=1", "max_hours"), ("plna=true", "plan")]
)
def test_a_misspelled_option_of_a_command_s_own_is_answered_with_the_right_one(written: str, meant: str) -> None:
    defaults = {"max_runs": "", "max_hours": "", "plan": "false"}
    with pytest.raises(UserError, match=f"is not an option.\nAllowed: {meant}=..."):
        split_own(["rank=8", written], defaults)
    values, rest = split_own(["rank=8", f"{meant}=7", "task.max_length=9"], defaults)
    assert values == defaults | {meant: "7"}
    assert rest == ["rank=8", "task.max_length=9"]
