"""Manifests of the corpora, and those of the full-size study."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from recipes.corpora.readers import READERS, Found, Row
from recipes.paper.corpus import CAPTIONED_SHARE, HIDDEN
from singleout.data.manifest import share_of
from singleout.errors import ManifestError
from singleout.storage.atomic import replacing


def write_manifest(path: Path, rows: Iterable[Row]) -> None:
    """Whole or not at all.

    Raises:
        ManifestError: there is no row.
    """
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if not text:
        raise ManifestError(f"{path}: not written: no sounds were found")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def corpus_manifest(corpus: str, folder: Path) -> Found:
    """Write ``manifest.jsonl`` into a downloaded corpus.

    Raises:
        ManifestError: a table is missing or of another format, or no sound was found.
    """
    found = READERS[corpus](folder)
    write_manifest(folder / "manifest.jsonl", found.rows)
    return found


def read_rows(corpus: Path) -> list[Row]:
    """Rows of a corpus's manifest, paths absolute."""
    path = corpus / "manifest.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise ManifestError(f"{path}: make it first: {error}") from None
    rows = [json.loads(line) for line in lines if line]
    return [{**row, "path": str((corpus / row["path"]).resolve())} for row in rows]


def study_manifests(audiocaps: Path, clotho: Path, uncaptioned: Path, output: Path) -> int:
    """``manifest.jsonl``, ``captioned.jsonl`` and ``uncaptioned.jsonl`` of the full-size study.

    AudioCaps is trained on, chosen on and scored on in its own splits; Clotho's test is the
    unseen domain. The uncaptioned sounds are the recordings of AudioCaps that ``captioned`` leaves
    out, and all of a third corpus. No recording that is chosen or scored on is trained on.

    Returns:
        How many sounds were left out for that reason.
    """
    renamed = {"test": "test_in_domain"}
    told = [
        {**row, "split": renamed.get(row["split"], row["split"])} for row in read_rows(audiocaps)
    ]
    unseen = [
        {**row, "split": "test_out_of_domain"}
        for row in read_rows(clotho)
        if row["split"] == "test"
    ]
    scored = [row for row in [*told, *unseen] if row["split"] != "train"]
    taken = {row["group"] for row in scored}
    everything = [row for row in told if row["split"] == "train"]
    train = [row for row in everything if row["group"] not in taken]
    more = read_rows(uncaptioned)
    free = [row for row in more if row["group"] not in taken]
    captioned = [row for row in train if share_of("captioned", row["group"]) < CAPTIONED_SHARE]
    kept = {row["group"] for row in captioned}
    hidden = [
        {key: value for key, value in row.items() if key not in HIDDEN} | {"split": "train"}
        for row in [*(row for row in train if row["group"] not in kept), *free]
    ]
    validation = [row for row in scored if row["split"] == "validation"]
    write_manifest(output / "captioned.jsonl", [*captioned, *validation])
    write_manifest(output / "uncaptioned.jsonl", hidden)
    write_manifest(output / "manifest.jsonl", [*train, *scored])
    return len(everything) - len(train) + len(more) - len(free)
