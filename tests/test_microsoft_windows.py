"""On Windows the package can be imported and the tests can be collected. Checked on any system.

This file is also the program that imports everything. What Windows lacks is missing for the files of this repository
only: libraries have what they need on the system that they run on.
"""

import builtins
import importlib
import os
import subprocess
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from profiles import slow

ROOT = Path(__file__).parents[1]
OURS = {ROOT / "python", ROOT / "tests", ROOT / "benches"}
MODULES = {"curses", "fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}
NAMES = {
    "os": (
        *("chown", "fchmod", "fork", "forkpty", "posix_spawn", "register_at_fork", "wait"),
        *("getegid", "geteuid", "getgid", "getuid", "setgid", "setgroups", "setuid"),
        *("getpgid", "getpgrp", "killpg", "nice", "setsid", "sched_getaffinity", "sched_setaffinity"),
        *("O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "mkfifo", "mknod", "pread", "pwrite", "statvfs"),
        *("confstr", "sysconf", "uname"),
    ),
    "select": ("epoll", "kqueue", "poll"),
    "signal": (
        *("SIGALRM", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGSTOP", "SIGUSR1", "SIGUSR2"),
        *("alarm", "pause", "pthread_kill", "pthread_sigmask", "setitimer", "sigwait"),
    ),
    "socket": ("AF_UNIX",),
    "sys": (),
    "time": ("tzset",),
}
CHANGED = {"os": {"name": "nt"}, "sys": {"platform": "win32"}}


@slow
def test_everything_can_be_imported() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, __file__, "python", "tests"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def as_on_windows(name: str) -> ModuleType:
    module = ModuleType(name)
    module.__dict__.update(vars(importlib.import_module(name)))
    for missing in NAMES[name]:
        module.__dict__.pop(missing, None)
    module.__dict__.update(CHANGED.get(name, {}))
    return module


class LackingError(ModuleNotFoundError):
    """Windows has no such module."""


def main(folders: list[str]) -> int:
    """Import each module of the folders; return how many need what Windows lacks, or cannot be imported at all."""
    copies = {name: as_on_windows(name) for name in NAMES}
    import_module: Any = builtins.__import__

    def import_as_on_windows(name: str, names: Any = None, *more: Any, **options: Any) -> Any:
        if OURS.intersection(Path((names or {}).get("__file__") or "/").parents):
            if name in MODULES:
                raise LackingError(f"Windows has no module {name}", name=name)
            if name in copies:
                return copies[name]
        return import_module(name, names, *more, **options)

    vars(builtins)["__import__"] = import_as_on_windows
    failed = 0
    for folder in folders:
        for file in sorted((ROOT / folder).rglob("*.py")):
            if file.stem == "__main__" or file.stem.endswith("_program"):
                continue
            parts = file.with_suffix("").relative_to(ROOT).parts
            if folder == "python" or "stores" in parts:
                parts = parts[1:]
            elif folder == "tests":  # whose folders are not packages
                parts = parts[-1:]
            sys.path.insert(0, str(file.parent))
            try:
                importlib.import_module(".".join(parts))
            except pytest.skip.Exception as skipped:
                print(f"{'/'.join(parts)}: {skipped}")
            except Exception as error:
                # A framework that is not installed; the tests of its adapter are skipped, and say so.
                if isinstance(error, ImportError) and not isinstance(error, LackingError) and error.name not in NAMES:
                    print(f"{'/'.join(parts)}: {error}")
                    continue
                failed += 1
                traceback.print_exc(file=sys.stdout)
            finally:
                sys.path.remove(str(file.parent))
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
