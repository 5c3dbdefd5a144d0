"""A stand-in of the Hugging Face hub: enough of its HTTP for huggingface_hub and datasets, in this process.

Repositories have commits, branches that move, and locks: `gated` (listed for everybody, files for who may), `private`
(not there for others). `Hub.faults` makes it hang, break off, or answer with a status. Only regular files: no LFS, no
xet. `Hub.requests` keeps what was asked.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_StandInSecretToken0123456789abcdef"


@dataclass
class Repository:
    """`commits` has the files of each commit, `branches` the commit that each points to."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Add a commit and move the branch to it."""
        content = [
            *sorted((name, hashlib.sha1(data).hexdigest()) for name, data in files.items()),
            len(self.commits),
        ]
        sha = hashlib.sha1(json.dumps(content).encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha

    def resolve(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.branches.get(revision)


@dataclass
class Hub:
    """`faults` maps a part of a path to "hang", a status, "break off" (half of a file comes), or "break off once"
    (what is asked for from the middle on comes whole).
    """

    url: str = ""
    models: dict[str, Repository] = field(default_factory=dict)
    datasets: dict[str, Repository] = field(default_factory=dict)
    faults: dict[str, str | int] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def fault(self, path: str) -> str | int | None:
        return next((fault for part, fault in self.faults.items() if part in path), None)

    def asked(self, part: str) -> int:
        """How many requests had this in their path."""
        return sum(part in path for _, path, _ in self.requests)


@contextmanager
def serve() -> Iterator[Hub]:
    """The hub at a free local port, as long as the block lasts."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Refused(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        self.status = status
        self.headers = {"X-Error-Code": code, "X-Error-Message": message}


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append(
            (self.command, path, {name.lower(): value for name, value in self.headers.items()})
        )
        fault = self.hub.fault(path)
        try:
            if fault == "hang":
                time.sleep(5)
            if isinstance(fault, int):
                raise _Refused(fault, "", "out of order")
            parts = path.strip("/").split("/")
            if parts[0] == "api":
                self._send(json.dumps(self._api(parts[1], parts[2:])).encode(), {})
            else:
                self._file(parts, fault)
        except _Refused as refused:
            self._send(b"", refused.headers, refused.status)
        except ConnectionError:  # the client has given up
            self.close_connection = True

    def _api(self, kind: str, parts: list[str]) -> Any:
        name, rest = "/".join(parts[:2]), parts[2:]
        repository = self._repository(kind, name)
        sha = self._commit(repository, rest[1] if len(rest) > 1 else "main")
        files = repository.commits[sha]
        if rest[:1] == ["tree"]:
            return _listing(
                files, "".join(f"{part}/" for part in rest[2:]), "recursive=true" in self.path.lower()
            )
        if rest[:1] == ["paths-info"]:
            return [_entry(path, files) for path in self._paths() if path in files]
        return {
            "id": name, "sha": sha, "private": repository.private, "gated": "auto" if repository.gated else False,
            "siblings": [{"rfilename": path} for path in files], "tags": [], "downloads": 0, "likes": 0,
            "disabled": False, "lastModified": "2026-01-01T00:00:00.000Z", "createdAt": "2026-01-01T00:00:00.000Z",
        }  # fmt: skip

    def _paths(self) -> list[str]:
        try:
            return list(json.loads(self.body)["paths"])
        except ValueError:
            return parse_qs(self.body.decode())["paths"]

    def _file(self, parts: list[str], fault: str | int | None) -> None:
        kind, parts = ("datasets", parts[1:]) if parts[0] == "datasets" else ("models", parts)
        repository = self._repository(kind, "/".join(parts[:2]))
        if repository.gated and not self._trusted():
            status = 403 if "Authorization" in self.headers else 401
            raise _Refused(status, "GatedRepo", "Access to this repository is restricted.")
        sha = self._commit(repository, parts[3])
        data = repository.commits[sha].get("/".join(parts[4:]))
        if data is None:
            raise _Refused(404, "EntryNotFound", "Entry not found")
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        headers = {
            "ETag": f'"{hashlib.sha1(data).hexdigest()}"',
            "X-Repo-Commit": sha,
            "Accept-Ranges": "bytes",
        }
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        broken = fault == "break off" or (fault == "break off once" and not start)
        self._send(data[start:], headers, 206 if start else 200, broken)

    def _repository(self, kind: str, name: str) -> Repository:
        repository = {"models": self.hub.models, "datasets": self.hub.datasets}.get(kind, {}).get(name)
        if repository is None or (repository.private and not self._trusted()):
            status = 404 if self._trusted() else 401  # the hub does not tell strangers what there is
            raise _Refused(status, "RepoNotFound", "Repository not found")
        return repository

    def _commit(self, repository: Repository, revision: str) -> str:
        sha = repository.resolve(revision)
        if sha is None:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha

    def _trusted(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _send(self, data: bytes, headers: dict[str, str], status: int = 200, broken: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(data[: len(data) // 2] if broken else data)
        if broken:
            self.close_connection = True


def _entry(path: str, files: dict[str, bytes]) -> dict[str, Any]:
    data = files[path]
    return {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}


def _listing(files: dict[str, bytes], folder: str, recursive: bool) -> list[dict[str, Any]]:
    """What is in a folder of a commit; `folder` ends in a slash, or is empty for the top."""
    inside = [path for path in files if path.startswith(folder)]
    if not inside:
        raise _Refused(404, "EntryNotFound", f"{folder} does not exist")
    if recursive:
        return [_entry(path, files) for path in inside]
    folders = sorted({path[len(folder) :].split("/")[0] for path in inside if "/" in path[len(folder) :]})
    found = [{"type": "directory", "path": folder + name, "size": 0, "oid": "0" * 40} for name in folders]
    return found + [_entry(path, files) for path in inside if "/" not in path[len(folder) :]]
