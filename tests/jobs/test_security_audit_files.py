"""The security audit of files: modes, owners, .env files, tracked secrets, sshd's settings, listening sockets."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.job_runs import JobResult, run_job
from support.users import as_unprivileged_user, folder_for_all

from maintd.checks.audit import file_modes, sshd, tracked_secrets
from maintd.checks.audit.rule import Outcome
from maintd.errors import TargetError
from maintd.model.evidence import CheckStatus
from maintd.model.target import SecretsTarget

VALUE = "Zx8pQ2mK4vR7tY1nB5cW9sL3"
"""A random value that appears in no output."""


def write(root: Path, path: str, text: str, mode: int = 0o600) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(mode)
    return file


def broken(outcomes: Sequence[Outcome]) -> dict[str, dict[str, str]]:
    """What each subject breaks, by rule; `unknown` with the cause for what is not known."""
    found: dict[str, dict[str, str]] = {}
    for outcome in outcomes:
        for one in outcome.violations:
            found.setdefault(outcome.rule.id, {})[one.subject] = one.observed
        for blind in outcome.blind:
            found.setdefault(outcome.rule.id, {})[blind.subject] = f"unknown: {blind.cause}"
    assert VALUE not in str(found)
    return found


# --- modes -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    folder = tmp_path / "secrets"
    write(folder, "token", VALUE)
    folder.chmod(0o700)
    return folder


def of_secrets(folder: Path) -> dict[str, dict[str, str]]:
    return broken(file_modes.secret_outcomes("secrets stack", file_modes.list_secrets(SecretsTarget(path=folder))))


def test_a_private_folder_of_secrets_breaks_no_rule(secrets: Path) -> None:
    assert of_secrets(secrets) == {}


@pytest.mark.parametrize(
    ("rule", "path", "mode"),
    [("secrets-folder-mode", ".", 0o750), ("secrets-file-mode", "token", 0o644), ("secrets-file-mode", "token", 0o640)],
)
def test_a_folder_or_file_of_secrets_with_rights_for_others(secrets: Path, rule: str, path: str, mode: int) -> None:
    (secrets / path).chmod(mode)

    found = of_secrets(secrets)

    assert list(found) == [rule]
    assert list(found[rule].values()) == [f"{mode:04o}"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change an owner")
def test_a_file_of_secrets_of_another_owner(secrets: Path) -> None:
    os.chown(secrets / "token", 65534, 65534)

    assert of_secrets(secrets) == {"secrets-owner": {"token": "uid 65534, the folder 0"}}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    write(folder, "main.py", "", 0o644)
    write(folder, ".env", "LOG_LEVEL=info\nADMIN_TOKEN_FILE=/run/secrets/t\n")
    write(folder, ".env.example", f"ADMIN_TOKEN={VALUE}\n", 0o666 & 0o644)
    (folder / "tmp").mkdir()
    (folder / "tmp").chmod(0o1777)
    (folder / "link").symlink_to("/nowhere")
    folder.chmod(0o755)
    return folder


def of_tree(folder: Path) -> dict[str, dict[str, str]]:
    return broken(file_modes.tree_outcomes("files app", file_modes.list_tree(folder)))


def test_a_folder_of_programs_in_order_breaks_no_rule(tree: Path) -> None:
    assert of_tree(tree) == {}


def test_what_others_may_write_and_env_files_with_secrets(tree: Path) -> None:
    write(tree, "sub/open.sh", "", 0o646)
    (tree / "tmp").chmod(0o777)
    write(tree, "sub/.env", f"export ADMIN_TOKEN={VALUE}\n# DB_PASSWORD=x\n", 0o644)

    assert of_tree(tree) == {
        "files-world-writable": {"sub/open.sh": "0646", "tmp": "0777"},
        "files-env-mode": {"sub/.env": "0644"},
        "files-env-secrets": {"sub/.env": "ADMIN_TOKEN"},
    }


def test_a_folder_that_cannot_be_read_as_a_whole_is_unknown(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_modes, "MAX_ENTRIES", 1)

    found = of_tree(tree)

    assert "only the first 1 names" in str(found["files-world-writable"])
    with pytest.raises(TargetError):
        file_modes.list_tree(tree / "none")


def test_an_env_file_that_is_too_large_is_not_in_order(tree: Path) -> None:
    write(tree, ".env", f"LOG_LEVEL={'é' * (file_modes.MAX_FILE // 2)}\nADMIN_TOKEN={VALUE}\n")

    assert ".env: only the first 1 MiB was examined" in str(of_tree(tree)["files-env-secrets"])


# --- tracked secrets -------------------------------------------------------------------------------------------------


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, "-C", folder, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repo"
    write(folder, "config.yaml", "token: ${TOKEN}\npassword: changeme-please-now-1\nurl: postgres://u:${PW}@db/x\n")
    write(folder, ".env.example", "ADMIN_TOKEN=\n")
    write(folder, "package-lock.json", f'{{"token": "{VALUE}"}}')
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "a")
    return folder


def of_repository(folder: Path) -> dict[str, dict[str, str]]:
    found = tracked_secrets.collect(folder, timedelta(seconds=60))
    return broken(tracked_secrets.outcomes("repository repo", found))


def test_a_repository_in_order_breaks_no_rule_whatever_is_not_committed(repository: Path) -> None:
    write(repository, "untracked", f"token={VALUE}")

    assert of_repository(repository) == {}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEowIBAAKCAQEAx3f4p\n", "private key"),
        ("id = AKIA" + "QWERTYUIOPASDF12", "AWS access key"),
        ("x: ghp" + "_0123456789abcdefghijABCDEFGHIJ012345", "GitHub token"),
        ("x: xoxb" + "-123456789012-abcdefABCDEF", "Slack token"),
        ("x: https://hooks.slack" + ".com/services/T0123ABCD/B0123ABCD/abcdefghijklmnopqrstuvwx", "Slack webhook"),
        ("x: sk_" + "live_0123456789abcdefghij", "Stripe key"),
        (f"x: postgres://trader:{VALUE}@db:5432/x", "password in a URL"),
    ],
)
def test_a_secret_with_a_known_form_is_found_by_its_place(repository: Path, text: str, kind: str) -> None:
    write(repository, "deploy/a b.conf", f"first\n{text}\n")
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "b")

    found = of_repository(repository)

    assert found["git-secrets"] == {"deploy/a b.conf": f"{kind} in line 2"}


def test_a_random_value_beside_the_name_of_a_secret_and_a_tracked_env_file(repository: Path) -> None:
    write(repository, ".env", f"ADMIN_TOKEN={VALUE}\n")
    git(repository, "add", "-fA")
    git(repository, "commit", "-qm", "b")

    assert of_repository(repository) == {
        "git-entropy": {".env": "a random value in line 1"},
        "git-env": {".env": "tracked"},
    }


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_a_file_with_a_byte_order_mark_is_examined(repository: Path, encoding: str) -> None:
    (repository / "prod.config").write_bytes(("first\nid = AKIA" + "QWERTYUIOPASDF12\n").encode(encoding))
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "b")

    assert of_repository(repository) == {"git-secrets": {"prod.config": "AWS access key in line 2"}}


def test_files_with_nul_bytes_are_counted_as_not_examined(repository: Path) -> None:
    before = tracked_secrets.collect(repository, timedelta(seconds=60))
    write(repository, "image.bin", f"\0token={VALUE}")
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "b")

    found = tracked_secrets.collect(repository, timedelta(seconds=60))

    assert (found.examined, found.binary) == (before.examined, ("image.bin",))
    text = "unknown: 1 with NUL bytes and without a byte order mark: image.bin"
    expected = {"binary files": text}
    assert of_repository(repository) == {"git-secrets": expected, "git-entropy": expected}


@pytest.mark.parametrize("between", ["\n" + " " * 40, "\\n", "\\\n    ", " " * 500_000])
def test_a_private_key_is_found_after_any_run_of_spaces(between: str) -> None:
    text = "-----BEGIN " + f"PRIVATE KEY-----{between}MIIEowIBAAKCAQEAx3f4p"

    assert list(tracked_secrets.by_pattern(text)) == [("private key", 1)]


@pytest.mark.parametrize(
    "start",
    [
        "-----BEGIN " + "PRIVATE KEY-----",
        "-----BEGIN ",
        "github_pat_",
        "xoxb-",
        "hooks.slack.com/services/T",
        "https://",
        "https://user:",
        "api_key = ",
        "",
    ],
)
@pytest.mark.parametrize("char", [" ", "\n", "A", "a", "0", "-", ".", ":", "\\"])
def test_a_long_run_of_one_character_takes_no_long_time(start: str, char: str) -> None:
    text = start + char * (tracked_secrets.MAX_BLOB - len(start)) + "!"
    begun = time.process_time()

    assert len([*tracked_secrets.by_pattern(text), *tracked_secrets.by_entropy(text)]) <= 1
    assert time.process_time() - begun < 60, "by squares, half an hour"


@pytest.mark.parametrize(
    "line",
    ["token = get_token_from_environment", "password: aaaaaaaaaaaaaaaaaaaa1", "api_key: " + "0a" * 20, "token=${A}"],
)
def test_words_hashes_and_references_are_no_secrets(line: str) -> None:
    assert list(tracked_secrets.by_entropy(line)) == []
    assert list(tracked_secrets.by_pattern(line)) == []


def test_a_folder_that_is_no_repository_or_git_that_is_missing_is_an_error(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TargetError, match="git: "):
        tracked_secrets.collect(tmp_path, timedelta(seconds=60))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TargetError, match="git is not installed") as raised:
        tracked_secrets.collect(repository, timedelta(seconds=60))
    assert raised.value.cause == "not_configured"


# --- sshd ------------------------------------------------------------------------------------------------------------

SSHD = """\
Include /etc/ssh/sshd_config.d/*.conf
PermitRootLogin no
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM yes
X11Forwarding no
MaxAuthTries 4
"""


@pytest.fixture
def host(tmp_path: Path) -> Path:
    write(tmp_path, "etc/ssh/sshd_config", SSHD)
    (tmp_path / "etc/ssh/sshd_config.d").mkdir()
    return tmp_path


def of_sshd(host: Path) -> dict[str, dict[str, str]]:
    return broken(sshd.outcomes("sshd local", sshd.read(host)))


def test_an_sshd_in_order_breaks_no_rule(host: Path) -> None:
    assert of_sshd(host) == {}


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ("sshd-root-login", "PermitRootLogin yes"),
        ("sshd-password", "PasswordAuthentication yes"),
        ("sshd-empty-password", "PermitEmptyPasswords yes"),
        ("sshd-keyboard", "ChallengeResponseAuthentication yes"),
        ("sshd-host-based", "HostbasedAuthentication=yes"),
        ("sshd-rhosts", "ignorerhosts no"),
        ("sshd-environment", 'PermitUserEnvironment "LANG"'),
        ("sshd-x11", "X11Forwarding yes # old"),
        ("sshd-tries", "MaxAuthTries 10"),
        ("sshd-pam", "UsePAM = no"),
    ],
)
def test_a_drop_in_wins_over_the_file_that_includes_it_first(host: Path, rule: str, line: str) -> None:
    write(host, "etc/ssh/sshd_config.d/50-cloud.conf", f"# made by an installer\n{line}\n")

    found = of_sshd(host)

    assert list(found) == [rule]
    assert "in /etc/ssh/sshd_config.d/50-cloud.conf:2" in found[rule]["all logins"]


def test_the_first_value_of_a_keyword_wins(host: Path) -> None:
    write(host, "etc/ssh/sshd_config.d/10-a.conf", "PermitRootLogin no\n")
    write(host, "etc/ssh/sshd_config.d/20-b.conf", "PermitRootLogin yes\n")

    assert of_sshd(host) == {}

    write(host, "etc/ssh/sshd_config", SSHD.replace("Include", "#Include") + "PermitRootLogin yes\n")

    assert of_sshd(host) == {}


def test_a_match_block_is_evaluated_by_itself_and_match_all_overrides(host: Path) -> None:
    write(host, "etc/ssh/sshd_config", SSHD + "Match User backup Address 10.0.0.0/8\n  PasswordAuthentication yes\n")

    found = of_sshd(host)

    assert found == {
        "sshd-password": {
            "Match User backup Address 10.0.0.0/8": "PasswordAuthentication yes in /etc/ssh/sshd_config:9"
        }
    }
    text = SSHD.replace("PermitRootLogin no", "PermitRootLogin yes") + "Match all\nPermitRootLogin no\n"
    write(host, "etc/ssh/sshd_config", text)
    assert of_sshd(host) == {}


def test_a_match_block_of_an_included_file_ends_with_it(host: Path) -> None:
    write(host, "etc/ssh/sshd_config.d/10-a.conf", "Match User a\nX11Forwarding yes\n")
    write(host, "etc/ssh/sshd_config.d/20-b.conf", "MaxAuthTries 9\n")

    found = of_sshd(host)

    assert found["sshd-x11"] == {"Match User a": "X11Forwarding yes in /etc/ssh/sshd_config.d/10-a.conf:2"}
    assert list(found["sshd-tries"]) == ["all logins"]


def test_defaults_of_openssh_apply_to_what_no_file_sets(host: Path) -> None:
    write(host, "etc/ssh/sshd_config", "")

    assert of_sshd(host) == {
        "sshd-password": {"all logins": "PasswordAuthentication yes, the default"},
        "sshd-keyboard": {"all logins": "KbdInteractiveAuthentication yes, the default"},
        "sshd-tries": {"all logins": "MaxAuthTries 6, the default"},
        "sshd-pam": {"all logins": "UsePAM no, the default"},
    }


def test_files_of_sshd_that_cannot_be_followed_are_errors(host: Path) -> None:
    (host / "etc/ssh/sshd_config.d/loop.conf").write_text("Include /etc/ssh/sshd_config.d/*.conf\n")
    with pytest.raises(TargetError, match="levels of Include"):
        sshd.read(host)
    (host / "etc/ssh/sshd_config.d/loop.conf").unlink()
    (host / "etc/ssh/sshd_config.d/out.conf").symlink_to("../../../../../../../../../etc/passwd")
    with pytest.raises(TargetError, match="not there below"):  # `..` ends at the root, as for sshd itself
        sshd.read(host)
    with pytest.raises(TargetError, match="none: No such file or directory; mount the host's root"):
        sshd.read(host / "none")
    (host / "empty").mkdir()
    with pytest.raises(TargetError, match="has no /etc"):
        sshd.read(host / "empty")


@pytest.mark.parametrize("link", ["/usr/share/not-here", "../not-here", "sshd_config.d"])
def test_a_folder_of_include_that_is_a_link_to_nothing_makes_every_rule_unknown(host: Path, link: str) -> None:
    (host / "etc/ssh/sshd_config.d").rmdir()
    assert of_sshd(host) == {}, "no folder, no drop-in"
    (host / "etc/ssh/sshd_config.d").symlink_to(link)

    with pytest.raises(TargetError, match=r"etc/ssh/sshd_config\.d: ") as raised:
        sshd.read(host)

    outcomes = sshd.outcomes("sshd local", raised.value)
    assert all(outcome.blind and not outcome.examined for outcome in outcomes)


def test_a_folder_of_include_that_cannot_be_listed_makes_every_rule_unknown() -> None:
    with folder_for_all() as root:
        write(root, "etc/ssh/sshd_config", SSHD)
        write(root, "etc/ssh/sshd_config.d/50-cloud.conf", "PermitRootLogin yes\n")
        (root / "etc/ssh/sshd_config.d").chmod(0)
        with as_unprivileged_user(root), pytest.raises(TargetError, match=r"etc/ssh/sshd_config\.d: ") as raised:
            sshd.read(root)

    assert raised.value.cause == "denied"


def test_a_folder_that_hides_sshd_config_is_not_a_host_without_sshd(host: Path) -> None:
    (host / "etc/ssh").rename(host / "etc/elsewhere")
    (host / "etc/ssh").symlink_to("/opt/not-here")

    with pytest.raises(TargetError, match="/etc/ssh is a link to what is not there below"):
        sshd.read(host)


def test_links_and_patterns_of_include_are_followed_within_the_root_as_by_sshd(host: Path) -> None:
    (host / "etc/ssh/sshd_config.d").rmdir()
    (host / "etc/ssh/sshd_config.d").symlink_to("/opt/ssh.d")
    write(host, "opt/ssh.d/.hidden.conf", "MaxAuthTries 1\n")
    write(host, "opt/ssh.d/50-a.conf", "MaxAuthTries 9\nInclude none.conf ../ssh/extra/*/[a-c].conf\n")
    write(host, "etc/ssh/extra/x/b.conf", "X11Forwarding yes\n")

    assert of_sshd(host) == {
        "sshd-tries": {"all logins": "MaxAuthTries 9 in /etc/ssh/sshd_config.d/50-a.conf:1"},
        "sshd-x11": {"all logins": "X11Forwarding yes in /etc/ssh/../ssh/extra/x/b.conf:1"},
    }
    write(host, "etc/ssh/sshd_config", "Include /\n")
    with pytest.raises(TargetError, match="is not a regular file"):
        sshd.read(host)


def test_a_host_without_sshd_is_not_concerned(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()

    outcomes = sshd.outcomes("sshd local", sshd.read(tmp_path))

    assert {outcome.not_applicable for outcome in outcomes} == {"sshd is not installed"}


# --- the whole job ---------------------------------------------------------------------------------------------------

TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1
   1: 0100007F:1538 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2
   2: 0500000A:1538 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 3
"""


def audit(host: Path, secrets: Path | None = None, **params: Any) -> JobResult:
    write(host, "proc/1/net/tcp", TCP)
    write(host, "proc/1/net/udp", "  sl  local_address rem_address   st\n")
    targets: dict[str, Any] = {"host": {"local": {"root": str(host), "proc": str(host / "proc")}}}
    if secrets is not None:
        targets["secrets"] = {"stack": {"path": str(secrets)}}
    return run_job("security_audit", params, targets)


def test_files_and_sockets_are_audited_together(host: Path, secrets: Path, tree: Path, repository: Path) -> None:
    (secrets / "token").chmod(0o644)
    params = {"folders": [str(tree)], "repositories": [str(repository)], "listening": ["22"]}

    result = audit(host, secrets, **params)

    failed = {check.name for check in result.checks if check.status is CheckStatus.FAIL}
    assert failed == {
        "secrets stack: files of secrets with rights for others: token",
        "sockets local: listening sockets that are not allowed: 10.0.0.5:5432/tcp",
    }, result.text()
    token = result.check("secrets stack: files of secrets with rights for others: token")
    assert token.hint == f"chmod 0600 {secrets}/token"
    assert result.measure("audit_checks_unknown") == 0
    assert VALUE not in result.text() + "".join(Path(item.path).read_text() for item in result.artifacts)


def test_a_socket_in_the_list_and_one_of_loopback_are_allowed(host: Path) -> None:
    result = audit(host, listening=["22", "10.0.0.0/8:5432"])

    assert result.check("sockets local: listening sockets that are not allowed").status is CheckStatus.OK


def test_a_part_that_cannot_be_read_hides_no_other(host: Path, tmp_path: Path) -> None:
    result = audit(host, tmp_path / "none", folders=[str(tmp_path / "gone")], repositories=[str(tmp_path / "no-git")])

    for name in ("secrets stack", f"files {tmp_path}/gone", f"repository {tmp_path}/no-git"):
        assert result.check(f"{name}: examined").status is not CheckStatus.OK
    assert result.check("sshd local: password logins of root").status is CheckStatus.OK
    assert result.measure("audit_checks_unknown") == 9
