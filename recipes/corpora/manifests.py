"""The three manifests of the full-size study, from those of downloaded corpora."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from recipes.paper.corpus import CAPTIONED_SHARE, HIDDEN
from singleout.corpora.reading import Row
from singleout.data.manifest import share_of
from singleout.errors import ManifestError
from singleout.storage.atomic import replacing


def write_manifest(path: Path, rows: Iterable[Row]) -> None:
    """Write a manifest; an interrupted call leaves the old file.

    Raises:
        ManifestError: the manifest would be empty.
    """
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if not text:
        raise ManifestError(f"{path}: not written: the corpus has no sounds")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def read_rows(corpus: Path) -> list[Row]:
    """Rows of the manifest of a corpus, with absolute paths."""
    path = corpus / "manifest.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise ManifestError(
            f"{path}: cannot be read: write it first by singleout corpus: {error}"
        ) from None
    rows = [json.loads(line) for line in lines if line]
    return [{**row, "path": str((corpus / row["path"]).resolve())} for row in rows]


def study_manifests(audiocaps: Path, clotho: Path, uncaptioned: Path, output: Path) -> int:
    """Write the three manifests of the full-size study.

    They are ``manifest.jsonl``, ``captioned.jsonl`` and ``uncaptioned.jsonl``.

    AudioCaps gives the training, validation and test sounds in domain, in its official splits. The
    test split of Clotho is the test set out of domain. The uncaptioned sounds are the recordings
    of AudioCaps that ``captioned.jsonl`` leaves out, and all of a third corpus. No recording of a
    validation or test set is in a training set.

    Args:
        audiocaps, clotho, uncaptioned: folders of the corpora, with their manifests.
        output: folder for the three manifests.

    Returns:
        Number of sounds that were left out of the training for that reason.
    """
    renamed = {"test": "test_in_domain"}
    in_domain = [
        {**row, "split": renamed.get(row["split"], row["split"])} for row in read_rows(audiocaps)
    ]
    unseen = [
        {**row, "split": "test_out_of_domain"}
        for row in read_rows(clotho)
        if row["split"] == "test"
    ]
    scored = [row for row in [*in_domain, *unseen] if row["split"] != "train"]
    taken = {row["group"] for row in scored}
    everything = [row for row in in_domain if row["split"] == "train"]
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
