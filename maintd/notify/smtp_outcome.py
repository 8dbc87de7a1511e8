"""What became of a mail, by the dialogue with its server: apprise only returns whether all went well.

`watch` notes it in the process that sends; `outcome_of` decides, purely. A server that answered with an error code
does not have the mail. It may have it only when the connection was lost after the text of the mail was sent.
"""

from __future__ import annotations

import smtplib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from maintd.notify.sender import Outcome, Result

_MOST_NAMED = 3
_READY = 220


class Reply(NamedTuple):
    """The answer of a server with an error; a code of 0: the connection failed or was lost."""

    code: int
    text: str

    @property
    def definite(self) -> bool:
        """Whether the server refuses for good: 5xx. With 4xx it asks to try again later."""
        return 500 <= self.code < 600

    def __str__(self) -> str:
        return f"{self.code} {self.text}".strip() if self.code else self.text


@dataclass
class Mail:
    """One mail: which recipients the server accepted it for, which it refused, and how else it failed."""

    accepted: tuple[str, ...] = ()
    refused: Mapping[str, Reply] = field(default_factory=dict)
    failed: Reply | None = None  # for all recipients: MAIL, DATA, or the connection
    text_sent: bool = False  # at least a part of the text was sent when the connection was lost


@dataclass
class Dialogue:
    """The dialogue with one server: why it did not begin, and the mails."""

    opening: Reply | None = None  # of the connection, STARTTLS or the login
    mails: list[Mail] = field(default_factory=list)


def outcome_of(dialogue: Dialogue) -> Outcome | None:
    """What became of the message; None when the dialogue does not show a failure. Pure.

    1. A connection that was lost after the text was sent: it may have arrived.
    2. Accepted for some recipients, and refused for good for all others: partly, and not sent again.
       Accepted for some, and not yet for others: the next attempt repeats it for the former.
    3. Not accepted for any: refused for good, or the server is down or asks to try again.
    """
    mails = dialogue.mails
    lost = [mail.failed for mail in mails if mail.failed is not None and mail.text_sent]
    accepted = [address for mail in mails for address in mail.accepted]
    failures = [("", reply) for reply in (dialogue.opening, *(mail.failed for mail in mails)) if reply is not None]
    failures += [(address, reply) for mail in mails for address, reply in mail.refused.items()]
    if not failures:
        return None
    error = _text(failures)
    if lost:
        return Outcome(Result.UNCERTAIN, f"{error}: the mail may have arrived")
    definite = all(reply.definite for _, reply in failures)
    if accepted:
        some = f"accepted for {_names(accepted)}; {error}"
        return Outcome(Result.PARTLY if definite else Result.UNCERTAIN, some)
    return Outcome(Result.REFUSED if definite else Result.DOWN, error)


def _text(failures: Sequence[tuple[str, Reply]]) -> str:
    """`refused: ops@example.com: 550 no such user`; of several, the first ones."""
    texts = [f"{address}: {reply}" if address else str(reply) for address, reply in failures]
    more = f" (and {len(texts) - _MOST_NAMED} more)" if len(texts) > _MOST_NAMED else ""
    answered = any(reply.code for _, reply in failures)
    return f"{'refused' if answered else 'no answer'}: {'; '.join(texts[:_MOST_NAMED])}{more}"


def _names(addresses: Sequence[str]) -> str:
    more = f" and {len(addresses) - _MOST_NAMED} more" if len(addresses) > _MOST_NAMED else ""
    return ", ".join(addresses[:_MOST_NAMED]) + more


# --- the dialogue ---


@contextmanager
def watch() -> Iterator[Dialogue]:
    """Note, within this block, what the servers answer to the mails of this process."""
    dialogue = Dialogue()
    originals = {name: getattr(smtplib.SMTP, name) for name in ("connect", "starttls", "login", "data", "sendmail")}

    def opening(name: str) -> Any:
        def call(self: smtplib.SMTP, *args: Any, **options: Any) -> Any:
            try:
                answer = originals[name](self, *args, **options)
            except (OSError, smtplib.SMTPException) as error:
                dialogue.opening = _reply(error)
                raise
            if name == "connect" and answer[0] != _READY:  # smtplib itself raises afterwards
                dialogue.opening = _pair(answer)
            return answer

        return call

    def data(self: smtplib.SMTP, message: Any) -> Any:
        text_begins = _sends_text(self)
        try:
            return originals["data"](self, message)
        finally:
            dialogue.mails[-1].text_sent = text_begins()

    def sendmail(self: smtplib.SMTP, sender: str, recipients: Any, *args: Any, **options: Any) -> Any:
        addresses = [recipients] if isinstance(recipients, str) else list(recipients)
        mail = Mail()
        dialogue.mails.append(mail)
        try:
            refused = originals["sendmail"](self, sender, addresses, *args, **options)
        except smtplib.SMTPRecipientsRefused as error:
            mail.refused = {address: _pair(reply) for address, reply in error.recipients.items()}
            raise
        except (OSError, smtplib.SMTPException) as error:
            mail.failed = _reply(error)
            mail.text_sent = mail.text_sent and not mail.failed.code
            raise
        mail.refused = {address: _pair(reply) for address, reply in refused.items()}
        mail.accepted = tuple(address for address in addresses if address not in refused)
        return refused

    wrapped = {name: opening(name) for name in ("connect", "starttls", "login")} | {"data": data, "sendmail": sendmail}
    for name, function in wrapped.items():
        setattr(smtplib.SMTP, name, function)
    try:
        yield dialogue
    finally:
        for name, function in originals.items():
            setattr(smtplib.SMTP, name, function)


def _sends_text(server: smtplib.SMTP) -> Any:
    """Whether the server got more than the command DATA, as a function to call afterwards."""
    send, sent = server.send, [0]

    def counted(text: Any) -> Any:
        sent[0] += 1
        return send(text)

    vars(server)["send"] = counted

    def begun() -> bool:
        del vars(server)["send"]
        return sent[0] > 1

    return begun


def _reply(error: OSError | smtplib.SMTPException) -> Reply:
    if isinstance(error, smtplib.SMTPResponseException):
        return _pair((error.smtp_code, error.smtp_error))
    return Reply(0, f"{error}" or type(error).__name__)


def _pair(reply: tuple[int, bytes | str]) -> Reply:
    code, text = reply
    plain = text.decode(errors="replace") if isinstance(text, bytes) else text
    return Reply(code if 100 <= code < 600 else 0, " ".join(plain.split()))
