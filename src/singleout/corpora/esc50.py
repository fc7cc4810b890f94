"""ESC-50: 2,000 recordings of 5 s from Freesound, of 50 classes in 5 families.

Facts: https://github.com/karolpiczak/ESC-50 (``meta/esc50.csv``, ``audio/*.wav``; five folds, with
all clips of a recording in one fold; ``target`` counts classes family by family; the licence is CC
BY-NC, that of the subset ESC-10 CC BY). It has no splits: here fold 5 is the test set, fold 4 the
validation set, and the others are for training.
"""

from __future__ import annotations

from collections.abc import Iterator

from singleout.corpora.entries import Entry, Published
from singleout.corpora.files import CorpusFiles, stem_of
from singleout.corpora.tables import read_table
from singleout.errors import ManifestError, shortened

FAMILIES = ("animals", "nature and water", "human, no speech", "interior", "exterior")
TARGETS = tuple(map(str, range(10 * len(FAMILIES))))
FOLDS = ("1", "2", "3", "4", "5")
SPLITS = {"4": "validation", "5": "test"}
"""Splits of folds; the others are for training."""


def esc50_entries(files: CorpusFiles) -> Iterator[Entry]:
    """The clips of ``esc50.csv``.

    Raises:
        ManifestError: the table is missing or of another form.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "esc50.csv").write_text(
        ...         "filename,fold,target,category,esc10,src_file,take\\n"
        ...         "5-17-A-10.wav,5,10,rain,True,17,A\\n"
        ...     )
        ...     [(each.label, each.split) for each in esc50_entries(CorpusFiles(Path(folder)))]
        [('nature and water/rain', 'test')]
    """
    table = files.table("esc50.csv")
    columns = ("filename", "fold", "target", "category", "esc10", "src_file")
    for row in read_table(table, columns):
        target, fold = row["target"], row["fold"]
        if target not in TARGETS or fold not in FOLDS:
            raise ManifestError(f"{table}: not a row of ESC-50: {shortened(list(row.values()))}")
        yield Entry(
            f"fold {fold}",
            SPLITS.get(fold, "train"),
            row["filename"],
            files.audio(stem_of(row["filename"])),
            group=f"freesound/{row['src_file']}",
            label=f"{FAMILIES[int(target) // 10]}/{row['category']}",
            license="CC BY" if row["esc10"] == "True" else "CC BY-NC 3.0",
            origin={"corpus": "esc50", "freesound_id": row["src_file"], "fold": int(fold)},
        )


ESC50 = Published(
    "ESC-50",
    "https://github.com/karolpiczak/ESC-50",
    "CC BY-NC 3.0; CC BY for the clips of ESC-10",
    esc50_entries,
    {"2": {f"fold {fold}": 400 for fold in FOLDS}},
    "download the repository as one zip file, and unpack it",
)
