"""What a preparation does with the sounds of a manifest."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from singleout.config import StrictConfig

Duplicates = Literal["group", "drop", "keep"]
"""What becomes of two sounds that are one recording."""
MIN_RATE = 4_000
"""Hz. The loudness filter of BS.1770 has a corner at 1,682 Hz, below half of any rate."""
MAX_ODD_RATE = 65_535
"""Hz. A FLAC that can be streamed states a higher rate in units of 10 Hz."""
Cosine = Annotated[float, Field(ge=-1, le=1)]


class PrepareConfig(StrictConfig):
    """How sounds become a prepared corpus.

    Args:
        sample_rate: of the sounds in the shards, Hz. FLAC has no rates above 65,535 Hz that are not
            multiples of 10 Hz.
        format: of the sounds in the shards; both have 16 bits.
        channels: ``mono`` keeps the mean of all channels, as training reads it; ``all`` keeps all.
        shard_clips: number of rows of the manifest in a shard.
        duplicates: what becomes of two sounds that are one recording. ``group`` puts both into one
            group, so that they are never mixed, and keeps none of them in ``train`` if the other is
            in another split; ``drop`` leaves the later one out; ``keep`` changes nothing.
        embed: name of a query encoder that embeds all crops, see ``encoders.load_encoder``; None
            embeds nothing.
        crop_seconds, crop_hop_seconds: length of the crops, and time from one to the next; they
            are ``segment_seconds`` and ``crop_hop_seconds`` of the mixtures of a training.
        min_purity: lowest purity: the mean similarity between the crops of a sound and their mean
            direction. A sound of one crop has a purity of 1.
        min_caption_similarity: lowest similarity between the crops' mean direction and the caption,
            or the class of a sound without caption.

    Example:
        >>> PrepareConfig(format="wav").sample_rate
        32000
    """

    sample_rate: Annotated[int, Field(ge=MIN_RATE, le=384_000)] = 32_000
    format: Literal["flac", "wav"] = "flac"
    channels: Literal["mono", "all"] = "mono"
    shard_clips: Annotated[int, Field(ge=1, le=100_000)] = 1_000
    duplicates: Duplicates = "group"
    embed: str | None = None
    crop_seconds: Annotated[float, Field(gt=0, lt=3_600)] = 4.0
    crop_hop_seconds: Annotated[float, Field(gt=0, lt=3_600)] = 2.0
    min_purity: Cosine | None = None
    min_caption_similarity: Cosine | None = None

    @model_validator(mode="after")
    def _fitting(self) -> PrepareConfig:
        limits = (self.min_purity, self.min_caption_similarity)
        if self.embed is None and any(limit is not None for limit in limits):
            raise ValueError("a filter by similarity needs an encoder: give embed")
        if self.format == "flac" and self.sample_rate > MAX_ODD_RATE and self.sample_rate % 10:
            raise ValueError(
                f"a FLAC cannot have {self.sample_rate:,} Hz: give a multiple of 10 Hz, or wav"
            )
        if self.crop_hop_seconds > self.crop_seconds:
            raise ValueError("crop_hop_seconds is at most crop_seconds")
        return self
