"""
The first program in the sandbox: gives up rights, then becomes the program that is not trusted.

It is started by `toolkit.tools.python_tool` as a script (`python -I -S confine.py SETTINGS`), in the folder that
the untrusted program may write to, and is never imported. Three processes: the *keeper* (this one) waits and,
at the end or on SIGTERM, kills whatever is left; the *first* is process 1 of a namespace of its own, so that
its end is the end of every descendant, however it hid; the *guest* limits itself and runs `main.py`.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import struct
import sys
from typing import Any

NEW_USER, NEW_IPC, NEW_PID, NEW_NET = 0x10000000, 0x08000000, 0x20000000, 0x40000000
PARENT_DEATH_SIGNAL, CHILD_SUBREAPER, NO_NEW_PRIVILEGES = 1, 36, 38
NOBODY = 65534
SYSTEM = (
    "/usr",
    "/lib",
    "/lib64",
    "/bin",
    "/nix/store",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/alternatives",
)
DEVICES = (
    "/dev/null",
    "/dev/zero",
    "/dev/random",
    "/dev/urandom",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/sys/devices/system/cpu",
)

# Landlock: the three system calls (the same numbers on every architecture) and the rights over files.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
EXECUTE, WRITE, READ, READ_FOLDER, TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14
RIGHTS_BY_VERSION = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1}
ON_FILES = EXECUTE | WRITE | READ | TRUNCATE

# What stands in for a network of one's own where the kernel gives none; see the docstring of run_python.
GUARD = """
import runpy, sys
def refuse(event, arguments):
    if event.startswith("socket."):
        raise PermissionError("there is no network in the sandbox")
sys.addaudithook(refuse)
sys.argv = ["main.py"]
runpy.run_path("main.py", run_name="__main__")
"""

LINUX = sys.platform == "linux"
libc = ctypes.CDLL(None, use_errno=True)


def main(settings: dict[str, Any]) -> int:
    """Run the guest under `settings`; its exit code, or 128 + N where signal N ended it."""
    _set(CHILD_SUBREAPER, 1)
    if os.geteuid() == 0:
        _count_as_nobody()
    apart = settings["namespaces"] and LINUX and libc.unshare(NEW_USER | NEW_IPC | NEW_PID | NEW_NET) == 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(128 + signal.SIGALRM))
    signal.alarm(settings["seconds"] + 5)
    try:
        first = _fork(settings, apart)
        if first == 0:
            _first(settings, apart)
        return _ended(os.waitpid(first, 0)[1])
    finally:
        _kill_descendants()


def _set(option: int, value: int) -> None:
    if LINUX:
        libc.prctl(option, value, 0, 0, 0)


def _count_as_nobody() -> None:
    # The kernel never limits the number of processes of root's real user id. The effective one stays, as the
    # interpreter may be in a folder that only root can enter.
    with contextlib.suppress(OSError):
        os.setresuid(NOBODY, -1, -1)


def _fork(settings: dict[str, Any], apart: bool) -> int:
    """Fork under the limit on processes: those in here if the kernel counts them apart, else the user's."""
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    allowed = settings["processes"] if apart else settings["processes"] + _processes_of_user()
    try:
        resource.setrlimit(resource.RLIMIT_NPROC, (allowed, hard))
        return os.fork()
    except (BlockingIOError, ValueError):
        # Kernels before 5.14 count all of the user's processes here too.
        resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
        return os.fork()


def _processes_of_user() -> int:
    mine = os.getuid()
    count = 0
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        with contextlib.suppress(OSError):
            count += (
                name.isdigit()
                and os.stat(f"/proc/{name}").st_uid == mine
                and len(os.listdir(f"/proc/{name}/task"))
            )
    return count


def _first(settings: dict[str, Any], apart: bool) -> None:
    """Start the guest and reap what it leaves, until it ends. Never returns."""
    _set(PARENT_DEATH_SIGNAL, signal.SIGKILL)
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    guest = os.fork()
    if guest == 0:
        _become_guest(settings, apart)
    while True:
        ended, status = os.wait()
        if ended == guest:
            os._exit(_ended(status))


def _become_guest(settings: dict[str, Any], apart: bool) -> None:
    report = os.open(settings["report"], os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    _set(NO_NEW_PRIVILEGES, 1)
    layers = ["limits", *(["network", "processes"] if apart else ["network guard"])]
    if settings["landlock"] and _lock_files(settings["readable"]):
        layers.append("files")
    os.write(report, json.dumps(layers).encode())
    _limit(settings)
    program = ["main.py"] if apart else ["-c", GUARD]
    os.execv(settings["python"], [settings["python"], "-I", "-X", "utf8", *program])


def _limit(settings: dict[str, Any]) -> None:
    memory, files = settings["memory_mb"] << 20, settings["files_mb"] << 20
    allowed = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    for what, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, settings["seconds"] + 1),
        (resource.RLIMIT_FSIZE, files),
        (resource.RLIMIT_NPROC, allowed),
        (resource.RLIMIT_AS, memory),
    ):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(what, (most, most))


def _lock_files(readable: list[str]) -> bool:
    """
    Restrict the process by Landlock: read `readable` and the system, write the current folder, nothing else.

    It also hides the memory and environment of processes outside. False where the kernel has no Landlock.
    """
    version = libc.syscall(CREATE_RULESET, None, 0, 1) if LINUX else 0
    if version < 1:
        return False
    rights = RIGHTS_BY_VERSION[min(version, 3)]
    rules = libc.syscall(CREATE_RULESET, struct.pack("Q", rights), 8, 0)
    if rules < 0:
        return False
    for path in (*SYSTEM, *readable):
        _allow(rules, path, rights & (EXECUTE | READ | READ_FOLDER))
    for path in DEVICES:
        _allow(rules, path, rights & (READ | WRITE | READ_FOLDER))
    _allow(rules, ".", rights)
    return libc.syscall(RESTRICT_SELF, rules, 0) == 0


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    rights = rights if os.path.isdir(path) else rights & ON_FILES
    libc.syscall(ADD_RULE, rules, 1, struct.pack("=Qi", rights, place), 0)
    os.close(place)


def _kill_descendants() -> None:
    """Kill until there is no child left: what a child leaves behind becomes a child of this process."""
    with contextlib.suppress(ChildProcessError, FileNotFoundError):
        while True:
            with open(f"/proc/self/task/{os.getpid()}/children") as children:
                for child in children.read().split():
                    os.kill(int(child), signal.SIGKILL)
            os.waitpid(-1, 0)


def _ended(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
