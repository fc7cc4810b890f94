"""Any CLAP of ``transformers`` as a query encoder, from a folder or a hub.

``transformers`` (4.44 or newer, also 5) is imported on first use, never by ``import singleout``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from singleout.encoders.clap_features import ClapFeatures
from singleout.encoders.clap_files import (
    fetched_clap,
    filled_model,
    import_transformers,
    load_extractor,
    load_tokenizer,
    quiet,
    read_clap_config,
    read_weights,
)
from singleout.encoders.encoder import Augment, Sounds, sentences_of, waveforms_of
from singleout.encoders.tokens import refusing
from singleout.errors import ModelError, one_line
from singleout.storage.atomic import replacing_files
from singleout.storage.hub import split_revision

MAX_TOKENS = 512
"""Longer texts are cut, as by AudioSep's query encoder. (LAION's package cuts at 77.)"""
BATCH = 8
"""Clips or texts in the network at the same time. It limits the memory of large requests."""
# Keys of a config that change the embeddings but not the shapes of the weights.
_TEXT_KEYS = ("num_attention_heads", "hidden_act", "layer_norm_eps", "pad_token_id")
_AUDIO_KEYS = (
    "num_attention_heads", "hidden_act", "layer_norm_eps", "window_size", "spec_size",
    "num_mel_bins", "patch_size", "patch_stride", "enable_fusion", "fusion_type",
)  # fmt: skip
_PROBES = ("a dog barking in the rain", "2 VIOLINS, pizzicato; naïve 犬🐕")


class ClapEncoder:
    """Embeds text by a RoBERTa and audio by an HTS-AT: LAION's CLAP and its relatives.

    Embeddings have unit norm and are deterministic. Audio is resampled to the rate of the
    checkpoint (48 kHz). Shorter clips are repeated up to the model's length (10 s), longer clips
    are cut to their middle; a fused model gets all of them. Samples are not rounded to 16 bits, as
    in AudioSep and ``transformers``, but unlike LAION's package.

    See Wu et al., "Large-scale contrastive language-audio pretraining with feature fusion and
    keyword-to-caption augmentation", 2023.

    Args:
        model: a ``ClapModel``; it is frozen.
        tokenizer: of the model.
        extractor: the ``ClapFeatureExtractor`` of the model.
        name: name of the encoder for ``load_encoder``.

    Raises:
        ModelError: the tokenizer does not belong to the model.

    Example:
        A folder that is no CLAP is refused by its name:

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ClapEncoder.from_pretrained(folder)
        Traceback (most recent call last):
        singleout.errors.ModelError: ...: no readable config.json ...
    """

    window_seconds = 10.0

    def __init__(self, model: Any, tokenizer: Any, extractor: Any, name: str) -> None:
        self.name = name
        self.model = model.float().eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.extractor = extractor
        self.dim: int = model.config.projection_dim
        self._features = ClapFeatures(extractor)
        text = model.config.text_config
        if len(tokenizer) > text.vocab_size or tokenizer.pad_token_id != text.pad_token_id:
            raise ModelError(
                f"{name}: the tokenizer ({len(tokenizer)} tokens, padding {tokenizer.pad_token_id})"
                f" is not the model's ({text.vocab_size} tokens, padding {text.pad_token_id})"
            )
        # The positions of RoBERTa start after the number of the padding token.
        self._max_tokens = min(MAX_TOKENS, text.max_position_embeddings - text.pad_token_id - 1)
        with refusing(f"{name}: the tokenizer fails"):
            self.fingerprint: str = _fingerprint(self)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, revision: str | None = None) -> ClapEncoder:
        """Load a CLAP from a folder or a hub.

        The hub's cache is used, and its environment variables (``HF_HOME``, ``HF_HUB_OFFLINE``).

        Args:
            name_or_path: a folder, ``owner/name`` or ``owner/name@revision``.
            revision: branch, tag or commit on the hub.

        Raises:
            MissingExtraError: transformers is not installed.
            ModelError: there is no such CLAP, or the hub cannot be reached, or a file is missing
                or damaged: names the file.
        """
        transformers = import_transformers()
        folder = Path(name_or_path).expanduser()
        name = str(name_or_path)
        if not folder.is_dir():
            identifier, revision = split_revision(name, revision)
            name = identifier if revision is None else f"{identifier}@{revision}"
            folder = fetched_clap(identifier, revision)
        values = read_clap_config(folder, name)
        try:
            config = transformers.ClapConfig.from_dict(values)
        except Exception as error:  # the errors differ between versions of transformers
            raise ModelError(f"{name}: config.json of another CLAP: {one_line(error)}") from None
        tensors = read_weights(folder, name)
        tokenizer = load_tokenizer(transformers.AutoTokenizer, folder, name)
        extractor = load_extractor(folder, name)
        return cls(filled_model(config, tensors, name), tokenizer, extractor, name)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights, config, tokenizer and preprocessing in the format of ``transformers``.

        All files appear, or none.

        Raises:
            OutputError: a file cannot be written.
        """
        with replacing_files(Path(folder)) as partial, quiet():
            for part in (self.model, self.tokenizer, self.extractor):
                part.save_pretrained(partial)

    def to(self, device: torch.device | str) -> Self:
        """Move the model to a device; see ``QueryEncoder.to``."""
        self.model.to(device)
        return self

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device  # type: ignore[no-any-return]

    @torch.inference_mode()
    def embed_text(self, text: str | Sequence[str]) -> Tensor:
        """Embed one text or several; see ``QueryEncoder.embed_text``.

        Texts are cut at 512 tokens.

        Returns:
            float32 [texts, dim], unit norm, on the CPU.

        Raises:
            QueryError: there is no text, or a text is blank.
            ModelError: the tokenizer does not belong to the model.
        """
        sentences = sentences_of(text)
        embeddings: list[Tensor] = []
        for i in range(0, len(sentences), BATCH):
            with refusing(f"{self.name}: the tokenizer fails"):
                tokens = self.tokenizer(
                    sentences[i : i + BATCH],
                    padding=True,
                    truncation=True,
                    max_length=self._max_tokens,
                    return_tensors="pt",
                )
            if int(tokens["input_ids"].max()) >= self.model.config.text_config.vocab_size:
                raise ModelError(f"{self.name}: the tokenizer is not the model's")
            inputs = (tokens[name].to(self._device) for name in ("input_ids", "attention_mask"))
            embeddings.append(_unit(self.model.get_text_features(*inputs)))
        return torch.cat(embeddings)

    @torch.inference_mode()
    def embed_audio(
        self,
        audio: Sounds,
        sample_rate: int,
        augment: Augment | None = None,
    ) -> Tensor:
        """Embed one clip or several; see ``QueryEncoder.embed_audio``.

        ``augment`` gets decibels of up to 8 clips: one channel, or four for a fused model. Clips of
        different lengths share a batch, because each of them fills the model's input by itself.

        Returns:
            float32 [clips, dim], unit norm, on the CPU.

        Raises:
            AudioError: the audio cannot be embedded.
        """
        waveforms = waveforms_of(audio, sample_rate, self._features.settings.sample_rate)
        embeddings = torch.empty(len(waveforms), self.dim)
        for i in range(0, len(waveforms), BATCH):
            batch = waveforms[i : i + BATCH]
            inputs = [self._features(waveform[None].to(self._device)) for waveform in batch]
            features, is_longer = (torch.cat(part) for part in zip(*inputs, strict=True))
            if augment is not None:
                features = augment(features, range(i, i + len(batch)))
            output = self.model.get_audio_features(features, is_longer)
            embeddings[i : i + BATCH] = _unit(output)
        return embeddings


def _unit(output: Any) -> Tensor:
    # transformers 4 returns the embeddings, 5 an object that holds them.
    embedding: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return F.normalize(embedding.float(), dim=-1).cpu()


def _fingerprint(encoder: ClapEncoder) -> str:
    """A hash of everything that the embeddings depend on.

    It includes nothing that saving and loading changes, or that differs between versions of
    transformers.
    """
    config, tokenizer = encoder.model.config, encoder.tokenizer
    described = [
        asdict(encoder._features.settings),
        config.projection_hidden_act,
        {key: getattr(config.text_config, key) for key in _TEXT_KEYS},
        {key: getattr(config.audio_config, key) for key in _AUDIO_KEYS},
        sorted(tokenizer.get_vocab().items()),
        [tokenizer(text)["input_ids"] for text in _PROBES],
    ]
    digest = hashlib.sha256(json.dumps(described).encode())
    for name, tensor in sorted(encoder.model.state_dict().items()):
        if tensor.is_floating_point() and not name.startswith("logit_scale"):
            digest.update(f"{name} {list(tensor.shape)}".encode())
            digest.update(tensor.reshape(-1).numpy())
    return digest.hexdigest()[:16]
