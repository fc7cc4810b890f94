"""Any CLAP of ``transformers`` as a query encoder: from a hub id, the hub's cache or a folder.

``transformers`` (4.44 or newer, 5 too) is imported on first use, never by ``import singleout``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from singleout.encoders.clap_features import ClapFeatures
from singleout.encoders.encoder import Augment, sentences_of, waveforms_of
from singleout.errors import MissingExtraError, ModelError, one_line
from singleout.storage.foreign import read_tensors
from singleout.storage.hub import fetched, is_hub_id, split_revision
from singleout.storage.tensors import fill

MAX_TOKENS = 512
"""Longer texts are cut, as by AudioSep's query encoder. (LAION's own package cuts at 77.)"""
BATCH = 8
"""Clips, or sentences, that pass the network at once: bounds the memory of large requests."""
TOKENIZER_FILES = [
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt",
]  # fmt: skip
CLAP_FILES = ["config.json", "preprocessor_config.json", "processor_config.json", *TOKENIZER_FILES]
WEIGHTS = ("model.safetensors", "pytorch_model.bin")

# What of a config, beside the shapes of the weights, changes the embeddings.
_TEXT_KEYS = ("num_attention_heads", "hidden_act", "layer_norm_eps", "pad_token_id")
_AUDIO_KEYS = (
    "num_attention_heads", "hidden_act", "layer_norm_eps", "window_size", "spec_size",
    "num_mel_bins", "patch_size", "patch_stride", "enable_fusion", "fusion_type",
)  # fmt: skip
_PROBES = ("a dog barking in the rain", "2 VIOLINS, pizzicato; naïve 犬🐕")


def import_transformers() -> Any:
    """The package.

    Raises:
        MissingExtraError: says how to install it.
    """
    try:
        import transformers
    except ImportError:
        raise MissingExtraError(
            "CLAP encoders need transformers: pip install 'singleout[clap]'"
        ) from None
    return transformers


class ClapEncoder:
    """LAION's CLAP and its relatives: a RoBERTa for text, an HTS-AT for audio; one space.

    Both modalities: unit norm, deterministic. Audio is resampled to the checkpoint's rate
    (48 kHz), repeated up to its length (10 s) and, above that, cut to its middle; a fused model
    sees all of it. Samples are not rounded to 16 bits, which LAION's package does and AudioSep
    and ``transformers`` do not.

    Args:
        model: a ``ClapModel``; it is frozen.
        tokenizer: its tokenizer.
        extractor: its ``ClapFeatureExtractor``.
        name: what ``load_encoder`` finds it by.

    Raises:
        ModelError: the tokenizer is not the model's.
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
        # RoBERTa counts positions from the padding's number on.
        self._max_tokens = min(MAX_TOKENS, text.max_position_embeddings - text.pad_token_id - 1)
        self.fingerprint: str = _fingerprint(self)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, revision: str | None = None) -> ClapEncoder:
        """A CLAP by hub id, or the folder of a saved one.

        The hub's cache and its variables (``HF_HOME``, ``HF_HUB_OFFLINE``) count as anywhere.

        Args:
            name_or_path: a folder, ``owner/name`` or ``owner/name@revision``.
            revision: branch, tag or commit on the hub.

        Raises:
            MissingExtraError: transformers is not installed.
            ModelError: there is no such CLAP, or no network to get it by; or config, weights,
                tokenizer or preprocessing are missing or damaged: names which.
        """
        transformers = import_transformers()
        folder = Path(name_or_path).expanduser()
        name = str(name_or_path)
        if not folder.is_dir():
            identifier, revision = split_revision(name, revision)
            name = identifier if revision is None else f"{identifier}@{revision}"
            folder = _fetched_clap(identifier, revision)
        values = _read_config(folder, name)
        try:
            config = transformers.ClapConfig.from_dict(values)
        except Exception as error:  # differs between versions of transformers
            raise ModelError(f"{name}: config.json of another CLAP: {one_line(error)}") from None
        tensors = _read_weights(folder, name)
        tokenizer = load_tokenizer(transformers.AutoTokenizer, folder, name)
        extractor = _load_extractor(folder, name)
        return cls(filled_model(config, tensors, name), tokenizer, extractor, name)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder of ``transformers``' format: weights, config, tokenizer, preprocessing.

        A file appears whole or not at all, the config last.
        """
        path = Path(folder).resolve()
        partial = path.with_name(path.name + ".partial")
        with _quiet():
            for part in (self.model, self.tokenizer, self.extractor):
                part.save_pretrained(partial)
        path.mkdir(parents=True, exist_ok=True)
        for file in sorted(partial.iterdir(), key=lambda file: file.name == "config.json"):
            file.replace(path / file.name)
        partial.rmdir()

    @torch.inference_mode()
    def embed_text(self, text: str | Sequence[str]) -> Tensor:
        """Float32 [sentences, dim], unit norm; of a text longer than 512 tokens the beginning.

        Raises:
            QueryError: no text, or a blank one.
        """
        sentences = sentences_of(text)
        embeddings: list[Tensor] = []
        for i in range(0, len(sentences), BATCH):
            tokens = self.tokenizer(
                sentences[i : i + BATCH],
                padding=True,
                truncation=True,
                max_length=self._max_tokens,
                return_tensors="pt",
            )
            output = self.model.get_text_features(tokens["input_ids"], tokens["attention_mask"])
            embeddings.append(_unit(output))
        return torch.cat(embeddings)

    @torch.inference_mode()
    def embed_audio(
        self,
        audio: NDArray[np.float32] | Tensor,
        sample_rate: int,
        augment: Augment | None = None,
    ) -> Tensor:
        """Audio [samples] or [clips, samples] at ``sample_rate`` Hz to float32 [clips, dim].

        ``augment`` gets decibels, up to 8 clips at once: one channel, or four of a fused model.

        Raises:
            AudioError: wrong shape, no samples, not finite, or an impossible rate.
        """
        waveforms = waveforms_of(audio, sample_rate, self._features.settings.sample_rate)
        embeddings: list[Tensor] = []
        for i in range(0, len(waveforms), BATCH):
            features, is_longer = self._features(waveforms[i : i + BATCH])
            if augment is not None:
                features = augment(features)
            embeddings.append(_unit(self.model.get_audio_features(features, is_longer)))
        return torch.cat(embeddings)


def _unit(output: Any) -> Tensor:
    # transformers 4 returns the embeddings, 5 an object that holds them.
    embedding: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return F.normalize(embedding.float(), dim=-1)


def _fingerprint(encoder: ClapEncoder) -> str:
    """Of all that the embeddings depend on, and of nothing that differs between versions of
    transformers or that saving and loading changes."""
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


def filled_model(config: Any, tensors: Mapping[str, Tensor], origin: str) -> Any:
    """A ``ClapModel`` of ``config`` with the weights ``tensors``, which must be exactly its own.

    ``transformers`` itself would fill what is missing with random numbers.

    Raises:
        ModelError: tensors are missing, unexpected or of another shape; names all of them.
    """
    transformers = import_transformers()
    try:
        with _without_initialisation():
            model = transformers.ClapModel(config)
    except Exception as error:  # an impossible config fails anywhere
        raise ModelError(f"{origin}: config of another CLAP: {one_line(error)}") from None
    # Integers are positions and counters that the architecture fixes.
    fixed = {k: v for k, v in model.state_dict().items() if not v.is_floating_point()}
    given = {k: v for k, v in tensors.items() if v.is_floating_point()}
    fill(model, {**given, **fixed}, Path(origin))
    return model


def _without_initialisation() -> Any:
    """Saves the seconds in which weights that a file replaces are drawn at random."""
    try:
        from transformers.initialization import no_init_weights
    except ImportError:
        try:
            from transformers.modeling_utils import no_init_weights
        except ImportError:
            return nullcontext()
    return no_init_weights()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars and remarks: what is wrong, we say ourselves."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _fetched_clap(identifier: str, revision: str | None) -> Path:
    if not is_hub_id(identifier):
        raise ModelError(
            f"{identifier}: no such folder, and not a hub id (owner/name or owner/name@revision)"
        )
    folder = fetched(identifier, revision, [*CLAP_FILES, "model*.safetensors*"])
    if not any(folder.glob("model*.safetensors*")) and not any(folder.glob("pytorch_model*.bin*")):
        # Pickles only of those who offer nothing better.
        folder = fetched(identifier, revision, [*CLAP_FILES, "pytorch_model*.bin*"])
    return folder


def _read_config(folder: Path, origin: str) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ModelError(
            f"{origin}: no readable config.json: not the folder of a transformers CLAP"
        ) from None
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != "clap":
        raise ModelError(f"{origin}: not a CLAP: its config.json has the model_type '{kind}'")
    return config  # type: ignore[no-any-return]


def _read_weights(folder: Path, origin: str) -> dict[str, Tensor]:
    """All tensors of a folder of transformers, in one file or in shards."""
    for name in WEIGHTS:
        if (folder / name).exists():
            return read_tensors(folder / name)
        index = folder / f"{name}.index.json"
        if index.exists():
            try:
                shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            except (OSError, ValueError, LookupError, TypeError, AttributeError):
                raise ModelError(f"{index}: not an index of weights") from None
            return {
                name: tensor
                for shard in sorted(shards)
                for name, tensor in read_tensors(folder / shard).items()
            }
    raise ModelError(
        f"{origin}: no weights ({' or '.join(WEIGHTS)}): download them into the folder {folder}, "
        "or go online"
    )


def _load_extractor(folder: Path, origin: str) -> Any:
    files = ("preprocessor_config.json", "processor_config.json")
    if not any((folder / name).exists() for name in files):
        raise ModelError(
            f"{origin}: no preprocessing settings ({files[0]}): download them into the folder "
            f"{folder}, or go online"
        )
    try:
        with _quiet():
            return import_transformers().ClapFeatureExtractor.from_pretrained(folder)
    except Exception as error:  # differs between versions of transformers
        raise ModelError(f"{origin}: preprocessing cannot be read: {one_line(error)}") from None


def has_tokenizer(folder: Path) -> bool:
    """Whether a tokenizer's files are there."""
    vocabulary = (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
    return vocabulary or (folder / "tokenizer.json").is_file()


def load_tokenizer(kind: Any, folder: Path, origin: str) -> Any:
    """The tokenizer in ``folder``, as transformers' class ``kind``.

    Raises:
        ModelError: it is missing or damaged.
    """
    # Some versions of transformers make an empty tokenizer of nothing.
    if not has_tokenizer(folder):
        raise ModelError(
            f"{origin}: no tokenizer (tokenizer.json, or vocab.json and merges.txt): download it "
            f"into the folder {folder}, or go online"
        )
    try:
        with _quiet():
            return kind.from_pretrained(folder)
    except Exception as error:  # tokenizers has no type of its own for a bad file
        raise ModelError(f"{origin}: the tokenizer cannot be read: {one_line(error)}") from None
