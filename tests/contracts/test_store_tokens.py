"""Tokens in the store: their digests, their end, their last use."""

from __future__ import annotations

from datetime import timedelta

import pytest
from support.stores import NOON, at, entry, sync

from maintd.errors import RefusedError
from maintd.model.access import Role, Token, TokenState
from maintd.operations.tokens import create_token
from maintd.store import Store


def token(name: str = "ci", **fields: object) -> Token:
    values = {"name": name, "role": Role.OPERATOR, "created_at": NOON, "created_by": "ada", "expires_at": at(60)}
    return Token.model_validate(values | fields)


def test_a_token_is_found_by_its_digest(store: Store) -> None:
    store.tokens.add(token(entries=("backup-*", "vacuum")), "d1")

    found = store.tokens.find("d1")

    assert found is not None
    assert (found.digest, found.token) == ("d1", token(entries=("backup-*", "vacuum")))
    assert store.tokens.find("d2") is None


def test_a_name_is_used_once_even_when_its_token_is_revoked(store: Store) -> None:
    store.tokens.add(token(), "d1")
    store.tokens.revoke("ci", by="bob", now=at(1))

    with pytest.raises(RefusedError, match='there is a token "ci" already'):
        store.tokens.add(token(), "d2")

    assert [event.kind for event in store.audit.recent()] == ["token_revoked", "token_created"]


def test_a_token_is_revoked_once(store: Store) -> None:
    store.tokens.add(token(), "d1")

    assert store.tokens.revoke("ci", by="bob", origin="10.0.0.7", why="leaked", now=at(1))
    assert not store.tokens.revoke("ci", by="eve", now=at(2))
    assert not store.tokens.revoke("other", by="eve", now=at(2))

    kept = store.tokens.all()[0]
    assert (kept.revoked_at, kept.revoked_by, kept.state_at(at(3))) == (at(1), "bob", TokenState.REVOKED)
    event = store.audit.recent(1)[0]
    assert (event.by, event.origin, event.why, event.subject) == ("bob", "10.0.0.7", "leaked", "ci")


def test_whether_any_token_is_valid(store: Store) -> None:
    assert not store.tokens.any_valid(at(0))
    store.tokens.add(token("a"), "d1")
    store.tokens.add(token("b", expires_at=at(90)), "d2")

    assert store.tokens.any_valid(at(59))
    assert store.tokens.any_valid(at(60))
    store.tokens.revoke("b", by="ada", now=at(60))
    assert not store.tokens.any_valid(at(60))


def test_the_valid_ones_of_some_tokens_are_neither_expired_nor_revoked(store: Store) -> None:
    ends = {"short": 10, "long": 60, "revoked": 60, "other": 60}
    ids = {}
    for name, end in ends.items():
        store.tokens.add(token(name, expires_at=at(end)), name)
        found = store.tokens.find(name)
        assert found is not None
        ids[name] = found.id
    store.tokens.revoke("revoked", by="ada", now=at(1))
    asked = {ids[name] for name in ("short", "long", "revoked")} | {4711}

    assert store.tokens.valid(asked, at(9)) == {ids["short"], ids["long"]}
    assert store.tokens.valid(asked, at(10)) == {ids["long"]}  # as `state_at`: expired at that instant
    assert store.tokens.valid(asked, at(60)) == set()
    assert store.tokens.valid(set(), at(1)) == set()


def test_valid_and_the_state_of_a_token_agree_at_each_instant(store: Store) -> None:
    store.tokens.add(token(), "d1")
    found = store.tokens.find("d1")
    assert found is not None

    for seconds in (-1, 0, 1):
        now = at(60) + timedelta(seconds=seconds)
        valid = found.token.state_at(now) is TokenState.VALID
        assert (found.id in store.tokens.valid({found.id}, now)) is valid, seconds
        assert store.tokens.any_valid(now) is valid, seconds


def test_the_last_use_is_recorded_at_most_once_a_minute(store: Store) -> None:
    store.tokens.add(token(), "d1")
    found = store.tokens.find("d1")
    assert found is not None

    store.tokens.record_use(found.id, "10.0.0.7", at(1))
    store.tokens.record_use(found.id, "10.0.0.8", at(1) + timedelta(seconds=59))
    within = store.tokens.all()[0]
    store.tokens.record_use(found.id, "10.0.0.9", at(2))

    assert (within.last_used_at, within.last_used_from) == (at(1), "10.0.0.7")
    assert store.tokens.all()[0].last_used_from == "10.0.0.9"


def test_the_person_who_holds_a_token_is_stored_and_in_the_audit_event(store: Store) -> None:
    store.tokens.add(token(person="ada"), "d1")

    assert [found.person for found in store.tokens.all()] == ["ada"]
    assert "held by ada" in store.audit.recent(1)[0].text


def test_patterns_that_match_no_entry_are_named_once_there_are_entries(store: Store) -> None:
    before = create_token(store, "a", Role.VIEWER, entries=("vacum",))
    sync(store, entry("vacuum"), entry("backup-db"), entry("off", enabled=False))

    created = create_token(store, "b", Role.VIEWER, entries=("vacum", "backup-*", "off"))

    assert (before.unmatched, created.unmatched) == ((), ("vacum", "off"))
