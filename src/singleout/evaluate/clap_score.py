"""CLAPScore: similarity between an estimate and its query, measured by an encoder."""

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
    """The judge of CLAPScore also conditions the separator; see `warn_if_conditioning`."""


def clap_score(
    encoder: QueryEncoder, audio: Tensor, sample_rate: int, queries: Sequence[str]
) -> Tensor:
    """Cosine of each waveform's embedding with that of its query, float64 [items] in [-1, 1].

    Xiao et al., "A reference-free metric for language-queried audio source separation using
    contrastive language-audio pretraining" (arXiv 2407.04936). Values of two encoders are not
    comparable. Silence has an embedding, too, so read the silent share together with the score.

    Args:
        encoder: the judge; it should not be the one that conditions the separator, see
            `warn_if_conditioning`.
        audio: floating-point ``[items, samples]``.
        sample_rate: of the audio, Hz.
        queries: one per item.

    Raises:
        InputError: audio without samples or not finite, or not as many queries as waveforms.

    Example:
        >>> from singleout.encoders import load_encoder
        >>> judge = load_encoder("builtin")
        >>> clap_score(judge, torch.zeros(2, 16_000), 16_000, ["a dog", "rain"]).shape
        torch.Size([2])
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

    A separator can learn to score well with the encoder that conditions it, without better audio.

    Args:
        scoring: the judge.
        conditioning: the encoder of the separator.

    Example:
        >>> from singleout.encoders import load_encoder
        >>> encoder = load_encoder("builtin")
        >>> with warnings.catch_warnings(record=True) as messages:
        ...     warnings.simplefilter("always")
        ...     warn_if_conditioning(encoder, encoder)
        >>> messages[0].category.__name__
        'JudgeWarning'
    """
    if scoring.fingerprint == conditioning.fingerprint:
        warnings.warn(
            "CLAPScore by the encoder that conditions the model "
            f"(fingerprint {scoring.fingerprint}) may be too high: score with another encoder",
            JudgeWarning,
            stacklevel=2,
        )
