"""What all commands share: one-line errors, and exit codes."""

import dataclasses
import errno
import pathlib
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from rich.console import Console

from arcface_jax.errors import InputError, printable

INPUT_ERROR = 2
INTERRUPTED = 130
"""Ctrl-C."""
TERMINATED = 143
"""A termination signal, as before a pre-emption: a run has saved a checkpoint, and the same
command goes on.
"""

_ELSEWHERE = "; choose another place"
_REMEDIES = {
    errno.ENOENT: "; check the path",
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM), _ELSEWHERE
    ),
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY), _ELSEWHERE),
}
"""What to do about an error of the operating system, where that is known."""


def help_text(documentation: str | None) -> str:
    """A command's module documentation for `--help`, which would otherwise run the lines of
    examples together.
    """
    lines = (documentation or "").splitlines()
    return "\n".join(f"\n{line}" if line.startswith("python -m ") else line for line in lines)


def new_console(**options: Any) -> Console:
    """A console that prints ":x:" in a path or a name as it is."""
    return Console(emoji=False, **options)


def check_new_file(path: pathlib.Path, beside: str = "") -> None:
    """Refuses, before the work begins, a file that could not be written after it.

    Raises:
      InputError: it exists, of which `beside` may say more, or its folder does not, or cannot be
        written.
    """
    if path.exists():
        raise InputError(f"{path}: exists already{beside}; choose another file")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: its folder does not exist; make it first")
    _check_writable(path.absolute().parent)


def make_folder(path: pathlib.Path) -> None:
    """Makes the folder that results will go to, before the work begins.

    Raises:
      InputError: it cannot be made or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be made a folder ({error.strerror}); choose another with --output"
        ) from error
    _check_writable(path)


def _check_writable(folder: pathlib.Path) -> None:
    """Tries: permissions do not tell of a disk that can only be read."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}); choose another folder"
        ) from error


@dataclasses.dataclass(frozen=True)
class _Unraisable:
    """The former way with errors that no caller sees, but for one that is nobody's: when a
    checkpoint is damaged, Orbax closes the event loop that its other reading threads then report
    to.
    """

    former: Callable[[Any], None]

    def __call__(self, unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            self.former(unraisable)


def run_command(main: Callable[[], int | None]) -> None:
    """Runs `main` and exits: 0 or what it returns; 2 with one line for bad input; 130 for
    Ctrl-C.
    """
    if not isinstance(sys.unraisablehook, _Unraisable):
        sys.unraisablehook = _Unraisable(sys.unraisablehook)
    try:
        status = main() or 0
    except InputError as error:
        line = f"error: {printable(str(error))}"
        new_console(stderr=True, soft_wrap=True).print(
            line, style="bold red", markup=False, highlight=False
        )
        status = INPUT_ERROR
    except OSError as error:
        # What was opened last says most: a folder that is a file, a full disk, a missing
        # permission.
        remedy = _REMEDIES.get(error.errno or 0, "")
        print(
            f"error: {error.filename or 'a file'}: {error.strerror or error}{remedy}",
            file=sys.stderr,
        )
        status = INPUT_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = INTERRUPTED
    sys.exit(status)
