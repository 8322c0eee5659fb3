"""One small report, rendered once for all tests that look at it."""

from __future__ import annotations

import pytest

from methods.lrp2.outcome import SearchOutcome
from methods.lrp2.report import headline, report_sections
from orchestrator.report.render import ReportFiles, render_report
from tests.report.gallery import gallery
from tests.report.synthetic import search_outcome

COMMANDS = ["make sweep", "python jobs/lrp2_sweep.py --config 'my presets/a&b.yaml'"]


@pytest.fixture(scope="session")
def outcome() -> SearchOutcome:
    return search_outcome(("de", "ar", "zh", "fi"), layers=6)


@pytest.fixture(scope="session")
def report(outcome: SearchOutcome, tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    return render_report(
        tmp_path_factory.mktemp("sweep"),
        title="lrp2_atlas",
        headline=headline(outcome),
        sections=report_sections(outcome),
        provenance={"Model": "atlas-bert", "Data": "atlas"},
        commands=COMMANDS,
    )


@pytest.fixture(scope="session")
def gallery_report(tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    folder = tmp_path_factory.mktemp("gallery")
    return render_report(
        folder, title="gallery", headline="Every block.", sections=gallery(), provenance={}, commands=[]
    )
