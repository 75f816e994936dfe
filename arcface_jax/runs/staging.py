"""Checkpoints of a run in a bucket: Orbax writes and reads a local folder, which holds one of them
at a time.

Orbax writes into gs:// itself, but renames, which no bucket can; and it has no S3. So a checkpoint
is made whole here and then sent, its files first and a list of them last. Without the list there is
no checkpoint, whatever else has arrived.
"""

import concurrent.futures
import contextlib
import json
import pathlib
import shutil
from collections.abc import Iterable

from arcface_jax.buckets import BucketPath, scratch_folder

LIST_FILE = "complete.json"
"""In a checkpoint's folder: {"files": {path: bytes}}; the last to be written, the first to go."""
STEPS_FILE = "steps.json"
"""Beside the checkpoints: the steps of those that are complete, for storage whose listings lag."""
_AT_ONCE = 8
_LARGE = "state/"


class Staging:
    """The local folder of the checkpoints in a bucket.

    Of each checkpoint it has the small files; the arrays are there while they are read or written.
    """

    def __init__(self, folder: BucketPath, *, to_read: bool) -> None:
        """Fetches the small files of all complete checkpoints.

        Raises:
          OSError: the storage cannot be read.
        """
        self.folder = folder
        self._stack = contextlib.ExitStack()
        self.local = self._stack.enter_context(scratch_folder())
        self._pool = self._stack.enter_context(concurrent.futures.ThreadPoolExecutor(_AT_ONCE))
        self._lists: dict[int, dict[str, int]] = {}
        half_sent = []
        named = self._named()
        for step in sorted(self._listed() | named):
            try:
                content = (folder / str(step) / LIST_FILE).read_bytes()
                self._lists[step] = dict(json.loads(content)["files"])
            except FileNotFoundError:
                if step not in named:
                    half_sent.append(step)
            except (ValueError, KeyError, TypeError):
                continue  # the list is damaged: another is gone on from, and this one stays
            else:
                self._fetch(step, small=True)
        if not to_read:
            for step in half_sent:
                (folder / str(step)).rmtree()

    def steps(self) -> list[int]:
        """Those that are complete in the bucket."""
        return sorted(self._lists)

    def _listed(self) -> set[int]:
        """Steps of which there is anything, by the listing."""
        with contextlib.suppress(FileNotFoundError):
            return {int(one.name) for one in self.folder.iterdir() if one.name.isdecimal()}
        return set()

    def _named(self) -> set[int]:
        """Steps whose checkpoints were complete, by the file of steps."""
        with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
            return set(map(int, json.loads((self.folder / STEPS_FILE).read_bytes())))
        return set()

    def fetch(self, step: int) -> None:
        """Makes all files of a checkpoint local; those that are missing stay so, and Orbax tells.

        Raises:
          OSError: the storage cannot be read, or the local disk is full.
        """
        for other in self._lists:
            if other != step:
                self.release(other)
        self._fetch(step, small=False)

    def _fetch(self, step: int, *, small: bool) -> None:
        def get(name: str) -> None:
            local = self.local / str(step) / name
            local.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                (self.folder / str(step) / name).get(local)

        wanted = (
            name
            for name in self._lists.get(step, {})
            if not (self.local / str(step) / name).exists()
            and not (small and name.startswith(_LARGE))
        )
        list(self._pool.map(get, wanted))

    def release(self, step: int) -> None:
        """Makes room: the arrays of a checkpoint that was sent or read."""
        if step in self._lists:
            shutil.rmtree(self.local / str(step) / _LARGE, ignore_errors=True)

    def publish(self, steps: Iterable[int]) -> None:
        """Sends the checkpoints that are new among `steps`, and then removes all others.

        Raises:
          OSError: the storage does not take them; those that were complete stay.
        """
        steps = sorted(steps)
        for step in steps:
            if step not in self._lists:
                self._send(step)
                self.release(step)
        self._write_steps(steps)
        for step in sorted(self._lists.keys() - steps):
            self._remove(step)

    def _send(self, step: int) -> None:
        local, there = self.local / str(step), self.folder / str(step)
        files = sorted(file for file in local.rglob("*") if file.is_file())
        sizes = {file.relative_to(local).as_posix(): file.stat().st_size for file in files}
        list(self._pool.map(lambda name: (there / name).put(local / name), sizes))
        (there / LIST_FILE).write_text(json.dumps({"files": sizes}))
        self._lists[step] = sizes

    def _write_steps(self, steps: list[int]) -> None:
        (self.folder / STEPS_FILE).write_text(json.dumps(steps))

    def _remove(self, step: int) -> None:
        place = self.folder / str(step)
        (place / LIST_FILE).unlink(missing_ok=True)
        for name in self._lists.pop(step):
            (place / name).unlink(missing_ok=True)
        shutil.rmtree(self.local / str(step), ignore_errors=True)

    def set_aside(self, step: int, aside: pathlib.Path) -> None:
        """Moves a checkpoint elsewhere."""
        self._write_steps(sorted(self._lists.keys() - {step}))
        (self.folder / str(step)).rename(aside)
        self.forget(step)

    def forget(self, step: int) -> None:
        """Removes the local files of a checkpoint that another process moves."""
        self._lists.pop(step, None)
        shutil.rmtree(self.local / str(step), ignore_errors=True)

    def close(self) -> None:
        """Removes the local folder."""
        self._stack.close()
