"""The HTML pages."""

from __future__ import annotations

import re

from support.web_services import FULL, Client, Harness, check, line, run_with, running_run

from maintd.model.evidence import Check, CheckStatus
from maintd.model.run import RunState


def words(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def test_the_status_page_shows_when_nothing_needs_attention(served: Harness, page: Client) -> None:
    served.jobs.pop("wrecked")
    served.use(*served.calendar.entries[:4], broken={})

    assert "Nothing needs attention" in page.get("/").text


def test_the_status_page_does_not_praise_what_has_not_run(served: Harness, page: Client) -> None:
    served.jobs.pop("wrecked")
    served.use(*[entry for entry in served.calendar.entries if entry.name in ("probe", "nightly-vacuum")], broken={})

    before = words(page.get("/").text)
    run_with(served.store, "probe", 0)
    half = words(page.get("/").text)
    run_with(served.store, "nightly-vacuum", 0)
    after = words(page.get("/").text)

    assert "2 entries have not run yet" in before
    assert "1 entry has not run yet" in half
    assert "No entry is failing" not in before + half
    assert "No entry is failing" in after


def test_the_status_page_starts_with_what_needs_attention_and_the_next_step(served: Harness, page: Client) -> None:
    run = run_with(served.store, "nightly-vacuum", 0, RunState.FAILED, items=FULL)

    text = words(page.get("/").text)

    assert "dead tuples: 31.25 %, expected at most 20" in text
    assert text.index(f"maintd show {run}") < text.index("Next seven days")


def test_an_entry_of_an_unknown_state_needs_attention_on_the_status_page(served: Harness, page: Client) -> None:
    run = run_with(served.store, "nightly-vacuum", 0, RunState.UNKNOWN)

    text = words(page.get("/").text)

    assert "No entry is failing" not in text
    assert text.index(f"maintd show {run}") < text.index("Next seven days")


def test_the_history_can_be_filtered_and_paged_without_javascript(served: Harness, page: Client) -> None:
    runs = [run_with(served.store, "probe", minute) for minute in range(52)]
    run_with(served.store, "nightly-vacuum", 60, RunState.FAILED)

    first = page.get("/runs?entry=probe").text
    older = re.search(r'rel="next" href="([^"]+)"', first)
    assert older is not None
    second = page.get(older[1].replace("&amp;", "&")).text

    assert f'href="/runs/{runs[-1]}"' in first
    assert f'href="/runs/{runs[0]}"' not in first
    assert re.findall(r'data-label="Run"><a href="/runs/(\d+)"', second) == [str(runs[1]), str(runs[0])]
    assert "No runs match" in page.get("/runs?state=cancelled").text
    assert page.get("/runs?before=x").status == 400


def test_a_run_shows_observed_and_expected_values_and_hints(served: Harness, page: Client) -> None:
    run = run_with(served.store, "nightly-vacuum", 0, RunState.FAILED, items=FULL, reason="1 check failed")

    text = words(page.get(f"/runs/{run}").text)

    for part in ("31.25 %", "at most 20", "not observed", "configure the host target", "orders", "5.0 GiB", "1.0 MiB"):
        assert part in text, part
    assert "stderr could not lock orders" in text
    assert f"maintd logs {run}" in text


def test_a_run_marks_what_is_unknown_and_not_required(served: Harness, page: Client) -> None:
    swap = Check(name="swap", observed="denied", expected="0", status=CheckStatus.UNKNOWN, optional=True)
    run = run_with(served.store, "nightly-vacuum", 0, RunState.SUCCEEDED, items=(swap,))

    assert "unknown not required swap" in words(page.get(f"/runs/{run}").text)


def test_a_run_that_observed_nothing_has_0_checks(served: Harness, page: Client) -> None:
    run = run_with(served.store, "nightly-vacuum", 0, RunState.SUCCEEDED)

    assert "0 checks" in words(page.get(f"/runs/{run}").text)


def test_the_page_of_an_unfinished_run_reloads_without_javascript(served: Harness, page: Client) -> None:
    live, _ = running_run(served.store, "probe", 0)
    ended = run_with(served.store, "nightly-vacuum", 0)

    assert '<noscript><meta http-equiv="refresh" content="10">' in page.get(f"/runs/{live}").text
    assert "refresh" not in page.get(f"/runs/{ended}").text
    assert "<script" not in page.get(f"/runs/{ended}").text


def test_a_long_log_is_shown_in_pages_or_from_its_end(served: Harness, page: Client) -> None:
    lines = tuple(line(number, f"line {number}.") for number in range(1, 1201))
    run = run_with(served.store, "probe", 0, items=lines)

    first, last = page.get(f"/runs/{run}").text, page.get(f"/runs/{run}?tail=true").text

    assert "line 500." in first
    assert "line 501." not in first
    assert f'href="/runs/{run}?after=0.1.500#log"' in first
    assert "line 700." not in last
    assert "line 1200." in last


def test_an_entry_shows_its_trends(served: Harness, page: Client) -> None:
    for minute in (0, 10, 20):
        run_with(served.store, "nightly-vacuum", minute, items=FULL)

    text = page.get("/entries/nightly-vacuum").text

    assert re.findall(r"<figcaption><strong>([^<]+)", text) == [
        "Duration",
        "dead_ratio",
        "size_bytes (le-vel a, table orders)",
    ]
    assert "every day at 04:00" in text


def test_a_job_shows_its_params_and_a_broken_job_its_error(page: Client) -> None:
    good, broken = words(page.get("/jobs/vacuum").text), words(page.get("/jobs/wrecked").text)

    assert "How many." in good
    assert "/jobs/wrecked.py:3: invalid syntax" in broken


def test_unknown_pages_are_not_found(page: Client) -> None:
    for path in ("/nothing", "/runs/99", "/entries/prob", "/jobs/vacum", "/static/../style.css"):
        answer = page.get(path)
        assert (answer.status, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")
        assert "Not found" in answer.text
    assert "did you mean &#34;probe&#34;?" in page.get("/entries/prob").text


def test_a_warning_is_shown_but_does_not_need_attention(served: Harness, page: Client) -> None:
    served.jobs.pop("wrecked")
    served.use(*served.calendar.entries[:4], broken={})
    run_with(served.store, "probe", 0, RunState.WARNED, items=(check("free space", CheckStatus.WARN, 18),))

    text = words(page.get("/").text)

    assert "Nothing needs attention" in text
    assert "free space: 18, expected at most 20" in text


def test_static_files_may_be_cached_until_they_change(page: Client) -> None:
    address = re.search(r'href="(/static/style\.css\?\w+)"', page.get("/").text)
    assert address is not None

    answer = page.get(address[1])

    assert answer.headers["content-type"] == "text/css; charset=utf-8"
    assert "max-age" in answer.headers["cache-control"]
    assert page.get("/").headers["cache-control"] == "no-store"
