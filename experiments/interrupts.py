"""Ends a program at Ctrl-C or SIGTERM: soon, with one line, never with a traceback.

Python hands a signal to the main thread when that next runs Python, and an exception that is raised
in a library's `except:` is lost. So a thread reads the signal as it arrives and ends the process
after a grace. Everything on disk is whole at any moment (stores are transactions, files appear
under their names when they are complete), so an end without cleaning up costs no more than a kill.

It imports only the standard library, and is the first that the binaries import.
"""

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any, NoReturn

GRACE = 3.0  # seconds until a program that does not end by itself is ended
TOLD = {
    signal.SIGINT: "interrupted: what is in the store or workdir is served to the same command",
    signal.SIGTERM: "terminated: what is in the store or workdir is served to the same command",
}


class StopRequested(KeyboardInterrupt):
    """A signal that asks the program to end."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__()
        self.number = number


def watch() -> None:
    """Handles both signals from now on, in a program's main thread; twice is once."""
    if threading.current_thread() is not threading.main_thread() or _watching.is_set():
        return
    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored: nohup
        numbers.append(signal.SIGINT)
    _watching.set()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, _raise)
    sys.excepthook = _show
    os.register_at_fork(after_in_child=_forget)  # else a child's signal would end its parent
    threading.Thread(target=_end_after_grace, args=(reading,), daemon=True).start()


def tell(number: int) -> None:
    """Prints the line of a signal, once."""
    with _telling:
        if not _told.is_set():
            _told.set()
            sys.stderr.write(f"{TOLD[signal.Signals(number)]}\n")
            sys.stderr.flush()


def end(number: int) -> NoReturn:
    """Ends the process at once, with the exit status of a signal."""
    tell(number)
    os._exit(128 + number)


_watching, _told, _telling = threading.Event(), threading.Event(), threading.Lock()


def _forget() -> None:
    signal.set_wakeup_fd(-1)
    for number in TOLD:
        signal.signal(number, signal.SIG_DFL)


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    raise StopRequested(number)


def _show(kind: Any, error: BaseException, trace: Any) -> None:
    """Shows an exception that nobody caught; a signal is a line."""
    if isinstance(error, KeyboardInterrupt):
        end(getattr(error, "number", signal.SIGINT))
    sys.__excepthook__(kind, error, trace)


def _end_after_grace(reading: int) -> None:
    """Waits for a signal, then for the program to end by itself, and ends it."""
    while True:
        number = os.read(reading, 1)[0]
        if number in TOLD:
            break
    threading.Event().wait(GRACE)
    end(number)


def is_program() -> bool:
    """Returns whether this process is one of our binaries, as far as its name tells by now."""
    return sys.argv[:1] == ["-m"] or os.path.basename(sys.argv[0] if sys.argv else "") == "saboc"
