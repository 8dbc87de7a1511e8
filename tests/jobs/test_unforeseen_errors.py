"""An unforeseen error in one part of a job hides no other part, and is never success."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support import sample_backups as made
from support.http_services import http_service, json_reply
from support.job_runs import JobResult, run_job

from maintd.checks.backups import verify
from maintd.checks.logs import auth_log, cleanup, folder, journal_size
from maintd.clients import http
from maintd.clients.files import Tree

Break = Callable[..., Any]


def broken(real: Break, when: Callable[..., bool] = lambda *_, **__: True) -> Break:
    """The function, with a fault where the arguments are those of one subject."""

    def fail(*arguments: Any, **named: Any) -> Any:
        if when(*arguments, **named):
            raise ZeroDivisionError("odd")
        return real(*arguments, **named)

    return fail


def assert_named_and_no_success(result: JobResult, *others: str) -> None:
    assert result.error is None, result.text()
    assert result.outcome in ("unknown", "failed"), result.text()
    assert "ZeroDivisionError" in result.text()
    for other in others:
        assert result.named(other), f"{other} was not checked\n{result.text()}"


@pytest.fixture
def two(tmp_path: Path) -> dict[str, Any]:
    """Two folders with a log each, as targets."""
    for name in ("a", "b"):
        made.write(tmp_path / name / "web.log", b"x\n")
    return {"folders": {name: {"path": str(tmp_path / name)} for name in ("a", "b")}}


@pytest.mark.parametrize("where", ["walk", "plan", "report_folder"])
def test_a_folder_of_logs(two: dict[str, Any], monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    if where == "walk":
        monkeypatch.setattr(Tree, "walk", broken(Tree.walk, lambda tree: tree.root.name == "a"))
    elif where == "plan":
        monkeypatch.setattr(
            cleanup, "within_limits", broken(cleanup.within_limits, lambda _, name, *__, **___: name == "a")
        )
    else:
        monkeypatch.setattr(cleanup, "report_folder", broken(cleanup.report_folder, lambda _, name, *__: name == "a"))

    result = run_job("log_cleanup", {"folders": ["a", "b"], "rotation": None}, two)

    assert_named_and_no_success(result, "b: largest log", "b: files to delete")


@pytest.mark.parametrize("where", ["journal", "open files"])
def test_the_journal_and_the_open_files_beside_folders_of_logs(
    two: dict[str, Any], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    module, name = (journal_size, "size_of") if where == "journal" else (cleanup, "open_files")
    monkeypatch.setattr(module, name, broken(getattr(module, name)))

    result = run_job("log_cleanup", {"folders": ["a", "b"], "rotation": None}, two)

    assert_named_and_no_success(result, "a: largest log", "b: largest log")


@pytest.mark.parametrize("where", ["logins", "requests"])
def test_logins_and_denied_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    at = datetime.now(UTC).isoformat()
    made.write(tmp_path / "auth.log", f"{at} web sshd[7]: Server listening on :: port 22.\n".encode())
    made.write(tmp_path / "logs/web.log", f'{{"time":"{at}","status":200}}\n'.encode())
    module = auth_log if where == "logins" else folder
    monkeypatch.setattr(module, "read", broken(module.read))
    targets = {"folders": {"logs": {"path": str(tmp_path / "logs")}}}

    result = run_job("security_log_review", {"auth_log": str(tmp_path / "auth.log"), "folder": "logs"}, targets)

    assert_named_and_no_success(result, "requests: denied on" if where == "logins" else "logins: root by password")


def test_a_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.tar.gz", "b.tar.gz"):
        made.write(tmp_path / name, made.gz(made.tar_of(made.SECRETS)), summed=True)
    one = broken(verify.read_archive, lambda path, **_: path.name == "a.tar.gz")
    monkeypatch.setattr(verify, "read_archive", one)

    result = run_job("backup_verify", {"root": str(tmp_path)})

    assert_named_and_no_success(result, "b.tar.gz: decoded")


def test_an_http_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "fields", broken(http.fields, lambda answer, *_: answer.url.endswith("/a")))
    with http_service({"/a": json_reply({"x": 1}), "/b": json_reply({"x": 1})}) as url:
        services = {name: {"url": f"{url}/{name}", "expect": {"x": 1}} for name in ("a", "b")}
        result = run_job("health_check", {"include": ["http"]}, {"http": services})

    assert_named_and_no_success(result, "http b")
