"""Small measurements that ``benchmarks.scale`` makes where no other benchmark has a result.

All times are of one thread, as processor time of this process.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from singleout.data.clips import Clip
from singleout.data.sound_files import open_clip
from singleout.prepare import PrepareConfig, prepare
from singleout.prepare.duplicates import revision_of
from singleout.prepare.fingerprints import NUM_BITS
from singleout.prepare.rows import RowGroup
from singleout.separators import ResUNet30Config
from singleout.shards import Sample, ShardWriter, open_corpus, read_sidecar, write_corpus
from singleout.storage.locations import Location

RATE = 32_000
HOUR_S = 3_600
SAMPLE_SECONDS = 900.0
CROP_SECONDS = 10.0
MERGED_CLIPS = 20_000
COMPARED_CLIPS = 100_000
"""Clips whose fingerprints are compared. Each shares 16 bits at each place with 512 others. This is
more than are compared at most, as in corpora of tens of millions of clips."""
RUNS = 3
DIM = 512
SEED = 0


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


def measure_sounds(paths: Sequence[Path]) -> dict[str, float]:
    """Sizes per hour, and the cost of ``singleout prepare``, on recordings."""
    with tempfile.TemporaryDirectory() as folder:
        manifest, out = Path(folder, "manifest.jsonl"), Path(folder, "corpus")
        rows = [{"path": str(path.absolute()), "seconds": 1.0} for path in paths]
        manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        summary = prepare(manifest, out, PrepareConfig(duplicates="keep"))
        assert summary.hours_per_core_hour is not None
        assert summary.decode_share is not None
        clips = open_corpus(out).clips
        size = sum(path.stat().st_size for path in out.glob("shards/*.tar"))
        return {
            "sample_hours": summary.hours,
            "flac_megabytes_per_hour": size / summary.hours / 1e6,
            "pcm_megabytes_per_hour": RATE * 2 * HOUR_S / 1e6,
            "prepare_hours_per_core_hour": summary.hours_per_core_hour,
            "decode_share": summary.decode_share,
            "mixtures_per_core_second_flac": _mixtures_per_second(clips),
        }


def _mixtures_per_second(clips: Sequence[Clip], seconds: float = 3.0) -> float:
    """Two crops are read from FLAC shards and added, without any effect of a plan."""
    random, count = np.random.default_rng(SEED), 200

    def crop() -> NDArray[np.float32]:
        clip = clips[int(random.integers(len(clips)))]
        assert clip.member is not None
        samples = min(round(seconds * RATE), clip.member.num_samples)
        start = int(random.integers(clip.member.num_samples - samples + 1))
        with open_clip(clip) as sound:
            sound.seek(start)
            read = sound.read(samples, dtype="float32", always_2d=True).mean(1)
        return np.pad(read, (0, round(seconds * RATE) - samples))

    return count / cpu_seconds(lambda: [crop() + crop() for _ in range(count)])


def _description(number: int, random: np.random.Generator, num_words: int) -> dict[str, Any]:
    """What a sidecar says about a clip. Its fingerprint has words of a number of values."""
    words = random.integers(num_words, size=NUM_BITS // 16, dtype=np.uint16)
    return {
        "caption": f"a sound of the kind {number % 997} in a street",
        "group": f"recording {number}",
        "origin": f"audio/{number % 100:02}/{number:09}.m4a",
        "seconds": CROP_SECONDS,
        "split": "train",
        "statistics": {
            "digest": random.bytes(16).hex(),
            "fingerprint": words.tobytes().hex(),
            "loudness_lufs": -23.4,
            "peak_db": -1.2,
            "silent_share": 0.05,
        },
    }


def measure_merge() -> dict[str, float]:
    """The work on one machine after all shards: duplicates by fingerprints, and the index."""
    random = np.random.default_rng(SEED)
    with tempfile.TemporaryDirectory() as folder:
        out, names = Location(folder), []
        for first in range(0, MERGED_CLIPS, 1_000):
            names.append(f"{first:016x}")
            with ShardWriter(out / "shards", names[-1]) as shard:
                for number in range(first, first + 1_000):
                    description = _description(number, random, 1 << 16)
                    key = f"{number:09}"
                    shard.add(Sample(key, b"fLaC", "flac", RATE, 10 * RATE, description))
        started = time.process_time()
        for name in names:
            read_sidecar(out / "shards", name)  # once for the duplicates, and again for the index
        write_corpus(out, names, {})
        index_s = time.process_time() - started
        index_bytes = (out / "index.safetensors").size()
    rows = [
        {"key": str(number), "description": _description(number, random, COMPARED_CLIPS // 512)}
        for number in range(COMPARED_CLIPS)
    ]
    started = time.process_time()
    revision_of(rows, "drop")
    return {
        "index_bytes_per_clip": index_bytes / MERGED_CLIPS,
        "index_seconds_per_million_clips": index_s / MERGED_CLIPS * 1e6,
        "duplicate_seconds_per_million_clips": (time.process_time() - started)
        / COMPARED_CLIPS
        * 1e6,
    }


def measure_rows() -> dict[str, float]:
    """Memory of the rows of a manifest, as the process that starts a preparation keeps them."""
    rows = [
        (number, {"path": f"audio/{number % 100:02}/Y{number * 7919:011}.m4a", "seconds": 10.0,
                  "caption": f"a sound of the kind {number % 997} in a street",
                  "group": f"Y{number * 7919:011}", "split": "train"})
        for number in range(1_000)
    ]  # fmt: skip
    return {"row_bytes_per_clip": len(RowGroup.of(rows).content) / len(rows)}


def gflop_of(work: Callable[[], object]) -> float:
    """Operations of a call; a multiplication with its addition counts twice."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops() / 1e9)


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
