"""One run in a folder at a time: the second is refused, and a dead one keeps nothing."""

import contextlib
import json
import os
import pathlib
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, Self

import jax

from arcface_jax.buckets import BucketPath, is_alive
from arcface_jax.errors import InputError

LOCK_FILE = "lock.json"
"""In a bucket: which process runs there, and its last beat."""
SECONDS_BETWEEN_BEATS = 10.0
SECONDS_TO_DIE = 45.0
"""A run whose beat stays the same for so long is dead. No clock of another machine is read."""
_SETTLES = 2.0
_LOST = 3


class RunLock:
    """Holds a run's folder while the block lasts; the first process of several does.

    On a local disk the operating system's lock of the folder, which ends with the process. In a
    bucket a file that only one of several can make, with a beat every ten seconds: one that no
    longer beats, or whose process on this machine is gone, is taken over. A run that finds that
    another has taken over, as after a long sleep, ends at once.

    Raises:
      InputError: another run is at work there.
    """

    def __init__(self, path: pathlib.Path, tell: Callable[[str], None]) -> None:
        self._path, self._tell = path, tell
        self._open: int | None = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._about: dict[str, Any] = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "token": uuid.uuid4().hex,
            "beat": 0,
        }

    def __enter__(self) -> Self:
        if jax.process_index() > 0:
            return self
        if isinstance(self._path, BucketPath):
            self._acquire(self._path / LOCK_FILE)
            self._thread = threading.Thread(
                target=self._beat, args=(self._path / LOCK_FILE,), daemon=True
            )
            self._thread.start()
        else:
            self._lock_folder()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._open is not None:
            os.close(self._open)
        if self._thread is not None:
            self._thread.join()
            with contextlib.suppress(OSError):
                if _read(self._path / LOCK_FILE) == self._about:
                    (self._path / LOCK_FILE).unlink(missing_ok=True)

    def _lock_folder(self) -> None:
        try:
            import fcntl
        except ImportError:  # not on Windows
            return
        if not self._path.is_dir():
            return  # nothing runs there
        number = os.open(self._path, os.O_RDONLY)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(number)
            raise self._refused("") from None
        except OSError:  # a file system without locks
            os.close(number)
        else:
            self._open = number

    def _refused(self, whose: str) -> InputError:
        return InputError(
            f"run.folder {self._path}: another run is at work there{whose}; wait for it to end, or "
            "choose another folder"
        )

    def _text(self) -> bytes:
        return json.dumps(self._about).encode()

    def _acquire(self, lock: BucketPath) -> None:
        while not lock.create(self._text()):
            other = _read(lock)
            if other is None:
                continue
            if not self._is_dead(lock, other):
                raise self._refused(f", process {other.get('process')} on {other.get('host')}")
            lock.unlink(missing_ok=True)
            if lock.create(self._text()):
                # Of two that took over at once, the later may have removed the earlier's.
                time.sleep(_SETTLES)
                if _read(lock) == self._about:
                    return
                raise self._refused("")

    def _is_dead(self, lock: BucketPath, other: dict[str, Any]) -> bool:
        if other.get("host") == self._about["host"] and not is_alive(int(other["process"])):
            return True
        self._tell(
            f"{self._path} is locked by process {other.get('process')} on {other.get('host')}; "
            f"looking whether it is alive, for up to {SECONDS_TO_DIE:.0f} s"
        )
        until = time.monotonic() + SECONDS_TO_DIE
        while time.monotonic() < until:
            time.sleep(SECONDS_TO_DIE / 15)
            if _read(lock) != other:
                return False
        return True

    def _end(self) -> None:
        """Ends the process at once, for another run writes here now."""
        print(
            f"error: {self._path}: another run has taken over this folder, for this one was "
            "silent too long",
            file=sys.stderr,
            flush=True,
        )
        os._exit(_LOST)

    def _beat(self, lock: BucketPath) -> None:
        while not self._over.wait(SECONDS_BETWEEN_BEATS):
            with contextlib.suppress(OSError):  # of a failing storage the checkpoints tell
                found = _read(lock)
                if found is not None and found["token"] != self._about["token"]:
                    return self._end()
                self._about["beat"] += 1
                lock.write_bytes(self._text())


def _read(lock: pathlib.Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(lock.read_bytes()))
    except (FileNotFoundError, ValueError):
        return None
