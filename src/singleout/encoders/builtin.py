"""The small joint text-audio encoder that ships with the package."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from singleout.encoders.audio_tower import SAMPLE_RATE, AudioTower, level, pad_to_minimum
from singleout.encoders.encoder import Augment, sentences_of, waveforms_of
from singleout.encoders.minilm import MiniLM, for_sentences, tokenize
from singleout.errors import ModelError
from singleout.storage.atomic import replacing
from singleout.storage.tensors import load_tensors, save_tensors

PACKAGED = "builtin/encoder"
"""Folder of the shipped encoder, inside the package."""


class TextHead(nn.Module):
    """Sentence vector [batch, 384] to a unit embedding [batch, dim]."""

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
    """Several heads, trained alike from other beginnings: their unit embeddings, one after the
    other, of unit norm again. Similarities are then the mean of theirs."""

    def __init__(self, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([head(x) for head in self.heads], -1)
        return joined.div(len(self.heads) ** 0.5)


class Alignment(nn.Module):
    """Brings both modalities onto common ground: own mean removed, projected, unit norm again.

    The PCA and mean shift of the methods (docs/paper.md), fitted once on training sounds
    (``recipes/builtin/alignment.py``) and part of the encoder: what is left are the
    directions in which sounds differ, and on unseen packages text lies nearer to its sound in them
    than in the whole space.
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
    """All weights of the encoder in one module, so that one file holds them."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.sentence = MiniLM(**config["sentence"])
        sizes = self.sentence.dim, config["text_hidden"], config["dim"]
        members = config.get("text_heads")
        self.text_head = (
            TextHead(*sizes)
            if members is None
            else SideBySide([TextHead(*sizes) for _ in range(members)])
        )
        dim = config["dim"] * (members or 1)
        self.audio = AudioTower(dim, tuple(config["audio_channels"]))
        rank = config.get("rank")
        self.alignment = None if rank is None else Alignment(dim, rank)

    def aligned_text(self, embedding: Tensor) -> Tensor:
        """Output of the text head in the space that both modalities share."""
        if self.alignment is None:
            return embedding
        aligned: Tensor = self.alignment(embedding, self.alignment.text_mean)
        return aligned

    def aligned_audio(self, embedding: Tensor) -> Tensor:
        """Output of the audio tower in the space that both modalities share."""
        if self.alignment is None:
            return embedding
        aligned: Tensor = self.alignment(embedding, self.alignment.audio_mean)
        return aligned


class BuiltinEncoder:
    """MiniLM with our head for text, a distilled residual network for audio; one space.

    Both modalities: unit norm, deterministic, level-independent. Audio is resampled to 32 kHz.
    """

    name = "builtin"
    window_seconds = 1.0

    def __init__(
        self, network: BuiltinNetwork, tokenizer_json: str, config: dict[str, Any]
    ) -> None:
        from tokenizers import Tokenizer

        self.config = config
        self.network = network.eval().requires_grad_(False)
        self.dim: int = config.get("rank") or config["dim"] * config.get("text_heads", 1)
        self.tokenizer_json = tokenizer_json
        self._tokenizer = for_sentences(Tokenizer.from_str(tokenizer_json))
        self.fingerprint: str = config.get("fingerprint", "")

    @classmethod
    def from_pretrained(cls, folder: str | Path | None = None) -> BuiltinEncoder:
        """The shipped encoder, or one saved in ``folder``.

        Raises:
            ModelError: a file is missing or corrupt, or of another architecture.
        """
        path = Path(str(files("singleout") / PACKAGED)) if folder is None else Path(folder)
        try:
            config = json.loads((path / "config.json").read_text(encoding="utf-8"))
            tokenizer_json = (path / "tokenizer.json").read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ModelError(f"{path}: not a query encoder's folder: {error}") from None
        if not isinstance(config, dict) or config.get("type") != cls.name:
            raise ModelError(f"{path}: not a built-in query encoder (type '{cls.name}' expected)")
        try:
            with torch.device("meta"):
                network = BuiltinNetwork(config["network"])
            settings = {**config["network"], "fingerprint": config["fingerprint"]}
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise ModelError(f"{path}: query encoder of another architecture: {error!r}") from None
        load_tensors(network, path / "model.safetensors")
        try:
            return cls(network, tokenizer_json, settings)
        except Exception as error:  # tokenizers has no type of its own for a bad file
            raise ModelError(f"{path / 'tokenizer.json'}: not a tokenizer: {error}") from None

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json``, ``model.safetensors`` and ``tokenizer.json``.

        Matrices are stored in int8 with a scale per row (text) or in float16 (audio). The
        fingerprint is a hash of the stored weights and the tokenizer. A file appears whole or not
        at all, the config last.
        """
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        save_tensors(self.network, path / "model.safetensors", int8_below="sentence.")
        digest = hashlib.sha256((path / "model.safetensors").read_bytes())
        digest.update(self.tokenizer_json.encode())
        network = {key: value for key, value in self.config.items() if key != "fingerprint"}
        config = {"type": self.name, "fingerprint": digest.hexdigest()[:16], "network": network}
        texts = {
            "tokenizer.json": self.tokenizer_json,
            "config.json": json.dumps(config, indent=2) + "\n",
        }
        for name, content in texts.items():
            with replacing(path / name) as partial:
                partial.write_text(content, encoding="utf-8")
        self.fingerprint = digest.hexdigest()[:16]

    @torch.inference_mode()
    def embed_text(self, text: str | Sequence[str]) -> Tensor:
        """Float32 [sentences, dim], unit norm.

        Raises:
            QueryError: no text, or a blank one.
        """
        vectors = self.network.sentence(*tokenize(self._tokenizer, sentences_of(text)))
        return self.network.aligned_text(self.network.text_head(vectors))

    @torch.inference_mode()
    def embed_audio(
        self,
        audio: NDArray[np.float32] | Tensor,
        sample_rate: int,
        augment: Augment | None = None,
    ) -> Tensor:
        """Audio [samples] or [clips, samples] at ``sample_rate`` Hz to float32 [clips, dim].

        ``augment`` gets one channel, 100 frames/s, the logarithm over 4.

        Raises:
            AudioError: wrong shape, no samples, not finite, or an impossible rate.
        """
        waveform = waveforms_of(audio, sample_rate, SAMPLE_RATE)
        waveform = level(pad_to_minimum(waveform))
        return self.network.aligned_audio(self.network.audio(waveform, augment))
