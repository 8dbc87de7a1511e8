"""Tokens and roles: what is accepted, what is stored, what each role may do."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.web_services import NOON, Harness, at, harness

from maintd.errors import ForbiddenError, RefusedError, UnknownNameError, UsageError
from maintd.model.access import LEAST_ROLES, Caller, Right, Role, TokenState, roles_with
from maintd.operations.tokens import (
    DEFAULT_LIFETIME,
    LONGEST_LIFETIME,
    PREFIX,
    create_token,
    find_token,
    list_tokens,
    revoke_token,
)
from maintd.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with harness(tmp_path) as made:
        yield made.store


def test_each_role_has_the_rights_of_those_before_it() -> None:
    rights = [{right for right in Right if role.has(right)} for role in Role]

    assert all(less < more for less, more in pairwise(rights))
    assert rights[0] == {Right.PROBE, Right.READ}
    assert rights[-1] == set(Right)
    assert set(LEAST_ROLES) == set(Right) - {Right.PROBE}
    assert roles_with(Right.TRIGGER) == (Role.OPERATOR, Role.APPROVER, Role.ADMIN)


def test_a_caller_without_a_role_may_only_probe() -> None:
    assert [right for right in Right if Caller(role=None).may(right)] == [Right.PROBE]


def test_a_limited_caller_is_only_for_matching_entries() -> None:
    limited = Caller("ci", Role.OPERATOR, entries=("backup-*", "vacuum"), token="ci")

    assert [name for name in ("backup-db", "vacuum", "Vacuum", "a-backup-db") if limited.covers(name)] == [
        "backup-db",
        "vacuum",
    ]
    assert Caller("ci").covers("anything")
    with pytest.raises(ForbiddenError, match='token "ci" is not for the entry "probe"'):
        limited.require("probe")


def test_only_the_digest_of_a_token_is_stored(store: Store, tmp_path: Path) -> None:
    created = create_token(store, "ci", Role.OPERATOR)

    secret = created.token.removeprefix(PREFIX)
    assert len(secret) == 43  # 32 bytes in Base64
    assert secret.encode() not in b"".join(path.read_bytes() for path in tmp_path.glob("maintd.db*"))
    assert secret not in repr(created)
    found = find_token(store, created.token)
    assert found is not None
    assert found.token.name == "ci"


def test_two_tokens_differ(store: Store) -> None:
    assert create_token(store, "a", Role.VIEWER).token != create_token(store, "b", Role.VIEWER).token


@pytest.mark.parametrize("change", [lambda t: t[:-1], lambda t: t + "A", lambda t: t.removeprefix(PREFIX), str.upper])
def test_a_text_that_is_not_the_token_is_not_found(store: Store, change: object) -> None:
    created = create_token(store, "ci", Role.OPERATOR)

    assert find_token(store, change(created.token)) is None  # type: ignore[operator]


@pytest.mark.parametrize("text", ["", "maintd_", "é" * 43, "maintd_" + "=" * 43, "maintd_" + "A" * 100_000, "\0"])
def test_any_text_can_be_looked_up(store: Store, text: str) -> None:
    assert find_token(store, text) is None


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=60) | st.text(max_size=60).map(PREFIX.__add__))
def test_no_text_is_an_error(store: Store, text: str) -> None:
    assert find_token(store, text) is None


def test_the_spare_bits_of_the_last_character_must_be_zero(store: Store) -> None:
    token = create_token(store, "ci", Role.OPERATOR).token
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = alphabet[alphabet.index(token[-1]) + 1]  # the same 32 bytes: 43 characters hold two bits more

    assert find_token(store, token[:-1] + other) is None


def test_a_token_expires_by_default(store: Store) -> None:
    created = create_token(store, "ci", Role.OPERATOR)

    assert created.expires_at == NOON + DEFAULT_LIFETIME
    assert created.state_at(created.expires_at - timedelta(seconds=1)) is TokenState.VALID
    assert created.state_at(created.expires_at) is TokenState.EXPIRED


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"expires_at": NOON}, "is in the past"),
        ({"expires_at": NOON + LONGEST_LIFETIME + timedelta(hours=1)}, "at most 366d"),
        ({"name": ""}, "not a name for a token"),
        ({"name": "a b"}, "not a name for a token"),
        ({"name": "x" * 65}, "not a name for a token"),
        ({"entries": ["backup-*", ""]}, "not a pattern of entry names"),
        ({"entries": ["a/b"]}, "not a pattern of entry names"),
        ({"entries": [f"e{n}" for n in range(21)]}, "more than 20 patterns"),
    ],
)
def test_a_token_with_a_bad_value_is_not_created(store: Store, fields: dict[str, object], message: str) -> None:
    values: dict[str, object] = {"name": "ci", "role": Role.VIEWER} | fields

    with pytest.raises(UsageError, match=message):
        create_token(store, **values)  # type: ignore[arg-type]

    assert list_tokens(store) == ()


def test_a_revoked_token_is_listed_as_revoked(store: Store) -> None:
    create_token(store, "ci", Role.OPERATOR, by="ada")

    revoked = revoke_token(store, "ci", by="bob", why="leaked")

    assert (revoked.state, revoked.revoked_by) == (TokenState.REVOKED, "bob")
    assert list_tokens(store) == (revoked,)
    with pytest.raises(RefusedError, match="is revoked already"):
        revoke_token(store, "ci", by="bob")
    with pytest.raises(UnknownNameError, match='did you mean "ci"'):
        revoke_token(store, "ci1", by="bob")


def test_creation_and_revocation_are_audit_events(store: Store) -> None:
    create_token(store, "ci", Role.OPERATOR, entries=["vacuum"], by="ada", origin="socket")
    revoke_token(store, "ci", by="bob", origin="10.0.0.7", why="leaked")

    revoked, created = store.audit.recent()

    assert (created.kind, created.by, created.origin) == ("token_created", "ada", "socket")
    assert created.text == "operator, expires 2026-05-31 12:00Z, for vacuum"
    assert (revoked.kind, revoked.by, revoked.origin, revoked.why) == ("token_revoked", "bob", "10.0.0.7", "leaked")


def test_the_state_is_that_at_the_time_of_the_store(tmp_path: Path) -> None:
    with harness(tmp_path) as made:
        short(made)
        made.clock.advance(timedelta(minutes=6))

        assert [token.state for token in list_tokens(made.store)] == [TokenState.EXPIRED]


def short(made: Harness) -> None:
    create_token(made.store, "ci", Role.VIEWER, expires_at=at(5))


@pytest.mark.parametrize("person", ["root", "maintd", "ada lovelace", "a" * 65, "-x"])
def test_a_token_is_held_by_one_person_with_a_name(store: Store, person: str) -> None:
    with pytest.raises(UsageError, match="is not the name of a person"):
        create_token(store, "ci", Role.OPERATOR, person=person)


@pytest.mark.parametrize(
    ("caller", "person"),
    [
        (Caller("ada"), "ada"),
        (Caller("root"), ""),
        (Caller("uid 1000"), ""),
        (Caller("ada (as root)"), "ada"),
        (Caller("root (as ada)", token="laptop"), "ada"),
        (Caller("bob (as ada)", token="laptop"), "ada"),
        (Caller("ci", token="ci", by_program=True), ""),
        (Caller("ada (as ci)", token="ci", by_program=True), "ada"),
        (Caller("root (as ci)", token="ci", by_program=True), ""),
        (Caller(), ""),
    ],
)
def test_the_person_who_acts_is_verified_or_else_claimed(caller: Caller, person: str) -> None:
    assert caller.person == person
