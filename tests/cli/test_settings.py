"""Where settings come from, and how invalid ones are reported."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.servers.maintd import CommandResult, Shell


def dotenv(shell: Shell) -> Path:
    """The file `.env` in the state directory."""
    path = Path(shell.environ["MAINTD_STATE_DIR"]) / ".env"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def rows(typed: CommandResult) -> dict[str, tuple[str, str]]:
    assert typed.code == 0, typed.err
    return {row["name"]: (row["value"], row["origin"]) for row in typed.json["settings"]}


def test_each_value_is_shown_with_the_source_that_won(shell: Shell) -> None:
    (shell.cwd / "config.yaml").write_text(
        "# ours\nslots: 7\ngrace: 9s\nretention:\n  runs: 30d\n  logs: 3d\n"
        "targets: {postgres: {main: {dsn: host=db}}}\n"
    )
    dotenv(shell).write_text("MAINTD_GRACE=3s\nMAINTD_DRAIN=5s\n")
    (shell.cwd / "url").write_text("sqlite:////somewhere/else.db\n")

    shown = rows(
        shell.maintd(
            "--config",
            "config.yaml",
            "--socket",
            "/run/m.sock",
            "settings",
            "--json",
            MAINTD_DRAIN="6s",
            MAINTD_RETENTION__LOGS="4d",
            MAINTD_STORE_URL_FILE="url",
        )
    )

    assert shown["slots"] == ("7", "config.yaml:2")
    assert shown["grace"] == ("3s", f"{dotenv(shell)}: MAINTD_GRACE")
    assert shown["drain"] == ("6s", "MAINTD_DRAIN")
    assert shown["retention.runs"] == ("30d", "config.yaml:5")
    assert shown["retention.logs"] == ("4d", "MAINTD_RETENTION__LOGS")
    assert shown["socket"] == ("/run/m.sock", "--socket")
    assert shown["store_url"] == ("sqlite:////somewhere/else.db", "MAINTD_STORE_URL_FILE")
    assert shown["targets.postgres.main.dsn"] == ("host=db", "config.yaml:7")
    assert shown["heartbeat"] == ("15s", "default")
    assert shown["config"] == ("config.yaml", "--config")


def test_the_settings_file_can_be_set_by_the_environment_and_by_dotenv(shell: Shell) -> None:
    (shell.cwd / "a.yaml").write_text("slots: 7\n")
    (shell.cwd / "b.yaml").write_text("slots: 8\n")
    dotenv(shell).write_text("MAINTD_CONFIG=a.yaml\n")

    assert rows(shell.maintd("settings", "--json"))["slots"] == ("7", "a.yaml:1")
    assert rows(shell.maintd("settings", "--json", MAINTD_CONFIG="b.yaml"))["slots"] == ("8", "b.yaml:1")


def test_a_dotenv_beside_the_settings_file_comes_before_that_of_the_state_directory(shell: Shell) -> None:
    (shell.cwd / "etc").mkdir()
    (shell.cwd / "etc/maintd.yaml").write_text("node: a\n")
    (shell.cwd / "etc/.env").write_text("MAINTD_SLOTS=7\n")
    dotenv(shell).write_text("MAINTD_SLOTS=8\n")

    assert rows(shell.maintd("settings", "--json"))["slots"] == ("8", f"{dotenv(shell)}: MAINTD_SLOTS")
    assert rows(shell.maintd("--config", "etc/maintd.yaml", "settings", "--json"))["slots"][0] == "7"


@pytest.mark.parametrize(
    "line", ["MAINTD_SLOTS=7", "MAINTD_JOBS_PATH=theirs", "MAINTD_CONFIG=theirs.yaml", "MAINTD_SOCKET=/tmp/theirs"]
)
def test_a_dotenv_in_the_working_directory_is_not_read(shell: Shell, line: str) -> None:
    (shell.cwd / ".env").write_text(line + "\n")

    before = rows(Shell(shell.cwd / "state", shell.environ).maintd("settings", "--json"))
    assert rows(shell.maintd("settings", "--json")) == before


def test_no_secret_is_shown(shell: Shell) -> None:
    (shell.cwd / "config.yaml").write_text(
        "targets:\n  postgres:\n"
        "    main: {dsn: 'postgresql://op:geheim@db/x', password: geheim}\n"
        "    words: {dsn: 'host=db password=geheim user=op'}\n"
        "  http: {api: {url: 'http://api/', headers: {Authorization: geheim}}}\n"
    )

    for words in (("settings",), ("settings", "--json")):
        typed = shell.maintd("--config", "config.yaml", *words, MAINTD_STORE_URL="postgresql://op:geheim@db/maintd")
        assert typed.code == 0
        assert "geheim" not in typed.out + typed.err
        assert "postgresql://op:***@db/maintd" in typed.out


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ("slost: 3\n", 'config.yaml:1: unknown setting "slost"; did you mean "slots"?'),
        ("# x\nslots: many\n", 'config.yaml:2: slots "many": should be a valid integer'),
        ("slots: 3\nslots: 4\n", 'config.yaml:2:1: duplicate key "slots", first on line 1'),
        ("slots:\n\t- 3\n", "config.yaml:2:1: a tab; indent with spaces"),
        ("- a\n", "config.yaml:1:1: settings must be a mapping"),
        ("retention: {rnus: 3d}\n", 'config.yaml:1: unknown setting "retention.rnus"; did you mean "runs"?'),
        ("heartbeat: 5\n", "config.yaml:1: heartbeat"),
        ("slots: 0\ngrace: soon\n", 'config.yaml:2: grace: "soon" is not a duration'),
        ("a: &a [x, x]\nb: &b [*a, *a]\nslots: [*b\n", "config.yaml:4:1"),
        ("targets: &t\n  postgres: *t\n", 'the alias "*t" is inside the value that it refers to'),
    ],
)
def test_an_invalid_settings_file_is_reported_with_its_line(shell: Shell, content: str, answer: str) -> None:
    (shell.cwd / "config.yaml").write_text(content)

    typed = shell.maintd("--config", "config.yaml", "settings")

    assert typed.code == 2
    assert answer in typed.err


@pytest.mark.parametrize("laugh", [9])
def test_nested_yaml_aliases_do_not_fill_the_memory(shell: Shell, laugh: int) -> None:
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, laugh)]
    (shell.cwd / "config.yaml").write_text("\n".join(lines))

    typed = shell.maintd("--config", "config.yaml", "settings", seconds=120)

    assert typed.code == 2
    assert "more than 500,000 values" in typed.err


def test_unreadable_files_are_named(shell: Shell) -> None:
    (shell.cwd / "binary.yaml").write_bytes(b"slots: \xff\n")
    (shell.cwd / "big.yaml").write_bytes(b"#" * 5_100_000)

    assert "missing.yaml: cannot be read" in shell.maintd("--config", "missing.yaml", "settings").err
    assert "binary.yaml:1:8: byte 0xff is not UTF-8" in shell.maintd("--config", "binary.yaml", "settings").err
    assert "big.yaml:1:1: the file has 5.1 MB, the limit" in shell.maintd("--config", "big.yaml", "settings").err
    assert (
        "MAINTD_STORE_URL_FILE: cannot read /nowhere" in shell.maintd("settings", MAINTD_STORE_URL_FILE="/nowhere").err
    )


def test_a_binary_dotenv_is_named(shell: Shell) -> None:
    dotenv(shell).write_bytes(b"MAINTD_SLOTS=\xff\n")

    for words in (("status",), ("settings",)):
        typed = shell.maintd(*words)
        assert typed.code == 2
        assert ".env: byte 13 is not UTF-8" in typed.err


def test_every_invalid_value_is_reported_with_its_variable(shell: Shell) -> None:
    dotenv(shell).write_text("MAINTD_GRACE=soon\n")

    typed = shell.maintd("settings", MAINTD_SLOTS="many", MAINTD_LOG_FORMAT="xml")

    assert typed.code == 2
    assert 'MAINTD_SLOTS: slots "many"' in typed.err
    assert 'MAINTD_LOG_FORMAT: log_format "xml"' in typed.err
    assert '.env: MAINTD_GRACE: grace: "soon" is not a duration' in typed.err


def test_an_invalid_value_is_an_error_object_with_json(shell: Shell) -> None:
    typed = shell.maintd("history", "--json", MAINTD_SLOTS="many")

    assert typed.code == 2
    assert typed.json["error"]["code"] == "settings"
    assert "MAINTD_SLOTS" in typed.json["error"]["message"]


def test_unknown_variables_are_reported_with_a_similar_name(shell: Shell) -> None:
    dotenv(shell).write_text("MAINTD_GRASE=3s\n")

    typed = shell.maintd(
        "settings",
        MAINTD_SLOT="3",
        MAINTD_TARGETS__POSTGRES__MAIN__DSN="x",
    )

    assert typed.code == 0
    assert 'the environment: unknown setting "MAINTD_SLOT"; did you mean "MAINTD_SLOTS"?' in typed.err
    assert '.env: unknown setting "MAINTD_GRASE"; did you mean "MAINTD_GRACE"?' in typed.err
    assert "MAINTD_TARGETS__POSTGRES" not in typed.err


def test_the_settings_of_the_first_stack_can_be_read(shell: Shell) -> None:
    example = Path(__file__).parents[2] / "deploy/cli-trading.yaml"

    shown = rows(shell.maintd("--config", example, "settings", "--json"))

    assert any(name.startswith("targets.postgres.") for name in shown)


def test_an_empty_variable_is_no_value(shell: Shell) -> None:
    (shell.cwd / "config.yaml").write_text("slots: 7\n")

    shown = rows(
        shell.maintd(
            "--config",
            "config.yaml",
            "settings",
            "--json",
            MAINTD_CALENDAR="",
            MAINTD_CALENDAR_OVERLAY="",
            MAINTD_REPORTS_DIR="",
            MAINTD_SOCKET="",
        )
    )

    assert shown["calendar"][0] == shown["calendar_overlay"][0] == shown["reports_dir"][0] == ""
    assert shown["socket"][0].endswith("/maintd.sock")


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("MAINTD_TRUSTED_PROXIES", "10.0.0.0/8, proxy", '"proxy" is neither an address nor a network'),
        ("MAINTD_TRUSTED_PROXIES", "0.0.0.0/0", '"0.0.0.0/0" is every address'),
        ("MAINTD_PROXY_ROLES", "ops", '"ops" is not GROUP=ROLE; write for example ops=operator'),
        ("MAINTD_PROXY_ROLES", "ops=root", "should be 'viewer', 'operator', 'approver' or 'admin'"),
    ],
)
def test_a_wrong_setting_of_a_proxy_is_refused(shell: Shell, variable: str, value: str, message: str) -> None:
    done = shell.maintd("settings", **{variable: value})

    assert done.code == 2
    assert f"{variable}: " in done.err
    assert message in done.err


def test_lists_and_roles_are_written_with_commas(shell: Shell) -> None:
    values = {"MAINTD_ALLOWED_HOSTS": "a.example, b.example", "MAINTD_PROXY_ROLES": "ops=operator, *=viewer"}
    shown = {row["name"]: row["value"] for row in shell.maintd("settings", "--json", **values).json["settings"]}

    assert shown["allowed_hosts"] == "a.example, b.example"
    assert (shown["proxy_roles.ops"], shown["proxy_roles.*"]) == ("operator", "viewer")


def test_lists_and_roles_can_be_yaml(shell: Shell) -> None:
    config = shell.cwd / "config.yaml"
    config.write_text("trusted_proxies: [10.0.0.0/8]\nproxy_roles: {ops: operator}\n")
    shown = {row["name"]: row for row in shell.maintd("--config", config, "settings", "--json").json["settings"]}

    assert shown["trusted_proxies"]["value"] == "10.0.0.0/8"
    assert shown["proxy_roles.ops"]["value"] == "operator"
    assert "config.yaml:2" in shown["proxy_roles.ops"]["origin"]
