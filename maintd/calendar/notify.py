"""The section `notify` of a calendar: channels, rules, quiet hours, the digest and pings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Any

from pydantic import SecretStr

from maintd.calendar.apprise_schemes import SCHEMES
from maintd.calendar.entries import ReadEntry
from maintd.calendar.policies import read_positive
from maintd.calendar.value_readers import NodeReader, kind, unknown
from maintd.config.yaml_tree import MappingNode, Node, ScalarNode, SequenceNode
from maintd.model.entry import Rule, ScheduleKind
from maintd.model.notice import (
    OWN_PING,
    ROUTED_KINDS,
    Channel,
    Digest,
    NoticeKind,
    NoticeRules,
    NotifyConfig,
    OwnPing,
    QuietHours,
    ping_name,
)
from maintd.schedule import compile_rule, zone_problem
from maintd.secret_params import malformed_reference

_KINDS = tuple(kind.value for kind in ROUTED_KINDS)
RULE_KEYS = ("to", "critical", *_KINDS)
"""Keys of the rules: in `notify`, below `notify: entries`, and in the `notify` of an entry."""

NOTIFY_KEYS = ("channels", *RULE_KEYS, "quiet", "digest", "page", "ping", "entries")
CHANNEL_KEYS = ("url", "webhook", "secret")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9]*)://(.*)", re.DOTALL)
_REFERENCE = re.compile(r"\$\{[^}]*\}")
_FACTOR = re.compile(r"(\d+(?:\.\d+)?)x")
_TIME = re.compile(r"([01]?\d|2[0-3]):[0-5]\d")
_SHORTEST_SECRET = 16
_SHORTEST_PING = timedelta(seconds=10)

_Fields = Mapping[str, tuple[ScalarNode, Node]]


@dataclass(frozen=True)
class _Scope:
    """A reader, and the names of the channels that values can refer to."""

    read: NodeReader
    channels: Sequence[str]

    def within(self, about: str) -> _Scope:
        return _Scope(self.read.within(about), self.channels)


def read_notify(scope: NodeReader, node: Node | None, entries: Iterable[ReadEntry], timezone: str) -> NotifyConfig:
    """The section `notify`, and the keys `notify` and `ping` of entries; adds errors to the scope."""
    entries = list(entries)
    fields: _Fields = {} if node is None else scope.within("notify").fields(node, "notify", NOTIFY_KEYS)
    channels = _channels(scope.within("notify"), fields)
    within = _Scope(scope.within("notify"), list(channels))
    given = _rules(within, fields)
    own = _rules_by_entry(within, fields, entries)
    for entry in entries:
        if "notify" in entry.fields:
            place = _Scope(scope.within(f'entry "{entry.key.text}"').within("notify"), list(channels))
            rules = place.read.fields(entry.fields["notify"][1], "notify", RULE_KEYS)
            own[entry.key.text] = _merged(own.get(entry.key.text, {}), _rules(place, rules))
            if not channels and rules:
                place.read.error(entry.fields["notify"][0], "the calendar has no channels; add notify: {channels: …}")
    to = {"to": tuple(channels)}
    return NotifyConfig(
        channels=channels,
        rules=_built(to, given),
        entries={name: _built(to, given, rules) for name, rules in own.items()},
        quiet=_quiet(within.read, fields["quiet"][1], timezone) if "quiet" in fields else None,
        digest=_digest(within, fields["digest"][1], timezone, given) if "digest" in fields else None,
        page=_page(within.read, fields["page"][1]) if "page" in fields else "",
        pings=_pings(scope, entries),
        own_ping=_own_ping(within.read, fields["ping"][1]) if "ping" in fields else None,
    )


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Rules with others above them. With a new `to`, kinds lose the channels of their own; what is off stays off."""
    kinds: dict[NoticeKind, tuple[str, ...]] = dict(below.get("kinds", {}))
    if "to" in above:
        kinds = {kind: channels for kind, channels in kinds.items() if not channels}
    on = above.get("on", frozenset())
    kinds = {kind: channels for kind, channels in kinds.items() if kind not in on} | above.get("kinds", {})
    return {**below, **above, "kinds": kinds, "on": on | (below.get("on", frozenset()) - kinds.keys())}


def _built(*levels: Mapping[str, Any]) -> NoticeRules:
    """The rules of several levels, the last one above all others."""
    merged: dict[str, Any] = {}
    for level in levels:
        merged = _merged(merged, level)
    return NoticeRules(**{key: value for key, value in merged.items() if key != "on"})


# --- channels ---


def channel_places(node: Node | None, entries: Iterable[ReadEntry]) -> dict[str, Node]:
    """Where the calendar has each channel, and each monitor that expects pings, by its name."""
    sections = {key.text: value for key, value in node.items} if isinstance(node, MappingNode) else {}
    channels = sections.get("channels")
    found: dict[str, Node] = {}
    if isinstance(channels, MappingNode):
        found = {key.text: key for key, _ in channels.items}
    found |= {ping_name(entry.key.text): entry.fields["ping"][1] for entry in entries if "ping" in entry.fields}
    return found | ({OWN_PING: sections["ping"]} if "ping" in sections else {})


def _channels(scope: NodeReader, fields: _Fields) -> dict[str, Channel]:
    if "channels" not in fields:
        return {}
    found: dict[str, Channel] = {}
    for key, value in scope.pairs(fields["channels"][1], "channels", "channel"):
        channel = _channel(scope.within(f'channel "{key.text}"'), key, value)
        if channel is not None:
            found[key.text] = channel
    return found


def _channel(scope: NodeReader, key: ScalarNode, node: Node) -> Channel | None:
    if not _NAME.fullmatch(key.text):
        scope.error(key, "a name has at most 64 letters, digits, - _ and ., and begins with a letter or a digit")
    fields = scope.fields(node, "a channel", CHANNEL_KEYS)
    given = [name for name in ("url", "webhook") if name in fields]
    if len(given) != 1:
        scope.error(key, "write url: a URL of apprise, such as mailtos://…, or webhook: a URL that gets a POST")
        return None
    address = fields[given[0]][1]
    text = scope.text(address, given[0])
    secret = scope.text(fields["secret"][1], "secret") if "secret" in fields else None
    if text is None:
        return None
    problem = _url_problem(text) if given[0] == "url" else _webhook_problem(text)
    if problem:
        scope.error(address, f"{given[0]}: {problem}")
    if given[0] == "url" and "secret" in fields:
        scope.error(fields["secret"][0], "a secret signs the body of a webhook; a URL of apprise has none")
    if given[0] == "webhook" and "secret" not in fields:
        scope.error(key, "a webhook needs a secret that signs its body; for example secret: ${file:/run/secrets/hook}")
    if secret is not None and not _REFERENCE.search(secret) and len(secret) < _SHORTEST_SECRET:
        scope.error(fields["secret"][1], f"the secret is shorter than {_SHORTEST_SECRET} characters")
    return Channel(
        name=key.text,
        url=SecretStr(text) if given[0] == "url" else None,
        webhook=SecretStr(text) if given[0] == "webhook" else None,
        secret=None if secret is None else SecretStr(secret),
    )


def _url_problem(text: str) -> str:
    """What is wrong with a URL of apprise, without its secrets; apprise itself reads it when a notice is sent."""
    if _REFERENCE.match(text):
        return ""
    found = _SCHEME.fullmatch(text)
    if found is None:
        return (
            "not a URL; write for example mailtos://user:${file:/run/secrets/smtp}@mail.example.com?to=ops@example.com"
        )
    scheme, rest = found[1].lower(), found[2]
    if scheme not in SCHEMES:
        return unknown("scheme", found[1], SCHEMES, "see github.com/caronc/apprise/wiki for the schemes of apprise")
    if not rest.strip("/") and scheme != "syslog":
        return f'nothing follows "{found[1]}://"'
    return "it has a space; write it as %20" if re.search(r"\s", _REFERENCE.sub("", rest)) else ""


def _webhook_problem(text: str) -> str:
    if _REFERENCE.match(text):
        return ""
    found = re.fullmatch(r"https?://([^/?#\s]+)(?:[/?#]\S*)?", _REFERENCE.sub("x", text))
    if found is None:
        return "not a URL; write https://host/path"
    port = found[1].rpartition("@")[2].rpartition("]")[2].partition(":")[2]
    return f'"{port}" is not a port' if port and not (port.isdecimal() and 0 < int(port) < 65536) else ""


# --- pings ---


def _pings(scope: NodeReader, entries: Iterable[ReadEntry]) -> dict[str, Channel]:
    found = {}
    for entry in entries:
        name = entry.key.text
        if "ping" in entry.fields:
            channel = _ping(scope.within(f'entry "{name}"'), entry.fields["ping"][1], ping_name(name))
            if channel is not None:
                found[name] = channel
    return found


def _own_ping(scope: NodeReader, node: Node) -> OwnPing | None:
    """`ping: URL`, or `{url: URL, every: 1m}`."""
    if isinstance(node, ScalarNode):
        channel = _ping(scope, node, OWN_PING)
        return None if channel is None else OwnPing(channel=channel)
    fields = scope.fields(node, "ping", ("url", "every"))
    if "url" not in fields:
        scope.error(node, 'ping has no "url"; for example ping: {url: "https://hc-ping.com/${PING_KEY}/maintd"}')
        return None
    channel = _ping(scope, fields["url"][1], OWN_PING)
    every = OwnPing.model_fields["every"].default
    if "every" in fields:
        every = read_positive(scope, fields["every"][1], "ping: every") or every
        if every < _SHORTEST_PING:
            scope.error(fields["every"][1], f"ping: every is shorter than {_SHORTEST_PING.total_seconds():.0f}s")
    return None if channel is None else OwnPing(channel=channel, every=every)


def _ping(scope: NodeReader, node: Node, name: str) -> Channel | None:
    text = scope.text(node, "ping")
    if text is None:
        return None
    # That of maintd itself is below `notify`, which is searched as a whole.
    problem = (malformed_reference(text) if name != OWN_PING else "") or _webhook_problem(text)
    if not problem and "#" in text:
        problem = "it has a fragment, which no server gets"
    if problem:
        scope.error(node, f"ping: {problem}")
    return Channel(name=name, ping=SecretStr(text))


# --- rules ---


def _rules(scope: _Scope, fields: _Fields) -> dict[str, Any]:
    """The fields of NoticeRules that are given; `on` has the kinds that are switched on again."""
    found: dict[str, Any] = {}
    kinds: dict[NoticeKind, tuple[str, ...]] = {}
    on: set[NoticeKind] = set()
    if "to" in fields:
        found["to"] = _names(scope, fields["to"][1], "to")
    if "critical" in fields:
        found["critical"] = bool(scope.read.flag(fields["critical"][1], "critical"))
    for name in _KINDS:
        if name not in fields:
            continue
        which, node = NoticeKind(name), fields[name][1]
        flag = _flag(node)
        if flag is False:
            kinds[which] = ()
        elif flag is True:
            on.add(which)
        elif which is NoticeKind.LATE:
            found["late"] = read_positive(scope.read, node, name)
            on.add(which)
        elif which is NoticeKind.TOO_LONG:
            found |= _too_long(scope.read, node)
            on.add(which)
        elif which is NoticeKind.STILL_FAILING:
            found |= _reminders(scope.read, node)
            on.add(which)
        else:
            kinds[which] = _names(scope, node, name)
    return found | {"kinds": kinds, "on": frozenset(on)}


def _flag(node: Node) -> bool | None:
    text = node.text.strip().lower() if isinstance(node, ScalarNode) and not node.quoted else ""
    return {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}.get(text)


def _names(scope: _Scope, node: Node, what: str) -> tuple[str, ...]:
    """Names of channels; an unknown one is an error."""
    found = []
    for item in scope.read.items(node):
        name = scope.read.text(item, what)
        if name is None:
            continue
        if name not in scope.channels:
            known = ", ".join(scope.channels)
            otherwise = f"the channels are {known}" if known else "the calendar has none; add notify: {channels: …}"
            scope.read.error(item, f"{what}: {unknown('channel', name, scope.channels, otherwise)}")
        elif name not in found:
            found.append(name)
    return tuple(found)


def _too_long(scope: NodeReader, node: Node) -> dict[str, Any]:
    text = node.text.strip() if isinstance(node, ScalarNode) else ""
    factor = _FACTOR.fullmatch(text)
    if factor is None:
        limit = read_positive(scope, node, "too_long")
        return {"too_long": limit, "too_long_factor": None}
    if float(factor[1]) <= 1:
        scope.error(node, f'too_long "{text}" must be more than 1x the typical duration; for example 3x, or 2h')
    return {"too_long": None, "too_long_factor": float(factor[1])}


def _reminders(scope: NodeReader, node: Node) -> dict[str, Any]:
    """`still_failing: 2h`, or `{first: 1h, at_most: 24h}`: the interval begins with `first` and doubles."""
    if isinstance(node, ScalarNode):
        first = read_positive(scope, node, "still_failing")
        return {} if first is None else {"remind_first": first, "remind_at_most": max(first, timedelta(hours=24))}
    fields = scope.fields(node, "still_failing", ("first", "at_most"))
    found = {
        f"remind_{name}": value
        for name in ("first", "at_most")
        if name in fields and (value := read_positive(scope, fields[name][1], f"still_failing: {name}")) is not None
    }
    first, most = (found.get(name) or NoticeRules.model_fields[name].default for name in _REMIND)
    if first > most:
        scope.error(node, "still_failing: at_most is shorter than first")
    return found


_REMIND = ("remind_first", "remind_at_most")


def _rules_by_entry(scope: _Scope, fields: _Fields, entries: Sequence[ReadEntry]) -> dict[str, dict[str, Any]]:
    """The rules below `notify: entries`; of several patterns that match an entry, later ones are above earlier ones."""
    found: dict[str, dict[str, Any]] = {}
    if "entries" not in fields:
        return found
    names = [entry.key.text for entry in entries]
    for key, value in scope.read.pairs(fields["entries"][1], "entries", "entry"):
        matching = [name for name in names if fnmatchcase(name, key.text)]
        within = scope.within(f'entries "{key.text}"')
        if not matching:
            what = "pattern" if re.search(r"[*?\[]", key.text) else "entry"
            otherwise = (
                "no entry of the calendar matches it" if what == "pattern" else "see the entries of the calendar"
            )
            near = names if what == "entry" else ()
            scope.read.error(key, f"entries: {unknown(what, key.text, near, otherwise)}")
        rules = _rules(within, within.read.fields(value, "rules", RULE_KEYS))
        for name in matching:
            found[name] = _merged(found.get(name, {}), rules)
    return found


# --- quiet hours, digest, page ---


def _quiet(scope: NodeReader, node: Node, timezone: str) -> QuietHours | None:
    fields = scope.fields(node, "quiet", ("from", "to", "timezone"))
    for key in ("from", "to"):
        if key not in fields:
            scope.error(node, f'quiet has no "{key}"; for example quiet: {{from: "22:00", to: "07:00"}}')
    zone = _zone(scope, fields, timezone)
    start, end = (_daily(scope, fields, key, zone) for key in ("from", "to"))
    if start is None or end is None:
        return None
    if start == end:
        scope.error(node, "quiet: from and to are the same time")
        return None
    return QuietHours(start=start, end=end)


def _digest(scope: _Scope, node: Node, timezone: str, given: Mapping[str, Any]) -> Digest | None:
    """`digest: "08:00"`, or `{at: "08:00", to: [NAME], timezone: ZONE}`."""
    if isinstance(node, ScalarNode):
        fields: _Fields = {"at": (node, node)}
    else:
        fields = scope.read.fields(node, "digest", ("at", "to", "timezone"))
    if "at" not in fields:
        scope.read.error(node, 'digest has no "at"; for example digest: "08:00"')
        return None
    rule = _daily(scope.read, fields, "at", _zone(scope.read, fields, timezone), "digest")
    to = _names(scope, fields["to"][1], "digest: to") if "to" in fields else given.get("to", tuple(scope.channels))
    return None if rule is None else Digest(rule=rule, to=to)


def _zone(scope: NodeReader, fields: _Fields, timezone: str) -> str:
    if "timezone" not in fields:
        return timezone
    name = scope.text(fields["timezone"][1], "timezone")
    problem = None if name is None else zone_problem(name)
    if problem:
        scope.error(fields["timezone"][1], problem)
    return timezone if name is None or problem else name


def _daily(scope: NodeReader, fields: _Fields, key: str, zone: str, what: str = "") -> Rule | None:
    """A rule of a time of day, such as "22:00"."""
    if key not in fields:
        return None
    node = fields[key][1]
    text = node.text.strip() if isinstance(node, ScalarNode) else ""
    if not _TIME.fullmatch(text):
        scope.error(node, f'{what or f"quiet: {key}"} must be a time of day such as "07:00", not {kind(node)}')
        return None
    rule = Rule(kind=ScheduleKind.PHRASE, text=f"every day at {text.zfill(5)}", timezone=zone)
    compile_rule(rule)
    return rule


def _page(scope: NodeReader, node: Node) -> str:
    text = "" if isinstance(node, SequenceNode) else scope.text(node, "page") or ""
    if not re.fullmatch(r"https?://[^/?#\s]+(?:/[^?#\s]*)?", text):
        scope.error(node, "page: not a URL; write for example https://maintd.example.com/")
        return ""
    return text.rstrip("/")
