"""A guard that ends a process, with all of its threads, at its first word to the network.

Native libraries send by system calls that no hook of Python sees, so the kernel does it: a seccomp
filter (Linux, x86-64 and arm64) kills whoever connects or sends to an internet address. A local
socket is allowed: the C library looks for its name service there.
"""

import ctypes
import platform
import signal

# connect, sendto, sendmsg, sendmmsg
CALLS = {"x86_64": (42, 44, 46, 307), "aarch64": (203, 206, 211, 269)}
KILLED = -signal.SIGSYS  # the return code of a process that the guard has ended
_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER = 38, 22, 2
_LOAD, _EQUAL, _JUMP, _RETURN = 0x20, 0x15, 0x05, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_THIRD, _SIXTH = 32, 56  # where the filter finds an argument: both are the length of an address
_IPV4, _IPV6 = 16, 28  # bytes of an address; a local one has 110


class _Step(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8),
                ("value", ctypes.c_uint32)]  # fmt: skip


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint16), ("steps", ctypes.POINTER(_Step))]


def forbid_network() -> bool:
    """Guard this process from now on; call it before a thread starts. Return whether it works."""
    calls = CALLS.get(platform.machine())
    if platform.system() != "Linux" or calls is None:
        return False
    connect, send_to, send_message, send_messages = calls
    steps = [
        (_LOAD, 0, 0),  # the number of the call
        (_EQUAL, 6, connect),
        (_EQUAL, 8, send_to),
        (_EQUAL, 12, send_message),
        (_EQUAL, 12, send_messages),
        (_RETURN, 0, _ALLOW),
        (_LOAD, 0, _THIRD),
        (_JUMP, 0, 1),
        (_LOAD, 0, _SIXTH),
        (_EQUAL, 12, _IPV4),
        (_EQUAL, 12, _IPV6),
        (_RETURN, 0, _ALLOW),
        (_RETURN, 0, _KILL),
    ]
    made = [
        _Step(code, max(0, to - place - 1), 0, value)
        for place, (code, to, value) in enumerate(steps)
    ]
    program = _Program(len(made), (_Step * len(made))(*made))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    return bool(libc.prctl(_SET_SECCOMP, _FILTER, ctypes.byref(program)) == 0)
