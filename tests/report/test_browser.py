"""The page in a real browser: it runs without an error or a request, at every width, in light and dark."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from orchestrator.report.render import ReportFiles
from tests.report.browser import Browser

PHONE, DESKTOP = 390, 1280


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium on the PATH; install it to test the report in a real browser")
    with Browser(program) as running:
        yield running


def middle(browser: Browser, element: str) -> tuple[float, float]:
    """Scrolls an element (a JavaScript expression) into view and returns the middle of it in the window."""
    x, y = browser.run(
        f"(async () => {{ const e = {element}; e.scrollIntoView({{block: 'center', behavior: 'instant'}});"
        # The page hears of the scrolling with the next frame.
        "for (let frame = 0; frame < 2; frame++) await new Promise(requestAnimationFrame);"
        "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
    )
    return x, y


def column(browser: Browser, index: int) -> list[str]:
    """The texts of a column of the first table, as shown."""
    found = browser.run(
        f"[...document.querySelector('table').tBodies[0].rows].map((row) => row.cells[{index}].textContent.trim())"
    )
    return list(found)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, 800, DESKTOP])
def test_the_page_runs_without_errors_or_requests_and_fits(
    browser: Browser, report: ReportFiles, width: int, dark: bool
) -> None:
    browser.open(report.html, width=width, dark=dark)
    assert browser.run("document.documentElement.dataset.ready") == "true"
    assert browser.errors == []
    assert browser.requests == [report.html.as_uri()]
    assert browser.run("document.documentElement.scrollWidth") == width, "nothing but tables scrolls sideways"
    paper = browser.run("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(20, 23, 28)" if dark else "rgb(255, 255, 255)")
    cell = browser.run("getComputedStyle(document.querySelector('.heat rect')).fill")
    assert cell.startswith("rgb("), "colours come from the style that the policy allows"


def test_a_click_on_a_heading_sorts_and_missing_values_stay_last(browser: Browser, report: ReportFiles) -> None:
    browser.open(report.html, width=DESKTOP)
    gains = column(browser, 7)
    head = "document.querySelectorAll('table thead th')[7]"

    def number(text: str) -> float:
        return float(text.split()[0].replace("−", "-"))

    ordered = sorted((text for text in gains if text != "–"), key=number)
    browser.click(*middle(browser, f"{head}.querySelector('button')"))
    assert column(browser, 7) == [*reversed(ordered), "–"]
    assert browser.run(f"{head}.getAttribute('aria-sort')") == "descending"
    browser.click(*middle(browser, f"{head}.querySelector('button')"))
    assert column(browser, 7) == [*ordered, "–"]
    browser.click(*middle(browser, "document.querySelector('table thead button')"))
    assert column(browser, 0) == sorted(column(browser, 0))
    assert browser.run("document.querySelectorAll('[aria-sort]').length") == 1
    assert browser.run("document.querySelector('table tfoot').textContent").strip().startswith("Mean")


def test_pointing_at_a_cell_shows_its_numbers_once(browser: Browser, report: ReportFiles) -> None:
    browser.open(report.html, width=DESKTOP)
    tip, cell = "document.getElementById('tip')", "document.querySelector('.heat rect')"
    text = browser.run(f"{cell}.querySelector('title').textContent")
    browser.move_mouse(*middle(browser, cell))
    assert browser.run(f"{tip}.hidden") is False
    assert browser.run(f"{tip}.textContent") == text
    assert browser.run(f"{cell}.querySelector('title')") is None, "or the browser would show it a second time"
    browser.move_mouse(1, 1)
    assert browser.run(f"{tip}.hidden") is True
    assert browser.run(f"{cell}.querySelector('title').textContent") == text


def test_a_tap_on_a_phone_shows_the_numbers_within_the_screen(browser: Browser, report: ReportFiles) -> None:
    browser.open(report.html, width=PHONE)
    browser.tap(*middle(browser, "[...document.querySelectorAll('.heat rect')].at(-1)"))
    assert browser.run("document.getElementById('tip').hidden") is False
    left, right = browser.run(
        "(() => { const r = document.getElementById('tip').getBoundingClientRect(); return [r.left, r.right]; })()"
    )
    assert 0 <= left < right <= PHONE


def test_the_commands_are_copied(browser: Browser, report: ReportFiles) -> None:
    browser.open(report.html, width=DESKTOP)
    browser.click(*middle(browser, "document.querySelector('[data-copy]')"))
    said = "new Promise((done) => setTimeout(() => done(document.querySelector('[data-copy]').textContent), 200))"
    assert browser.run(said) == "Copied"
    assert browser.errors == []
