"""Other packages read our shards, and we read theirs. Writes ``results/shard_readers.json``.

    pip install webdataset lhotse megatron-energon
    python -m benchmarks.shard_readers [--sounds 40]

A corpus of noises is prepared as FLAC with captions and embeddings. Each package reads all samples
of it, in its own usual way, and decodes the audio. Then the package writes shards where it can,
and ``index_shards`` reads these. A sound counts only if all of its samples are equal to ours to the
bit, and its caption is ours. Nothing is timed.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from benchmarks.extract_speed import machine
from singleout.data.sound_files import open_clip
from singleout.shards import Crops, Sample, ShardWriter, index_shards, open_corpus, write_corpus
from singleout.storage.locations import Location

RATE = 32_000
SHARD = 8
"""Sounds in a shard."""
Sound = tuple[str, str, NDArray[np.float32]]
"""Key, caption and samples of a sound."""


def audio_of(number: int) -> NDArray[np.int16]:
    """Noise of 16 bits, of 0.5 s and more."""
    rng = np.random.default_rng([number])
    return (3_000 * rng.normal(size=RATE // 2 + 1_000 * number)).astype(np.int16)


def flac(audio: NDArray[np.int16]) -> bytes:
    """The content of a FLAC file."""
    soundfile.write(file := io.BytesIO(), audio, RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def decoded(content: bytes) -> NDArray[np.float32]:
    """The samples of an audio file of one channel."""
    audio: NDArray[np.float32] = soundfile.read(io.BytesIO(content), dtype="float32")[0]
    return audio


def write_ours(out: Location, num_sounds: int) -> list[Path]:
    """A prepared corpus; its shards."""
    names = []
    for first in range(0, num_sounds, SHARD):
        names.append(f"{first:016x}")
        with ShardWriter(out / "shards", names[-1]) as shard:
            for number in range(first, min(first + SHARD, num_sounds)):
                audio = audio_of(number)
                description = {"caption": f"noise {number}", "seconds": len(audio) / RATE}
                table = np.ones((2, 4), np.float16)
                key, content = f"{number:09d}", flac(audio)
                shard.add(Sample(key, content, "flac", RATE, len(audio), description, table))
    write_corpus(out, names, {}, Crops("ones", 1.0, 0.5))
    return sorted((out / "shards").path.glob("*.tar"))


def by_webdataset(shards: list[Path]) -> Iterator[Sound]:
    """``webdataset.WebDataset`` with its own decoder of JSON and NumPy."""
    import webdataset

    urls = [str(path) for path in shards]
    for sample in webdataset.WebDataset(urls, shardshuffle=False).decode():
        assert sample["npy"].shape == (2, 4)
        yield sample["__key__"], sample["json"]["caption"], decoded(sample["flac"])


def by_lhotse(shards: list[Path]) -> Iterator[Sound]:
    """Cuts of lhotse from the samples; lhotse decodes the audio."""
    import webdataset
    from lhotse import CutSet, Recording, SupervisionSegment

    def cuts() -> Iterator[Any]:
        urls = [str(path) for path in shards]
        for sample in webdataset.WebDataset(urls, shardshuffle=False).decode():
            recording = Recording.from_bytes(sample["flac"], sample["__key__"])
            cut = recording.to_cut()
            text = sample["json"]["caption"]
            cut.supervisions = [
                SupervisionSegment(cut.id, recording.id, 0, cut.duration, text=text)
            ]
            yield cut

    for cut in CutSet(cuts()):
        yield cut.recording.id, cut.supervisions[0].text, cut.load_audio()[0]


def by_energon(shards: list[Path]) -> Iterator[Sound]:
    """``energon prepare`` indexes the folder of the shards, and its loader reads raw samples."""
    from megatron.energon import (
        Cooker,
        DefaultTaskEncoder,
        WorkerConfig,
        get_loader,
        get_train_dataset,
        stateless,
    )

    @stateless  # type: ignore[untyped-decorator, unused-ignore]
    def as_it_is(sample: Any) -> Any:
        return sample

    class RawSamples(DefaultTaskEncoder):  # type: ignore[misc]
        """Gives the files of a sample as they are."""

        decoder = None
        cookers = (Cooker(as_it_is),)

    command = [
        *(sys.executable, "-m", "megatron.energon.cli.main", "prepare", str(shards[0].parent)),
        *("--non-interactive", "--split-ratio", "1,0,0", "--sample-type", "CrudeWebdataset"),
        *("--num-workers", "1"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    workers = WorkerConfig(rank=0, world_size=1, num_workers=0)
    dataset = get_train_dataset(
        shards[0].parent,
        worker_config=workers,
        batch_size=None,
        shuffle_buffer_size=None,
        max_samples_per_sequence=None,
        repeat=False,
        task_encoder=RawSamples(),
    )
    for sample in get_loader(dataset):
        key = sample["__key__"].rpartition("/")[2]
        yield key, json.loads(sample["json"])["caption"], decoded(sample["flac"])


def write_webdataset(folder: Path, num_sounds: int) -> list[Path]:
    """Shards by ``webdataset.ShardWriter``."""
    import webdataset

    with webdataset.ShardWriter(str(folder / "%06d.tar"), maxcount=SHARD, verbose=0) as shards:
        for number in range(num_sounds):
            sample = {"flac": flac(audio_of(number)), "json": {"caption": f"noise {number}"}}
            shards.write({"__key__": f"{number:09d}", **sample})
    return sorted(folder.glob("*.tar"))


def write_shar(folder: Path, num_sounds: int) -> list[Path]:
    """Recordings by lhotse's ``SharWriter``. Their captions are in another file."""
    from lhotse import Recording
    from lhotse.shar import SharWriter

    with SharWriter(str(folder), {"recording": "flac"}, shard_size=SHARD) as shards:
        for number in range(num_sounds):
            recording = Recording.from_bytes(flac(audio_of(number)), f"{number:09d}")
            shards.write(recording.to_cut())
    return sorted(folder.glob("recording.*.tar"))


def ours(shards: list[Path], folder: Path) -> Iterator[Sound]:
    """The sounds of other people's shards, by our index."""
    index_shards([str(path) for path in shards], Location(folder))
    for clip in open_corpus(folder).clips:
        with open_clip(clip) as sound:
            audio = sound.read(sound.frames, "float32", always_2d=True)[:, 0]
        yield clip.path.stem.split("-")[0], clip.caption or "", audio


def counted(sounds: Iterator[Sound], has_captions: bool = True) -> dict[str, int]:
    """Sounds that were read, and those that are equal to what was written."""
    read = equal = 0
    for key, caption, audio in sounds:
        number = int(key)
        expected = audio_of(number) / np.float32(32_768)
        is_same = audio.shape == expected.shape and bool((audio == expected).all())
        read += 1
        equal += is_same and (caption == f"noise {number}" or not has_captions)
    return {"read": read, "equal": equal}


READERS: dict[str, Callable[[list[Path]], Iterator[Sound]]] = {
    "webdataset": by_webdataset, "lhotse": by_lhotse, "megatron-energon": by_energon
}  # fmt: skip
WRITERS: dict[str, Callable[[Path, int], list[Path]]] = {
    "webdataset": write_webdataset, "lhotse": write_shar
}  # fmt: skip


def main() -> None:
    """Read, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sounds", type=int, default=40)
    parser.add_argument("--output", type=Path, default=Path("results/shard_readers.json"))
    args = parser.parse_args()
    result: dict[str, Any] = {
        "command": f"python -m benchmarks.shard_readers --sounds {args.sounds}",
        **machine(),
        "sounds": args.sounds,
        "read_by_others": {},
        "read_by_us": {},
    }
    with tempfile.TemporaryDirectory() as temporary:
        shards = write_ours(Location(temporary) / "ours", args.sounds)
        for name, read in READERS.items():
            counts = counted(read(shards))
            result["read_by_others"][name] = {"version": version(name), **counts}
        for name, write in WRITERS.items():
            folder = Path(temporary, name)
            folder.mkdir()
            sounds = ours(write(folder, args.sounds), folder / "index")
            counts = counted(sounds, has_captions=name != "lhotse")
            result["read_by_us"][name] = {"version": version(name), **counts}
    print(json.dumps(result, indent=1))
    args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
