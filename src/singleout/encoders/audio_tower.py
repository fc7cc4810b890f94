"""The audio network of the built-in encoder: log-mel, residual blocks, attention pooling.

The network is ours. ``recipes/builtin`` distilled it from a tagger of AudioSet. It needs about
0.4 GFLOP per second of audio.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SAMPLE_RATE = 32_000
NUM_FFT = 1_024
HOP = 320
NUM_MELS = 64
MEL_RANGE_HZ = (50.0, 14_000.0)


def mel_filters() -> Tensor:
    """Triangular filters of unit peak on the HTK mel scale, float32 [mels, bins].

    Example:
        >>> mel_filters().shape
        torch.Size([64, 513])
    """

    def mel(hz: Tensor) -> Tensor:
        return 1127.0 * torch.log1p(hz / 700.0)

    # On the CPU although the network may be built on the meta device; float64 for exact edges.
    def linspace(start: float, end: float, count: int) -> Tensor:
        return torch.linspace(start, end, count, dtype=torch.float64, device="cpu")

    bins = mel(linspace(0, SAMPLE_RATE / 2, NUM_FFT // 2 + 1))
    low, high = mel(linspace(*MEL_RANGE_HZ, 2)).tolist()
    edges = linspace(low, high, NUM_MELS + 2)[:, None]
    lower = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    upper = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return torch.minimum(lower, upper).clamp_min(0).float()


class LogMel(nn.Module):
    """Waveform [batch, samples] at 32 kHz to log-mel [batch, 1, mels, frames], 100 frames/s.

    Example:
        >>> import torch
        >>> LogMel()(torch.randn(2, 32_000)).shape
        torch.Size([2, 1, 64, 101])
    """

    window: Tensor
    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        # On the CPU although the network may be built on the meta device: no file holds these.
        self.register_buffer("window", torch.hann_window(NUM_FFT, device="cpu"), persistent=False)
        self.register_buffer("filters", mel_filters(), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        spectrum = torch.stft(
            F.pad(audio, (NUM_FFT // 2, NUM_FFT // 2)),
            NUM_FFT,
            HOP,
            window=self.window,
            center=False,
            return_complex=True,
        )
        mel = self.filters @ spectrum.abs()
        return (torch.log(mel + 1e-3) / 4.0).unsqueeze(1)


class ResidualBlock(nn.Module):
    """Residual block with norm and activation before each convolution (He et al., 2016).

    Args:
        c_in, c_out: channels.
        stride: of the first convolution, in (mels, frames).

    Example:
        >>> import torch
        >>> ResidualBlock(4, 8, stride=(2, 1))(torch.randn(1, 4, 10, 6)).shape
        torch.Size([1, 8, 5, 6])
    """

    def __init__(self, c_in: int, c_out: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.pool = nn.AvgPool2d(stride, ceil_mode=True) if max(stride) > 1 else nn.Identity()
        self.shortcut = nn.Conv2d(c_in, c_out, 1, bias=False) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        y = self.conv2(F.relu(self.norm2(y)))
        return y + self.shortcut(self.pool(x))  # type: ignore[no-any-return]


class AudioTower(nn.Module):
    """Waveform at 32 kHz to a unit embedding.

    Args:
        dim: length of the embedding.
        channels: width of the stem and of the four stages.

    Example:
        >>> import torch
        >>> tower = AudioTower(dim=16, channels=(4, 4, 4, 4, 4)).eval()
        >>> tower(torch.randn(2, 32_000)).shape
        torch.Size([2, 16])
    """

    def __init__(self, dim: int = 256, channels: tuple[int, ...] = (32, 64, 128, 256, 448)) -> None:
        super().__init__()
        self.log_mel = LogMel()
        self.norm = nn.BatchNorm1d(NUM_MELS)
        self.stem = nn.Conv2d(1, channels[0], 3, (2, 2), 1)
        strides = [(2, 2), (2, 2), (2, 2), (2, 1)]
        self.stages = nn.Sequential(
            *(
                ResidualBlock(c_in, c_out, stride)
                for c_in, c_out, stride in zip(channels, channels[1:], strides, strict=False)
            )
        )
        self.width = channels[-1]
        self.out_norm = nn.BatchNorm2d(self.width)
        self.attention = nn.Conv1d(self.width, 1, 1)
        self.head = nn.Sequential(
            nn.Linear(2 * self.width, 2 * self.width),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(2 * self.width, dim),
        )

    def features(self, audio: Tensor, augment: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Features pooled over time: their mean by attention, and their maximum.

        Args:
            audio: float32 [batch, samples] at 32 kHz.
            augment: applied to the log-mel, float32 [batch, 1, frames, mels].

        Returns:
            float32 [batch, 2 * width].
        """
        mel = self.log_mel(audio)
        if augment is not None:
            # The norm rounds differently in another memory layout, so the layout is restored.
            mel = augment(mel.mT).mT.contiguous()
        x = self.norm(mel.squeeze(1)).unsqueeze(1).contiguous(memory_format=torch.channels_last)
        x = F.relu(self.out_norm(self.stages(self.stem(x)))).mean(2)
        weight = self.attention(x).float().softmax(-1)
        return torch.cat([(x * weight).sum(-1), x.amax(-1)], 1)

    def forward(self, audio: Tensor, augment: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Audio [batch, samples] to unit embeddings, float32 [batch, dim]."""
        return F.normalize(self.head(self.features(audio, augment)).float(), dim=-1)


def minimum_samples() -> int:
    """Length to which shorter audio is padded: 0.64 s.

    Example:
        >>> minimum_samples()
        20480
    """
    return 64 * HOP


def pad_to_minimum(audio: Tensor) -> Tensor:
    """Audio [..., samples], padded with zeros at its end if it is short.

    Example:
        >>> import torch
        >>> pad_to_minimum(torch.zeros(2, 100)).shape
        torch.Size([2, 20480])
    """
    missing = minimum_samples() - audio.shape[-1]
    return F.pad(audio, (0, missing)) if missing > 0 else audio


def level(audio: Tensor) -> Tensor:
    """Bring audio [batch, samples] to one loudness, so that the level of a query has no effect.

    The RMS of the loudest 0.25 s becomes 0.1. Silence stays silent.

    Example:
        >>> import torch
        >>> round(level(torch.full((1, 32_000), 0.5))[0, 0].item(), 3)
        0.1
    """
    power = audio.square()
    window = min(SAMPLE_RATE // 4, audio.shape[-1])
    loudest = F.avg_pool1d(power.unsqueeze(1), window, max(1, window // 2)).amax(-1)
    return audio * (0.1 / loudest.sqrt().clamp_min(1e-5))
