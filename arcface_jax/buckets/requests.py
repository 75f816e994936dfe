"""A request to object storage: fsspec makes it, and what can help is tried again.

Whatever the libraries below raise becomes an `OSError` with a number, a sentence and the path.
"""

import errno
import os
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from arcface_jax.command_name import install
from arcface_jax.errors import InputError, printable, reason

Result = TypeVar("Result")

WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each further try of what the storage did not do."""
SCHEMES = {"s3": "s3fs", "gs": "gcsfs"}
"""{scheme: the package that speaks to its storage}."""
_GS_SECONDS = 120
_S3_SECONDS = {"connect_timeout": 10, "read_timeout": 60}
_SAME_WORDS = {
    FileNotFoundError: errno.ENOENT,
    FileExistsError: errno.EEXIST,
    IsADirectoryError: errno.EISDIR,
}
_FINAL_NUMBERS = (
    *(errno.EINVAL, errno.ENAMETOOLONG, errno.ENOSPC, errno.EDQUOT, errno.ENOSYS),
    *(errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ENOENT),
)
_FULL = re.compile(
    r"quota|insufficient (storage|space)|no space|storage.{0,20}(full|exceeded)|minimum free", re.I
)
_HTTP_AGAIN = (408, 429, 500, 502, 503, 504)
"""Answers by HTTP after which to try again, whatever else they say."""
_NO_CREDENTIALS = re.compile(
    r"\bcredentials\b|anonymous (caller|user)|Expired ?Token|Invalid ?Token|SignatureDoesNot"
    r"|request signature|access ?key|not authorized|invalid_grant",
    re.I,
)


def key_of(url: str | os.PathLike[str]) -> str:
    """BUCKET/PATH, as fsspec calls it: the path without its scheme.

    Raises:
      InputError: it is no path in a bucket.
    """
    _, found, key = os.fspath(url).partition("://")
    if not found:
        raise InputError(f"{os.fspath(url)}: is no path in a bucket")
    return key


def request(url: str | os.PathLike[str], action: Callable[[Any, str], Result]) -> Result:
    """What `action` gives, tried again after `WAITS` unless the answer is final.

    Args:
      url: a path in a bucket.
      action: takes fsspec's file system and the path as that calls it, `key_of`.

    Raises:
      OSError: what was asked for is not there, is refused, or was not done in all tries.
      InputError: the package that speaks to this storage is missing.
    """
    key, last = key_of(url), None
    for wait in (*WAITS, None):
        try:
            return action(file_system(os.fspath(url)), key)
        except Exception as error:
            last = error
            if wait is None or _is_final(error):
                break
            time.sleep(wait)
    assert last is not None
    raise _as_system_error(last, os.fspath(url)) from None


def file_system(url: str) -> Any:
    """fsspec's file system for a path, of which it keeps one for each process and thread.

    Raises:
      InputError: the package for it is missing.
    """
    scheme = url.partition("://")[0]
    options: dict[str, Any] = {"use_listings_cache": False}
    if scheme == "gs":  # else gcsfs asks about each bucket what nothing here needs to know
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        options["requests_timeout"] = _GS_SECONDS
    if scheme == "s3":
        # One request a call: `request` is what tries again.
        options["config_kwargs"] = _S3_SECONDS | {"retries": {"total_max_attempts": 1}}
    try:
        import fsspec

        storage = fsspec.filesystem(scheme, **options)
    except ImportError as error:
        raise InputError(
            f"{url}: needs the package {SCHEMES[scheme]}; {install('buckets')}"
        ) from error
    if scheme in ("s3", "gs"):
        storage.retries = 1
    return storage


def _is_final(error: Exception) -> bool:
    """Whether another try of the same would fail as well."""
    if isinstance(error, (InputError, PermissionError, *_SAME_WORDS)):
        return True
    said = str(error)
    if getattr(error, "code", None) in _HTTP_AGAIN:
        return False
    if _FULL.search(said) or _NO_CREDENTIALS.search(said):
        return True
    return isinstance(error, OSError) and error.errno in _FINAL_NUMBERS


def system_error(number: int, url: str | os.PathLike[str]) -> OSError:
    """The system's error of this number, of the class and with the words that it has for it."""
    return OSError(number, os.strerror(number), os.fspath(url))


def _as_system_error(error: Exception, url: str) -> Exception:
    """Any library's error as one of the system, with a number, a sentence and the path."""
    if isinstance(error, InputError):
        return error
    for kind, number in _SAME_WORDS.items():
        if isinstance(error, kind):
            return system_error(number, url)
    said = printable(" ".join(str(error).split()))[:200]
    is_final = _is_final(error)
    if is_final and _FULL.search(said):
        return OSError(errno.ENOSPC, "the storage is full, or over its quota", url)
    if isinstance(error, PermissionError) or (is_final and _NO_CREDENTIALS.search(said)):
        words = "the storage refuses these credentials, or finds none; check the environment"
        return PermissionError(errno.EACCES, words, url)
    tries = "" if is_final else f" in {len(WAITS) + 1} tries"
    return OSError(errno.EIO, f"the storage did not do it{tries} ({_why(error, said)})", url)


def _why(error: Exception, said: str) -> str:
    """Why a request failed, in words for whoever gave the path."""
    if isinstance(error, TimeoutError) or "timed out" in said.lower() or "timeout" in said.lower():
        return "it does not answer in time"
    if isinstance(error, ConnectionError) or "connect" in said.lower():
        return "it cannot be reached"
    return reason(error)
