"""An S3-compatible server on this machine, and in front of it one that fails as storage does."""

import atexit
import contextlib
import functools
import http.client
import http.server
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator

from arcface_jax.buckets import BucketPath, as_path
from arcface_jax.command_name import install

from .runs import Lost

BUCKET = "reliability"
SECRET = "secret-that-nobody-may-read"
"""What a run must write nowhere."""
_KEY = "reliability-key"
_PATIENCE = 60.0


class NotInstalled(Exception):  # noqa: N818 - no fault of the run
    """A fault cannot be tried here; the message says what it needs."""


Answer = tuple[int, bytes]
Fault = Callable[["Request"], Answer | None]
"""Looks at a request: an answer in the storage's place, or None to pass it on."""


class Request:
    """What came from a run: method, path with query, and body.

    `reset` breaks the connection off.
    """

    def __init__(self, handler: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
        self.method, self.path, self.body = handler.command, handler.path, body
        self._handler = handler

    def reset(self) -> None:
        """Ends the connection as a machine does that goes down."""
        linger = struct.pack("ii", 1, 0)
        self._handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._handler.connection.close()


def refused(status: int, code: str, message: str) -> Answer:
    """An error as S3 tells it."""
    return status, f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()


def slow(seconds: float = 0.05) -> Fault:
    """Every request takes longer."""

    def wait(request: Request) -> None:
        time.sleep(seconds)

    return wait


def failing(share: float = 0.1, seed: int = 0) -> Fault:
    """Some requests are answered by an error of the server."""
    rng = random.Random(seed)

    def fail(request: Request) -> Answer | None:
        error = refused(500, "InternalError", "We encountered an internal error.")
        return error if rng.random() < share else None

    return fail


def resetting(every: int = 5) -> Fault:
    """Of the uploads, one in so many breaks off in its middle."""
    count = 0

    def reset(request: Request) -> None:
        nonlocal count
        if request.method == "PUT":
            count += 1
            if count % every == 0:
                request.reset()

    return reset


def full(is_full: Callable[[], bool]) -> Fault:
    """Nothing more is taken while the storage is full."""

    def refuse(request: Request) -> Answer | None:
        if request.method == "PUT" and is_full():
            return refused(403, "QuotaExceeded", "The bucket is over its quota.")
        return None

    return refuse


def strange(request: Request) -> Answer | None:
    """The credentials are nobody's."""
    return refused(403, "InvalidAccessKeyId", "The key you provided does not exist.")


@functools.cache
def server() -> str:
    """The address of moto's server, which ends with this process, with a bucket in it.

    Raises:
      NotInstalled: it, or what speaks to it, is not installed.
    """
    try:
        import moto.server  # noqa: F401
        import s3fs  # noqa: F401
    except ImportError as error:
        raise NotInstalled(
            f"needs moto's server and s3fs: pip install 'moto[server]'; {install('buckets')}"
        ) from error
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    atexit.register(process.kill)
    address = f"http://127.0.0.1:{port}"
    os.environ.update(environment(address))
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("PUT", f"/{BUCKET}")
            if connection.getresponse().status == 200:
                return address
        except OSError:
            if time.monotonic() > until:
                raise Lost("moto's server does not start") from None
            time.sleep(0.1)


def environment(address: str) -> dict[str, str]:
    """By which a process finds the storage at an address."""
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": _KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def bucket() -> BucketPath:
    """Where runs can lie."""
    server()
    path = as_path(f"s3://{BUCKET}")
    assert isinstance(path, BucketPath)
    return path


@contextlib.contextmanager
def struck_by(fault: Fault) -> Iterator[dict[str, str]]:
    """The same storage with a fault; the value is the environment of a run on it."""
    behind = urllib.parse.urlsplit(server()).netloc

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            request = Request(self, self.rfile.read(length))
            with contextlib.suppress(OSError, ValueError):  # it hung up, or was made to
                answer = fault(request)
                headers = dict(self.headers.items())
                if answer is not None:
                    self._give(*answer, {"Content-Type": "application/xml"})
                elif self.connection.fileno() >= 0:
                    connection = http.client.HTTPConnection(behind, timeout=_PATIENCE)
                    connection.request(request.method, request.path, request.body, headers)
                    found = connection.getresponse()
                    content = found.read()
                    kept = {
                        name: value
                        for name, value in found.getheaders()
                        if name.lower() not in ("connection", "date", "server", "transfer-encoding")
                    }
                    connection.close()
                    self._give(found.status, content, kept)
                else:
                    self.close_connection = True

        def _give(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if "content-length" not in {name.lower() for name in headers}:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_one  # noqa: N815

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing."""

    class Front(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Nothing: a run that is killed breaks off its requests."""

    front = Front(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=front.serve_forever, daemon=True)
    thread.start()
    try:
        yield environment(f"http://127.0.0.1:{front.server_address[1]}")
    finally:
        front.shutdown()
        front.server_close()
        thread.join()
