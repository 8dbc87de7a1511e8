"""The npm registry, OSV and PyPI as servers on loopback, which keep what they received."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

BULK, BATCH = "/-/npm/v1/security/advisories/bulk", "/v1/querybatch"


def npm_advisory(identity: str, severity: str, vulnerable: str, title: str = "A title") -> dict[str, Any]:
    """An advisory as the registry's bulk endpoint writes it: npm 11 reads this form (tried with the program)."""
    url = f"https://github.com/advisories/{identity}"
    return {"id": 1, "url": url, "title": title, "severity": severity, "vulnerable_versions": vulnerable}


def osv_record(
    identity: str, name: str, *events: Mapping[str, str], ecosystem: str = "npm", **more: Any
) -> dict[str, Any]:
    """A record of OSV with one range."""
    kind = "SEMVER" if ecosystem == "npm" else "ECOSYSTEM"
    affected = {"package": {"name": name, "ecosystem": ecosystem}, "ranges": [{"type": kind, "events": list(events)}]}
    return {"id": identity, "modified": "2026-11-29T10:00:00Z", "affected": [affected], "summary": "A summary", **more}


@dataclass
class PackageServices:
    """`npm`: advisories by name; `matches`: ids by "name version", in pages; `records`: of OSV; `latest`: by path.
    `trouble` is called with the path first, and may answer by itself."""

    url: str = ""
    npm: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    matches: dict[str, list[list[str]]] = field(default_factory=dict)
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    latest: dict[str, Any] = field(default_factory=dict)
    received: list[tuple[str, Any]] = field(default_factory=list)
    trouble: Callable[[str], tuple[int, bytes, Mapping[str, str]] | None] = lambda path: None

    @property
    def sent(self) -> str:
        """All that was received, as text."""
        return json.dumps(self.received)

    def answer(self, path: str, body: Any) -> tuple[int, Any]:
        """The answer to a request."""
        if path == BULK:
            return 200, {name: self.npm[name] for name in body if name in self.npm}
        if path == BATCH:
            return 200, {"results": [self._match(query) for query in body["queries"]]}
        if path.startswith("/v1/vulns/"):
            found = self.records.get(path.removeprefix("/v1/vulns/"))
        else:
            found = self.latest.get(path)
        return (200, found) if found is not None else (404, {"error": "not found"})

    def _match(self, query: Mapping[str, Any]) -> dict[str, Any]:
        pages = self.matches.get(f"{query['package']['name']} {query['version']}", [[]])
        page = int(query.get("page_token", "0"))
        result: dict[str, Any] = {"vulns": [{"id": each, "modified": "2026-11-29T10:00:00Z"} for each in pages[page]]}
        return {**result, "next_page_token": str(page + 1)} if page + 1 < len(pages) else result


@contextmanager
def package_services() -> Iterator[PackageServices]:
    """Serve all three on one port."""
    services = PackageServices()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._handle(None)

        def do_POST(self) -> None:
            self._handle(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _handle(self, body: Any) -> None:
            services.received.append((self.path, body))
            headers: Mapping[str, str] = {}
            own = services.trouble(self.path)
            if own is not None:
                status, data, headers = own
            else:
                status, found = services.answer(self.path, body)
                data = json.dumps(found).encode()
            self.send_response(status)
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(data)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    services.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield services
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def write_lock_file_with_export(folder: Path) -> None:
    """Write a lock file with one package, and a fresh export of OSV without an advisory about it."""
    (folder / "export").mkdir(parents=True)
    resolved = "https://registry.npmjs.org/lodash/-/lodash-4.17.21.tgz"
    packages = {
        "": {"dependencies": {"lodash": "4"}},
        "node_modules/lodash": {"version": "4.17.21", "resolved": resolved},
    }
    (folder / "package-lock.json").write_text(json.dumps({"lockfileVersion": 3, "packages": packages}))
    record = osv_record("GHSA-35jh-r3h4-6jhm", "lodash", {"introduced": "0"}, {"fixed": "4.17.21"})
    record["modified"] = datetime.now(UTC).isoformat()
    (folder / "export/GHSA-35jh-r3h4-6jhm.json").write_text(json.dumps(record))
