"""Chromium, and accessibility rules for a page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from support.servers.base import require_program

CHROMIUM = Path("/usr/bin/chromium")
ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]

# Each rule returns the elements that violate it, as text.
RULES = """() => {
  const shown = (e) => e.tagName.toLowerCase() + (e.id ? '#' + e.id : '') + ' ' + e.textContent.trim().slice(0, 40);
  const all = (selector, wrong) => [...document.querySelectorAll(selector)].filter(wrong).map(shown);
  const named = (e) => (e.getAttribute('aria-label') || e.textContent || '').trim();
  const headings = [...document.querySelectorAll('h1,h2,h3,h4')].map((e) => Number(e.tagName[1]));
  return {
    'a language': document.documentElement.lang ? [] : ['html'],
    'a title': document.title.trim() ? [] : ['title'],
    'exactly one h1': document.querySelectorAll('h1').length === 1 ? [] : all('h1', () => true),
    'one main landmark': document.querySelectorAll('main').length === 1 ? [] : ['main'],
    'navigation with a name': all('nav', (e) => !e.getAttribute('aria-label')),
    'no skipped heading level': headings.some((level, i) => i && level > headings[i - 1] + 1) ? [headings.join()] : [],
    'a label for each field': all('input,select,textarea', (e) => !e.labels || !e.labels.length),
    'text for each image': all('img:not([alt]),svg[role=img]:not([aria-label])', () => true),
    'a name for each link and button': all('a,button,summary', (e) => !named(e)),
    'a caption for each table': all('table', (e) => !e.caption),
    'a scope for each header cell': all('th', (e) => !e.scope),
    'ids that are unique': all('[id]', (e) => document.querySelectorAll('#' + CSS.escape(e.id)).length > 1),
    'labels that exist': all('[aria-labelledby]', (e) => !document.getElementById(e.getAttribute('aria-labelledby'))),
    'text beside each symbol': all('.state', (e) => e.textContent.replace(/[^a-z]/gi, '').length < 2),
    'scrollable areas that take the keyboard focus': all('pre,.log', (e) => e.tabIndex < 0),
    'no positive tabindex': all('[tabindex]', (e) => e.tabIndex > 0),
    'nothing wider than the screen': document.documentElement.scrollWidth > innerWidth
      ? all('body *', (e) => e.getBoundingClientRect().right > innerWidth + 1).slice(0, 5) : [],
  };
}"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the installed Chromium, headless; never a downloaded browser."""
    path = require_program(CHROMIUM, "chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGS)
        try:
            yield browser
        finally:
            browser.close()


def violations(page: Page) -> dict[str, list[str]]:
    """Violated rule → the elements that violate it."""
    found: dict[str, list[str]] = page.evaluate(RULES)
    return {rule: where for rule, where in found.items() if where}
