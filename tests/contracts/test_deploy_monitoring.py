"""The alert rules and the dashboard of deploy/, with promtool and a real Prometheus that scrapes a real daemon."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from support.servers.base import require_program, wait_for
from support.servers.maintd import RunningDaemon, maintd_daemon
from support.servers.prometheus import WebServer, prometheus

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus-rules.yaml"
DASHBOARD = json.loads((DEPLOY / "grafana-dashboard.json").read_text())

JOB = '''"""Record what the alert rules are about."""
import time
from maintd.job import CheckStatus, job

@job(locks={"thing": "exclusive"})
def run(ctx, params):
    ctx.check("answers", "yes", equals="yes")
    ctx.check("spare disks", 1, at_least=2, severity=CheckStatus.WARN)
    ctx.measure("backup_last_success_timestamp", time.time(), "s", set="trading")
    ctx.measure("ssl_certificate_expiry_days", 40, "day", service="api")
'''
CALENDAR = """
timezone: UTC
notify: {channels: {mail: {url: "mailto://127.0.0.1:9?to=ops@example.com"}}}
entries:
  figures:
    every: 10s
    misfire: 1h
    steps: [figures]
"""


def promtool(*words: str | Path) -> subprocess.CompletedProcess[str]:
    program = require_program("promtool", "prometheus")
    return subprocess.run([program, *map(str, words)], capture_output=True, text=True, timeout=120)


def expressions() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_the_rules_are_valid() -> None:
    done = promtool("check", "rules", RULES)

    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_fires_for_its_cause_and_none_without_one(tmp_path: Path) -> None:
    tests = (Path(__file__).parent / "prometheus_rules_test.yaml").read_text()
    file = tmp_path / "tests.yaml"
    file.write_text(tests.replace("RULES", str(RULES)))

    done = promtool("test", "rules", file)

    assert done.returncode == 0, done.stdout + done.stderr
    names = {rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}
    fired = {
        item["alertname"]
        for case in yaml.safe_load(tests)["tests"]
        for item in case["alert_rule_test"]
        if item["exp_alerts"]
    }
    assert fired == names


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningDaemon, WebServer]]:
    """A daemon with ended runs, and a Prometheus that scrapes it every second and evaluates the rules."""
    folder = tmp_path_factory.mktemp("monitored")
    jobs = folder / "jobs"
    jobs.mkdir()
    (jobs / "figures.py").write_text(JOB)
    with maintd_daemon(folder, CALENDAR, jobs) as daemon:
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [
                {
                    "job_name": "maintd",
                    "static_configs": [{"targets": [daemon.page.removeprefix("http://")]}],
                }
            ],
        }
        with prometheus(yaml.safe_dump(config)) as server:
            wait_for(lambda: value(server, "maintd_entry_runs_total > 1"), "two runs were counted", seconds=120)
            yield daemon, server


def value(server: WebServer, expr: str) -> list[Any]:
    answer = httpx.get(f"{server.url}/api/v1/query", params={"query": expr}, timeout=20)
    assert answer.status_code == 200, f"{expr}: {answer.text}"
    found: list[Any] = answer.json()["data"]["result"]
    return found


@pytest.mark.parametrize("expr", expressions())
def test_each_query_of_the_dashboard_returns_data(scraped: tuple[RunningDaemon, WebServer], expr: str) -> None:
    _, server = scraped
    query = re.sub(r"\$(entry|measure)\b", ".*", expr)

    wait_for(lambda: value(server, query), f"{expr} has data")


def test_no_rule_fires_on_a_daemon_with_everything_in_order(scraped: tuple[RunningDaemon, WebServer]) -> None:
    _, server = scraped

    alerts = httpx.get(f"{server.url}/api/v1/alerts", timeout=20).json()["data"]["alerts"]
    groups = httpx.get(f"{server.url}/api/v1/rules", timeout=20).json()["data"]["groups"]

    assert [alert["labels"] for alert in alerts if alert["state"] == "firing"] == []
    assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}


def test_panels_do_not_overlap_and_have_titles() -> None:
    places: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        grid = panel["gridPos"]
        cells = {
            (x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not cells & places, panel["title"]
        places |= cells
        assert panel["title"]
