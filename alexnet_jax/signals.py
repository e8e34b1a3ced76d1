"""SIGTERM and SIGINT: how a program is asked to stop."""

import contextlib
import signal
from collections.abc import Iterator


class Stopped(BaseException):
    """The run was asked to stop; `main` prints the text, exits with 128 + the signal's number.

    Like KeyboardInterrupt: no `except Exception` on the way may take it for something else.
    """

    def __init__(self, signal_number: int, what: str) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}: {what}")
        self.signal_number = signal_number


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT in a list, so that the step under way can end and be saved.

    The second one does not wait. Elsewhere than in the main thread none is collected.
    """
    caught: list[int] = []

    def catch(number: int, frame: object) -> None:
        del frame
        if caught:
            raise Stopped(number, "not saved since the last checkpoint")
        caught.append(number)

    wanted = (signal.SIGTERM, signal.SIGINT)
    try:
        before = {number: signal.signal(number, catch) for number in wanted}
    except ValueError:  # not the main thread
        before = {}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
