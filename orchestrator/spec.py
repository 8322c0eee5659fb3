"""What a sweep is asked to do: a typed, frozen specification read from a YAML preset and the command line.

One rule serves both sources: every value arrives as text (or a list of texts) and is parsed by the type of its field.
So ``1e-6`` is a float where a float is asked for, ``no`` is Norwegian where a language is asked for, and a preset and
an option that say the same mean the same. All mistakes of both sources are reported together.
"""

from __future__ import annotations

import argparse
import types
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NoReturn, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ByteSize, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from orchestrator.errors import Problems, UserError, did_you_mean

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
        None, gt=0, description="operations a second to expect of a GPU, to plan with; default: 40% of an A100's peak"
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
        asked_beyond_preset: the fields given on the command line that change the answer, with their values as text.
    """

    spec: SweepSpec
    config: Path | None
    dry_run: bool
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
    spec_type = _chosen(studies, argv)
    others = {name: _study(other) for other in studies for name in other.model_fields if other is not spec_type}
    parser = _parser(spec_type, description, examples, prog)
    _show_all(parser, spec_type, studies)
    try:
        known, extra = parser.parse_known_args(list(argv))
    except UserError as error:
        raise UserError(*error.problems, f"'{prog} --help' lists all options.") from None
    _report_extra(extra, parser, {_flag(name): study for name, study in others.items()}, problems)

    values = {name: value for name, value in vars(known).items() if value is not None}
    dry_run = bool(values.pop("dry_run", False))
    options: dict[str, _Given] = {}
    config: Path | None = None
    for name, value in values.items():
        flag = _flag(name)
        if isinstance(value, list):
            if any(item is _MISSING for item in value):
                problems.add(f"{flag} needs a value, such as {flag} {_metavar_of(spec_type, name)}.")
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
    return Request(spec, config, dry_run, beyond)


def spec_to_yaml(spec: SweepSpec) -> str:
    """The specification as a preset that `parse_command_line` reads back to the same object."""
    fields = spec.model_dump(mode="json", exclude_none=True)
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[:1].upper()}{message[1:]}.")


_MISSING = object()


def _study(spec_type: type[SweepSpec]) -> str:
    """The name of the study that a specification is of, where a job has several."""
    return str(spec_type.model_fields["study"].default)


def _chosen(studies: Sequence[type[SweepSpec]], argv: Sequence[str]) -> type[SweepSpec]:
    """The specification that the command line names, else the preset, else the first. Raises UserError for no name."""
    if len(studies) == 1:
        return studies[0]
    reader = _Parser(add_help=False, allow_abbrev=False)
    for flag in ("--study", "--config"):
        reader.add_argument(flag, nargs="?")
    words, _ = reader.parse_known_args(list(argv))
    name, where = words.study, "--study"
    if name is None and words.config is not None:
        with suppress(OSError, UnicodeDecodeError, yaml.YAMLError):  # which `_read_preset` will report
            content = yaml.load(Path(words.config).read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
            name, where = (content.get("study") if isinstance(content, dict) else None), f"{words.config}: study"
    by_name = {_study(each): each for each in studies}
    if name is None:
        return studies[0]
    if name not in by_name:
        raise UserError(f"{where}: this job has no study {str(name)!r}.{did_you_mean(str(name), by_name)}")
    return by_name[name]


def _show_all(parser: _Parser, spec_type: type[SweepSpec], studies: Sequence[type[SweepSpec]]) -> None:
    """Makes ``--help`` show every study's options, in the order of the studies; the parser still knows its own only."""
    if len(studies) == 1:
        return
    shared = len(_groups(SweepSpec))
    shown = []
    for each in studies:
        own = parser if each is spec_type else _parser(each, "", (), parser.prog)
        groups = [group for group in own._action_groups if group.title in dict(_groups(each))]
        for group in groups[:-shared]:
            group.title = f"{group.title} (--study {_study(each)})"
            shown.append(group)
    general = [group for group in parser._action_groups if group not in shown]
    parser._action_groups = [*general[:-shared], *shown, *general[-shared:]]


def _parser(spec_type: type[SweepSpec], description: str, examples: Sequence[str], prog: str) -> _Parser:
    """An option for every field; values stay text, an absent option stays None."""
    parser = _Parser(
        prog=prog,
        usage=f"{prog} [--config PRESET] [--dry-run] [options]",
        description=description,
        epilog="\n".join(["examples:", *(f"  {line}" for line in examples)]) if examples else None,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    general = parser.add_argument_group("options")
    general.add_argument("-h", "--help", action="help", help="show this help and exit")
    general.add_argument(
        "--config",
        action="append",
        nargs="?",
        const=_MISSING,
        metavar="PRESET",
        help="YAML file with any of the options below (words joined by _); the command line wins",
    )
    general.add_argument(
        "--dry-run",
        action="store_true",
        default=None,
        help="check everything, say what would run, where, and for how long, and stop",
    )
    for group, names in _groups(spec_type):
        section = parser.add_argument_group(group)
        for name in names:
            field = spec_type.model_fields[name]
            text = ((field.description or "") + _default_text(field)).replace("%", "%%")
            if _plain_type(field.annotation) is bool:
                section.add_argument(_flag(name), action=argparse.BooleanOptionalAction, default=None, help=text)
            else:
                section.add_argument(
                    _flag(name),
                    action="append",
                    nargs="?",
                    const=_MISSING,
                    metavar=_metavar(field.annotation),
                    help=text,
                )
    return parser


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps description and examples as written, and shows ``--option VALUE`` though the parser tolerates no value."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=120)

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        if action.nargs == "?" and action.const is _MISSING:
            return str(action.metavar)
        return super()._format_args(action, default_metavar)


def _groups(spec_type: type[SweepSpec]) -> list[tuple[str, list[str]]]:
    """The fields under the heading of the class that defines them, the study's own first."""
    groups: dict[str, list[str]] = {}
    for owner in spec_type.__mro__:
        if isinstance(owner, type) and issubclass(owner, SweepSpec):
            own = [name for name in owner.__annotations__ if name in spec_type.model_fields]
            taken = {name for names in groups.values() for name in names}
            heading = vars(owner).get("option_group", "the experiment")
            groups.setdefault(heading, []).extend(name for name in own if name not in taken)
    return [(heading, names) for heading, names in groups.items() if names]


def _default_text(field: FieldInfo) -> str:
    if field.is_required():
        return " (required)"
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is None or "default" in (field.description or ""):
        return ""
    if isinstance(default, (tuple, list, set, frozenset)):
        return f" (default: {','.join(str(item) for item in default)})" if default else ""
    return f" (default: {default})"


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _plain_type(annotation: Any) -> Any:
    """The type without Annotated and without None."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in (Union, types.UnionType):
            rest = [arm for arm in get_args(annotation) if arm is not type(None)]
            if len(rest) != 1:
                return annotation
            annotation = rest[0]
        else:
            return annotation


def _is_list(annotation: Any) -> bool:
    return get_origin(_plain_type(annotation)) in (list, tuple, set, frozenset)


def _metavar(annotation: Any) -> str:
    plain = _plain_type(annotation)
    if get_origin(plain) is Literal:
        return "{" + ",".join(str(choice) for choice in get_args(plain)) + "}"
    if _is_list(plain):
        item = _metavar(get_args(plain)[0])
        return f"{item},..."
    names = {int: "N", float: "X", Path: "PATH", ByteSize: "SIZE", bool: "{true,false}"}
    return names.get(plain, "TEXT")


def _metavar_of(spec_type: type[SweepSpec], name: str) -> str:
    return _metavar(spec_type.model_fields[name].annotation) if name in spec_type.model_fields else "PRESET"


def _report_extra(
    extra: Sequence[str], parser: argparse.ArgumentParser, others: Mapping[str, str], problems: Problems
) -> None:
    """One problem for each word the parser did not know; the value behind an unknown option belongs to it.

    Args:
        others: the options of other studies of the job, and the study that each belongs to.
    """
    flags = [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]
    after_option = False
    for word in extra:
        if word.startswith("-"):
            flag = word.split("=", 1)[0]
            hint = did_you_mean(flag, flags)
            hint = hint if hint.startswith(" Did") else f" '{parser.prog} --help' lists all options."
            hint = f" It belongs to --study {others[flag]}." if flag in others else hint
            problems.add(f"There is no option {flag}.{hint}")
            after_option = "=" not in word
        elif after_option:
            after_option = False
        else:
            problems.add(f"{word!r} belongs to no option. Lists are separated by commas without spaces: --x a,b.")


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
            hint = f" It belongs to 'study: {others[key]}'." if key in others else hint
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
            elif _is_list(annotation):
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
        return f"{_flag(name)} is missing ({text}): give it on the command line or as '{name}' in the preset."
    value = detail["input"]
    choices = detail.get("ctx", {}).get("expected", "") if detail["type"] == "literal_error" else ""
    hint = did_you_mean(str(value), choices.replace(" or ", ", ").replace("'", "").split(", ")) if choices else ""
    hint = hint if hint.startswith(" Did") else ""
    where = given[name].where if name in given else _flag(name)
    return f"{where}: {message[:1].lower()}{message[1:]}, not {str(value)!r}.{hint}"
