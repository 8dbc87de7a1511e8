"""What the advisories mean for the packages of a lock file: checks, measures, and the rows of the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from maintd.checks.hints import command, name_first, printable
from maintd.checks.packages import semver
from maintd.checks.packages.advisories import (
    CRITICAL,
    HIGH,
    SEVERITIES,
    UNRATED,
    Advisory,
    Answer,
    breaks,
    key_of,
    ordered,
)
from maintd.checks.packages.locked import NPM, PYPI, Lock, Package
from maintd.checks.packages.npm_audit import Audited
from maintd.job.context import Context
from maintd.job.criterion import Criterion
from maintd.model.evidence import CheckStatus
from maintd.reports.document import Cell, Mark, Section, Table, columns
from maintd.units import plural

MAX_FINDINGS = 300
"""Packages of one file that are reported by themselves; more of them are one unknown check."""

_LEVELS = "a critical advisory with a fix fails in production, another critical or a high one warns"


_MARKS: dict[CheckStatus, Mark] = {CheckStatus.FAIL: "fail", CheckStatus.WARN: "warn"}


@dataclass(frozen=True)
class Problem:
    """An advisory that affects a package."""

    file: str
    package: Package
    advisory: Advisory

    @property
    def breaks(self) -> bool | None:
        """Whether its fix is a semver-major change; None: not known, or there is no fix."""
        fixed = self.advisory.fixed
        return None if fixed is None else breaks(self.package.ecosystem, self.package.version, fixed)

    @property
    def status(self) -> CheckStatus:
        """FAIL and WARN need action; OK is for information."""
        severity = self.advisory.severity
        if self.package.dev and not self.advisory.malicious:
            return CheckStatus.OK
        if self.advisory.malicious or (severity == CRITICAL and self.advisory.fixed is not None):
            return CheckStatus.FAIL
        return CheckStatus.WARN if severity in (CRITICAL, HIGH, UNRATED) else CheckStatus.OK

    @property
    def fix(self) -> str:
        """Which version ends it, and whether that is a semver-major change."""
        if self.advisory.fixed is None:
            return "none known"
        major = {True: " (semver-major)", None: " (not comparable)", False: ""}[self.breaks]
        return f"{printable(self.advisory.fixed)[:60]}{major}"


@dataclass
class Reviewed:
    """What goes into the report, of all files."""

    problems: list[Problem] = field(default_factory=list)
    outdated: list[tuple[str, Package, str]] = field(default_factory=list)
    not_sent: list[tuple[str, str, str]] = field(default_factory=list)
    audited: list[tuple[str, Audited]] = field(default_factory=list)
    packages: int = 0


def report_form(ctx: Context, file: str, lock: Lock) -> None:
    """Report what of a file was not understood, and what it does not pin."""
    hint = "this form is not known: look for these packages at https://osv.dev"
    name = f"{file}: can be read"
    if lock.unread:
        ctx.unknown(name, f"unfamiliar: {name_first(lock.unread)}", expected="each package", hint=hint)
    elif not lock.packages and not lock.others and not lock.unpinned:
        ctx.unknown(name, "empty: it pins no package", expected="packages", hint="check whether it is the right file")
    else:
        ctx.passed(name, plural(len(lock.packages), "package"), expected="each package")
    if lock.unpinned:
        cause = f"not pinned: {name_first(lock.unpinned)}"
        hint = "pin them with ==, for example by: " + command("uv", "pip", "compile", "requirements.in")
        rule = "pip, repeatable installs: pinned version numbers"
        ctx.unknown(f"{file}: pinned requirements", cause, expected="one version of each", hint=hint, rule=rule)


def report_not_sent(
    ctx: Context, file: str, lock: Lock, private: Sequence[tuple[Package, str]], found: Reviewed
) -> None:
    """Name the packages about which no service is asked."""
    named = [(other.name, other.source) for other in lock.others]
    named += [(package.name, reason) for package, reason in private]
    named = sorted(set(named))
    found.not_sent += [(file, name, reason) for name, reason in named]
    if named:
        text = name_first([f"{name} ({reason})" for name, reason in named])
        hint = "review them by hand; a registry that is public belongs into the param registries"
        name = f"{file}: packages without a public registry"
        ctx.unknown(name, f"not asked about: {text}", expected="none", hint=hint, optional=True)


def report_answers(ctx: Context, file: str, lock: Lock, asked: Sequence[Package], answer: Answer) -> None:
    """Report whether each package was compared."""
    missing = {package.name: answer.unknown[key_of(package)] for package in asked if key_of(package) in answer.unknown}
    name, expected = f"{file}: compared with advisories", "each package"
    if missing:
        causes = sorted(set(missing.values()))
        hint = f"concerns {name_first(sorted(missing))}"
        text = f"{len(missing)} of {len({package.name for package in asked})} packages: {name_first(causes[:3])}"
        ctx.unknown(name, text, expected=expected, hint=hint)
    else:
        ctx.passed(name, plural(len(asked), "package"), expected=expected)


def report_problems(
    ctx: Context, file: str, lock: Lock, asked: Sequence[Package], answer: Answer, found: Reviewed
) -> None:
    """Report each package with advisories that need action, and that others are not affected any more."""
    problems = [
        Problem(file, package, advisory) for package in asked for advisory in answer.found.get(key_of(package), ())
    ]
    problems.sort(key=lambda item: (SEVERITIES.index(item.advisory.severity), item.package.name, item.advisory.id))
    found.problems += problems
    by_name: dict[str, list[Problem]] = {}
    for problem in problems:
        if problem.status is not CheckStatus.OK:
            by_name.setdefault(problem.package.name, []).append(problem)
    for name, those in list(by_name.items())[:MAX_FINDINGS]:
        ctx.report([_criterion(f"{file} {name}: advisories", those, lock.form)])
    if len(by_name) > MAX_FINDINGS:
        text = f"only the first {MAX_FINDINGS} of {len(by_name)} are reported"
        ctx.unknown(f"{file}: packages with advisories", text, expected="each package")
    unknown = {package.name for package in asked if key_of(package) in answer.unknown}
    for name in sorted({package.name for package in asked} - by_name.keys() - unknown):
        if f"{file} {name}: advisories" in ctx.findings:
            ctx.passed(f"{file} {name}: advisories", "none that needs action", expected="none that needs action")
    # What was not compared is not zero.
    for severity in () if unknown else SEVERITIES:
        for scope, dev in (("production", False), ("development", True)):
            count = sum(item.advisory.severity == severity and item.package.dev == dev for item in problems)
            ctx.measure("dependency_advisories", count, file=file, severity=severity, scope=scope)
    ctx.measure("dependency_packages", len(lock.packages), file=file)
    found.packages += sum(key_of(package) not in answer.unknown for package in asked)


def _criterion(name: str, problems: Sequence[Problem], form: str) -> Criterion:
    worst = CheckStatus.FAIL if any(item.status is CheckStatus.FAIL for item in problems) else CheckStatus.WARN
    texts = [
        f"{item.advisory.severity} {item.advisory.id} in {printable(item.package.version)[:40]}, fix: {item.fix}"
        for item in problems
    ]
    first = problems[0]
    sources = ", ".join(sorted({item.advisory.source for item in problems}))
    return Criterion(
        name,
        name_first(texts),
        equals="none that needs action",
        severity=worst,
        hint=f"{remedy(problems, form)} (by {first.package.way}): {first.advisory.title}",
        rule=f"{first.advisory.id} of {sources}; {_LEVELS}",
    )


def remedy(problems: Sequence[Problem], form: str) -> str:
    """What to change for the advisories of one package: the version that ends all of them."""
    package = problems[0].package
    if any(item.advisory.malicious for item in problems):
        return f"remove {package.name} at once, and treat what ran it as compromised"
    fixes = [item.advisory.fixed for item in problems if item.advisory.fixed is not None]
    if not fixes:
        return f"no version of {package.name} without it is known: replace it, or acknowledge the finding with a date"
    try:
        fix = max(fixes, key=lambda text: ordered(package.ecosystem, text))
    except ValueError:
        fix = fixes[0]
    text = _change(package, fix, form)
    return f"{text}, a semver-major change" if breaks(package.ecosystem, package.version, fix) else text


def _change(package: Package, fix: str, form: str) -> str:
    if package.ecosystem == PYPI:
        if form == "uv":
            return command("uv", "lock", "--upgrade-package", f"{package.name}=={fix}")
        if form == "poetry":
            words = ("poetry", "add", f"{package.name}@{fix}") if package.direct else ("poetry", "update", package.name)
            return command(*words)
        return f"set {command(f'{package.name}=={fix}')} in the requirements file"
    if package.direct:
        alias = package.path[-1].partition(" ")[0]
        prefix = "" if alias == package.name else f"{alias}@npm:"
        return command("npm", "install", f"{prefix}{package.name}@{fix}")
    parent = package.path[-2]
    if package.requirement and _allows(package.requirement, fix):
        return f"{command('npm', 'update', package.name)}: {parent} allows {printable(fix)}"
    asked = f" asks for {printable(package.requirement)[:40]}" if package.requirement else " must allow it"
    override = command(f'"overrides": {{"{package.name}": "{fix}"}}')
    return f"{parent}{asked}: set {override} in package.json, or change {package.path[0]} to a version that allows it"


def _allows(requirement: str, version: str) -> bool:
    try:
        return semver.satisfies(semver.parse(version), requirement, prereleases=False)
    except ValueError:
        return False


def report_deprecated(ctx: Context, file: str, lock: Lock) -> None:
    """Warn of packages that the project asks for and that their maintainers have given up."""
    if lock.ecosystem != NPM:
        return
    named = [package for package in lock.packages if package.deprecated and package.direct and not package.dev]
    hint = name_first([f"{package.name}: {package.deprecated}" for package in named])
    name, rule = f"{file}: deprecated packages", "npm: deprecated by the maintainer, in the lock file"
    ctx.check(name, len(named), warn_above=0, hint=hint, rule=rule)


def report_outdated(
    ctx: Context, file: str, lock: Lock, latest: dict[tuple[str, str], str], causes: Sequence[str], found: Reviewed
) -> None:
    """Record which direct packages have a later version; it is for information; only what is not known is not ok."""
    behind = list[tuple[str, Package, str]]()
    for package in lock.packages:
        newer = latest.get((package.ecosystem, package.name))
        if package.direct and newer is not None and _later(package.ecosystem, package.version, newer):
            behind.append((file, package, newer))
    found.outdated += behind
    ctx.measure("dependencies_outdated", len(behind), file=file)
    name = f"{file}: latest versions"
    if causes:
        ctx.unknown(name, name_first(causes), expected="known of each direct package")
    else:
        ctx.passed(name, f"behind: {plural(len(behind), 'direct package')}", expected="known of each direct package")


def _later(ecosystem: str, version: str, newer: str) -> bool:
    try:
        return bool(ordered(ecosystem, version) < ordered(ecosystem, newer))  # type: ignore[operator]
    except ValueError:
        return version != newer


def report_audit(ctx: Context, file: str, audited: Sequence[Audited], found: Reviewed) -> None:
    """Report what `npm audit` found."""
    found.audited += [(file, item) for item in audited]
    ctx.passed(f"{file}: is a result of npm audit", plural(len(audited), "vulnerable package"), expected="a result")
    named = {f"{file} {item.name}: npm audit" for item in audited}
    for item in audited[:MAX_FINDINGS]:
        status = _audit_status(item)
        if status is CheckStatus.OK:
            named.discard(f"{file} {item.name}: npm audit")
            continue
        fix = "no fix is known" if item.fix is None else item.fix or "npm audit fix"
        words = ("npm", "install", item.fix) if item.fix else ("npm", "audit", "fix")
        hint = "replace it, or acknowledge the finding with a date" if item.fix is None else command(*words)
        hint += ", a semver-major change" if item.breaks else ""
        text = f"{item.severity}: {name_first(item.via)}, fix: {fix}{' (semver-major)' if item.breaks else ''}"
        name, rule = f"{file} {item.name}: npm audit", f"npm audit; {_LEVELS}"
        ctx.report([Criterion(name, text, equals="none that needs action", severity=status, hint=hint, rule=rule)])
    if len(audited) > MAX_FINDINGS:
        ctx.unknown(f"{file}: packages of npm audit", f"only the first {MAX_FINDINGS} of {len(audited)} are reported")
    for name in ctx.findings:
        if name.startswith(f"{file} ") and name.endswith(": npm audit") and name not in named:
            ctx.passed(name, "none that needs action", expected="none that needs action")


def _audit_status(item: Audited) -> CheckStatus:
    if item.severity == CRITICAL and item.fix is not None:
        return CheckStatus.FAIL
    return CheckStatus.WARN if item.severity in (CRITICAL, HIGH, UNRATED) else CheckStatus.OK


def sections(found: Reviewed, window: str) -> Iterator[Section]:
    """The parts of the report beside its checks."""
    rows = tuple(
        (
            Cell(item.advisory.severity, mark=_MARKS.get(item.status, "")),
            Cell(item.file),
            Cell(f"{item.package.name} {printable(item.package.version)[:40]}"),
            Cell("direct" if item.package.direct else item.package.way),
            Cell("development" if item.package.dev else "production"),
            Cell(item.advisory.id),
            Cell(item.fix),
            Cell(item.advisory.title),
        )
        for item in found.problems
    )
    titles = ("Severity", "File", "Package", "By", "Scope", "Advisory", "Fix", "Title")
    table = Table(f"Advisories, {window}", columns(*titles), rows, "No advisory affects a package that was compared.")
    yield Section(
        "Advisories", tables=(table,), notes=(f"Compared: {plural(found.packages, 'package')} of lock files.",)
    )
    behind = tuple(
        (
            Cell(file),
            Cell(package.name),
            Cell(printable(package.version)[:40]),
            Cell(printable(newer)[:40]),
            Cell(
                {True: "semver-major", False: "compatible", None: "not comparable"}[
                    breaks(package.ecosystem, package.version, newer)
                ]
            ),
        )
        for file, package, newer in found.outdated
    )
    named = ("File", "Package", "Locked", "Latest", "Change")
    yield Section(
        "Outdated",
        tables=(Table("Direct packages with a later version", columns(*named), behind, "None, or not asked for."),),
    )
    unsent = tuple((Cell(file), Cell(name), Cell(reason)) for file, name, reason in found.not_sent)
    yield Section(
        "Not asked about",
        tables=(Table("Packages without a public registry", columns("File", "Package", "Source"), unsent, "None."),),
    )
