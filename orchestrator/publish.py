"""An answer goes out: report, tables, pictures and summary into a folder, runs to MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator import tracking
from orchestrator.results import SUMMARY, git_commit, versions, write_json, write_table
from orchestrator.spec import ENGINE_FIELDS, SweepSpec
from orchestrator.study import Summary, Trial


def publish(
    folder: Path,
    summary: Summary,
    document: Mapping[str, Any],
    *,
    title: str,
    facts: Mapping[str, str],
    commands: Sequence[str],
) -> None:
    """Writes report, pictures, tables, summary.parquet and summary.json of an answer into a folder.

    Args:
        document: what comes before the answer's own keys in summary.json.
        title: of the report.
        facts: what the answer is of, for "How it was run".
        commands: what to type to get it again.
    """
    from orchestrator.report.render import render_report

    folder.mkdir(parents=True, exist_ok=True)
    libraries = ", ".join(f"{name} {version}" for name, version in versions().items())
    commit = git_commit()
    render_report(
        folder,
        title=title,
        headline=summary.headline,
        sections=summary.sections,
        provenance={**facts, "results": str(folder), "versions": libraries} | ({"commit": commit} if commit else {}),
        commands=commands,
    )
    write_table(folder / "summary.parquet", summary.table)
    write_json(folder / SUMMARY, {**document, **summary.document})


def track(
    folder: Path,
    study: str,
    trials: Sequence[Trial],
    summary: Summary,
    params: Mapping[str, Any],
    uri: str,
    *,
    failed: int = 0,
) -> str | None:
    """Sends an answer to MLflow as a run of its study's experiment, one child run for each thing compared.

    Args:
        failed: trials that failed; the answer does without them.

    Returns:
        Why the server did not take it, or None. It can be sent later from `folder`.
    """
    tracking.write_tracking(folder, study, trials, summary, params, failed)
    if uri == tracking.OFF:
        return None
    try:
        tracking.send(folder, uri)
    except tracking.TrackingUnavailable as error:
        return str(error)
    return None


def asked(spec: SweepSpec) -> dict[str, Any]:
    """What a specification asks for, without where and how it runs: a sweep's parameters in MLflow."""
    values = spec.model_dump(mode="json", exclude_none=True, exclude=set(ENGINE_FIELDS))
    return {name: ",".join(map(str, value)) if isinstance(value, list) else value for name, value in values.items()}
