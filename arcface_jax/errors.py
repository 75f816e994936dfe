"""The one exception that a person, rather than a programmer, is meant to read."""

import contextlib
import errno
import json
import os
import re
from collections.abc import Iterator


class InputError(ValueError):
    """Bad input: an argument, a file or a record that cannot be used.

    The message is one line that names the argument, file or record, its value, and what to do;
    what cannot be printed in it, as names in strangers' files have, is replaced (`printable`).
    Commands print it without a traceback and exit with status 2.
    """

    def __init__(self, message: str) -> None:
        """Without control characters and broken Unicode, so that it is one line."""
        super().__init__(printable(message))


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


DAMAGED = "it is damaged, or of another kind"
CUT_OFF = "it ends too early"

_INTERNAL = re.compile(
    r"NoneType|ndarray|opcode|pickl|codec|traceback|subscript|iterable|hashable|bytes-like"
    r"|tensorstore|zarr|ocdbt|protobuf|flatbuffer|thrift|symbolic|magic string|descr\b|Proto\b"
    r"|in directory|\bheader:"
    r"|\bobjects?\b|\bargument|\battribute|\bbuffer|\bunpack|load key|\bmemo\b|\bindices\b"
    r"|bytes\d|\bEOF\b|\(\d+, ?\d|out of (range|bounds)"
    r"|invalid literal|string(nl|\d)|\blong\d|\\[ux]|0x[0-9a-f]{4}|\bb['\"]"
    r"|\b(dict|tuple|int|str|bool|float|uint8|int64|dtype)\b|\w(Error|Exception)\b|\w\(\)"
    r"|__\w+__|<[\w.' ]+>|::|\w\.\w+\.\w|[\[{]'",
    re.IGNORECASE,
)
"""What another library says to programmers: types and parts of a program."""

_OF_THE_SYSTEM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.ENOENT)
_SHORT = re.compile(
    r"truncat|ran out|unexpected end|too short|\bEOF\b|exhausted|not enough|remain", re.IGNORECASE
)


def reason(error: BaseException) -> str:
    """Why, in the words of an exception that a person with a file can use, on one line of at most
    300 characters: another library's own where they name no part of a program, or else ours.
    """
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, json.JSONDecodeError):
        return f"at line {error.lineno}, column {error.colno}"
    if isinstance(error, UnicodeError):
        return "it is no text in UTF-8, or damaged"
    if isinstance(error, EOFError):
        return CUT_OFF
    if isinstance(error, MemoryError | OverflowError):
        return "it asks for more memory than there is"
    # To seek before the beginning of a damaged archive is an invalid argument.
    if isinstance(error, OSError) and error.strerror and error.errno != errno.EINVAL:
        return error.strerror
    text = str(error)
    if isinstance(error, KeyError):
        # Its argument is what was looked for, or of an archive a sentence.
        text = str(error.args[0]) if error.args and isinstance(error.args[0], str) else ""
        text = f"it has no {text}" if text.isidentifier() else text
    said = re.sub(r"\bb'(\w+)'", r"\1", printable(" ".join(text.split()))[:300])
    if said and not _INTERNAL.search(said):
        return said
    # The system's own words, wherever a library puts them.
    for number in _OF_THE_SYSTEM:
        if os.strerror(number) in text:
            return os.strerror(number)
    return CUT_OFF if _SHORT.search(said) else DAMAGED
