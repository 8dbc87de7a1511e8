"""The engine itself: its version and daemon settings, from /version, /info, the default bridge, and daemon.json.

Not every setting is in the engine's answer: `userland-proxy` and the default of `log-opts` are only in the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from docker.errors import NotFound

from maintd.checks.audit.containers import CIS
from maintd.checks.audit.rule import Blind, Outcome, Rule, Violation
from maintd.checks.docker.end_of_life import Software, support
from maintd.checks.hints import printable
from maintd.checks.probes import value_or_error
from maintd.clients.docker import Docker, translated
from maintd.clients.files import shown
from maintd.clients.rooted_files import RootedFiles
from maintd.errors import TargetError
from maintd.model.evidence import CheckStatus

FILE = "etc/docker/daemon.json"
PRODUCT = "docker-engine"
_MAX_FILE = 1 << 20
FAIL, WARN = CheckStatus.FAIL, CheckStatus.WARN


def _rule(number: str, severity: CheckStatus, title: str, wanted: str, change: str) -> Rule:
    return Rule(f"cis-docker-{number}", severity, title, f"{CIS}, {number}", wanted, change)


VERSION = _rule("1.2.2", FAIL, "engines without support", "a supported release", "upgrade the engine in a window")
ICC = _rule("2.2", WARN, "open default bridges", "icc: false", 'set "icc": false in daemon.json')
INSECURE = _rule(
    "2.5", FAIL, "registries without TLS", "none", "remove it from insecure-registries in daemon.json, and give it TLS"
)
LIVE = _rule(
    "2.15",
    WARN,
    "engines whose restart stops containers",
    "live-restore: true",
    'set "live-restore": true in daemon.json',
)
PROXY = _rule(
    "2.16",
    WARN,
    "engines with the userland proxy",
    "userland-proxy: false",
    'set "userland-proxy": false in daemon.json',
)
EXPERIMENTAL = _rule(
    "2.18", WARN, "engines with experimental features", "none", 'remove "experimental" from daemon.json'
)
SWARM = _rule(
    "5.1", WARN, "engines in swarm mode", "inactive, unless it is used", "docker swarm leave, if it is not used"
)
LOGS = Rule(
    "docker-log-opts",
    WARN,
    "engines whose logs grow without end",
    "Docker, Configure logging drivers",
    "a driver that rotates, or max-size",
    'set "log-opts": {"max-size": "10m", "max-file": "3"} in daemon.json',
)
RULES = (VERSION, ICC, INSECURE, LIVE, PROXY, EXPERIMENTAL, SWARM, LOGS)


@dataclass(frozen=True)
class Daemon:
    """What was read. bridge: options of the default bridge; None: there is none. file: the settings of daemon.json."""

    version: str
    info: Mapping[str, Any]
    bridge: Mapping[str, Any] | TargetError | None
    file: Mapping[str, Any] | TargetError


def collect(engine: Docker, root: Path | None) -> Daemon:
    """Ask the engine, and read its file below `root`, the engine's host. Raises TargetError."""
    api = engine.api
    with translated(engine.name):
        version = str(api.version()["Version"])
        info = api.info()
        if not isinstance(info, Mapping) or "LiveRestoreEnabled" not in info:
            raise TargetError(f"{engine.name}: /info lacks LiveRestoreEnabled", cause="unfamiliar")
    return Daemon(version, info, value_or_error(lambda: _bridge(engine)), value_or_error(lambda: _file(root)))


def _bridge(engine: Docker) -> Mapping[str, Any] | None:
    with translated(engine.name):
        try:
            answer = engine.api.inspect_network("bridge")
        except NotFound:
            return None
        return dict(answer["Options"] or {})


def _file(root: Path | None) -> Mapping[str, Any]:
    if root is None:
        hint = "mount the root of the engine's host, and name its target in the param engine_host"
        raise TargetError("daemon.json is on the engine's host, which is not mounted", hint, cause="not_configured")
    files = RootedFiles(root)
    if not files.exists("etc"):
        raise TargetError(f"{shown(root / 'etc')}: not found", "mount the host's root", cause="not_found")
    try:
        content = files.read(FILE, _MAX_FILE)
    except TargetError as error:
        if error.cause == "not_found":
            return {}  # all settings have their defaults
        raise
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise TargetError(
            f"{shown(root / FILE)}: is not a JSON object", "dockerd --validate --config-file PATH", cause="malformed"
        )
    return found


def profiles(daemon: Daemon) -> frozenset[str]:
    """What it protects containers with: of apparmor, selinux, seccomp, userns, rootless."""
    options = (str(text).split(",")[0] for text in daemon.info.get("SecurityOptions") or ())
    return frozenset(text.removeprefix("name=") for text in options)


def outcomes(place: str, daemon: Daemon, today: date, ends: Mapping[str, Mapping[str, date]]) -> list[Outcome]:
    """What was seen of each rule. ends: the operator's dates, by product and release."""
    info = daemon.info
    swarm = info.get("Swarm") or {}
    registries = (info.get("RegistryConfig") or {}).get("InsecureRegistryCIDRs") or ()
    indexes = (info.get("RegistryConfig") or {}).get("IndexConfigs") or {}
    insecure = [str(item) for item in registries if not str(item).startswith(("127.", "::1/"))]
    insecure += [
        str(name) for name, index in indexes.items() if isinstance(index, Mapping) and index.get("Secure") is False
    ]
    text = f"insecure registry {', '.join(map(printable, insecure[:5]))}" if insecure else ""
    return [
        _support(place, daemon.version, today, ends),
        _icc(place, daemon.bridge),
        _one(INSECURE, place, text),
        _one(LIVE, place, "" if info["LiveRestoreEnabled"] else "live-restore: false"),
        _from_file(
            PROXY,
            place,
            daemon.file,
            lambda file: "" if file.get("userland-proxy") is False else "userland-proxy: true",
        ),
        _one(EXPERIMENTAL, place, "experimental" if info.get("ExperimentalBuild") else ""),
        _one(SWARM, place, f"swarm {swarm.get('LocalNodeState')}" if swarm.get("LocalNodeState") == "active" else ""),
        _logs(place, daemon),
    ]


def _one(rule: Rule, place: str, observed: str) -> Outcome:
    return Outcome(rule, place, 1, (Violation("engine", observed),) if observed else ())


def _blind(rule: Rule, place: str, error: TargetError) -> Outcome:
    blind = Blind("engine", f"{error.cause}: {error.message}", error.hint or "", error.cause == "not_configured")
    return Outcome(rule, place, 0, blind=(blind,))


def _support(place: str, version: str, today: date, ends: Mapping[str, Mapping[str, date]]) -> Outcome:
    known = support(Software(PRODUCT, version.partition("+")[0].partition("-")[0]), ends)
    shown = printable(version)
    if known is None:
        hint = f"set the param end_of_life: {{{PRODUCT}: {{RELEASE: DATE}}}}"
        return Outcome(VERSION, place, 0, blind=(Blind("engine", f"empty: {shown} is not in the table", hint),))
    if known.unknown:
        return Outcome(VERSION, place, 0, blind=(Blind("engine", f"empty: {shown}: {known.unknown}", optional=True),))
    over = known.ends is not None and known.ends < today
    return _one(VERSION, place, f"{shown}, supported until {known.ends}" if over else "")


def _icc(place: str, bridge: Mapping[str, Any] | TargetError | None) -> Outcome:
    if isinstance(bridge, TargetError):
        return _blind(ICC, place, bridge)
    if bridge is None:
        return Outcome(ICC, place, 0, not_applicable="there is no default bridge")
    allowed = str(bridge.get("com.docker.network.bridge.enable_icc", "true")).lower() != "false"
    return _one(ICC, place, "icc: true" if allowed else "")


def _from_file(rule: Rule, place: str, file: Mapping[str, Any] | TargetError, observe: Any) -> Outcome:
    return _blind(rule, place, file) if isinstance(file, TargetError) else _one(rule, place, observe(file))


def _logs(place: str, daemon: Daemon) -> Outcome:
    driver = str(daemon.info.get("LoggingDriver") or "")
    if driver not in ("json-file", ""):
        return _one(LOGS, place, "")

    def observe(file: Mapping[str, Any]) -> str:
        options = file.get("log-opts")
        limited = isinstance(options, Mapping) and options.get("max-size") not in (None, "", "-1")
        return "" if limited else "json-file without max-size"

    return _from_file(LOGS, place, daemon.file, observe)
