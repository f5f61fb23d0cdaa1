"""A small server that speaks as much of the Hub's API as its real clients need for models and data sets."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

import pytest


@dataclass
class Hub:
    """Repositories by name, each a dict of files; of data sets every commit, the newest last, as `main`."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    datasets: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    lie_about_size: int | None = None
    broken: bool = False
    hangs_up: bool = False

    def sha(self, name: str) -> str:
        files = self.repositories[name]
        return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    hub: ClassVar[Hub]
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Stay silent."""

    def _answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: Any, status: int = 200) -> None:
        self._answer(status, json.dumps(value).encode())

    @property
    def _home(self) -> str:
        return f"http://{self.headers['Host']}"

    def _missing(self, code: str) -> None:
        self._answer(404, b"{}", {"X-Error-Code": code})

    def _path(self) -> list[str]:
        self.hub.requests.append((self.command, self.path, self.headers.get("Authorization")))
        return unquote(urlsplit(self.path).path).strip("/").split("/")

    def _get(self) -> None:
        path = self._path()
        if self.hub.hangs_up:
            self.close_connection = True
            return None
        if self.hub.broken:
            return self._answer(500, b"{}")
        if "datasets" in path[:2]:
            return self._dataset(path)
        if path[:2] == ["api", "models"]:
            name = "/".join(path[2:4])
            if name not in self.hub.repositories:
                return self._missing("RepoNotFound")
            files = self.hub.repositories[name]
            entries = [(file, self.hub.lie_about_size or len(content)) for file, content in files.items()]
            if path[4:5] == ["tree"]:
                return self._json(
                    [{"type": "file", "path": file, "size": size, "oid": "0" * 40} for file, size in entries]
                )
            siblings = [{"rfilename": file, "size": size, "blobId": "0" * 40} for file, size in entries]
            return self._json({"id": name, "sha": self.hub.sha(name), "siblings": siblings})
        name, file = "/".join(path[:2]), "/".join(path[4:])
        content = self.hub.repositories.get(name, {}).get(file)
        if content is None or path[2] != "resolve":
            return self._missing("EntryNotFound")
        etag = hashlib.sha1(content).hexdigest()
        return self._answer(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": self.hub.sha(name)})

    def _dataset(self, path: list[str]) -> None:
        """``api/datasets/OWNER/NAME/KIND/REVISION/...`` or ``datasets/OWNER/NAME/resolve/REVISION/FILE``."""
        about = path[0] == "api"
        owner, name, kind, revision, *rest = path[1 + about :]
        commits = self.hub.datasets.get(f"{owner}/{name}", {})
        commit = next(reversed(commits), "") if revision == "main" else revision
        if commit not in commits:
            return self._missing("RevisionNotFound" if commits else "RepoNotFound")
        files, place = commits[commit], "/".join(rest)
        if not about:
            if place not in files:
                return self._missing("EntryNotFound")
            etag = hashlib.sha1(files[place]).hexdigest()
            return self._answer(200, files[place], {"ETag": f'"{etag}"', "X-Repo-Commit": commit})
        if kind == "tree":
            entries = [(file, len(content)) for file, content in files.items() if not place]
            return self._json(
                [{"type": "file", "path": file, "size": size, "oid": "0" * 40} for file, size in entries]
            )
        return self._json({"id": f"{owner}/{name}", "sha": commit, "siblings": []})

    do_GET = do_HEAD = _get

    def do_POST(self) -> None:
        path = self._path()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if path == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            if name in self.hub.repositories:
                return self._json({"url": f"{self._home}/{name}", "error": "there already"}, 409)
            self.hub.repositories[name] = {".gitattributes": b""}
            self.hub.private[name] = bool(asked.get("private") or asked.get("visibility") == "private")
            return self._json({"url": f"{self._home}/{name}"})
        if path == ["api", "validate-yaml"]:
            return self._json({"errors": [], "warnings": []})
        name = "/".join(path[2:4])
        if path[4] == "preupload":
            asked = json.loads(body)["files"]
            return self._json(
                {
                    "files": [
                        {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked
                    ]
                }
            )
        files = self.hub.repositories[name]
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del files[line["value"]["path"]]
        sha = self.hub.sha(name)
        return self._json({"commitUrl": f"{self._home}/{name}/commit/{sha}", "commitOid": sha})


def serve(hub: Hub) -> ThreadingHTTPServer:
    """Start it on a free port of this machine, in a thread; `shutdown` and `server_close` end it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def ask(server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch, hub: Hub) -> str:
    """Let the library ask a server, and the server serve a Hub; return its address."""
    url = f"http://127.0.0.1:{server.server_port}"
    # The library reads the variable when it is imported.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    handler: Any = server.RequestHandlerClass
    handler.hub = hub
    return url
