"""Builds facts.parquet, pools.parquet and claims.parquet from CLDR, the same bytes every time.

Names and facts come from CLDR through the `Babel` package; ``subregions.json`` is CLDR's own containment of
territories in United Nations sub-regions, which Babel does not carry.

    python -m atlas.build_facts   # after a change of templates or of Babel
"""

from __future__ import annotations

import argparse
import hashlib
import json
import unicodedata
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from babel import Locale
from babel.core import get_global
from babel.languages import get_official_languages
from babel.numbers import get_territory_currencies

from atlas.templates import LANGUAGES, REPHRASINGS, TEMPLATES

HERE = Path(__file__).resolve().parent

# At most so many facts of a relation share an object: without it, "Latin" alone answers 71% of the writing systems.
MOST_FACTS_PER_OBJECT = 30

# Organisations, placeholders, pseudo-territories, and Antarctica, which is no country.
NOT_TERRITORIES = frozenset({"AQ", "EU", "EZ", "QO", "UN", "XA", "XB", "ZZ"})

# In these scripts CLDR leaves a city out where its name is the zone's own ("Europe/Berlin" in German).
LATIN_SCRIPT = frozenset({"en", "de", "fr", "es", "tr", "fi"})

# A shared beginning of so many letters, else 4, gives the object away ("Mexico" -> "Mexican peso"); fewer where each
# says more.
STEM_LETTERS = {"ko": 2, "ar": 3}

FACTS_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("relation", "uuid", "language", "sub_uri", "obj_uri", "subject", "object")]
    + [("template", pa.string()), ("split", pa.string()), ("candidates", pa.list_(pa.string()))]
)
POOLS_SCHEMA = pa.schema(
    [
        ("relation", pa.string()),
        ("language", pa.string()),
        ("candidates", pa.list_(pa.string())),
        ("uris", pa.list_(pa.string())),
    ]
)
CLAIMS_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("claim_uuid", "fact_uuid", "relation", "language", "claim")]
    + [("label", pa.bool_()), ("rephrasings", pa.list_(pa.string()))]
)


class Fact(NamedTuple):
    """A fact in no language yet: its parts are CLDR codes such as ``cldr:territory/DE``."""

    relation: str
    sub_uri: str
    obj_uri: str

    @property
    def uuid(self) -> str:
        """The same for ever for the same relation, subject and object (UUID version 5)."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, " ".join(self)))


@cache
def _locale(language: str) -> Locale:
    return Locale.parse(language)


@cache
def name_of(uri: str, language: str) -> str | None:
    """The name of ``cldr:<kind>/<code>`` in a language, NFC; None where CLDR has none."""
    kind, code = uri.removeprefix("cldr:").split("/", 1)
    locale = _locale(language)
    name: str | None
    if kind == "zone":
        own_name = code.rsplit("/", 1)[-1].replace("_", " ") if language in LATIN_SCRIPT else None
        name = (locale.time_zones.get(code) or {}).get("city") or own_name
    else:
        names = {
            "territory": locale.territories,
            "language": locale.languages,
            "currency": locale.currencies,
            "script": locale.scripts,
        }
        name = names[kind].get(code)
    return unicodedata.normalize("NFC", " ".join(name.split())) if name else None


def true_objects(relation: str, sub_uri: str) -> tuple[str, ...]:
    """All objects CLDR gives a subject, the first is the fact's; the others only never serve as a wrong claim."""
    code = sub_uri.split("/", 1)[1]
    if relation == "P37":
        return tuple(f"cldr:language/{language}" for language in get_official_languages(code))
    if relation == "P38":
        return tuple(f"cldr:currency/{currency}" for currency in get_territory_currencies(code))
    if relation == "P361":
        region = subregions().get(code)
        return (f"cldr:territory/{region}",) if region else ()
    if relation == "P17":
        return (f"cldr:territory/{get_global('zone_territories')[code]}",)
    kind, place = ("script", 1) if relation == "P282" else ("territory", 2)
    return tuple(dict.fromkeys(f"cldr:{kind}/{parts[place]}" for parts in _likely_subtags()[code]))


@cache
def _likely_subtags() -> dict[str, list[list[str]]]:
    """Language code -> its [language, script, territory] triples, the likeliest first.

    "az" -> az_Latn_AZ is the fact; "az_IR" -> az_Arab_IR makes Arabic another right answer.
    """
    triples: dict[str, list[list[str]]] = defaultdict(list)
    for key, tag in sorted(get_global("likely_subtags").items()):
        if len(tag.split("_")) == 3:
            triples[key.split("_")[0]].append(tag.split("_"))
    return triples


@cache
def subregions() -> dict[str, str]:
    """Territory code -> code of its United Nations sub-region."""
    table: dict[str, str] = json.loads((HERE / "subregions.json").read_text(encoding="utf-8"))
    return table


def subjects_of(relation: str) -> list[str]:
    """The codes a relation is asked of, before any is left out for want of names."""
    if relation == "P17":
        territories = get_global("zone_territories")
        zones = [zone for zone in sorted(territories) if "/" in zone and territories[zone] not in NOT_TERRITORIES]
        return [f"cldr:zone/{zone}" for zone in zones]
    if relation in ("P282", "P2341"):
        # Where a language is mostly spoken is asked only of the well-known ones, those with a two-letter code.
        lengths = (2, 3) if relation == "P282" else (2,)
        codes = [code for code in sorted(get_global("likely_subtags")) if code.isalpha() and len(code) in lengths]
        return [f"cldr:language/{code}" for code in codes if code in _likely_subtags()]
    codes = [code for code in sorted(_locale("en").territories) if len(code) == 2 and code not in NOT_TERRITORIES]
    return [f"cldr:territory/{code}" for code in codes]


def stems(name: str, language: str) -> set[str]:
    """What another name would share if it gave this one away: beginnings of words, in Chinese pairs of characters."""
    if language == "zh":
        return {name[i : i + 2] for i in range(len(name) - 1)}
    bare = "".join(c for c in unicodedata.normalize("NFKD", name.casefold()) if not unicodedata.combining(c))
    if language == "ko":
        bare = unicodedata.normalize("NFC", bare)
    words = ["".join(c for c in word if c.isalnum()) for word in bare.replace("-", " ").split()]
    if language == "ar":
        words = [word.removeprefix("ال") for word in words]
    letters = STEM_LETTERS.get(language, 4)
    return {word[:letters] for word in words if len(word) >= letters}


def gives_itself_away(fact: Fact) -> bool:
    """Whether subject and object share a stem in any of the languages."""
    return any(
        stems(name_of(fact.sub_uri, language) or "", language) & stems(name_of(fact.obj_uri, language) or "", language)
        for language in LANGUAGES
    )


def select_facts() -> list[Fact]:
    """The facts named in all languages, without give-aways and majority answers, sorted by relation and uuid.

    Raises:
        ValueError: two subjects or two objects of a relation have the same name in a language.
    """
    chosen: list[Fact] = []
    for relation in TEMPLATES:
        found = []
        for subject in subjects_of(relation):
            objects = true_objects(relation, subject)
            # A language whose home is a continent ("Esperanto": the world) has no country to name.
            if not objects or (relation == "P2341" and objects[0].removeprefix("cldr:territory/").isdigit()):
                continue
            fact = Fact(relation, subject, objects[0])
            named = all(name_of(uri, language) for uri in fact[1:] for language in LANGUAGES)
            if named and not gives_itself_away(fact):
                found.append(fact)
        by_object: dict[str, list[Fact]] = defaultdict(list)
        for fact in sorted(found, key=lambda fact: fact.uuid):
            by_object[fact.obj_uri].append(fact)
        kept = [fact for facts in by_object.values() for fact in facts[:MOST_FACTS_PER_OBJECT]]
        for uris in ({fact.sub_uri for fact in kept}, {fact.obj_uri for fact in kept}):
            _check_names_differ(relation, uris)
        chosen += sorted(kept, key=lambda fact: fact.uuid)
    return sorted(chosen, key=lambda fact: (fact.relation, fact.uuid))


def _check_names_differ(relation: str, uris: Iterable[str]) -> None:
    uris = list(uris)
    for language in LANGUAGES:
        counts = Counter(name_of(uri, language) for uri in uris)
        same = [name for name, count in counts.items() if count > 1]
        if same:
            raise ValueError(f"{relation} in {language}: the names {same} stand for several things; leave one out")


def split_of(fact_uuid: str, language: str) -> str:
    """ "seen" or "withheld": English sees all, every other language the half whose hash is even."""
    if language == "en" or hashlib.sha256(f"{fact_uuid}:{language}".encode()).digest()[0] % 2 == 0:
        return "seen"
    return "withheld"


def fill(template: str, subject: str, obj: str) -> str:
    """The template as a sentence."""
    return template.replace("[X]", subject).replace("[Y]", obj)


def _name(uri: str, language: str) -> str:
    name = name_of(uri, language)
    assert name is not None  # select_facts keeps only what is named everywhere
    return name


def facts_table(facts: Sequence[Fact]) -> pa.Table:
    """One row per language and fact, sorted by language (alphabetically), relation, uuid; columns of FACTS_SCHEMA."""
    rows = [
        {
            "relation": fact.relation,
            "uuid": fact.uuid,
            "language": language,
            "sub_uri": fact.sub_uri,
            "obj_uri": fact.obj_uri,
            "subject": _name(fact.sub_uri, language),
            "object": _name(fact.obj_uri, language),
            "template": TEMPLATES[fact.relation][language],
            "split": split_of(fact.uuid, language),
            "candidates": None,
        }
        for language in sorted(LANGUAGES)
        for fact in facts
    ]
    return pa.Table.from_pylist(rows, schema=FACTS_SCHEMA)


def pools_table(facts: Sequence[Fact]) -> pa.Table:
    """One row per language and relation: the names of its objects, sorted, with their uris; columns of POOLS_SCHEMA."""
    rows = []
    for language in sorted(LANGUAGES):
        for relation in sorted(TEMPLATES):
            uris = {fact.obj_uri for fact in facts if fact.relation == relation}
            pool = sorted((_name(uri, language), uri) for uri in uris)
            names, codes = [name for name, _ in pool], [uri for _, uri in pool]
            rows.append({"relation": relation, "language": language, "candidates": names, "uris": codes})
    return pa.Table.from_pylist(rows, schema=POOLS_SCHEMA)


def wrong_object(fact: Fact, pool: Sequence[str]) -> str:
    """An object of the pool that is not true of the subject: the same in every language, fixed by the fact's uuid."""
    true = set(true_objects(fact.relation, fact.sub_uri))
    false = [uri for uri in sorted(pool) if uri not in true]
    return min(false, key=lambda uri: hashlib.sha256(f"{fact.uuid}:{uri}".encode()).digest())


def claims_table(facts: Sequence[Fact]) -> pa.Table:
    """Two rows per language and fact, the right claim and a wrong one; columns of CLAIMS_SCHEMA.

    A claim keeps its `claim_uuid` in all languages. English rows carry the claim in other words, the others none.
    """
    pools: dict[str, set[str]] = defaultdict(set)
    for fact in facts:
        pools[fact.relation].add(fact.obj_uri)
    objects = {fact: (fact.obj_uri, wrong_object(fact, sorted(pools[fact.relation]))) for fact in facts}
    rows = []
    for language in sorted(LANGUAGES):
        for fact in facts:
            subject = _name(fact.sub_uri, language)
            for label, uri in zip((True, False), objects[fact], strict=True):
                obj = _name(uri, language)
                others = REPHRASINGS[fact.relation] if language == "en" else ()
                rows.append(
                    {
                        "claim_uuid": str(uuid.uuid5(uuid.UUID(fact.uuid), uri)),
                        "fact_uuid": fact.uuid,
                        "relation": fact.relation,
                        "language": language,
                        "claim": fill(TEMPLATES[fact.relation][language], subject, obj),
                        "label": label,
                        "rephrasings": [fill(template, subject, obj) for template in others],
                    }
                )
    return pa.Table.from_pylist(rows, schema=CLAIMS_SCHEMA)


def build() -> dict[str, pa.Table]:
    """All three tables by the stem of their file: facts, pools, claims."""
    facts = select_facts()
    return {"facts": facts_table(facts), "pools": pools_table(facts), "claims": claims_table(facts)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Rebuild the built-in facts, pools and claims from CLDR.")
    parser.add_argument(
        "--output", type=Path, default=HERE, help="folder for the three files (default: beside the script)"
    )
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    for stem, table in build().items():
        path = options.output / f"{stem}.parquet"
        pq.write_table(table, path, compression="zstd", compression_level=19)
        print(f"{path}: {table.num_rows:,} rows, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
