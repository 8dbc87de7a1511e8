"""PromQL as far as it shows whether an alert can fire: the expressions of real rule files."""

from __future__ import annotations

import pytest

from maintd.checks.config_review.promql import (
    PromqlError,
    Selector,
    always_absent,
    is_always_empty,
    parse,
    selectors,
)

KNOWN = {"up", "known", "other", "http_request_duration_seconds_bucket"}


def exists(selector: Selector) -> bool:
    return selector.metric in KNOWN


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("up == 0", ["up"]),
        (
            'histogram_quantile(0.95, sum by (le, instance) (rate(known{job="a",path!="/m"}[5m]))) > 1',
            ['known{job="a",path!="/m"}'],
        ),
        ("sum(rate(known[5m])) by (instance) / on(instance) group_left(x) other > 0.05", ["known", "other"]),
        ("max_over_time(rate(known[5m])[1h:1m] offset 1d) @ end() > bool 2e3", ["known"]),
        ("-known ^ -other ^ 2", ["known", "other"]),
        ("time() - backup_last_success_timestamp > 172800", ["backup_last_success_timestamp"]),
        ('{__name__="up",job=~"a|b"} # comment', ['up{job=~"a|b"}']),
        ('{"metric.name", a="b"}', ['metric.name{a="b"}']),
        ('label_replace(up, "a", "$1", "b", "(.*)") unless ignoring(a) known', ["up", "known"]),
        ("count(sum)", ["sum"]),
        ("topk(3, known) and on() other", ["known", "other"]),
        ("known offset -5m < 1h30m", ["known"]),
    ],
)
def test_the_selectors_of_an_expression_are_found(text: str, names: list[str]) -> None:
    assert [item.text for item in selectors(parse(text))] == names


@pytest.mark.parametrize(
    ("text", "empty"),
    [
        ("missing > 1", True),
        ("rate(missing[5m]) > 1", True),
        ("sum(missing) > 0", True),
        ("known / missing > 0.9", True),
        ("missing or known > 1", False),
        ("missing or absent", True),
        ("known unless missing", False),
        ("missing unless known", True),
        ("known and missing", True),
        ("(known or missing) > 1", False),
        ("absent(missing)", False),
        ("vector(1)", False),
        ("scalar(missing) > bool 1", False),
        ("time() > 5", False),
        ("known > 1", False),
    ],
)
def test_an_expression_is_always_empty_when_what_it_needs_does_not_exist(text: str, empty: bool) -> None:
    assert is_always_empty(parse(text), exists) is empty


def test_absent_of_what_never_existed_is_found_wherever_it_is() -> None:
    tree = parse('up == 0 or (absent(container_last_seen{name="x"}) and absent(known))')

    assert [item.text for item in always_absent(tree, exists)] == ['container_last_seen{name="x"}']


@pytest.mark.parametrize(
    "text",
    [
        "",
        "up ==",
        "sum(up",
        "{}",
        "up{a}",
        "up{a=1}",
        'up{a="b"',
        "up[5m",
        "up offset",
        "1 2",
        "§",
        "(" * 100,
        "a" * 30000,
    ],
)
def test_what_is_not_understood_is_an_error_and_never_no_selector(text: str) -> None:
    with pytest.raises(PromqlError):
        parse(text)
