"""Loaders of facts, one file per kind of source. `loader_for` turns an address into the loader that reads it."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from pathlib import Path

from orchestrator.data.loaders.base import LanguageFacts, Loader, batch_of
from orchestrator.errors import UserError, did_you_mean

__all__ = ["LanguageFacts", "Loader", "batch_of", "known_loaders", "loader_for"]


@cache
def known_loaders() -> dict[str, type[Loader]]:
    """All loaders by kind: every Loader subclass in the modules of this package."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return {loader.kind: loader for loader in sorted(Loader.__subclasses__(), key=lambda loader: loader.kind)}


def loader_for(address: str, pools: str | None) -> Loader:
    """The loader an address such as ``mlama:mlama1.1.zip`` names.

    Raises:
        UserError: the kind is unknown, the location is missing or superfluous, or `pools` do not go with this kind.
    """
    kind, _, location = address.partition(":")
    loaders = known_loaders()
    if kind not in loaders:
        forms = ", ".join(loader.form for loader in loaders.values())
        raise UserError(
            f"{address!r} is no address of facts: {kind!r} is not a kind of source.{did_you_mean(kind, loaders)} "
            f"Addresses are written {forms}."
        )
    loader = loaders[kind]
    if loader.needs_location != bool(location):
        raise UserError(f"{address!r} is no address of facts: it is written {loader.form}.")
    if pools is not None and not loader.takes_pools:
        takers = " and ".join(f"{name}:" for name, other in loaders.items() if other.takes_pools)
        raise UserError(f"{kind}: facts bring their own pools; object lists go only with {takers}. Leave --pools out.")
    return loader(location, Path(pools).expanduser() if pools is not None else None)
