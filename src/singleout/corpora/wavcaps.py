"""WavCaps: captions by ChatGPT for sounds of Freesound, the BBC, SoundBible and AudioSet.

Facts: https://huggingface.co/datasets/cvssp/WavCaps (``json_files``: one JSON per source, ids are
texts, those of AudioSet with a ``Y`` before and ``.wav`` after; ``Zip_files``: split archives of
FLAC files with long folder names; numbers of clips) and https://github.com/XinhaoMei/WavCaps
(three blacklists). ``blacklist_exclude_test_ac.json`` names the validation and test clips of
AudioCaps and Clotho, ``blacklist_exclude_ub8k_esc50_vggsound.json`` those of three test sets. Both
are honoured. ``blacklist_exclude_all_ac.json`` also names their training clips: it is not used.
"""

from __future__ import annotations

from collections.abc import Iterator

from singleout.corpora.entries import Entry, Published
from singleout.corpora.files import CorpusFiles, stem_of
from singleout.corpora.tables import read_json, read_records
from singleout.errors import ManifestError

SOURCES = {
    "AudioSet_SL": "as_final.json",
    "BBC_Sound_Effects": "bbc_final.json",
    "FreeSound": "fsd_final.json",
    "SoundBible": "sb_final.json",
}
"""The file of each source. The folders of its sounds have names that contain that of the source."""
BLACKLISTS = ("blacklist_exclude_test_ac.json", "blacklist_exclude_ub8k_esc50_vggsound.json")
LISTED_AS = {"AudioSet_SL": "AudioSet", "FreeSound": "FreeSound"}
"""Key of a source in the blacklists."""


def wavcaps_entries(files: CorpusFiles) -> Iterator[Entry]:
    """The clips of the sources whose JSON files the folder has. All are for training.

    Raises:
        ManifestError: there is no JSON file of a source, or a blacklist is missing; or a file is
            of another form.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in BLACKLISTS:
        ...         _ = Path(folder, name).write_text('{"AudioSet": [], "FreeSound": ["17"]}')
        ...     _ = Path(folder, "fsd_final.json").write_text(
        ...         '{"data": [{"id": "17", "caption": "Rain falls."}]}'
        ...     )
        ...     [each.left_out for each in wavcaps_entries(CorpusFiles(Path(folder)))]
        ['blacklist_exclude_test_ac.json names it']
    """
    tables = files.tables(*SOURCES.values())
    blacklists = {name: _blacklist(files, name) for name in BLACKLISTS}
    for source, file_name in SOURCES.items():
        if file_name not in tables:
            continue
        for record in read_records(tables[file_name], "data", ["id", "caption"]):
            number = str(record["id"])
            number = stem_of(number) if source == "AudioSet_SL" else number
            key = LISTED_AS.get(source, ""), number
            reason = next((name for name, keys in blacklists.items() if key in keys), None)
            yield Entry(
                source,
                "train",
                f"{source}/{number}",
                files.audio(number, source),
                group=_group(source, number),
                caption=str(record["caption"] or "").strip() or None,
                origin={
                    "corpus": "wavcaps",
                    "source": source,
                    "id": number,
                    "uploader": record.get("author"),
                    "address": record.get("download_link"),
                },
                left_out=None if reason is None else f"{reason} names it",
            )


def _blacklist(files: CorpusFiles, name: str) -> set[tuple[str, str]]:
    """Sources and numbers of the clips that a blacklist names."""
    path = files.table(name)
    content = read_json(path)
    lists = [content.get(key) for key in LISTED_AS.values()] if isinstance(content, dict) else []
    if not lists or not all(isinstance(each, list) for each in lists):
        raise ManifestError(f"{path}: not a blacklist of WavCaps")
    return {
        (key, stem_of(str(name)))
        for key, each in zip(LISTED_AS.values(), lists, strict=True)
        for name in each or ()
    }


def _group(source: str, number: str) -> str:
    """The origin of a clip, as other corpora call it."""
    if source == "AudioSet_SL":
        return f"youtube/{number.removeprefix('Y')}"
    return f"{ {'BBC_Sound_Effects': 'bbc'}.get(source, source.lower()) }/{number}"


WAVCAPS = Published(
    "WavCaps",
    "https://huggingface.co/datasets/cvssp/WavCaps",
    "academic use only; the sounds under the licences of Freesound, the BBC, SoundBible, YouTube",
    wavcaps_entries,
    {
        "1": {
            "AudioSet_SL": 108_317,
            "BBC_Sound_Effects": 31_201,
            "FreeSound": 262_300,
            "SoundBible": 1_232,
        }
    },
    "its split archives are put together by zip -F AudioSet_SL.zip --out AS.zip, then unzip AS.zip",
)
