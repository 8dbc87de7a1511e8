"""The log of an attempt: complete at both ends, bounded between, whatever way the bytes are cut."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from maintd.executor.attempt_log import LINE_COST, LINE_LIMIT, TAIL_BACKLOG_LIMIT, AttemptLog
from maintd.model.evidence import LogLine, LogTrim
from maintd.redaction import MAX_KEY_LINES

AT = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


def recorded(output: AttemptLog, chunks: list[bytes], *, take_each: bool = True) -> tuple[dict[int, str], int]:
    """Lines by number as the store would have them in the end, and how many were trimmed."""
    lines: dict[int, str] = {}
    left_out = 0

    def record(final: bool = False) -> None:
        nonlocal left_out
        for item in output.take(final=final):
            if isinstance(item, LogTrim):
                left_out += item.last - item.first + 1
                for number in [n for n in lines if item.first <= n <= item.last]:
                    del lines[number]
            elif isinstance(item, LogLine):
                assert item.seq not in lines
                lines[item.seq] = item.text

    for chunk in chunks:
        output.feed("stdout", chunk, AT)
        if take_each:
            record()
    output.end(AT)
    record(final=True)
    return lines, left_out


@given(st.lists(st.binary(max_size=300), max_size=20), st.booleans())
def test_a_short_log_is_kept_whole_however_it_is_cut(chunks: list[bytes], take_each: bool) -> None:
    text = b"".join(chunks).decode("utf-8", errors="replace").replace("\0", "\ufffd")
    wanted = text.split("\n")
    if wanted[-1] == "":
        wanted.pop()

    lines, left_out = recorded(AttemptLog(1_000_000), chunks, take_each=take_each)

    assert left_out == 0
    # A character that is cut by the end of a line is replaced on both ways alike, but not always by as many.
    assert [line.replace("\ufffd", "") for line in lines.values()] == [
        line.removesuffix("\r").replace("\ufffd", "") for line in wanted
    ]


@given(st.integers(1, 3000), st.integers(0, 200), st.integers(1, 400), st.booleans())
def test_of_a_long_log_the_first_and_the_last_lines_are_kept(
    count: int, width: int, per_chunk: int, take_each: bool
) -> None:
    limit = 20_000
    all_lines = [f"{n} {'x' * width}" for n in range(1, count + 1)]
    data = [line.encode() + b"\n" for line in all_lines]
    chunks = [b"".join(data[n : n + per_chunk]) for n in range(0, count, per_chunk)]

    lines, left_out = recorded(AttemptLog(limit), chunks, take_each=take_each)

    numbers = sorted(lines)
    assert len(numbers) + left_out == count
    assert all(lines[number] == all_lines[number - 1] for number in numbers)
    assert (numbers[0], numbers[-1]) == (1, count)
    gaps = [(a, b) for a, b in pairwise(numbers) if b != a + 1]
    assert len(gaps) <= 1
    cost = sum(len(text) + 1 + LINE_COST for text in lines.values())
    # The head ends, and the tail begins, with a whole chunk: an eighth of the limit in bytes, half of it in lines.
    assert cost <= 2 * (limit + limit // 8 + limit // 2)


def test_an_endless_line_is_cut_and_counted() -> None:
    output = AttemptLog(1_000_000)

    lines, _ = recorded(output, [b"y" * 50_000] * 10 + [b"\nnext\n"])

    assert lines[1] == "y" * LINE_LIMIT + f" … and {500_000 - LINE_LIMIT} bytes more"
    assert lines[2] == "next"


def test_a_flood_is_held_back_until_the_end() -> None:
    output = AttemptLog(10_000_000)
    line = b"z" * 99 + b"\n"
    for _ in range(60):
        output.feed("stdout", line * 1000, AT)
    head = [item for item in output.take() if isinstance(item, LogLine)]
    for _ in range(60):
        output.feed("stdout", line * 1000, AT)

    later = list(output.take())

    assert TAIL_BACKLOG_LIMIT < 10_000_000
    assert 50_000 <= len(head) <= 51_000
    assert later == []


def test_secrets_are_blotted_out_across_chunks() -> None:
    output = AttemptLog(10_000)
    output.hide(["hunter2hunter2"])

    lines, _ = recorded(output, [b"password hunter2", b"hunter2 it is\n"])

    assert list(lines.values()) == ["password *** it is"]


KEY = [b"-----BEGIN OPENSSH PRIVATE KEY-----", *(b"MIIE%02dsecretsecret" % n for n in range(30)), b"c2hvcnQ="]
KEY_END = b"-----END OPENSSH PRIVATE KEY-----"


@given(st.lists(st.integers(1, 200), min_size=1, max_size=12), st.booleans())
def test_a_private_key_of_several_lines_is_masked_however_it_is_cut(sizes: list[int], take_each: bool) -> None:
    data = b"\n".join([b"before", *KEY, KEY_END, b"after"]) + b"\n"
    chunks = []
    for size in sizes:
        chunks.append(data[:size])
        data = data[size:]

    lines, _ = recorded(AttemptLog(1_000_000), [*chunks, data], take_each=take_each)

    assert list(lines.values()) == [
        "before",
        f"{KEY[0].decode()} ***",
        *["***"] * (len(KEY) - 1),
        KEY_END.decode(),
        "after",
    ]


def test_a_private_key_is_masked_whose_beginning_was_left_out() -> None:
    flood = [b"x" * 400] * 40

    lines, left_out = recorded(AttemptLog(10_000), [b"\n".join([*flood, *KEY, KEY_END]) + b"\n"], take_each=False)

    assert left_out > 0
    assert not any("secret" in line for line in lines.values())


def test_a_key_that_does_not_end_masks_a_bounded_number_of_lines_of_its_stream_only() -> None:
    output = AttemptLog(1_000_000)
    output.feed("stderr", b"other\n", AT)
    output.feed("stdout", KEY[0] + b"\n" + b"line\n" * (MAX_KEY_LINES + 2), AT)
    output.feed("stderr", b"other\n", AT)

    lines = [item for item in output.take(final=True) if isinstance(item, LogLine)]

    assert [item.text for item in lines if item.stream == "stderr"] == ["other", "other"]
    assert [item.text for item in lines[2:-1]] == ["***"] * MAX_KEY_LINES + ["line"] * 2


def test_a_line_with_the_form_of_a_secret_is_masked_and_its_neighbours_are_not() -> None:
    lines, _ = recorded(AttemptLog(10_000), [b"copied 3 files\ntoken=abcdefgh\r\ndone in 3 s\n"])

    assert list(lines.values()) == ["copied 3 files", "token=***", "done in 3 s"]
