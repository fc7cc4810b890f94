"""Clotho 2 and 2.1: sounds of Freesound, 15 to 30 s, with five captions each.

Facts: https://zenodo.org/records/4783391 (captions and metadata per part, audio in 7z archives,
licence of every clip in the metadata). The metadata are in Latin-1, and some ``sound_id`` are
"Not found": so says https://github.com/Labbeti/aac-datasets, which also counts the files of 2.1
(3,839, 1,045 and 1,045). Zenodo's text for version 2 counts one more in two parts.
"""

from __future__ import annotations

from collections.abc import Iterator

from singleout.corpora.entries import Entry, Published
from singleout.corpora.files import CorpusFiles, normalized, stem_of
from singleout.corpora.tables import read_table

SPLITS = {"development": "train", "validation": "validation", "evaluation": "test"}
CAPTIONS = [f"caption_{number}" for number in range(1, 6)]
METADATA = ["file_name", "sound_id", "manufacturer", "license"]


def clotho_entries(files: CorpusFiles) -> Iterator[Entry]:
    """The clips of the parts development, validation and evaluation.

    A part has ``clotho_captions_*.csv``, ``clotho_metadata_*.csv`` and a folder of its name.

    Raises:
        ManifestError: a table is missing or of another form.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for part in SPLITS:
        ...         _ = Path(folder, f"clotho_captions_{part}.csv").write_text(
        ...             "file_name," + ",".join(CAPTIONS) + "\\nrain.wav,It rains,b,c,d,e\\n"
        ...         )
        ...         _ = Path(folder, f"clotho_metadata_{part}.csv").write_text(
        ...             ",".join(METADATA) + "\\nrain.wav,17,me,CC0\\n"
        ...         )
        ...     [each.group for each in clotho_entries(CorpusFiles(Path(folder)))]
        ['freesound/17', 'freesound/17', 'freesound/17']
    """
    tables = {
        part: [files.table(f"clotho_{kind}_{part}.csv") for kind in ("captions", "metadata")]
        for part in SPLITS
    }
    for part, split in SPLITS.items():
        captions, metadata = tables[part]
        about = {
            normalized(row["file_name"].strip()): row
            for row in read_table(metadata, METADATA, ("utf-8-sig", "latin-1"))
        }
        for row in read_table(captions, ["file_name", *CAPTIONS], ("utf-8-sig", "latin-1")):
            name = row["file_name"].strip()
            known = about.get(normalized(name), {})
            number = known.get("sound_id", "").strip()
            is_known = number.isdecimal()
            yield Entry(
                part,
                split,
                f"{part}/{name}",
                files.audio(stem_of(name), part),
                group=f"freesound/{number}" if is_known else f"clotho/{part}/{name}",
                caption=row[CAPTIONS[0]].strip(),
                alternatives=tuple(row[key].strip() for key in CAPTIONS[1:]),
                license=(known.get("license") or "").strip() or None,
                origin={
                    "corpus": "clotho",
                    "freesound_id": number if is_known else None,
                    "uploader": (known.get("manufacturer") or "").strip() or None,
                },
            )


CLOTHO = Published(
    "Clotho",
    "https://zenodo.org/records/4783391",
    "of each clip, in its row; the captions under Tampere University's licence (no commercial use)",
    clotho_entries,
    {"2.1": {"development": 3_839, "validation": 1_045, "evaluation": 1_045}},
    "unpack clotho_audio_development.7z, clotho_audio_validation.7z and clotho_audio_evaluation.7z",
)
