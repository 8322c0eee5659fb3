"""Small sources in every published format, written on the fly, so that a test can show exactly what is in them."""

from __future__ import annotations

import json
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

TEMPLATES = {
    "en": {
        "P36": "The capital of [X] is [Y] .",
        "P30": "[X] is located in [Y] .",
        "place_of_birth": "[X] was born in [Y] .",
    },
    "de": {
        "P36": "Die Hauptstadt von [X] ist [Y] .",
        "P30": "[X] liegt in [Y] .",
        "place_of_birth": "[X] kommt aus [Y] .",
    },
    "zh": {"P36": "[X]的首都是[Y]。", "P30": "[X]位于[Y]。", "place_of_birth": "[X]出生于[Y]。"},
}

# relation, number, (subject URI, object URI), and the labels per language
FACTS: Sequence[tuple[str, int, tuple[str, str], dict[str, tuple[str, str]]]] = (
    ("P36", 0, ("Q142", "Q90"), {"en": ("France", "Paris"), "de": ("Frankreich", "Paris"), "zh": ("法国", "巴黎")}),
    ("P36", 1, ("Q183", "Q64"), {"en": ("Germany", "Berlin"), "de": ("Deutschland", "Berlin"), "zh": ("德国", "柏林")}),
    ("P36", 2, ("Q38", "Q220"), {"en": ("Italy", "Rome"), "de": ("Italien", "Rom")}),
    ("P30", 3, ("Q142", "Q46"), {"en": ("France", "Europe"), "de": ("Frankreich", "Europa")}),
    ("P30", 4, ("Q148", "Q48"), {"en": ("China", "Asia"), "de": ("China", "Asien")}),
    ("place_of_birth", 5, ("/m/1", "/m/2"), {"en": ("Goethe", "Frankfurt"), "de": ("Goethe", "Frankfurt")}),
)


def write_mlama(folder: Path) -> Path:
    """An mLAMA folder: en and de with two T-REx relations and one of Google-RE, zh with an empty relation."""
    for language, templates in TEMPLATES.items():
        (folder / language).mkdir(parents=True)
        write_lines(
            folder / language / "templates.jsonl", [{"relation": r, "template": t} for r, t in templates.items()]
        )
        for relation in templates:
            rows = [
                {
                    "sub_uri": uris[0],
                    "obj_uri": uris[1],
                    "sub_label": labels[language][0],
                    "obj_label": labels[language][1],
                    "lineid": number,
                    "uuid": f"uuid-{number}",
                }
                for name, number, uris, labels in FACTS
                if name == relation and language in labels
            ]
            write_lines(folder / language / f"{relation}.jsonl", rows)
    return folder


def write_object_lists(folder: Path) -> Path:
    """Object lists for en and de with one candidate that no fact has ("Madrid"), and none for zh."""
    folder.mkdir()
    for language in ("en", "de"):
        lists = {
            relation: {"subjects": [], "objects": sorted({ls[language][1] for r, _, _, ls in FACTS if r == relation})}
            for relation in ("P36", "P30")
        }
        lists["P36"]["objects"].append("Madrid")
        (folder / f"{language}.json").write_text(json.dumps(lists))
    return folder


def write_bmlama(folder: Path) -> Path:
    """A BMLAMA folder with three parallel rows, CRLF line ends, a quoted prompt and a prompt without its subject."""
    folder.mkdir()
    header = ["Prompt", "Ans", "Candidate Ans", "Subject"]
    rows = {
        "en": [
            ["Michelangelo died in <mask>.", "Rome", "Venice, Rome", "Michelangelo"],
            ['"The capital of France, or ""la France"", is <mask>."', "Paris", "Rome, Berlin, Paris", "France"],
            ["<mask> is the capital of Italy.", "Rome", "Rome", "Italy"],
        ],
        "de": [
            ["Michelangelo starb in <mask>.", "Rom", "Venedig, Rom", "Michelangelo"],
            ["Die Hauptstadt Frankreichs ist <mask>.", "Paris", "Rom, Berlin, Paris", "Frankreich"],
            ["Die Hauptstadt des Landes ist <mask>.", "Rom", "Rom", "Italien"],
        ],
    }
    for language, lines in rows.items():
        text = "".join("\t".join(row) + "\r\n" for row in [header, *lines])
        (folder / f"{language}.tsv").write_bytes(text.encode())
    return folder


def write_hub(folder: Path) -> Path:
    """A folder that `datasets` loads: a Parquet file with the columns of mLAMA on the hub."""
    folder.mkdir()
    rows = [
        {
            "uuid": f"uuid-{number}",
            "lineid": number,
            "obj_uri": uris[1],
            "obj_label": labels[language][1],
            "sub_uri": uris[0],
            "sub_label": labels[language][0],
            "template": TEMPLATES[language][relation],
            "language": language,
            "predicate_id": relation,
        }
        for relation, number, uris, labels in FACTS
        for language in labels
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "test.parquet")
    return folder


def write_lines(path: Path, rows: Sequence[object]) -> None:
    """JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def zipped(folder: Path, archive: Path) -> Path:
    """A zip of a folder, the folder's name on top as in published archives."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for file in sorted(folder.rglob("*")):
            opened.write(file, Path(folder.name) / file.relative_to(folder))
    return archive


def tarred(folder: Path, archive: Path) -> Path:
    """A tar.xz of a folder."""
    with tarfile.open(archive, "w:xz") as opened:
        opened.add(folder, arcname=folder.name)
    return archive
