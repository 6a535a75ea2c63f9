"""A stand-in for the hub on this machine: as much of it as the hub's client asks when it fetches a model."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = hashlib.sha1(b"a commit").hexdigest()


@dataclass
class Hub:
    """Repositories by name, what goes wrong with them, and what was asked.

    Attributes:
        files: Of each repository the contents of its files by name.
        sizes: Of each repository the sizes that its list tells, where they are not those of the contents.
        refuses: The status with which everything is refused.
        gated: Repositories of which the list alone is public.
        cut: Files of which the next download ends after the first half.
        broken: Files of which every download ends before the first byte.
        asked: Paths, in the order of the requests.
        sent: Of each download: its file and the byte at which it began.
    """

    files: dict[str, dict[str, bytes]]
    sizes: dict[str, dict[str, int]] = field(default_factory=dict)
    refuses: int | None = None
    gated: set[str] = field(default_factory=set)
    cut: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    sent: list[tuple[str, int]] = field(default_factory=list)
    endpoint: str = ""

    @contextmanager
    def serving(self) -> Iterator[None]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def listed(self, repo: str) -> dict[str, int]:
        return {name: self.sizes.get(repo, {}).get(name, len(content)) for name, content in self.files[repo].items()}


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Keep the screen clean."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(path)
        asks = re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/\w+|/tree/\w+)?", path)
        file = re.fullmatch(rf"/([^/]+/[^/]+)/resolve/{COMMIT}/(.+)", path)
        repo = (asks or file or [None, None])[1]
        if repo not in self.hub.files:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif self.hub.refuses:
            self._send(self.hub.refuses, b"{}", {})
        elif asks:
            self._list(repo, tree=(asks[2] or "").startswith("/tree"))
        elif repo in self.hub.gated:
            self._send(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": f"Access to {repo} is restricted."})
        else:
            self._download(file[2], self.hub.files[repo][file[2]])

    def _list(self, repo: str, *, tree: bool) -> None:
        listed = [(name, size, hashlib.sha1(name.encode()).hexdigest()) for name, size in self.hub.listed(repo).items()]
        if tree:
            told: Any = [{"type": "file", "path": n, "size": s, "oid": blob} for n, s, blob in listed]
        else:
            siblings = [{"rfilename": n, "size": s, "blobId": blob} for n, s, blob in listed]
            told = {"id": repo, "sha": COMMIT, "siblings": siblings}
        self._send(200, json.dumps(told).encode(), {"Content-Type": "application/json"})

    def _download(self, name: str, content: bytes) -> None:
        headers = {"ETag": f'"{hashlib.sha1(name.encode() + content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        begin = int(re.match(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        if self.command == "GET":
            self.hub.sent.append((name, begin))
        ends = self.command == "GET" and name in self.hub.cut | self.hub.broken
        share = 0 if name in self.hub.broken else len(content) // 2
        self.hub.cut -= {name} if ends else set()
        self._send(206 if begin else 200, content[begin:], headers, until=share if ends else None)

    def _send(self, code: int, content: bytes, headers: dict[str, str], until: int | None = None) -> None:
        self.send_response(code)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[:until])
        self.close_connection = until is not None
