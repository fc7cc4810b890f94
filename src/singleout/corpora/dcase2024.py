"""The development set of task 9 of DCASE 2024: FSD50K with captions by GPT-4, and Clotho 2.

Facts: https://dcase.community/challenge2024/task-language-queried-audio-source-separation says what
the set is. https://zenodo.org/records/10887496 has the captions: ``fsd50k_dev_auto_caption.json``
and ``fsd50k_eval_auto_caption.json``, each ``{"data": [{"wav": "64760.wav", "caption": …}]}``.

The challenge has no splits in this set. Here clips keep the splits of FSD50K and of Clotho, so that
no test clip of theirs is trained on. If a recording is in both corpora, and a test or validation
clip of one of them, its training clip is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from singleout.corpora.clotho import CLOTHO, clotho_entries
from singleout.corpora.entries import Entry, Published
from singleout.corpora.files import CorpusFiles, stem_of
from singleout.corpora.fsd50k import FSD50K, fsd50k_entries
from singleout.corpora.tables import read_records

CAPTIONS = ("fsd50k_dev_auto_caption.json", "fsd50k_eval_auto_caption.json")


def dcase2024_entries(files: CorpusFiles) -> Iterator[Entry]:
    """The clips of FSD50K with the captions of the challenge, then those of Clotho.

    Raises:
        ManifestError: a table is missing or of another form.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from singleout.errors import ManifestError
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     try:
        ...         list(dcase2024_entries(CorpusFiles(Path(folder))))
        ...     except ManifestError as error:
        ...         print(str(error).removeprefix(folder))
        : lacks the table fsd50k_dev_auto_caption.json
    """
    captions = {
        stem_of(str(record["wav"])): str(record["caption"] or "").strip()
        for name in CAPTIONS
        for record in read_records(files.table(name), "data", ["wav", "caption"])
    }
    for entry in fsd50k_entries(files):
        caption = captions.get(stem_of(entry.name))
        yield replace(entry, part=f"FSD50K {entry.part}", caption=caption)
    for entry in clotho_entries(files):
        yield replace(entry, part=f"Clotho {entry.part}")


DCASE2024 = Published(
    "DCASE 2024 task 9, development set",
    "https://zenodo.org/records/10887496, https://zenodo.org/records/4060432 and "
    "https://zenodo.org/records/4783391",
    "those of FSD50K and Clotho",
    dcase2024_entries,
    {
        "1": {
            f"{corpus.title} {part}": count
            for corpus in (FSD50K, CLOTHO)
            for counts in corpus.versions.values()
            for part, count in counts.items()
        }
    },
    "the sound is that of FSD50K and Clotho",
)
