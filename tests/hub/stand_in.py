"""A stand-in of the Hugging Face hub: enough of its HTTP for huggingface_hub and datasets, in this process.

Repositories have commits and branches that move. They can be `gated` (everybody sees them listed, some may have their
files) or `private` (invisible to others). `Hub.faults` makes the hub hang, break off, or answer with a status.
`Hub.requests` keeps the requests. With TOKEN one can make data sets and commit to them; uploaded Parquet files go to
LFS. There is no xet.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = "hf_StandInSecretToken0123456789abcdef"
LICENCES = ("apache-2.0", "cc-by-4.0", "mit", "other")
Fault = str | int | Callable[[], object]
READER = "hf_StandInReadingToken0123456789abcdef"  # its owner may see everything and change nothing


@dataclass
class Repository:
    """`commits` has the files of each commit, `branches` the commit of each branch, `large` the uploads by LFS."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False
    large: dict[str, bytes] = field(default_factory=dict)  # by sha256

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

    def etag(self, data: bytes) -> str:
        """The sha256 of a file in LFS; git's sha1 of any other file."""
        large = hashlib.sha256(data).hexdigest()
        return large if large in self.large else hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Hub:
    """A hub and its faults.

    `faults` maps a part of a path to "hang", a status, "break off" (only half of a file is sent), "break off once" (the
    second half is sent when it is asked for), or a function that is called first.
    """

    url: str = ""
    models: dict[str, Repository] = field(default_factory=dict)
    datasets: dict[str, Repository] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)  # of the commits that were pushed

    def fault(self, path: str) -> Fault | None:
        return next((fault for part, fault in self.faults.items() if part in path), None)

    def asked(self, part: str) -> int:
        """The number of requests with this in their path."""
        return sum(part in path for _, path, _ in self.requests)


@contextmanager
def serve() -> Iterator[Hub]:
    """Run the hub at a free local port inside this block."""
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
    def __init__(self, status: int, code: str, message: str, body: bytes = b"") -> None:
        self.status, self.body = status, body
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

    def do_PUT(self) -> None:
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
            if callable(fault):
                fault()
            if fault == "hang":
                time.sleep(5)
            if isinstance(fault, int):
                raise _Refused(fault, "", "out of order")
            parts = path.strip("/").split("/")
            if self.command in ("POST", "PUT") and "paths-info" not in parts:
                self._send(json.dumps(self._received(parts)).encode(), {})
            elif parts[0] == "api":
                self._send(json.dumps(self._api(parts[1], parts[2:])).encode(), {})
            else:
                self._file(parts, fault)
        except _Refused as refused:
            self._send(refused.body, refused.headers, refused.status)
        except ConnectionError:  # the client has given up
            self.close_connection = True

    def _api(self, kind: str, parts: list[str]) -> Any:
        name, rest = "/".join(parts[:2]), parts[2:]
        repository = self._repository(kind, name)
        sha = self._commit(repository, rest[1] if len(rest) > 1 else "main")
        files = repository.commits[sha]
        if rest[:1] == ["tree"]:
            folder = "".join(f"{part}/" for part in rest[2:])
            return _listing(repository, files, folder, "recursive=true" in self.path.lower())
        if rest[:1] == ["paths-info"]:
            return [_entry(repository, path, files[path]) for path in self._paths() if path in files]
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

    def _file(self, parts: list[str], fault: Fault | None) -> None:
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
            "ETag": f'"{repository.etag(data)}"',
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
            status = 404 if self._trusted() else 401  # the hub does not tell strangers what exists
            raise _Refused(status, "RepoNotFound", "Repository not found")
        return repository

    def _commit(self, repository: Repository, revision: str) -> str:
        sha = repository.resolve(revision)
        if sha is None:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha

    def _trusted(self) -> bool:
        return self.headers.get("Authorization") in (f"Bearer {TOKEN}", f"Bearer {READER}")

    # ---- uploads ----

    def _received(self, parts: list[str]) -> Any:
        """The answer to an upload."""
        if parts[0] == "large":  # needs no token: the address is the secret
            return self._keep(self.hub.datasets["/".join(parts[1:3])], parts[3])
        if parts == ["api", "validate-yaml"]:
            return self._check_card(json.loads(self.body)["content"])
        if not self._trusted():
            raise _Refused(401, "", "Invalid username or password.")
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            raise _Refused(403, "", "this token may not write")
        if parts == ["api", "repos", "create"]:
            return self._create(json.loads(self.body))
        if parts[0] == "datasets":
            return self._places("/".join(parts[1:3]).removesuffix(".git"), json.loads(self.body)["objects"])
        repository = self._repository("datasets", "/".join(parts[2:4]))
        self._commit(repository, parts[5])
        if parts[4] == "preupload":
            return {
                "files": [self._mode(repository, parts[5], file) for file in json.loads(self.body)["files"]]
            }
        assert parts[4] == "commit", parts
        return self._add_commit(repository, parts)

    def _check_card(self, text: str) -> Any:
        licence = yaml.safe_load(text.split("---")[1]).get("license")
        if licence not in LICENCES:
            body = {"errors": [{"message": f'"license" must be one of {LICENCES}, not {licence}'}]}
            raise _Refused(400, "", "", json.dumps(body).encode())
        return {"errors": [], "warnings": []}

    def _create(self, asked: dict[str, Any]) -> Any:
        assert asked["type"] == "dataset", asked
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.hub.datasets:
            raise _Refused(409, "", "You already created this dataset repo")
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        repository = self.hub.datasets[name] = Repository(private=private)
        repository.commit({".gitattributes": b"*.parquet filter=lfs diff=lfs merge=lfs -text\n"})
        return {"url": f"{self.hub.url}/datasets/{name}"}

    def _mode(self, repository: Repository, revision: str, file: dict[str, Any]) -> dict[str, Any]:
        """How a file is to be uploaded, and which file exists: the client leaves out equal files."""
        path = file["path"]
        there = repository.commits[self._commit(repository, revision)].get(path)
        return {
            "path": path, "uploadMode": "lfs" if path.endswith(".parquet") else "regular", "shouldIgnore": False,
            "oid": None if there is None else repository.etag(there),
        }  # fmt: skip

    def _places(self, name: str, objects: list[dict[str, Any]]) -> Any:
        """LFS: the address to which each object is uploaded; none if it exists."""
        known = self._repository("datasets", name).large
        places = [
            {
                **one,
                "actions": {"upload": {"href": f"{self.hub.url}/large/{name}/{one['oid']}", "header": {}}},
            }
            for one in objects
            if one["oid"] not in known
        ]
        return {"transfer": "basic", "objects": [*places, *(one for one in objects if one["oid"] in known)]}

    def _keep(self, repository: Repository, oid: str) -> Any:
        assert hashlib.sha256(self.body).hexdigest() == oid
        repository.large[oid] = self.body
        return {}

    def _add_commit(self, repository: Repository, parts: list[str]) -> Any:
        lines = [json.loads(line) for line in self.body.splitlines()]
        branch, head = parts[5], lines[0]["value"]
        if repository.branches[branch] != head.get("parentCommit", repository.branches[branch]):
            raise _Refused(412, "", "A commit has happened since.")
        files = dict(repository.commits[repository.branches[branch]])
        for line in lines[1:]:
            kind, value = line["key"], line["value"]
            if kind == "deletedFile":
                del files[value["path"]]
            elif kind == "lfsFile":
                files[value["path"]] = repository.large[value["oid"]]
            else:
                assert kind == "file", kind
                files[value["path"]] = base64.b64decode(value["content"])
        sha = repository.commit(files, branch)
        self.hub.messages.append(head["summary"])
        return {"commitUrl": f"{self.hub.url}/{'/'.join(parts[1:4])}/commit/{sha}", "commitOid": sha}

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


def _entry(repository: Repository, path: str, data: bytes) -> dict[str, Any]:
    etag = repository.etag(data)
    large = {"lfs": {"oid": etag, "size": len(data), "pointerSize": 130}} if etag in repository.large else {}
    return {"type": "file", "path": path, "size": len(data), "oid": etag[:40], **large}


def _listing(
    repository: Repository, files: dict[str, bytes], folder: str, recursive: bool
) -> list[dict[str, Any]]:
    """The entries of a commit's folder; `folder` ends in a slash, or is empty for the top."""
    inside = [path for path in files if path.startswith(folder)]
    if not inside:
        raise _Refused(404, "EntryNotFound", f"{folder} does not exist")
    if recursive:
        return [_entry(repository, path, files[path]) for path in inside]
    folders = sorted({path[len(folder) :].split("/")[0] for path in inside if "/" in path[len(folder) :]})
    found = [{"type": "directory", "path": folder + name, "size": 0, "oid": "0" * 40} for name in folders]
    top = [path for path in inside if "/" not in path[len(folder) :]]
    return found + [_entry(repository, path, files[path]) for path in top]
