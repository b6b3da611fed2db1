"""Calls into native code that SIGTERM and Ctrl-C can end.

A signal's Python handler runs in the main thread, between two of Python's own instructions: while a library computes
there, nothing happens. So the library computes in a thread of its own, and the main thread waits in a way that a
handler can interrupt.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

Result = TypeVar("Result")

#: Seconds that a call which was interrupted is given to return. Leaving while it runs may crash on the way out.
GRACE = 3.0

#: One thread for all calls: OpenMP makes a pool of threads for each that calls it. A daemon, so that a call that never
#: returns does not keep the process.
_calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
_thread: threading.Thread | None = None


def interruptible(function: Callable[..., Result], *arguments: Any) -> Result:
    """``function(*arguments)``, its result or its exception; what a signal's handler raises meanwhile comes at once."""
    if threading.current_thread() is not threading.main_thread():  # signals do not come here
        return function(*arguments)
    results: list[Result] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def call() -> None:
        try:
            results.append(function(*arguments))
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    _started()
    _calls.put(call)
    try:
        done.wait()
    except BaseException:
        done.wait(GRACE)
        raise
    if errors:
        raise errors[0]
    return results[0]


def _started() -> None:
    global _thread
    if _thread is None or not _thread.is_alive():  # not alive in a process that was forked
        _thread = threading.Thread(target=_work, name="engine", daemon=True)
        _thread.start()


def _work() -> None:
    while True:
        _calls.get()()
