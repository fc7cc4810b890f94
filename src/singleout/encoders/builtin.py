"""The small encoder of text and audio that comes with the package."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from singleout.config import validated
from singleout.documents import DocumentError, read_json, read_text
from singleout.encoders.audio_tower import SAMPLE_RATE, AudioTower, level, pad_to_minimum
from singleout.encoders.encoder import Augment, Sounds, batches_of, sentences_of, waveforms_of
from singleout.encoders.minilm import MiniLM, sentence_tokenizer, tokenize
from singleout.encoders.sizes import EncoderFile
from singleout.errors import ConfigError, ModelError
from singleout.storage.atomic import replacing_files
from singleout.storage.tensors import load_tensors, read_safetensors, save_tensors

PACKAGED = "builtin/encoder"
"""Folder of the encoder inside the package."""
MAX_TOKENIZER_BYTES = 20_000_000
"""Size of the largest ``tokenizer.json``. The one in the package has 700,000 bytes."""
BATCH = 64
"""Clips in the network at the same time. It limits the memory of large requests."""


class TextHead(nn.Module):
    """Sentence vectors [batch, sentence_dim] to unit embeddings [batch, dim].

    Args:
        sentence_dim: length of a sentence vector.
        hidden: width of the hidden layer.
        dim: length of an embedding.

    Example:
        >>> import torch
        >>> TextHead(sentence_dim=8, hidden=4, dim=16)(torch.randn(2, 8)).shape
        torch.Size([2, 16])
    """

    def __init__(self, sentence_dim: int, hidden: int, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(sentence_dim, dim)
        self.mlp = nn.Sequential(
            nn.Dropout(0.2),
            nn.Linear(sentence_dim, hidden),
            nn.ReLU(),
            nn.Dropout(0.4),
            nn.Linear(hidden, dim),
        )

    def forward(self, sentence: Tensor) -> Tensor:
        sentence = F.normalize(sentence, dim=-1)
        return F.normalize(self.linear(sentence) + 0.3 * self.mlp(sentence), dim=-1)


class SideBySide(nn.Module):
    """Joins the unit embeddings of several heads to one unit embedding.

    The heads were trained in the same way from different starts. The similarity of two joined
    embeddings is the mean of the similarities of the heads.

    Args:
        heads: each gives unit embeddings [batch, dim].

    Example:
        >>> import torch
        >>> heads = SideBySide([TextHead(8, 4, 16) for _ in range(3)])
        >>> heads(torch.randn(2, 8)).shape
        torch.Size([2, 48])
    """

    def __init__(self, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([head(x) for head in self.heads], -1)
        return joined.div(len(self.heads) ** 0.5)


class Alignment(nn.Module):
    """Removes the mean of a modality and projects on principal components of sounds.

    These are the mean shift and the PCA of ``manipulations``, fitted once on training sounds
    (``recipes/builtin/alignment.py``) and part of the encoder. The directions in which sounds
    differ remain. In them, text is nearer to its sound than in the whole space, also for sounds
    that were not in training.

    Args:
        dim: length of the embeddings.
        rank: number of components.

    Example:
        >>> import torch
        >>> alignment = Alignment(dim=16, rank=4)
        >>> alignment(torch.randn(2, 16), alignment.text_mean).shape
        torch.Size([2, 4])
    """

    audio_mean: Tensor
    text_mean: Tensor
    basis: Tensor

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__()
        self.register_buffer("audio_mean", torch.zeros(dim))
        self.register_buffer("text_mean", torch.zeros(dim))
        self.register_buffer("basis", torch.zeros(rank, dim))

    def forward(self, embedding: Tensor, mean: Tensor) -> Tensor:
        """Unit [batch, dim] to unit [batch, rank]."""
        return F.normalize((embedding - mean) @ self.basis.T, dim=-1)


class BuiltinNetwork(nn.Module):
    """All weights of the encoder in one module, so that one file holds them.

    Args:
        config: sizes, as under ``network`` in the encoder's ``config.json``:
            ``sentence`` (arguments of ``MiniLM``), ``text_hidden``, ``dim``, ``audio_channels``,
            and optionally ``text_heads`` (number of joined heads) and ``rank`` (of the alignment).

    Example:
        >>> import torch
        >>> sentence = {"vocabulary": 10, "dim": 8, "num_layers": 1, "num_heads": 2, "hidden": 16}
        >>> network = BuiltinNetwork(
        ...     {"sentence": sentence, "text_hidden": 4, "dim": 6, "audio_channels": [4] * 5}
        ... )
        >>> network.aligned_audio(network.eval().audio(torch.randn(1, 32_000))).shape
        torch.Size([1, 6])
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.sentence = MiniLM(**config["sentence"])
        sizes = self.sentence.dim, config["text_hidden"], config["dim"]
        num_heads = config.get("text_heads")
        self.text_head = (
            TextHead(*sizes)
            if num_heads is None
            else SideBySide([TextHead(*sizes) for _ in range(num_heads)])
        )
        dim = config["dim"] * (num_heads or 1)
        self.audio = AudioTower(dim, tuple(config["audio_channels"]))
        rank = config.get("rank")
        self.alignment = None if rank is None else Alignment(dim, rank)

    def aligned_text(self, embedding: Tensor) -> Tensor:
        """Embeddings of the text head, [batch, dim], in the space that both modalities share."""
        if self.alignment is None:
            return embedding
        aligned: Tensor = self.alignment(embedding, self.alignment.text_mean)
        return aligned

    def aligned_audio(self, embedding: Tensor) -> Tensor:
        """Embeddings of the audio tower, [batch, dim], in the space that both modalities share."""
        if self.alignment is None:
            return embedding
        aligned: Tensor = self.alignment(embedding, self.alignment.audio_mean)
        return aligned


class BuiltinEncoder:
    """Embeds text by MiniLM and a head of ours, audio by a distilled residual network.

    Embeddings have unit norm, are deterministic, and do not depend on the level of a sound. Audio
    is resampled to 32 kHz.

    Args:
        network: its weights are frozen.
        tokenizer_json: content of a ``tokenizer.json``.
        config: sizes of the network, see ``BuiltinNetwork``, and the ``fingerprint``.

    Example:
        >>> encoder = BuiltinEncoder.from_pretrained()
        >>> similarity = encoder.embed_text("a dog") @ encoder.embed_text(["a puppy", "rain"]).T
        >>> bool(similarity[0, 0] > similarity[0, 1])
        True
    """

    name = "builtin"
    window_seconds = 1.0

    def __init__(
        self, network: BuiltinNetwork, tokenizer_json: str, config: dict[str, Any]
    ) -> None:
        self.config = config
        self.network = network.eval().requires_grad_(False)
        self.dim: int = config.get("rank") or config["dim"] * config.get("text_heads", 1)
        self.tokenizer_json = tokenizer_json
        self._tokenizer = sentence_tokenizer(tokenizer_json)
        self.fingerprint: str = config.get("fingerprint", "")

    @classmethod
    def from_pretrained(cls, folder: str | Path | None = None) -> BuiltinEncoder:
        """Load the encoder in the package, or an encoder saved in ``folder``.

        Raises:
            ModelError: a file is missing or corrupt, or it has another architecture.
        """
        path = Path(str(files("singleout") / PACKAGED)) if folder is None else Path(folder)
        config_file, tokenizer_file = path / "config.json", path / "tokenizer.json"
        try:
            values = read_json(config_file)
            tokenizer_json = read_text(tokenizer_file, MAX_TOKENIZER_BYTES)
        except DocumentError as error:
            raise ModelError(f"{path}: not a query encoder's folder: {error}") from None
        if not isinstance(values, dict) or values.get("type") != cls.name:
            raise ModelError(f"{path}: not a built-in query encoder (type '{cls.name}' expected)")
        try:
            config = validated(EncoderFile, values, str(config_file))
        except ConfigError as error:
            raise ModelError(f"query encoder of another architecture: {error}") from None
        sizes = config.network.arguments()
        with torch.device("meta"):
            network = BuiltinNetwork(sizes)
        load_tensors(network, path / "model.safetensors")
        try:
            return cls(network, tokenizer_json, {**sizes, "fingerprint": config.fingerprint})
        except ModelError as error:
            raise ModelError(f"{tokenizer_file}: {error}") from None

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json``, ``model.safetensors`` and ``tokenizer.json``, all or none.

        Matrices of text are stored in int8 with a scale for each row, those of audio in float16.
        The new fingerprint of the encoder is a hash of the stored weights and the tokenizer.

        Raises:
            OutputError: a file cannot be written.
        """
        network = {key: value for key, value in self.config.items() if key != "fingerprint"}
        with replacing_files(Path(folder)) as partial:
            save_tensors(self.network, partial / "model.safetensors", int8_below="sentence.")
            stored, _ = read_safetensors(partial / "model.safetensors")
            # Without the checksum of the file, which encoders of earlier versions do not have.
            digest = hashlib.sha256(safetensors.torch.save(stored))
            digest.update(self.tokenizer_json.encode())
            fingerprint = digest.hexdigest()[:16]
            config = {"type": self.name, "fingerprint": fingerprint, "network": network}
            text = json.dumps(config, indent=2) + "\n"
            (partial / "config.json").write_text(text, encoding="utf-8")
            (partial / "tokenizer.json").write_text(self.tokenizer_json, encoding="utf-8")
        self.fingerprint = fingerprint

    def to(self, device: torch.device | str) -> Self:
        """Move the network to a device; see ``QueryEncoder.to``."""
        self.network.to(device)
        return self

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    @torch.inference_mode()
    def embed_text(self, text: str | Sequence[str]) -> Tensor:
        """Embed one text or several; see ``QueryEncoder.embed_text``.

        Returns:
            float32 [texts, dim], unit norm, on the CPU.

        Raises:
            QueryError: there is no text, or a text is blank.
            ModelError: the tokenizer does not belong to the network.
        """
        tokens, mask = tokenize(self._tokenizer, sentences_of(text))
        vectors = self.network.sentence(tokens.to(self._device), mask.to(self._device))
        return self.network.aligned_text(self.network.text_head(vectors)).cpu()

    @torch.inference_mode()
    def embed_audio(
        self,
        audio: Sounds,
        sample_rate: int,
        augment: Augment | None = None,
    ) -> Tensor:
        """Embed one clip or several; see ``QueryEncoder.embed_audio``.

        ``augment`` gets one channel at 100 frames/s: the natural logarithm of the mel bands,
        divided by 4.

        Returns:
            float32 [clips, dim], unit norm, on the CPU.

        Raises:
            AudioError: the audio cannot be embedded.
        """
        waveforms = waveforms_of(audio, sample_rate, SAMPLE_RATE)
        padded = [pad_to_minimum(waveform) for waveform in waveforms]
        embeddings = torch.empty(len(waveforms), self.dim)
        for numbers, batch in batches_of(padded, BATCH):
            hook = None if augment is None else partial(_applied, augment, numbers)
            embedding = self.network.audio(level(batch.to(self._device)), hook)
            embeddings[numbers] = self.network.aligned_audio(embedding).cpu()
        return embeddings


def _applied(augment: Augment, numbers: Sequence[int], log_mel: Tensor) -> Tensor:
    return augment(log_mel, numbers)
