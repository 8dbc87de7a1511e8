"""Configurations as flat lists: what is kept of secrets and URLs, the differences, and the folder of baselines."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from maintd.checks.config_review.alertmanager import SILENT, criteria
from maintd.checks.config_review.baselines import MAX_OBSERVED, Acceptance, Baselines
from maintd.checks.config_review.snapshot import MAX_PATHS, Collector, Snapshot, difference
from maintd.errors import TargetError
from maintd.model.evidence import CheckStatus

CANARY = "cAnaRy-4711-sEcret"
KEY = b"k" * 32
NOW = datetime(2026, 11, 30, 7, 0, tzinfo=UTC)


def collected(tree: object, **options: object) -> dict[str, str]:
    collector = Collector("subject", KEY)
    collector.tree("", tree, **options)  # type: ignore[arg-type]
    return dict(collector.snapshot().values)


@pytest.mark.parametrize(
    "tree",
    [
        {"password": CANARY},
        {"api_key": [CANARY, "b"]},
        {"http_headers": {"Authorization": {"values": [CANARY]}}},
        {"url": f"https://hooks.slack.com/services/T/B/{CANARY}"},
        {"url": f"https://user:{CANARY}@host/"},
        {"list": [f"https://host/{CANARY}", "b"]},
        {"items": [{"url": f"http://host/{CANARY}"}]},
        {"params": {"token": [CANARY]}},
        {"command": f"redis-server --requirepass {CANARY}"},
        {"command": f"redis-server --requirepass={CANARY} --port 1"},
        {"command": f"sh -c 'redis-server --masterauth \"{CANARY}\"'"},
        {"command": ["redis-server", "--requirepass", CANARY, "--port", "1"]},
        {"command": ["mysql", f"-p{CANARY}"]},
        {"requirepass": CANARY},
        {"masterauth": CANARY},
        {"tls-key-file-pass": CANARY},
        {"labels": {"traefik.http.middlewares.a.basicauth.users": f"ada:{CANARY}"}},
        {"conninfo": f"host=a password={CANARY}"},
    ],
)
def test_no_secret_is_in_a_path_or_a_value_and_its_change_is_seen(tree: dict[str, object]) -> None:
    found = collected(tree)
    other = collected(eval(repr(tree).replace(CANARY, "another-value-99x")))

    assert CANARY not in str(found)
    assert list(found) == list(other)
    assert found != other


def test_addresses_of_runbooks_stay_whole_and_those_of_servers_keep_their_host() -> None:
    found = collected({"runbook_url": "https://wiki/a/b", "target": "http://a:9090", "push": "http://a:9091/x?y"})

    assert found["runbook_url"] == "https://wiki/a/b"
    assert found["target"] == "http://a:9090"
    assert found["push"].startswith("http://a:9091/*** (keyed digest ")


def test_an_item_that_is_inserted_does_not_move_the_others() -> None:
    before = collected({"jobs": [{"job_name": "a", "x": 1}, {"job_name": "b", "x": 2}]})
    after = collected({"jobs": [{"job_name": "a", "x": 1}, {"job_name": "new", "x": 3}, {"job_name": "b", "x": 2}]})

    found = difference(before, after)

    assert (sorted(found.added), found.removed, found.changed) == (
        ["jobs[job_name=new]/job_name", "jobs[job_name=new]/x"],
        {},
        {},
    )


def test_a_difference_leaves_out_what_was_not_read() -> None:
    found = difference({"a/x": "1", "b/x": "1", "c": "1"}, {"a/x": "2", "c": "2"}, ["b/"])

    assert (found.added, found.removed, found.changed) == ({}, {}, {"a/x": ("1", "2"), "c": ("1", "2")})


def test_more_values_than_the_limit_are_counted() -> None:
    collector = Collector("subject", KEY)
    for number in range(MAX_PATHS + 3):
        collector.add(f"v{number}", number)

    assert (len(collector.snapshot().values), collector.snapshot().cut) == (MAX_PATHS, 3)


def test_what_was_accepted_last_counts_and_earlier_ones_stay(tmp_path: Path) -> None:
    baselines = Baselines(tmp_path)
    for number, text in enumerate("ab"):
        snapshot = Snapshot("docker main", {"x": text})
        baselines.observe(snapshot, NOW, 1, ())
        at = NOW.replace(hour=8 + number)
        acceptance = Acceptance(by="ada", why="it is right", how="gate", at=at, run=number)
        baselines.accept(baselines.observed(snapshot.digest[:12]), acceptance)

    approved = baselines.approved("docker main")

    assert approved is not None and approved.values == {"x": "b"}
    assert approved.accepted is not None and approved.accepted.by == "ada"
    assert len(baselines.history("docker main")) == 2
    assert baselines.key() == Baselines(tmp_path).key()
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_a_baseline_that_was_changed_by_hand_is_an_error(tmp_path: Path) -> None:
    baselines = Baselines(tmp_path)
    snapshot = Snapshot("redis main", {"maxmemory": "0"})
    baselines.observe(snapshot, NOW, 1, ())
    acceptance = Acceptance(by="ada", why="it is right", how="gate", at=NOW, run=1)
    path = baselines.accept(baselines.observed(snapshot.digest), acceptance)
    path.write_text(path.read_text().replace('"maxmemory": "0"', '"maxmemory": "1"'))

    with pytest.raises(TargetError, match="was changed after it was written"):
        baselines.approved("redis main")


@pytest.mark.parametrize("digest", ["", "ab", "../../etc/passwd", "0" * 12])
def test_what_was_not_seen_cannot_be_accepted(tmp_path: Path, digest: str) -> None:
    with pytest.raises(TargetError):
        Baselines(tmp_path).observed(digest)


def test_only_the_newest_observations_stay(tmp_path: Path) -> None:
    baselines = Baselines(tmp_path)
    for number in range(MAX_OBSERVED + 2):
        baselines.observe(Snapshot("a", {"x": str(number)}), NOW, 1, ())

    assert len(list((tmp_path / "observed").iterdir())) == MAX_OBSERVED


def statuses(config: dict[str, object]) -> dict[str, CheckStatus]:
    return {item.name: item.status for item in criteria(config, SILENT)}


RECEIVERS = [{"name": "a", "webhook_configs": [{"url": "http://a"}]}, {"name": "null"}]


def test_a_configuration_of_alertmanager_that_notifies_passes() -> None:
    config = {
        "route": {"receiver": "a", "routes": [{"receiver": "null"}]},
        "receivers": RECEIVERS,
        "inhibit_rules": [
            {"source_matchers": ['a="b"'], "target_matchers": ['severity="info"']},
            {"source_matchers": ['a="b"'], "target_matchers": [], "equal": ["cluster"]},
        ],
    }

    assert set(statuses(config).values()) == {CheckStatus.OK}


@pytest.mark.parametrize(
    ("config", "check"),
    [
        ({"route": {"receiver": "b"}, "receivers": RECEIVERS}, "routes have receivers"),
        ({"receivers": RECEIVERS}, "routes have receivers"),
        ({"route": {"receiver": "x"}, "receivers": [{"name": "x"}]}, "receivers have a target"),
        ({"route": {"receiver": "a"}, "receivers": RECEIVERS}, "receivers are used by routes"),
        (
            {
                "route": {"receiver": "a"},
                "receivers": RECEIVERS,
                "inhibit_rules": [{"source_matchers": ['a="b"'], "target_matchers": ['alertname=~".+"']}],
            },
            "no rule inhibits every alert",
        ),
        (
            {"route": {"receiver": "a"}, "receivers": RECEIVERS, "inhibit_rules": [{"source_match": {"a": "b"}}]},
            "no rule inhibits every alert",
        ),
    ],
)
def test_what_prevents_notifications_is_named(config: dict[str, object], check: str) -> None:
    assert statuses(config)[check] is not CheckStatus.OK
