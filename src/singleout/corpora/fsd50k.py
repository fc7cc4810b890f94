"""FSD50K: sounds of Freesound, labelled with 200 classes of AudioSet's ontology.

Facts: https://zenodo.org/records/4060432 (``FSD50K.{dev,eval}_audio``, ``FSD50K.ground_truth``,
``FSD50K.metadata``; 51,197 clips; labels with all that stand above them in the ontology, the most
specific one first; licence of every clip in ``*_clips_info_FSD50K.json``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from singleout.corpora.entries import Entry, Published
from singleout.corpora.files import CorpusFiles
from singleout.corpora.tables import read_json, read_table
from singleout.errors import ManifestError

ROOTS = ("Animal", "Music")
"""Labels without one above them that are too wide for a family."""
SPLITS = {"train": "train", "val": "validation", "eval": "test"}


def fsd50k_entries(files: CorpusFiles) -> Iterator[Entry]:
    """The clips of the parts train and val, which are together ``dev``, and eval.

    The class of a clip is its first label. Its family is the widest label that all clips of this
    first label share, except ``Animal`` and ``Music``.

    Raises:
        ManifestError: a table is missing or of another form.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for part, split in (("dev", ",split"), ("eval", "")):
        ...         _ = Path(folder, f"{part}.csv").write_text(
        ...             f"fname,labels,mids{split}\\n7,Bark,/m/1{split and ',val'}\\n"
        ...         )
        ...         _ = Path(folder, f"{part}_clips_info_FSD50K.json").write_text(
        ...             '{"7": {"license": "CC0", "uploader": "me"}}'
        ...         )
        ...     [each.part for each in fsd50k_entries(CorpusFiles(Path(folder)))]
        ['val', 'eval']
    """
    rows, about = {}, {}
    for part, columns in (("dev", ("fname", "labels", "split")), ("eval", ("fname", "labels"))):
        rows[part] = list(read_table(files.table(f"{part}.csv"), columns))
        about[part] = _clips_info(files.table(f"{part}_clips_info_FSD50K.json"))
    families = families_of([row["labels"].split(",") for each in rows.values() for row in each])
    for folder, listed in rows.items():
        for row in listed:
            number, kind = row["fname"].strip(), row["labels"].split(",")[0]
            part = row.get("split", "eval")
            if part not in SPLITS:
                raise ManifestError(
                    f"{files.table(f'{folder}.csv')}: the clip {number} has the split '{part}', "
                    "and not train or val"
                )
            info, family = about[folder].get(number, {}), families.get(kind)
            yield Entry(
                part,
                SPLITS[part],
                f"{folder}/{number}.wav",
                files.audio(number, folder),
                group=f"freesound/{number}",
                label=f"{family}/{kind}" if family else kind,
                license=info.get("license"),
                origin={
                    "corpus": "fsd50k",
                    "freesound_id": number,
                    "uploader": info.get("uploader"),
                    "labels": row["labels"].split(","),
                },
            )


def families_of(labels: list[list[str]]) -> dict[str, str]:
    """The family of every label that comes first somewhere, if it has one.

    Args:
        labels: of every clip, the most specific one first.

    Example:
        >>> families_of([["Bark", "Dog", "Pets", "Animal"], ["Bark", "Dog", "Pets", "Animal", "X"]])
        {'Bark': 'Pets'}
    """
    shared: dict[str, list[str]] = {}
    for first, *others in labels:
        known = shared.get(first)
        shared[first] = others if known is None else [name for name in known if name in others]
    wide = {kind: [name for name in names if name not in ROOTS] for kind, names in shared.items()}
    return {kind: names[-1] for kind, names in wide.items() if names}


def _clips_info(path: Path) -> Mapping[str, dict[str, Any]]:
    info = read_json(path)
    if not isinstance(info, dict) or not all(isinstance(each, dict) for each in info.values()):
        raise ManifestError(f"{path}: not the metadata of the clips of FSD50K")
    return info


FSD50K = Published(
    "FSD50K",
    "https://zenodo.org/records/4060432",
    "of each clip, in its row (CC0, CC BY, CC BY-NC, Sampling+); CC BY 4.0 for the corpus",
    fsd50k_entries,
    {"1.0": {"train": 36_796, "val": 4_170, "eval": 10_231}},
    "its split zip archives are put together by zip -s 0 FSD50K.dev_audio.zip --out dev.zip",
)
