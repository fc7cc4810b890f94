"""Published corpora, read as their authors publish them, become manifests.

Example:
    >>> sorted(CORPORA)[:4]
    ['audiocaps', 'audioset', 'clotho', 'dcase2024']
    >>> CORPORA["esc50"].versions["2"]["fold 1"]
    400
"""

from singleout.corpora.entries import Entry, Published
from singleout.corpora.reading import Corpus, CorpusReader, Counts, Outcome, read_corpus
from singleout.corpora.registry import CORPORA, GENERIC, ReadOptions
from singleout.corpora.writing import Summary, missing_path, write_corpus

__all__ = [
    "CORPORA",
    "GENERIC",
    "Corpus",
    "CorpusReader",
    "Counts",
    "Entry",
    "Outcome",
    "Published",
    "ReadOptions",
    "Summary",
    "missing_path",
    "read_corpus",
    "write_corpus",
]
