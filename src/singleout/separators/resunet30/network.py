"""AudioSep's separator: a spectrogram U-Net of 30 layers, the query added before every activation.

After Liu et al., "Separate Anything You Describe", 2023; the DCASE 2024 Task 9 baseline is the same
network at 16 kHz. Module names are those of the published checkpoints, so that their tensors load,
and what is trained here loads there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from singleout.config import Positive, StrictConfig
from singleout.separators.resunet30.checkpoint import separator_tensors
from singleout.separators.resunet30.folded import SLOPE, TIME_STRIDE, InferenceNetwork
from singleout.separators.separator import Separator
from singleout.storage.tensors import fill, has_fast_bfloat16

POWER_FLOOR = 1e-10
Precision = Literal["auto", "float32", "bfloat16"]
CHANNELS = (32, 64, 128, 256, 384, 384)
"""Of the six encoder blocks; the bottleneck has as many as the last."""


class ResidualBlock(nn.Module):
    """Pre-activation residual block of two 3x3 convolutions; 1x1 shortcut where widths differ."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels, momentum=0.01)
        self.bn2 = nn.BatchNorm2d(out_channels, momentum=0.01)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        if in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, beta1: Tensor, beta2: Tensor) -> Tensor:
        """Maps [batch, channels, frames, bins]; betas [batch, channels, 1, 1]."""
        y = self.conv1(F.leaky_relu_(self.bn1(x) + beta1, SLOPE))
        y = self.conv2(F.leaky_relu_(self.bn2(y) + beta2, SLOPE))
        return y + (self.shortcut(x) if hasattr(self, "shortcut") else x)  # type: ignore[no-any-return]


class EncoderBlock(nn.Module):
    """A residual block; the caller pools."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_block1 = ResidualBlock(in_channels, out_channels)


class DecoderBlock(nn.Module):
    """Transposed convolution, concatenation with the skip, residual block.

    ``bn2`` is in the published checkpoints and has no part in the computation.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.conv1 = nn.ConvTranspose2d(in_channels, out_channels, stride, stride, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels, momentum=0.01)
        self.conv_block2 = ResidualBlock(2 * out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(in_channels, momentum=0.01)


class Base(nn.Module):
    """The network without its conditioning: holds the layers under their published names."""

    def __init__(self, num_fft: int) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(num_fft // 2 + 1, momentum=0.01)
        self.pre_conv = nn.Conv2d(1, CHANNELS[0], 1)
        down = pairwise((CHANNELS[0], *CHANNELS))
        for i, (a, b) in enumerate(down, 1):
            setattr(self, f"encoder_block{i}", EncoderBlock(a, b))
        self.conv_block7a = EncoderBlock(CHANNELS[-1], CHANNELS[-1])
        up = pairwise((CHANNELS[-1], *reversed(CHANNELS)))
        for i, (a, b) in enumerate(up, 1):
            setattr(self, f"decoder_block{i}", DecoderBlock(a, b, (1, 2) if i == 1 else (2, 2)))
        self.after_conv = nn.Conv2d(CHANNELS[0], 3, 1)

    def encoders(self) -> Iterator[tuple[str, EncoderBlock, tuple[int, int] | None]]:
        """Name, block and the pooling after it, in (time, frequency); the bottleneck pools none."""
        for i in range(1, 7):
            name = f"encoder_block{i}"
            yield name, getattr(self, name), (1, 2) if i == 6 else (2, 2)
        yield "conv_block7a", self.conv_block7a, None

    def decoders(self) -> Iterator[tuple[str, DecoderBlock]]:
        """Name and block, lowest resolution first."""
        for i in range(1, 7):
            name = f"decoder_block{i}"
            yield name, getattr(self, name)


def beta_sizes(base: Base) -> dict[str, int]:
    """Names, as in the checkpoints, and widths of the 38 linear maps of the query."""
    sizes = {}

    def add(prefix: str, block: nn.Module) -> None:
        for i in (1, 2):
            sizes[f"{prefix}->beta{i}"] = getattr(block, f"bn{i}").num_features

    for name, encoder, _ in base.encoders():
        add(f"{name}->conv_block1", encoder.conv_block1)
    for name, decoder in base.decoders():
        add(name, decoder)  # its beta2 is unused, like its bn2
        add(f"{name}->conv_block2", decoder.conv_block2)
    return sizes


@dataclass
class Spectrum:
    """A mixture's STFT.

    Attributes:
        spectrum: complex64 [batch, channels, bins, frames].
        num_samples: length of the mixture.
    """

    spectrum: Tensor
    num_samples: int


class ResUNet30Config(StrictConfig):
    """Sizes of ``ResUNet30``.

    Args:
        sample_rate: Hz.
        num_fft, hop: of the STFT, in samples (AudioSep: 2048 and 320 at 32 kHz, DCASE: 1024 and
            160 at 16 kHz).
        inference_precision: of the folded copy that computes at inference, see ``ResUNet30``.
    """

    type: Literal["resunet30"] = "resunet30"
    sample_rate: Positive = 32_000
    num_fft: Positive = 2_048
    hop: Positive = 320
    inference_precision: Precision = "auto"

    @model_validator(mode="after")
    def _fits(self) -> ResUNet30Config:
        if self.num_fft % 128 or self.hop > self.num_fft // 2:
            raise ValueError("num_fft must be a multiple of 128, and hop at most half of it")
        return self

    def build(self, embedding_dim: int) -> ResUNet30:
        """The network, with new weights, for query embeddings of length ``embedding_dim``."""
        return ResUNet30(embedding_dim, self)


class ResUNet30(Separator):
    """Mixture and query embedding to the target, as AudioSep computes it.

    In training, and with gradients, the layers run as they are. In evaluation mode without
    gradients a folded copy of the network does the work (``InferenceNetwork``), at the precision
    ``inference_precision``: ``float32`` gives the same output within rounding, ``bfloat16`` is
    several times faster on CPUs with the instructions, ``auto`` is bfloat16 there.

    Args:
        embedding_dim: length of the query embedding.
        config: sizes, see ``ResUNet30Config``.
    """

    def __init__(self, embedding_dim: int, config: ResUNet30Config) -> None:
        super().__init__(embedding_dim, config.sample_rate)
        num_fft, hop = config.num_fft, config.hop
        self.num_fft, self.hop = num_fft, hop
        self.inference_precision = config.inference_precision
        window = torch.hann_window(num_fft, device="cpu")
        self.register_buffer("window", window, persistent=False)
        self.window: Tensor
        self.base = Base(num_fft)
        self.film = nn.ModuleDict(
            {name: nn.Linear(embedding_dim, size) for name, size in beta_sizes(self.base).items()}
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self._inference: InferenceNetwork | None = None

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, inference_precision: Precision = "float32"
    ) -> ResUNet30:
        """From AudioSep's or DCASE's checkpoint, in evaluation mode.

        Reads Lightning checkpoints, plain state dicts, safetensors and hub folders, with or without
        a query encoder inside. The variant is told by the tensors: 1,025 bins are 32 kHz, 513 are
        16 kHz.

        Raises:
            ModelError: not such a checkpoint; names the tensors that are missing, unexpected or of
                another shape.
        """
        file, tensors = separator_tensors(Path(path))
        # What is missing or of another shape here, ``fill`` names together with all the rest.
        norm = tensors.get("base.bn0.weight", torch.empty(0))
        film = tensors.get("film.encoder_block1->conv_block1->beta1.weight", torch.empty(0))
        rate, num_fft, hop = VARIANTS.get(norm.numel(), VARIANTS[1_025])
        dim = film.shape[1] if film.ndim == 2 else 512
        with torch.device("meta"):
            model = cls(
                dim,
                ResUNet30Config(
                    sample_rate=rate,
                    num_fft=num_fft,
                    hop=hop,
                    inference_precision=inference_precision,
                ),
            )
        fill(model, tensors, file)
        return model.eval().requires_grad_(False)

    @property
    def stride_samples(self) -> int:
        """A chunk that starts at a multiple of this sees the same frames as the whole."""
        return self.hop * TIME_STRIDE

    @property
    def context_samples(self) -> int:
        """How far an output sample may look to either side."""
        # Two 3x3 convolutions per block see two positions; encoder and decoder at each level, the
        # pooled grid, the bottleneck.
        levels = [1, 2, 4, 8, 16, 32]
        frames = sum(4 * stride for stride in levels) + 2 * 32 + TIME_STRIDE
        return frames * self.hop + 2 * self.num_fft

    @property
    def output_layers(self) -> tuple[nn.Module, ...]:
        return (self.base.after_conv,)

    def encode(self, mixture: Tensor) -> Spectrum:
        """The STFT; all of the network depends on the query. Mixture [batch, channels, samples]."""
        channels, num_samples = mixture.shape[1:]
        x = mixture.flatten(0, 1)
        pad = self.num_fft // 2
        # Reflection needs more samples than it adds: a shorter mixture is lengthened with silence.
        x = F.pad(x, (0, max(0, pad + 1 - num_samples)))
        x = F.pad(x.unsqueeze(1), (pad, pad), mode="reflect").squeeze(1)
        spectrum = torch.stft(
            x, self.num_fft, self.hop, window=self.window, center=False, return_complex=True
        )
        return Spectrum(spectrum.view(-1, channels, *spectrum.shape[1:]), num_samples)

    def decode(self, encoded: Spectrum, embedding: Tensor) -> Tensor:
        """Unit embeddings [queries * batch, dim] to targets [queries * batch, channels, samples].

        The network hears magnitudes alone: of several channels the root mean square.
        """
        spectrum = encoded.spectrum
        num_queries = len(embedding) // len(spectrum)
        if num_queries > 1:
            spectrum = torch.cat([spectrum] * num_queries)
        power = (spectrum.real.square() + spectrum.imag.square()).mean(1)
        magnitude = power.clamp_min(POWER_FLOOR).sqrt().transpose(1, 2)
        trained = self.training or torch.is_grad_enabled()
        maps = (self if trained else self.inference_network()).maps(magnitude, embedding)
        target = self.masked(spectrum, maps.transpose(2, 3))
        return self.inverse(target, encoded.num_samples)

    def maps(self, magnitude: Tensor, embedding: Tensor) -> Tensor:
        """Magnitude [batch, frames, bins] to three maps [batch, 3, frames, bins - 1]."""
        beta = {name: layer(embedding)[:, :, None, None] for name, layer in self.film.items()}
        frames = magnitude.shape[1]
        x = self.base.bn0(magnitude.transpose(1, 2).unsqueeze(-1)).squeeze(-1).transpose(1, 2)
        x = F.pad(x[:, None, :, :-1], (0, 0, 0, -frames % TIME_STRIDE))
        x = self.base.pre_conv(x)
        skips = []
        for name, encoder, pool in self.base.encoders():
            x = encoder.conv_block1(x, *(beta[f"{name}->conv_block1->beta{i}"] for i in (1, 2)))
            if pool is not None:
                skips.append(x)
                x = F.avg_pool2d(x, pool)
        for name, decoder in self.base.decoders():
            x = F.leaky_relu_(decoder.bn1(x) + beta[f"{name}->beta1"], SLOPE)
            x = torch.cat([decoder.conv1(x), skips.pop()], 1)
            x = decoder.conv_block2(x, *(beta[f"{name}->conv_block2->beta{i}"] for i in (1, 2)))
        return self.base.after_conv(x)[:, :, :frames]  # type: ignore[no-any-return]

    def masked(self, spectrum: Tensor, maps: Tensor) -> Tensor:
        """The target's spectrum; maps [batch, 3, bins - 1, frames], the top bin is silent."""
        maps = maps.float()
        gain = torch.sigmoid(maps[:, 0])
        real, imaginary = torch.tanh(maps[:, 1]), torch.tanh(maps[:, 2])
        # |Y| = gain |X|, its angle the mixture's plus that of (real, imaginary).
        # The published form clamps the length at 1e-10; this one has a gradient there.
        gain = gain * (real.square() + imaginary.square() + 1e-20).rsqrt()
        rotation = torch.complex(real * gain, imaginary * gain)
        return spectrum * F.pad(rotation, (0, 0, 0, 1)).unsqueeze(1)

    def inverse(self, spectrum: Tensor, num_samples: int) -> Tensor:
        """Inverse STFT, [batch, channels, bins, frames] to [batch, channels, samples]."""
        channels = spectrum.shape[1]
        spectrum = spectrum.flatten(0, 1)
        # torch.istft as blocks: windows are cut where hops and windows share a divisor, and each
        # block of all frames is added in one strided sum.
        block = math.gcd(self.num_fft, self.hop)
        per_hop, per_window = self.hop // block, self.num_fft // block
        frames = torch.fft.irfft(spectrum, self.num_fft, dim=1) * self.window[:, None]
        num_frames = frames.shape[-1]
        blocks = frames.transpose(1, 2).unflatten(-1, (per_window, block))
        squares = self.window.square().view(per_window, block)
        span = (num_frames - 1) * per_hop + 1
        signal = frames.new_zeros(len(frames), span + per_window - 1, block)
        norm = frames.new_zeros(span + per_window - 1, block)
        for k in range(per_window):
            signal[:, k : k + span : per_hop] += blocks[:, :, k]
            norm[k : k + span : per_hop] += squares[k]
        start = self.num_fft // 2
        stop = start + num_samples
        norm = norm.flatten()[start:stop].clamp_min(1e-11)
        result: Tensor = signal.flatten(1)[:, start:stop] / norm
        return result.view(-1, channels, num_samples)

    def inference_network(self) -> InferenceNetwork:
        """The folded copy, made when first needed."""
        precision = self.inference_precision
        if precision == "auto":
            precision = "bfloat16" if has_fast_bfloat16() else "float32"
        dtype = getattr(torch, precision)
        if self._inference is None or self._inference.dtype != dtype:
            with torch.no_grad():
                self._inference = InferenceNetwork(self, dtype)
        return self._inference

    # The folded copy is dropped wherever the weights may change under it.

    def train(self, mode: bool = True) -> ResUNet30:
        self._inference = None
        return super().train(mode)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self._inference = None
        return super().load_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._inference = None  # as part of a larger module
        super()._load_from_state_dict(*args, **kwargs)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self._inference = None
        return super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]


VARIANTS = {1_025: (32_000, 2_048, 320), 513: (16_000, 1_024, 160)}
"""Bins of the spectrum to (sample rate, num_fft, hop) of the published checkpoints."""
