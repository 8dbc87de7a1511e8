"""The documentation is correct and complete: generated parts are current, links work, every setting is described."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
from support.servers.maintd import maintd_daemon
from support.servers.tls import authority, tls_front

from maintd.calendar import OverlayText, parse_calendar
from maintd.config.settings import Settings
from maintd.job.registry import JobRegistry, shipped
from maintd.model.job import JobDescription

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md"), *(ROOT / "deploy").glob("*.md")])


def test_the_generated_parts_are_up_to_date() -> None:
    generate = runpy.run_path(str(DOCS / "generate.py"), run_name="docs")

    assert generate["outdated"](write=False) == [], "run: make docs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_existing_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))

    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]

    assert missing == []


def test_the_example_of_the_client_runs_against_a_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = re.search(r"```python\n(.*?)```", (DOCS / "client.md").read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    own = authority(tmp_path / "ca")

    with maintd_daemon(tmp_path) as daemon, tls_front(int(daemon.page.rpartition(":")[2]), own) as port:
        token = daemon.maintd("token", "create", "--role", "operator", "ci").out
        text = example[1].replace("https://maintd.example:8420", f"https://127.0.0.1:{port}")
        exec(text.replace("own-ca.pem", str(own.ca_file)), {"token": token})

    assert re.search(r"^greet hello world, 1$", capsys.readouterr().out, re.MULTILINE)


def test_every_setting_has_a_description() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_every_param_of_a_shipped_job_has_a_description() -> None:
    jobs = JobRegistry().jobs.values()

    assert all(isinstance(job, JobDescription) for job in jobs), [job for job in jobs if hasattr(job, "error")]
    undescribed = [
        f"{job.name}.{param.name}"
        for job in jobs
        if isinstance(job, JobDescription)
        for param in job.params
        if not param.description
    ]
    assert undescribed == []


def test_every_shipped_job_is_in_the_coverage_table_and_names_its_part_of_the_runbook() -> None:
    table = (DOCS / "runbook-coverage.md").read_text(encoding="utf-8")

    for job in JobRegistry().jobs.values():
        assert isinstance(job, JobDescription)
        assert job.runbook, job.name
        assert f"`{job.name}`" in table, job.name


def test_every_entry_of_the_shipped_calendar_is_in_the_coverage_table() -> None:
    table = (DOCS / "runbook-coverage.md").read_text(encoding="utf-8")
    path = shipped("schedules.yaml")
    calendar = parse_calendar(path.read_text(encoding="utf-8"), path.name, JobRegistry().jobs)

    assert [entry.name for entry in calendar.entries if f"`{entry.name}`" not in table] == []
    assert calendar.warnings == ()


def test_the_calendars_in_the_documentation_are_valid() -> None:
    jobs = JobRegistry().jobs
    found = 0
    for page in PAGES:
        for text in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            if text.startswith("timezone:"):
                parse_calendar(text, page.name, jobs)
                found += 1
    assert found


def test_overlays_in_the_documentation_keep_all_steps_of_the_shipped_entries() -> None:
    text = shipped("schedules.yaml").read_text(encoding="utf-8")
    jobs = JobRegistry().jobs
    before = {entry.name: [step.name for step in entry.steps] for entry in parse_calendar(text, "x", jobs).entries}
    found = 0
    for page in PAGES:
        body = page.read_text(encoding="utf-8")
        for block in re.finditer(r"```(?:yaml|text)\n(.*?)```", body, re.DOTALL):
            named = set(re.findall(r"^  ([a-z-]+):", block[1].partition("entries:")[2], re.MULTILINE))
            if named and named <= before.keys() and "timezone:" not in block[1] and "notify:" not in block[1]:
                overlay = OverlayText(page.name, block[1])
                entries = parse_calendar(text, "x", jobs, overlay=overlay).entries
                assert {entry.name: [step.name for step in entry.steps] for entry in entries} == before, page.name
                found += 1
    assert found > 3


def test_jobs_import_only_the_public_packages_of_maintd() -> None:
    allowed = re.compile(r"maintd\.(job|clients|checks|reports)\b")
    for path in shipped("jobs").glob("*.py"):
        imported = re.findall(r"^\s*(?:from|import) (maintd[\w.]*)", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert [name for name in imported if not allowed.match(name)] == [], path.name
