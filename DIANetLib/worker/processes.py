# SPDX-License-Identifier: Apache-2.0
"""Whether a process still runs, and how to end one with its children; standard library only.

A process id alone names no process for long, as it is given out again; together with the moment when the
process began it does.
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

__all__ = ["is_running", "kill_tree", "machine", "started"]


def machine() -> str:
    """What process ids are unique on: this machine and, on Linux, the container."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return f"{platform.node()} {space}".strip()


def started(pid: int) -> str | None:
    """When a process began, as a text that only serves to be compared; None if it does not run.

    Where the system does not say, `""` stands for a process that runs.
    """
    if sys.platform == "win32":
        return _started_windows(pid)
    return _started_linux(pid) if Path("/proc/self/stat").is_file() else _started_posix(pid)


def is_running(pid: int, since: str) -> bool:
    """Whether the process that had this id and, by `started`, began then still runs."""
    now = started(pid)
    return now is not None and (not since or not now or now == since)


def kill_tree(pid: int) -> None:
    """End a process and those that it has started, at once; no error if they are gone."""
    if sys.platform == "win32":
        with contextlib.suppress(OSError):
            subprocess.run(
                ["taskkill", "/F", "/T", "/PID", str(pid)],
                capture_output=True,
                creationflags=subprocess.CREATE_NO_WINDOW,
                check=False,
            )
        return
    for one in (*_descendants(pid), pid):
        with contextlib.suppress(OSError):
            os.kill(one, signal.SIGKILL)


def _started_linux(pid: int) -> str | None:
    try:
        # The name of the program, in parentheses, may hold spaces and parentheses itself.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    state, ticks = fields[0], fields[19]
    return None if state in "ZX" else f"{boot} {ticks}"


def _started_posix(pid: int) -> str | None:
    try:
        answer = subprocess.run(
            ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
    except OSError:
        return _exists(pid)
    state, _, moment = answer.stdout.strip().partition(" ")
    return None if not state or state.startswith("Z") else moment.strip()


def _exists(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:  # it runs, but is somebody else's
        pass
    return ""


if sys.platform == "win32":

    def _started_windows(pid: int) -> str | None:
        import ctypes
        from ctypes import wintypes

        query, still_active, refused = 0x1000, 259, 5
        kernel = ctypes.WinDLL("kernel32", use_last_error=True)
        kernel.OpenProcess.restype = wintypes.HANDLE
        handle = kernel.OpenProcess(query, False, pid)
        if not handle:
            return "" if ctypes.get_last_error() == refused else None
        try:
            code = wintypes.DWORD()
            if kernel.GetExitCodeProcess(wintypes.HANDLE(handle), ctypes.byref(code)) and (
                code.value != still_active
            ):
                return None
            times = [wintypes.FILETIME() for _ in range(4)]
            if not kernel.GetProcessTimes(wintypes.HANDLE(handle), *(ctypes.byref(t) for t in times)):
                return ""
            return f"{times[0].dwHighDateTime} {times[0].dwLowDateTime}"
        finally:
            kernel.CloseHandle(wintypes.HANDLE(handle))


def _descendants(pid: int) -> list[int]:
    """Children and theirs, the deepest first."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents():
        children.setdefault(parent, []).append(child)
    found = [pid]
    for one in found:
        found.extend(children.get(one, ()))
    return found[:0:-1]


def _parents() -> list[tuple[int, int]]:
    """Each process with its parent."""
    try:
        answer = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=False
        ).stdout
    except OSError:
        answer = ""
    rows = [line.split() for line in answer.splitlines()]
    if not rows:  # a slim container has no ps
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                text = stat.read_text(errors="replace")
                rows.append([stat.parent.name, text.rpartition(")")[2].split()[1]])
    return [(int(row[0]), int(row[1])) for row in rows if len(row) == 2]
