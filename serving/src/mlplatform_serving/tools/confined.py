"""A process that gives up, for good, what no reader of weights needs: network, writing to any file,
other processes. For reading what strangers have written, by code that may have holes.

seccomp (Linux 3.17) refuses the system calls, in every thread and in whatever the process starts;
it must be had. Landlock (Linux 5.13) refuses every write below every folder, and TCP, once more,
where the kernel has it; limits (`RLIMIT_FSIZE` 0) refuse it a third time. What was opened before
stays open: that is how an answer comes out, by a pipe.

Sources: seccomp(2), landlock(7), linux/seccomp.h, linux/landlock.h, and the kernel's tables of
system calls (x86-64: syscall_64.tbl; arm64: asm-generic/unistd.h).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import resource
import socket
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple


class NotConfined(Exception):
    """It cannot be had here, and nothing should be read; the message says why."""


class _Machine(NamedTuple):
    """What the kernel calls a kind of machine, and where its numbers are in `_CALLS`."""

    audit: int
    column: int
    seccomp: int


_MACHINES = {
    "x86_64": _Machine(0xC000003E, 0, 317),
    "aarch64": _Machine(0xC00000B7, 1, 277),
}

_CALLS: dict[str, tuple[int | None, int | None]] = {
    # Network, and whatever else leads out of the process.
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "accept": (43, 202),
    "accept4": (288, 242),
    "bind": (49, 200),
    "listen": (50, 201),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
    "mq_open": (240, 180),
    "shmget": (29, 194),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    # Files; open and openat are looked at more closely below.
    "creat": (85, None),
    "truncate": (76, 45),
    "ftruncate": (77, 46),
    "fallocate": (285, 47),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "rmdir": (84, None),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "link": (86, None),
    "linkat": (265, 37),
    "symlink": (88, None),
    "symlinkat": (266, 36),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "lchown": (94, None),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "mount": (165, 40),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    # Processes, this one's other threads left aside.
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "kill": (62, 129),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "keyctl": (250, 219),
}
"""Refused with EPERM: the number on x86-64, and on arm64."""
_OPEN, _OPENAT = (2, None), (257, 56)
_CLONE, _CLONE3, _OPENAT2 = (56, 220), (435, 435), (437, 437)
_CLONE_THREAD = 0x00010000
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

# Classic BPF over `struct seccomp_data`: nr, arch, ip, six arguments of 64 bits, little-endian.
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_X32 = 0x40000000
_SET_NO_NEW_PRIVS, _SET_FILTER, _EVERY_THREAD = 38, 1, 1

_LANDLOCK_CREATE, _LANDLOCK_RESTRICT, _LANDLOCK_VERSION = 444, 446, 1
_LANDLOCK_FILES = {1: 0b1_1111_1111_0011, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
"""By the ABI that has them: every right but to read files and folders (bits 2 and 3)."""
_LANDLOCK_TCP, _LANDLOCK_SCOPES = 0b11, 0b11


def confine() -> list[str]:
    """Give it all up, and prove it; how, for people. `NotConfined` if that cannot be had."""
    libc = ctypes.CDLL(None, use_errno=True)
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(limit, (0, 0))
    if platform.system() != "Linux" or platform.machine() not in _MACHINES:
        raise NotConfined(
            f"seccomp is not known for {platform.system()} on {platform.machine()}, only for Linux "
            f"on {' and '.join(_MACHINES)}"
        )
    if libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise NotConfined(f"no_new_privs: {os.strerror(ctypes.get_errno())}")
    used = ["rlimit"]
    if landlock := _landlock(libc):
        used.append(landlock)
    _seccomp(libc, _MACHINES[platform.machine()])
    used.append("seccomp")
    prove()
    return used


def prove() -> None:
    """Try what must not be; `NotConfined` names what was not refused."""
    for what, attempt in _ATTEMPTS.items():
        try:
            attempt()
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EACCES):
                continue
            raise NotConfined(f"{what} was not refused, but failed: {error}") from None
        raise NotConfined(f"{what} was not refused")


def _write() -> None:
    # tempfile would look on where it is refused, and not tell by what.
    path = f"/tmp/.mlplatform-{os.getpid()}"  # noqa: S108 - it must not come to be
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    os.unlink(path)  # noqa: PTH108 - as near to the system as the rest


def _spawn() -> None:
    if os.fork() == 0:
        os._exit(0)
    os.wait()


def _connect() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.sendto(b"", ("127.0.0.1", 9))


_ATTEMPTS: dict[str, Callable[[], object]] = {
    "sending over the network": _connect,
    "opening a socket": lambda: socket.socket(socket.AF_UNIX).close(),
    "writing a file": _write,
    "opening a device to write": lambda: os.close(os.open("/dev/null", os.O_WRONLY)),
    "starting a process": _spawn,
    "running a program": lambda: os.execv("/bin/true", ["true"]),  # noqa: S606 - must be refused
}


def _landlock(libc: ctypes.CDLL) -> str:
    """How it is called here; empty where the kernel has none."""
    version = libc.syscall(_LANDLOCK_CREATE, None, 0, _LANDLOCK_VERSION)
    if version < 1:
        return ""
    files = sum(bits for since, bits in _LANDLOCK_FILES.items() if since <= version)
    words = [files]
    if version >= 4:
        words.append(_LANDLOCK_TCP)
    if version >= 6:
        words.append(_LANDLOCK_SCOPES)
    attributes = struct.pack(f"<{len(words)}Q", *words)
    ruleset = libc.syscall(_LANDLOCK_CREATE, attributes, len(attributes), 0)
    if ruleset < 0:
        return ""
    with contextlib.closing(os.fdopen(ruleset)):
        if libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0):
            return ""
    return f"landlock (ABI {version})"


class _Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _seccomp(libc: ctypes.CDLL, machine: _Machine) -> None:
    code = b"".join(_filter(machine))
    program = _Program(len(code) // 8, code)
    refused = libc.syscall(machine.seccomp, _SET_FILTER, _EVERY_THREAD, ctypes.byref(program))
    if refused:  # above 0: the thread that could not be brought under it
        raise NotConfined(f"seccomp cannot be had: {os.strerror(ctypes.get_errno())}")


def _filter(machine: _Machine) -> Iterator[bytes]:
    def step(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
        return struct.pack("<HBBI", code, then, otherwise, value)

    def refuse(number: int = errno.EPERM) -> bytes:
        return step(_RETURN, _REFUSE | number)

    def argument(index: int) -> bytes:
        return step(_LOAD, _ARGUMENTS + 8 * index)

    yield step(_LOAD, _ARCHITECTURE)
    yield step(_JUMP_EQUAL, machine.audit, 1, 0)
    yield step(_RETURN, _KILL)
    yield step(_LOAD, _NUMBER)
    if machine.column == 0:
        yield step(_JUMP_AT_LEAST, _X32, 0, 1)
        yield step(_RETURN, _KILL)
    for numbers in _CALLS.values():
        number = numbers[machine.column]
        if number is not None:
            yield step(_JUMP_EQUAL, number, 0, 1)
            yield refuse()
    # Not there: the C library then takes the older call, whose flags can be looked at.
    for numbers in (_CLONE3, _OPENAT2):
        yield step(_JUMP_EQUAL, numbers[machine.column], 0, 1)
        yield refuse(errno.ENOSYS)
    for numbers, flags in ((_OPEN, 1), (_OPENAT, 2)):
        number = numbers[machine.column]
        if number is not None:
            yield step(_JUMP_EQUAL, number, 0, 4)
            yield argument(flags)
            yield step(_JUMP_BITS, _WRITING, 0, 1)
            yield refuse()
            yield step(_RETURN, _ALLOW)
    number = _CLONE[machine.column]
    yield step(_JUMP_EQUAL, number or 0, 0, 4)
    yield argument(0)
    yield step(_JUMP_BITS, _CLONE_THREAD, 1, 0)
    yield refuse()
    yield step(_RETURN, _ALLOW)
    yield step(_RETURN, _ALLOW)
