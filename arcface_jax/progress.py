"""How far long work has come, said where no bar can be drawn: a line every ten seconds."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Protocol, Self

SECONDS_BETWEEN_LINES = 10.0
_LOOK_EVERY = 1.0

clock = time.monotonic
"""Seconds, from any beginning."""


class Move(Protocol):
    """Told of `count` things more that are done, and by `at` what to say beside: the thing that is
    begun now, or numbers of the last one. "" takes it away again, None leaves it.
    """

    def __call__(self, count: int, at: str | None = None) -> None:  # noqa: D102
        ...


Begin = Callable[[str, int | None], AbstractContextManager[Move]]
"""(title, total or None where it is not known) -> the context of one piece of work."""


@contextmanager
def unseen(_title: str, _total: int | None = None) -> Iterator[Move]:
    """A `Begin` of work that nobody watches."""
    yield lambda count, at=None: None


class Lines:
    """A `Move` that says a line every ten seconds, the first after ten; at the end, if it has said
    any, how long it took. Rate and time left go by what came after the first call: that tells of
    what an interrupted run had done, or of a batch that had to be compiled.
    """

    def __init__(
        self, say: Callable[[str], None], title: str, total: int | None, at: str = ""
    ) -> None:
        """`say` prints a line; `total` is None where nobody knows it; `at` is what comes first."""
        self._say, self._title, self._total = say, title, total
        self._done, self._at = 0, at
        self._base: tuple[float, int] | None = None
        self._begun = self._spoken = clock()
        self._silent, self._lock, self._over = True, threading.Lock(), threading.Event()
        # For single things that take long, in which nobody calls.
        self._watch = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._begun = self._spoken = clock()
        self._watch.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._watch.join()
        if kind is None and not self._silent:
            took = f"{self._count() or 'done'} in {in_words(clock() - self._begun)}"
            self._say(f"{self._title}: {took}{self._beside()}")

    def __call__(self, count: int, at: str | None = None) -> None:
        """Counts, and says the line if it is due."""
        with self._lock:
            self._done, self._at = self._done + count, self._at if at is None else at
            if self._base is None:
                self._base = clock(), self._done
        self.speak_if_due()

    def note(self, at: str) -> None:
        """What is under way from now on, of which nothing is counted."""
        with self._lock:
            self._at = at

    def speak_if_due(self) -> None:
        """Says the line if ten seconds are over since the last one."""
        with self._lock:
            now = clock()
            if now - self._spoken < SECONDS_BETWEEN_LINES:
                return
            self._spoken, self._silent = now, False
            self._say(self.line(now))

    def line(self, now: float) -> str:
        """Such as "Detecting: 1,240 of 13,233 (9 %), 21.3 a second, 9 min 24 s left"."""
        parts = [self._count()] if self._count() else []
        seconds, more = (0.0, 0) if self._base is None else (now - self._base[0], self._new())
        if more and seconds > 0:
            rate = more / seconds
            parts.append(rate_in_words(rate))
            if self._total is not None:
                parts.append(f"{in_words(max(0, self._total - self._done) / rate)} left")
        if self._total is None or not more:
            parts.append(f"{in_words(now - self._begun)} so far")
        return f"{self._title}: {', '.join(parts)}{self._beside()}"

    def _beside(self) -> str:
        return f"; {self._at}" if self._at else ""

    def _new(self) -> int:
        return self._done - (self._base[1] if self._base else 0)

    def _count(self) -> str:
        if self._base is None or (self._total is None and not self._done):
            return ""
        if not self._total:
            return f"{self._done:,}"
        return f"{self._done:,} of {self._total:,} ({100 * self._done // self._total} %)"

    def _look(self) -> None:
        while not self._over.wait(_LOOK_EVERY):
            self.speak_if_due()


def rate_in_words(rate: float) -> str:
    """Things a second, a minute or an hour, whichever is 1 or more."""
    for seconds, unit in ((1, "second"), (60, "minute")):
        if rate * seconds >= 1:
            return f"{rate * seconds:,.{0 if rate * seconds >= 100 else 1}f} a {unit}"
    return f"{rate * 3600:.1f} an hour"


def in_words(seconds: float) -> str:
    """Such as "24 s", "9 min 24 s" or "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
