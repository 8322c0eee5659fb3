"""Published object lists: for every language and relation, all objects that may be candidates."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import PurePosixPath

from orchestrator.data.archives import FileTree
from orchestrator.data.loaders.base import Pools
from orchestrator.errors import UserError


@dataclass(frozen=True)
class ObjectLists:
    """The lists in a folder or archive of ``<lang>.json`` files, each ``{relation: {"objects": [...], ...}}``."""

    tree: FileTree

    def of(self, language: str) -> Pools:
        """The pools of one language, with URIs unknown; empty if there is no file for it.

        Raises:
            UserError: the file is damaged, is not JSON, has another shape, or is there twice.
        """
        names = [name for name in self.tree.members if PurePosixPath(name).name == f"{language}.json"]
        if not names:
            return {}
        if len(names) > 1:
            raise UserError(
                f"{self.tree.path} has {names[0]} and {names[1]}, so it is not clear which candidates are meant. Give "
                "one of the folders above them."
            )
        where = self.tree.where(names[0])
        try:
            document = json.loads(self.tree.read(names[0]))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
            raise UserError(
                f"{where}{line}: not valid JSON ({error}), so there are no pools for {language!r}. Get the file again."
            ) from error
        try:
            lists = {relation: entry["objects"] for relation, entry in document.items()}
        except (AttributeError, TypeError, KeyError) as error:
            raise _shape_error(where) from error
        if not all(
            isinstance(objects, list) and all(isinstance(o, str) and o for o in objects) for objects in lists.values()
        ):
            raise _shape_error(where)
        return {relation: dict.fromkeys(objects, "") for relation, objects in lists.items()}


def _shape_error(where: str) -> UserError:
    return UserError(
        f'{where} is not a list of objects: it must read {{"P19": {{"objects": ["Rome", ...]}}, ...}} with no empty '
        "object. Give the published mlama_objects.zip, or leave --pools out to use the objects seen in the facts."
    )
