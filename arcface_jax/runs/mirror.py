"""Files that grow, for a run in a bucket, where nothing can be added to a file."""

import contextlib
import threading

from arcface_jax.buckets import BucketPath, scratch_folder
from arcface_jax.errors import InputError, reason

SECONDS_BETWEEN = 30.0
"""What has grown is sent as often, beside the training."""


class Mirror:
    """A local folder whose files are sent to a bucket as they grow, each as a whole.

    Attributes:
      local: the folder to write into.
    """

    def __init__(self, folder: BucketPath) -> None:
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self.local = self._stack.enter_context(scratch_folder())
        self._sent: dict[str, int] = {}
        self._lock, self._over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(SECONDS_BETWEEN):
            with contextlib.suppress(OSError):  # the next time, or at the end, it goes there
                self._send_grown()

    def _send_grown(self) -> None:
        for file in sorted(one for one in self.local.rglob("*") if one.is_file()):
            self._send(file.relative_to(self.local).as_posix())

    def _send(self, name: str) -> None:
        with self._lock:
            content = (self.local / name).read_bytes()
            if self._sent.get(name) != len(content):
                (self._folder / name).write_bytes(content)
                self._sent[name] = len(content)

    def send(self, name: str) -> None:
        """Sends one file now.

        Raises:
          InputError: the storage does not take it.
        """
        try:
            self._send(name)
        except OSError as error:
            raise InputError(
                f"{self._folder / name}: cannot be written ({reason(error)}); make room there, or "
                "make it writable, and give the same command again"
            ) from None

    def close(self) -> None:
        """Sends what is left, and removes the local folder.

        Raises:
          InputError: the storage does not take it.
        """
        self._over.set()
        self._thread.join()
        try:
            self._send_grown()
        except OSError as error:
            raise InputError(f"{self._folder}: cannot be written ({reason(error)})") from None
        finally:
            self._stack.close()
