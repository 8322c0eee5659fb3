"""What a sweep is asked to do: a typed, frozen specification read from a YAML preset and the command line.

One rule serves both sources: every value arrives as text (or a list of texts) and is parsed by the type of its field.
So ``1e-6`` is a float where a float is asked for, ``no`` is Norwegian where a language is asked for, and a preset and
an option that say the same mean the same. All mistakes of both sources are reported together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import yaml
from pydantic import BaseModel, ByteSize, ConfigDict, Field, ValidationError

from orchestrator.errors import Problems, UserError, did_you_mean
from orchestrator.options import (
    MISSING,
    chosen_spec,
    flag_of,
    is_list,
    make_parser,
    report_extra,
    show_all_studies,
    study_of,
)

NULL_WORDS = ("", "null", "~")


class SweepSpec(BaseModel):
    """Where and how to run a sweep. A study adds its own fields in a subclass.

    A field's ``description`` is its help text; ``option_group`` is the heading its class's options stand under.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    option_group: ClassVar[str] = "where and how to run"

    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="name of the sweep and of its result folder; derived from the preset when not given",
    )
    output: Path | None = Field(None, description="folder for all results; default $BABELSWEEP_HOME, else ~/babelsweep")
    cpus_per_trial: int | None = Field(
        None, ge=1, description="CPU cores of one trial; default: the cores are shared out evenly"
    )
    gpus_per_trial: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="GPUs of one trial; 0.5 puts two trials on one GPU, 0 uses none; default: as the model needs them, "
        "where there are any",
    )
    workers_per_trial: int = Field(
        1, ge=1, description="processes of one trial, each with the cores and GPUs of a trial; for --placement zero3"
    )
    concurrent: int | None = Field(
        None, ge=1, description="trials at a time; default: as many as cores, GPUs and memory allow"
    )
    retries: int = Field(2, ge=0, le=100, description="how often a failed trial is tried again")
    memory: ByteSize | None = Field(
        None, gt=0, description="memory of one trial, e.g. 4GB; default: 80% of what is free, shared out evenly"
    )
    placement: Literal["auto", "single", "dispatch", "stream", "zero3"] = Field(
        "auto",
        description="how a trial's model lies: whole on one device; its layers dispatched over several; streamed from "
        "disk one layer at a time; or its training sharded with DeepSpeed ZeRO-3; auto: single where it fits, else the "
        "fastest",
    )
    gpu_memory: ByteSize | None = Field(
        None, gt=0, description="memory of a GPU, where it cannot be asked: on a cluster; default: this machine's"
    )
    gpu_flops: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="operations a second to expect of a GPU, to plan with; default: 40% of an A100's peak",
    )
    tracking: str | None = Field(
        None,
        description="MLflow tracking URI, or 'none'; default $MLFLOW_TRACKING_URI, else mlflow.db beside the results",
    )
    seed: int = Field(0, ge=0, description="seed of everything drawn at random")


# What these say changes how a sweep runs, not what it answers.
ENGINE_FIELDS = frozenset(SweepSpec.model_fields) - {"seed"}


@dataclass(frozen=True)
class Request:
    """One command line, understood.

    Attributes:
        spec: the specification, checked.
        config: the preset it started from, if any.
        dry_run: only say what would be done.
        named: whether the command line itself names the sweep.
        asked_beyond_preset: the fields given on the command line that change the answer, with their values as text.
    """

    spec: SweepSpec
    config: Path | None
    dry_run: bool
    named: bool
    asked_beyond_preset: Mapping[str, Any]


@dataclass(frozen=True)
class _Given:
    """A value as the user wrote it, and the words to find it again."""

    value: Any
    where: str


SpecTypes = type[SweepSpec] | Sequence[type[SweepSpec]]
"""The specification of a job's study. Of a job with several studies one for each, the default first; their field
``study`` has the study's name as its one value and default."""


def parse_command_line(
    spec_types: SpecTypes, argv: Sequence[str], *, description: str, examples: Sequence[str], prog: str
) -> Request:
    """Reads preset and command line into a specification.

    Args:
        spec_types: the study's specification; one option is made for each of its fields. Of several, ``--study`` or
            the preset's ``study`` says which it is: only its fields are options then, but ``--help`` shows all.
        argv: the arguments after the script's name.
        description: shown at the top of ``--help``.
        examples: lines shown at its end, as they are.
        prog: the script as the user calls it.

    Raises:
        UserError: with every mistake found in the preset and in the options.
        SystemExit: 0, after ``--help``.
    """
    problems = Problems()
    studies = (spec_types,) if isinstance(spec_types, type) else tuple(spec_types)
    spec_type = chosen_spec(studies, argv)
    others = {name: study_of(other) for other in studies for name in other.model_fields if other is not spec_type}
    names = [study_of(each) for each in studies] if len(studies) > 1 else []
    parser = make_parser(spec_type, description, examples, prog, names)
    if names:
        show_all_studies(parser, spec_type, studies)
    try:
        known, extra = parser.parse_known_args(list(argv))
    except UserError as error:
        raise UserError(*error.problems, f"'{prog} --help' lists all options.") from None
    report_extra(extra, parser, {flag_of(name): study for name, study in others.items()}, problems)

    values = {name: value for name, value in vars(known).items() if value is not None}
    dry_run = bool(values.pop("dry_run", False))
    options: dict[str, _Given] = {}
    config: Path | None = None
    for name, value in values.items():
        flag = flag_of(name)
        if isinstance(value, list):
            if any(item is MISSING for item in value):
                shown = next(action.metavar for action in parser._actions if action.dest == name)
                problems.add(f"{flag} needs a value, such as {flag} {shown}.")
                continue
            if len(value) > 1:
                problems.add(f"{flag} is given {len(value)} times: give it once (lists are separated by commas).")
                continue
            value = value[0]
        if name == "config":
            config = Path(value)
        else:
            options[name] = _Given(value, flag)

    given = _read_preset(config, spec_type, others, problems) if config is not None else {}
    spec = _validate(spec_type, given | options, problems)
    problems.raise_if_any()
    assert spec is not None
    beyond = {name: item.value for name, item in options.items() if name not in ENGINE_FIELDS}
    return Request(spec, config, dry_run, "name" in options and spec.name is not None, beyond)


def spec_to_yaml(spec: SweepSpec) -> str:
    """The specification as a preset that `parse_command_line` reads back to the same object."""
    fields = spec.model_dump(mode="json", exclude_none=True)
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)


def _read_preset(
    path: Path, spec_type: type[SweepSpec], others: Mapping[str, str], problems: Problems
) -> dict[str, _Given]:
    """The preset's values, as text, with the line each stands on; `others`: fields of other studies of the job."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        near = [str(path.parent / name.name) for name in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        problems.add(f"The preset {path} cannot be read: {reason}.{did_you_mean(str(path), near)}")
        return {}
    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)
        content = yaml.load(text, Loader=yaml.BaseLoader)  # texts, lists and mappings only: no tag makes an object
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or "it is not YAML"
        problems.add(f"The preset {path}{line} is not valid YAML: {reason}.")
        return {}
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        problems.add(f"The preset {path} must hold lines such as 'languages: [de, fr]', not a bare list or word.")
        return {}
    given: dict[str, _Given] = {}
    for key_node, _ in node.value:
        key = str(key_node.value)
        where = f"{path}, line {key_node.start_mark.line + 1}: {key}"
        if key not in spec_type.model_fields:
            hint = did_you_mean(key, spec_type.model_fields)
            if key in others:
                hint = (hint if hint.startswith(" Did") else "") + f" It belongs to 'study: {others[key]}'."
            problems.add(f"{where} is not a key of this preset.{hint}")
        elif key in given:
            problems.add(f"{where} is given twice; keep one of them.")
        else:
            given[key] = _Given(content[key], where)
    return given


def _validate(spec_type: type[SweepSpec], given: Mapping[str, _Given], problems: Problems) -> SweepSpec | None:
    """Parses every text by its field's type; adds a problem for each that does not fit."""
    values: dict[str, Any] = {}
    for name, item in given.items():
        annotation = spec_type.model_fields[name].annotation
        value = item.value
        if isinstance(value, str):
            if value.strip() in NULL_WORDS and type(None) in get_args(annotation):
                value = None
            elif is_list(annotation):
                value = [part.strip() for part in value.split(",") if part.strip()]
        values[name] = value
    try:
        return spec_type.model_validate(values)
    except ValidationError as error:
        for detail in {_place(detail): detail for detail in reversed(error.errors())}.values():
            problems.add(_explain(detail, spec_type, given))
    return None


def _place(detail: Any) -> tuple[Any, ...]:
    """Field and list position: the arms of a union that all refuse one value make one problem."""
    return tuple(detail["loc"][:1]) + tuple(part for part in detail["loc"][1:2] if isinstance(part, int))


def _explain(detail: Any, spec_type: type[SweepSpec], given: Mapping[str, _Given]) -> str:
    message = str(detail["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ").rstrip(".")
    if not detail["loc"]:
        return f"{message}."
    name = str(detail["loc"][0])
    if detail["type"] == "missing":
        text = spec_type.model_fields[name].description
        return f"{flag_of(name)} is missing ({text}): give it on the command line or as '{name}' in the preset."
    value = detail["input"]
    choices = detail.get("ctx", {}).get("expected", "") if detail["type"] == "literal_error" else ""
    hint = did_you_mean(str(value), choices.replace(" or ", ", ").replace("'", "").split(", ")) if choices else ""
    hint = hint if hint.startswith(" Did") else ""
    where = given[name].where if name in given else flag_of(name)
    return f"{where}: {message[:1].lower()}{message[1:]}, not {str(value)!r}.{hint}"
