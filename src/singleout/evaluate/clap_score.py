"""CLAPScore: whether an estimate sounds like what was asked for, by an encoder's judgement."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from singleout.encoders import QueryEncoder
from singleout.errors import InputError
from singleout.evaluate.metrics import checked


class JudgeWarning(UserWarning):
    """The judge of CLAPScore also conditions the separator."""


def clap_score(
    encoder: QueryEncoder, audio: Tensor, sample_rate: int, queries: Sequence[str]
) -> Tensor:
    """Cosine of each waveform's embedding with that of its query, float64 [items] in [-1, 1].

    Xiao et al., "A reference-free metric for language-queried audio source separation using
    contrastive language-audio pretraining" (arXiv 2407.04936). Values of two encoders are not
    comparable, nor are they levels: silence has an embedding too, so read the silent share beside
    it.

    Args:
        encoder: the judge; it should not be the one that conditions the separator, see
            `warn_if_conditioning`.
        audio: floating-point ``[items, samples]``.
        sample_rate: of the audio, Hz.
        queries: one per item.

    Raises:
        InputError: audio without samples or not finite, or not as many queries as waveforms.
    """
    checked(audio=audio)
    if audio.ndim != 2 or len(audio) != len(queries):
        raise InputError(
            f"audio must have shape [{len(queries)}, samples], one waveform per query, "
            f"got {list(audio.shape)}"
        )
    if not len(audio):
        return torch.zeros(0, dtype=torch.float64)
    text = F.normalize(encoder.embed_text(list(queries)).double(), dim=-1)
    sound = F.normalize(encoder.embed_audio(audio.float(), sample_rate).double(), dim=-1)
    return (text * sound).sum(-1).cpu()


def warn_if_conditioning(scoring: QueryEncoder, conditioning: QueryEncoder) -> None:
    """Warn (`JudgeWarning`) when the judge of CLAPScore also conditions the separator.

    A separator can learn to please its own encoder without sounding any better.
    """
    if scoring.fingerprint == conditioning.fingerprint:
        warnings.warn(
            "CLAPScore by the encoder that conditions the model "
            f"(fingerprint {scoring.fingerprint}) flatters it: score with another encoder",
            JudgeWarning,
            stacklevel=2,
        )
