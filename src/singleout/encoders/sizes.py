"""The ``config.json`` of a saved built-in encoder, with bounds for all sizes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from singleout.config import StrictConfig

Width = Annotated[int, Field(gt=0, le=16_384)]
"""Number of channels of a layer."""
NumBlocks = Annotated[int, Field(gt=0, le=64)]
"""Number of layers or heads."""


class SentenceSizes(StrictConfig):
    """Sizes of ``MiniLM``; the defaults are those of all-MiniLM-L6-v2.

    Args:
        vocabulary: number of word pieces.
        dim: width of the tokens and of the result.
        num_layers: transformer layers.
        num_heads: attention heads.
        hidden: width of the feed-forward layers.

    Example:
        >>> SentenceSizes().dim
        384
    """

    vocabulary: Annotated[int, Field(gt=0, le=2_000_000)] = 30_522
    dim: Width = 384
    num_layers: NumBlocks = 6
    num_heads: NumBlocks = 12
    hidden: Width = 1_536

    @model_validator(mode="after")
    def _fits(self) -> SentenceSizes:
        if self.dim % self.num_heads:
            raise ValueError("dim must be divisible by num_heads")
        return self


class NetworkSizes(StrictConfig):
    """Sizes of ``BuiltinNetwork``.

    Args:
        sentence: of the network for sentences.
        text_hidden: width inside a head for text.
        dim: length of the embeddings of one head.
        audio_channels: width of the stem and of the four stages of the audio tower.
        text_heads: number of joined heads; None is one head without joining.
        rank: length of the aligned embeddings; None without alignment.

    Example:
        >>> NetworkSizes(text_hidden=4, dim=6, audio_channels=(4,) * 5).arguments()["text_hidden"]
        4
    """

    sentence: SentenceSizes = SentenceSizes()
    text_hidden: Width
    dim: Width
    audio_channels: Annotated[tuple[Width, ...], Field(min_length=5, max_length=5)]
    text_heads: NumBlocks | None = None
    rank: Width | None = None

    def arguments(self) -> dict[str, Any]:
        """The argument of ``BuiltinNetwork``."""
        return self.model_dump(exclude_none=True)


class EncoderFile(StrictConfig):
    """The ``config.json`` of a saved built-in encoder.

    Args:
        type: kind of encoder.
        fingerprint: hash of the weights and the tokenizer.
        network: sizes.

    Example:
        >>> network = NetworkSizes(text_hidden=4, dim=6, audio_channels=(4,) * 5)
        >>> EncoderFile(type="builtin", fingerprint="70e187ed9626ae89", network=network).type
        'builtin'
    """

    type: Literal["builtin"]
    fingerprint: str
    network: NetworkSizes
