"""Worker that compares expressions with math-verify; started by path, it imports nothing of this package.

Reads one JSON pair of strings per line, writes one of ``true``, ``false`` and ``null`` (undecided) per line.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
from types import FrameType
from typing import NoReturn

SECONDS = 4.0
MOST_MEMORY = 4 << 30


class Expired(BaseException):
    """Not an Exception, so that no handler inside the libraries turns a timeout into a verdict."""


class Alarm:
    """Raises `Expired` when the time is up, and remembers that it did."""

    def __init__(self) -> None:
        self.expired = False

    def ring(self, _signal: int, _frame: FrameType | None) -> NoReturn:
        """Handle the signal."""
        self.expired = True
        raise Expired

    def compare(self, left: str, right: str) -> bool | None:
        """Return None on a timeout, and on whatever cannot be parsed."""
        self.expired = False
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            verdict = _compare(left, right)
        except (Exception, Expired):
            return None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return None if self.expired else verdict


def _compare(left: str, right: str) -> bool | None:
    from math_verify import parse, verify

    boxed = (rf"\boxed{{{left}}}", rf"\boxed{{{right}}}")
    parsed = [parse(text, parsing_timeout=None, raise_on_error=True) for text in boxed]
    if not all(parsed) or not all(any(not isinstance(form, str) for form in forms) for forms in parsed):
        return None
    return bool(verify(parsed[0], parsed[1], timeout_seconds=None, raise_on_error=True))


def main() -> None:
    """Serve until standard input ends."""
    logging.disable(logging.CRITICAL)
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    except (ImportError, OSError, ValueError):
        pass
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    alarm = Alarm()
    signal.signal(signal.SIGALRM, alarm.ring)
    for left, right in (("1", "1"), (r"\sqrt{2}", r"2^{1/2}"), ("x+1", "1+x")):
        _compare(left, right)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps(alarm.compare(*json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
