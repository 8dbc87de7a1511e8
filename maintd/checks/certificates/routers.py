"""Hosts in the rules of Traefik's routers, as the labels of running containers have them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from maintd.checks.hints import name_first
from maintd.clients.docker import connect, translated
from maintd.job.criterion import Criterion
from maintd.model.evidence import CheckStatus
from maintd.model.target import DockerTarget

_RULE = re.compile(r"traefik\.(?:http|tcp)\.routers\.([^.]+)\.rule", re.IGNORECASE)
_MATCHER = re.compile(r"(!?)\s*\b(Host|HostHeader|HostSNI|HostRegexp|HostSNIRegexp)\(([^()]*)\)", re.IGNORECASE)
_QUOTED = re.compile(r"[`\"']([^`\"']+)[`\"']")
_SOURCE = "Traefik's documentation, HTTP Routers, Rule: Host"


@dataclass
class RouterHosts:
    """By host, lower-case, the router that serves it. `patterns`: routers whose hosts are a pattern, or any."""

    routers: dict[str, str] = field(default_factory=dict)
    patterns: list[str] = field(default_factory=list)


def collect(target: DockerTarget, name: str) -> RouterHosts:
    """The hosts of all routers on an engine. Raises TargetError."""
    with connect(target, name=name) as engine, translated(name):
        listed = engine.api.containers(filters={"status": "running"})
        return hosts_of(item.get("Labels") or {} for item in listed)


def hosts_of(containers: Iterable[Mapping[str, str]]) -> RouterHosts:
    """The hosts in the labels of containers; those of which `traefik.enable` is false have no router."""
    found = RouterHosts()
    for labels in containers:
        if labels.get("traefik.enable", "true").strip().lower() == "false":
            continue
        for label, rule in labels.items():
            match = _RULE.fullmatch(label)
            if match is not None:
                _read(found, match[1], rule)
    return found


def _read(found: RouterHosts, router: str, rule: str) -> None:
    hosts = False
    for negated, matcher, arguments in _MATCHER.findall(rule):
        names = [name.strip().lower().rstrip(".") for name in _QUOTED.findall(arguments)]
        if negated:
            continue
        hosts = True
        if "regexp" in matcher.lower() or not names or "*" in names:
            found.patterns.append(f"{router}: {matcher}({arguments.strip()})")
        else:
            found.routers.update(dict.fromkeys(names, router))
    if not hosts:
        found.patterns.append(f"{router}: any host")


def criteria(found: RouterHosts, examined: Iterable[str]) -> Iterator[Criterion]:
    """Whether each host is examined. examined: the names that certificates were compared with."""
    known = {name.lower().rstrip(".") for name in examined}
    missing = [f"{host} ({router})" for host, router in sorted(found.routers.items()) if host not in known]
    first = missing[0].partition(" ")[0] if missing else ""
    yield Criterion(
        "hosts of Traefik's routers that are not examined",
        len(missing),
        at_most=0,
        severity=CheckStatus.WARN,
        hint=f"add a target for each to targets.tls, such as {{address: '{first}:443'}}: {name_first(missing)}",
        rule=_SOURCE,
    )
    if found.patterns:
        yield Criterion(
            "hosts of Traefik's routers with a pattern",
            unknown=f"unfamiliar: {name_first(sorted(found.patterns))}",
            equals="each name",
            hint="add a target for each name that is in use to targets.tls",
            rule=_SOURCE,
            optional=True,
        )
