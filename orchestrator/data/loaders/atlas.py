"""The built-in facts ("atlas"): countries, languages, currencies and scripts from CLDR, shipped with the project."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.data.loaders.base import LanguageFacts, Loader
from orchestrator.data.schema import LOADED_SCHEMA
from orchestrator.errors import UserError


def atlas_file(name: str) -> Path:
    """The path of one of the built-in data files. Raises UserError if the installation lacks it."""
    path = Path(str(resources.files("atlas"))) / name
    if not path.is_file():
        raise UserError(
            f"The built-in data file {path} is missing, so the installation is incomplete. Install the project again."
        )
    return path


class AtlasLoader(Loader):
    """Reads the Parquet files that ship with the project; its pools are part of them."""

    kind = "atlas"
    form = "atlas"
    version = 1
    needs_location = False

    def inputs(self) -> Sequence[Path]:
        return [atlas_file("facts.parquet"), atlas_file("pools.parquet")]

    def load(self) -> Iterator[LanguageFacts]:
        facts, pools = (pq.read_table(path) for path in self.inputs())
        for language in sorted(facts["language"].unique().to_pylist()):
            own = facts.filter(pc.equal(facts["language"], language)).select(LOADED_SCHEMA.names)
            own_pools = pools.filter(pc.equal(pools["language"], language)).to_pylist()
            yield LanguageFacts(
                language,
                own.cast(LOADED_SCHEMA).to_batches(),
                {row["relation"]: dict(zip(row["candidates"], row["uris"], strict=True)) for row in own_pools},
            )
