"""Hosts in rules of Traefik's routers, and whether each is examined."""

from __future__ import annotations

import pytest

from maintd.checks.certificates.routers import criteria, hosts_of
from maintd.model.evidence import CheckStatus

RULE = "traefik.http.routers.shop.rule"


@pytest.mark.parametrize(
    ("rule", "hosts", "patterns"),
    [
        ("Host(`shop.example`)", ["shop.example"], 0),
        ('Host(`Shop.Example.`) || Host("www.shop.example")', ["shop.example", "www.shop.example"], 0),
        ("Host(`a.example`, `b.example`) && PathPrefix(`/x`)", ["a.example", "b.example"], 0),
        ("Host(`a.example`) && !Host(`b.example`)", ["a.example"], 0),
        ("HostSNI(`db.example`)", ["db.example"], 0),
        ("HostSNI(`*`)", [], 1),
        ("HostRegexp(`{sub:[a-z]+}.example`)", [], 1),
        ("PathPrefix(`/metrics`)", [], 1),
        ("Host()", [], 1),
        ("Host(`unclosed", [], 1),
        ("", [], 1),
    ],
)
def test_the_hosts_of_a_rule(rule: str, hosts: list[str], patterns: int) -> None:
    found = hosts_of([{RULE: rule}])
    assert (sorted(found.routers), len(found.patterns)) == (hosts, patterns)


def test_only_routers_that_traefik_reads_count() -> None:
    off = {"traefik.enable": "false", RULE: "Host(`off.example`)"}
    other = {"traefik.http.middlewares.shop.rule": "Host(`no.example`)", "traefik.http.routers.shop.tls": "true"}
    tcp = {"traefik.tcp.routers.db.rule": "HostSNI(`db.example`)"}
    assert hosts_of([off, other, tcp]).routers == {"db.example": "db"}


def test_a_host_without_a_target_warns_and_a_pattern_is_unknown() -> None:
    found = hosts_of(
        [{RULE: "Host(`shop.example`) || Host(`api.example`)", "traefik.http.routers.m.rule": "Path(`/`)"}]
    )
    missing, pattern = (criterion.evaluate() for criterion in criteria(found, ["SHOP.example"]))

    assert (missing.status, missing.observed) == (CheckStatus.WARN, 1)
    assert "api.example:443" in missing.hint
    assert (pattern.status, pattern.optional) == (CheckStatus.UNKNOWN, True)

    covered, _ = (criterion.evaluate() for criterion in criteria(found, ["shop.example", "api.example"]))
    assert covered.status is CheckStatus.OK
