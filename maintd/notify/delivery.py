"""One message from its claimed rows to its channel: the process that sends it, and what is written afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import structlog

from maintd.errors import MaintdError
from maintd.model.notice import Channel, Notice, NoticeKind, secrets_of_channel
from maintd.notify.announcements import is_obsolete
from maintd.notify.messages import message_of, payload_of
from maintd.notify.ping_protocol import MAX_BODY_BYTES
from maintd.notify.pings import is_stale, ping_message
from maintd.notify.sender import LONGEST_ERROR, Outcome, Result
from maintd.redaction import forms_of, replace_secrets
from maintd.store import Store
from maintd.store.notices import ClaimedGroup

log = structlog.get_logger()

TIME_LIMIT = timedelta(seconds=45)
"""The delivery of one message; the process that sends it is killed after that."""

LEASE = timedelta(seconds=120)
"""How long a claim is held. Longer than TIME_LIMIT with the writes around it: no other node sends then."""

FIRST_RETRY = timedelta(seconds=10)
MOST_RETRY = timedelta(minutes=5)
"""Between attempts, doubled from FIRST_RETRY, while a channel is down. A channel's Retry-After can be longer."""

MOST_REFUSED_RETRY = timedelta(hours=1)
"""Between attempts of a message that the channel refuses: its configuration may be corrected."""

GIVE_UP = timedelta(days=3)
"""A message that is older is not tried again."""

MOST_BODY = 20_000
"""Characters of a message's body."""

SCRUBBED = "MAINTD_STORE_URL"
"""Prefix of the environment variables that hold the store's credentials."""

_LEVELS = {
    NoticeKind.RECOVERED: "success",
    NoticeKind.DIGEST: "info",
    NoticeKind.TEST: "info",
    NoticeKind.ANNOUNCEMENT: "info",
    NoticeKind.PING: "info",
    NoticeKind.UNKNOWN: "warning",
    NoticeKind.LATE: "warning",
    NoticeKind.TOO_LONG: "warning",
    NoticeKind.WAITING: "warning",
}


class Sender:
    """Starts a process for each message, and ends those under way when the daemon stops."""

    def __init__(self, mark: Mapping[str, str]) -> None:
        """`mark` are environment variables by which a later daemon recognizes processes that this one left."""
        self._mark = dict(mark)
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = False
        self.body_limits: dict[str, int] = {}  # channel of a monitor → bytes that it keeps of a body, as it answered

    def send(self, channel: Channel, message: Mapping[str, Any], limit: timedelta = TIME_LIMIT) -> Outcome:
        """Deliver a message within the limit."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith(SCRUBBED)}
        fields = {name: getattr(channel, name) for name in ("url", "webhook", "secret", "ping")}
        given = {name: None if value is None else value.get_secret_value() for name, value in fields.items()}
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", "from maintd.notify.sender import main; main()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environ | self._mark,
                start_new_session=True,
            )
        except OSError as error:
            return Outcome(Result.DOWN, f"the process that sends it cannot be started: {error}")
        with self._lock:
            self._running.add(process)
            if self._stopped:
                process.kill()
        try:
            order = json.dumps({"channel": given, "message": message}).encode()
            out, err = process.communicate(order, timeout=limit.total_seconds())
        except subprocess.TimeoutExpired:
            return Outcome(Result.UNCERTAIN, f"not delivered within {limit.total_seconds():.0f}s")
        finally:
            with self._lock:
                self._running.discard(process)
            _end(process)
        return _read_outcome(process.returncode, out, err)

    def stop(self) -> None:
        """End the deliveries under way; their messages may have been delivered."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                with suppress(ProcessLookupError):
                    process.kill()


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with suppress(ProcessLookupError):
            process.kill()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
    process.wait()


def _read_outcome(code: int, out: bytes, err: bytes) -> Outcome:
    try:
        found = json.loads(out)
        return Outcome(Result(found["result"]), found["error"], found["retry_seconds"], found["body_limit"])
    except (ValueError, KeyError, TypeError):
        last = err.decode(errors="replace").strip().splitlines()[-1:]
        kind = last[0].partition(":")[0] if last else ""  # only the kind of an error: its text may have a secret
        return Outcome(Result.UNCERTAIN, f"the process that sends it ended with code {code} {kind}".strip())


def deliver(store: Store, sender: Sender, channels: Mapping[str, Channel], group: ClaimedGroup, node: str) -> Outcome:
    """Deliver claimed notices as one message, and write what became of it. Raises StoreError.

    1. Leave out a ping or an announcement that is not true any more.
    2. Renew the lease: a claim that another node took over is not delivered.
    3. Send.
    4. Mark the notices as sent; or requeue them, or give up.
    """
    channel = channels.get(group.channel)
    if channel is None:
        outcome = Outcome(Result.REFUSED, f'the calendar has no channel "{group.channel}" any more')
        if group.notices[0].kind is NoticeKind.PING:
            store.notices.discard(group)
        else:
            store.notices.give_up(group, outcome.error)
        return outcome
    if is_stale(group.notices[0], store.now()) or is_obsolete(store, group.notices[0]):
        store.notices.discard(group)
        return Outcome(Result.DOWN, "it is not true any more")
    if not store.notices.renew(group, store.now() + LEASE):
        return Outcome(Result.DOWN, "another node took it over")
    message = message_for(group.key, group.notices, node)
    if channel.ping is not None:
        limit = sender.body_limits.get(group.channel, MAX_BODY_BYTES)
        message["ping"] = ping_message(store, group.notices[0], limit)
    outcome = sender.send(channel, message)
    if outcome.body_limit is not None:  # only a matter of this process: the answer to the next ping has it again
        sender.body_limits[group.channel] = outcome.body_limit
    secrets = forms_of({text for each in channels.values() for text in secrets_of_channel(each)})
    outcome = outcome._replace(error=replace_secrets(outcome.error, secrets))  # those of other channels, too
    now = store.now()
    if outcome.result is Result.SENT:
        store.notices.mark_sent(group, now)
    else:
        settle_failure(store, group, outcome, now)
    return outcome


def settle_failure(store: Store, group: ClaimedGroup, outcome: Outcome, now: datetime) -> None:
    """Requeue a message for its next attempt, or give it up when it is old, a test, or accepted for some recipients."""
    error = outcome.error[:LONGEST_ERROR] or str(outcome.result)
    first = group.notices[0]
    if now - min(notice.created_at for notice in group.notices) > GIVE_UP or _is_final(first, outcome):
        store.notices.give_up(group, error)
        return
    store.notices.requeue(
        group,
        error,
        now + retry_after(outcome, max(notice.attempts for notice in group.notices)),
        uncertain=outcome.result is Result.UNCERTAIN,
        channel_down=outcome.result is not Result.REFUSED,
    )


def _is_final(notice: Notice, outcome: Outcome) -> bool:
    """Whether there is no further attempt: those who have the message would get it again."""
    return notice.kind is NoticeKind.TEST or outcome.result is Result.PARTLY


def retry_after(outcome: Outcome, attempts: int) -> timedelta:
    """How long to wait before the next attempt, after so many."""
    most = MOST_REFUSED_RETRY if outcome.result is Result.REFUSED else MOST_RETRY
    wait = min(FIRST_RETRY * (1 << min(max(attempts, 1) - 1, 12)), most)
    wanted = timedelta(seconds=outcome.retry_seconds or 0)
    return max(wait, wanted)


def message_for(key: str, notices: Sequence[Notice], node: str) -> dict[str, Any]:
    """What the process that sends a message needs."""
    title, body = message_of(notices)
    kinds = {notice.kind for notice in notices}
    levels = {_LEVELS.get(kind, "failure") for kind in kinds}
    level = next(level for level in ("failure", "warning", "info", "success") if level in levels)
    if len(body) > MOST_BODY:
        body = f"{body[:MOST_BODY]}\n…"
    return {
        "key": key,
        "title": title,
        "body": body,
        "level": level,
        "payload": payload_of(key, notices) | {"node": node},
    }


def log_outcome(group: ClaimedGroup, outcome: Outcome) -> None:
    """Log what became of a message, without its text."""
    facts = {"channel": group.channel, "notices": len(group.notices), "attempt": group.notices[0].attempts}
    if outcome.result is Result.SENT:
        log.info("notice_sent", **facts)
    else:
        log.warning("notice_not_sent", result=outcome.result.value, error=outcome.error, **facts)


def log_direct(channel: str, outcome: Outcome) -> None:
    """Log what became of a message that has no rows."""
    log.info("notice_sent_without_store", channel=channel, result=outcome.result.value, error=outcome.error or None)


def unexpected(error: Exception) -> Outcome:
    """The outcome of a delivery that failed in this process."""
    text = error.message if isinstance(error, MaintdError) else type(error).__name__
    return Outcome(Result.UNCERTAIN, text)
