"""The query encoder of the study, fitted on recordings that the extractor never trains on.

Text: MiniLM and a trained head. Audio: YAMNet and a trained head (``recipes/builtin/heads.py``).
The study cannot use the shipped encoder, because that was trained on every training sound. This
encoder does not ship, because it contains the weights of a teacher.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from recipes.builtin import teachers
from recipes.builtin.embed import words_of
from recipes.builtin.features import TeacherOutput, teacher_features
from recipes.builtin.heads import Recipe, TaggerHead, TaggerView, random_crops, train_pair, view_of
from singleout.data.manifest import read_manifest
from singleout.encoders.builtin import TextHead
from singleout.encoders.encoder import Augment, Sounds, sentences_of, waveforms_of
from singleout.encoders.minilm import for_sentences, tokenize
from singleout.storage.tensors import load_tensors, save_tensors

ENCODER = Path(__file__).parent / "encoder.safetensors"
"""The trained heads. They are stored here, because runs of two encoders do not compare."""


class PaperNetwork(nn.Module):
    """Both heads and the standardisation of the tagger's patches."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.view = TaggerView(torch.zeros(521, 384), torch.zeros(1024), torch.ones(1024))
        self.audio = TaggerHead(recipe.hidden, recipe.dim, effects=False)
        self.text = TextHead(384, recipe.hidden, recipe.dim)


class PaperEncoder:
    """A ``QueryEncoder`` of two frozen teachers.

    Args:
        path: file of the trained heads.
    """

    name = "paper"
    window_seconds = 1.0

    def __init__(self, path: Path) -> None:
        recipe = Recipe()
        self.network = PaperNetwork(recipe)
        load_tensors(self.network, path)
        self.network.eval().requires_grad_(False)
        self.dim = recipe.dim
        self.fingerprint = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        self._tagger = teachers.YamNet()
        self._sentences, self._tokenizer = teachers.minilm()
        for_sentences(self._tokenizer)

    def to(self, device: torch.device | str) -> Self:
        """Stay on the CPU, where the teachers run."""
        return self

    @torch.inference_mode()
    def embed_text(self, text: str | Sequence[str]) -> Tensor:
        """Embeddings of one or more sentences, float32 [sentences, dim] of unit norm."""
        vectors = self._sentences(*tokenize(self._tokenizer, sentences_of(text)))
        return self.network.text(vectors)  # type: ignore[no-any-return]

    @torch.inference_mode()
    def embed_audio(
        self,
        audio: Sounds,
        sample_rate: int,
        augment: Augment | None = None,
    ) -> Tensor:
        """Embeddings of sounds, float32 [clips, dim] of unit norm.

        Args:
            audio: [samples], [clips, samples], or a list of clips of any lengths.
            sample_rate: Hz.
            augment: changes the log-mel spectrograms [clips, 1, frames, bands].
        """
        views = []
        waveforms = waveforms_of(audio, sample_rate, teachers.YAMNET_RATE_HZ)
        for number, waveform in enumerate(waveforms):
            log_mel = torch.from_numpy(self._tagger.log_mel(waveform.numpy()))
            if augment is not None:
                log_mel = augment(log_mel[None, None], [number])[0, 0]
            parts = self._tagger.tag(log_mel.numpy())
            embeddings, logits = (torch.from_numpy(part) for part in parts)
            views.append(self.network.view(TeacherOutput(embeddings, logits, torch.zeros(1, 0))))
        return self.network.audio(torch.stack([view[0] for view in views]))  # type: ignore[no-any-return]


def fit_encoder(manifest: Path, folder: Path, jobs: int = 2) -> None:
    """Train the heads on the split ``encoder`` and write them to ``ENCODER``.

    Args:
        manifest: of the study's sounds.
        folder: for the teachers' outputs, which are kept.
        jobs: number of processes.
    """
    clips = list(read_manifest(manifest, "encoder"))
    folder.mkdir(parents=True, exist_ok=True)
    features = teacher_features(clips, folder / "tagger.npz", jobs, effects=False)
    words = words_of(clips, teachers.YamNet().class_names, folder / "captions.pt")
    everything = np.arange(len(clips))
    network = PaperNetwork(Recipe())
    network.view = view_of(features, words.names, everything)
    crops = random_crops(features, network.view, 0)
    recipe = Recipe(bfloat16=False)
    network.audio, network.text = train_pair(clips, crops, words, everything, recipe)
    save_tensors(network, ENCODER)
