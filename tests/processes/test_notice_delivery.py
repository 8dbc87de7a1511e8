"""Delivery of notices to channels that fail, hang, limit the rate, recover, and to a real SMTP server."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from support.receivers import Answer, Hook, smtp_server, webhook
from support.servers.base import free_port, wait_for

from maintd.clock import SystemClock
from maintd.model.notice import Channel, NewNotice, Notice, NoticeKind, NoticeRules, NoticeState, NotifyConfig
from maintd.notify.delivery import GIVE_UP, LEASE, Sender, message_for, retry_after, settle_failure
from maintd.notify.incidents import IncidentRecorder
from maintd.notify.notifier import Notifier
from maintd.notify.outage import StoreOutage
from maintd.notify.sender import Outcome, Result, retry_seconds
from maintd.notify.smtp_outcome import Dialogue, Mail, Reply, outcome_of
from maintd.notify.webhook import signature, verify
from maintd.store import Store, open_store

SECRET = "canary-signing-secret-0815"
MESSAGE: dict[str, Any] = {
    "key": "0123abcd",
    "title": "backup failed ✓",
    "body": "why    disk\ntype   maintd show 7",
    "level": "failure",
    "payload": {"id": "0123abcd", "title": "backup failed ✓"},
}


def hooked(hook: Hook) -> Channel:
    return Channel(name="pager", webhook=SecretStr(hook.url), secret=SecretStr(SECRET))


def mailed(url: str) -> Channel:
    return Channel(name="mail", url=SecretStr(url))


def send(channel: Channel, limit: timedelta = timedelta(seconds=120)) -> Outcome:
    return Sender({}).send(channel, MESSAGE, limit)


# --- one message ---


def test_a_webhook_gets_a_signed_message_with_its_id() -> None:
    with webhook() as hook:
        outcome = send(hooked(hook))

    post = hook.posts[0]
    assert outcome == Outcome(Result.SENT)
    assert json.loads(post.body) == MESSAGE["payload"]
    assert verify(post.headers, post.body, SECRET, time.time())
    assert post.headers["idempotency-key"] == post.headers["webhook-id"] == "0123abcd"
    assert not verify(post.headers, post.body, "another secret of 16", time.time())
    assert not verify(post.headers, post.body, SECRET, time.time() + 600)


def test_the_signature_is_that_of_standard_webhooks() -> None:
    # Source: the example of the specification's reference libraries.
    body, secret = b'{"test": 2432232314}', "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

    found = signature("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body, secret)

    assert found == "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_mail_has_the_title_the_text_and_the_id() -> None:
    with smtp_server() as mailbox:
        outcome = send(mailed(mailbox.url))

    mail = mailbox.mails[0]
    assert outcome == Outcome(Result.SENT)
    assert (mail["Subject"], mail["To"]) == (MESSAGE["title"], "ops@example.com")
    assert str(mail["Message-ID"]).startswith("<0123abcd@")
    assert mailbox.texts()[0].strip() == MESSAGE["body"]


def test_any_service_of_apprise_gets_the_id_where_it_takes_headers() -> None:
    with webhook() as hook:
        outcome = send(mailed(hook.url.replace("http://", "json://")))

    assert outcome.result is Result.SENT
    assert hook.posts[0].headers["idempotency-key"] == "0123abcd"
    assert json.loads(hook.posts[0].body)["title"] == MESSAGE["title"]


@pytest.mark.parametrize("by", ["webhook", "apprise"])
@pytest.mark.parametrize(
    ("answer", "result", "retry"),
    [
        (Answer(429, {"Retry-After": "7"}), Result.DOWN, 7.0),
        (Answer(500), Result.UNCERTAIN, None),
        (Answer(503, {"Retry-After": "120"}), Result.UNCERTAIN, 120.0),
        (Answer(400), Result.REFUSED, None),
        (Answer(410), Result.REFUSED, None),
    ],
)
def test_an_error_of_a_channel_is_classified(by: str, answer: Answer, result: Result, retry: float | None) -> None:
    with webhook(answer) as hook:
        channel = hooked(hook) if by == "webhook" else mailed(hook.url.replace("http://", "json://"))
        outcome = send(channel)

    assert (outcome.result, outcome.retry_seconds) == (result, retry)
    assert str(answer.status) in outcome.error


def test_a_redirect_is_not_followed() -> None:
    with webhook() as other, webhook(Answer(307, {"Location": other.url})) as hook:
        outcome = send(hooked(hook))

    assert outcome.result is Result.REFUSED
    assert other.posts == []


def test_a_channel_that_hangs_is_left_after_the_limit() -> None:
    with webhook(Answer(hang=True)) as hook:
        outcome = send(hooked(hook), timedelta(seconds=5))

    assert outcome.result is Result.UNCERTAIN
    assert "5s" in outcome.error or hook.posts == []


def test_a_refused_connection_is_certainly_not_delivered() -> None:
    channel = Channel(name="pager", webhook=SecretStr(f"http://127.0.0.1:{free_port()}/"), secret=SecretStr(SECRET))

    assert send(channel).result is Result.DOWN


REFUSALS = [("451 try again later", Result.DOWN), ("554 no", Result.REFUSED)]


@pytest.mark.parametrize(("reply", "result"), REFUSALS)
def test_a_mail_whose_text_is_refused_did_not_arrive(reply: str, result: Result) -> None:
    with smtp_server() as mailbox:
        mailbox.refuse = reply
        outcome = send(mailed(mailbox.url))

    assert outcome == Outcome(result, f"refused: {reply}")


@pytest.mark.parametrize(("reply", "result"), REFUSALS)
def test_a_mail_whose_recipient_is_refused_did_not_arrive(reply: str, result: Result) -> None:
    with smtp_server() as mailbox:
        mailbox.refuse_recipients["ops@example.com"] = reply
        outcome = send(mailed(mailbox.url))

    assert outcome == Outcome(result, f"refused: ops@example.com: {reply}")
    assert mailbox.mails == []


@pytest.mark.parametrize(
    ("reply", "result"), [("451 try again later", Result.UNCERTAIN), ("550 no such user", Result.PARTLY)]
)
def test_a_mail_that_some_recipients_got_is_not_sent_again_when_the_others_are_refused(
    reply: str, result: Result
) -> None:
    with smtp_server() as mailbox:
        mailbox.refuse_recipients["gone@example.com"] = reply
        outcome = send(mailed(mailbox.url_to("gone@example.com", "ops@example.com")))

    assert outcome.result is result
    assert outcome.error == f"accepted for ops@example.com; refused: gone@example.com: {reply}"
    assert len(mailbox.mails) == 1


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
def test_a_wrong_password_is_refused_and_not_shown() -> None:
    with smtp_server(password="right-password-17") as mailbox:
        assert send(mailed(mailbox.url)).result is Result.SENT
        mailbox.given = "wrong-password-42"
        outcome = send(mailed(mailbox.url))

    assert outcome.result is Result.REFUSED
    assert outcome.error.startswith("refused: 535 ")
    assert "wrong-password-42" not in outcome.error


@pytest.mark.parametrize(("drop", "result"), [("rcpt", Result.DOWN), ("data", Result.UNCERTAIN)])
def test_a_connection_that_is_lost_is_uncertain_only_after_the_text(drop: str, result: Result) -> None:
    with smtp_server() as mailbox:
        mailbox.drop = drop
        outcome = send(mailed(mailbox.url))

    assert outcome.result is result
    assert outcome.error.startswith("no answer: ")
    assert ("may have arrived" in outcome.error) is (drop == "data")


def test_a_mail_server_that_is_down_did_not_get_the_mail() -> None:
    outcome = send(mailed(f"mailto://127.0.0.1:{free_port()}?from=a@example.com&to=b@example.com&mode=insecure"))

    assert outcome.result is Result.DOWN
    assert "refused" in outcome.error.lower()


@pytest.mark.parametrize(("header", "limit"), [({"Ping-Body-Limit": "100000"}, 100_000), ({}, None)])
def test_the_answer_of_a_monitor_has_how_much_it_keeps(header: dict[str, str], limit: int | None) -> None:
    ping = {"signal": "", "rid": "", "body": "all is well"}
    with webhook(Answer(headers=header)) as hook:
        channel = Channel(name="ping:backup", ping=SecretStr(hook.url))
        outcome = Sender({}).send(channel, MESSAGE | {"ping": ping})

    assert outcome == Outcome(Result.SENT, body_limit=limit)


def test_the_body_of_a_ping_is_as_long_as_the_monitor_keeps(store: Store) -> None:
    with webhook(Answer(headers={"Ping-Body-Limit": "40"})) as hook:
        channel = Channel(name="ping:backup", ping=SecretStr(hook.url))
        with notifier(store, channel) as found:
            for name in ("first", "second"):
                add_test(store, name, channel.name, lines=500)
                found.wake()
                wait_for(lambda name=name: state(store, name).state is NoticeState.SENT, "the ping is sent")

    first, second = (post.body for post in hook.posts)
    assert len(first) > 1000
    assert len(second) <= 40


def test_references_are_resolved_at_delivery(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    with webhook() as hook:
        monkeypatch.setenv("HOOK_URL", hook.url)
        channel = Channel(name="pager", webhook=SecretStr("${HOOK_URL}"), secret=SecretStr("${file:" + str(file) + "}"))
        assert send(channel).result is Result.SENT

    assert verify(hook.posts[0].headers, hook.posts[0].body, SECRET, time.time())


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("json://${NOT_SET_ANYWHERE}/x", "the environment variable is not set"),
        ("json://:hunter2hunter2@", "cannot be parsed"),
        ("slack://hunter2hunter2", "cannot be parsed"),
        ("tgram://123456789:hunter2hunter2_token/", ""),
    ],
)
def test_a_channel_that_cannot_be_used_is_an_error_without_its_secrets(url: str, words: str) -> None:
    outcome = send(mailed(url))

    assert outcome.result in (Result.DOWN, Result.UNCERTAIN)
    assert words in outcome.error
    assert "hunter2hunter2" not in outcome.error


def test_an_error_of_a_webhook_does_not_show_what_it_repeats_of_the_secret() -> None:
    with webhook(Answer(400, body=f"you sent {SECRET}".encode())) as hook:
        outcome = send(hooked(hook))

    assert outcome.error == "HTTP 400: you sent ***"


def test_a_daemon_that_sends_nothing_imports_no_apprise() -> None:
    assert "apprise" not in sys.modules  # what this process imports is what a daemon imports


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("999999", 3600.0),
        ("Mon, 02 Mar 2026 12:01:00 GMT", 60.0),
        ("soon", None),
        (None, None),
        ("-5", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    now = datetime(2026, 3, 2, 12, 0, tzinfo=UTC).timestamp()

    assert retry_seconds(header, now) == seconds


def test_attempts_are_further_apart_each_time_and_respect_retry_after() -> None:
    down, refused = Outcome(Result.DOWN), Outcome(Result.REFUSED)

    seconds = [retry_after(down, number).total_seconds() for number in (1, 2, 3, 4, 5, 6, 99)]
    assert seconds == [10, 20, 40, 80, 160, 300, 300]
    assert retry_after(refused, 99) == timedelta(hours=1)
    assert retry_after(Outcome(Result.DOWN, "", 900.0), 1) == timedelta(minutes=15)


BUSY, NO, LOST = Reply(451, "later"), Reply(550, "no such user"), Reply(0, "Connection unexpectedly closed")


@pytest.mark.parametrize(
    ("dialogue", "result"),
    [
        (Dialogue(), None),
        (Dialogue(mails=[Mail(accepted=("a",))]), None),
        (Dialogue(opening=LOST), Result.DOWN),
        (Dialogue(opening=Reply(421, "too many connections")), Result.DOWN),
        (Dialogue(opening=Reply(535, "wrong")), Result.REFUSED),
        (Dialogue(mails=[Mail(failed=LOST)]), Result.DOWN),
        (Dialogue(mails=[Mail(failed=LOST, text_sent=True)]), Result.UNCERTAIN),
        (Dialogue(mails=[Mail(failed=NO, text_sent=False)]), Result.REFUSED),
        (Dialogue(mails=[Mail(refused={"a": NO, "b": BUSY})]), Result.DOWN),
        (Dialogue(mails=[Mail(refused={"a": NO}), Mail(refused={"b": NO})]), Result.REFUSED),
        (Dialogue(mails=[Mail(accepted=("a",)), Mail(refused={"b": NO})]), Result.PARTLY),
        (Dialogue(mails=[Mail(accepted=("a",), refused={"b": NO})]), Result.PARTLY),
        (Dialogue(mails=[Mail(accepted=("a",)), Mail(failed=LOST)]), Result.UNCERTAIN),
        (Dialogue(mails=[Mail(accepted=("a",)), Mail(refused={"b": BUSY})]), Result.UNCERTAIN),
        (Dialogue(mails=[Mail(refused={"b": NO}), Mail(failed=LOST, text_sent=True)]), Result.UNCERTAIN),
    ],
)
def test_the_dialogue_with_a_mail_server_shows_what_became_of_a_mail(dialogue: Dialogue, result: Result | None) -> None:
    outcome = outcome_of(dialogue)

    assert (None if outcome is None else outcome.result) is result


def notice(number: int, kind: NoticeKind = NoticeKind.FAILED, incident: int | None = None) -> Notice:
    now = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
    return Notice(
        id=number,
        key=str(number),
        incident_id=incident,
        kind=kind,
        channel="pager",
        title=f"entry-{number} {kind}",
        body=f"body {number}",
        details={"entry": f"entry-{number}"},
        created_at=now,
        state=NoticeState.SENDING,
        not_before=now,
    )


def test_many_notices_are_one_message_that_names_them() -> None:
    message = message_for("k", [notice(number) for number in range(1, 121)], "n1")

    assert message["title"] == "120 failed: entry-1, entry-2, entry-3 and 117 more"
    assert message["body"].count("entry-") == 50
    assert "and 70 more notices; list them with: maintd notices" in message["body"]
    assert len(message["payload"]["notices"]) == 120


def test_what_began_and_ended_in_one_message_is_in_it_once() -> None:
    both = [notice(1, incident=5), notice(2, NoticeKind.RECOVERED, incident=5)]

    message = message_for("k", both, "n1")

    assert (message["title"], message["level"]) == ("entry-2 recovered", "failure")


# --- the notifier ---


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    found = open_store(f"sqlite:///{tmp_path}/maintd.db", clock=SystemClock(), migrate=True)
    yield found
    found.close()


@contextmanager
def notifier(store: Store, *channels: Channel, node: str = "n1") -> Iterator[Notifier]:
    config = NotifyConfig(channels={channel.name: channel for channel in channels}, rules=NoticeRules())
    recorder = IncidentRecorder(store, lambda: config, set, node)
    sender = Sender({})
    found = Notifier(
        store,
        SystemClock(),
        recorder,
        lambda: config,
        list,
        node,
        sender=sender,
        outage=StoreOutage(sender, node),
        sweep_every=timedelta(milliseconds=500),
    )
    found.start()
    try:
        yield found
    finally:
        found.stop()


def add(store: Store, *keys: str, channel: str = "pager", kind: NoticeKind = NoticeKind.FAILED) -> None:
    now = store.now()
    store.notices.add(
        [NewNotice(key=key, kind=kind, channel=channel, title=key, body=key, not_before=now) for key in keys], now
    )


def add_test(store: Store, key: str, channel: str, lines: int) -> None:
    """A test of a monitor with a long text."""
    now = store.now()
    body = "\n".join(f"line {number}" for number in range(lines))
    new = NewNotice(key=key, kind=NoticeKind.TEST, channel=channel, title=key, body=body, not_before=now)
    store.notices.add([new], now)


def state(store: Store, key: str) -> Notice:
    found = store.notices.notice(key)
    assert found is not None
    return found


def test_a_channel_that_recovers_gets_all_that_waited(store: Store) -> None:
    with webhook(Answer(429, {"Retry-After": "1"}), Answer()) as hook, notifier(store, hooked(hook)) as found:
        add(store, "a")
        found.wake()
        wait_for(lambda: state(store, "a").error, "the first attempt fails")
        add(store, "b")
        found.wake()
        wait_for(lambda: state(store, "b").state is NoticeState.SENT, "all are sent")

        assert state(store, "a").state is NoticeState.SENT
        assert [json.loads(post.body)["title"] for post in hook.accepted] == ["2 failed: maintd"]


def test_a_channel_that_hangs_holds_up_no_other(store: Store) -> None:
    with webhook(Answer(hang=True)) as slow, webhook() as fast:
        other = hooked(fast).model_copy(update={"name": "other"})
        with notifier(store, hooked(slow), other) as found:
            add(store, "a")
            found.wake()
            wait_for(lambda: slow.posts, "the delivery hangs")
            add(store, "b", channel="other")
            found.wake()
            wait_for(lambda: state(store, "b").state is NoticeState.SENT, "the other channel has its notice")

            assert state(store, "a").state is NoticeState.SENDING


def test_two_nodes_send_each_notice_once(store: Store) -> None:
    with webhook() as hook, notifier(store, hooked(hook)) as one, notifier(store, hooked(hook), node="n2") as two:
        for number in range(12):
            add(store, f"k{number}", kind=NoticeKind.TEST)
            one.wake()
            two.wake()
        wait_for(
            lambda: all(state(store, f"k{number}").state is NoticeState.SENT for number in range(12)), "all are sent"
        )

        sent = sorted(item["key"] for post in hook.posts for item in json.loads(post.body)["notices"])
        assert sent == sorted(f"k{number}" for number in range(12))


def test_a_notice_of_a_channel_that_is_gone_is_given_up(store: Store) -> None:
    with webhook() as hook, notifier(store, hooked(hook)) as found:
        add(store, "a", channel="gone")
        found.wake()
        wait_for(lambda: state(store, "a").state is NoticeState.FAILED, "it is given up")

        assert state(store, "a").error == 'the calendar has no channel "gone" any more'


def test_a_message_is_given_up_after_days(store: Store) -> None:
    add(store, "a")
    claimed = store.notices.claim("n1", store.now(), store.now() + LEASE)
    assert claimed is not None

    settle_failure(store, claimed, Outcome(Result.DOWN, "refused"), store.now() + GIVE_UP + timedelta(seconds=1))

    assert (state(store, "a").state, state(store, "a").error) == (NoticeState.FAILED, "refused")


def test_stopping_ends_a_delivery_and_keeps_its_message(store: Store) -> None:
    with webhook(Answer(hang=True), Answer()) as hook:
        with notifier(store, hooked(hook)) as found:
            add(store, "a")
            found.wake()
            wait_for(lambda: hook.posts, "the delivery hangs")
        assert state(store, "a").state is not NoticeState.SENT

        with notifier(store, hooked(hook)) as found:
            wait_for(lambda: state(store, "a").state is NoticeState.SENT, "it is sent at the next start")
        assert len({post.headers["webhook-id"] for post in hook.posts}) == 1


def test_a_store_that_stays_unreachable_is_reported_without_it_and_its_return_by_rows(store: Store) -> None:
    with webhook(Answer(500), Answer()) as hook:
        outage = StoreOutage(Sender({}), "n1")
        config = NotifyConfig(channels={"pager": hooked(hook)}, rules=NoticeRules(to=("pager",)))
        now = store.now()
        outage.note(config, "connection refused", now, 0)
        outage.note(config, "connection refused", now, 59)
        assert hook.posts == []

        for seconds in (61, 66, 71):  # the first attempt fails, the second succeeds, and there is no third
            outage.note(config, "connection refused", now, seconds)
        outage.over(store)
        outage.over(store)

        assert [post.answer.status for post in hook.posts] == [500, 200]
        assert len({post.headers["webhook-id"] for post in hook.posts}) == 1
        sent = json.loads(hook.accepted[0].body)
        assert sent["title"] == "node n1: the store has been unreachable: connection refused"
        assert [found.kind for found in store.notices.recent()] == [NoticeKind.RECOVERED]


def test_a_short_outage_is_not_reported(store: Store) -> None:
    with webhook() as hook:
        outage = StoreOutage(Sender({}), "n1")
        config = NotifyConfig(channels={"pager": hooked(hook)}, rules=NoticeRules(to=("pager",)))
        outage.note(config, "connection refused", store.now(), 0)
        outage.over(store)
        outage.note(config, "connection refused", store.now(), 100)
        outage.over(store)

        assert hook.posts == []
        assert store.notices.recent() == []
