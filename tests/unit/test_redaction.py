"""Secrets are masked by their place in a text, and known secrets in every form."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest

from maintd.redaction import (
    forms_of,
    has_sign_of_secret,
    mask_output,
    mask_output_values,
    mask_text,
    mask_tokens,
    mask_values,
    replace_secrets,
)
from tests.support.effort import grows_in_proportion


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgres://op:hunter2@db/x", "postgres://op:***@db/x"),
        ("postgresql://op:hun/te@r2@db:5432/x", "postgresql://op:***@db:5432/x"),
        ("postgres://op:pa?ss#w@h/db", "postgres://op:***@h/db"),
        ("redis://:12/34@h/0", "redis://:***@h/0"),
        ("http://TOKEN@host/x", "http://***@host/x"),
        ("HTTPS://TOKEN:@host/x", "HTTPS://***:@host/x"),
        ("postgresql://db/x?sslpassword=abc&sslmode=require", "postgresql://db/x?sslpassword=***&sslmode=require"),
        ("https://a.blob/x?sv=1&sig=AbC%2B&se=2", "https://a.blob/x?sv=1&sig=***&se=2"),
        (
            "https://h/x?X-Amz-Signature=0f&X%2DAmz%2DCredential=y",
            "https://h/x?X-Amz-Signature=***&X%2DAmz%2DCredential=***",
        ),
        ("https://h/cb#access_token=abc&state=1", "https://h/cb#access_token=***&state=1"),
        ("host=db password = hunter2 user=x", "host=db password = *** user=x"),
        ("host=db password\t=\thunter2 user=x", "host=db password\t=\t*** user=x"),
        ("password='a b\\'c d' user=x", "password=*** user=x"),
        ("password=a,b;c&d user=x", "password=*** user=x"),
        ('password=a"b user=x', "password=*** user=x"),
        ("api_key=abc access_token=def x", "api_key=*** access_token=*** x"),
        ("PGPASSWORD=abc awsSecretAccessKey=def", "PGPASSWORD=*** awsSecretAccessKey=***"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ('{"password": "hunter 2", "user": "x"}', '{"password": "***", "user": "x"}'),
        ("cannot connect: redis://:a@b:1 and redis://:c@d:2", "cannot connect: redis://:***@b:1 and redis://:***@d:2"),
        (
            "-----BEGIN EC PRIVATE KEY-----\nabc\n-----END EC PRIVATE KEY-----",
            "-----BEGIN EC PRIVATE KEY----- *** -----END EC PRIVATE KEY-----",
        ),
    ],
)
def test_a_secret_is_masked_in_every_position(text: str, masked: str) -> None:
    assert mask_text(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "http://host:8080/@scope/package",
        "https://host/path@2x.png?size=2",
        "postgresql://op@db/x",
        "no such key: it was removed",
        "password: authentication failed for user op",
        '{"key": 3, "token": null, "password": "***"}',
        "monkey=3 passed=4 author=joe keyspace=5 compass=n bypass=1 token_count=5",
        "ghcr.io/x@sha256:abcd",
        "password=${DB_PASSWORD} x",
        "postgres://op:***@db/x",
        "2026-11-29 03:00:00 INFO started in 3 s",
    ],
)
def test_what_is_no_secret_stays_readable(text: str) -> None:
    assert mask_text(text) == text


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("connecting with password=hunter2 to db", "connecting with password=*** to db"),
        ("password: hunter2 was refused", "password: *** was refused"),
        ("password: hunter", "password: ***"),
        ("token: abc-def-1", "token: ***"),
        ("DB_PASSWORD=hunter2", "DB_PASSWORD=***"),
        ("dsn host=x password='a b' user=c", "dsn host=x password=*** user=c"),
        ("postgres://op:hunter2@db/x: refused", "postgres://op:***@db/x: refused"),
        ("GET https://h/x?page=2&token=abcd answered 200", "GET https://h/x?page=2&token=*** answered 200"),
        ("https://ghp_abc@github.com/x", "https://***@github.com/x"),
        ("got Bearer eyJhbGciOiJIUzI1NiJ9.e30.x back", "got Bearer *** back"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("Authorization: Basic b3A6aHVudGVyMg==", "Authorization: Basic ***"),
        ("X-Api-Key: abc1 (from env)", "X-Api-Key: *** (from env)"),
        ("Cookie: a=b; c=d", "Cookie: ***"),
        ('{"client_secret": "a b", "n": 3}', '{"client_secret": "***", "n": 3}'),
        ("-----BEGIN RSA PRIVATE KEY----- MIIE", "-----BEGIN RSA PRIVATE KEY----- ***"),
        *((f"{name}=hunter2", f"{name}=***") for name in ("pass", "pw", "PWD", "api_key", "access-key", "ssh_key")),
        *((f"{name}=hunter2", f"{name}=***") for name in ("jwt", "sas", "secrets", "signature", "credentials")),
    ],
)
def test_a_secret_that_a_job_prints_is_masked_by_its_form(text: str, masked: str) -> None:
    assert mask_output(text) == masked
    assert mask_output(masked) == masked
    assert mask_output(text.replace("hunter2", "***")) == text.replace("hunter2", "***") or "hunter2" not in text


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-29 03:00:00 INFO started in 3 s",
        "key=users:1 sort_key=name primary key: id, sig=SIGTERM auth=ldap",
        "pass=3 fail=0, token: 5, password=none",
        "access denied (using password: YES)",
        "password: authentication failed for user op",
        "bearer authentication is required",
        "https://shop.example.com/orders?page=3&limit=20 answered 200",
        "docker.io/library/redis@sha256:0123456789abcdef",
        "mail to ops@example.com; http://host:8080/@scope/package",
        "maintd_run_duration_seconds_bucket, next: maintd ack KEY --why REASON",
        "-----BEGIN CERTIFICATE----- MIIE",
        "password=${DB_PASSWORD}",
        "password='${file:/run/secrets/pg}'",
        "backup set: signature: sound",
        "registry ghcr.io: token: valid",
        "phase read secrets: done",
        "secrets: [a, b]",
    ],
)
def test_what_a_job_prints_that_is_no_secret_stays_readable(text: str) -> None:
    assert mask_output(text) == text


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("psql --password hunter2 -U x", "psql --password *** -U x"),
        ("tool --api-key abcDEF --verbose", "tool --api-key *** --verbose"),
        ('x --token "a b c" y', 'x --token "***" y'),
        ("x --password 'it'\"'\"'s' y", "x --password *** y"),
        ('x --password "cut off', 'x --password "***'),
        ("java -password hunter2 -jar x", "java -password *** -jar x"),
        ("tool --token\\\n  hunter2", "tool --token\\\n  ***"),
        ("['mysql', '-psecret', '--password', 'hunter2']", "['mysql', '-p***', '--password', '***']"),
        ('["--password", "hunter2", "-x"]', '["--password", "***", "-x"]'),
        ('{"cmd": "x --password \\"a b\\" y"}', '{"cmd": "x --password \\"***\\" y"}'),
        ("mysql -u root -phunter2 db", "mysql -u root -p*** db"),
        ("/usr/bin/mysqldump -p'a b' db | gzip -p3", "/usr/bin/mysqldump -p'***' db | gzip -p3"),
        ("sshpass -p hunter2 ssh x", "sshpass -p *** ssh x"),
        ("redis-cli -h x -a hunter2 PING", "redis-cli -h x -a *** PING"),
        ("docker login -u x -p hunter2 r", "docker login -u x -p *** r"),
        ("ldapsearch -x -w hunter2 -D cn=a", "ldapsearch -x -w *** -D cn=a"),
        ("curl -u ada:hunter2 https://x", "curl -u ada:*** https://x"),
        ("--private-key abc/def+==", "--private-key ***"),
        *((f"{name}=hunter2 tool", f"{name}=*** tool") for name in ("PGPASSWORD", "MYSQL_PWD", "REDISCLI_AUTH")),
    ],
)
def test_a_secret_among_the_options_of_a_command_is_masked(text: str, masked: str) -> None:
    assert mask_output(text) == masked
    assert mask_text(text) == masked
    assert mask_output(masked) == masked


@pytest.mark.parametrize(
    "text",
    [
        "mysql -u root -p db",
        "mysql --protocol tcp -P 3306; cp -pr a b",
        "curl -u ada https://x:8080/",
        "use --token-file FILE, or --password-file /run/x",
        "the option --password is deprecated; --token must be given",
        "usage: x [--token TOKEN] [--password PASSWORD] --secret <secret>",
        "psql --password $PGPASSWORD --token ${TOKEN} --api-key $(cat key)",
        "--private-key /etc/ssl/a.pem --no-password x",
        "--password --verbose",
        "maintd --url https://maintd.example:8420 --token-file token status",
    ],
)
def test_options_of_a_command_that_are_no_secrets_stay_readable(text: str) -> None:
    assert mask_output(text) == text
    assert mask_text(text) == text


def test_a_secret_among_the_words_of_a_command_is_masked() -> None:
    commands = {
        "a": ["tool", "--password", "hunter2", "--token", "-x"],
        "b": ("/usr/bin/mysql", "-phunter2", "-p", "db"),
        "c": ["docker", "login", "-p", "hunter2"],
    }

    assert mask_output_values(commands) == {
        "a": ["tool", "--password", "***", "--token", "-x"],
        "b": ("/usr/bin/mysql", "-p***", "-p", "db"),
        "c": ["docker", "login", "-p", "***"],
    }
    assert mask_values({"argv": ["curl", "-u", "ada:hunter2"]}) == {"argv": ["curl", "-u", "ada:***"]}


def test_the_values_that_a_job_reports_are_masked_by_their_form_and_name() -> None:
    reported = {"key": "users:1", "api_token": "abc", "pages": 3, "urls": ("http://a:b@c", None), "password": "none"}

    assert mask_output_values(reported) == {
        "key": "users:1",
        "api_token": "***",
        "pages": 3,
        "urls": ("http://a:***@c", None),
        "password": "none",
    }


def test_a_text_without_a_sign_of_a_secret_is_not_searched() -> None:
    assert not has_sign_of_secret("2026-11-29 03:00:00 INFO copied 12 of 20 files")
    assert has_sign_of_secret("PassWord")


def test_values_below_the_name_of_a_secret_are_masked_but_not_references() -> None:
    settings = {"api_token": "abc", "nested": {"password": ["x", "y"]}, "secret": "${file:/run/secrets/x}", "name": "a"}

    assert mask_values(settings) == {
        "api_token": "***",
        "nested": {"password": ["***", "***"]},
        "secret": "${file:/run/secrets/x}",
        "name": "a",
    }


SECRET = 'pä"ss/wörd+1'
PEM = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0\nBAQEFAASCBKcwggSjAgEAAo\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    "text",
    [
        f"it is {SECRET}",
        json.dumps({"a": SECRET}),
        f"https://x/?q={quote(SECRET, safe='')}",
        f"https://x/{quote(SECRET)}",
        base64.b64encode(SECRET.encode()).decode(),
        f"key:\n{PEM}",
        json.dumps({"key": PEM}),
        "unrelated\nMIIEvQIBADANBgkqhkiG9w0\nunrelated",
    ],
)
def test_a_known_secret_is_found_in_every_form(text: str) -> None:
    replaced = replace_secrets(text, forms_of([SECRET, PEM]))

    assert "***" in replaced
    assert not any(form in replaced for form in ("wörd", "MIIEvQ", "BAQEFA", quote(SECRET), json.dumps(SECRET)[1:-1]))


def test_masking_takes_time_in_proportion_to_the_text() -> None:
    def mask(length: int) -> None:
        texts = ["a.-_" * (length // 4), "a://" * (length // 4), "key: " * (length // 5), "password='" * (length // 10)]
        texts += [word * (length // len(word)) for word in ("--token ", "mysql -p", '--password "x ', "-p'", "--pass-")]
        for text in (*texts, "a" * length + "://", "bearer " * (length // 7), "token='a\\" * (length // 9)):
            mask_text(text)
            mask_output(text)

    assert grows_in_proportion(mask, 4_000, 40_000)


def test_a_token_of_the_api_is_masked_wherever_it_is() -> None:
    token = "maintd_NX3bWxuMewyhbA3WbR0uvq7V_iUNw_Dm4C4KydgLA8M"

    assert mask_text(f"curl -H {token}, then") == "curl -H ***, then"
    assert mask_tokens(f"used {token}") == "used ***"
    for other in (token[:-1], token + "x", "maintd_entry_last_success_timestamp_seconds_of_each_x"):
        assert mask_tokens(other) == other
