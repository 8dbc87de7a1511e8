"""What is wrong with the file of a secret; its new values, and what evidence has of them."""

from __future__ import annotations

import base64
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from maintd.checks.secrets import hygiene, values
from maintd.model.evidence import CheckStatus
from maintd.model.target import Secret, SecretsTarget

GOOD = "q3J-x8Vt_Zk2mW9pLr5nBdYc7Fh4sGa1"
OK, WARN, FAIL, UNKNOWN = CheckStatus.OK, CheckStatus.WARN, CheckStatus.FAIL, CheckStatus.UNKNOWN


def statuses(
    folder: Path, value: str, *, mode: int = 0o600, age: timedelta = timedelta(), **about: object
) -> dict[str, CheckStatus]:
    path = folder / "s"
    path.write_text(value)
    path.chmod(mode)
    written = time.time() - age.total_seconds()
    os.utime(path, (written, written))
    target = SecretsTarget(path=folder, secrets={"s": Secret.model_validate(about)})
    found = hygiene.collect(target, "s")
    return {item.name: item.evaluate().status for item in hygiene.evaluate(found, datetime.now(UTC))}


def test_a_good_file_is_in_order(tmp_path: Path) -> None:
    assert set(statuses(tmp_path, GOOD).values()) == {OK}


@pytest.mark.parametrize(
    ("value", "mode", "age", "check", "expected"),
    [
        (GOOD, 0o600, timedelta(days=89), "age of s", OK),
        (GOOD, 0o600, timedelta(days=91), "age of s", WARN),
        (GOOD, 0o600, timedelta(days=181), "age of s", FAIL),
        (GOOD, 0o600, timedelta(days=-1), "age of s", UNKNOWN),
        (GOOD, 0o400, timedelta(), "mode of s", OK),
        (GOOD, 0o640, timedelta(), "mode of s", WARN),
        (GOOD, 0o644, timedelta(), "mode of s", FAIL),
        (GOOD, 0o660, timedelta(), "mode of s", FAIL),
        ("", 0o600, timedelta(), "content of s", FAIL),
        ("\n", 0o600, timedelta(), "content of s", FAIL),
        (GOOD + "\n", 0o600, timedelta(), "white space around s", WARN),
        ("changeme123", 0o600, timedelta(), "value of s", FAIL),
        ("Password1!", 0o600, timedelta(), "value of s", FAIL),
        ("ab12cd34", 0o600, timedelta(), "entropy of s", WARN),  # 8 characters of 36: 41 bits
        ("a" * 64, 0o600, timedelta(), "entropy of s", WARN),
    ],
)
def test_a_fault_is_found(
    tmp_path: Path, value: str, mode: int, age: timedelta, check: str, expected: CheckStatus
) -> None:
    assert statuses(tmp_path, value, mode=mode, age=age)[check] is expected


def test_the_value_of_its_example_is_found(tmp_path: Path) -> None:
    (tmp_path / "s.example").write_text(GOOD + "\n")

    assert statuses(tmp_path, GOOD)["value of s"] is FAIL


def test_the_same_value_in_two_files_is_found(tmp_path: Path) -> None:
    for name, value in {"a": GOOD, "b": GOOD + "\n", "c": GOOD[::-1]}.items():
        (tmp_path / name).write_text(value)
    target = SecretsTarget(path=tmp_path, secrets={name: Secret() for name in "abc"})

    found = hygiene.evaluate_together({name: hygiene.collect(target, name) for name in "abc"})

    assert [item.evaluate().observed for item in found] == ["b", "a", "none"]


def test_new_values_have_the_form_that_their_consumers_need() -> None:
    token, cookie = values.make("token"), values.make("cookie")

    assert len(base64.urlsafe_b64decode(token + "=")) == 32
    assert len(cookie.encode()) == 32
    assert not cookie.replace("-", "").replace("_", "").isalnum()  # what cannot be base64 is taken as it is
    assert values.make("token") != token
    assert min(values.entropy_bits(token), values.entropy_bits(cookie)) > 128


def test_a_url_has_its_user_and_value_percent_encoded() -> None:
    assert values.filled("postgresql://{user}:{secret}@db/x", "a/b", "p@ss:/?#%") == (
        "postgresql://a%2Fb:p%40ss%3A%2F%3F%23%25@db/x"
    )
    assert values.filled("password={secret}", "", "p@ss") == "password=p@ss"


def test_a_fingerprint_depends_on_the_key() -> None:
    assert values.fingerprint(b"1", b"x") != values.fingerprint(b"2", b"x")
    assert len(values.fingerprint(b"1", b"x")) == 12


@pytest.mark.parametrize(
    ("secrets", "message"),
    [
        ({"a": {"kind": "generated"}}, "needs one of postgres, redis and http, or consumers"),
        ({"a": {"http": {"url": "http://x"}}}, "only a generated secret"),
        ({"a": {"kind": "derived", "of": "b"}}, "of must name a generated secret"),
        ({"a": {"file": "x"}, "b": {"file": "x"}}, "have the same file x"),
        ({"a": {"kind": "generated", "postgres": {"roles": ["x", "y"]}}}, "two roles need a user_file"),
        ({"a": {"kind": "generated", "http": {"url": "http://x"}, "overlap": "1h"}}, "an overlap needs two roles"),
        ({"a": {"file": "../x"}}, "file"),
    ],
)
def test_a_registry_that_cannot_work_is_refused(tmp_path: Path, secrets: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SecretsTarget.model_validate({"path": tmp_path, "secrets": secrets})


def test_each_field_of_a_secret_is_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs/secrets-rotation.md").read_text()
    table = text.split("## The fields of a secret")[1].split("## ")[0]

    assert [name for name in Secret.model_fields if f"`{name}`" not in table] == []
