"""`make setup` finds a Python, says in one line what is missing, and leaves no half environment.

The Pythons are scripts that answer as one of another version would; what pip and uv do are scripts too. The real
installation is what `make test-pythons` and CI do.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import HANG_SECONDS, ROOT

TOOLS = ["sh", "awk", "cat", "cksum", "cp", "dirname", "grep", "mkdir", "mktemp", "rm", "sed", "sleep", "tail", "tee",
         "touch", "uname"]  # fmt: skip
PIP_WORKS = """
echo "Collecting torch"
echo "  Downloading torch-2.13.0-cp312-cp312-manylinux_2_28_x86_64.whl.metadata (29 kB)"
echo "  Downloading torch-2.13.0-cp312-cp312-manylinux_2_28_x86_64.whl (883.1 MB)"
echo "  Downloading six-1.17.0-py2.py3-none-any.whl (0.1 MB)"
echo "Installing collected packages: six, torch"
"""
UV_WORKS = """
echo "Resolved 164 packages in 2.19s"
echo "Downloading torch (842.1MiB)"
echo "Downloading six (0.1MiB)"
echo " Downloaded torch"
echo "Installed 2 packages in 1.02s"
echo " + six==1.17.0"
"""
UV = """#!/bin/sh
echo "uv $*" >>"{calls}"
for last; do :; done
case "$1" in
venv)
    set >"{calls}.venv-variables"
    [ "$last" = .venv ] && mkdir -p .venv/bin && touch .venv/pyvenv.cfg && cp "{python}" .venv/bin/python ;;
pip) set >"{calls}.variables" && . "{uv_pip}" ;;
esac
"""
PYTHON = """#!/bin/sh
echo "{name} $*" >>"{calls}"
case "$1 $2" in
"-m venv") mkdir -p "$3/bin" && touch "$3/pyvenv.cfg" && cp "$0" "$3/bin/python" ;;
"-m pip") case "$3" in --version) ;; config) printf '%s\\n' {settings} ;; *) . "{pip}" ;; esac ;;
"-c "*)
code=$2
shift 2
exec "{python}" -c "import sys
sys.version_info = {version}
sys.modules |= dict.fromkeys({lacking})
$code" "$@" ;;
esac
"""


def heeding_interrupts() -> None:
    """Let a process be interrupted, also where the tests run in the background of a script, which ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Machine:
    """A folder with a clone's files, and a path that holds the tools of any system and the Pythons put there."""

    def __init__(self, folder: Path) -> None:
        self.clone, self.bin, self.calls, self.pip = (folder / name for name in ("a clone", "bin", "calls", "pip.sh"))
        self.clone.mkdir()
        self.bin.mkdir()
        self.calls.touch()
        self.pip.write_text(PIP_WORKS)
        self.uv_pip = folder / "uv-pip.sh"
        self.uv_pip.write_text(UV_WORKS)
        self.settings = ""  # of pip, as `pip config list` has them
        for name in ("setup.sh", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.clone)
        for tool in TOOLS:
            path = shutil.which(tool)
            assert path is not None
            (self.bin / tool).symlink_to(path)

    def add(self, name: str, version: tuple[int, int], *lacking: str) -> None:
        """Put a Python of a version on the path, which can't import what it is lacking, nor torch yet."""
        values = {"name": name, "version": version, "calls": self.calls, "pip": self.pip}
        values["lacking"] = ("torch", *lacking)
        values["settings"] = shlex.quote(self.settings)
        (self.bin / name).write_text(PYTHON.format(**values, python=sys.executable))
        (self.bin / name).chmod(0o755)

    def add_uv(self, python: str) -> None:
        """Put uv on the path, which makes environments with a Python that was added before."""
        values = {"calls": self.calls, "python": self.bin / python, "uv_pip": self.uv_pip}
        (self.bin / "uv").write_text(UV.format(**values))
        (self.bin / "uv").chmod(0o755)

    def start(self, **variables: str) -> "subprocess.Popen[str]":
        """Begin `sh setup.sh` in a process group of its own."""
        environment = {"PATH": str(self.bin), "TMPDIR": str(self.clone.parent)} | variables
        return subprocess.Popen(["sh", "setup.sh"], cwd=self.clone, env=environment, text=True, start_new_session=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                preexec_fn=heeding_interrupts)  # fmt: skip

    def setup(self, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Run `sh setup.sh` to its end."""
        process = self.start(**variables)
        out, err = process.communicate(timeout=HANG_SECONDS)
        return subprocess.CompletedProcess([], process.returncode, out, err)

    def refused(self, *words: str, **variables: str) -> str:
        """Run it, and see that it is refused in one line with these words, without an environment left behind."""
        done = self.setup(**variables)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert all(word in done.stderr for word in words), done.stderr
        return done.stderr

    @property
    def env(self) -> Path:
        return self.clone / ".venv"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def waited(is_so: Callable[[], bool]) -> bool:
    """Whether it becomes so within a minute, however busy the machine is."""
    return any(is_so() or time.sleep(0.02) for _ in range(3000))  # type: ignore[func-returns-value]


def test_the_newest_fitting_python_is_taken_and_a_second_time_nothing_is_done(machine: Machine) -> None:
    for name, version in {"python3.12": (3, 12), "python3.13": (3, 13), "python3": (3, 10)}.items():
        machine.add(name, version)
    done = machine.setup()
    assert done.returncode == 0, done.stderr
    calls = machine.calls.read_text()
    assert "python3.13 -m venv .venv" in calls
    assert "install --constraint constraints.txt --editable .[dev]" in calls
    assert "installing for Python" in done.stdout
    again = machine.setup()
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert machine.calls.read_text().count("pip install") == calls.count("pip install")


def test_what_pip_downloads_is_shown_in_a_line_each(machine: Machine) -> None:
    machine.add("python3.12", (3, 12))
    shown = machine.setup().stdout
    assert "  torch 2.13.0 (883 MB)\n  installing 2 packages\n" in shown
    assert "six" not in shown
    assert "metadata" not in shown
    if sys.platform == "linux":
        assert "gigabytes to download" in shown
        assert "make setup TORCH=" in shown
    assert all(len(line) <= 120 for line in shown.splitlines())


def test_a_python_that_is_named_is_taken(machine: Machine) -> None:
    machine.add("python3.10", (3, 10))
    machine.add("python3.14", (3, 14))
    machine.add("python3.12", (3, 12))
    assert machine.setup(PYTHON="python3.12").returncode == 0
    assert "python3.12 -m venv" in machine.calls.read_text()
    done = machine.setup(PYTHON="python3.14")
    assert ".venv is not python3.14's: making it again" in done.stdout
    assert "python3.14 -m venv" in machine.calls.read_text()
    assert machine.setup().stdout == ""  # and stays
    assert "no Python that runs" in machine.refused(PYTHON="python9")
    assert "python3.10 is Python 3.10" in machine.refused(PYTHON="python3.10")
    assert machine.setup().stdout == ""


def test_another_build_of_pytorch_is_installed_first(machine: Machine) -> None:
    machine.add("python3.12", (3, 12))
    done = machine.setup(TORCH="torch --index-url file:///wheels")
    assert done.returncode == 0
    assert "gigabytes" not in done.stdout
    installs = [call for call in machine.calls.read_text().splitlines() if "pip install" in call]
    assert installs[0].endswith("torch --index-url file:///wheels")
    assert "--editable" in installs[1]


def test_pythons_that_are_too_old_or_too_new_are_named(machine: Machine) -> None:
    machine.add("python3", (3, 10))
    machine.add("python", (3, 15))
    line = machine.refused("Python 3.11 to 3.14 is needed", "python3 is Python 3.10, python is Python 3.15", "uv")
    assert not machine.env.exists()
    assert "PYTHON=python3: python3 is Python 3.10." in machine.refused(PYTHON="python3")
    assert "none is there" not in line


def test_no_python_at_all_is_said(machine: Machine) -> None:
    machine.refused("3.11 to 3.14", "none is there", "apt install")
    machine.refused("PYTHON=python9: no Python that runs", PYTHON="python9")


def test_a_stub_that_only_looks_like_a_python_is_passed_over(machine: Machine) -> None:
    machine.add("python3.12", (3, 12))
    (machine.bin / "python3.13").write_text("#!/bin/sh\necho 'pyenv: python3.13: command not found' >&2\nexit 127\n")
    (machine.bin / "python3.13").chmod(0o755)
    assert machine.setup().returncode == 0
    assert "python3.12 -m venv" in machine.calls.read_text()


def test_a_python_without_venv_is_named_unless_another_has_it(machine: Machine) -> None:
    machine.add("python3.13", (3, 13), "ensurepip", "venv")
    machine.refused("python3.13 lacks ensurepip, venv", "apt install python3-venv")
    machine.add("python3.11", (3, 11))
    assert machine.setup().returncode == 0
    assert "python3.11 -m venv" in machine.calls.read_text()


def test_uv_provides_a_python_where_none_is(machine: Machine) -> None:
    machine.add("python3", (3, 9))
    machine.add("hidden", (3, 14))
    machine.add_uv("hidden")
    done = machine.setup()
    assert done.returncode == 0, done.stderr
    assert "uv provides one" in done.stdout
    assert "uv venv --quiet --allow-existing --seed --python >=3.11,<3.15 .venv" in machine.calls.read_text()


def test_uv_installs_where_it_is_with_the_same_pins_and_words(machine: Machine) -> None:
    machine.add("python3.12", (3, 12), "ensurepip", "venv")  # which uv does without
    machine.add_uv("python3.12")
    done = machine.setup()
    assert done.returncode == 0, done.stderr
    calls = machine.calls.read_text()
    assert f"uv venv --quiet --allow-existing --seed --python {machine.bin}/python3.12 .venv\n" in calls
    install = "uv pip install --python .venv/bin/python --constraint constraints.txt"
    assert f"{install} --editable .[dev]\n{install} --only-binary :all: bitsandbytes\n" in calls
    assert "-m venv" not in calls
    assert "-m pip install" not in calls
    assert "installing for Python" in done.stdout
    assert "  164 packages looked up\n  torch (883 MB)\n  installed 2 packages\n" in done.stdout
    assert "six" not in done.stdout
    assert machine.setup().stdout == ""


def test_uv_installs_another_build_of_pytorch_first(machine: Machine) -> None:
    machine.add("python3.12", (3, 12))
    machine.add_uv("python3.12")
    assert machine.setup(TORCH="torch --index-url file:///wheels").returncode == 0
    installs = [call for call in machine.calls.read_text().splitlines() if "pip install" in call]
    assert installs[0].endswith("constraints.txt torch --index-url file:///wheels")
    assert "--editable" in installs[1]


def test_uv_takes_packages_from_where_pip_s_settings_say(machine: Machine) -> None:
    machine.settings = (
        ":env:.index-url='https://mine/simple'\nglobal.extra-index-url='file:///a\\nfile:///b'\n"
        "global.find-links='/wheels'\nglobal.index-url='https://all/simple'"
    )
    machine.add("python3.12", (3, 12))
    machine.add_uv("python3.12")
    assert machine.setup(UV_FIND_LINKS="/own").returncode == 0
    variables = Path(f"{machine.calls}.variables").read_text()
    assert "UV_DEFAULT_INDEX='https://mine/simple'\n" in Path(f"{machine.calls}.venv-variables").read_text()
    assert "UV_DEFAULT_INDEX='https://mine/simple'\n" in variables
    assert "UV_EXTRA_INDEX_URL='file:///a file:///b'\n" in variables
    assert "UV_INDEX_STRATEGY='unsafe-best-match'\n" in variables
    assert "UV_FIND_LINKS='/own'\n" in variables  # uv's own go before
    assert "SSL_CERT_FILE" not in variables


def test_pip_installs_where_it_is_asked_for(machine: Machine) -> None:
    machine.add("python3.12", (3, 12))
    machine.add_uv("python3.12")
    assert machine.setup(INSTALLER="pip").returncode == 0
    assert "uv" not in machine.calls.read_text()
    shutil.rmtree(machine.env)
    machine.refused("INSTALLER=conda is not known. Allowed: uv, pip.", INSTALLER="conda")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("error: Failed to fetch: `https://pypi.org/simple/six/`", "index can't be reached"),
        ("  ╰─▶ Because torch==2.13.0 has no wheels with a matching platform tag", "has no build for this machine"),
        ("  \u00d7 No solution found when resolving dependencies:", "has no build for this machine"),
        ("error: something else", "uv failed (see above). pip may tell more: make setup INSTALLER=pip"),
    ],
)
def test_what_stops_uv_is_said_and_leaves_nothing(machine: Machine, said: str, words: str) -> None:
    machine.add("python3.12", (3, 12))
    machine.add_uv("python3.12")
    machine.uv_pip.write_text(f"echo {shlex.quote(said)}\nexit 1\n")
    machine.refused(words, "run make again")
    assert not machine.env.exists()
    machine.uv_pip.write_text(UV_WORKS)
    assert machine.setup().returncode == 0


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        ("WARNING: Retrying: NewConnectionError: Failed to establish a new connection", "index can't be reached"),
        ("ERROR: Connection broken: IncompleteRead(1 bytes read, 2 more expected)", "index can't be reached"),
        ("ERROR: HTTPSConnectionPool(host='x', port=443): Read timed out.", "index can't be reached"),
        ("error: command 'gcc' failed: No such file or directory", "there is no C compiler"),
        ("error: [Errno 2] No such file or directory: 'cc'", "there is no C compiler"),
        ("ERROR: No matching distribution found for torch<=2.13.0", "has no build for this machine"),
        ("ERROR: something else", "pip failed (see above)"),
    ],
)
def test_what_stops_pip_is_said_and_leaves_nothing(machine: Machine, said: str, words: str) -> None:
    machine.add("python3.12", (3, 12))
    machine.pip.write_text(f'echo "{said}"\nexit 1\n')
    machine.refused(words, "run make again")
    assert not machine.env.exists()
    machine.pip.write_text(PIP_WORKS)
    assert machine.setup().returncode == 0


def test_a_library_that_this_machine_lacks_does_not_stop_the_rest(machine: Machine) -> None:
    machine.add("python3.12", (3, 12))
    refuse = 'case "$*" in *bitsandbytes*) echo "{}"; exit 1 ;; esac\n'
    machine.pip.write_text(refuse.format("ERROR: No matching distribution found for bitsandbytes"))
    done = machine.setup()
    assert done.returncode == 0
    assert "all works but quantization=nf4 and int8" in done.stdout
    shutil.rmtree(machine.env)
    offline = "Retrying: Read timed out. ERROR: No matching distribution found for bitsandbytes"  # as pip says offline
    machine.pip.write_text(refuse.format(offline))
    machine.refused("index can't be reached")


@pytest.fixture
def installing(machine: Machine) -> Iterator["subprocess.Popen[str]"]:
    """A setup in whose middle pip waits."""
    machine.add("python3.12", (3, 12))
    began = machine.clone / "pip-began"
    waits = f"import pathlib, time; pathlib.Path('{began}').touch(); time.sleep(600)"
    machine.pip.write_text(f'exec "{sys.executable}" -c "{waits}"\n')  # exec: nothing forked could miss the signal
    process = machine.start()
    assert waited(began.exists)
    machine.pip.write_text(PIP_WORKS)
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def test_an_interrupted_setup_leaves_nothing(machine: Machine, installing: "subprocess.Popen[str]") -> None:
    os.killpg(installing.pid, signal.SIGINT)
    out, _ = installing.communicate(timeout=HANG_SECONDS)
    assert installing.returncode == 130
    assert "run make again" in out
    assert not machine.env.exists()
    assert machine.setup().returncode == 0


def test_a_killed_setup_is_begun_again(machine: Machine, installing: "subprocess.Popen[str]") -> None:
    machine.refused(f"another make (process {installing.pid}) is making .venv")
    os.killpg(installing.pid, signal.SIGKILL)
    installing.communicate(timeout=HANG_SECONDS)
    done = machine.setup()
    assert done.returncode == 0, done.stderr
    assert ".venv was left half made: making it again" in done.stdout


def test_an_environment_of_another_python_is_made_again_if_it_is_ours(machine: Machine) -> None:
    machine.add("python3.12", (3, 12))
    machine.add("python3.10", (3, 10))
    assert machine.setup().returncode == 0
    shutil.copy(machine.bin / "python3.10", machine.env / "bin/python")
    done = machine.setup()
    assert done.returncode == 0
    assert ".venv is Python 3.10: making it again" in done.stdout
    (machine.env / "bin/python").unlink()
    (machine.env / "bin/python").symlink_to("/nowhere/python3.12")
    assert ".venv has a Python that doesn't run: making it again" in machine.setup().stdout


def test_what_something_else_made_is_never_deleted(machine: Machine) -> None:
    machine.add("python3.12", (3, 12))
    machine.env.mkdir()
    (machine.env / "mine").touch()
    machine.refused(".venv is no virtual environment, and something else made it", "Move it away")
    assert (machine.env / "mine").exists()


def test_a_fitting_environment_of_another_tool_is_used(machine: Machine) -> None:
    machine.add("python3.12", (3, 12))
    subprocess.run([machine.bin / "python3.12", "-m", "venv", machine.env], check=True)
    (machine.env / "mine").touch()
    assert machine.setup().returncode == 0
    assert (machine.env / "mine").exists()


def test_a_clone_that_was_moved_makes_its_environment_again(machine: Machine) -> None:
    machine.add("python3.12", (3, 12))
    assert machine.setup().returncode == 0
    machine.clone = machine.clone.rename(machine.clone.with_name("moved"))
    assert ".venv was made in another folder: making it again" in machine.setup().stdout


def test_new_pins_are_installed_into_the_same_environment(machine: Machine) -> None:
    machine.add("python3.12", (3, 12))
    assert machine.setup().returncode == 0
    with (machine.clone / "constraints.txt").open("a") as file:
        file.write("six==1.17.0\n")
    calls = machine.calls.read_text()
    assert machine.setup().returncode == 0
    new = machine.calls.read_text().removeprefix(calls)
    assert "pip install" in new
    assert "-m venv" not in new


def test_a_folder_with_a_colon_is_refused(machine: Machine) -> None:
    machine.add("python3.12", (3, 12))
    machine.clone = machine.clone.rename(machine.clone.with_name("a:b"))
    machine.refused("has a colon", "Rename it")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused(machine: Machine) -> None:
    machine.add("python3.12", (3, 12))
    machine.clone.chmod(0o500)
    machine.refused("can't be written", "clone")
