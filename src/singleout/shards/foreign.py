"""Other people's shards: an index of tar files that are in the WebDataset layout.

Every audio file of a sample becomes a clip. What is known about it comes from the JSON or text next
to it. These layouts are known beyond plain WebDataset:

- Shards of Megatron-Energon are WebDataset shards. Its folder ``.nv-meta`` is not needed.
- Lhotse Shar: the files ``recording.*.tar`` and ``audio.*.tar`` of its fields. A JSON of lhotse
  describes the file and has no captions.
- Hive (Li et al., 2026, https://arxiv.org/abs/2601.22599) as its script ``mix_from_metadata.py``
  writes it: ``ID.mix.wav`` is left out, and each source ``ID.s1.wav``, ``ID.s2.wav``, … is a clip
  with the label of that source.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from singleout.audio import SOUND_SUFFIXES
from singleout.config import is_path
from singleout.data.clips import Member
from singleout.data.members import read_member
from singleout.data.sound_files import described
from singleout.documents import DocumentError, parse_json
from singleout.errors import AudioError, InputError, ManifestError, ShardError
from singleout.progress import track
from singleout.shards.corpus import CorpusWriter
from singleout.shards.tars import TarMember, TarSample, scan_samples
from singleout.storage.locations import Location
from singleout.types import checked_text

MAX_TEXT_BYTES = 1_000_000
"""A longer description of a sound is not read."""
TEXT_SUFFIXES = ("txt", "text", "caption", "cls")
"""Suffixes of texts: of captions, and the last one of classes."""
CAPTION_KEYS = ("caption", "text", "captions", "texts", "description")
"""Keys of captions in a JSON. A list has the caption first, then alternatives."""
CLASS_KEYS = ("class", "label")
GROUP_KEYS = ("group", "recording", "recording_id", "original_id", "source_id")
SOURCE = re.compile(r"s(\d+)")
"""Name, without suffix, of a source of a mixture."""


def index_shards(places: Sequence[str], out: Location, split: str | None = None) -> int:
    """Write a corpus that has an index of shards, and no shards.

    Sounds that cannot be read, and texts that cannot be captions, are rows of the report.

    Args:
        places: paths or addresses of the shards. Relative paths are those of the current folder.
        out: folder of the corpus.
        split: of all sounds; by default the ``split`` in the JSON of each, else ``train``.

    Returns:
        Number of sounds.

    Raises:
        InputError: a shard cannot be read, is compressed, or lost its tail.
        ManifestError: no shard has a sound.
        OutputError: a file cannot be written.

    Example:
        >>> import io, tempfile, numpy as np, soundfile
        >>> from singleout.shards import open_corpus
        >>> from singleout.shards.tars import TarWriter
        >>> soundfile.write(file := io.BytesIO(), np.zeros(8_000), 8_000, format="WAV")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     shard = Location(folder) / "0.tar"
        ...     with shard.path.open("wb") as tar_file:
        ...         tar = TarWriter(tar_file)
        ...         _ = tar.add("dogs/7.txt", b"a dog"), tar.add("dogs/7.wav", file.getvalue())
        ...         _ = tar.finish()
        ...     index_shards([str(shard)], Location(folder) / "corpus")
        ...     clip = open_corpus(f"{folder}/corpus").clips[0]
        1
        >>> clip.caption, clip.seconds
        ('a dog', 1.0)
    """
    total = 0
    places = list(dict.fromkeys(map(str, places)))
    with CorpusWriter(out, {"index_of": places}) as corpus:
        for text in track(places, "indexing"):
            place = Location(text)
            if place.is_local:
                place = Location(place.path.absolute())
            rows = []
            for row in _rows(place):
                if "reason" in row:
                    corpus.report({"shard": str(place), **row})
                    continue
                if split is not None:
                    row["description"]["split"] = split
                rows.append(row)
            corpus.add({"name": str(place), "size": place.size(), "sha256": None}, rows)
            total += len(rows)
        if not total:
            raise ManifestError(
                f"{', '.join(places[:3])}: no shard has a sound: a sound is a file such "
                "as KEY.wav or KEY.flac in a tar file"
            )
    return total


def _rows(place: Location) -> Iterator[dict[str, Any]]:
    """Sounds of a shard as ``CorpusWriter.add`` takes them, and rows of the report."""
    for sample in scan_samples(place):
        for suffix, member in sample.members.items():
            kind, stem = _split_suffix(suffix)
            if f".{kind}" not in SOUND_SUFFIXES or _is_mixture(stem, sample):
                continue
            at = Member(str(place), member.offset, member.size, 0, 0)
            try:
                rate, samples = described(at, member.name)
                description = _description(place, sample, stem)
            except ShardError:  # a sound would be left out because a store did not answer once
                raise
            except (AudioError, DocumentError) as error:
                yield {"member": member.name, "reason": str(error)}
                continue
            yield {
                # Two shards may have members of one name, which are no class and no group.
                "root": None,
                "name": f"{place}/{member.name}",
                "offset": member.offset,
                "size": member.size,
                "sample_rate": rate,
                "num_samples": samples,
                "description": description,
            }


def _split_suffix(suffix: str) -> tuple[str, str]:
    """Kind and stem of a suffix: ``s1.wav`` is a ``wav`` called ``s1``."""
    stem, _, kind = suffix.rpartition(".")
    return kind, stem


def _is_mixture(stem: str, sample: TarSample) -> bool:
    """Whether a file is the mixture of sources that are in the same sample."""
    return stem == "mix" and any(SOURCE.fullmatch(_split_suffix(s)[1]) for s in sample.members)


def _description(place: Location, sample: TarSample, stem: str) -> dict[str, Any]:
    """What a shard says of a sound, with the keys of a manifest."""
    texts = {}
    for suffix, member in sample.members.items():
        kind, of = _split_suffix(suffix)
        if kind in ("json", *TEXT_SUFFIXES) and of in ("", stem) and (kind not in texts or of):
            texts[kind] = _text(place, member)
    document = _document(texts.pop("json", "{}"))
    label = texts.pop("cls", None)
    captions = [text for kind in TEXT_SUFFIXES if (text := texts.get(kind, "").strip())]
    facts = _from_json({**document, **_source(document, stem)})
    captions += [text for text in facts.pop("captions") if text not in captions]
    for caption in captions:
        try:
            checked_text(caption)
        except InputError as error:
            raise DocumentError(str(error)) from None
    description = {"class": label and label.strip(), **facts}
    if captions:
        description |= {"caption": captions[0], "alternatives": captions[1:]}
    if _num_sounds(sample) > 1:
        description.setdefault("group", f"{place}/{sample.key}")
    return description


def _num_sounds(sample: TarSample) -> int:
    return sum(f".{_split_suffix(suffix)[0]}" in SOUND_SUFFIXES for suffix in sample.members)


def _text(place: Location, member: TarMember) -> str:
    if member.size > MAX_TEXT_BYTES:
        raise DocumentError(f"{member.name} has {member.size:,} bytes")
    try:
        return read_member(Member(str(place), member.offset, member.size, 0, 0)).decode()
    except UnicodeDecodeError:
        raise DocumentError(f"{member.name} is not UTF-8") from None


def _document(text: str) -> dict[str, Any]:
    document = parse_json(text)
    return document if isinstance(document, dict) else {}


def _source(document: Mapping[str, Any], stem: str) -> dict[str, Any]:
    """What a JSON says of one source of a mixture, as that of Hive does."""
    if (match := SOURCE.fullmatch(stem)) is None:
        return {}
    number = int(match[1]) - 1
    merged: dict[str, Any] = {}
    sources, labels = document.get("sources"), document.get("labels")
    info = document.get("dataset_info")
    if isinstance(info, dict):
        merged["split"] = info.get("split")
    if isinstance(labels, list) and 0 <= number < len(labels):
        merged["label"] = labels[number]
    if isinstance(sources, list) and 0 <= number < len(sources):
        source = sources[number]
        if isinstance(source, dict):
            # One recording is in many mixtures.
            merged |= {"label": source.get("label"), "group": source.get("path")}
    merged["caption"] = merged.get("label")  # queries are labels there
    return merged


def _from_json(document: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a manifest, and all captions, of a JSON."""
    captions: list[str] = []
    for key in (*CAPTION_KEYS, "alternatives"):
        value = document.get(key)
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and text.strip() and text.strip() not in captions:
                captions.append(text.strip())
    facts: dict[str, Any] = {"captions": captions}
    for name, keys in (("class", CLASS_KEYS), ("group", GROUP_KEYS), ("split", ("split",))):
        for key in keys:
            value = document.get(key)
            if isinstance(value, str) and value.strip():
                if not is_path(value):
                    raise DocumentError(f"its {name} has broken characters")
                facts.setdefault(name, value.strip())
    return facts
