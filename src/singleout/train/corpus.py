"""The sounds of a run: which clips train and validate, their embeddings, their mixtures."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from singleout.data.checking import SoundCheck
from singleout.data.clips import Clip, Clips
from singleout.data.columns import Texts
from singleout.data.dataset import MixtureDataset
from singleout.data.embeddings import EmbeddingTable, text_embeddings
from singleout.data.manifest import Manifest, read_manifest, scan_folder, share_of
from singleout.data.plan import check_mixable
from singleout.encoders import QueryEncoder
from singleout.errors import ManifestError
from singleout.manipulations import FitEmbeddings, Manipulator
from singleout.shards import PreparedClips
from singleout.train.config import TrainConfig, UncaptionedConfig
from singleout.train.prepared import (
    JoinedClips,
    held_out_groups,
    parts_of,
    prepared_splits,
    prepared_uncaptioned,
    sound_embeddings,
)

VALIDATION_SEED = 1_000_000
"""Seed of the validation mixtures, the same in every run."""
VALIDATION_FRACTION = 20
"""One sound in so many of a folder is held out for validation."""
BAD_SOUNDS = "bad_sounds.jsonl"
"""Name, in the folder of a run, of the list of its bad sounds if they are many."""


@dataclass(frozen=True)
class Corpus:
    """The clips of a run.

    Attributes:
        training: clips to train on, those without captions last.
        validation: clips to validate with; may be empty.

    Example:
        >>> Corpus(training=[], validation=[]).digest
        'e3b0c44298fc1c14'
    """

    training: Sequence[Clip]
    validation: Sequence[Clip]

    @property
    def digest(self) -> str:
        """Hash of the clips. With other clips a run would not continue with the same mixtures.

        Clips of a prepared corpus count by the checksum of its index, and by their numbers.
        """
        digest = hashlib.sha256()
        for part in (*parts_of(self.training), *parts_of(self.validation)):
            if isinstance(part, PreparedClips):
                digest.update(part.digest().encode())
                continue
            for clip in part:
                row = (clip.path.as_posix(), clip.seconds, clip.label, clip.group, clip.captions)
                digest.update(repr(row).encode(errors="surrogateescape"))
        return digest.hexdigest()[:16]


def read_corpus(config: TrainConfig) -> Corpus:
    """Find the clips of a run, and check that all their sounds can be used.

    If there are many bad sounds, all of them are listed in the file ``BAD_SOUNDS`` in the folder
    of the run.

    Raises:
        ManifestError: a manifest or a folder cannot be used, or the sounds make no mixture.
        AudioError: sounds are bad, and ``config.skip_bad`` is not set or no sound is good.

    Example:
        >>> import os, tempfile
        >>> from unittest.mock import patch
        >>> import numpy as np
        >>> from singleout.audio import write_wav
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("car.wav", "dog.wav", "rain.wav"):
        ...         noise = np.random.default_rng(0).normal(0, 0.1, (1, 800))
        ...         write_wav(Path(folder) / name, noise.astype(np.float32), 8_000)
        ...     model = {"separator": {"type": "identity"}}
        ...     with patch.dict(os.environ, SINGLEOUT_CACHE=folder):
        ...         corpus = read_corpus(TrainConfig(audio=folder, output="run", model=model))
        >>> [clip.path.name for clip in corpus.training], corpus.validation
        (['car.wav', 'dog.wav', 'rain.wav'], [])
    """
    check = SoundCheck()
    manifest = None if config.manifest is None else Manifest.read(config.manifest)
    training, validation = split_clips(config, check, manifest)
    if config.uncaptioned is not None:
        more = _uncaptioned(
            config.uncaptioned, config.shards, manifest, training, validation, check
        )
        training = JoinedClips([training, more])
    check.finish(config.skip_bad, config.output / BAD_SOUNDS)
    check_mixable(training, config.mixtures)
    return Corpus(training, validation)


def _uncaptioned(
    more: UncaptionedConfig,
    shards: str | None,
    manifest: Manifest | None,
    training: Sequence[Clip],
    validation: Sequence[Clip],
    check: SoundCheck,
) -> Sequence[Clip]:
    """More sounds of a run, without what it trains on or holds out already."""
    excluded: tuple[Collection[Path], Collection[str]] = ((), ())
    if isinstance(training, PreparedClips):
        excluded = ((), held_out_groups(training))
    elif manifest is not None:
        excluded = manifest.held_out()
    if more.shards is not None:
        return prepared_uncaptioned(more.shards, more.share, frozenset(excluded[1]), shards)
    known = () if isinstance(training, PreparedClips) else [*training, *validation]
    return uncaptioned_clips(more, known, excluded, check)


def split_clips(
    config: TrainConfig, check: SoundCheck | None = None, manifest: Manifest | None = None
) -> tuple[Sequence[Clip], Sequence[Clip]]:
    """Clips to train on and clips to validate with; the latter may be empty.

    A manifest names its splits, and a prepared corpus has those of its manifest. One sound in
    twenty of a folder is held out, unless that is too few for one mixture. ``config.uncaptioned``
    is not part of the result.

    Args:
        config: of the run.
        check: notes bad sounds, which are left out. By default no sound is read. The sounds of a
            prepared corpus were checked when it was made.
        manifest: ``config.manifest``, if it was read before.

    Raises:
        ManifestError: the manifest or the folder cannot be used.
        InputError: the prepared corpus cannot be opened.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from singleout.audio import write_wav
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for number in range(60):
        ...         path = Path(folder) / f"{number}.wav"
        ...         write_wav(path, np.zeros((1, 800), np.float32), 8_000)
        ...     model = {"separator": {"type": "identity"}}
        ...     splits = split_clips(TrainConfig(audio=folder, output="run", model=model))
        >>> [len(clips) for clips in splits]
        [57, 3]
    """
    if config.shards is not None:
        return prepared_splits(config.shards)
    on_bad = None if check is None else check.add
    if config.manifest is not None:
        manifest = manifest or Manifest.read(config.manifest)
        training: Sequence[Clip] = manifest.existing("train", on_bad=on_bad)
        manifest.check_splits()
        validation: Sequence[Clip] = manifest.existing("validation", True, on_bad)
        if check is not None:
            training, validation = check.usable(training), check.usable(validation)
        return training, validation
    assert config.audio is not None
    clips: Sequence[Clip] = scan_folder(config.audio, on_bad)
    if check is not None:
        clips = check.usable(clips)
    count = len(clips) // VALIDATION_FRACTION
    if count < config.validation.mixtures.num_sources[1]:
        count = 0  # too few for one mixture
    numbers = set(np.random.default_rng([config.seed]).permutation(len(clips))[:count])
    return (
        [clip for i, clip in enumerate(clips) if i not in numbers],
        [clip for i, clip in enumerate(clips) if i in numbers],
    )


def uncaptioned_clips(
    config: UncaptionedConfig,
    known: Sequence[Clip] = (),
    excluded: tuple[Collection[Path], Collection[str]] = ((), ()),
    check: SoundCheck | None = None,
) -> Sequence[Clip]:
    """The configured share of more recordings, without their captions.

    Args:
        config: where the recordings are, and which share of them is used.
        known: clips that already train or validate. Their files are left out.
        excluded: files and groups to leave out. Groups count in manifests only: in a folder, a
            group is the name of a file, which another folder may have, too.
        check: notes bad sounds, which are left out. By default no sound is read.

    Raises:
        ManifestError: the manifest or the folder cannot be used.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from singleout.audio import write_wav
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_wav(Path(folder) / "rain.wav", np.zeros((1, 800), np.float32), 8_000)
        ...     clips = uncaptioned_clips(UncaptionedConfig(audio=folder))
        ...     others = uncaptioned_clips(UncaptionedConfig(audio=folder), known=clips)
        >>> [clip.path.name for clip in clips]
        ['rain.wav']
        >>> others
        []
    """
    on_bad = None if check is None else check.add
    clips: Sequence[Clip]
    if config.manifest is not None:
        clips = read_manifest(config.manifest, "train", on_bad=on_bad)
    else:
        assert config.audio is not None
        clips = scan_folder(config.audio, on_bad)
    files = {clip.path.resolve() for clip in known} | set(excluded[0])
    groups = excluded[1] if config.manifest is not None else ()
    chosen = [
        dataclasses.replace(clip, caption=None, alternatives=())
        for clip in clips
        if share_of(clip.group) < config.share
        and clip.group not in groups
        and clip.path.resolve() not in files
    ]
    return chosen if check is None else check.usable(chosen)


def caption_embeddings(clips: Sequence[Clip], encoder: QueryEncoder) -> EmbeddingTable | None:
    """Embeddings of all captions of all clips; None if no clip has a caption.

    Equal captions are embedded once.

    Example:
        >>> from singleout.encoders import load_encoder
        >>> captions = ["a dog barking", "rain"]
        >>> clips = [
        ...     Clip(Path("0.wav"), 1.0, caption, (), "class", "group", "train")
        ...     for caption in captions
        ... ]
        >>> caption_embeddings(clips, load_encoder("builtin")).embeddings.shape
        torch.Size([2, 96])
    """
    columns = Clips.of(clips).columns
    captions = Texts(columns["caption.encoded"], columns["caption.offsets"])
    if not len(captions):
        return None
    codes = captions.codes()
    unique = captions.take(np.unique(codes, return_index=True)[1])[:]
    order = sorted(range(len(unique)), key=unique.__getitem__)
    texts = [unique[number] for number in order]
    rows = text_embeddings(texts, encoder)
    places = np.argsort(order)  # of each code in ``texts``
    return EmbeddingTable(rows[torch.from_numpy(places[codes])], columns["caption_first"])


def fit_embeddings(sounds: EmbeddingTable, captions: EmbeddingTable | None) -> FitEmbeddings:
    """What a manipulation learns from: the first crop of every sound, and every caption.

    Each sound counts once, because training draws all sounds equally often, whatever their length.

    Args:
        sounds: embeddings of the crops of every clip.
        captions: embeddings of the captions of the same clips; None if no clip has a caption.

    Example:
        >>> import torch
        >>> sounds = EmbeddingTable(torch.randn(3, 8), (0, 2, 3))  # two crops and one crop
        >>> captions = EmbeddingTable(torch.randn(1, 8), (0, 0, 1))  # of the second sound
        >>> examples = fit_embeddings(sounds, captions)
        >>> len(examples.audio), len(examples.text), examples.pairs
        (2, 1, tensor([1]))
    """
    audio = sounds.first_crops()
    if captions is None:
        none = torch.zeros(0, audio.shape[-1])
        return FitEmbeddings(audio, none, torch.zeros(0, dtype=torch.long))
    counts = torch.from_numpy(captions.offsets).diff()
    pairs = torch.arange(len(audio)).repeat_interleave(counts)
    return FitEmbeddings(audio, captions.embeddings, pairs)


def training_dataset(
    config: TrainConfig, clips: Sequence[Clip], encoder: QueryEncoder, start_step: int = 0
) -> MixtureDataset:
    """The mixtures of a run from ``start_step`` to its last step.

    Args:
        config: of the run.
        clips: to train on.
        encoder: embeds the sounds and their captions.
        start_step: steps that earlier sessions have taken.

    Raises:
        ManifestError: training uses text, and no clip has a caption.
        ModelError: ``config.embeddings`` lacks a crop.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from singleout.audio import write_wav
        >>> from singleout.data.manifest import scan_folder
        >>> from singleout.encoders import load_encoder
        >>> short = {"segment_seconds": 0.5, "crop_hop_seconds": 0.5}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("dog.wav", "rain.wav", "car.wav"):
        ...         noise = np.random.default_rng(len(name)).normal(0, 0.1, (1, 3_200))
        ...         write_wav(Path(folder) / name, noise.astype(np.float32), 32_000)
        ...     model = {"separator": {"type": "identity"}}
        ...     config = TrainConfig(
        ...         audio=folder, output="run", model=model, mixtures=short, steps=10
        ...     )
        ...     dataset = training_dataset(config, scan_folder(Path(folder)), load_encoder())
        ...     len(dataset), dataset[0]["mixture"].shape
        (80, torch.Size([1, 16000]))
    """
    uses_text = bool(config.p_text or config.query_mixup)
    learns = Manipulator(config.model.manipulation, encoder.dim).state is None
    table = sound_embeddings(config, clips, config.mixtures, encoder)
    # Training by sounds has no use for captions, of which a corpus may have very many.
    captions = caption_embeddings(clips, encoder) if uses_text or learns else None
    if captions is None and uses_text:
        raise ManifestError(
            "training by text (p_text, query_mixup) needs captions, and no training sound has one"
        )
    return MixtureDataset(
        clips,
        config.mixtures,
        config.model.separator.sample_rate,
        table,
        captions,
        config.seed,
        first=start_step * config.batch_size,
        length=(config.steps - start_step) * config.batch_size,
        query_audio=config.query_audio,
        all_captions=True,
        queries=config.queries,
    )


def validation_dataset(
    config: TrainConfig, clips: Sequence[Clip], encoder: QueryEncoder
) -> MixtureDataset:
    """The fixed mixtures that are scored during training.

    Args:
        config: of the run.
        clips: to validate with.
        encoder: embeds the sounds and their captions.

    Raises:
        ModelError: ``config.embeddings`` lacks a crop.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from singleout.audio import write_wav
        >>> from singleout.data.manifest import scan_folder
        >>> from singleout.encoders import load_encoder
        >>> short = {"segment_seconds": 0.5, "crop_hop_seconds": 0.5}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("dog.wav", "rain.wav", "car.wav"):
        ...         noise = np.random.default_rng(len(name)).normal(0, 0.1, (1, 3_200))
        ...         write_wav(Path(folder) / name, noise.astype(np.float32), 32_000)
        ...     model = {"separator": {"type": "identity"}}
        ...     validation = {"num_mixtures": 4, "mixtures": short}
        ...     config = TrainConfig(
        ...         audio=folder, output="run", model=model, validation=validation
        ...     )
        ...     len(validation_dataset(config, scan_folder(Path(folder)), load_encoder()))
        4
    """
    mixtures = config.validation.mixtures
    return MixtureDataset(
        clips,
        mixtures,
        config.model.separator.sample_rate,
        sound_embeddings(config, clips, mixtures, encoder),
        caption_embeddings(clips, encoder),
        VALIDATION_SEED,
        first=0,
        length=config.validation.num_mixtures,
    )
