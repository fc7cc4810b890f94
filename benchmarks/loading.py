"""Mixtures per second and core, from files and from shards. Writes ``results/loading.json``.

    python -m benchmarks.loading [--audiosep DIR] [--mixtures 480] [--rounds 3] [--steps 12]

Two synthetic corpora are written to a temporary folder: recordings of 10 s as WAV at 32 kHz, which
need neither decoding nor resampling, and recordings of 30 s as FLAC at 44.1 kHz, as corpora are
published. Each corpus is also written as shards at 32 kHz, of PCM and of FLAC, with embeddings.
Mixtures have two sounds and last 3 s at 32 kHz. They are made by the default ``MixtureConfig``, and
by plain settings: no change of speed and no low-pass, as AudioSep mixes. ``rendered`` counts plans
and rendering, ``loaded`` a whole ``MixtureLoader`` with queries, embeddings and batches.

``--audiosep`` is a checkout of https://github.com/Audio-AGI/AudioSep. Its data module and its mixer
run as they are, on the recordings, with batches of 12. It needs torchaudio only to read and to
resample; stand-ins do both by soundfile and soxr, which are no slower. It is measured in turn with
ours, in the same run.

``embedding_milliseconds_per_crop`` compares batches of the packaged encoder, and
``cache_microseconds_per_crop`` is the cost of a table of embeddings that were made before. The last
part trains for some steps from PCM shards with one worker, and measures the share of the time in
which the loop does not wait for a batch.

Times are CPU seconds of one thread, apart from those of the training. Other programs on the machine
slow all parts down, so that ratios say more than rates.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
import soundfile
import torch

from benchmarks.audiosep_loading import AudioSepLoading
from benchmarks.extract_speed import machine
from singleout.audio import resample
from singleout.config import load_config
from singleout.data.clips import Clip, Clips
from singleout.data.dataset import MixtureDataset, TrainingExample
from singleout.data.embeddings import EmbeddingTable, crop_offsets, embeddings_of
from singleout.data.loader import MixtureLoader
from singleout.data.manifest import scan_folder
from singleout.data.plan import MixtureConfig, Planner
from singleout.data.render import render
from singleout.encoders import load_encoder
from singleout.shards import Crops, Sample, ShardWriter, open_corpus, write_corpus
from singleout.storage.locations import Location
from singleout.train.config import TrainConfig
from singleout.train.run import train

RATE = 32_000
DIM = 512
BATCH = 12
SEED = 0
DEFAULT = MixtureConfig(segment_seconds=3.0, crop_hop_seconds=1.5, num_sources=(2, 2))
PLAIN = DEFAULT.model_copy(
    update={"speed": (1.0, 1.0), "source_band_share": 0.0, "mixture_band_share": 0.0}
)
CROPS = Crops("benchmark", DEFAULT.segment_seconds, DEFAULT.crop_hop_seconds)
CORPORA = {
    "10 s WAV, 32 kHz": ("wav", 32_000, 10.0, 60),
    "30 s FLAC, 44.1 kHz": ("flac", 44_100, 30.0, 40),
}
"""Suffix, sample rate, seconds and number of the recordings of a corpus."""


def write_recordings(folder: Path, suffix: str, rate: int, seconds: float, count: int) -> None:
    """Write coloured noises whose level wanders, of 16 bits."""
    folder.mkdir(parents=True)
    for number in range(count):
        rng = np.random.default_rng([SEED, number])
        white = rng.normal(0, 1, round(rate * seconds))
        coloured = np.convolve(white, np.exp(-np.arange(64) / rng.uniform(2, 30)), mode="same")
        points = np.arange(0, len(white), rate // 4)
        level = np.interp(np.arange(len(white)), points, rng.random(len(points)))
        audio = 0.5 * coloured * level / np.abs(coloured).max()
        soundfile.write(folder / f"{number:03}.{suffix}", audio, rate, subtype="PCM_16")


def write_shards(recordings: Path, out: Path, suffix: str) -> None:
    """Write all recordings as one shard at 32 kHz, with random embeddings of their crops."""
    rng = np.random.default_rng(SEED)
    with ShardWriter(Location(out) / "shards", "0") as shard:
        for number, clip in enumerate(scan_folder(recordings)):
            audio, rate = soundfile.read(clip.path, dtype="float32")
            audio = resample(audio, rate, RATE)
            file = io.BytesIO()
            soundfile.write(file, audio, RATE, format=suffix.upper(), subtype="PCM_16")
            num_crops = crop_offsets([clip], DEFAULT)[-1]
            rows = rng.normal(size=(num_crops, DIM))
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            description = {"seconds": len(audio) / RATE, "class": f"{number % 20}"}
            shard.add(
                Sample(
                    f"{number:09}",
                    file.getvalue(),
                    "wav" if suffix == "wav" else "flac",
                    RATE,
                    len(audio),
                    description,
                    rows.astype(np.float16),
                )
            )
    write_corpus(Location(out), ["0"], {"sample_rate": RATE}, CROPS)


def sounds_of(place: Path) -> tuple[Any, EmbeddingTable]:
    """Clips and embeddings of a folder of recordings or of a corpus of shards."""
    if (place / "corpus.json").exists():
        clips = open_corpus(place).split("train")
        table = clips.embeddings(CROPS)
        assert table is not None
        return clips, table
    files: list[Clip] = scan_folder(place)
    offsets = crop_offsets(files, DEFAULT)
    rows = torch.randn(int(offsets[-1]), DIM)
    return files, EmbeddingTable(torch.nn.functional.normalize(rows, dim=-1), offsets)


def per_second(take: Callable[[], int], count: int) -> float:
    """Mixtures per CPU second: ``take`` makes some and returns how many."""
    take()
    started, done = time.process_time(), 0
    while done < count:
        done += take()
    return done / (time.process_time() - started)


def renderer(place: Path, config: MixtureConfig) -> Callable[[], int]:
    """Plans and renders a mixture."""
    clips, _ = sounds_of(place)
    planner = Planner(clips, config, SEED)
    numbers = iter(range(1 << 30))

    def take() -> int:
        render(planner.plan(0, next(numbers)), clips, config, RATE)
        return 1

    return take


def batches(place: Path, config: MixtureConfig) -> Callable[[], int]:
    """Takes a batch of a ``MixtureLoader``."""
    clips, table = sounds_of(place)
    dataset = MixtureDataset(clips, config, RATE, table, None, SEED, 0, BATCH << 20)
    iterator: Iterator[Any] = iter(MixtureLoader(dataset, BATCH))
    return lambda: len(next(iterator)["mixture"])


def speeds(folder: Path, audiosep: Path | None, count: int, rounds: int) -> dict[str, Any]:
    """Mixtures per second of every source of a corpus, and how often AudioSep's rate that is."""
    recordings = folder / "recordings"
    places = {"files": recordings, "PCM shards": folder / "wav", "FLAC shards": folder / "flac"}
    takes: dict[str, Callable[[], int]] = {}
    for settings, config in (("default", DEFAULT), ("plain", PLAIN)):
        for name, place in places.items():
            takes[f"{name}, {settings}, rendered"] = renderer(place, config)
            takes[f"{name}, {settings}, loaded"] = batches(place, config)
    if audiosep is not None:
        loading = AudioSepLoading(audiosep, recordings, folder, DEFAULT.segment_seconds, BATCH)
        takes["AudioSep"] = loading.take
    rates: dict[str, list[float]] = {name: [] for name in takes}
    for _ in range(rounds):
        for name, take in takes.items():
            rates[name].append(per_second(take, count))
    result = {}
    for name, values in rates.items():
        result[name] = {"per_second": round(statistics.median(values), 1), "all": values}
        if audiosep is not None:
            ratios = [value / other for value, other in zip(values, rates["AudioSep"], strict=True)]
            result[name]["times_audiosep"] = round(statistics.median(ratios), 2)
    return result


def embedding_milliseconds() -> dict[str, float]:
    """CPU time per crop of 3 s that the packaged encoder needs, by the size of its batches."""
    encoder, milliseconds = load_encoder("builtin"), {}
    audio = np.random.default_rng(SEED).normal(0, 0.1, (64, 3 * RATE)).astype(np.float32)
    encoder.embed_audio(audio[:1], RATE)
    for size in (1, 4, 16, 64):
        started = time.process_time()
        for first in range(0, len(audio), size):
            encoder.embed_audio(audio[first : first + size], RATE)
        seconds = time.process_time() - started
        milliseconds[f"batches of {size}"] = round(1e3 * seconds / len(audio), 2)
    return milliseconds


def cache_microseconds(folder: Path, count: int = 5_000) -> float:
    """CPU time per crop of a table of embeddings that a cache holds."""
    folder.mkdir()
    for number in range(count):
        noise = np.random.default_rng([SEED, number]).normal(0, 0.1, 80)
        soundfile.write(folder / f"{number}.wav", noise, 8_000)
    encoder: Any = SimpleNamespace(
        fingerprint="benchmark", dim=DIM, embed_audio=lambda audio, rate: torch.ones(1, DIM)
    )
    clips = Clips.of(scan_folder(folder))
    embeddings_of(clips, DEFAULT, encoder, folder.with_suffix(".sqlite"))
    started = time.process_time()
    table = embeddings_of(clips, DEFAULT, encoder, folder.with_suffix(".sqlite"))
    return round(1e6 * (time.process_time() - started) / len(table.embeddings), 1)


class TimedLoader(MixtureLoader):
    """Measures how long a training waits for its batches.

    Attributes:
        waits: seconds of every wait.
        first: when the first batch came.
    """

    waits: ClassVar[list[float]] = []
    first: ClassVar[list[float]] = []

    def __iter__(self) -> Generator[TrainingExample]:
        given = super().__iter__()
        while True:
            before = time.perf_counter()
            try:
                batch = next(given)
            except StopIteration:
                return
            now = time.perf_counter()
            self.waits.append(now - before)
            self.first.append(now)
            yield batch


def share_in_model(shards: Path, output: Path, steps: int) -> dict[str, Any]:
    """Train from shards with one worker; the share of the time without waits for batches.

    The first batch does not count, for which the worker starts.
    """
    config = load_config(
        TrainConfig,
        Path("configs/builtin.yaml"),
        [
            "manifest=null", "uncaptioned=null", "init=null", "embeddings=null",
            f"shards={json.dumps(str(shards))}", f"output={json.dumps(str(output))}",
            "model.encoder.name=builtin", "validation.num_mixtures=0", f"steps={steps}",
            "num_workers=1", "mixtures.segment_seconds=3.0", "mixtures.crop_hop_seconds=1.5",
            "mixtures.num_sources=[2,2]",
        ],
    )  # fmt: skip
    with patch("singleout.train.loop.MixtureLoader", TimedLoader):
        train(config)
    seconds = time.perf_counter() - TimedLoader.first[0]
    waits = TimedLoader.waits[1:]
    return {
        "batch_size": config.batch_size,
        "steps": len(waits),
        "seconds_per_step": round(seconds / len(TimedLoader.waits), 3),
        "wait_seconds_per_step": round(statistics.mean(waits), 5),
        "share_in_model": round(1 - sum(waits) / seconds, 5),
    }


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--audiosep", type=Path, help="checkout of AudioSep")
    parser.add_argument("--mixtures", type=int, default=480)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--output", type=Path, default=Path("results/loading.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {
        "command": f"python -m benchmarks.loading --mixtures {args.mixtures}"
        f" --rounds {args.rounds} --steps {args.steps}" + " --audiosep DIR" * bool(args.audiosep),
        "machine": machine(),
        "seed": SEED,
        "corpora": {},
    }
    with tempfile.TemporaryDirectory(prefix="loading-") as temporary:
        for number, (name, (suffix, rate, seconds, count)) in enumerate(CORPORA.items()):
            folder = Path(temporary, str(number))
            write_recordings(folder / "recordings", suffix, rate, seconds, count)
            for shard_suffix in ("wav", "flac"):
                write_shards(folder / "recordings", folder / shard_suffix, shard_suffix)
            rates = speeds(folder, args.audiosep, args.mixtures, args.rounds)
            result["corpora"][name] = rates
            for source, row in rates.items():
                print(f"{name}: {source}: {row['per_second']} ({row.get('times_audiosep')})")
        result["embedding_milliseconds_per_crop"] = embedding_milliseconds()
        result["cache_microseconds_per_crop"] = cache_microseconds(Path(temporary, "small"))
        run = Path(temporary, "run")
        result["training"] = share_in_model(Path(temporary, "0", "wav"), run, args.steps)
    result["machine"]["load_after"] = machine()["load_before"]
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result["training"], indent=1))


if __name__ == "__main__":
    main()
