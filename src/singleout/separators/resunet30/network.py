"""The separator of AudioSep: a spectrogram U-Net of 30 layers.

It follows "Separate Anything You Describe" (Liu et al., 2023). The query is added before
activations. The baseline of DCASE 2024 Task 9 is the same network at 16 kHz. Modules have the names
of the published checkpoints, so that checkpoints can be exchanged in both directions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from singleout.config import StrictConfig
from singleout.separators.bounds import MAX_OVERLAP, FrameLength, SampleRate
from singleout.separators.resunet30.checkpoint import separator_tensors
from singleout.separators.resunet30.folded import InferenceNetwork
from singleout.separators.resunet30.layers import SLOPE, TIME_STRIDE, Layers, beta_sizes
from singleout.separators.separator import Separator
from singleout.storage.tensors import fill, has_fast_bfloat16

POWER_FLOOR = 1e-10
"""Lowest power of a bin."""
Precision = Literal["auto", "float32", "bfloat16"]


@dataclass
class Spectrum:
    """An encoded mixture: its spectrum, because the whole network depends on the query.

    Attributes:
        spectrum: complex64 [batch, channels, bins, frames].
        num_samples: length of the mixture.

    Example:
        >>> import torch
        >>> Spectrum(torch.zeros(1, 2, 1_025, 9, dtype=torch.complex64), num_samples=2_560)
        Spectrum(spectrum=tensor(...), num_samples=2560)
    """

    spectrum: Tensor
    num_samples: int


class ResUNet30Config(StrictConfig):
    """Sizes of ``ResUNet30``.

    Args:
        sample_rate: Hz.
        num_fft, hop: frame length and hop of the STFT, in samples. AudioSep has 2048 and 320 at
            32 kHz, DCASE has 1024 and 160 at 16 kHz.
        inference_precision: precision of the folded copy at inference, see ``ResUNet30``.

    Example:
        >>> ResUNet30Config(sample_rate=16_000, num_fft=1_024, hop=160).inference_precision
        'auto'
    """

    type: Literal["resunet30"] = "resunet30"
    sample_rate: SampleRate = 32_000
    num_fft: FrameLength = 2_048
    hop: FrameLength = 320
    inference_precision: Precision = "auto"

    @model_validator(mode="after")
    def _fits(self) -> ResUNet30Config:
        if self.num_fft % 128 or self.hop > self.num_fft // 2:
            raise ValueError("num_fft must be a multiple of 128, and hop at most half of it")
        if self.num_fft > MAX_OVERLAP * self.hop:
            raise ValueError(f"num_fft must be at most {MAX_OVERLAP} hops")
        return self

    def build(self, embedding_dim: int) -> ResUNet30:
        """Build the network with new weights.

        Args:
            embedding_dim: length of the query embedding.
        """
        return ResUNet30(embedding_dim, self)


class ResUNet30(Separator):
    """Estimates the target as AudioSep does.

    In training, and with gradients, the layers run unchanged. In evaluation mode without gradients,
    a folded copy of the network runs instead (``InferenceNetwork``). Its precision is
    ``inference_precision``. ``float32`` gives the same output within rounding. ``bfloat16`` is
    several times faster on CPUs that multiply bfloat16 natively. ``auto`` is bfloat16 on these
    CPUs, and float32 on others.

    Args:
        embedding_dim: length of the query embedding.
        config: sizes, see ``ResUNet30Config``.

    Example:
        >>> import torch
        >>> config = ResUNet30Config(sample_rate=16_000, num_fft=256, hop=80)
        >>> with torch.device("meta"):  # a real one has 26 million weights
        ...     separator = config.build(embedding_dim=512)
        >>> separator.stride_samples
        2560
    """

    def __init__(self, embedding_dim: int, config: ResUNet30Config) -> None:
        super().__init__(embedding_dim, config.sample_rate)
        num_fft, hop = config.num_fft, config.hop
        self.num_fft, self.hop = num_fft, hop
        self.inference_precision = config.inference_precision
        window = torch.hann_window(num_fft, device="cpu")
        self.register_buffer("window", window, persistent=False)
        self.window: Tensor
        self.base = Layers(num_fft)
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
        """Load a checkpoint of AudioSep or of DCASE, in evaluation mode.

        Reads Lightning checkpoints, plain state dicts, safetensors and hub folders, with or without
        a query encoder inside. The number of bins tells the variant. 1,025 bins mean 32 kHz, 513
        bins mean 16 kHz.

        Args:
            path: a file, or a folder with one checkpoint.
            inference_precision: see ``ResUNet30``.

        Raises:
            ModelError: the file is not such a checkpoint. The message names the tensors that are
                missing, unexpected or of another shape.
        """
        file, tensors = separator_tensors(Path(path))
        # If these are missing or of another shape, ``fill`` names them with all others.
        norm = tensors.get("base.bn0.weight", torch.empty(0))
        film = tensors.get("film.encoder_block1->conv_block1->beta1.weight", torch.empty(0))
        rate, num_fft, hop = VARIANTS.get(norm.numel(), VARIANTS[1_025])
        dim = film.shape[1] if film.ndim == 2 and film.numel() else 512
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
        """Chunks start at multiples of this: their frames are then those of the recording."""
        return self.hop * TIME_STRIDE

    @property
    def context_samples(self) -> int:
        """How many samples before and after it an output sample may depend on."""
        # Two 3x3 convolutions per block reach two positions, in encoder and decoder at each level.
        # The bottleneck and the pooled grid are added.
        levels = [1, 2, 4, 8, 16, 32]
        frames = sum(4 * stride for stride in levels) + 2 * 32 + TIME_STRIDE
        return frames * self.hop + 2 * self.num_fft

    @property
    def output_layers(self) -> tuple[nn.Module, ...]:
        return (self.base.after_conv,)

    def encode(self, mixture: Tensor) -> Spectrum:
        """Compute the spectrum of a mixture [batch, channels, samples]."""
        channels, num_samples = mixture.shape[1:]
        x = mixture.flatten(0, 1)
        pad = self.num_fft // 2
        # Reflection needs more samples than it adds, so silence is added to a short mixture.
        x = F.pad(x, (0, max(0, pad + 1 - num_samples)))
        x = F.pad(x.unsqueeze(1), (pad, pad), mode="reflect").squeeze(1)
        spectrum = torch.stft(
            x, self.num_fft, self.hop, window=self.window, center=False, return_complex=True
        )
        return Spectrum(spectrum.view(-1, channels, *spectrum.shape[1:]), num_samples)

    def decode(self, encoded: Spectrum, embedding: Tensor) -> Tensor:
        """Estimate the targets in an encoded mixture, see ``Separator.decode``.

        The network gets only the magnitude: the root mean square over the channels. Embeddings have
        unit norm.
        """
        spectrum = encoded.spectrum
        num_queries = len(embedding) // len(spectrum)
        if num_queries > 1:
            spectrum = torch.cat([spectrum] * num_queries)
        power = (spectrum.real.square() + spectrum.imag.square()).mean(1)
        magnitude = power.clamp_min(POWER_FLOOR).sqrt().transpose(1, 2)
        needs_gradients = self.training or torch.is_grad_enabled()
        network = self if needs_gradients else self.inference_network()
        maps = network.maps(magnitude, embedding)
        target = self.masked(spectrum, maps.transpose(2, 3))
        return self.inverse(target, encoded.num_samples)

    def maps(self, magnitude: Tensor, embedding: Tensor) -> Tensor:
        """Run the network.

        Args:
            magnitude: float32 [batch, frames, bins].
            embedding: float32 [batch, dim].

        Returns:
            float32 [batch, 3, frames, bins - 1]: the magnitude of the mask, and the real and the
            imaginary part of its direction. Their ranges are not yet bounded.
        """
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
        """Apply the mask to a spectrum. The top bin of the target is silent.

        Args:
            spectrum: complex64 [batch, channels, bins, frames].
            maps: the result of ``maps`` with its last dimensions swapped.

        Returns:
            complex64 [batch, channels, bins, frames].
        """
        maps = maps.float()
        gain = torch.sigmoid(maps[:, 0])
        real, imaginary = torch.tanh(maps[:, 1]), torch.tanh(maps[:, 2])
        # |Y| = gain |X|; the angle of (real, imaginary) is added to the angle of the mixture.
        # The published code clamps the length at 1e-10, where it has no gradient. Ours has one.
        gain = gain * (real.square() + imaginary.square() + 1e-20).rsqrt()
        rotation = torch.complex(real * gain, imaginary * gain)
        return spectrum * F.pad(rotation, (0, 0, 0, 1)).unsqueeze(1)

    def inverse(self, spectrum: Tensor, num_samples: int) -> Tensor:
        """Compute the waveforms of spectra by the inverse STFT.

        Args:
            spectrum: complex64 [batch, channels, bins, frames].
            num_samples: length of the waveforms.

        Returns:
            float32 [batch, channels, samples].
        """
        channels = spectrum.shape[1]
        spectrum = spectrum.flatten(0, 1)
        # Like torch.istft, but faster: windows are cut into blocks of the common divisor of hop and
        # window. One strided sum adds the same block of all frames.
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
        """The folded copy. It is made when it is first needed."""
        precision = self.inference_precision
        if precision == "auto":
            precision = "bfloat16" if has_fast_bfloat16() else "float32"
        dtype = getattr(torch, precision)
        if self._inference is None or self._inference.dtype != dtype:
            with torch.no_grad():
                self._inference = InferenceNetwork(self, dtype)
        return self._inference

    # The folded copy is dropped whenever the weights may change.

    def train(self, mode: bool = True) -> ResUNet30:
        self._inference = None
        return super().train(mode)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self._inference = None
        return super().load_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._inference = None  # called if this is part of a larger module
        super()._load_from_state_dict(*args, **kwargs)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self._inference = None
        return super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]


VARIANTS = {1_025: (32_000, 2_048, 320), 513: (16_000, 1_024, 160)}
"""(sample rate, num_fft, hop) of the published checkpoints, by the bins of their spectra."""
