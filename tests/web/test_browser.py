"""The page in Chromium: no console errors, usable with the keyboard and on a phone, live updates."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect
from support.browser import violations
from support.web_services import FULL, HOSTILE, Harness, at, line, run_with, running_run

from maintd.model.evidence import Measure
from maintd.model.run import RunState
from maintd.model.run_updates import AttemptReported, RunFinished

pytestmark = pytest.mark.server

SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


@pytest.fixture
def tab(browser: Browser, served: Harness) -> Iterator[Page]:
    """A tab on the served page; a console error or warning fails the test."""
    messages: list[str] = []
    context = browser.new_context(base_url=f"http://{served.settings.listen}")
    made = context.new_page()
    made.on("console", lambda message: messages.append(message.text) if message.type in ("error", "warning") else None)
    made.on("pageerror", lambda error: messages.append(str(error)))
    made.set_default_timeout(60_000)
    yield made
    context.close()
    assert messages == []


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_pass_the_accessibility_rules(tab: Page, served: Harness, size: str, scheme: str) -> None:
    for minute in (0, 10):
        ended = run_with(served.store, "nightly-vacuum", minute, RunState.FAILED, items=FULL, reason="w" * 300)
    live, _ = running_run(served.store, "probe", 20, *FULL[:2], line(1, "x" * 400))
    width, height = SIZES[size]
    tab.set_viewport_size({"width": width, "height": height})
    tab.emulate_media(color_scheme="dark" if scheme == "dark" else "light")

    found = {}
    for path in (
        "/",
        "/runs",
        f"/runs/{ended}",
        f"/runs/{live}",
        "/entries/nightly-vacuum",
        "/jobs",
        "/jobs/vacuum",
        "/due",
    ):
        tab.goto(path)
        found[path] = violations(tab)

    assert {path: broken for path, broken in found.items() if broken} == {}


def test_the_page_of_a_run_follows_its_log_and_final_state_without_a_reload(tab: Page, served: Harness) -> None:
    run, fence = running_run(served.store, "probe", 0, line(1, "first line"))
    tab.goto(f"/runs/{run}")
    expect(tab.locator("#lines")).to_contain_text("first line")
    tab.evaluate("window.notReloaded = true")

    served.store.runs.apply(
        run, fence, 4, [AttemptReported(step=0, attempt=1, items=(line(2, f"second {HOSTILE}", "stderr"),))]
    )
    expect(tab.locator("#lines")).to_contain_text(f"second {HOSTILE}")
    served.store.runs.apply(run, fence, 5, [RunFinished(state=RunState.FAILED, at=at(1), reason="it broke")])

    expect(tab.locator(".outcome")).to_contain_text("failed")
    expect(tab.locator("#live")).to_contain_text("it broke")
    assert tab.locator("#lines p.where").count() == 1
    assert tab.evaluate("window.notReloaded")


def test_links_are_focused_in_reading_order(tab: Page, served: Harness) -> None:
    run_with(served.store, "nightly-vacuum", 0, RunState.FAILED, items=FULL)
    tab.goto("/")

    reached = []
    for _ in range(9):
        tab.keyboard.press("Tab")
        reached.append(tab.evaluate("document.activeElement.textContent.trim()"))

    assert reached[:6] == ["Skip to content", "maintd", "Status", "Runs", "Due", "Jobs"]
    assert "Nightly vacuum" in reached
    focus = tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert focus == "solid"


def test_the_skip_link_skips_the_navigation(tab: Page) -> None:
    tab.goto("/")

    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")

    assert tab.evaluate("document.activeElement.id") == "main"


def test_the_history_can_be_filtered_with_the_keyboard(tab: Page, served: Harness) -> None:
    run_with(served.store, "probe", 0)
    run_with(served.store, "nightly-vacuum", 1)
    tab.goto("/runs")

    tab.get_by_label("Entry or job name").focus()
    tab.keyboard.type("probe")
    tab.keyboard.press("Enter")

    expect(tab.locator("tbody tr")).to_have_count(1)
    expect(tab.locator("tbody")).to_contain_text("probe")


def test_a_script_in_a_report_is_not_executed(tab: Page, served: Harness) -> None:
    from support.web_services import artifact

    html = b"<title>quiet</title><script>document.title = 'loud'</script><p>report</p>"
    run = run_with(served.store, "probe", 0, items=(artifact(served.folder, "r.html", html, "text/html"),))
    tab.goto(f"/runs/{run}")

    opened = tab.context.new_page()
    opened.goto(f"/api/v1/runs/{run}/artifacts/vacuum/1/r.html")

    assert opened.title() == "quiet"
    expect(opened.locator("p")).to_have_text("report")


def test_measures_stay_open_while_the_page_updates(tab: Page, served: Harness) -> None:
    measure = Measure(name="size", value=1, unit="B")
    run, fence = running_run(served.store, "probe", 0, measure)
    tab.goto(f"/runs/{run}")
    tab.locator("summary").click()
    tab.locator("body").click(position={"x": 1, "y": 1})

    served.store.runs.apply(run, fence, 4, [RunFinished(state=RunState.SUCCEEDED, at=at(1))])

    expect(tab.locator(".outcome")).to_contain_text("succeeded")
    expect(tab.locator("details table")).to_be_visible()
