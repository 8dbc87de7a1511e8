"""Hostile answers and files cost no more than their size: limits hold before decoding."""

from __future__ import annotations

import gzip
import json
import socket
import struct
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from support.http_services import Reply, gzip_bomb, http_service

from maintd.checks.audit import compose_files
from maintd.checks.backups.archive import Reading, read_archive
from maintd.clients.bounded import JsonLimits, decimal, inflate, parse_json, parse_yaml
from maintd.clients.http import fetch
from maintd.clients.shapes import Shape, read_each
from maintd.errors import TargetError

DEADLINE = timedelta(seconds=60)
RLE_BLOCK = ((128 * 1024 << 3) | 1 << 1).to_bytes(3, "little") + b"\0"  # 128 KiB of zeros in four bytes of zstd


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (b"[" * 500_000, "too_large"),
        (b'{"a":' * 100_000, "too_large"),
        (b"[" * 101 + b"]" * 101, "too_large"),
        (b"1" * 5000, "too_large"),
        (b'{"a": -' + b"9" * 301 + b"}", "too_large"),
        (b"[" + b"{}," * 2_100_000 + b"1]", "too_large"),
        (b'"' + b"x" * (17 << 20) + b'"', "too_large"),
        (b"{", "malformed"),
        (b"\xff\xfe[", "malformed"),
        (b"", "malformed"),
        (b'["\\u"]', "malformed"),
        (b"\0", "malformed"),
    ],
)
def test_json_over_a_limit_is_an_error_with_its_cause(text: bytes, cause: str) -> None:
    with pytest.raises(TargetError) as raised:
        parse_json(text, "the answer")

    assert raised.value.cause == cause


def test_brackets_and_digits_in_strings_are_neither_depth_nor_numbers() -> None:
    value = {"a": "[" * 10_000, "b": "9" * 5000, "c": 'quote " and \\ [{' * 50, "d": ["{" * 200]}

    assert parse_json(json.dumps(value), "x") == value


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_what_is_within_the_limits_is_read_as_json_reads_it(value: object) -> None:
    text = json.dumps(value)

    assert parse_json(text, "x", JsonLimits(depth=50)) == json.loads(text)


def nested_aliases(lines: int, value: str) -> str:
    """YAML of which each line has 10 times as many values as the one before it; the first line has one."""
    aliases = [", ".join([f"*a{line}"] * 10) for line in range(lines - 1)]
    return "\n".join(["a0: &a0 {x: 1}", *(f"a{i + 1}: &a{i + 1} {value % text}" for i, text in enumerate(aliases))])


HOSTILE_YAML = {
    "merge keys": (nested_aliases(6, "{<<: [%s]}"), "too_large"),  # 0.9 s; each further line takes 10 times as long
    "aliases in lists": (nested_aliases(9, "[%s]"), "too_large"),
    "a depth by aliases": ("a0: &a0 [1]\n" + "\n".join(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 60)), "too_large"),
    "a depth": ("[" * 1000, "too_large"),
    "many values": ("[" + "1," * 150_000 + "1]", "too_large"),
    "a long number": ("a: " + "9" * 301, "too_large"),
    "a long number in base 60": ("a: 1" + ":1" * 300, "too_large"),
    "a text that is tagged as a number": ('a: !!int "1' + ":1" * 300 + '"', "too_large"),
    "a value that contains itself": ("a: &a [*a]", "malformed"),
    "a mapping that merges itself": ("a: &a {<<: *a}", "malformed"),
    "an alias without its anchor": ("a: *b", "malformed"),
}


@pytest.mark.parametrize("name", HOSTILE_YAML)
def test_yaml_that_expands_beyond_a_limit_is_an_error_with_its_cause_before_it_is_loaded(name: str) -> None:
    text, cause = HOSTILE_YAML[name]

    tracemalloc.start()
    try:
        with pytest.raises(TargetError) as raised:
            parse_yaml(text, "the answer")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert raised.value.cause == cause
    assert peak < 8 << 20


def test_a_compose_file_whose_aliases_expand_without_end_is_too_large_in_the_audit(tmp_path: Path) -> None:
    path = tmp_path / "compose.yaml"
    path.write_text(nested_aliases(6, "{<<: [%s]}") + "\nservices: {a: {<<: *a5}}\n" + "b: &b [" + "1," * 100 + "1]")

    with pytest.raises(TargetError) as raised:
        compose_files.read(path)

    assert raised.value.cause == "too_large"


def test_aliases_and_merge_keys_of_usual_size_are_read_as_yaml_reads_them() -> None:
    services = "\n".join(f"  s{i}: {{<<: *common, image: i, note: '{'1' * 400}'}}" for i in range(200))
    text = f"x-common: &common {{restart: always, logging: &log {{driver: local}}}}\nservices:\n{services}\nlog: *log"

    found = parse_yaml(text, "x")

    assert found["services"]["s7"] == {
        "restart": "always",
        "logging": {"driver": "local"},
        "image": "i",
        "note": "1" * 400,
    }
    assert found["log"] == {"driver": "local"}


@pytest.mark.parametrize("text", ["²", "", "-1", "+1", "1_0", "0x1", "9" * 21, "9" * 5000, " 1", "٣"])
def test_a_number_is_ascii_digits_within_its_limit(text: str) -> None:
    with pytest.raises(TargetError):
        decimal(text, 2**62, "x")


class _Item(Shape):
    name: str


def test_a_list_of_other_items_ends_after_some_errors_and_keeps_no_text_for_each() -> None:
    value = [1] * 2_000_000
    tracemalloc.start()
    try:
        with pytest.raises(TargetError, match=r"dashboards: 1000 items are not understood, the first: .* not 1"):
            read_each(_Item, value, "dashboards")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 4 << 20
    assert len(read_each(_Item, [*[1] * 999, {"name": "a"}], "dashboards").not_understood) == 999


ANSWERS = {
    "zstd, not asked for": (b"\x28\xb5\x2f\xfd\0" + bytes([13 << 3]) + RLE_BLOCK * 8000, "zstd", "unfamiliar"),
    "brotli": (b"x", "br", "unfamiliar"),
    "gzip twice": (b"x", "gzip, gzip", "unfamiliar"),
    "a gzip bomb": (gzip_bomb(512), "gzip", "too_large"),
    "cut gzip": (gzip.compress(b"{}" * 1000)[:-9], "gzip", "partial"),
    "not gzip": (b"<html>", "gzip", "malformed"),
    "empty gzip blocks": (b"\x1f\x8b\x08\0\0\0\0\0\0\0" + b"\0\0\0\xff\xff" * 2_000_000, "gzip", "too_large"),
    "too long": (b" " * (9 << 20), "", "too_large"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_hostile_answer_is_refused_before_it_is_decoded(name: str) -> None:
    body, encoding, cause = ANSWERS[name]
    with http_service({"/": Reply(body, headers={"Content-Encoding": encoding} if encoding else {})}) as url:
        tracemalloc.start()
        try:
            with pytest.raises(TargetError) as raised:
                fetch("GET", url, timeout=DEADLINE)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert raised.value.cause == cause
    assert peak < 64 << 20


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "identity"])
def test_an_answer_in_a_common_coding_is_read_though_it_was_not_asked_for(encoding: str) -> None:
    text = b'{"ok": true}' * 1000
    body = {"gzip": gzip.compress(text), "deflate": zlib.compress(text), "identity": text}[encoding]
    with http_service({"/": Reply(body, headers={"Content-Encoding": encoding})}) as url:
        assert fetch("GET", url, timeout=DEADLINE).body == text


@contextmanager
def dripping(head: bytes, drip: bytes) -> Iterator[str]:
    """A server that answers with `head`, then sends `drip` again and again, slowly, until the client leaves."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                try:
                    connection.sendall(head)
                    while True:
                        connection.sendall(drip)
                        time.sleep(0.02)
                except OSError:
                    return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(60)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("head", "drip"),
    [
        (b"", b"H"),
        (b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
)
def test_an_answer_that_drips_ends_at_the_deadline(head: bytes, drip: bytes) -> None:
    with dripping(head, drip) as url, pytest.raises(TargetError) as raised:
        fetch("GET", url, timeout=timedelta(seconds=0.5))

    assert raised.value.cause in ("timed_out", "partial")  # bytes that are no HTTP may end it earlier


def read(path: Path, data: bytes) -> tuple[Reading, int]:
    """Read a file; return the result and the peak of the memory that Python allocated."""
    path.write_bytes(data)
    return measured(lambda: read_archive(path))


def measured(act: Callable[[], Reading]) -> tuple[Reading, int]:
    tracemalloc.start()
    try:
        return act(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def header(kind: bytes, size: int, *, mode: bytes = b"0000644") -> bytes:
    """A tar header with a correct checksum."""
    head = bytearray(512)
    head[:1], head[100 : 100 + len(mode)], head[124:135], head[156:157] = b"x", mode, b"%011o" % size, kind
    head[257:265], head[148:156] = b"ustar\00000", b" " * 8
    head[148:155] = b"%06o\0" % sum(head)
    return bytes(head)


def tar_with(*, mode: bytes = b"0000644", pax: bytes = b"") -> bytes:
    extended = header(b"x", len(pax)) + pax + bytes(-len(pax) % 512) if pax else b""
    return extended + header(b"0", 0, mode=mode) + bytes(1024)


ODD_TARS = {
    "a mode with nines": tar_with(mode=b"0000899"),
    "a mode with a sign": tar_with(mode=b"-000644"),
    "a mode with an underscore": tar_with(mode=b"0_00644"),
    "a mode in another notation": tar_with(mode=b"0o00644"),
    "a size that is a superscript": tar_with(pax="11 size=²\n".encode()[:-1] + b"\n"),
    "a size of 5,000 digits": tar_with(pax=b"5011 size=" + b"9" * 5000 + b"\n"),
    "a negative size": tar_with(pax=b"11 size=-1\n"),
    "a record longer than its header": tar_with(pax=b"99 path=a\n"),
    "a record without a length": tar_with(pax=b"path=a\n"),
    "a record with a length of 5,000 digits": tar_with(pax=b"9" * 5000 + b" path=a\n"),
    "a record with an Arabic length": tar_with(pax="١١ path=a\n".encode()),
}
BIG_TARS = {
    "200,000 records": tar_with(pax=b"5 a=\n" * 200_000),
    "a thousand headers for one member": (header(b"x", 9) + b"9 path=a\n" + bytes(503)) * 1000 + tar_with(),
    "a header of 2 MB": tar_with(pax=b"2000000 comment=" + b"x" * 1_999_983 + b"\n"),
    "a name of 2 MB": header(b"L", 2_000_000) + b"n" * 2_000_000 + bytes(-2_000_000 % 512) + tar_with(),
}


@pytest.mark.parametrize("name", ODD_TARS)
def test_odd_numbers_in_a_tar_are_damage_and_nothing_worse(name: str, tmp_path: Path) -> None:
    found, _ = read(tmp_path / "a.tar", ODD_TARS[name])

    assert found.damage.startswith("tar: "), found


@pytest.mark.parametrize("name", BIG_TARS)
def test_more_than_is_read_of_a_tar_is_unread_and_no_damage(name: str, tmp_path: Path) -> None:
    found, _ = read(tmp_path / "a.tar", BIG_TARS[name])

    assert (found.damage, found.unread[:5]) == ("", "tar: "), found


def test_a_file_is_evaluated_beside_an_odd_one(tmp_path: Path) -> None:
    from support.job_runs import run_job

    (tmp_path / "a.tar").write_bytes(ODD_TARS["a mode with nines"])
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(tar_with()))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "backup_manifest").write_bytes(b"[" * 500_000)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "backup_manifest").write_bytes(b'{"Files": [{"Path": 1, "Size": ' + b"9" * 5000 + b"}]}")

    result = run_job("backup_verify", {"root": str(tmp_path)})

    assert result.error is None, result.text()
    assert result.check("a.tar: decoded").status == "fail"
    assert result.check("b.tar.gz: decoded").status == "ok"
    assert [check.status for check in result.checks if check.name.startswith(("c: ", "d: "))].count("unknown") == 2


def test_a_large_pax_header_is_copied_once(tmp_path: Path) -> None:
    record = b"1000 comment=" + b"x" * 986 + b"\n"
    found, peak = read(tmp_path / "a.tar.gz", gzip.compress(tar_with(pax=record * 1000)))

    assert (found.damage, found.contents and found.contents.count) == ("", 1)
    assert peak < 32 << 20


def test_a_snapshot_that_declares_a_gigabyte_costs_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "sparse.rdb"
    with path.open("wb") as file:
        file.write(b"REDIS0011\xfa\x03abc\x80" + struct.pack(">I", 1 << 30))
        file.truncate((1 << 26) + 40)

    found, peak = measured(lambda: read_archive(path))

    assert "RDB" in found.damage
    assert peak < 64 << 20


@pytest.mark.parametrize("exponent", [28, 29, 31])
def test_a_zstd_window_over_128_mib_is_not_allocated(exponent: int, tmp_path: Path) -> None:
    data = b"\x28\xb5\x2f\xfd\0" + bytes([exponent - 10 << 3]) + RLE_BLOCK * 100 + b"\1\0\0"

    found, peak = read(tmp_path / "a.tar.zst", data)

    assert "of memory" in found.unread
    assert peak < 64 << 20


def test_zstd_with_a_window_of_its_highest_level_is_read(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=27, enable_ldm=True)
    data = zstandard.ZstdCompressor(compression_params=parameters).compress(tar_with())

    found, _ = read(tmp_path / "a.tar.zst", data)

    assert (found.damage, found.unread) == ("", "")


def toc(entries: int, *, has_data: bool) -> bytes:
    """A custom dump of `entries` tables, whose data is missing."""

    def number(value: int) -> bytes:
        return b"\0" + value.to_bytes(4, "little")

    def text(value: bytes) -> bytes:
        return number(len(value)) + value

    none = b"\1" + (1).to_bytes(4, "little")
    dates = b"".join(number(value) for value in (0, 0, 0, 1, 0, 120, 0))
    head = b"PGDMP\x01\x0e\x00\x04\x08\x01" + number(0) + dates + text(b"db") + text(b"15.1") + text(b"15.1")
    end = (b"\1" if has_data else b"\3") + bytes(8)
    middle = number(0) + text(b"0") * 2 + text(b"t") + text(b"TABLE") + number(2) + text(b"") * 2 + none
    rest = text(b"public") + text(b"") * 2 + text(b"o") + text(b"f") + none + end
    written = BytesIO()
    written.write(head + number(entries))
    for count in range(entries):
        written.write(number(count + 1) + middle + rest)
    return written.getvalue()


def test_a_long_table_of_contents_costs_no_memory(tmp_path: Path) -> None:
    found, peak = read(tmp_path / "a.dump.gz", gzip.compress(toc(100_000, has_data=False), 1))

    assert found.contents is not None
    assert found.contents.count == 100_000
    assert peak < 24 << 20  # with every entry kept it was 30 MB


def test_a_dump_of_more_tables_than_are_kept_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "a.dump.gz"
    path.write_bytes(gzip.compress(toc(200_001, has_data=True), 1))

    found = read_archive(path)

    assert "more than 200000 tables" in found.unread


@pytest.mark.parametrize("chunk", [1, 7, 100_000])
def test_codings_are_inflated_in_pieces_of_any_length(chunk: int) -> None:
    packed = gzip.compress(b"abc" * 10_000)
    pieces = (packed[at : at + chunk] for at in range(0, len(packed), chunk))

    assert b"".join(inflate(pieces, "gzip", "x")) == b"abc" * 10_000
