"""Runs Python programs that nobody has read, such as those a model wrote, apart from the machine.

Threat model. The machine is protected from a hostile program: it runs in namespaces of its own (mounts, processes,
network, shared memory), as an unprivileged user without capabilities, and behind a filter of system calls. It sees
the standard library and the system's libraries read-only, a small /tmp in memory and nothing else: no home, no /proc,
no network, no environment. Time, memory, processes and files are limited. All its processes end with it.
The time is that of the processor, so that a busy machine changes no verdict; a program that only waits is stopped after
ten times as long.
What remains is the kernel itself: a program that exploits a flaw in it gets out, as from any container.

A score is protected from accidents and simple cheating: a program counts as ended only if its last line has run, which
a random token proves. Leaving early or printing proves nothing. As the checks run in the program's own process, as in
openai/human-eval, a program written against this file could still find the token by searching the interpreter.

The walls are bubblewrap's where `bwrap` is installed, else Linux namespaces entered directly (Linux 5.14).
"""

import contextlib
import itertools
import marshal
import os
import platform
import secrets
import shutil
import socket
import struct
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.sandbox import inside

BACKENDS = ("bubblewrap", "namespaces")
MEMORY_BYTES = 512 * 2**20  # of each process
MAX_PROCESSES = 6  # with the program's first and up to two of the sandbox itself
TEMPORARY_BYTES = 16 * 2**20
START_SECONDS = 10  # what setting up may take on a busy machine
PATIENCE = 10  # times its processor time that a program may take in all
DEVICES = ["/dev/null", "/dev/urandom", "/dev/zero"]
USERS = itertools.cycle(range(61184, 65520))  # systemd's range for passing users: one a program, as limits are by user


@dataclass(frozen=True)
class Outcome:
    """How a program ended: `ended` if its last line has run, else `reason` says what stopped it."""

    ended: bool
    reason: str = ""
    timed_out: bool = False


def run_isolated(
    program: str, *, timeout_seconds: float, memory_bytes: int = MEMORY_BYTES, backend: str | None = None
) -> Outcome:
    """Run a program's text in a sandbox, with the standard library only, for `timeout_seconds` of processor time.

    Raises:
        UserError: this system cannot isolate programs, or the sandbox did not start.
    """
    return _run(program, timeout_seconds, memory_bytes, backend or isolating_backend())


def isolating_backend() -> str:
    """The first backend that isolates here.

    Raises:
        UserError: none does.
    """
    why_not = {}
    for name in BACKENDS:
        if not (reason := why_not_isolating(name)):
            return name
        why_not[name] = reason
    tried = "\n".join(f"  {name}: {reason}" for name, reason in why_not.items())
    raise UserError(
        f"This system cannot isolate the programs that would be run here; none was.\n{tried}\n"
        "On Linux, install bubblewrap (package `bubblewrap`) and, in a container, allow it to create namespaces; "
        "macOS and Windows cannot: score there on a Linux machine."
    )


# ---- what the program gets


def _job(program: str, token: bytes, timeout_seconds: float, memory_bytes: int) -> dict[str, Any]:
    """What `src.sandbox.inside` is told, but for the walls."""
    import resource  # no part of Windows' Python, which gets as far as being refused

    limits = [
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, int(timeout_seconds) + 2),
        (resource.RLIMIT_FSIZE, TEMPORARY_BYTES),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_NPROC, MAX_PROCESSES),
        (resource.RLIMIT_CORE, 1),  # core(5): 1, unlike 0, also keeps a dump from being piped to a program
    ]
    user = next(USERS) if _may_change_user() else None
    job = {"program": program, "token": token, "timeout_seconds": timeout_seconds}
    job["wait_seconds"] = PATIENCE * timeout_seconds
    return job | {"limits": limits, "user": user, "walls": None}


def _may_change_user() -> bool:
    """Whether this is root and the passing users exist here; a container may map none but root."""
    ranges = [[int(word) for word in line.split()] for line in Path("/proc/self/uid_map").read_text().splitlines()]
    return os.geteuid() == 0 and any(start <= 61184 and start + count > 65519 for start, _, count in ranges)


def _interpreter() -> str:
    """The Python below any virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


@lru_cache(maxsize=1)
def _view() -> tuple[list[str], dict[str, str]]:
    """The paths that a program sees, none inside another, and the links to them: Python and the system's libraries."""
    python = [_interpreter(), sysconfig.get_path("stdlib"), f"{sys.base_prefix}/lib", f"{sys.base_exec_prefix}/lib"]
    system = ["/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/nix/store", "/etc/ld.so.cache"]
    links = {path: str(Path(path).readlink()) for path in system if Path(path).is_symlink()}
    real = sorted({path for path in python + system if path not in links and Path(path).exists()})
    inner = {path for path in real for outer in real if path.startswith(f"{outer}/")}
    return [path for path in real if path not in inner], links


# Calls that reach what the namespaces and limits leave open: memory that no limit counts (shared memory, memory files,
# file systems in new namespaces), other processes' memory, and parts of the kernel that no solution to a task needs.
# name: (number on x86_64, number on aarch64)
REFUSED_CALLS = {
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "ptrace": (101, 117),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "unshare": (272, 97),
    "setns": (308, 268),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "perf_event_open": (298, 241),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "memfd_create": (319, 279),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "io_uring_setup": (425, 425),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "pidfd_getfd": (438, 438),
    "mount_setattr": (442, 442),
    "memfd_secret": (447, 447),
}
# machine: (audit number, column of the pairs above, clone, socket)
MACHINES = {"x86_64": (0xC000003E, 0, 56, 41), "aarch64": (0xC00000B7, 1, 220, 198)}


@lru_cache(maxsize=1)
def _filter() -> bytes:
    """A seccomp program that refuses the calls above, new namespaces and all sockets but local ones."""
    audit, column, clone, local_socket = MACHINES[platform.machine()]
    load, equal, at_least, any_bit, end = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, refuse, unknown = 0x7FFF0000, 0x00050001, 0x00050026  # as if EPERM, as if ENOSYS
    code = [(load, 0, 0, 4), (equal, 1, 0, audit), (end, 0, 0, refuse), (load, 0, 0, 0)]
    code += [(at_least, 0, 1, 0x40000000), (end, 0, 0, refuse)]  # x86_64's second set of numbers
    for numbers in REFUSED_CALLS.values():
        code += [(equal, 0, 1, numbers[column]), (end, 0, 0, refuse)]
    code += [(equal, 0, 1, 435), (end, 0, 0, unknown)]  # clone3, whose flags a filter cannot see: libc takes clone
    code += [(equal, 0, 4, clone), (load, 0, 0, 16), (any_bit, 0, 1, 0x7E020080)]  # CLONE_NEW*
    code += [(end, 0, 0, refuse), (end, 0, 0, allow)]
    code += [(equal, 0, 4, local_socket), (load, 0, 0, 16), (equal, 1, 0, socket.AF_UNIX)]
    code += [(end, 0, 0, refuse), (end, 0, 0, allow), (end, 0, 0, allow)]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)


# ---- starting it


def _run(program: str, timeout_seconds: float, memory_bytes: int, backend: str) -> Outcome:
    """Run a program in a backend's sandbox, isolating or not."""
    token = secrets.token_hex(16).encode()
    job = _job(program, token, timeout_seconds, memory_bytes)
    limit_seconds = PATIENCE * timeout_seconds + START_SECONDS
    paths, links = _view()
    command = [_interpreter(), "-P", "-s", "-S", "-B", "-c", Path(inside.__file__).read_text()]
    if backend == "bubblewrap":
        with _sent(_filter()) as rules:
            command = [*_bubblewrap(paths, links, rules, as_root=job["user"] is not None), *command]
            report, errors, status = _execute(command, job, limit_seconds, [rules])
    else:
        temporary = f"size={TEMPORARY_BYTES},nr_inodes=4096"
        walls = {"paths": paths, "links": links, "devices": DEVICES, "temporary": temporary}
        job |= {"walls": walls, "filter": _filter()}
        report, errors, status = _execute(command, job, limit_seconds)
    if not report.startswith(inside.STARTED):
        raise UserError(f"The sandbox ({backend}) did not start: {errors or f'exit status {status}'}")
    return _outcome(report.removeprefix(inside.STARTED), token, status, timeout_seconds)


@contextlib.contextmanager
def _sent(data: bytes) -> Iterator[int]:
    """The reading end of a pipe in which a little data waits."""
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    try:
        yield reading
    finally:
        os.close(reading)


def _bubblewrap(paths: Iterable[str], links: dict[str, str], rules: int, as_root: bool) -> list[str]:
    """The command before the program's: its arguments take effect in order."""
    command = ["bwrap", *(f"--unshare-{each}" for each in ("pid", "net", "ipc", "uts", "cgroup-try")), "--new-session"]
    command += ["--die-with-parent", "--as-pid-1", "--seccomp", str(rules), "--cap-drop", "ALL"]
    command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"] if as_root else ["--unshare-user"]
    command += ["--perms", "1777", "--size", str(TEMPORARY_BYTES), "--tmpfs", "/tmp"]
    parents = {str(parent) for path in (*paths, *links, *DEVICES) for parent in Path(path).parents} - {"/", "/tmp"}
    for path in sorted(parents):
        command += ["--dir", path]  # made on the way to a path, they would be for root alone
    for path in paths:
        command += ["--ro-bind", path, path]
    for path in DEVICES:
        command += ["--dev-bind", path, path]
    for path, target in links.items():
        command += ["--symlink", target, path]
    return [*command, "--remount-ro", "/", "--chdir", "/tmp", "--"]


def _execute(
    command: list[str], job: dict[str, Any], limit_seconds: float, files: Sequence[int] = ()
) -> tuple[bytes, str, int]:
    """Run a command to its end or the limit: its report, the last line of its errors, its exit status."""
    pipe = subprocess.PIPE
    with tempfile.TemporaryFile() as stdin:
        stdin.write(marshal.dumps(job))
        stdin.seek(0)
        process = subprocess.Popen(
            command, stdin=stdin, stdout=pipe, stderr=pipe, pass_fds=files, env={"PYTHONHASHSEED": "0"}, cwd="/"
        )
    watchdog = threading.Timer(limit_seconds, process.kill)
    watchdog.start()
    status = process.wait()
    watchdog.cancel()
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        report, errors = _waiting(process.stdout.fileno()), _waiting(process.stderr.fileno())
    return report, (errors.decode(errors="replace").strip().splitlines() or [""])[-1], status


def _waiting(pipe: int) -> bytes:
    """What waits in a pipe, at most 64 KiB, whether or not its other end is closed."""
    os.set_blocking(pipe, False)
    try:
        return os.read(pipe, 2**16)
    except BlockingIOError:
        return b""


def _outcome(report: bytes, token: bytes, status: int, timeout_seconds: float) -> Outcome:
    """Read a report: the token, and it alone, proves the end."""
    if status == inside.TIMED_OUT:
        return Outcome(ended=False, reason=f"stopped after {timeout_seconds:g} s of processor time", timed_out=True)
    if status == inside.WAITED or status < 0:
        reason = f"stopped after {PATIENCE * timeout_seconds:g} s, most of which it waited"
        return Outcome(ended=False, reason=reason, timed_out=True)
    if report == token:
        return Outcome(ended=True)
    reason = report.decode(errors="replace")[:100]
    return Outcome(ended=False, reason=reason or "left before its last line")


# ---- whether it isolates

PROBE = """
import os, socket, time

def must_fail(action):
    try:
        action()
    except (OSError, MemoryError):
        return
    raise AssertionError

def start_many():
    for _ in range(64):
        if os.fork() == 0:
            time.sleep(60)

def fill(folder):
    for number in range(8):
        with open(f"{folder}/{number}", "wb") as file:
            file.write(bytes(LIMIT // 4))

must_fail(lambda: socket.create_connection(("127.0.0.1", PORT), 1))
must_fail(lambda: open(FILE))
must_fail(lambda: fill("/"))
open(f"/tmp/{os.path.basename(FILE)}", "w").write("changed")
must_fail(lambda: fill("/tmp"))
must_fail(lambda: bytearray(2 * MEMORY))
must_fail(start_many)
assert os.getpid() < 10 and os.geteuid() == os.getuid()
assert not os.path.exists("/proc/self") and not os.environ.keys() & NAMES
"""


@lru_cache(maxsize=8)
def why_not_isolating(backend: str) -> str:
    """Try out a backend: empty if it isolates, else the reason why not."""
    if sys.platform != "linux":
        return f"needs Linux; this is {platform.system()}"
    if platform.machine() not in MACHINES:
        return f"needs a processor of {' or '.join(MACHINES)}; this is {platform.machine()}"
    if backend == "bubblewrap" and not shutil.which("bwrap"):
        return "not installed"
    try:
        return _probe(backend)
    except (UserError, OSError) as error:
        return str(error)


def _probe(backend: str) -> str:
    """Attack a server, a file, the memory and the process table of this machine from inside the sandbox."""
    with tempfile.NamedTemporaryFile() as file, socket.create_server(("127.0.0.1", 0)) as server:
        names = set(os.environ) - {"PYTHONHASHSEED", "LC_CTYPE", "PWD"}
        facts = f"PORT, FILE, LIMIT = {server.getsockname()[1]}, {file.name!r}, {TEMPORARY_BYTES}\n"
        facts += f"MEMORY, NAMES = {MEMORY_BYTES}, {names or set()!r}\n"
        file.write(b"kept")
        file.flush()
        outcome = _run(facts + PROBE, 20, MEMORY_BYTES, backend)
        kept = Path(file.name).read_bytes() == b"kept"
    return "" if outcome.ended and kept else f"starts, but does not isolate ({outcome.reason or 'a file changed'})"
