"""Lock files against the npm registry and OSV as servers, and exports of OSV: what is found, and never sent."""

from __future__ import annotations

import json
import os
import time
import zipfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.http_services import port_that_hangs, port_that_sends
from support.job_runs import JobResult, run_job
from support.package_services import BATCH, BULK, PackageServices, npm_advisory, osv_record, package_services
from support.servers.base import free_port
from support.users import as_unprivileged_user, folder_for_all

from maintd.checks.packages.lock_files import read
from maintd.checks.packages.registries import Requests
from maintd.errors import TargetError
from maintd.job.attempt_info import KnownFinding
from maintd.model.evidence import CheckStatus

OK, WARN, FAIL, UNKNOWN = CheckStatus.OK, CheckStatus.WARN, CheckStatus.FAIL, CheckStatus.UNKNOWN
LODASH, MINIMIST = "GHSA-35jh-r3h4-6jhm", "GHSA-xvch-5gv4-984h"
NPM = "https://registry.npmjs.org"
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server() -> Iterator[PackageServices]:
    with package_services() as services:
        yield services


@pytest.fixture
def services(server: PackageServices) -> PackageServices:
    fresh = PackageServices(url=server.url)
    for name in ("npm", "matches", "records", "latest", "received", "trouble"):
        setattr(server, name, getattr(fresh, name))
    return server


def entry(name: str, version: str, /, **more: Any) -> dict[str, Any]:
    tarball = f"{NPM}/{name}/-/{name.rpartition('/')[2]}-{version}.tgz"
    return {"version": version, "resolved": tarball, "integrity": "sha512-AAAA", **more}


def npm_lock(
    folder: Path, packages: Mapping[str, Any], root: Mapping[str, Any] | None = None, version: int = 3
) -> Path:
    path = folder / "package-lock.json"
    body = {"name": "app", "lockfileVersion": version, "requires": True, "packages": {"": root or {}, **packages}}
    path.write_text(json.dumps(body))
    return path


def sample(folder: Path) -> Path:
    """What npm 11 writes for lodash, mkdirp 0.5.1 with its minimist, and one package for development."""
    packages = {
        "node_modules/lodash": entry("lodash", "4.17.20"),
        "node_modules/mkdirp": entry("mkdirp", "0.5.1", dependencies={"minimist": "0.0.8"}),
        "node_modules/minimist": entry("minimist", "0.0.8"),
        "node_modules/only-dev": entry("only-dev", "1.0.0", dev=True),
    }
    root = {"dependencies": {"lodash": "~4.17.20", "mkdirp": "0.5.1"}, "devDependencies": {"only-dev": "1.0.0"}}
    return npm_lock(folder, packages, root)


def review(services: PackageServices, path: Path, *sources: str, **params: Any) -> JobResult:
    urls = {"npm_registry": services.url, "osv": services.url, "pypi": services.url}
    given = {"lock_files": [str(path)], "advisories": list(sources), **urls, **params}
    return run_job("dependency_review", given)


def not_ok(result: JobResult) -> dict[str, CheckStatus]:
    return {check.name: check.status for check in result.checks if check.status is not OK}


def test_without_a_lock_file_it_is_not_configured_and_without_a_source_no_service_is_asked(
    services: PackageServices, tmp_path: Path
) -> None:
    nothing = run_job("dependency_review")
    assert isinstance(nothing.error, TargetError)
    assert nothing.error.cause == "not_configured"
    assert "lock_files" in str(nothing.error.hint)

    result = review(services, sample(tmp_path))

    assert result.outcome == "unknown", result.text()
    assert "not_configured: set advisories" in str(result.named("compared with advisories")[0].observed)
    assert services.received == []
    assert "dependency_advisories" not in {measure.name for measure in result.measures}, "not compared is not zero"


def test_a_critical_advisory_with_a_fix_fails_a_high_one_warns_and_each_has_path_and_exact_change(
    services: PackageServices, tmp_path: Path
) -> None:
    services.npm["minimist"] = [npm_advisory(MINIMIST, "critical", "<0.2.4")]
    services.npm["lodash"] = [
        npm_advisory(LODASH, "high", "<4.17.21"),
        npm_advisory("GHSA-2222-2222-2222", "low", "<5"),
    ]
    services.npm["only-dev"] = [npm_advisory("GHSA-3333-3333-3333", "critical", "*")]
    path = sample(tmp_path)

    result = review(services, path, "npm")

    assert not_ok(result) == {f"{path} minimist: advisories": FAIL, f"{path} lodash: advisories": WARN}, result.text()
    minimist = result.check(f"{path} minimist: advisories")
    assert MINIMIST in str(minimist.observed)
    assert "fix: 0.2.4 (semver-major)" in str(minimist.observed)
    assert MINIMIST in minimist.rule
    assert "mkdirp asks for 0.0.8" in minimist.hint
    assert "mkdirp > minimist" in minimist.hint
    assert result.check(f"{path} lodash: advisories").hint.startswith("npm install lodash@4.17.21 ")
    assert "only-dev" not in services.sent, "packages for development are left out unless asked for"
    assert result.measure("dependency_advisories", severity="critical", scope="production") == 1
    saved = {artifact.name.partition("-2")[0] for artifact in result.artifacts}
    assert {"dependencies.json", "dependency-review"} <= saved


def test_development_is_information_and_a_fix_within_the_range_is_an_update(
    services: PackageServices, tmp_path: Path
) -> None:
    services.npm["only-dev"] = [npm_advisory("GHSA-3333-3333-3333", "critical", "<2.0.0")]
    services.npm["minimist"] = [npm_advisory(MINIMIST, "high", "<1.2.6")]
    packages = {
        "node_modules/mkdirp": entry("mkdirp", "0.5.5", dependencies={"minimist": "^1.2.5"}),
        "node_modules/minimist": entry("minimist", "1.2.5"),
        "node_modules/only-dev": entry("only-dev", "1.0.0", dev=True),
    }
    path = npm_lock(tmp_path, packages, {"dependencies": {"mkdirp": "^0.5.5"}, "devDependencies": {"only-dev": "1"}})

    result = review(services, path, "npm", dev=True)

    assert not_ok(result) == {f"{path} minimist: advisories": WARN}, result.text()
    assert "npm update minimist: mkdirp allows 1.2.6" in result.check(f"{path} minimist: advisories").hint
    assert result.measure("dependency_advisories", severity="critical", scope="development") == 1


def test_a_critical_advisory_without_a_fix_warns_and_one_that_ended_is_reported_as_ended(
    services: PackageServices, tmp_path: Path
) -> None:
    path = sample(tmp_path)
    services.npm["lodash"] = [npm_advisory(LODASH, "critical", "<=9.9.9")]
    urls = {"npm_registry": services.url, "lock_files": [str(path)], "advisories": ["npm"]}
    since = datetime(2026, 11, 1, tzinfo=UTC)
    known = {f"{path} minimist: advisories": KnownFinding(since=since)}

    result = run_job("dependency_review", urls, findings=known)

    assert not_ok(result) == {f"{path} lodash: advisories": WARN}, result.text()
    assert "no version of lodash without it is known" in result.check(f"{path} lodash: advisories").hint
    assert result.check(f"{path} minimist: advisories").status is OK


def test_workspaces_links_aliases_git_and_bundles_are_kept_apart_and_private_names_are_never_sent(
    services: PackageServices, tmp_path: Path
) -> None:
    packages = {
        "packages/web": {"name": "@acme/web", "version": "1.0.0", "dependencies": {"left": "1.0.0", "inner": "2"}},
        "node_modules/@acme/web": {"resolved": "packages/web", "link": True},
        "node_modules/left": entry("left", "1.0.0", dependencies={"below": "^1.0.0"}),
        "packages/web/node_modules/inner": entry("inner", "2.0.0"),
        "node_modules/inner": entry("inner", "1.0.0"),
        "node_modules/below": entry("below", "1.0.0"),
        "node_modules/short": entry("long-name", "3.0.0", name="long-name"),
        "node_modules/ours": {**entry("ours", "1.0.0"), "resolved": "https://npm.acme.example/ours/-/ours-1.0.0.tgz"},
        "node_modules/@acme/secret": entry("@acme/secret", "1.0.0"),
        "node_modules/by-git": {"version": "1.0.0", "resolved": "git+ssh://git@user:hunter2@git.acme.example/x.git#ab"},
        "node_modules/by-file": {"version": "1.0.0", "resolved": "file:vendor/by-file.tgz", "integrity": "sha512-AA"},
        "node_modules/by-address": {"version": "1.0.0", "resolved": "https://a:hunter2@x.acme.example/y.tgz"},
        "node_modules/nowhere": {"version": "1.0.0", "integrity": "sha512-AAAA"},
        "node_modules/left/node_modules/bundled": {"version": "0.1.0", "inBundle": True},
    }
    root = {"workspaces": ["packages/*"], "dependencies": {"short": "npm:long-name@3", "inner": "1"}}
    path = npm_lock(tmp_path, packages, root)
    services.npm = {
        "below": [npm_advisory(LODASH, "high", "<1.0.1")],
        "inner": [npm_advisory(MINIMIST, "high", ">=2.0.0 <2.0.1")],
        "long-name": [npm_advisory("GHSA-2222-2222-2222", "critical", "<3.0.1")],
    }

    result = review(services, path, "npm", private=["@acme/*"])

    sent = services.received[0][1]
    assert sorted(sent) == ["below", "bundled", "inner", "left", "long-name"]
    assert sent["inner"] == ["1.0.0", "2.0.0"]
    assert "acme" not in services.sent
    assert "left > below" in result.check(f"{path} below: advisories").hint
    assert "2.0.0" in str(result.check(f"{path} inner: advisories").observed)
    assert "npm install short@npm:long-name@3.0.1" in result.check(f"{path} long-name: advisories").hint
    named = result.check(f"{path}: packages without a public registry")
    assert (named.status, named.optional) == (UNKNOWN, True)
    for text in ("ours (from npm.acme.example)", "@acme/secret (private)", "by-git (git of git.acme.example)"):
        assert text in str(named.observed), named.observed
    assert "hunter2" not in result.text()
    assert "nowhere (from an unknown registry)" in str(named.observed)


def test_a_lock_file_without_addresses_is_sent_only_when_its_names_are_declared_public(
    services: PackageServices, tmp_path: Path
) -> None:
    path = npm_lock(tmp_path, {"node_modules/lodash": {"version": "4.17.20", "integrity": "sha512-AAAA"}})

    review(services, path, "npm")
    assert "lodash" not in services.sent
    review(services, path, "npm", public=["*"])
    assert "lodash" in services.sent


@pytest.mark.parametrize(
    ("content", "cause", "advice"),
    [
        ('{"lockfileVersion": 1, "dependencies": {}}', "unfamiliar", "--lockfile-version 3"),
        ('{"lockfileVersion": 4, "packages": {"": {}}}', "unfamiliar", "npm install"),
        ('{"lockfileVersion": true, "packages": {"": {}}}', "unfamiliar", "npm install"),
        ('{"lockfileVersion": 3}', "malformed", "npm install"),
        ('{"lockfileVersion": 3, "packages": {"": {}}}', "empty", "right file"),
        ('{"lockfileVersion": 3, "packages"', "malformed", ""),
        ("[" * 5000, "too_large", ""),
        ("<<<<<<< HEAD\n{}", "malformed", ""),
        ('{"lockfileVersion": 3, "packages": {"": {}, "node_modules/a": 7}}', "unfamiliar", "osv.dev"),
    ],
)
def test_a_lock_file_that_cannot_be_read_is_unknown_with_what_to_do(
    services: PackageServices, tmp_path: Path, content: str, cause: str, advice: str
) -> None:
    path = tmp_path / "package-lock.json"
    path.write_text(content)

    result = review(services, path, "npm")

    check = result.check(f"{path}: can be read")
    assert (check.status, result.outcome) == (UNKNOWN, "unknown"), result.text()
    assert cause in str(check.observed)
    assert advice in check.hint


def test_missing_files_pipes_and_too_many_packages_are_unknown(services: PackageServices, tmp_path: Path) -> None:
    pipe = tmp_path / "requirements.txt"
    os.mkfifo(pipe)
    many = npm_lock(tmp_path, {f"node_modules/a{number}": {} for number in range(50_001)})

    for path, cause in ((tmp_path / "uv.lock", "not_found"), (pipe, "unfamiliar"), (many, "too_large")):
        result = review(services, path, "npm")
        assert cause in str(result.check(f"{path}: can be read").observed), result.text()
        assert result.outcome == "unknown"


UV = """
version = 1
revision = 3

[[package]]
name = "app"
version = "0.1.0"
source = { editable = "." }
dependencies = [{ name = "jinja2" }, { name = "by-git" }, { name = "ours" }]
[package.dev-dependencies]
dev = [{ name = "pytest" }]

[[package]]
name = "jinja2"
version = "3.1.2"
source = { registry = "https://pypi.org/simple" }
dependencies = [{ name = "markupsafe" }]

[[package]]
name = "markupsafe"
version = "2.0.0"
source = { registry = "https://pypi.org/simple" }

[[package]]
name = "pytest"
version = "8.0.0"
source = { registry = "https://pypi.org/simple" }

[[package]]
name = "by-git"
version = "1.0"
source = { git = "https://u:hunter2@git.acme.example/x?rev=1#ab" }

[[package]]
name = "ours"
version = "1.0"
source = { registry = "https://u:hunter2@pypi.acme.example/simple" }
"""


def test_a_uv_lock_is_asked_about_at_osv_page_by_page(services: PackageServices, tmp_path: Path) -> None:
    path = tmp_path / "uv.lock"
    path.write_text(UV)
    first = osv_record("PYSEC-1", "jinja2", {"introduced": "0"}, {"fixed": "3.1.3"}, ecosystem="PyPI")
    first |= {"aliases": [LODASH]}
    vector = [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}]  # 9.8 by FIRST's calculator
    second = osv_record(LODASH, "Jinja2", {"introduced": "0"}, {"fixed": "3.1.3"}, ecosystem="PyPI", severity=vector)
    third = osv_record("GHSA-2222-2222-2222", "markupsafe", {"introduced": "0"}, ecosystem="PyPI")
    gone = osv_record("GHSA-3333-3333-3333", "markupsafe", {"introduced": "0"}, withdrawn="2026-01-01T00:00:00Z")
    services.records = {each["id"]: each for each in (first, second, third, gone)}
    services.matches = {
        "jinja2 3.1.2": [["PYSEC-1"], [LODASH]],
        "markupsafe 2.0.0": [["GHSA-2222-2222-2222", "GHSA-3333-3333-3333"]],
    }

    result = review(services, path, "osv")

    assert not_ok(result) == {
        f"{path} jinja2: advisories": FAIL,
        f"{path} markupsafe: advisories": WARN,
        f"{path}: packages without a public registry": UNKNOWN,
    }, result.text()
    observed = str(result.check(f"{path} jinja2: advisories").observed)
    assert observed == f"critical {LODASH} in 3.1.2, fix: 3.1.3", "one advisory under two ids"
    assert "uv lock --upgrade-package jinja2==3.1.3" in result.check(f"{path} jinja2: advisories").hint
    assert "unrated" in str(result.check(f"{path} markupsafe: advisories").observed), "not rated counts as high"
    batches = [body for where, body in services.received if where == BATCH]
    assert [len(body["queries"]) for body in batches] == [2, 1], "the second page only of what has one"
    assert not {"ours", "by-git", "pytest", "acme", "hunter2"} & set(services.sent.replace('"', " ").split())
    assert "hunter2" not in result.text()


@pytest.mark.parametrize(
    "result",
    [
        {"vulnz": [{"id": "PYSEC-1"}]},
        {"vulns": 0},
        {"vulns": False},
        {"vulns": ""},
        {"vulns": {}},
        {"vulns": None},
        {"vulns": [], "next_page_token": 0},
        None,
        [],
    ],
)
def test_a_result_of_osv_that_is_not_of_its_form_is_unknown(
    services: PackageServices, tmp_path: Path, result: object
) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text("jinja2==3.1.2\n")
    services.trouble = lambda where: (200, json.dumps({"results": [result]}).encode(), {}) if where == BATCH else None

    seen = review(services, path, "osv")

    assert UNKNOWN in not_ok(seen).values(), seen.text()
    assert not [check for check in seen.checks if "advisories" in check.name and check.status is OK], seen.text()


@pytest.mark.parametrize("result", [{}, {"vulns": []}, {"next_page_token": ""}])
def test_a_package_without_advisories_at_osv_is_ok(services: PackageServices, tmp_path: Path, result: object) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text("jinja2==3.1.2\n")
    services.trouble = lambda where: (200, json.dumps({"results": [result]}).encode(), {}) if where == BATCH else None

    assert not_ok(review(services, path, "osv")) == {}


@pytest.mark.parametrize("withdrawn", ["false", False, True, 0, "", [], {}])
def test_an_advisory_is_withdrawn_only_since_a_time(
    services: PackageServices, tmp_path: Path, withdrawn: object
) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text("jinja2==3.1.2\n")
    record = osv_record("PYSEC-1", "jinja2", {"introduced": "0"}, ecosystem="PyPI", withdrawn=withdrawn)
    services.records = {"PYSEC-1": record}
    services.matches = {"jinja2 3.1.2": [["PYSEC-1"]]}

    by_service = review(services, path, "osv")
    by_export = review(services, path, "export", export=str(export(tmp_path, recent(record))))

    assert "PYSEC-1" in str(by_service.check(f"{path} jinja2: advisories").observed)
    assert UNKNOWN in not_ok(by_export).values(), by_export.text()


def test_the_uv_lock_of_this_repository_is_read_with_its_development_packages_apart(
    services: PackageServices, tmp_path: Path
) -> None:
    path = REPOSITORY / "uv.lock"

    production = review(services, path, "osv")
    everything = review(services, path, "osv", dev=True)

    assert production.outcome == everything.outcome == "succeeded", production.text()
    first, second = (
        {query["package"]["name"] for query in body["queries"]} for where, body in services.received if where == BATCH
    )
    assert {"sqlalchemy", "httpx", "starlette"} <= first, "direct and transitive ones"
    assert "hypothesis" in second - first
    assert "maintd" not in second


def test_a_poetry_lock_and_requirements_are_read_and_unpinned_ones_are_named(
    services: PackageServices, tmp_path: Path
) -> None:
    poetry = tmp_path / "poetry.lock"
    poetry.write_text(
        '[[package]]\nname = "Flask"\nversion = "2.0.0"\ngroups = ["main"]\n[package.dependencies]\njinja2 = ">=3"\n'
        '[[package]]\nname = "jinja2"\nversion = "3.1.2"\ngroups = ["main"]\n'
        '[[package]]\nname = "mypy"\nversion = "1.0"\ngroups = ["dev"]\n'
        '[[package]]\nname = "x"\nversion = "1.0"\ngroups = ["main"]\n[package.source]\ntype = "git"\nurl = "https://g.e/x"\n'
        '[metadata]\nlock-version = "2.1"\n'
    )
    requirements = tmp_path / "requirements.txt"
    (tmp_path / "more.txt").write_text("urllib3==1.26.0\n")
    requirements.write_text(
        "# pinned\nJinja2==3.1.2 \\\n    --hash=sha256:00 \\\n    --hash=sha256:01\nflask>=2 ; python_version > '3.8'\n"
        "django==4.*\n-r more.txt\n-e git+https://u:hunter2@g.e/y#egg=y\nz @ https://u:hunter2@g.e/z.whl\n"
    )
    record = osv_record(LODASH, "jinja2", {"introduced": "3.0.0"}, {"fixed": "3.1.3"}, ecosystem="PyPI")
    services.records = {LODASH: record | {"database_specific": {"severity": "HIGH"}}}
    services.matches = {"jinja2 3.1.2": [[LODASH]]}

    locked, pinned = review(services, poetry, "osv"), review(services, requirements, "osv")

    assert "poetry update jinja2 (by flask > jinja2)" in locked.check(f"{poetry} jinja2: advisories").hint
    assert "mypy" not in services.sent
    assert "set jinja2==3.1.3 in the requirements file" in pinned.check(f"{requirements} jinja2: advisories").hint
    unpinned = pinned.check(f"{requirements}: pinned requirements")
    assert (unpinned.status, unpinned.observed) == (UNKNOWN, "unknown: not pinned: django; flask")
    assert "urllib3" in services.sent
    others = str(pinned.check(f"{requirements}: packages without a public registry").observed)
    assert "y (git of g.e)" in others
    assert "hunter2" not in pinned.text() + services.sent


def test_packages_of_a_further_index_are_not_sent(services: PackageServices, tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text("--extra-index-url https://pypi.acme.example/simple\nours==1.0\njinja2==3.1.2\n")

    result = review(services, path, "osv", public=["jinja2"])

    assert "ours" not in services.sent
    assert "jinja2" in services.sent
    assert "ours (from an unknown registry)" in str(result.named("without a public registry")[0].observed)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "constraints.txt"),
        ("!!\n", "a constraints file that is no requirement"),
        ("django @ https://u:hunter2@g.e/d.whl\n", "the constraint of django to address of g.e"),
        ("-c ../elsewhere.txt\n", "the constraints file elsewhere.txt"),
    ],
)
def test_a_constraints_file_that_is_not_read_or_not_understood_is_named(
    services: PackageServices, tmp_path: Path, content: str | None, named: str
) -> None:
    path = tmp_path / "project/requirements.txt"
    path.parent.mkdir()
    (tmp_path / "elsewhere.txt").write_text("django==1.0\n")
    path.write_text(f"jinja2==3.1.2\n-c {'../' if content is None else ''}constraints.txt\n")
    ((tmp_path if content is None else path.parent) / "constraints.txt").write_text(content or "django==1.0\n")

    check = review(services, path, "osv").check(f"{path}: can be read")

    assert (check.status, named in str(check.observed)) == (UNKNOWN, True), check
    assert "hunter2" not in str(check)


@pytest.mark.parametrize(
    ("line", "sent", "other"),
    [
        ("-rbase.txt", "django", ""),
        ("-r base.txt", "django", ""),
        ("--requirement=base.txt", "django", ""),
        ("--requirement base.txt", "django", ""),
        ("--pre -rbase.txt", "django", ""),
        ("# a comment \\\ndjango==1.0", "django", ""),
        ("-cbase.txt", "", ""),
        ("--constraint=base.txt", "", ""),
        ("-cbase.txt\nDjango", "django", ""),
        ("django>0.1 --hash=sha256:00\n--constraint base.txt", "django", ""),
        ("django\n-c more.txt", "django", ""),
        ("-egit+https://u:hunter2@g.e/y#egg=y", "", "y (git of g.e)"),
        ("--editable=git+https://u:hunter2@g.e/y#egg=y", "", "y (git of g.e)"),
    ],
)
def test_options_of_requirements_are_read_attached_as_well_as_separate(
    services: PackageServices, tmp_path: Path, line: str, sent: str, other: str
) -> None:
    path = tmp_path / "requirements.txt"
    (tmp_path / "base.txt").write_text("django==1.0\n")
    (tmp_path / "more.txt").write_text("# all\n-r base.txt\n")
    path.write_text(f"jinja2==3.1.2\n{line}\n")

    result = review(services, path, "osv")

    names = {
        query["package"]["name"] for where, body in services.received if where == BATCH for query in body["queries"]
    }
    assert names == {"jinja2", *([sent] if sent else [])}, result.text()
    assert result.check(f"{path}: can be read").status is OK
    assert [other] * bool(other) == [
        str(check.observed).rpartition(": ")[2] for check in result.named("without a public registry")
    ]
    assert "hunter2" not in result.text() + services.sent


@pytest.mark.parametrize(
    "line",
    [
        "--req base.txt",
        "-R base.txt",
        "--requirements-file=base.txt",
        "-r",
        "-r 'base.txt",
        "-r a\0b",
        "-r loop.txt",
        "-rhttps://u:hunter2@g.e/base.txt",
        "-r https://u:hunter2@g.e",
        "-r https://[u:hunter2@g.e",
        "-r ../base.txt",
        f"-r {'a' * 40_000}",
        "--password=hunter2",
    ],
)
def test_an_option_of_requirements_that_is_not_read_makes_the_file_unknown(
    services: PackageServices, tmp_path: Path, line: str
) -> None:
    path = tmp_path / "requirements.txt"
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    path.write_text(f"jinja2==3.1.2\n{line}\n")

    result = review(services, path, "osv")

    assert not_ok(result) == {f"{path}: can be read": UNKNOWN}, result.text()
    observed = str(result.check(f"{path}: can be read").observed)
    assert "unfamiliar: " in observed
    assert len(observed) < 200
    assert "hunter2" not in result.text()
    assert "Traceback" not in result.text()


def test_a_long_chain_of_packages_is_read_and_its_path_is_shown_by_its_ends(
    services: PackageServices, tmp_path: Path
) -> None:
    last = 20_000
    packages = {
        f"node_modules/a{number}": entry(f"a{number}", "1.0.0", dependencies={f"a{number + 1}": "1"})
        for number in range(last + 1)
    }
    path = npm_lock(tmp_path, packages, {"dependencies": {"a0": "1"}})
    services.npm[f"a{last}"] = [npm_advisory(LODASH, "high", "<1.0.1")]

    lock = read(path, str(path))
    result = review(services, path, "npm")

    assert len(lock.packages) == last + 1
    assert sum(len(each.path) for each in lock.packages) < 12 * last, "not a whole path for each"
    assert [each.way for each in lock.packages[8:11]] == [
        "a0 > a1 > a2 > a3 > a4 > a5 > a6 > a7 > a8",
        "a0 > a1 > a2 > a3 > a4 > a5 > a6 > a7 > a8 > a9",
        "a0 > a1 > a2 > a3 > a4 > … > a6 > a7 > a8 > a9 > a10",
    ]
    assert not_ok(result) == {f"{path} a{last}: advisories": WARN}, result.text()
    hint = result.check(f"{path} a{last}: advisories").hint
    assert "a0 > a1 > a2 > a3 > a4 > … > a19996 > a19997 > a19998 > a19999 > a20000" in hint
    assert "a19999 allows 1.0.1" in hint


def test_a_name_that_is_too_long_for_a_package_is_unknown_and_shown_cut(
    services: PackageServices, tmp_path: Path
) -> None:
    long = "a" * 40_000
    lock = {
        f"node_modules/{long}": entry(long, "1.0.0"),
        f"node_modules/b{long}": {"resolved": "packages/b", "link": True},
        "node_modules/c": {**entry("c", "1.0.0"), "resolved": f"https://{long}.example/c/-/c-1.0.0.tgz"},
    }
    pinned, uv, poetry = tmp_path / "requirements.txt", tmp_path / "uv.lock", tmp_path / "poetry.lock"
    pinned.write_text(f"{long}==1.0\nb{long}>1.0\n-e git+https://g.e/y#egg={long}\n")
    uv.write_text(
        f'version = 1\n[[package]]\nname = "{long}"\nversion = "1"\n'
        'source = { registry = "https://pypi.org/simple" }\n'
        f'[[package]]\nname = "b{long}"\nversion = "1"\nsource = {{ git = "https://g.e/y" }}\n'
    )
    poetry.write_text(f'[[package]]\nname = "{long}"\nversion = "1"\n[metadata]\nlock-version = "2.1"\n')

    for path in (npm_lock(tmp_path, lock), pinned, uv, poetry):
        result = review(services, path, "osv", "npm")

        assert result.check(f"{path}: can be read").status is UNKNOWN
        assert "aaa" in str(result.check(f"{path}: can be read").observed)
        assert "a" * 300 not in result.text()
        assert "a" * 300 not in services.sent


def too_many(path: str) -> tuple[int, bytes, Mapping[str, str]]:
    return 429, b"{}", {"Retry-After": "3600"}


def half(path: str) -> tuple[int, bytes, Mapping[str, str]]:
    return 200, b'{"lodash": [', {"Content-Length": "400"}


def no_json(path: str) -> tuple[int, bytes, Mapping[str, str]]:
    return 200, b"<html>sign in</html>", {"Content-Type": "text/html"}


def other_form(path: str) -> tuple[int, bytes, Mapping[str, str]]:
    return 200, b'{"lodash": [{"severity": "high"}], "results": []}', {}


def not_there(path: str) -> tuple[int, bytes, Mapping[str, str]]:
    return 404, b"no such endpoint", {}


@pytest.mark.parametrize("trouble", [too_many, half, no_json, other_form, not_there])
@pytest.mark.parametrize("source", ["npm", "osv"])
def test_a_source_that_does_not_answer_as_it_should_leaves_packages_unknown(
    services: PackageServices, tmp_path: Path, trouble: Any, source: str
) -> None:
    services.trouble = trouble
    path = sample(tmp_path)

    result = review(services, path, source)

    assert not_ok(result) == {f"{path}: compared with advisories": UNKNOWN}, result.text()
    assert result.outcome == "unknown"


@pytest.mark.parametrize("source", ["npm", "osv"])
def test_offline_is_unknown(services: PackageServices, tmp_path: Path, source: str) -> None:
    closed = f"http://127.0.0.1:{free_port()}"

    result = review(services, sample(tmp_path), source, npm_registry=closed, osv=closed)

    assert result.outcome == "unknown", result.text()
    assert "refused" in str(result.named("compared with advisories")[0].observed)


def test_a_service_that_hangs_or_breaks_off_ends_with_its_cause() -> None:
    with port_that_hangs() as port, pytest.raises(TargetError) as hung:
        left = timedelta(minutes=1)
        Requests(f"http://127.0.0.1:{port}", lambda: left, timeout=timedelta(seconds=0.3)).json("POST", BULK, {})
    with (
        port_that_sends(b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{") as port,
        pytest.raises(TargetError) as broken,
    ):
        Requests(f"http://127.0.0.1:{port}", lambda: left).json("POST", BULK, {})

    assert (hung.value.cause, broken.value.cause) == ("timed_out", "partial")


def test_a_short_retry_after_is_waited_for_and_a_long_one_is_not(services: PackageServices) -> None:
    answers = iter([(429, b"", {"Retry-After": "2"}), (503, b"", {"Retry-After": "1"})])
    services.trouble = lambda path: next(answers, None)
    waited = list[float]()

    requests = Requests(services.url, lambda: timedelta(minutes=5), wait=waited.append)

    assert requests.json("POST", BULK, {"lodash": ["4.17.20"]}) == {}
    assert waited == [2, 1]
    services.trouble = too_many
    with pytest.raises(TargetError, match="429"):
        requests.json("POST", BULK, {})
    assert waited == [2, 1]


@pytest.mark.parametrize(
    "text", ["\xb2", "\xb9\xb2", "9" * 5000, "-1", "Mon, 20 Nov 2095 19:12:08 +9999999999999999", " ,"]
)
def test_a_retry_after_that_is_no_number_leaves_only_the_packages_of_this_source_unknown(
    services: PackageServices, tmp_path: Path, text: str
) -> None:
    services.trouble = lambda path: (503, b"", {"Retry-After": text})
    path = sample(tmp_path)

    result = review(services, path, "npm")

    assert not_ok(result) == {f"{path}: compared with advisories": UNKNOWN}, result.text()
    assert "503" in str(result.check(f"{path}: compared with advisories").observed)
    assert "dependencies.json" in {artifact.name for artifact in result.artifacts}


def test_requests_and_their_time_are_bounded(services: PackageServices) -> None:
    with pytest.raises(TargetError, match="no more requests"):
        Requests(services.url, lambda: timedelta(minutes=5), left=0).json("GET", "/x")
    with pytest.raises(TargetError, match="no time"):
        Requests(services.url, lambda: timedelta(seconds=1)).json("GET", "/x")


def test_a_range_of_an_advisory_that_is_not_understood_is_unknown(services: PackageServices, tmp_path: Path) -> None:
    services.npm["lodash"] = [npm_advisory(LODASH, "high", "<4.x.banana")]
    path = sample(tmp_path)

    result = review(services, path, "npm")

    assert not_ok(result) == {f"{path}: compared with advisories": UNKNOWN}, result.text()
    assert LODASH in str(result.check(f"{path}: compared with advisories").observed)


def export(folder: Path, *records: Mapping[str, Any]) -> Path:
    path = folder / "all.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for record in records:
            archive.writestr(f"{record['id']}.json", json.dumps(record))
    return path


def recent(record: dict[str, Any], age: timedelta = timedelta(hours=3)) -> dict[str, Any]:
    return record | {"modified": (datetime.now(UTC) - age).isoformat()}


def test_an_export_is_compared_without_a_request_and_also_for_private_packages(
    services: PackageServices, tmp_path: Path
) -> None:
    listed = osv_record("GHSA-2222-2222-2222", "mkdirp")
    listed["affected"][0] |= {"ranges": [], "versions": ["0.5.1"]}
    records = (
        osv_record(LODASH, "lodash", {"introduced": "4.0.0"}, {"fixed": "4.17.21"}, {"introduced": "5.0.0"}),
        osv_record(MINIMIST, "minimist", {"introduced": "0"}, {"last_affected": "0.0.7"}),
        listed,
        osv_record("MAL-2026-1", "only-dev", {"introduced": "0"}),
    )
    path, place = sample(tmp_path), export(tmp_path, *(recent(record) for record in records))

    result = review(services, path, "export", export=str(place), private=["lodash"], dev=True)

    assert not_ok(result) == {
        f"{path} lodash: advisories": WARN,
        f"{path} mkdirp: advisories": WARN,
        f"{path} only-dev: advisories": FAIL,
    }, result.text()
    assert "remove only-dev at once" in result.check(f"{path} only-dev: advisories").hint
    assert services.received == []


@pytest.mark.parametrize("fault", ["old", "future", "other ecosystem", "damaged", "missing", "not set", "no advisory"])
def test_an_export_that_is_old_or_no_export_is_unknown(services: PackageServices, tmp_path: Path, fault: str) -> None:
    record = osv_record(LODASH, "lodash", {"introduced": "0"}, {"fixed": "1.0.0"})
    age = {"old": timedelta(days=9), "future": timedelta(days=-9)}.get(fault, timedelta(0))
    if fault == "other ecosystem":
        record = osv_record(LODASH, "lodash", {"introduced": "0"}, ecosystem="PyPI")
    place = export(tmp_path, {"id": "x", **recent(record, age)} if fault != "no advisory" else {"id": "x"})
    if fault == "damaged":
        place.write_bytes(place.read_bytes()[:-30])
    elif fault == "missing":
        place.unlink()
    path = sample(tmp_path)

    result = review(services, path, "export", **({} if fault == "not set" else {"export": str(place)}))

    assert result.outcome == "unknown", result.text()
    assert result.check(f"{path}: compared with advisories").status is UNKNOWN


@pytest.mark.parametrize("fault", ["dangling link", "link of a zip", "link to a folder", "pipe", "damaged zip"])
def test_a_part_of_an_export_that_is_not_read_is_named_and_makes_all_of_it_unknown(
    services: PackageServices, tmp_path: Path, fault: str
) -> None:
    place, path = tmp_path / "osv", sample(tmp_path)
    part = folder_export(place) / ("part.zip" if "zip" in fault or fault == "pipe" else "part")
    (tmp_path / "other").mkdir()
    if fault == "pipe":
        os.mkfifo(part)
    elif fault == "damaged zip":
        part.write_text("{}")
    else:
        part.symlink_to(tmp_path / ("other" if fault == "link to a folder" else "not here"))

    result = review(services, path, "export", export=str(place))

    assert_part_is_named(result, path, part)


@pytest.mark.parametrize("name", ["part", "part.json", "part.zip"])
def test_a_part_of_an_export_that_may_not_be_read_is_named_and_makes_all_of_it_unknown(
    services: PackageServices, name: str
) -> None:
    with folder_for_all() as shared:
        path, place = sample(shared), shared / "osv"
        part = folder_export(place) / name
        if name == "part":
            part.mkdir()
        else:
            part.write_text("{}")
        part.chmod(0)
        given = {"lock_files": [str(path)], "advisories": ["export"], "export": str(place)}
        # First as who runs the tests, so that every module is loaded: the other user may be unable to read Python's.
        run_job("dependency_review", given, folder=shared / "first")
        for folder in ("artifacts", "work"):
            (shared / "job" / folder).mkdir(parents=True)
        around = as_unprivileged_user(shared / "job")
        result = run_job("dependency_review", given, folder=shared / "job", around=around)
        part.chmod(0o755)

    assert_part_is_named(result, path, part)


def folder_export(place: Path) -> Path:
    """An export with an advisory on lodash, a file that is none, and a link to what is in it anyway."""
    (place / "npm").mkdir(parents=True)
    known = recent(osv_record(LODASH, "lodash", {"introduced": "4.0.0"}, {"fixed": "4.17.21"}))
    (place / "npm/z.json").write_text(json.dumps(known))
    (place / "readme.txt").write_text("no record")
    (place / "link").symlink_to("npm")
    return place


def assert_part_is_named(result: JobResult, path: Path, part: Path) -> None:
    check = result.check("export of OSV: can be read")
    assert (check.status, result.outcome) == (UNKNOWN, "unknown"), result.text()
    assert f"{part.name}: " in str(check.observed)
    assert result.check(f"{path}: compared with advisories").status is UNKNOWN
    assert result.check(f"{path} lodash: advisories").status is WARN, "what can be read counts"


def test_an_export_of_links_to_zips_is_read(services: PackageServices, tmp_path: Path) -> None:
    known = recent(osv_record(LODASH, "lodash", {"introduced": "4.0.0"}, {"fixed": "4.17.21"}))
    place, path = tmp_path / "osv", sample(tmp_path)
    place.mkdir()
    (place / "npm.zip").symlink_to(export(tmp_path, known))

    for where in (place, place / "npm.zip"):
        result = review(services, path, "export", export=str(where))
        assert not_ok(result) == {f"{path} lodash: advisories": WARN}, result.text()


def test_an_export_that_is_a_pipe_is_refused(services: PackageServices, tmp_path: Path) -> None:
    place, path = tmp_path / "all.zip", sample(tmp_path)
    os.mkfifo(place)

    result = review(services, path, "export", export=str(place))

    assert "is not a regular file" in str(result.check("export of OSV: can be read").observed), result.text()
    assert result.check(f"{path}: compared with advisories").status is UNKNOWN


def test_outdated_direct_packages_are_asked_for_once_and_kept_apart(services: PackageServices, tmp_path: Path) -> None:
    services.latest = {"/lodash/latest": {"version": "5.0.0"}, "/mkdirp/latest": {"version": "0.5.6"}}
    path = sample(tmp_path)

    result = review(services, path, "npm", outdated=True)

    assert result.outcome == "succeeded", result.text()
    assert result.measure("dependencies_outdated") == 2
    assert [where for where, _ in services.received if where != BULK] == ["/lodash/latest", "/mkdirp/latest"]
    document = next(each for each in result.artifacts if each.name.endswith(".md"))
    text = Path(document.path).read_text()
    assert "semver-major" in text
    services.latest = {"/lodash/latest": {"version": "5.0.0"}}
    assert review(services, path, "npm", outdated=True).check(f"{path}: latest versions").status is UNKNOWN


def test_deprecated_packages_warn(services: PackageServices, tmp_path: Path) -> None:
    lock = {"node_modules/request": entry("request", "2.88.2", deprecated="no longer maintained")}
    path = npm_lock(tmp_path, lock, {"dependencies": {"request": "2"}})

    result = review(services, path, "npm")

    assert not_ok(result) == {f"{path}: deprecated packages": WARN}, result.text()
    assert "no longer maintained" in result.check(f"{path}: deprecated packages").hint


# What npm 11.19.1 wrote, with exit code 1 each time.
AUDIT = {
    "auditReportVersion": 2,
    "vulnerabilities": {
        "lodash": {
            "name": "lodash",
            "severity": "high",
            "isDirect": True,
            "via": [{"source": 1106913, "url": f"https://github.com/advisories/{LODASH}", "range": "<4.17.21"}],
            "effects": [],
            "range": "4.17.20",
            "nodes": ["node_modules/alias"],
            "fixAvailable": {"name": "lodash", "version": "4.17.21", "isSemVerMajor": False},
        }
    },
    "metadata": {"vulnerabilities": {"high": 1, "total": 1}},
}
REFUSED = {
    "message": "request to http://127.0.0.1:1/-/npm/v1/security/advisories/bulk failed, reason: connect ECONNREFUSED",
    "error": {"summary": "", "detail": ""},
}
NO_LOCK = {"error": {"code": "ENOLOCK", "summary": "This command requires an existing lockfile.", "detail": "Try"}}


def audited(tmp_path: Path, content: Any) -> tuple[str, JobResult]:
    path = tmp_path / "audit.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path), run_job("dependency_review", {"audits": [str(path)]})


def test_findings_of_npm_audit_differ_from_its_errors_by_its_output(tmp_path: Path) -> None:
    item = AUDIT["vulnerabilities"]["lodash"]  # type: ignore[index]
    no_fix = {**item, "severity": "critical", "fixAvailable": False}
    major = {**item, "severity": "critical", "fixAvailable": {"name": "a", "version": "2.0.0", "isSemVerMajor": True}}
    name, result = audited(tmp_path, {**AUDIT, "vulnerabilities": {"lodash": item, "b": no_fix, "a": major}})

    assert not_ok(result) == {
        f"{name} lodash: npm audit": WARN,
        f"{name} b: npm audit": WARN,
        f"{name} a: npm audit": FAIL,
    }, result.text()
    assert "npm install lodash@4.17.21" in result.check(f"{name} lodash: npm audit").hint
    assert "a semver-major change" in result.check(f"{name} a: npm audit").hint


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (REFUSED, "ECONNREFUSED"),
        (NO_LOCK, "ENOLOCK"),
        ({"actions": [], "advisories": {}}, "auditReportVersion"),
        ({"auditReportVersion": 2}, "no vulnerabilities"),
        ({**AUDIT, "vulnerabilities": {"a": {}}}, "no severity"),
        ("", "not JSON"),
        ("[]", "npm audit"),
    ],
)
def test_an_error_of_npm_audit_is_unknown(tmp_path: Path, content: Any, text: str) -> None:
    name, result = audited(tmp_path, content)

    check = result.check(f"{name}: is a result of npm audit")
    assert (check.status, result.outcome) == (UNKNOWN, "unknown"), result.text()
    assert text in str(check.observed)


def test_an_old_output_of_npm_audit_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "audit.json"
    path.write_text(json.dumps(AUDIT))
    old = time.time() - 8 * 86400
    os.utime(path, (old, old))

    result = run_job("dependency_review", {"audits": [str(path)]})

    assert not_ok(result) == {f"{path}: is a result of npm audit": UNKNOWN}, result.text()


def test_a_folder_is_searched_and_projects_without_a_lock_file_and_other_forms_are_named(
    services: PackageServices, tmp_path: Path
) -> None:
    app, other, third = tmp_path / "app", tmp_path / "other", tmp_path / "third"
    for folder in (app / "node_modules/x", app / "packages/web", other, third):
        folder.mkdir(parents=True)
    sample(app)
    for folder in (app, app / "packages/web", app / "node_modules/x", other):
        (folder / "package.json").write_text("{}")
    (third / "yarn.lock").write_text("")
    params = {"advisories": ["npm"], "npm_registry": services.url}

    result = run_job("dependency_review", params, {"folders": {"source": {"path": str(tmp_path)}}})

    assert not_ok(result) == {"source/third/yarn.lock: can be read": UNKNOWN, "source/other: lock file": UNKNOWN}
    assert result.check("source/app/package-lock.json: compared with advisories").status is OK
