"""Local folders for a while; those of processes that were killed are removed by the next."""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

_SCRATCH = "arcface-jax-scratch-"


@contextlib.contextmanager
def scratch_folder() -> Iterator[pathlib.Path]:
    """A local folder until the block ends, where TMPDIR says; of a process that was killed it goes
    when the next one on this machine needs one.
    """
    _sweep()
    with tempfile.TemporaryDirectory(
        prefix=f"{_SCRATCH}{os.getpid()}-", ignore_cleanup_errors=True
    ) as folder:
        yield pathlib.Path(folder)


def _sweep() -> None:
    """Removes the folders of processes that are no longer alive."""
    for folder in pathlib.Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*-*"):
        process = folder.name.removeprefix(_SCRATCH).partition("-")[0]
        if process.isdecimal() and not is_alive(int(process)):
            shutil.rmtree(folder, ignore_errors=True)


def is_alive(process: int) -> bool:
    """Whether a process of this number runs on this machine, for all that can be known."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
