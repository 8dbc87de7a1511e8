"""The section `notify` of a calendar: what it means, and what is refused with which message."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from textwrap import dedent

import pytest
from support.calendars import jobs, problems, read

from maintd.calendar import OverlayText, parse_calendar
from maintd.calendar.apprise_schemes import SCHEMES
from maintd.calendar.diff import changes_between
from maintd.model.notice import NoticeKind, NoticeRules, channel_secrets

ENTRIES = "\nentries: {backup: {job: look}, backup-files: {job: look}, health: {job: look}}\n"
CHANNELS = """
  channels:
    mail: {url: "mailto://localhost?to=ops@example.com"}
    pager: {webhook: "https://pager.example.com/hook", secret: "${HOOK_SECRET}"}
"""


def calendar(notify: str, entries: str = ENTRIES) -> str:
    return f"timezone: Europe/Berlin\nnotify:{CHANNELS}{notify}{entries}"


def one(text: str) -> str:
    """The one problem of a text, without its place."""
    found = problems(text)
    assert len(found) == 1, found
    return found[0]


def test_without_the_section_there_are_no_channels() -> None:
    config = read("timezone: UTC\nentries: {a: {job: look}}").notify

    assert (config.channels, config.digest, config.quiet) == ({}, None, None)
    assert config.rules_of("a").channels_of(NoticeKind.FAILED) == ()


def test_every_kind_goes_to_all_channels_by_default() -> None:
    config = read(calendar("")).notify

    assert config.rules_of("backup").channels_of(NoticeKind.FAILED) == ("mail", "pager")
    assert config.rules_of("backup").late == timedelta(minutes=10)


def test_rules_of_an_entry_are_above_those_of_patterns_and_those_above_the_defaults() -> None:
    text = calendar(
        """
  to: mail
  unknown: false
  late: 5m
  entries:
    "backup*": {to: [pager], late: 20m}
    backup-files: {late: 1h, recovered: false}
""",
        ENTRIES.replace("{job: look}", "{job: look, notify: {critical: true, unknown: true}}", 1),
    )
    config = read(text).notify

    backup, files, health = (config.rules_of(name) for name in ("backup", "backup-files", "health"))
    assert (
        health == config.rules == NoticeRules(to=("mail",), kinds={NoticeKind.UNKNOWN: ()}, late=timedelta(minutes=5))
    )
    assert (backup.to, backup.late, backup.critical) == (("pager",), timedelta(minutes=20), True)
    assert backup.channels_of(NoticeKind.UNKNOWN) == ("pager",)
    assert (files.to, files.late, files.channels_of(NoticeKind.RECOVERED)) == (("pager",), timedelta(hours=1), ())
    assert files.channels_of(NoticeKind.UNKNOWN) == ()


def test_limits_and_reminders_are_read() -> None:
    rules = read(calendar("  too_long: 4x\n  still_failing: {first: 2h, at_most: 12h}")).notify.rules
    absolute = read(calendar("  too_long: 2h\n  still_failing: 48h")).notify.rules

    assert (rules.too_long, rules.too_long_factor) == (None, 4.0)
    assert (rules.remind_first, rules.remind_at_most) == (timedelta(hours=2), timedelta(hours=12))
    assert (absolute.too_long, absolute.too_long_factor) == (timedelta(hours=2), None)
    assert absolute.remind_at_most == timedelta(hours=48)


def test_quiet_hours_and_digest_have_a_time_zone() -> None:
    config = read(calendar('  quiet: {from: "22:00", to: "7:00", timezone: UTC}\n  digest: "08:00"')).notify
    assert config.quiet is not None and config.digest is not None

    assert (config.quiet.start.text, config.quiet.end.text) == ("every day at 22:00", "every day at 07:00")
    assert (config.quiet.start.timezone, config.digest.rule.timezone) == ("UTC", "Europe/Berlin")
    assert config.digest.to == ("mail", "pager")


@pytest.mark.parametrize(
    ("notify", "message"),
    [
        ("  failed: [mial]", 'notify: failed: unknown channel "mial"; did you mean "mail"?'),
        ("  to: slack", 'notify: to: unknown channel "slack"; the channels are mail, pager'),
        ("  faild: true", 'notify: unknown key "faild"; did you mean "failed"?'),
        ("  entries: {bakcup: {late: 1h}}", 'notify: entries: unknown entry "bakcup"; did you mean "backup"?'),
        ("  entries: {'x*': {late: 1h}}", 'notify: entries: unknown pattern "x*"; no entry of the calendar matches it'),
        ("  late: 10", "notify: late 10 has no unit; for example 10s or 10m"),
        (
            "  too_long: 0.5x",
            'notify: too_long "0.5x" must be more than 1x the typical duration; for example 3x, or 2h',
        ),
        ("  still_failing: {first: 2d}", "notify: still_failing: at_most is shorter than first"),
        ("  quiet: {from: '22:00'}", 'notify: quiet has no "to"; for example quiet: {from: "22:00", to: "07:00"}'),
        ("  digest: noon", 'notify: digest must be a time of day such as "07:00", not "noon"'),
        ("  digest: {at: '8:00', timezone: Berlin}", 'notify: unknown time zone "Berlin"; '),
        ("  page: maintd", "notify: page: not a URL; write for example https://maintd.example.com/"),
    ],
)
def test_a_wrong_value_is_refused_with_a_correction(notify: str, message: str) -> None:
    found = one(calendar(notify))

    place, _, text = found.partition(": ")
    assert text.startswith(message)
    assert place.startswith("schedules.yaml:6:")


@pytest.mark.parametrize(
    ("channel", "message"),
    [
        ("{url: nonsense}", "url: not a URL; write for example mailtos://"),
        ("{url: 'slak://a/b/c'}", 'url: unknown scheme "slak"; did you mean "slack"?'),
        ("{url: 'mailto://'}", 'url: nothing follows "mailto://"'),
        ("{url: 'json://a b'}", "url: it has a space; write it as %20"),
        ("{webhook: 'example.com/x', secret: '${S}'}", "webhook: not a URL; write https://host/path"),
        ("{webhook: 'https://example.com:99999/', secret: '${S}'}", 'webhook: "99999" is not a port'),
        ("{webhook: 'https://example.com/'}", "a webhook needs a secret that signs its body; "),
        ("{webhook: 'https://example.com/', secret: short}", "the secret is shorter than 16 characters"),
        ("{secret: '${S}'}", "write url: a URL of apprise, such as mailtos://…, or webhook: a URL that gets a POST"),
        ("{url: 'json://x', webhook: 'https://y', secret: '${S}'}", "write url: a URL of apprise"),
    ],
)
def test_a_channel_that_cannot_work_is_refused(channel: str, message: str) -> None:
    found = one(f"timezone: UTC\nnotify:\n  channels:\n    ops: {channel}{ENTRIES}")

    assert f'notify: channel "ops": {message}' in found
    assert found.startswith("schedules.yaml:4:")


def test_a_url_may_be_a_reference_as_a_whole() -> None:
    config = read("timezone: UTC\nnotify: {channels: {a: {url: '${file:/run/secrets/url}'}}}" + ENTRIES).notify

    assert list(config.channels) == ["a"]


def test_an_entry_can_have_rules_only_if_there_are_channels() -> None:
    found = one("timezone: UTC\nentries: {a: {job: look, notify: {late: 1h}}}")

    assert 'entry "a": notify: the calendar has no channels; add notify: {channels: …}' in found


def test_an_overlay_adds_a_channel_and_changes_a_rule() -> None:
    base = dedent(calendar("  late: 5m"))
    above = "notify: {late: 1h, channels: {mail: {url: 'json://localhost'}}}"

    config = parse_calendar(base, "s.yaml", jobs(), overlay=OverlayText("local.yaml", above)).notify

    assert sorted(config.channels) == ["mail", "pager"]
    assert config.rules.late == timedelta(hours=1)
    assert config.channels["mail"].url is not None
    assert config.channels["mail"].url.get_secret_value() == "json://localhost"


def test_a_change_is_reported_without_the_secrets_of_channels() -> None:
    old = read(calendar(""))
    new = read(calendar("  late: 1h").replace("mailto://localhost", "mailto://me:hunter2hunter2@localhost"))

    changes = changes_between(old, new)

    assert changes == ['notify: channel "mail" changed', "notify: rules changed"]


def test_parts_of_urls_that_may_be_secret_are_known_to_the_log() -> None:
    text = """
timezone: UTC
notify:
  channels:
    a: {url: "slack://T1234567890/B1234567890/abcdefghijklmnop"}
    b: {url: "mailtos://me:hunter2hunter2@mail.example.com?to=ops@example.com"}
    c: {webhook: "https://hooks.example.com/services/0123456789abcdef0123", secret: "signing-secret-of-c"}
"""
    found = channel_secrets(read(text + ENTRIES).notify)

    expected = {"T1234567890", "B1234567890", "abcdefghijklmnop", "hunter2hunter2", "0123456789abcdef0123"}
    assert expected | {"signing-secret-of-c"} <= found
    assert not {"mail.example.com", "hooks.example.com", "services"} & found


def test_the_schemes_are_those_of_apprise() -> None:
    code = """
import apprise
for service in apprise.Apprise().details()["schemas"]:
    for schemes in (service["protocols"], service["secure_protocols"]):
        print(*schemes or ())
"""
    # A process of its own, as when a notice is sent: apprise imports what Python has deprecated.
    listed = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True)

    assert set(listed.stdout.split()) <= SCHEMES
