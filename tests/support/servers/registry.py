"""A small image registry on a real socket, with enough of the API v2 for an engine to pull from it.

It can also require a token, and limit the rate of requests.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import platform
import tarfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]


@dataclass
class Pushed:
    """The digest under the tag, and the digest of this machine's platform."""

    digest: str
    platform_digest: str


@dataclass
class Registry:
    """Its content, its behaviour, and the requests it received: method and path."""

    port: int = 0
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)  # digest → media type and body
    tags: dict[tuple[str, str], str] = field(default_factory=dict)
    login: tuple[str, str] | None = None  # None: anyone may pull
    limited: int = 0  # number of further responses that are 429
    retry_after: str = "600"
    omit_digest_header: bool = False
    tags_per_page: int = 1000
    asked: list[tuple[str, str]] = field(default_factory=list)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def push(
        self,
        name: str,
        tag: str,
        content: str,
        *,
        created: str = "2026-11-20T00:00:00Z",
        env: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        index: bool = False,
        program: Path | None = None,
    ) -> Pushed:
        """Store an image of one file under a tag, also of a program; with `index`, as one of two platforms."""
        mine = self._image(content, ARCHITECTURE, created, env or {}, labels or {}, program)
        digest = mine
        if index:
            other = self._image(content, "riscv64", created, env or {}, labels or {})
            listed = [
                {
                    "mediaType": MANIFEST,
                    "digest": one,
                    "size": len(self.manifests[one][1]),
                    "platform": {"architecture": architecture, "os": "linux"},
                }
                for one, architecture in ((other, "riscv64"), (mine, ARCHITECTURE))
            ]
            digest = self._manifest(INDEX, {"schemaVersion": 2, "mediaType": INDEX, "manifests": listed})
        self.tags[(name, tag)] = digest
        return Pushed(digest, mine)

    def _image(
        self,
        content: str,
        architecture: str,
        created: str,
        env: Mapping[str, str],
        labels: Mapping[str, str],
        program: Path | None = None,
    ) -> str:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            entry = tarfile.TarInfo("content")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content.encode()))
            if program is not None:
                tar.add(program.resolve(), program.name)
        plain = packed.getvalue()
        config = {
            "architecture": architecture,
            "os": "linux",
            "created": created,
            "config": {"Env": [f"{key}={value}" for key, value in env.items()], "Cmd": ["/none"], "Labels": labels},
            "rootfs": {"type": "layers", "diff_ids": [_digest(plain)]},
            "history": [{"created": created}],
        }
        body = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self._blob(CONFIG, json.dumps(config).encode()),
            "layers": [self._blob(LAYER, gzip.compress(plain, mtime=0))],
        }
        return self._manifest(MANIFEST, body)

    def _blob(self, media_type: str, data: bytes) -> dict[str, object]:
        self.blobs[_digest(data)] = data
        return {"mediaType": media_type, "digest": _digest(data), "size": len(data)}

    def _manifest(self, media_type: str, body: Mapping[str, object]) -> str:
        data = json.dumps(body).encode()
        self.manifests[_digest(data)] = (media_type, data)
        return _digest(data)

    def found(self, name: str, reference: str, accept: str) -> tuple[str, str, bytes] | None:
        """Return digest, media type and body. A client that does not accept an index gets one platform's manifest."""
        digest = self.tags.get((name, reference), reference)
        if digest not in self.manifests:
            return None
        media_type, data = self.manifests[digest]
        if media_type == INDEX and INDEX not in accept and "*/*" not in accept:
            return self.found(name, json.loads(data)["manifests"][1]["digest"], accept)
        return digest, media_type, data


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    registry: Registry


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        registry, url = self.server.registry, urlsplit(self.path)
        registry.asked.append((self.command, url.path))
        if url.path == "/token":
            self._token(registry, parse_qs(url.query))
        elif registry.limited:
            registry.limited -= 1
            self._error(429, "TOOMANYREQUESTS", {"Retry-After": registry.retry_after})
        elif registry.login and self.headers.get("Authorization") != "Bearer let-me-in":
            realm = f'Bearer realm="http://{registry.host}/token",service="test",scope="repository:x:pull"'
            self._error(401, "UNAUTHORIZED", {"WWW-Authenticate": realm})
        elif url.path == "/v2/":
            self._answer(200, {}, "application/json", b"{}")
        else:
            self._content(registry, url.path, parse_qs(url.query))

    def do_HEAD(self) -> None:
        self.do_GET()

    def _tags(self, registry: Registry, name: str, query: Mapping[str, list[str]]) -> None:
        names = sorted(tag for repository, tag in registry.tags if repository == name)
        rest = [tag for tag in names if tag > query.get("last", [""])[0]]
        page = rest[: registry.tags_per_page]
        link = {"Link": f'</v2/{name}/tags/list?last={page[-1]}&n=9>; rel="next"'} if len(page) < len(rest) else {}
        if names:
            self._answer(200, link, "application/json", json.dumps({"name": name, "tags": page}).encode())
        else:
            self._error(404, "NAME_UNKNOWN", {})

    def _content(self, registry: Registry, path: str, query: Mapping[str, list[str]]) -> None:
        name, kind, reference = path.removeprefix("/v2/").rsplit("/", 2)
        if (kind, reference) == ("tags", "list"):
            self._tags(registry, name, query)
        elif kind == "blobs" and reference in registry.blobs:
            self._answer(200, {}, "application/octet-stream", registry.blobs[reference])
        elif kind == "manifests" and (
            found := registry.found(name, reference, ",".join(self.headers.get_all("Accept", ["*/*"])))
        ):
            digest, media_type, data = found
            headers = {} if registry.omit_digest_header else {"Docker-Content-Digest": digest}
            self._answer(200, headers, media_type, data)
        else:
            self._error(404, "MANIFEST_UNKNOWN", {})

    def _token(self, registry: Registry, query: Mapping[str, list[str]]) -> None:
        wanted = base64.b64encode(":".join(registry.login or ("", "")).encode()).decode()
        if self.headers.get("Authorization") == f"Basic {wanted}" and query.get("service") == ["test"]:
            self._answer(200, {}, "application/json", b'{"token": "let-me-in"}')
        else:
            self._error(401, "UNAUTHORIZED", {})

    def _error(self, status: int, code: str, headers: Mapping[str, str]) -> None:
        body = json.dumps({"errors": [{"code": code, "message": code.lower().replace("_", " ")}]}).encode()
        self._answer(status, headers, "application/json", body)

    def _answer(self, status: int, headers: Mapping[str, str], content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Docker-Distribution-API-Version", "registry/2.0")
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        pass


@contextmanager
def registry(host: str = "127.0.0.1") -> Iterator[Registry]:
    """Serve an empty registry; stop it at the end."""
    server = _Server((host, 0), _Handler)
    held = Registry(port=server.server_port)
    server.registry = held
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield held
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
