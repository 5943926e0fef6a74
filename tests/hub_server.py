"""A stand-in of the hub's HTTP API on this machine: what its client asks to push and to load."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_owner"


@dataclass
class Repository:
    """Files of every commit, and the commit of every branch."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"})

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        sha = hashlib.sha1(str((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[sha], self.branches[branch] = files, sha
        return sha

    def files(self, branch: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches[branch]]


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, code: str = "", **body: Any):
        self.status, self.code, self.body = status, code, body


class HubServer(ThreadingHTTPServer):
    """The hub; `asked` is what it was asked, in order."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.asked: list[str] = []

    def downloads(self) -> list[str]:
        """Paths of the files that were downloaded."""
        found = (re.fullmatch("GET /.+/resolve/[^/]+/(.+)", line) for line in self.asked)
        return sorted(match[1] for match in found if match)


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        content = self.body()
        try:
            for pattern, found in _ANSWERS.items():
                if match := re.fullmatch(pattern, f"{self.command} {path}"):
                    found(self, content, *match.groups())
                    return
            raise Refused(404)
        except Refused as refused:
            headers = {"X-Error-Code": refused.code} if refused.code else {}
            self.send(json.dumps(refused.body).encode(), refused.status, **headers)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def send(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_json(self, value: Any) -> None:
        self.send(json.dumps(value).encode(), **{"Content-Type": "application/json"})

    @property
    def is_owner(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def may_write(self) -> None:
        if not self.is_owner:
            raise Refused(401, error="Invalid username or password.")

    def repository(self, name: str) -> Repository:
        found = self.server.repositories.get(name)
        if found is None or (found.private and not self.is_owner):
            raise Refused(401, "RepoNotFound")
        return found

    def commit_of(self, name: str, revision: str) -> tuple[str, dict[str, bytes]]:
        found = self.repository(name)
        sha = found.branches.get(revision, revision)
        if sha not in found.commits:
            raise Refused(404, "RevisionNotFound")
        return sha, found.commits[sha]

    def create(self, content: bytes) -> None:
        self.may_write()
        given = json.loads(content)
        name = f"{given['organization'] or 'me'}/{given['name']}"
        url = f"{self.server.url}/{name}"
        if name in self.server.repositories:
            raise Refused(409, url=url)
        private = given.get("private") or given.get("visibility") == "private"
        self.server.repositories[name] = Repository(bool(private))
        self.send_json({"url": url})

    def branch(self, _: bytes, name: str, branch: str) -> None:
        self.may_write()
        found = self.repository(name)
        if branch in found.branches:
            raise Refused(409)
        found.branches[branch] = found.branches["main"]
        self.send_json({})

    def info(self, _: bytes, name: str) -> None:
        self.send_json({"id": name, "private": self.repository(name).private})

    def tree(self, _: bytes, name: str, revision: str) -> None:
        files = self.commit_of(name, revision)[1]
        rows = [
            {"type": "file", "path": path, "size": len(content), "oid": "0"}
            for path, content in files.items()
        ]
        self.send_json(rows)

    def preupload(self, content: bytes, *_: str) -> None:
        paths = [file["path"] for file in json.loads(content)["files"]]
        modes = {path: "lfs" if path.endswith(".safetensors") else "regular" for path in paths}
        rows = [
            {"path": path, "uploadMode": mode, "shouldIgnore": False}
            for path, mode in modes.items()
        ]
        self.send_json({"files": rows})

    def batch(self, content: bytes, _: str) -> None:
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.server.url}/large/{one['oid']}"}}}
            for one in json.loads(content)["objects"]
        ]
        self.send_json({"objects": objects})

    def upload(self, content: bytes, oid: str) -> None:
        assert hashlib.sha256(content).hexdigest() == oid
        self.server.large[oid] = content
        self.send(b"")

    def commit(self, content: bytes, name: str, revision: str) -> None:
        self.may_write()
        files = dict(self.commit_of(name, revision)[1])
        for line in map(json.loads, content.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        is_request = "create_pr=1" in self.path
        sha = self.repository(name).commit("refs/pr/1" if is_request else revision, files)
        place = f"{self.server.url}/{name}"
        self.send_json(
            {
                "commitUrl": f"{place}/commit/{sha}",
                "commitOid": sha,
                "pullRequestUrl": f"{place}/discussions/1" if is_request else None,
            }
        )

    def resolve(self, _: bytes, name: str, revision: str, path: str) -> None:
        sha, files = self.commit_of(name, revision)
        if path not in files:
            raise Refused(404, "EntryNotFound")
        etag = f'"{hashlib.sha256(files[path]).hexdigest()}"'
        self.send(files[path], **{"X-Repo-Commit": sha, "ETag": etag})


_NAME, _REST = r"([\w.-]+/[\w.-]+)", r"(.+)"
_ANSWERS = {
    "POST /api/repos/create": _Handler.create,
    f"POST /api/models/{_NAME}/branch/{_REST}": _Handler.branch,
    f"GET /api/models/{_NAME}": _Handler.info,
    f"GET /api/models/{_NAME}/tree/{_REST}": _Handler.tree,
    "POST /api/validate-yaml": lambda handler, _: handler.send_json({}),
    f"POST /api/models/{_NAME}/preupload/{_REST}": _Handler.preupload,
    rf"POST /{_NAME}\.git/info/lfs/objects/batch": _Handler.batch,
    r"PUT /large/(\w+)": _Handler.upload,
    f"POST /api/models/{_NAME}/commit/{_REST}": _Handler.commit,
    rf"(?:GET|HEAD) /{_NAME}/resolve/([^/]+)/{_REST}": _Handler.resolve,
}
