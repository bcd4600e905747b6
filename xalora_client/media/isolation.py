"""Limits that a worker process sets on itself: memory, files, network and new programs.

Linux enforces all of them where its kernel has Landlock (5.13) and seccomp; elsewhere what is missing is left
out. Called once all modules are imported; the interpreter's own folders stay readable.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_START_BYTES = 384 * 2**20
_HARD_BYTES = 8 * 2**30
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_FILTER = 38, 22, 2
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_READ = 1 << 2 | 1 << 3
# Kinds of access that each version of Landlock knows: files, TCP, and signals to other processes.
_FILE_BITS = {1: 13, 2: 14, 3: 15, 4: 15}
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# socket, connect, bind, sendto, execve, execveat, ptrace, kill, tkill, process_vm_readv, process_vm_writev,
# open_by_handle_at, io_uring_setup, pidfd_getfd, bpf, userfaultfd, keyctl, mount, unshare, setns
_DENIED = {
    "x86_64": (41, 42, 49, 44, 59, 322, 101, 62, 200, 310, 311, 304, 425, 438, 321, 323, 250, 165, 272, 308),
    "aarch64": (
        (198, 203, 200, 206, 221, 281, 117, 129, 130, 270, 271, 265, 425, 438, 280, 282, 219, 40, 97, 268)
    ),
}
_OWN_ABI_CALLS = 0x40000000  # numbers from here on are x32's


class MemoryLimit:
    """The limit of this process's address space, counted from what it takes when it begins.

    Does nothing where the system has no such limit.
    """

    def __init__(self) -> None:
        self._base: int | None = None
        with suppress(OSError, ValueError):
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            self._base = pages * os.sysconf("SC_PAGE_SIZE")

    def allow(self, extra: int) -> None:
        """Allow so many bytes more than a file without pixels needs."""
        if self._base is None:
            return
        import resource

        soft = self._base + min(_START_BYTES + extra, _HARD_BYTES)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (soft, self._base + _HARD_BYTES))


def isolate(readable: Iterable[Path]) -> list[str]:
    """Deny this process files, network and programs for good.

    Args:
        readable: Folders that it may still read.

    Returns:
        What took effect: ``landlock``, ``seccomp``.
    """
    if sys.platform != "linux":
        return []
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return []
    took_effect = {"landlock": _deny_files(libc, readable), "seccomp": _deny_calls(libc)}
    return [name for name, has_effect in took_effect.items() if has_effect]


def _deny_files(libc: ctypes.CDLL, readable: Iterable[Path]) -> bool:
    version = libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    files = (1 << _FILE_BITS.get(version, 16)) - 1
    rules = struct.pack("<QQQ", files, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    rules = rules[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = libc.syscall(_LANDLOCK_CREATE, rules, ctypes.c_size_t(len(rules)), 0)
    if ruleset < 0:
        return False
    try:
        for folder in readable:
            with suppress(OSError):
                place = os.open(folder, os.O_PATH | os.O_CLOEXEC)
                try:
                    libc.syscall(_LANDLOCK_ADD, ruleset, 1, struct.pack("<Qi", _READ, place), 0)
                finally:
                    os.close(place)
        return bool(libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def _deny_calls(libc: ctypes.CDLL) -> bool:
    machine = platform.machine()
    if machine not in _ARCHITECTURES or sys.maxsize < 1 << 32:
        return False
    load, jump_equal, jump_from, give = 0x20, 0x15, 0x35, 0x06
    allow, refuse = 0x7FFF0000, 0x00050000 | 1  # EPERM
    denied = _DENIED[machine]
    steps = [
        (load, 0, 0, 4),
        (jump_equal, 1, 0, _ARCHITECTURES[machine]),
        (give, 0, 0, refuse),
        (load, 0, 0, 0),
        (jump_from, len(denied) + 1, 0, _OWN_ABI_CALLS),
        *((jump_equal, len(denied) - place, 0, number) for place, number in enumerate(denied)),
        (give, 0, 0, allow),
        (give, 0, 0, refuse),
    ]
    code = b"".join(struct.pack("<HBBI", *step) for step in steps)
    program = _Program(len(steps), code)
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_FILTER, ctypes.byref(program), 0, 0) == 0)
