"""Tables of the embeddings of all crops: computed once, kept in a cache, read in training."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor

from singleout.data.clips import Clip
from singleout.data.embedding_cache import EmbeddingCache
from singleout.data.plan import MixtureConfig, num_crops
from singleout.data.render import read_crop
from singleout.encoders.encoder import QueryEncoder
from singleout.errors import AudioError, ConfigError, ModelError
from singleout.progress import track

SAMPLE_RATE = 32_000
"""Hz at which the crops are given to the encoder."""


@dataclass(frozen=True)
class EmbeddingTable:
    """One embedding per crop.

    Attributes:
        embeddings: float32 [crops, dim], unit norm.
        offsets: [clips + 1], the row of each clip's first crop, and the number of rows.

    Example:
        >>> import torch
        >>> table = EmbeddingTable(torch.eye(3), offsets=(0, 1, 3))
        >>> table.count(1), table.of(1, 0)
        (2, tensor([0., 1., 0.]))
    """

    embeddings: Tensor
    offsets: tuple[int, ...]

    def of(self, clip: int, crop: int) -> Tensor:
        """The embedding [dim] of crop number ``crop`` of a clip."""
        return self.embeddings[self.offsets[clip] + crop]

    def count(self, clip: int) -> int:
        """The number of crops of a clip."""
        return self.offsets[clip + 1] - self.offsets[clip]


def build_table(
    clips: Sequence[Clip],
    config: MixtureConfig,
    embed: Callable[[int, int], Tensor],
) -> EmbeddingTable:
    """Embed every crop of every clip.

    Args:
        clips: the sounds.
        config: length and hop of the crops.
        embed: from the index of a clip and the number of a crop to the embedding [dim].

    Example:
        >>> import torch
        >>> from pathlib import Path
        >>> clips = [
        ...     Clip(Path(name), seconds, None, (), name, name, "train")
        ...     for name, seconds in (("dog.wav", 1.0), ("rain.wav", 6.0))
        ... ]
        >>> table = build_table(clips, MixtureConfig(), lambda clip, crop: torch.ones(4))
        >>> table.embeddings.shape, table.offsets
        (torch.Size([3, 4]), (0, 1, 3))
    """
    rows: list[Tensor] = []
    offsets = [0]
    for i, clip in enumerate(track(clips, "embedding the sounds")):
        rows += [embed(i, crop) for crop in range(num_crops(clip, config))]
        offsets.append(len(rows))
    return EmbeddingTable(torch.stack(rows).float(), tuple(offsets))


def cache_folder() -> Path:
    """The folder of all caches: ``$SINGLEOUT_CACHE``, or ``~/.cache/singleout`` without it.

    Raises:
        ConfigError: the variable is not set, and the user has no home folder.

    Example:
        >>> from unittest.mock import patch
        >>> with patch.dict(os.environ, SINGLEOUT_CACHE="caches"):
        ...     cache_folder().name
        'caches'
    """
    try:
        return Path(os.environ.get("SINGLEOUT_CACHE") or "~/.cache/singleout").expanduser()
    except RuntimeError:
        raise ConfigError(
            "this user has no home folder for the caches: name another folder in the variable "
            "SINGLEOUT_CACHE"
        ) from None


def default_cache(fingerprint: str) -> Path:
    """The default cache file of an encoder, below ``cache_folder``.

    Args:
        fingerprint: of the encoder.

    Raises:
        ConfigError: see ``cache_folder``.

    Example:
        >>> default_cache("encoder-1").name
        'encoder-1.sqlite'
    """
    return cache_folder() / "embeddings" / f"{quote(fingerprint, safe='')}.sqlite"


def embeddings_of(
    clips: Sequence[Clip], config: MixtureConfig, encoder: QueryEncoder, cache: Path | None = None
) -> EmbeddingTable:
    """The encoder's embeddings of all crops, read from a cache or computed and kept there.

    Args:
        clips: the sounds.
        config: length and hop of the crops.
        encoder: embeds the crops that the cache does not hold.
        cache: the file; by default the ``default_cache`` of the encoder.

    Raises:
        AudioError: a sound cannot be read, or changes while it is read.
        ModelError: the cache cannot be used (see ``EmbeddingCache``).

    Example:
        >>> import tempfile, numpy as np, soundfile, torch
        >>> from types import SimpleNamespace
        >>> from singleout.data.manifest import scan_folder
        >>> encoder = SimpleNamespace(
        ...     fingerprint="encoder-1", dim=4, embed_audio=lambda audio, rate: torch.ones(1, 4)
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     soundfile.write(f"{folder}/rain.wav", np.zeros(8_000), 8_000)
        ...     clips = scan_folder(Path(folder))
        ...     table = embeddings_of(clips, MixtureConfig(), encoder, Path(folder, "c.sqlite"))
        >>> table.embeddings
        tensor([[1., 1., 1., 1.]])
    """
    path = default_cache(encoder.fingerprint) if cache is None else cache
    with EmbeddingCache(path, encoder.fingerprint, encoder.dim) as file:

        def embed(clip: int, crop: int) -> Tensor:
            key = file.key(clips[clip], crop, config)
            row = file.get(key)
            if row is None:
                audio = read_crop(clips[clip], crop, config, SAMPLE_RATE)
                row = encoder.embed_audio(np.ascontiguousarray(audio), SAMPLE_RATE)[0]
                if file.key(clips[clip], crop, config) != key:
                    raise AudioError(f"{clips[clip].path}: changed while it was read: start again")
                file.put(key, row)
            return row

        return build_table(clips, config, embed)


def given_embeddings(
    clips: Sequence[Clip], config: MixtureConfig, encoder_fingerprint: str, dim: int, path: Path
) -> EmbeddingTable:
    """Embeddings of all crops from an existing file. Nothing is computed or written.

    Args:
        clips: the sounds.
        config: length and hop of the crops.
        encoder_fingerprint, dim: of the encoder that the file must belong to.
        path: the file, written by an ``EmbeddingCache``.

    Raises:
        AudioError: a sound cannot be read.
        ModelError: the file cannot be used (see ``EmbeddingCache``) or lacks a crop.

    Example:
        >>> import tempfile, numpy as np, soundfile, torch
        >>> from singleout.data.manifest import scan_folder
        >>> config = MixtureConfig()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     soundfile.write(f"{folder}/rain.wav", np.zeros(8_000), 8_000)
        ...     clips, path = scan_folder(Path(folder)), Path(folder, "given.sqlite")
        ...     with EmbeddingCache(path, "encoder-1", dim=4) as cache:
        ...         cache.put(cache.key(clips[0], 0, config), torch.ones(4))
        ...     given_embeddings(clips, config, "encoder-1", 4, path).embeddings
        tensor([[1., 1., 1., 1.]])
    """
    with EmbeddingCache(path, encoder_fingerprint, dim, read_only=True) as file:

        def read_row(clip: int, crop: int) -> Tensor:
            key = file.key(clips[clip], crop, config)
            row = file.get(key)
            if row is None:
                raise ModelError(
                    f"{path}: lacks crop {crop} of {clips[clip].path} ({key.seconds:g} s from "
                    f"{key.start:g} s): make the file again from these sounds and crops, or leave "
                    "'embeddings' out of the config to use the encoder's own"
                )
            return row

        return build_table(clips, config, read_row)
