"""Attacks from inside the sandbox, whose harm is looked for outside; each backend that isolates here is attacked."""

import os
import secrets
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from src.errors import UserError
from src.sandbox import outside as sandbox
from src.sandbox.outside import BACKENDS, MAX_PROCESSES, TEMPORARY_BYTES, Outcome, run_isolated, why_not_isolating
from tests.conftest import HANG_SECONDS, ROOT

Runs = Callable[..., Outcome]
ATTEMPTS = (1, 10, 100)  # seconds for an attack to begin: on a busy machine the first may be too few


@pytest.fixture(params=BACKENDS)
def run(request: pytest.FixtureRequest) -> Runs:
    """Runs a program in one backend, a minute at most; the test is skipped where that does not isolate."""
    if reason := why_not_isolating(request.param):
        pytest.skip(f"{request.param}: {reason}")
    return lambda program, timeout_seconds=60.0, **options: run_isolated(
        textwrap.dedent(program), timeout_seconds=timeout_seconds, backend=request.param, **options
    )


@pytest.fixture
def only_the_inner_limit(monkeypatch: pytest.MonkeyPatch) -> float:
    """Keep the outer limit, which would hide that the inner one fails, out of the way; returns its seconds."""
    monkeypatch.setattr(sandbox, "START_SECONDS", 300)
    return 300.0


@pytest.fixture
def marker() -> Iterator[str]:
    """A name that a program gives its processes; none is left when the test ends."""
    name = f"t{secrets.token_hex(6)}"
    yield name
    deadline = time.monotonic() + 60
    while processes(name) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert processes(name) == []


def processes(name: str) -> list[Path]:
    """The machine's processes of that name, as folders of /proc."""
    folders = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            folders += [path.parent] if path.read_text().strip() == name else []
        except OSError:  # it ended meanwhile
            continue
    return folders


def named(marker: str) -> str:
    return f"import ctypes, os, time\nctypes.CDLL(None).prctl(15, b'{marker}', 0, 0, 0)\n"


class Watch(threading.Thread):
    """Notes the most processes of a name, and the most memory they held at once, until it is stopped."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.watched, self.over = name, threading.Event()
        self.most, self.most_bytes = 0, 0

    def run(self) -> None:
        while not self.over.wait(0.005):
            running = processes(self.watched)
            self.most = max(self.most, len(running))
            self.most_bytes = max(self.most_bytes, sum(map(resident_bytes, running)))

    def __enter__(self) -> "Watch":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()


def resident_bytes(process: Path) -> int:
    try:
        return int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


# ---- what counts as ended


def test_a_program_that_runs_to_its_last_line_has_ended(run: Runs) -> None:
    assert run("import math, re, typing, hashlib, collections\nassert math.pi > 3") == Outcome(ended=True)


@pytest.mark.parametrize(
    ("leaving", "reason"),
    [
        ("import sys; sys.exit(0)", "SystemExit"),
        ("raise SystemExit", "SystemExit"),
        ("quit()", "NameError"),
        ("import os; os._exit(0)", "left before its last line"),
        ("import os, sys; os.execv(sys.executable, ['python', '-c', ''])", "left before its last line"),
        ("import os; os.kill(os.getpid(), 9)", "left before its last line"),
        ("import ctypes; ctypes.string_at(0)", "left before its last line"),
        ("def f(): return f()\nf()", "RecursionError"),
        ("x = (", "SyntaxError"),
        ("\0", "SyntaxError|ValueError"),
    ],
)
def test_leaving_before_the_last_line_has_not_ended(run: Runs, leaving: str, reason: str) -> None:
    outcome = run(f"{leaving}\nassert False")
    assert not outcome.ended
    assert outcome.reason in reason.split("|")


def test_words_on_every_open_file_are_no_proof_of_the_end(run: Runs) -> None:
    outcome = run("""
        import os
        print("started\\npassed")
        for number in range(64):
            try:
                os.write(number, b"started\\n" + b"0" * 32)
            except OSError:
                pass
        os._exit(0)
    """)
    assert not outcome.ended


def test_replacing_the_functions_that_report_does_not_turn_a_failure_into_an_end(run: Runs) -> None:
    outcome = run("import os\nos._exit = lambda *_: None\nos.write = lambda *_: 0\nassert False")
    assert outcome == Outcome(ended=False, reason="AssertionError")


def test_hash_order_is_the_same_in_every_run(run: Runs) -> None:
    program = "raise type('o' + str(abs(hash('a word'))), (Exception,), {})"
    assert run(program).reason == run(program).reason


# ---- what a program may use up


def test_an_endless_loop_is_stopped_at_its_time(run: Runs, marker: str, only_the_inner_limit: float) -> None:
    start = time.monotonic()
    outcome = run(named(marker) + "while True: pass", timeout_seconds=0.5)
    assert outcome == Outcome(ended=False, reason="stopped after 0.5 s of processor time", timed_out=True)
    assert 0.5 <= time.monotonic() - start < only_the_inner_limit


def test_a_program_that_waits_has_ten_times_its_time(run: Runs, only_the_inner_limit: float) -> None:
    assert run("import time; time.sleep(0.6)", timeout_seconds=0.5) == Outcome(ended=True)
    outcome = run("import time; time.sleep(600)", timeout_seconds=0.05)
    assert outcome == Outcome(ended=False, reason="stopped after 0.5 s, most of which it waited", timed_out=True)


def test_the_time_of_all_threads_counts(run: Runs, only_the_inner_limit: float) -> None:
    program = """
        import hashlib, threading
        work = lambda: [hashlib.sha256(bytes(10**6)).digest() for _ in range(10**6)]
        threads = [threading.Thread(target=work) for _ in range(2)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    """
    assert run(program, timeout_seconds=0.3).reason == "stopped after 0.3 s of processor time"


@pytest.mark.parametrize("signal", [9, 15, 19])
def test_signals_to_the_processes_around_it_do_not_gain_a_program_time(
    run: Runs, marker: str, signal: int, only_the_inner_limit: float
) -> None:
    attack = f"""
    for process in {os.getpid()}, {os.getppid()}, os.getppid(), 1, -1:
        try:
            os.kill(process, {signal})
        except OSError:
            pass
    """
    start = time.monotonic()
    assert not run(named(marker) + textwrap.dedent(attack) + "while True: pass", timeout_seconds=0.5).ended
    assert time.monotonic() - start < only_the_inner_limit


def test_a_fork_bomb_stays_within_a_few_processes_and_leaves_none(run: Runs, marker: str) -> None:
    bomb = "while True:\n    try: os.fork()\n    except OSError: pass"
    for seconds in ATTEMPTS:
        with Watch(marker) as watch:
            assert not run(named(marker) + bomb, timeout_seconds=seconds).ended
        assert watch.most <= MAX_PROCESSES
        if watch.most >= 2:
            return
    pytest.fail("no bomb went off")


def test_a_child_that_detached_itself_does_not_outlive_the_program(run: Runs, marker: str) -> None:
    detaching = "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(600)\n    os._exit(0)\n"
    for seconds in (0.3, 3, 30):  # in which the child is to be seen
        with Watch(marker) as watch:
            assert run(f"{named(marker)}{detaching}time.sleep({seconds})").ended
        if watch.most >= 2:
            return
    pytest.fail("no child was seen")


def test_memory_is_limited_in_one_process_and_in_all(run: Runs, marker: str) -> None:
    assert run("bytearray(2**30)").reason == "MemoryError"
    hog = """
    while True:
        try:
            os.fork()
            held = b'x' * (40 * 2**20)
        except (OSError, MemoryError):
            pass
    """
    for seconds in ATTEMPTS:
        with Watch(marker) as watch:
            assert not run(named(marker) + textwrap.dedent(hog), timeout_seconds=seconds, memory_bytes=2**26).ended
        assert watch.most_bytes < MAX_PROCESSES * 2**26
        if watch.most_bytes > 2**25:
            return
    pytest.fail("no memory was taken")


@pytest.mark.parametrize(
    "call", ["memfd_create(b'', 0)", "shmget(0, 1 << 30, 0o1600)", "unshare(0x10000000)", "unshare(0x20000)"]
)
def test_memory_that_no_limit_counts_is_refused(run: Runs, call: str) -> None:
    assert run(f"import ctypes\nif ctypes.CDLL(None).{call} < 0: raise ChildProcessError").reason == "ChildProcessError"


def test_its_disk_is_small_in_memory_and_gone_afterwards(run: Runs, marker: str) -> None:
    outcome = run(f"""
        import os
        written = 0
        os.mkdir("/tmp/{marker}")
        try:
            for number in range(100):
                with open(f"/tmp/{marker}/{{number}}", "wb", buffering=0) as file:
                    written += file.write(bytes(2 ** 20))
        except OSError:
            pass
        raise type(f"wrote{{written}}", (Exception,), {{}})
    """)
    assert 2**20 <= int(outcome.reason.removeprefix("wrote")) <= TEMPORARY_BYTES
    assert not Path("/tmp", marker).exists()


# ---- what a program may reach

ATTACK_ON_FILES = """
import os, shutil
for path in FILES:
    for attack in (
        lambda: open(path, "a").write("changed"),
        lambda: os.truncate(path, 0),
        lambda: os.chmod(path, 0),
        lambda: os.remove(path),
        lambda: shutil.rmtree(os.path.dirname(path)),
    ):
        try:
            attack()
        except OSError:
            pass
for path in NEW:
    try:
        open(path, "w").write("new")
    except OSError:
        pass
assert False
"""


def test_files_of_the_user_are_neither_changed_nor_removed_nor_added(run: Runs, tmp_path: Path, marker: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    old, new = folder / "thesis.txt", [at / marker for at in (Path.home(), Path.cwd(), ROOT, tmp_path, Path("/"))]
    old.write_text("years of work")
    attack = f"FILES, NEW = {[str(old)]}, {[str(path) for path in new]}\n{ATTACK_ON_FILES}"
    assert run(attack).reason == "AssertionError"
    assert old.read_text() == "years of work"
    assert not any(path.exists() for path in new)


def test_the_attack_on_files_would_succeed_outside(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    attack = f"FILES, NEW = {[str(folder / 'thesis.txt')]}, {[str(tmp_path / 'new')]}\n{ATTACK_ON_FILES}"
    subprocess.run([sys.executable, "-c", attack], capture_output=True, timeout=HANG_SECONDS)
    assert not folder.exists()
    assert (tmp_path / "new").exists()


def test_nothing_but_its_temporary_folder_is_writable(run: Runs) -> None:
    outcome = run("""
        import os
        writable = [at for at, _, _ in os.walk("/") if os.access(at, os.W_OK)]
        raise type(" ".join(writable), (Exception,), {})
    """)
    assert outcome.reason == "/tmp"


def test_a_server_of_this_machine_never_sees_a_connection(run: Runs) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind(f"\0{secrets.token_hex(8)}")
        local.listen()
        outcome = run(f"""
            import socket
            for family, address in (
                (socket.AF_INET, ("127.0.0.1", {server.getsockname()[1]})),
                (socket.AF_UNIX, {local.getsockname()!r}),
            ):
                try:
                    socket.socket(family, socket.SOCK_STREAM).connect(address)
                except OSError:
                    pass
            assert False
        """)
        assert outcome.reason == "AssertionError"
        for listening in server, local:
            listening.setblocking(False)
            with pytest.raises(BlockingIOError):
                listening.accept()


@pytest.mark.parametrize("family", ["AF_VSOCK", "AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET"])
def test_sockets_to_other_machines_and_to_the_host_of_a_virtual_one_are_refused(run: Runs, family: str) -> None:
    assert run(f"import socket\nsocket.socket(socket.{family})").reason == "PermissionError"


def test_a_secret_of_the_environment_is_not_passed_on(run: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    outcome = run("""
        import glob, os
        seen = str(os.environ)
        for path in glob.glob("/proc/*/environ"):
            seen += open(path).read()
        raise type("seen" if "hf_secret" in seen else "hidden", (Exception,), {})
    """)
    assert outcome.reason == "hidden"


def test_no_file_of_the_outside_is_open_inside_but_the_report(run: Runs) -> None:
    outcome = run("""
        import os, stat
        kinds = []
        for number in range(3, 64):
            try:
                kinds.append(stat.S_ISFIFO(os.fstat(number).st_mode))
            except OSError:
                pass
        raise type(str(kinds), (Exception,), {})
    """)
    assert outcome.reason == "[True]"


# ---- what is refused


def test_a_system_that_cannot_isolate_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "why_not_isolating", lambda name: "broken")
    with pytest.raises(UserError, match=r"bubblewrap: broken\n(.|\n)*install bubblewrap(.|\n)*macOS and Windows"):
        run_isolated("", timeout_seconds=1)


@pytest.mark.parametrize(("platform", "name"), [("darwin", "Darwin"), ("win32", "Windows")])
def test_systems_other_than_linux_are_refused(monkeypatch: pytest.MonkeyPatch, platform: str, name: str) -> None:
    monkeypatch.setattr("src.sandbox.outside.sys.platform", platform)
    monkeypatch.setattr("src.sandbox.outside.platform.system", lambda: name)
    assert why_not_isolating.__wrapped__("namespaces") == f"needs Linux; this is {name}"


def test_a_sandbox_without_walls_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_bubblewrap", lambda *_, **__: [])
    monkeypatch.setattr(sandbox, "_may_change_user", lambda: False)
    assert sandbox._probe("bubblewrap") == "starts, but does not isolate (AssertionError)"


def test_a_sandbox_that_does_not_start_is_an_error_and_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_bubblewrap", lambda *_, **__: ["false"])
    with pytest.raises(UserError, match="did not start: exit status 1"):
        run_isolated("", timeout_seconds=1, backend="bubblewrap")
