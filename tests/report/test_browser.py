"""The page in a real browser: it runs without an error or a request, at every width, in light and dark."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from orchestrator.report.render import ReportFiles
from tests.report.browser import Browser
from tests.report.gallery import LANGUAGES

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
    browser: Browser, report: ReportFiles, gallery_report: ReportFiles, width: int, dark: bool
) -> None:
    browser.open(gallery_report.html, width=width, dark=dark)
    assert browser.errors == []
    assert browser.requests == [gallery_report.html.as_uri()]
    assert browser.run("document.documentElement.scrollWidth") == width
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


def type_into_filter(browser: Browser, text: str) -> None:
    browser.run(
        "(() => { const f = document.getElementById('filter'); "
        f"f.value = {text!r}; f.dispatchEvent(new Event('input')); }})()"
    )


def filtered(browser: Browser, text: str) -> list[str]:
    """Types into the filter and returns the languages of the dot plot that are left; tables, lines and cells agree."""
    type_into_filter(browser, text)
    visible = (
        "[...document.querySelectorAll('SELECTOR')].filter((e) => !e.hidden && !e.hasAttribute('hidden'))"
        ".flatMap((e) => e.dataset.languages.split('\\n'))"
    )
    left = list(browser.run(visible.replace("SELECTOR", ".dots [data-languages]")))
    for selector in ("tbody [data-languages]", ".line[data-languages]", ".heat rect[data-languages]"):
        assert set(browser.run(visible.replace("SELECTOR", selector))) <= set(left)
    hidden = browser.run(
        "[...document.querySelectorAll('[hidden]')].every((e) => getComputedStyle(e).display === 'none')"
    )
    assert hidden is True
    return left


def test_the_filter_acts_on_tables_dots_lines_and_cells(browser: Browser, gallery_report: ReportFiles) -> None:
    browser.open(gallery_report.html, width=DESKTOP)
    assert browser.run("document.querySelector('.filter output').textContent") == "all 4"
    assert filtered(browser, "german") == ["German (de)"]
    assert browser.run("document.querySelector('.filter output').textContent") == "1 of 4"
    assert filtered(browser, "arabic") == ["Arabic (ar)", "Egyptian Arabic (arz)"]
    assert filtered(browser, "AR") == ["Arabic (ar)"], "a code means this language alone"
    assert filtered(browser, "en, ger") == ["English (en)", "German (de)"]
    assert filtered(browser, "klingon") == []
    assert browser.run("document.querySelector('tfoot').textContent").startswith("Mean")
    assert filtered(browser, "") == list(LANGUAGES)
    browser.open(gallery_report.html, width=PHONE)
    browser.click(*middle(browser, "document.getElementById('filter')"))
    assert browser.run("document.activeElement.id") == "filter"


def test_the_filter_acts_on_heat_panels(browser: Browser, report: ReportFiles) -> None:
    browser.open(report.html, width=DESKTOP)
    type_into_filter(browser, "de")
    panels = browser.run(
        "[...document.querySelectorAll('#pairs .panel:not([hidden]) h4 bdi')].map((name) => name.textContent)"
    )
    assert panels == ["German (de)"]


def test_the_marks_of_lines_and_cells_with_names_say_their_numbers(
    browser: Browser, gallery_report: ReportFiles
) -> None:
    for width in (PHONE, DESKTOP):
        browser.open(gallery_report.html, width=width)
        browser.move_mouse(*middle(browser, "document.querySelector('.line .mark')"))
        assert browser.run("document.getElementById('tip').textContent") == "German (de). At 1: +2.0 [+1.0, +3.0]"
        browser.move_mouse(*middle(browser, "document.querySelector('#matrix .heat rect')"))
        assert browser.run("document.getElementById('tip').textContent") == "0 to 0"


def test_a_line_goes_through_its_marks_at_any_width(browser: Browser, gallery_report: ReportFiles) -> None:
    for width in (PHONE, DESKTOP):
        browser.open(gallery_report.html, width=width)
        ends = browser.run(
            "(() => { const box = (e) => e.getBoundingClientRect(), line = document.querySelector('.line');"
            "const dots = [...line.querySelectorAll('.dot')].map(box), stroke = box(line.querySelector('polyline'));"
            "const centre = (dot) => dot.x + dot.width / 2;"
            "return [centre(dots[0]) - stroke.left, centre(dots.at(-1)) - stroke.right]; })()"
        )
        assert ends == pytest.approx([0, 0], abs=2)


def test_letters_of_a_matrix_are_legible_on_a_phone(browser: Browser, gallery_report: ReportFiles) -> None:
    browser.open(gallery_report.html, width=PHONE)
    height = browser.run("document.querySelector('#matrix .heat text').getBoundingClientRect().height")
    assert height >= 8


def test_downloads_are_whole_wherever_the_page_lies(browser: Browser, gallery_report: ReportFiles) -> None:
    moved = gallery_report.html.with_name("moved.html")
    moved.write_bytes(gallery_report.html.read_bytes())
    browser.open(moved, width=DESKTOP)
    csv = browser.run("atob(document.querySelector('[download=\"gain-loss.csv\"]').href.split('base64,')[1])")
    assert csv.encode("latin-1") == gallery_report.tables[0].read_bytes()
    assert browser.run("[...document.querySelectorAll('.files a')].every((a) => a.href.startsWith('data:'))") is True
