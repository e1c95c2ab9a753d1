"""
First program in the sandbox: gives up rights, then becomes the untrusted program.

`toolkit.tools.python_tool` starts it as a script (`python -I -S sandbox.py SETTINGS`), in the folder that the untrusted
program may write to; it is never imported, and imports nothing of the project. Three processes:

    keeper ── waits; at the end or on SIGTERM it kills whatever is left
      └─ first ── process 1 of its own namespace: its end is the end of every descendant, however well hidden
           └─ guest ── limits itself and runs `main.py`
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

# Constants of the kernel: flags of unshare(2) and options of prctl(2).
NEW_USER, NEW_IPC, NEW_PID, NEW_NET = 0x10000000, 0x08000000, 0x20000000, 0x40000000
PARENT_DEATH_SIGNAL, CHILD_SUBREAPER, NO_NEW_PRIVILEGES = 1, 36, 38
NOBODY = 65534

READABLE = ("/usr", "/lib", "/lib64", "/bin", "/nix/store")
READABLE += ("/etc/ld.so.cache", "/etc/localtime", "/etc/alternatives")
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
DEVICES += ("/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu")

# Landlock: the three system calls (the same numbers on every architecture) and the rights over files.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
EXECUTE, WRITE, READ, READ_FOLDER, TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14
RIGHTS_BY_VERSION = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1}
ON_FILES = EXECUTE | WRITE | READ | TRUNCATE

# Replacement of a network namespace where the kernel refuses one; see the docstring of run_python.
GUARD = """
import runpy, sys
def refuse(event, arguments):
    if event.startswith("socket."):
        raise PermissionError("there is no network in the sandbox")
sys.addaudithook(refuse)
sys.argv = ["main.py"]
runpy.run_path("main.py", run_name="__main__")
"""

IS_LINUX = sys.platform == "linux"
libc = ctypes.CDLL(None, use_errno=True)


def main(settings: dict[str, Any]) -> int:
    """Run the guest under `settings`; return its exit code, or 128 + N where signal N ended it."""
    # Orphans of the guest become children of this process, which can then kill them.
    _set_option(CHILD_SUBREAPER, 1)
    if os.geteuid() == 0:
        # The kernel never limits the number of processes of root's real user id. The effective one stays, as the
        # interpreter may be in a folder that only root can enter.
        with contextlib.suppress(OSError):
            os.setresuid(NOBODY, -1, -1)
    has_namespaces = settings["namespaces"] and IS_LINUX and libc.unshare(NEW_USER | NEW_IPC | NEW_PID | NEW_NET) == 0

    # The parent's timeout ends the guest; the alarm is for the case that the parent is gone.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(128 + signal.SIGALRM))
    signal.alarm(settings["seconds"] + 5)
    try:
        first = _fork_limited(settings["processes"], has_namespaces)
        if first == 0:
            _run_first(settings, has_namespaces)
        return _read_exit_code(os.waitpid(first, 0)[1])
    finally:
        # Until there is no child left: what a child leaves behind becomes a child of this process.
        with contextlib.suppress(ChildProcessError, FileNotFoundError):
            while True:
                with open(f"/proc/self/task/{os.getpid()}/children") as children:
                    for child in children.read().split():
                        os.kill(int(child), signal.SIGKILL)
                os.waitpid(-1, 0)


def _set_option(option: int, value: int) -> None:
    if IS_LINUX:
        libc.prctl(option, value, 0, 0, 0)


def _fork_limited(processes: int, has_namespaces: bool) -> int:
    """Fork under a limit on processes: of the namespace if the kernel counts them there, else of the user."""
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    limit = processes
    if not has_namespaces:
        # The limit counts every thread of the user, so the present ones come on top.
        for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
            with contextlib.suppress(OSError):
                if name.isdigit() and os.stat(f"/proc/{name}").st_uid == os.getuid():
                    limit += len(os.listdir(f"/proc/{name}/task"))
    try:
        resource.setrlimit(resource.RLIMIT_NPROC, (limit, hard))
        return os.fork()
    except (BlockingIOError, ValueError):
        # Kernels before 5.14 count all of the user's processes in a namespace too: go without the limit.
        resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
        return os.fork()


def _run_first(settings: dict[str, Any], has_namespaces: bool) -> None:
    """Start the guest and reap what it leaves, until it ends. Never returns."""
    _set_option(PARENT_DEATH_SIGNAL, signal.SIGKILL)
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    guest = os.fork()
    if guest == 0:
        _become_guest(settings, has_namespaces)
    while True:
        process, status = os.wait()
        if process == guest:
            os._exit(_read_exit_code(status))


def _become_guest(settings: dict[str, Any], has_namespaces: bool) -> None:
    """Give up rights, report the layers, and replace this program by the untrusted one. Never returns."""
    # Opened first: afterwards Landlock forbids it. O_CLOEXEC keeps it from the guest.
    report = os.open(settings["report"], os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    _set_option(NO_NEW_PRIVILEGES, 1)  # no set-uid programs; Landlock requires it
    layers = ["limits", *(["network", "processes"] if has_namespaces else ["network guard"])]
    if settings["landlock"] and _lock_files(settings["readable"]):
        layers.append("files")
    os.write(report, json.dumps(layers).encode())

    for limit, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, settings["seconds"] + 1),
        (resource.RLIMIT_FSIZE, settings["files_mb"] << 20),
        (resource.RLIMIT_NPROC, resource.getrlimit(resource.RLIMIT_NPROC)[0]),
        (resource.RLIMIT_AS, settings["memory_mb"] << 20),
    ):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(limit, (value, value))  # hard as well, so that the guest can't raise it

    program = ["main.py"] if has_namespaces else ["-c", GUARD]
    os.execv(settings["python"], [settings["python"], "-I", "-X", "utf8", *program])


def _lock_files(readable: list[str]) -> bool:
    """
    Restrict the process by Landlock: read `readable` and the system, write the current folder, nothing else.

    It also hides the memory and environment of processes outside. Returns False where the kernel has no Landlock.
    """
    # Flag 1 asks for the version of the kernel's interface, each of which knows more rights.
    version = libc.syscall(CREATE_RULESET, None, 0, 1) if IS_LINUX else 0
    if version < 1:
        return False
    rights = RIGHTS_BY_VERSION[min(version, 3)]
    rules = libc.syscall(CREATE_RULESET, struct.pack("Q", rights), 8, 0)
    if rules < 0:
        return False
    for path in (*READABLE, *readable):
        _allow(rules, path, rights & (EXECUTE | READ | READ_FOLDER))
    for path in DEVICES:
        _allow(rules, path, rights & (READ | WRITE | READ_FOLDER))
    _allow(rules, ".", rights)
    return libc.syscall(RESTRICT_SELF, rules, 0) == 0


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # not on this system
        return
    # The kernel refuses rights over folders for a rule on a file.
    rights = rights if os.path.isdir(path) else rights & ON_FILES
    libc.syscall(ADD_RULE, rules, 1, struct.pack("=Qi", rights, descriptor), 0)
    os.close(descriptor)


def _read_exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
