"""Installed packages by dpkg's status, and newer versions by apt's lists; nothing is fetched.

Sources: dpkg(1), "status"; deb822(5); Debian's wiki, "DebianRepository/Format" (Release, Packages, NotAutomatic);
apt_preferences(5) for the priorities: 500, and 100 for a source that is NotAutomatic and ButAutomaticUpgrades.
"""

from __future__ import annotations

import gzip
import lzma
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, BinaryIO

from maintd.checks.hints import printable
from maintd.checks.os_updates.versions import by_version, compare
from maintd.clients.causes import cause_of
from maintd.clients.files import modified_at, shown
from maintd.clients.rooted_files import RootedFiles
from maintd.errors import TargetError

_MOST_LINE = 1 << 16
_MOST_BYTES = 1 << 30  # of one decompressed list; that of Debian's main has 50 MB
_HEAD = 64 * 1024  # of a Release file, whose fields come first
_LISTS, _STATUS = "var/lib/apt/lists", "var/lib/dpkg/status"
_STAMP = "var/lib/apt/periodic/update-success-stamp"
_HINT = "mount it into this container, and let the user of maintd read it"


@dataclass(frozen=True)
class Package:
    """A package in dpkg's status."""

    name: str
    architecture: str
    version: str
    held: bool
    state: str  # installed, half-configured, …


@dataclass(frozen=True)
class Source:
    """A list of packages, by its Release file."""

    name: str  # of the list
    security: bool
    priority: int
    date: datetime | None
    valid_until: datetime | None


@dataclass(frozen=True)
class Update:
    """A newer version of an installed package."""

    package: Package
    version: str
    security: bool

    @property
    def text(self) -> str:
        """For a hint."""
        return f"{self.package.name} {self.package.version} → {self.version}"


@dataclass
class Packages:
    """What is installed, and what is newer. `unread`: lists that could not be read."""

    installed: list[Package]
    updates: list[Update] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    fetched_at: datetime | None = None  # the last time that the lists were


def read_packages(root: Path) -> Packages:
    """The packages of the host below this root. Raises TargetError."""
    files = RootedFiles(root, _HINT)
    status = shown(root / _STATUS)
    try:
        with files.open(_STATUS) as file:
            installed = list(_installed(file))
    except OSError as error:
        raise _os_error(root / _STATUS, error) from error
    except TargetError as error:
        if error.cause != "not_found":
            raise
        hint = "only hosts with dpkg are examined: mount its root"
        raise TargetError(f"{status}: no such file", hint, cause="unfamiliar") from error
    if not installed:
        raise TargetError(f"{status}: has no package", "mount the host's file, not an empty one", cause="empty")
    found = Packages(installed)
    _read_lists(files, found)
    return found


def _installed(file: IO[bytes]) -> Iterator[Package]:
    for stanza in _stanzas(file, {"package", "status", "version", "architecture"}):
        want, _, rest = stanza.get("status", "").partition(" ")
        state = rest.rpartition(" ")[2]
        if "package" in stanza and state not in ("", "not-installed", "config-files"):
            yield Package(
                stanza["package"], stanza.get("architecture", ""), stanza.get("version", ""), want == "hold", state
            )


def _read_lists(files: RootedFiles, found: Packages) -> None:
    names = files.names(_LISTS)
    releases = {
        name.removesuffix("_InRelease").removesuffix("_Release") + "_": _release(files, name)
        for name in names
        if name.endswith(("_InRelease", "_Release"))
    }
    wanted_names = [f"{_LISTS}/{name}" for name in names if "_Packages" in name or name.endswith("Release")]
    times = [modified_at(files.status(name)) for name in wanted_names]
    if files.exists(_STAMP):
        times.append(modified_at(files.status(_STAMP)))
    found.fetched_at = max(times, default=None)
    wanted: dict[str, list[Package]] = {}
    for package in found.installed:
        wanted.setdefault(package.name, []).append(package)
    newer: dict[Package, list[tuple[str, Source]]] = {}
    for name in names:
        if "_Packages" not in name:
            continue
        prefix = max((each for each in releases if name.startswith(each)), key=len, default="")
        source = _source(name, releases.get(prefix, {}))
        found.sources.append(source)
        try:
            for package, version in _newer(files, name, wanted):
                newer.setdefault(package, []).append((version, source))
        except TargetError as error:
            found.unread.append(error.message)
    found.updates = [update for package, versions in newer.items() if (update := _candidate(package, versions))]


def _newer(files: RootedFiles, name: str, wanted: Mapping[str, list[Package]]) -> Iterator[tuple[Package, str]]:
    """Every version in a list that is not older than that of the installed package. Raises TargetError."""
    try:
        with files.open(f"{_LISTS}/{name}") as raw, _unpacked(raw, name) as file:
            for stanza in _stanzas(file, {"package", "version", "architecture"}):
                for package in wanted.get(stanza.get("package", ""), ()):
                    architectures = {package.architecture, stanza.get("architecture", "")}
                    same = len(architectures) == 1 or "all" in architectures
                    if same and compare(stanza.get("version", ""), package.version) >= 0:
                        yield package, stanza["version"]
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise _os_error(files.root / _LISTS / name, error) from error
        raise TargetError(f"{shown(name)}: is damaged: {error}", "apt-get update", cause="malformed") from error


def _unpacked(raw: BinaryIO, name: str) -> IO[bytes] | gzip.GzipFile:
    if name.endswith(".gz"):
        return gzip.open(raw, "rb")
    if name.endswith(".xz"):
        return lzma.open(raw, "rb")
    if name.endswith("_Packages"):
        return raw
    raise TargetError(
        f"{shown(name)}: is compressed in a form that is not read",
        "write APT::Acquire::GzipIndexes",
        cause="unfamiliar",
    )


def _candidate(package: Package, versions: list[tuple[str, Source]]) -> Update | None:
    """What apt would install. A version that is not newer keeps one of lower priority from being it."""
    best = max(source.priority for _, source in versions)
    chosen = [(version, source) for version, source in versions if source.priority == best]
    version = max((version for version, _ in chosen), key=by_version)
    if best < 100 or compare(version, package.version) <= 0:
        return None
    security = any(source.security and compare(each, package.version) > 0 for each, source in versions)
    return Update(package, version, security)


def _source(name: str, release: Mapping[str, str]) -> Source:
    suite = (release.get("suite", ""), release.get("codename", ""))
    security = "security" in release.get("label", "").lower() or any(
        each.endswith(("-security", "/updates")) for each in suite
    )
    priority = 500
    if release.get("notautomatic") == "yes":
        priority = 100 if release.get("butautomaticupgrades") == "yes" else 1
    return Source(name, security, priority, _date(release.get("date")), _date(release.get("valid-until")))


def _release(files: RootedFiles, name: str) -> dict[str, str]:
    """The fields at the beginning of a Release file, also of a signed one."""
    try:
        with files.open(f"{_LISTS}/{name}") as file:
            lines = file.read(_HEAD).decode(errors="replace").splitlines()
    except OSError as error:
        raise _os_error(files.root / _LISTS / name, error) from error
    fields = (line.partition(":") for line in lines if line[:1].isalpha())
    return {name.lower(): value.strip() for name, colon, value in fields if colon}


def _date(text: str | None) -> datetime | None:
    try:
        found = parsedate_to_datetime(text) if text else None
    except (ValueError, TypeError):
        return None
    return found if found is None or found.tzinfo else found.replace(tzinfo=UTC)


def _stanzas(file: IO[bytes] | gzip.GzipFile, wanted: set[str]) -> Iterator[dict[str, str]]:
    """The wanted fields of each paragraph, with printable values."""
    names = {f"{name}:".encode(): name for name in wanted}
    stanza: dict[str, str] = {}
    total = 0
    while line := file.readline(_MOST_LINE):
        total += len(line)
        if total > _MOST_BYTES:
            raise TargetError("a list of packages has more than 1 GiB", "apt-get update", cause="too_large")
        if line in (b"\n", b"\r\n"):
            if stanza:
                yield stanza
            stanza = {}
            continue
        head, colon, value = line.partition(b":")
        name = names.get(head.lower() + colon)
        if name is not None:
            stanza[name] = printable(value.strip().decode(errors="replace"))[:200]
    if stanza:
        yield stanza


def _os_error(path: Path, error: OSError) -> TargetError:
    cause = "not_found" if isinstance(error, FileNotFoundError) else cause_of(error) or "failed"
    return TargetError(f"{path}: {error.strerror or error}", _HINT, cause=cause)
