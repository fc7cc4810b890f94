"""UrbanSound8K: 8,732 excerpts of at most 4 s from Freesound, of 10 classes.

Facts: https://urbansounddataset.weebly.com/urbansound8k.html (``metadata/UrbanSound8K.csv``,
``audio/fold1`` to ``audio/fold10``, columns, no commercial use). Excerpts of one recording are in
one fold. The corpus has no splits: here fold 10 is the test set, fold 9 the validation set, and the
others are for training. Counts of the folds: the same table, as
https://github.com/daisukelab/multi_task_learning_sound counts it.
"""

from __future__ import annotations

from collections.abc import Iterator

from singleout.corpora.entries import Entry, Published
from singleout.corpora.files import CorpusFiles, stem_of
from singleout.corpora.tables import read_table
from singleout.errors import ManifestError, shortened

FOLDS = (873, 888, 925, 990, 936, 823, 838, 806, 816, 837)
"""Number of excerpts of each fold."""
NUMBERS = tuple(str(number) for number, _ in enumerate(FOLDS, 1))
SPLITS = {"9": "validation", "10": "test"}
"""Splits of folds; the others are for training."""


def urbansound8k_entries(files: CorpusFiles) -> Iterator[Entry]:
    """The excerpts of ``UrbanSound8K.csv``.

    Raises:
        ManifestError: the table is missing or of another form.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "UrbanSound8K.csv").write_text(
        ...         "slice_file_name,fsID,start,end,salience,fold,classID,class\\n"
        ...         "17-3-0-0.wav,17,0.0,0.317551,1,10,3,dog_bark\\n"
        ...     )
        ...     [entry] = urbansound8k_entries(CorpusFiles(Path(folder)))
        >>> entry.part, entry.group
        ('fold 10', 'freesound/17')
    """
    table = files.table("UrbanSound8K.csv")
    for row in read_table(table, ("slice_file_name", "fsID", "start", "end", "fold", "class")):
        fold = row["fold"]
        if fold not in NUMBERS:
            raise ManifestError(
                f"{table}: not a row of UrbanSound8K: {shortened(list(row.values()))}"
            )
        yield Entry(
            f"fold {fold}",
            SPLITS.get(fold, "train"),
            f"fold{fold}/{row['slice_file_name']}",
            files.audio(stem_of(row["slice_file_name"])),
            group=f"freesound/{row['fsID']}",
            label=row["class"],
            license="CC BY-NC 3.0",
            origin={
                "corpus": "urbansound8k",
                "freesound_id": row["fsID"],
                "fold": int(fold),
                "start": row["start"],
                "end": row["end"],
            },
        )


URBANSOUND8K = Published(
    "UrbanSound8K",
    "https://urbansounddataset.weebly.com/urbansound8k.html",
    "CC BY-NC 3.0",
    urbansound8k_entries,
    {"1": {f"fold {number}": count for number, count in enumerate(FOLDS, 1)}},
    "unpack UrbanSound8K.tar.gz",
)
