"""Compare the packages that lock files pin with advisories: npm and Python, with the path to each and the exact change.

Runbook: Quarterly Maintenance, Infrastructure Review, 1 Dependency Updates

Reads package-lock.json and npm-shrinkwrap.json (versions 2 and 3), uv.lock, poetry.lock and requirements.txt. Nothing
is installed, updated or built: the runbook's `npm update` edits the lock file of the live checkout, and its build
replaces images without a way back. Advisories come from the npm registry, OSV, or an export of OSV's database on a
machine without internet; without the param `advisories`, no service is asked. Only names of packages of public
registries are sent. Also reads the output of `npm audit --json`: its exit code is the same for findings and errors.
A critical advisory with a fix fails in production, another critical or a high one warns; development is information.
"""

import json
from collections.abc import Iterator
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from maintd.checks.packages import evaluate, lock_files, npm_registry, osv
from maintd.checks.packages.advisories import Answer, key_of
from maintd.checks.packages.evaluate import Reviewed
from maintd.checks.packages.locked import NPM, Lock, Package, read_bytes
from maintd.checks.packages.npm_audit import read_audit
from maintd.checks.packages.registries import PUBLIC_HOSTS, Privacy, Requests, latest_version
from maintd.checks.probes import isolate_errors
from maintd.checks.requirements.jobs.configuration import dependency_review as requirements
from maintd.clients.files import modified_at
from maintd.job import Context, Duration, JobParams, TargetError, job
from maintd.job.causes import Role
from maintd.reports.review_report import publish_review


class Params(JobParams):
    lock_files: tuple[Path, ...] = ()
    """Lock files to review."""
    folders: tuple[str, ...] | None = None
    """Folder targets that are searched for lock files; default: `source`, if it exists."""
    ignore: tuple[str, ...] = ("node_modules/*", "*/node_modules/*", ".venv/*", "*/.venv/*", ".git/*")
    """Patterns of paths below a folder target that are left out."""
    dev: bool = False
    """Compare packages for development, too; what is found is information."""
    advisories: tuple[Literal["npm", "osv", "export"], ...] = ()
    """Services to ask: `npm` (its registry, for npm), `osv` (its API) and `export` (a file). By default none."""
    export: Path | None = None
    """An export of OSV's database: all.zip of an ecosystem, or a folder of such files or of JSON files."""
    export_max_age: Duration = timedelta(days=7)
    """An export whose newest record is older shows nothing: OSV changes some every day."""
    npm_registry: str = "https://registry.npmjs.org"
    """Registry that is asked for advisories and latest versions of npm."""
    osv: str = "https://api.osv.dev"
    """OSV's API."""
    pypi: str = "https://pypi.org"
    """Index that is asked for latest versions of Python packages."""
    ca_file: Path | None = None
    """Certificates to trust for these, instead of the system's."""
    outdated: bool = False
    """Ask the registries for the latest version of each direct package."""
    registries: tuple[str, ...] = PUBLIC_HOSTS
    """Hosts of public registries: packages from others are never sent."""
    private: tuple[str, ...] = ()
    """Patterns of names that are never sent: `@acme/*`."""
    public: tuple[str, ...] = ()
    """Patterns of names that may be sent though the lock file does not show where they are from: `*` for all."""
    max_requests: int = 1000
    """Requests to each service."""
    audits: tuple[Path, ...] = ()
    """Files with the output of `npm audit --omit=dev --json`."""
    audit_max_age: Duration = timedelta(days=7)
    """An older output of npm audit shows nothing."""
    keep: int = 24
    """How many reports the reports folder keeps."""


@job(
    timeout="30m",
    repeatable=True,
    history_of="job",
    reads_findings=True,
    requires=requirements,
    admin_params=True,  # they name files to read and whom to ask
)
def run(ctx: Context, params: Params) -> None:
    """Read the files, ask about what they pin, and report each package with an advisory."""
    folders = (
        params.folders if params.folders is not None else [name for name in ctx.targets.folders if name == "source"]
    )
    if not (params.lock_files or folders or params.audits):
        hint = (
            "set the param lock_files, or targets.folders.source to a folder with lock files, and the param advisories"
        )
        raise TargetError("no lock file is configured", hint, cause="not_configured")
    found = Reviewed()
    with ctx.phase("read lock files"):
        locks = dict(read_locks(ctx, params, folders))
    privacy = Privacy(params.registries, params.private, params.public)
    wanted = {file: [each for each in lock.packages if params.dev or not each.dev] for file, lock in locks.items()}
    with ctx.phase("ask for advisories"):
        answer = ask(ctx, params, [package for packages in wanted.values() for package in packages], privacy)
    latest, causes = dict[tuple[str, str], str](), dict[tuple[str, str], str]()
    if params.outdated:
        with ctx.phase("ask for the latest versions"):
            direct = [each for packages in wanted.values() for each in packages if each.direct]
            latest, causes = ask_latest(ctx, params, [each for each in direct if not privacy.reason(each)])
    for file, lock in locks.items():
        with isolate_errors(ctx, f"{file}: evaluated", role=Role.SOURCE):
            report(ctx, params, file, lock, wanted[file], privacy, answer, found)
            if params.outdated:
                names = {(each.ecosystem, each.name) for each in wanted[file]}
                evaluate.report_outdated(
                    ctx, file, lock, latest, sorted({causes[n] for n in names & causes.keys()}), found
                )
    with ctx.phase("read outputs of npm audit"):
        for path in params.audits:
            with isolate_errors(ctx, f"{path}: is a result of npm audit", role=Role.SOURCE):
                audited = read_audit(read_bytes(path), str(path))
                age = ctx.now() - modified_at(path.stat())
                if not timedelta(days=-1) < age <= params.audit_max_age:
                    hint = "write it again before each run: npm audit --omit=dev --json"
                    raise TargetError(f"{path}: was written {age.days} days ago", hint, cause="empty")
                evaluate.report_audit(ctx, str(path), audited, found)
    ctx.save("dependencies.json", json.dumps(evidence(found), indent=1), "application/json")
    sources = ", ".join(params.advisories) or "no source is configured"
    sections = tuple(evaluate.sections(found, f"{sources}, {ctx.now():%Y-%m-%d %H:%M} UTC"))
    publish_review(ctx, kind="dependency-review", title="Dependency review", sections=sections, keep=params.keep)


def read_locks(ctx: Context, params: Params, folders: list[str] | tuple[str, ...]) -> Iterator[tuple[str, Lock]]:
    """The content of each lock file by the subject of its checks; what cannot be read is reported."""
    places = [(str(path), path) for path in params.lock_files]
    for name in folders:
        with isolate_errors(ctx, f"folder {name}: lock files", expected="lock files", role=Role.SOURCE):
            root = ctx.target("folders", name).path
            seen = lock_files.find(root, lambda path: any(fnmatchcase(path, each) for each in params.ignore))
            for path in seen.unreviewed:
                ctx.unknown(f"{name}/{path}: can be read", "unfamiliar: this form is not read", hint="use its own tool")
            for path in seen.unlocked:
                hint = "write one, and keep it in the repository: npm install --package-lock-only"
                ctx.unknown(f"{name}/{path}: lock file", "package.json has none beside or above it", hint=hint)
            problems = [*seen.unread, *([] if seen.complete else [f"only the first {lock_files.MAX_FILES} are read"])]
            if problems:
                ctx.unknown(f"folder {name}: searched", "; ".join(problems)[:300], expected="every folder")
            if not (seen.files or seen.unreviewed or seen.unlocked):
                raise TargetError(f"{root}: has no lock file", "correct the folder, or the param ignore", cause="empty")
            places += [(f"{name}/{relative}", root / relative) for relative in seen.files]
    for subject, place in places:
        with isolate_errors(ctx, f"{subject}: can be read", expected="each package", role=Role.SOURCE):
            lock = lock_files.read(place, subject)
            evaluate.report_form(ctx, subject, lock)
            yield subject, lock


def ask(ctx: Context, params: Params, packages: list[Package], privacy: Privacy) -> Answer:
    """Ask each source; a package that none of them covers is unknown, and the cause is kept with it."""
    answer, covered = Answer(), set[str]()
    sent = [package for package in packages if not privacy.reason(package)]
    if "npm" in params.advisories:
        of_npm = [package for package in sent if package.ecosystem == NPM]
        npm_registry.ask(requests(ctx, params, params.npm_registry), of_npm, answer)
        covered |= {NPM}
    if "osv" in params.advisories:
        osv.ask(requests(ctx, params, params.osv), sent, answer)
        covered |= {package.ecosystem for package in sent}
    if "export" in params.advisories:
        read_export(ctx, params, packages, answer)
        covered |= {package.ecosystem for package in packages}
    for package in packages:
        if package.ecosystem not in covered:
            answer.unknown[key_of(package)] = f"not_configured: set advisories to a source of {package.ecosystem}"
    return answer


def read_export(ctx: Context, params: Params, packages: list[Package], answer: Answer) -> None:
    """Add what the export knows; nothing is sent, so it is searched for private packages, too."""
    missing = TargetError("the export is not configured", "set the param export", cause="not_configured")
    try:
        if params.export is None:
            raise missing
        osv.read_export(params.export, packages, answer, params.export_max_age, ctx.now())
    except TargetError as error:
        ctx.report_error("export of OSV: can be read", error, role=Role.SOURCE)
        answer.unknown |= {key_of(package): f"{error.cause}: {error.message}" for package in packages}


def ask_latest(
    ctx: Context, params: Params, packages: list[Package]
) -> tuple[dict[tuple[str, str], str], dict[tuple[str, str], str]]:
    """The latest version by ecosystem and name, each asked for once, and the cause of each that is not known."""
    latest, causes = dict[tuple[str, str], str](), dict[tuple[str, str], str]()
    services = {NPM: requests(ctx, params, params.npm_registry)}
    pypi = requests(ctx, params, params.pypi)
    down: dict[str, str] = {}
    for package in ctx.track(sorted({(each.ecosystem, each.name): each for each in packages}.items()), unit="package"):
        key, one = package
        service = services.get(one.ecosystem, pypi)
        if service.base in down:  # a registry that does not answer is not asked for each package
            causes[key] = down[service.base]
            continue
        try:
            latest[key] = latest_version(service, one)
        except TargetError as error:
            causes[key] = f"{error.cause}: {error.message}"
            if error.cause not in ("not_found", "malformed"):
                down[service.base] = causes[key]
    return latest, causes


def requests(ctx: Context, params: Params, base: str) -> Requests:
    """Bounded requests to a service."""
    return Requests(base, lambda: ctx.remaining, params.ca_file, left=params.max_requests)


def report(
    ctx: Context,
    params: Params,
    file: str,
    lock: Lock,
    wanted: list[Package],
    privacy: Privacy,
    answer: Answer,
    found: Reviewed,
) -> None:
    """Report one file."""
    offline = "export" in params.advisories
    private = [] if offline else [(each, reason) for each in wanted if (reason := privacy.reason(each))]
    hidden = {key_of(package) for package, _ in private}
    asked = [package for package in wanted if key_of(package) not in hidden]
    evaluate.report_not_sent(ctx, file, lock, private, found)
    evaluate.report_answers(ctx, file, lock, asked, answer)
    evaluate.report_problems(ctx, file, lock, asked, answer, found)
    evaluate.report_deprecated(ctx, file, lock)


def evidence(found: Reviewed) -> dict[str, object]:
    """Plain data about what was found."""
    return {
        "advisories": [
            {
                "file": item.file,
                "package": item.package.name,
                "version": item.package.version,
                "path": item.package.path,
                "dev": item.package.dev,
                "id": item.advisory.id,
                "severity": item.advisory.severity,
                "fixed": item.advisory.fixed,
                "semver_major": item.breaks,
                "source": item.advisory.source,
            }
            for item in found.problems
        ],
        "outdated": [[file, each.name, each.version, latest] for file, each, latest in found.outdated],
        "not_asked_about": found.not_sent,
        "npm_audit": [[file, item.name, item.severity, item.fix, item.breaks] for file, item in found.audited],
    }
