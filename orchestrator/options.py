"""The command line of a specification: an option for every field, and what ``--help`` shows.

A job may have several studies, each with a specification of its own; ``--study``, or ``study`` in the preset, says
which of them a command means.
"""

from __future__ import annotations

import argparse
import types
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ByteSize
from pydantic.fields import FieldInfo

from orchestrator.errors import Problems, UserError, did_you_mean

Spec = type[BaseModel]
"""A subclass of `orchestrator.spec.SweepSpec`."""
SpecT = TypeVar("SpecT", bound=BaseModel)


class Parser(argparse.ArgumentParser):
    """Says what is wrong as a UserError."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[:1].upper()}{message[1:]}.")


MISSING = object()
"""The value of an option that was given without one."""


def study_of(spec_type: Spec) -> str:
    """The name of the study that a specification is of, where a job has several."""
    return str(spec_type.model_fields["study"].default)


def chosen_spec(studies: Sequence[type[SpecT]], argv: Sequence[str]) -> type[SpecT]:
    """The specification that the command line names, else the preset, else the first. Raises UserError for no name."""
    if len(studies) == 1:
        return studies[0]
    reader = Parser(add_help=False, allow_abbrev=False)
    for flag in ("--study", "--config"):
        reader.add_argument(flag, nargs="?")
    words, _ = reader.parse_known_args(list(argv))
    name, where = words.study, "--study"
    if name is None and words.config is not None:
        with suppress(OSError, UnicodeDecodeError, yaml.YAMLError):  # which the reader of presets will report
            content = yaml.load(Path(words.config).read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
            name, where = (content.get("study") if isinstance(content, dict) else None), f"{words.config}: study"
    by_name = {study_of(each): each for each in studies}
    if name is None:
        return studies[0]
    if name not in by_name:
        raise UserError(f"{where}: this job has no study {str(name)!r}.{did_you_mean(str(name), by_name)}")
    return by_name[name]


def show_all_studies(parser: Parser, spec_type: Spec, studies: Sequence[Spec]) -> None:
    """Makes ``--help`` show every study's options, in the order of the studies; the parser still knows its own only."""
    titles = [dict(_groups(each)) for each in studies]
    shared = {title for title in titles[0] if all(title in other for other in titles)}
    shown = []
    for each in studies:
        own = parser if each is spec_type else make_parser(each, "", (), parser.prog, [study_of(each)])
        for group in own._action_groups:
            if group.title in dict(_groups(each)) and group.title not in shared:
                group.title = f"{group.title} (--study {study_of(each)})"
                shown.append(group)
    general = [group for group in parser._action_groups if group not in shown]
    place = next(place for place, group in enumerate(general) if group.title in shared)
    parser._action_groups = [*general[:place], *shown, *general[place:]]


def make_parser(
    spec_type: Spec, description: str, examples: Sequence[str], prog: str, studies: Sequence[str]
) -> Parser:
    """An option for every field; values stay text, an absent option stays None. `studies`: to choose from, if any."""
    parser = Parser(
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
        const=MISSING,
        metavar="PRESET",
        help="YAML file with any of the options below (words joined by _); the command line wins",
    )
    general.add_argument(
        "--dry-run",
        action="store_true",
        default=None,
        help="check everything, say what would run, where, and for how long, and stop",
    )
    if studies:
        general.add_argument(
            "--study",
            action="append",
            nargs="?",
            const=MISSING,
            metavar="{" + ",".join(studies) + "}",
            help=f"which of the job's studies to run; it decides about the options (default: {studies[0]})",
        )
    for group, names in _groups(spec_type):
        section = parser.add_argument_group(group)
        for name in names:
            if studies and name == "study":
                continue
            field = spec_type.model_fields[name]
            text = ((field.description or "") + _default_text(field)).replace("%", "%%")
            if plain_type(field.annotation) is bool:
                section.add_argument(flag_of(name), action=argparse.BooleanOptionalAction, default=None, help=text)
            else:
                section.add_argument(
                    flag_of(name),
                    action="append",
                    nargs="?",
                    const=MISSING,
                    metavar=metavar_of(field.annotation),
                    help=text,
                )
    return parser


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps description and examples as written, and shows ``--option VALUE`` though the parser tolerates no value."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=120)

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        if action.nargs == "?" and action.const is MISSING:
            return str(action.metavar)
        return super()._format_args(action, default_metavar)


def _groups(spec_type: Spec) -> list[tuple[str, list[str]]]:
    """The fields under the heading of the class that defines them, the study's own first."""
    groups: dict[str, list[str]] = {}
    for owner in spec_type.__mro__:
        if issubclass(owner, BaseModel) and owner is not BaseModel:
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


def flag_of(name: str) -> str:
    return "--" + name.replace("_", "-")


def plain_type(annotation: Any) -> Any:
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


def is_list(annotation: Any) -> bool:
    return get_origin(plain_type(annotation)) in (list, tuple, set, frozenset)


def metavar_of(annotation: Any) -> str:
    plain = plain_type(annotation)
    if get_origin(plain) is Literal:
        return "{" + ",".join(str(choice) for choice in get_args(plain)) + "}"
    if is_list(plain):
        item = metavar_of(get_args(plain)[0])
        return f"{item},..."
    names = {int: "N", float: "X", Path: "PATH", ByteSize: "SIZE", bool: "{true,false}"}
    return names.get(plain, "TEXT")


def report_extra(
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
            hint = hint if hint.startswith(" Did") else ""
            hint += f" It belongs to --study {others[flag]}." if flag in others else ""
            hint = hint or f" '{parser.prog} --help' lists all options."
            problems.add(f"There is no option {flag}.{hint}")
            after_option = "=" not in word
        elif after_option:
            after_option = False
        else:
            problems.add(f"{word!r} belongs to no option. Lists are separated by commas without spaces: --x a,b.")
