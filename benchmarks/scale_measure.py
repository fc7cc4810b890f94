"""Small measurements that ``benchmarks.scale`` makes where no other benchmark has a result.

All times are of one thread, as processor time of this process.
"""

from __future__ import annotations

import io
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from singleout.audio import open_audio, resample
from singleout.data.columns import ColumnsBuilder
from singleout.separators import ResUNet30Config
from singleout.shards.index import IndexWriter

RATE = 32_000
HOUR_S = 3_600
SAMPLE_SECONDS = 900.0
CROP_SECONDS = 10.0
INDEX_CLIPS = 200_000
RUNS = 3
DIM = 512

Waveform = NDArray[np.float32]


def cpu_seconds(work: Callable[[], object]) -> float:
    """Processor time of a call: the least of several, after one that does not count."""
    work()
    times = []
    for _ in range(RUNS):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def sample_of(manifest: Path, seed: int) -> list[Path]:
    """Random recordings of a manifest, ``SAMPLE_SECONDS`` long together."""
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    order = np.random.default_rng(seed).permutation(len(rows))
    chosen, total = [], 0.0
    for number in order:
        if total >= SAMPLE_SECONDS:
            break
        chosen.append(manifest.parent / rows[number]["path"])
        total += rows[number]["seconds"]
    return chosen


def decoded(path: Path) -> Waveform:
    """A recording at ``RATE``, as the mean of its channels."""
    with open_audio(path) as reader:
        blocks = [block.mean(0, keepdims=True, dtype=np.float32) for block in reader.blocks()]
        return resample(np.concatenate(blocks, axis=1), reader.info.sample_rate, RATE)


def flac_bytes(waveform: Waveform) -> bytes:
    """A recording as FLAC of 16 bits."""
    file = io.BytesIO()
    soundfile.write(file, waveform.T, RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def measure_sounds(paths: Sequence[Path]) -> dict[str, float]:
    """Sizes per hour, and the cost of decoding, resampling and writing FLAC."""
    waveforms = [decoded(path) for path in paths]
    hours = sum(waveform.shape[1] for waveform in waveforms) / RATE / HOUR_S
    coded = [flac_bytes(waveform) for waveform in waveforms]
    decode_s = cpu_seconds(lambda: [decoded(path) for path in paths])
    write_s = cpu_seconds(lambda: [flac_bytes(waveform) for waveform in waveforms])
    return {
        "sample_hours": hours,
        "flac_megabytes_per_hour": sum(map(len, coded)) / hours / 1e6,
        "pcm_megabytes_per_hour": RATE * 2 * HOUR_S / 1e6,
        "prepare_hours_per_core_hour": hours * HOUR_S / (decode_s + write_s),
        "decode_share": decode_s / (decode_s + write_s),
        "mixtures_per_core_second_flac": _mixtures_per_second(coded),
    }


def _mixtures_per_second(coded: Sequence[bytes], seconds: float = 3.0) -> float:
    """Two crops are read from FLAC and added, without any effect of a plan."""
    samples = round(seconds * RATE)
    random = np.random.default_rng(0)

    def crop() -> Waveform:
        with soundfile.SoundFile(io.BytesIO(coded[random.integers(len(coded))])) as file:
            file.seek(int(random.integers(max(1, file.frames - samples))))
            read = file.read(samples, dtype="float32")
        return np.pad(read, (0, samples - len(read)))

    count = 200
    return count / cpu_seconds(lambda: [crop() + crop() for _ in range(count)])


def measure_index() -> dict[str, float]:
    """Size of an index, and the time to write it, for clips with captions of some words."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        with IndexWriter(Path(folder)) as index:
            for first in range(0, INDEX_CLIPS, 1_000):
                builder = ColumnsBuilder()
                shard = f"shards/{first:016x}.tar"
                for number in range(first, first + 1_000):
                    builder.add(
                        f"{number:09}.flac",
                        CROP_SECONDS,
                        root=shard,
                        captions=[f"a sound of the kind {number % 997} in a street"],
                        has_caption=True,
                        group=f"recording {number}",
                        split="train",
                        shard=shard,
                        place=(512 * number, 500_000, RATE, 320_000),
                    )
                index.add("train", builder.columns())
            path = Path(folder) / "index.safetensors"
            index.write(path)
        return {
            "index_bytes_per_clip": path.stat().st_size / INDEX_CLIPS,
            "index_seconds_per_million_clips": (time.process_time() - started) / INDEX_CLIPS * 1e6,
        }


def gflop_of(work: Callable[[], object]) -> float:
    """Operations of a call; a multiplication with its addition counts twice."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e9


@torch.inference_mode()
def measure_clap() -> dict[str, float]:
    """Embedding of a crop by the audio tower of ``larger_clap_general``, with random weights."""
    from transformers import ClapAudioConfig, ClapAudioModelWithProjection

    sizes = {"depths": [2, 2, 12, 2], "patch_embeds_hidden_size": 128, "hidden_size": 1_024}
    config = ClapAudioConfig(**sizes, projection_dim=DIM, enable_fusion=False)
    tower: nn.Module = ClapAudioModelWithProjection(config).eval()
    features = torch.randn(1, 1, 1_001, config.num_mel_bins)

    def embed() -> Tensor:
        embeddings: Tensor = tower(input_features=features).audio_embeds
        return embeddings

    return {
        "clap_parameters_millions": sum(p.numel() for p in tower.parameters()) / 1e6,
        "clap_gflop_per_crop": gflop_of(embed),
        "clap_core_seconds_per_crop": cpu_seconds(embed),
    }


@torch.inference_mode()
def measure_encoder() -> dict[str, float]:
    """Embedding of a crop by the packaged encoder."""
    from singleout.encoders import load_encoder

    encoder = load_encoder("builtin")
    crop = np.random.default_rng(0).normal(0, 0.1, round(CROP_SECONDS * RATE)).astype(np.float32)
    seconds = cpu_seconds(lambda: encoder.embed_audio(crop[None], RATE))
    return {"encoder_core_seconds_per_crop": seconds}


@torch.inference_mode()
def measure_separator() -> dict[str, float]:
    """Size and operations of AudioSep's separator, for one query on one channel."""
    separator = ResUNet30Config().build(DIM).eval()
    mixture, embedding = torch.randn(1, 1, 5 * RATE), torch.randn(1, DIM)

    def separate() -> object:
        return separator(mixture, embedding)

    gflop = gflop_of(separate) / 5
    return {
        "resunet30_parameters_millions": sum(p.numel() for p in separator.parameters()) / 1e6,
        "resunet30_gflop_per_second": gflop,
        "resunet30_core_gflop_per_second": gflop * 5 / cpu_seconds(separate),
    }
