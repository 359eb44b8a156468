"""Credentials for child processes: given over a Unix socket while they run, and never written to a file."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import socketserver
import struct
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from migrate_v2.errors import Failure
from migrate_v2.keys import show

# A socket's path has 108 bytes on Linux and 104 on macOS (sockaddr_un, with a zero at the end).
_LONGEST_PATH = 100

# What the AWS CLI starts each time that it needs credentials. It knows the path of the socket and nothing else.
_CLIENT = (
    "import socket, sys;"
    " s = socket.socket(socket.AF_UNIX);"
    " s.settimeout(60);"
    " s.connect(sys.argv[1]);"
    " d = s.makefile('rb').read();"
    " sys.stdout.buffer.write(d);"
    " sys.exit(not d)"
)


class CredentialServer:
    """Answers each process of this user that connects with `document()`: JSON as a credential_process prints it.

    The socket is in `folder`, which is this user's alone, or where it cannot be there in a temporary one. A Failure of
    `document` gives an empty answer; the process that asked then says that it has no credentials.
    """

    def __init__(self, folder: Path, document: Callable[[], str]) -> None:
        self._document = document
        self._temporary: Path | None = None
        self._path = folder / "credentials"
        self._server = self._bound()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="credentials", daemon=True)
        self._thread.start()

    @property
    def command(self) -> str:
        """The value of `credential_process` in a configuration of the AWS CLI."""
        return shlex.join([sys.executable, "-I", "-S", "-c", _CLIENT, str(self._path)])

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._path.unlink(missing_ok=True)
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _bound(self) -> socketserver.ThreadingUnixStreamServer:
        document = self._document

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                if _is_own(self.request):
                    with suppress(Failure, OSError):  # a Failure is the parent's to tell, at its own next request
                        self.request.sendall(document().encode())

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True

        if len(os.fsencode(self._path)) <= _LONGEST_PATH:
            self._path.unlink(missing_ok=True)  # what a killed process left
            with suppress(OSError):  # a file system that holds no sockets
                return self._private(Server(str(self._path), Handler))
        try:
            self._temporary = Path(tempfile.mkdtemp(prefix="migrate-v2-"))
            self._path = self._temporary / "credentials"
            return self._private(Server(str(self._path), Handler))
        except OSError as error:
            raise Failure(
                f"cannot make a socket at {show(str(self._path))} for the credentials of the AWS CLI: {error.strerror};"
                " set TMPDIR to a folder on a local disk"
            ) from error

    def _private(self, server: socketserver.ThreadingUnixStreamServer) -> socketserver.ThreadingUnixStreamServer:
        self._path.chmod(0o600)
        return server


def _is_own(connection: socket.socket) -> bool:
    """Whether the process at the other end is this user's. Where the kernel does not say, the folder's mode decides."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return True
    _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i")))
    return bool(user == os.geteuid())
