"""Runs a command that must not outlive its parent: ``guard.py PARENT MODE COMMAND…``.

A program of its own, run by path with ``python -I -S``; it imports nothing of ours. A child
dies with its parent in one of two ways:

* ``exec`` (Linux): the kernel is asked for SIGKILL when the parent dies (PR_SET_PDEATHSIG),
  then the command replaces this process. The signal comes when the *thread* that started us
  ends, so that must be the one that runs the node's event loop, not a pool thread. Doing
  this here, not in a ``preexec_fn``, keeps Python code out of the fork of a process that
  may have threads.
* ``watch`` (anywhere): this process stays, holds the read end of a pipe as its standard
  input, and kills the command at its end of file, which the parent's death brings.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

_PR_SET_PDEATHSIG = 1


def _exec(parent: int, command: list[str]) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        sys.exit("the parent is gone already")  # it died before prctl: no signal would come
    os.execv(command[0], command)


def _watch(command: list[str]) -> int:
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def kill_at_end_of_file() -> None:
        while os.read(0, 4096):
            pass
        child.kill()

    signal.signal(signal.SIGTERM, lambda _signal, _frame: child.terminate())
    threading.Thread(target=kill_at_end_of_file, daemon=True).start()
    return child.wait()


def main(arguments: list[str]) -> int:
    parent, mode, *command = arguments
    if mode == "exec":
        _exec(int(parent), command)
    return _watch(command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
