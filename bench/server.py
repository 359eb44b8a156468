"""A loopback S3 that is no bottleneck: nginx sends the objects, a small lister answers what is asked of a bucket.

    with Server(folder, {"small": workload}) as server:
        ... server.url ...

nginx needs the module headers-more (Debian: nginx, libnginx-mod-http-headers-more-filter): objects carry the MD5 of their
content as ETag, and nginx would hold If-Match against an ETag of its own making. Signatures are not looked at.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
MODIFIED = 1_600_000_000  # of every object


@dataclass(frozen=True, slots=True)
class Workload:
    """The objects of one bucket: (how many, bytes of each), in folders of `per_folder`."""

    amounts: tuple[tuple[int, int], ...]
    per_folder: int = 1000

    def objects(self) -> Iterator[tuple[str, int]]:
        for number, (count, size) in enumerate(self.amounts):
            for index in range(count):
                yield f"kind{number}/dir{index // self.per_folder:04}/object-{index:07}.bin", size

    @property
    def count(self) -> int:
        return sum(count for count, _ in self.amounts)

    @property
    def bytes(self) -> int:
        return sum(count * size for count, size in self.amounts)


def make(folder: Path, bucket: str, workload: Workload) -> dict[str, tuple[int, str]]:
    """The objects as files, and (size, MD5) by key. No two are alike: a mix-up would be found by every verification."""
    block = os.urandom(1 << 20)
    made: dict[str, tuple[int, str]] = {}
    for key, size in workload.objects():
        path = folder / bucket / key
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.md5(usedforsecurity=False)
        with path.open("wb") as file:
            head = (key.encode() + b"\n")[:size]
            left = size - len(head)
            digest.update(head)
            file.write(head)
            while left:
                piece = block[: min(left, len(block))]
                digest.update(piece)
                file.write(piece)
                left -= len(piece)
        os.utime(path, (MODIFIED, MODIFIED))
        made[key] = size, digest.hexdigest()
    return made


class _Listing:
    def __init__(self, objects: Mapping[str, tuple[int, str]]) -> None:
        self.keys = sorted(objects)
        when = datetime.fromtimestamp(MODIFIED, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        self.entries = []
        for key in self.keys:
            size, md5 = objects[key]
            self.entries.append(
                f"<Key>{escape(key)}</Key>@<LastModified>{when}</LastModified><ETag>&quot;{md5}&quot;</ETag>"
                f"<Size>{size}</Size><StorageClass>STANDARD</StorageClass>"
            )

    def page(self, query: Mapping[str, str], bucket: str) -> str:
        versions = "versions" in query
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = max(
            (query.get(name, "") for name in ("continuation-token", "start-after", "key-marker", "marker")), key=len
        )
        most = int(query.get("max-keys", "1000"))
        at = bisect_right(self.keys, after) if after else bisect_left(self.keys, prefix)
        if after.endswith("/") and delimiter:
            at = bisect_left(self.keys, after + "\U0010ffff")
        entries: list[str] = []
        folders: list[str] = []
        last = ""
        open_, close = ("<Version>", "</Version>") if versions else ("<Contents>", "</Contents>")
        more = "<VersionId>null</VersionId><IsLatest>true</IsLatest>" if versions else ""
        while at < len(self.keys) and self.keys[at].startswith(prefix) and len(entries) + len(folders) < most:
            key = self.keys[at]
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            if cut >= 0:
                last = key[: cut + 1]
                folders.append(f"<CommonPrefixes><Prefix>{escape(last)}</Prefix></CommonPrefixes>")
                at = bisect_left(self.keys, last + "\U0010ffff")
            else:
                entries.append(open_ + self.entries[at].replace("@", more, 1) + close)
                last = key
                at += 1
        truncated = at < len(self.keys) and self.keys[at].startswith(prefix)
        root = "ListVersionsResult" if versions else "ListBucketResult"
        following = ""
        if truncated:
            following = (
                f"<NextKeyMarker>{escape(last)}</NextKeyMarker><NextVersionIdMarker>null</NextVersionIdMarker>"
                if versions
                else f"<NextContinuationToken>{escape(last)}</NextContinuationToken><NextMarker>{escape(last)}</NextMarker>"
            )
        return (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} {NAMESPACE}><Name>{bucket}</Name><Prefix>{escape(prefix)}'
            f"</Prefix><MaxKeys>{most}</MaxKeys><KeyCount>{len(entries) + len(folders)}</KeyCount>"
            f"<IsTruncated>{'true' if truncated else 'false'}</IsTruncated>{following}{''.join(entries)}"
            f"{''.join(folders)}</{root}>"
        )


class _Lister(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    buckets: Mapping[str, _Listing] = {}

    def log_message(self, *_: object) -> None:
        return

    def _answer(self, status: int, document: str = "") -> None:
        body = document.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("x-amz-bucket-region", "us-east-1")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self._error(501, "NotImplemented")  # STS: there is none here

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        bucket = parts.path.strip("/")
        if not bucket:
            names = "".join(f"<Bucket><Name>{name}</Name></Bucket>" for name in self.buckets)
            self._answer(
                200, f"<ListAllMyBucketsResult {NAMESPACE}><Buckets>{names}</Buckets></ListAllMyBucketsResult>"
            )
        elif bucket not in self.buckets:
            self._error(404, "NoSuchBucket")
        elif self.command == "HEAD":
            self._answer(200)
        elif "versioning" in query:
            self._answer(200, f"<VersioningConfiguration {NAMESPACE}/>")
        elif "location" in query:
            self._answer(200, f"<LocationConstraint {NAMESPACE}/>")
        elif "uploads" in query:
            self._answer(
                200,
                f"<ListMultipartUploadsResult {NAMESPACE}><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>",
            )
        elif (
            "versions" in query
            or "list-type" in query
            or not query.keys() - {"prefix", "delimiter", "marker", "max-keys", "encoding-type"}
        ):
            self._answer(200, self.buckets[bucket].page(query, bucket))
        else:
            self._error(404, "NoSuchConfiguration")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def find_nginx() -> tuple[str, str] | None:
    """(nginx, the module headers-more), where this machine has both; BENCH_NGINX names another root for them."""
    root = os.environ.get("BENCH_NGINX", "/")
    program = Path(root, "usr/sbin/nginx")
    module = Path(root, "usr/lib/nginx/modules/ngx_http_headers_more_filter_module.so")
    return (str(program), str(module)) if program.exists() and module.exists() else None


class Server:
    """nginx over the files of `folder`, one bucket a subfolder; `objects` is what make() gave of each."""

    def __init__(
        self, folder: Path, run: Path, objects: Mapping[str, Mapping[str, tuple[int, str]]], rclone: Path | None = None
    ) -> None:
        self.kind = "nginx" if find_nginx() else "rclone serve s3"
        self._rclone = rclone
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder, self._run, self._objects = folder, run, objects
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        found = find_nginx()
        if found is None:
            raise SystemExit(
                "bench: nginx with the module headers-more is needed (apt install nginx libnginx-mod-http-headers-more-filter)"
            )
        program, module = found
        self._run.mkdir(parents=True, exist_ok=True)
        inner = free_port()
        lines = [
            f'"/{bucket}/{key}" "\\"{md5}\\"";'
            for bucket, keys in self._objects.items()
            for key, (_, md5) in keys.items()
        ]
        (self._run / "etags").write_text("\n".join(lines) + "\n")
        # As root it would give its worker another user's rights, and the objects lie in a private folder.
        user = f"user {pwd.getpwuid(os.geteuid()).pw_name};" if os.geteuid() == 0 else ""
        (self._run / "nginx.conf").write_text(
            f"""
{user} load_module {module};
daemon off; worker_processes 1; pid {self._run}/pid; error_log {self._run}/error.log crit;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_requests 100000000; keepalive_timeout 600s;
  client_body_temp_path {self._run}/body; proxy_temp_path {self._run}/proxy; fastcgi_temp_path {self._run}/fastcgi;
  uwsgi_temp_path {self._run}/uwsgi; scgi_temp_path {self._run}/scgi;
  map_hash_max_size 1048576; map_hash_bucket_size 256;
  map $uri $md5 {{ include {self._run}/etags; }}
  server {{
    listen 127.0.0.1:{self.port} backlog=4096; etag off;
    location ~ ^/[^/]*/?$ {{ proxy_pass http://127.0.0.1:{inner}; proxy_http_version 1.1; proxy_set_header Connection ""; }}
    location / {{ root {self._folder}; more_clear_input_headers If-Match; add_header ETag $md5; }}
  }}
}}
"""
        )
        command = [sys.executable, "-m", "bench.server", str(inner), *self._objects]
        lister = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=Path(__file__).parent.parent)
        assert lister.stdin is not None
        for bucket, keys in self._objects.items():
            for key, (size, md5) in keys.items():
                lister.stdin.write(f"{bucket}\t{key}\t{size}\t{md5}\n".encode())
        lister.stdin.write(b"\n")
        lister.stdin.flush()
        self._processes.append(lister)
        self._processes.append(
            subprocess.Popen(
                [program, "-p", str(self._run), "-c", str(self._run / "nginx.conf"), "-e", str(self._run / "error.log")]
            )
        )
        for port in (inner, self.port):
            self._listens(port)
        return self

    def _second_best(self) -> Self:
        """Where there is no nginx: of its CPU it needs so much that it is the bottleneck; the results say which it was."""
        if self._rclone is None:
            raise SystemExit(
                "bench: neither nginx (apt install nginx libnginx-mod-http-headers-more-filter) nor rclone"
            )
        command = [str(self._rclone), "--config", os.devnull, "serve", "s3", str(self._folder)]
        command += ["--addr", f"127.0.0.1:{self.port}", "--auth-key", "bench,bench", "--vfs-cache-mode", "off"]
        self._processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        self._listens(self.port)
        return self

    def _listens(self, port: int) -> None:
        until = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            if time.monotonic() > until:
                raise SystemExit(f"bench: the server did not start; see {self._run}/error.log")
            time.sleep(0.02)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.terminate()
            process.wait()
        shutil.rmtree(self._run, ignore_errors=True)

    def cpu_seconds(self) -> float:
        """Of nginx's worker and the lister: is the server the bottleneck?"""
        ticks = 0
        for process in self._processes:
            ticks += _ticks(process.pid)
            for task in Path(f"/proc/{process.pid}/task").iterdir():
                ticks += sum(_ticks(int(child)) for child in (task / "children").read_text().split())
        return ticks / os.sysconf("SC_CLK_TCK")


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _serve_lists(port: int) -> None:
    objects: dict[str, dict[str, tuple[int, str]]] = {}
    for line in sys.stdin:
        if line == "\n":
            break
        bucket, key, size, md5 = line.rstrip("\n").split("\t")
        objects.setdefault(bucket, {})[key] = int(size), md5
    _Lister.buckets = {bucket: _Listing(keys) for bucket, keys in objects.items()}
    server = ThreadingHTTPServer(("127.0.0.1", port), _Lister)
    # It does not outlive who holds the other end of its input.
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    _serve_lists(int(sys.argv[1]))
