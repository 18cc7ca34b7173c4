"""A Hugging Face Hub of this process, as far as `huggingface_hub` asks it: repositories in a dict, on a port of this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
"""Of every repository's main branch, whatever is in it."""

TAGGED = COMMIT[::-1]
"""Of its revision v1, where there is one."""

TOKEN = "hf_of_the_tests"
"""With which one may write."""


@dataclass
class Hub:
    """What is there, and what was asked.

    Attributes
    ----------
    repositories
        Files by their names, by the repositories' names; by names that end in `@v1` those of that revision.
    asked
        Method and path of each request.
    commits
        What was uploaded: the headers of the commits.
    """

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    commits: list[dict[str, Any]] = field(default_factory=list)
    address: str = ""


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Within, the hub answers at its `address`, for `HF_ENDPOINT`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words: Any) -> None:
            """Nothing is printed."""

        def answer(self, code: int, content: Any = b"", **headers: str) -> None:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(code)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def missing(self, what: str) -> None:
            self.answer(404, {"error": what}, X_Error_Code=what, X_Error_Message=what)

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            of_api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path)
            of_file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
            found = of_api or of_file
            if found is None or found[1] not in hub.repositories:
                self.missing("RepoNotFound")
                return
            revision = found[3] if of_api else found[2]
            commit = COMMIT if revision in (None, "main", COMMIT) else TAGGED
            files = hub.repositories.get(found[1] if commit == COMMIT else f"{found[1]}@v1")
            if files is None or (commit == TAGGED and revision not in ("v1", TAGGED)):
                self.missing("RevisionNotFound")
            elif of_file:
                content = files.get(of_file[3])
                if content is None:
                    self.missing("EntryNotFound")
                else:
                    self.answer(200, content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', X_Repo_Commit=commit)
            elif found[2] == "tree":
                entries = [
                    {"type": "file", "path": name, "size": len(x), "oid": hashlib.sha1(x).hexdigest()} for name, x in files.items()
                ]
                self.answer(200, entries)
            else:
                siblings = [{"rfilename": name} for name in files]
                self.answer(200, {"id": found[1], "modelId": found[1], "sha": commit, "siblings": siblings, "private": False})

        do_HEAD = do_GET  # noqa: N815

        def do_POST(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"POST {path}")
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self.answer(401, {"error": "Invalid credentials"})
            elif path == "/api/repos/create":
                asked = json.loads(body)
                name = "/".join(part for part in (asked.get("organization"), asked["name"]) if part)
                hub.repositories.setdefault(name, {})
                self.answer(200, {"url": f"{hub.address}/{name}", "name": name})
            elif path == "/api/validate-yaml":
                self.answer(200, {"errors": [], "warnings": []})
            elif "/preupload/" in path:
                files = [{"path": x["path"], "uploadMode": "regular", "shouldIgnore": False} for x in json.loads(body)["files"]]
                self.answer(200, {"files": files})
            else:
                (name,) = re.findall(r"/api/models/([^/]+/[^/]+)/commit/main", path)
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "header":
                        hub.commits.append(line["value"])
                    else:
                        hub.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                self.answer(200, {"commitUrl": f"{hub.address}/{name}/commit/{COMMIT}", "commitOid": COMMIT, "hookOutput": ""})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
