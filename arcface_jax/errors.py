"""The one exception that a person, rather than a programmer, is meant to read."""

import contextlib
from collections.abc import Iterator


class InputError(ValueError):
    """Bad input: an argument, a file or a record that cannot be used.

    The message is one line that names the argument, file or record, its value, and what to do.
    Commands print it without a traceback and exit with status 2.
    """


@contextlib.contextmanager
def concerning(what: str) -> Iterator[None]:
    """Puts `what`, a file or an argument, before the message of an error in a function that knows
    only arrays. The error stays of its class.
    """
    try:
        yield
    except InputError as error:
        raise type(error)(f"{what}: {error}") from error


@contextlib.contextmanager
def readable(path: object, kind: str = "file") -> Iterator[None]:
    """Makes an `OSError` inside one `InputError` that names the file, of this kind."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise InputError(f"{path}: cannot read this {kind} ({why})") from None


def printable(text: str) -> str:
    """Replaces control characters and broken Unicode, which names in strangers' files can have."""
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in whole
    )


def reason(error: BaseException) -> str:
    """What an exception says, on one line of at most 300 characters; its type where it says
    nothing.
    """
    return printable(" ".join(str(error).split()))[:300] or type(error).__name__
