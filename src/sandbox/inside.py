"""The inside of `outside.py`: builds the walls where bubblewrap has not, gives up all rights, runs the program.

Runs as a script of its own (`python -c <this text>`) with the standard library only. Its job comes on standard input
and its report leaves on standard output: a line that it started, then the job's token if the program reached its end,
else the name of the exception that stopped it.
"""

import marshal
import os
import select
import sys
import time
from typing import Any, NoReturn

STARTED = b"started\n"
TIMED_OUT = 124  # exit status, as of timeout(1)
WAITED = 125  # exit status of a program that did not end, and did not use its time either
NAMESPACES = 0x00020000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000  # mount, pid, network, ipc, host name
USER_NAMESPACE = 0x10000000
POLL_SECONDS = 0.1  # several threads use up their time faster than it passes
ROOT = "/proc"  # the new root grows on this mount point: no path that is to be shown lies under it


def main() -> NoReturn:
    """Do the job on standard input: walls, rights, program, in this order."""
    job: dict[str, Any] = marshal.loads(sys.stdin.buffer.read())
    report = os.dup(1)
    if job["walls"] is not None:
        enter_namespaces(new_user_namespace=job["user"] is None)
        show_only(**job["walls"])
    become(job["user"])
    if job["walls"] is not None:
        give_up_rights(job["filter"])
    silence()
    watch(job, report)


def call(name: str, *arguments: Any) -> None:
    """Call a function of the C library.

    Raises:
        OSError: it failed.
    """
    import ctypes  # 6 ms, which bubblewrap saves

    words = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*words) != 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def enter_namespaces(new_user_namespace: bool) -> None:
    """Return as process 1 of new namespaces: nothing outside can be signaled or reached, and all ends with it."""
    user, group = os.geteuid(), os.getegid()
    call("unshare", NAMESPACES | (USER_NAMESPACE if new_user_namespace else 0))
    if new_user_namespace:
        for name, text in ("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1"):
            with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123 - pathlib costs 10 ms
                file.write(text)
    die_with_parent()
    if first := os.fork():
        os._exit(os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) & 0xFF)


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it ends."""
    call("prctl", 1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL


def show_only(paths: list[str], links: dict[str, str], devices: list[str], temporary: str) -> None:
    """Change to a root with these paths, read-only, and an empty /tmp in memory: the working folder."""
    call("mount", None, b"/", None, 0x40000 | 0x4000, None)  # MS_PRIVATE, MS_REC: mounts stay in this namespace
    call("mount", b"tmpfs", ROOT.encode(), b"tmpfs", 0, b"mode=755,size=1m")
    os.mkdir(f"{ROOT}/tmp")  # noqa: PTH102
    call("mount", b"tmpfs", f"{ROOT}/tmp".encode(), b"tmpfs", 2 | 4, f"mode=1777,{temporary}".encode())
    for path in paths + devices:
        bind(path, devices=path in devices)
    for path, target in links.items():
        os.makedirs(os.path.dirname(ROOT + path), exist_ok=True)  # noqa: PTH103, PTH120
        os.symlink(target, ROOT + path)  # noqa: PTH211
    restrict(ROOT, 1 | 2 | 4, recursive=False)
    os.chdir(ROOT)
    call("pivot_root", b".", b".")  # the old root now lies over the new one: pivot_root(2), "pivot_root(".", ".")"
    call("umount2", b".", 2)  # MNT_DETACH
    os.chdir("/tmp")


def bind(path: str, devices: bool) -> None:
    """Show a file or folder of the machine under the new root, with all that is mounted below it, read-only."""
    target = ROOT + path
    os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120
    if os.path.isdir(path):  # noqa: PTH112
        os.mkdir(target)  # noqa: PTH102
    else:
        os.close(os.open(target, os.O_CREAT))
    call("mount", path.encode(), target.encode(), None, 0x1000 | 0x4000, None)  # MS_BIND, MS_REC
    restrict(target, 2 if devices else 1 | 2 | 4, recursive=True)


def restrict(path: str, attributes: int, recursive: bool) -> None:
    """Make a mount read-only (1), without set-user-id (2), without devices (4): mount_setattr(2), Linux 5.12."""
    request = b"".join(value.to_bytes(8, sys.byteorder) for value in (attributes, 0, 0, 0))
    call("syscall", 442, -100, path.encode(), 0x8000 if recursive else 0, request, len(request))


def become(user: int | None) -> None:
    """As root, change to an unprivileged user for good: limits on processes do not bind root."""
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)


def give_up_rights(filter_program: bytes) -> None:
    """Drop every capability, forbid gaining any, and apply the filter of system calls."""
    import ctypes

    call("capset", (0x20080522).to_bytes(4, sys.byteorder) + bytes(4), bytes(24))  # _LINUX_CAPABILITY_VERSION_3
    die_with_parent()  # again, as a change of user clears it
    call("prctl", 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    instructions = ctypes.create_string_buffer(filter_program, len(filter_program))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))

    program = Program(len(filter_program) // 8, ctypes.addressof(instructions))
    call("prctl", 22, 2, ctypes.byref(program), 0, 0)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def silence() -> None:
    """Connect input, output and errors to /dev/null."""
    null = os.open("/dev/null", os.O_RDWR)
    for stream in 0, 1, 2:
        os.dup2(null, stream)
    os.close(null)


def watch(job: dict[str, Any], report: int) -> NoReturn:
    """Run the program in a child; end, and with that end all it started, when it is over or its time is.

    Its time is that of the processor, which a busy machine gives to others; a program that only waits has longer.
    """
    child = os.fork()
    if child == 0:
        run(job, report)
    ending, last = os.pidfd_open(child), time.monotonic() + job["wait_seconds"]
    clock = ~child << 3 | 2  # of the child's processor time: clock_getcpuclockid(3), which Python lacks
    while True:
        left, waiting = job["timeout_seconds"] - processor_seconds(clock), last - time.monotonic()
        over, _, _ = select.select([ending], [], [], max(0, min(left, waiting, POLL_SECONDS)))
        if over or min(left, waiting) <= 0:
            os._exit(0 if over else TIMED_OUT if left <= 0 else WAITED)


def processor_seconds(clock: int) -> float:
    """What a process has used of the processor; 0 for one that has ended."""
    try:
        return time.clock_gettime(clock)
    except OSError:
        return 0.0


def run(job: dict[str, Any], report: int) -> NoReturn:
    """Run the program within its limits, in an empty namespace, and report how that ended."""
    import resource  # no part of Windows' Python, where the outside still has to import this file

    write, leave = os.write, os._exit  # the program may replace them in their module
    for limit, value in job["limits"]:
        hard = resource.getrlimit(limit)[1]
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (most, most))
    write(report, STARTED)
    message = job["token"]
    try:
        exec(compile(job["program"], "<program>", "exec", dont_inherit=True), {})
    except BaseException as error:
        message = type(error).__name__.encode()
    write(report, message)
    leave(0)


if __name__ == "__main__":
    main()
