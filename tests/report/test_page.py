"""The page stands alone: complete, escaped, without a request to anywhere, and never half-written."""

from __future__ import annotations

import base64
import errno
import hashlib
import io
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure as MatplotlibFigure
from PIL import Image

from methods.lrp2.outcome import SearchOutcome
from methods.lrp2.report import headline, report_sections
from orchestrator.errors import UserError
from orchestrator.report import theme
from orchestrator.report.blocks import Figure, Section, Table
from orchestrator.report.render import WRITTEN, ReportFiles, render_report
from tests.report.conftest import COMMANDS
from tests.report.page import Element, parse
from tests.report.synthetic import MANY_LANGUAGES, search_outcome

HOSTILE = "<script>alert('$x_1$ & \"y\"')</script>{{ 7*7 }}"


def read(report: ReportFiles) -> Element:
    return parse(report.html.read_text())


def line_figure() -> MatplotlibFigure:
    figure = MatplotlibFigure(figsize=(4, 3))
    figure.add_subplot().plot([1, 2, 3], color=theme.LIGHT["blue"])
    return figure


def render(folder: Path, sections: list[Section], **words: str) -> ReportFiles:
    text = {"title": "t", "headline": "h", **words}
    return render_report(folder, **text, sections=sections, provenance={}, commands=[])


def test_what_an_earlier_report_had_and_this_one_has_not_is_removed_and_nothing_else(tmp_path: Path) -> None:
    groups = Section("Groups", "", [Table("Gain per group", ["group"], [["cjk"]]), Figure("groups", "", line_figure)])
    kept = Section("Languages", "", [Table("Gain", ["language"], [["de"]]), Figure("gain", "", line_figure)])
    render(tmp_path, [kept, groups])
    own = tmp_path / "figures" / "for-the-paper.png"
    own.write_bytes(b"the user's")
    (tmp_path / "spec.yaml").touch()
    with (tmp_path / WRITTEN).open("a") as file:
        file.write("spec.yaml\nfigures/../spec.yaml\n")
    render(tmp_path, [kept])
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    files = {"figures/gain.png", "figures/gain.svg", "tables/gain.csv", "tables/gain.tex"}
    assert left == {"report.html", WRITTEN, "spec.yaml", "figures/for-the-paper.png", *files}
    assert set((tmp_path / WRITTEN).read_text().splitlines()) == files


def test_the_page_says_what_was_found_how_it_was_run_and_how_to_run_it_again(
    report: ReportFiles, outcome: SearchOutcome
) -> None:
    page = read(report)
    assert page.one("h1").text == "lrp2_atlas"
    assert page.one("p", "headline").text == headline(outcome)
    headings = [heading.text for heading in page.all("h2")]
    assert headings[0] == "What it found"
    assert headings[-2:] == ["How it was run", "Run it again"]
    assert "atlas-bert" in page.one("table", "provenance").text
    assert page.one("pre").text == "\n".join(COMMANDS)
    for link in page.one("nav").all("a"):
        page.one("section", id_=link.attributes["href"].removeprefix("#"))


def test_the_page_asks_nobody_for_anything(report: ReportFiles) -> None:
    page = read(report)
    for element in page.all():
        for name, value in element.attributes.items():
            assert not name.startswith("on"), "no inline handlers"
            assert name != "style", "the security policy would refuse it"
            if name in ("src", "srcset", "href", "action", "data", "poster"):
                assert re.match(r"#|data:", value), f"{element.tag} {name}={value}"
    assert "http" not in report.html.read_text().replace("http-equiv", "")
    assert "@import" not in page.one("style").text
    assert "url(" not in page.one("style").text


def test_the_security_policy_allows_this_script_and_this_style_only(report: ReportFiles) -> None:
    page = read(report)
    (policy,) = [
        meta.attributes["content"]
        for meta in page.all("meta")
        if meta.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    for directive, tag in (("script-src", "script"), ("style-src", "style")):
        digest = base64.b64encode(hashlib.sha256(page.one(tag).text.encode()).digest()).decode()
        assert rules[directive] == f"'sha256-{digest}'"
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"


def test_whatever_the_data_says_stays_text(outcome: SearchOutcome, tmp_path: Path) -> None:
    hostile = replace(
        outcome,
        pivot=HOSTILE,
        languages=tuple(replace(one, language=HOSTILE + one.language, verdict=HOSTILE) for one in outcome.languages),
        skipped=((HOSTILE, HOSTILE),),
        decisions={HOSTILE: HOSTILE},
        notes=(HOSTILE,),
    )
    report = render_report(
        tmp_path,
        title=HOSTILE,
        headline=HOSTILE,
        sections=report_sections(hostile),
        provenance={HOSTILE: HOSTILE},
        commands=[HOSTILE],
    )
    page = read(report)
    assert len(page.all("script")) == 1
    assert "alert" not in page.one("script").text
    for place in (page.one("h1"), page.one("p", "headline"), page.one("pre"), page.one("head").one("title")):
        assert place.text == HOSTILE


def test_every_picture_is_a_png_of_a_printable_size(report: ReportFiles) -> None:
    assert [path.name for path in report.figures] == [
        "gain.png",
        "pairs.png",
        "gap-curve.png",
        "gap-map.png",
        "gap.png",
    ]
    for path in report.figures:
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            assert 700 <= picture.width <= 2500
            assert 300 <= picture.height <= 3500
            assert picture.info["dpi"] == pytest.approx((150, 150), abs=0.1)


def test_the_same_answer_gives_the_same_bytes(report: ReportFiles, outcome: SearchOutcome, tmp_path: Path) -> None:
    again = render_report(
        tmp_path,
        title="lrp2_atlas",
        headline=headline(outcome),
        sections=report_sections(outcome),
        provenance={"Model": "atlas-bert", "Data": "atlas"},
        commands=COMMANDS,
    )
    assert again.html.read_bytes() == report.html.read_bytes()
    for one, other in zip(again.figures, report.figures, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_a_figure_of_its_own_is_shown_in_light_and_dark(tmp_path: Path) -> None:
    report = render(tmp_path, [Section("Layers", blocks=[Figure("own", "Own figure", line_figure, "What it is.")])])
    page = read(report)
    addresses = (page.one("img").attributes["src"], page.one("source").attributes["srcset"])
    light, dark = (
        base64.b64decode(address.removeprefix("data:image/svg+xml;base64,")).decode() for address in addresses
    )
    assert theme.LIGHT["blue"] in light
    assert theme.DARK["blue"] in dark
    assert theme.LIGHT["blue"] not in dark
    with Image.open(io.BytesIO((tmp_path / "figures" / "own.png").read_bytes())) as picture:
        assert picture.size[0] > 300


def test_paragraphs_rows_notes_and_footers_are_shown(tmp_path: Path) -> None:
    table = Table("Scores", ["Name", "Score"], [["b", 2.0], ["a", None]], note="Read so.", footer=["Mean", 1.5])
    page = read(render(tmp_path, [Section("S", "One.\n\nTwo.", [table])]))
    section = page.one("section", id_="section-1")
    assert [paragraph.text for paragraph in section.all("p")] == ["One.", "Two.", "Read so."]
    rows = [[cell.text for cell in row.all("th") + row.all("td")] for row in section.all("tr")]
    assert rows == [["Name", "Score"], ["b", "2.0"], ["a", "–"], ["Mean", "1.5"]]


def test_two_pictures_of_one_name_are_refused(tmp_path: Path) -> None:
    twice = [Figure("same", "A", line_figure), Figure("same", "B", line_figure)]
    with pytest.raises(ValueError, match="same"):
        render(tmp_path, [Section("S", blocks=twice)])
    assert not list(tmp_path.iterdir())


def test_the_old_report_stays_when_a_picture_fails(tmp_path: Path) -> None:
    def fail() -> MatplotlibFigure:
        raise RuntimeError("no data")

    old = render(tmp_path, [], headline="the old one").html.read_bytes()
    with pytest.raises(RuntimeError, match="no data"):
        render(tmp_path, [Section("S", blocks=[Figure("bad", "Bad", fail)])], headline="the new one")
    assert (tmp_path / "report.html").read_bytes() == old
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["report.html"]


def test_a_folder_that_may_not_be_written_is_the_users_to_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(UserError, match="cannot be written"):
        render(tmp_path, [])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_fifty_three_languages_and_276_pairs_make_a_page_that_can_be_mailed(tmp_path: Path) -> None:
    outcome = search_outcome(MANY_LANGUAGES, layers=24)
    report = render(tmp_path, list(report_sections(outcome)))
    assert report.html.stat().st_size < 6e6
    cells = [rect for svg in read(report).all("svg", "heat") for rect in svg.all("rect")]
    searched = sum(one.language != outcome.pivot for one in outcome.languages)
    assert len(cells) == searched * (276 + 23), "every pair, and the best of every gap"
