"""Prometheus 2.42, with synthetic history if given, and Alertmanager 0.25."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from maintd.checks.alerts.flow import LABEL
from support.servers.base import free_port, require_program, running, wait_for

CONFIG = "global: {scrape_interval: 1s, evaluation_interval: 1s}\nscrape_configs: []\n"
ALERTMANAGER = "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n"


def routed_to(port: int, *, wait: str = "1s", interval: str = "1s", sends_end: bool = True) -> str:
    """A configuration with a route for the test alerts of maintd to a webhook at this port."""
    return f"""
route:
  receiver: nobody
  group_wait: 1h
  routes:
    - matchers: ['{LABEL}=~".+"']
      receiver: maintd
      group_by: [{LABEL}]
      group_wait: {wait}
      group_interval: {interval}
receivers:
  - name: nobody
  - name: maintd
    webhook_configs: [{{url: "http://127.0.0.1:{port}/", send_resolved: {str(sends_end).lower()}}}]
"""


@dataclass
class WebServer:
    """A server with an HTTP API. After a change of the file `config`, call `reload`."""

    port: int
    config: Path
    pid: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def reload(self) -> None:
        httpx.post(f"{self.url}/-/reload", timeout=10).raise_for_status()


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def prometheus(config: str = CONFIG, openmetrics: str | None = None, flags: Sequence[str] = ()) -> Iterator[WebServer]:
    """Start a server; `openmetrics` is history as OpenMetrics text with timestamps, ending in `# EOF`."""
    program = require_program("prometheus", "prometheus")
    with tempfile.TemporaryDirectory(prefix="maintd-prom-") as name:
        folder, port = Path(name), free_port()
        (folder / "p.yml").write_text(config)
        if openmetrics is not None:
            (folder / "history.om").write_text(openmetrics)
            # promtool reads the whole file once per block: a few long blocks for weeks of history.
            made = ["tsdb", "create-blocks-from", "--max-block-duration=744h", "openmetrics"]
            made += [str(folder / "history.om"), str(folder / "data")]
            subprocess.run([require_program("promtool", "prometheus"), *made], check=True, capture_output=True)
        argv = [
            program,
            f"--config.file={folder}/p.yml",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}",
            "--web.enable-lifecycle",
            "--storage.tsdb.retention.time=10y",
            *flags,
        ]
        with running(argv, folder / "log") as process:
            server = WebServer(port, folder / "p.yml", process.pid)
            wait_for(lambda: _ready(server.url), f"prometheus on {port}")
            yield server


@contextmanager
def alertmanager(
    config: str = ALERTMANAGER, cluster: Sequence[str] = ("--cluster.listen-address=",)
) -> Iterator[WebServer]:
    """Start a server that sends no notifications. `cluster`: flags of its cluster, disabled by default."""
    program = require_program("prometheus-alertmanager", "prometheus-alertmanager")
    with tempfile.TemporaryDirectory(prefix="maintd-am-") as name:
        folder, port = Path(name), free_port()
        (folder / "am.yml").write_text(config)
        argv = [
            program,
            f"--config.file={folder}/am.yml",
            f"--storage.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}",
            *cluster,
        ]
        with running(argv, folder / "log") as process:
            server = WebServer(port, folder / "am.yml", process.pid)
            wait_for(lambda: _ready(server.url), f"alertmanager on {port}")
            yield server
