"""The sounds of a run that come from prepared corpora."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from singleout.data.clips import Clip, Clips
from singleout.data.embeddings import (
    EmbeddingTable,
    crop_offsets,
    embeddings_of,
    given_embeddings,
)
from singleout.data.manifest import share_of
from singleout.data.plan import MixtureConfig
from singleout.encoders import QueryEncoder
from singleout.errors import ManifestError, ModelError
from singleout.shards import Crops, PreparedClips, open_corpus
from singleout.train.config import TrainConfig


class JoinedClips(Clips):
    """Clips of several sources, one source after the other.

    Args:
        parts: the clips of each source.

    Example:
        >>> from pathlib import Path
        >>> rain = Clip(Path("rain.wav"), 2.0, "rain", (), "rain", "rain", "train")
        >>> joined = JoinedClips([[rain], [rain]])
        >>> len(joined), len(joined.parts)
        (2, 2)
    """

    def __init__(self, parts: Sequence[Sequence[Clip]]) -> None:
        super().__init__(Clips.joined([Clips.of(part) for part in parts]).columns)
        self.parts = parts

    def __reduce__(self) -> tuple[object, ...]:
        return JoinedClips, (self.parts,)


def parts_of(clips: Sequence[Clip]) -> Sequence[Sequence[Clip]]:
    """The clips of each source.

    Example:
        >>> parts_of([])
        [[]]
    """
    return clips.parts if isinstance(clips, JoinedClips) else [clips]


def prepared_splits(place: str) -> tuple[PreparedClips, PreparedClips]:
    """Clips of a prepared corpus to train on and to validate with; the latter may be empty.

    Args:
        place: folder of the corpus, or its address.

    Raises:
        InputError: the corpus cannot be opened (see ``open_corpus``).
        ManifestError: it has no sounds to train on, or training would misunderstand its splits.

    Example:
        >>> prepared_splits("missing")
        Traceback (most recent call last):
        singleout.errors.InputError: missing: holds no prepared corpus: ...
    """
    corpus = open_corpus(place)
    corpus.check_splits()
    training = corpus.split("train")
    if not len(training):
        raise ManifestError(
            f"{place}: holds no sounds of the split 'train', but {len(corpus.clips):,} others"
        )
    return training, corpus.split("validation")


def prepared_uncaptioned(
    place: str, share: float, groups: frozenset[str], other: str | None = None
) -> PreparedClips:
    """The share of a prepared corpus that trains without captions.

    Args:
        place: folder of the corpus, or its address.
        share: of the recordings, 0 to 1.
        groups: names of groups that are left out.
        other: prepared corpus of the run. All of its sounds already train or are held out.

    Raises:
        InputError: the corpus cannot be opened (see ``open_corpus``).

    Example:
        >>> prepared_uncaptioned("missing", 1.0, frozenset())
        Traceback (most recent call last):
        singleout.errors.InputError: missing: holds no prepared corpus: ...
    """
    corpus = open_corpus(place)
    clips = corpus.split("train").without_captions()
    if other is not None and open_corpus(other).fingerprint == corpus.fingerprint:
        return clips.take(np.arange(0))
    if share < 1 or groups:
        is_chosen = (
            clip.group not in groups and (share == 1 or share_of(_recording(clip)) < share)
            for clip in clips
        )
        clips = clips.take(np.flatnonzero(np.fromiter(is_chosen, bool, len(clips))))
    return clips


def _recording(clip: Clip) -> str:
    """The group of a clip. Where that is its member, the suffix does not count: FLAC and WAV of the
    same sounds give the same share."""
    is_member = clip.path.as_posix().endswith(clip.group)
    return Path(clip.group).with_suffix("").as_posix() if is_member else clip.group


def held_out_groups(clips: PreparedClips) -> frozenset[str]:
    """Names of the groups of a prepared corpus that must not be trained on.

    Args:
        clips: clips of the corpus.

    Example:
        >>> from singleout.shards import PreparedCorpus
        >>> from singleout.storage.locations import Location
        >>> corpus = PreparedCorpus(Location("corpus"), Clips.of([]), "0" * 64, {}, {})
        >>> held_out_groups(corpus.split("train"))
        frozenset()
    """
    everything = clips.corpus.clips
    columns = everything.columns
    is_trained = np.zeros(len(everything), bool)
    is_trained[clips.corpus.split("train").rows] = True
    # A group of -1 is the clip alone: its name may be that of a clip of another corpus.
    rows = np.flatnonzero(~is_trained & (columns["group"] >= 0))
    return frozenset(everything[int(row)].group for row in rows)


def sound_embeddings(
    config: TrainConfig, clips: Sequence[Clip], mixtures: MixtureConfig, encoder: QueryEncoder
) -> EmbeddingTable:
    """Embeddings of all crops: of the file that the config names, else those that a prepared
    corpus has, else of the encoder.

    Args:
        config: of the run.
        clips: the sounds.
        mixtures: length and hop of the crops.
        encoder: embeds what has no embeddings.

    Raises:
        InputError: embeddings of a prepared corpus are missing or damaged.
        ModelError: ``config.embeddings`` lacks a crop, or those of a prepared corpus do not fit.

    Example:
        >>> from singleout.encoders import load_encoder
        >>> config = TrainConfig(audio="a", output="b", model={"separator": {"type": "identity"}})
        >>> len(sound_embeddings(config, [], config.mixtures, load_encoder("builtin")).offsets)
        1
    """
    path = config.embeddings
    if path is not None:
        return given_embeddings(clips, mixtures, encoder.fingerprint, encoder.dim, path)
    tables = []
    for part in parts_of(clips):
        table = _prepared_embeddings(part, mixtures, encoder)
        tables.append(embeddings_of(part, mixtures, encoder) if table is None else table)
    return EmbeddingTable.joined(tables)


def _prepared_embeddings(
    clips: Sequence[Clip], mixtures: MixtureConfig, encoder: QueryEncoder
) -> EmbeddingTable | None:
    """Embeddings of all crops that a prepared corpus has; None if it has none of these crops."""
    if not isinstance(clips, PreparedClips):
        return None
    crops = Crops(encoder.fingerprint, mixtures.segment_seconds, mixtures.crop_hop_seconds)
    table = clips.embeddings(crops)
    if table is None:
        return None
    if table.dim != encoder.dim or (table.offsets != crop_offsets(clips, mixtures)).any():
        raise ModelError(
            f"{clips.corpus.place}: its embeddings are of other crops than its sounds have: "
            "prepare the corpus again"
        )
    return table
