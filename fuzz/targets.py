"""The readers. A target makes an input from a random source, and reads it."""

from __future__ import annotations

import io
import json
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

import singleout.audio
from fuzz import mutation
from singleout.audio import open_audio
from singleout.config import load_config
from singleout.data.manifest import check_splits, held_out, read_manifest
from singleout.encoders import BuiltinEncoder
from singleout.errors import AudioError
from singleout.model import QueriedSeparator
from singleout.storage.foreign import read_tensors
from singleout.storage.tensors import load_tensors
from singleout.train.config import TrainConfig

MAX_SAMPLES = 3_000_000
"""Reading stops after this many samples: a long recording is not a finding."""
Files = dict[str, bytes]
"""The input of a target: the content of files by their names."""


class Target(ABC):
    """A reader under test.

    Attributes:
        name: on the command line.
    """

    name: str

    @abstractmethod
    def prepare(self, folder: Path, with_packages: bool) -> None:
        """Make the seeds. ``folder`` is for files that several inputs share."""

    @abstractmethod
    def make(self, random: Random) -> Files:
        """The files of one input."""

    @abstractmethod
    def read(self, folder: Path) -> None:
        """Read the files of an input from ``folder``, and use what was read.

        Raises:
            SingleoutError: the files are refused.
            AssertionError: what was read is wrong.
        """


class Sndfile(Target):
    """Recordings, through libsndfile alone."""

    name = "sndfile"

    def prepare(self, folder: Path, with_packages: bool) -> None:
        from fuzz import media, packages

        self.seeds = media.sndfile_seeds() + (packages.odd_files() if with_packages else [])
        # FFmpeg needs a process for each file, and has a target of its own.
        for name in dir(singleout.audio.reading):
            if name in ("Decoder", "decoded"):
                setattr(singleout.audio.reading, name, _not_by_ffmpeg)

    def make(self, random: Random) -> Files:
        return {"input": mutation.mutated_bytes(random, self.seeds)}

    def read(self, folder: Path) -> None:
        _check_recording(folder / "input")


def _not_by_ffmpeg(*_: Any, **__: Any) -> Any:
    raise AudioError("libsndfile does not read this file")


def _check_recording(path: Path) -> None:
    num_samples = 0
    with open_audio(path) as reader:
        info = reader.info
        for block in reader.blocks():
            assert block.ndim == 2, "a block has not two dimensions"
            assert block.shape[0] == info.channels, "a block has other channels than stated"
            assert block.dtype == info.dtype, "a block has another type than stated"
            assert block.shape[1], "an empty block"
            assert np.isfinite(block).all(), "samples that are not finite"
            num_samples += block.size
            if num_samples > MAX_SAMPLES:
                return
        for note in reader.notes:
            assert "\n" not in note.text, "a note of several lines"
            assert len(note.text) <= 2_000, "a long note"


class _Sink(io.RawIOBase):
    """Takes what FFmpeg decodes, and keeps nothing."""

    num_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.num_bytes += len(data)
        if self.num_bytes > 4 * MAX_SAMPLES:
            raise BrokenPipeError
        return len(data)


class Ffmpeg(Target):
    """Recordings, through FFmpeg in this process. One in 500 goes through the whole reader."""

    name = "ffmpeg"

    def prepare(self, folder: Path, with_packages: bool) -> None:
        from fuzz import media, packages

        self.seeds = media.ffmpeg_seeds() + (packages.odd_files() if with_packages else [])
        self.count = 0

    def make(self, random: Random) -> Files:
        return {"input": mutation.mutated_bytes(random, self.seeds)}

    def read(self, folder: Path) -> None:
        self.count += 1
        if self.count % 500 == 0:
            _check_recording(folder / "input")
            return
        try:
            _decode()(str(folder / "input"), _Sink())
        except BrokenPipeError:
            return


def _decode() -> Any:
    try:
        from singleout.audio.ffmpeg import decode
    except ImportError:
        from singleout.audio.decoding import decode
    return decode


MANIFEST_ROWS: list[dict[str, Any]] = [
    {"path": "a.wav", "seconds": 1.5},
    {"path": "b.wav", "seconds": 2, "caption": "a dog", "class": "animal/dog", "split": "train"},
    {"path": "a.wav", "seconds": 0.5, "alternatives": ["a hound", "rex"], "group": "g", "split": "test"},
    {"path": "b.wav", "seconds": 3.25, "split": None, "licence": {"name": "CC0"}, "caption": None},
]  # fmt: skip


class Manifest(Target):
    """Manifests."""

    name = "manifest"

    def prepare(self, folder: Path, with_packages: bool) -> None:
        for name in ("a.wav", "b.wav"):
            (folder / name).touch()

    def make(self, random: Random) -> Files:
        rows = [json.dumps(row) for row in random.sample(MANIFEST_ROWS, random.randrange(0, 4))]
        rows.insert(random.randrange(len(rows) + 1), mutation.mutated_json(random, MANIFEST_ROWS))
        text = random.choice(("\n", "\n", "\n\n", "\r\n")).join(rows)
        data = text.encode(errors="surrogatepass")
        if random.random() < 0.2:
            data = mutation.mutated_bytes(random, [data])
        return {"manifest.jsonl": data}

    def read(self, folder: Path) -> None:
        path = folder / "manifest.jsonl"
        check_splits(path)
        files, groups = held_out(path)
        assert all(map(str, files)) and all(isinstance(group, str) for group in groups)
        for clip in read_manifest(path):
            assert 0 < clip.seconds < 1e9 and clip.label and clip.group, "a wrong clip"


RUN: dict[str, Any] = {
    "manifest": "m.jsonl",
    "output": "run",
    "model": {
        "separator": {"type": "conditioned_unet", "num_fft": 512, "hop": 128, "channels": [8, 8, 8],
                      "time_strides": [2, 1], "dilations": [1, 2], "fold": 4, "bottleneck": 16,
                      "query_dim": 16},
        "manipulation": {"steps": [{"type": "neighbours", "p": 0.5}, {"type": "dropout"}]},
        "encoder": {"name": "builtin"}, "negative": True, "quietest_db": -60.0,
        "presence": {"scale": 3.0, "bias": -0.2},
        "gate": {"low": 0.1, "high": 0.4, "floor_db": -20.0, "gain_db": 2.0},
    },
    "mixtures": {"segment_seconds": 0.5, "crop_hop_seconds": 0.25, "num_sources": [2, 3], "snr_db": [-5, 5]},
    "queries": {"absent_share": 0.1, "near_miss_share": 0.5},
    "query_audio": {"mixup": {"gain_db": [0, 3]}},
    "validation": {"num_mixtures": 4},
    "uncaptioned": {"audio": "more", "share": 0.5},
    "steps": 20, "batch_size": 2, "learning_rate": 1e-3, "seed": 1,
}  # fmt: skip
MODELS: list[dict[str, Any]] = [
    {"separator": {"type": "band_split", "num_fft": 512, "hop": 256, "num_bands": 4, "channels": 4,
                   "dilations": [1, 2], "free_blocks": 1, "query_dim": 8}},
    {"separator": {"type": "locoformer", "num_fft": 512, "hop": 256, "fold": 8, "channels": 8,
                   "hidden": 8, "heads": 2, "num_blocks": 2, "window": 4, "query_dim": 8}},
    {"separator": {"type": "identity", "sample_rate": 16000}, "manipulation": {
        "steps": [{"type": "mean_shift"}, {"type": "pca", "k": 8}, {"type": "noise"}]}},
    {"separator": {"type": "identity"}, "manipulation": {
        "steps": [{"type": "projection", "temperature": 0.05}, {"type": "retrieval"}]}},
]  # fmt: skip
RESUNET30 = {"separator": {"type": "resunet30", "num_fft": 256, "hop": 80}}
YAML = (
    "steps: 3\noutput: run\naudio: sounds\nmodel: {separator: {type: identity}}\n",
    "extends: base.yaml\n# a comment\nlearning_rate: 1e-3\nmodel:\n  negative: true\n",
    "a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2020-01-01}\nd: [1, 0x1f, 1:30, .inf, ~, yes]\n",
    "manifest: m\noutput: 'a'\nmodel: {separator: {type: identity}}\nmixtures:\n  num_sources: [2, 3]\n  snr_db:\n  - -5\n  - 5\n",
)
OVERRIDES = ("steps=3", "model.separator.type=identity", "queries={}", "mixtures.snr_db=[-3, 3]")


class Config(Target):
    """Configs of training runs: JSON, YAML, configs that extend others, and overrides."""

    name = "config"

    def prepare(self, folder: Path, with_packages: bool) -> None:
        runs = [RUN, *({**RUN, "model": model} for model in (*MODELS, RESUNET30))]
        self.runs: list[Any] = [*runs, {"extends": "base.yaml", "steps": 5}]
        (folder / "base.yaml").write_text(json.dumps({**RUN, "query_audio": {}}), encoding="utf-8")

    def make(self, random: Random) -> Files:
        kind = random.random()
        text = (
            mutation.mutated_json(random, self.runs)
            if kind < 0.6
            else mutation.mutated_text(random, YAML)
        )
        override = mutation.mutated_text(random, OVERRIDES) if kind < 0.2 else ""
        return {
            "config.yaml": text.encode(errors="surrogatepass"),
            "override": override.encode(errors="surrogatepass"),
        }

    def read(self, folder: Path) -> None:
        override = (folder / "override").read_bytes().decode(errors="replace")
        config = load_config(TrainConfig, folder / "config.yaml", [override] if override else [])
        TrainConfig.model_validate_json(config.model_dump_json())


def _small_module() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))


class Safetensors(Target):
    """Weights of models, and safetensors of other projects."""

    name = "safetensors"

    def prepare(self, folder: Path, with_packages: bool) -> None:
        import safetensors.torch

        from singleout.storage.tensors import save_tensors

        save_tensors(_small_module(), folder / "seed", extra={"learned.mean": torch.ones(2)})
        save_tensors(torch.nn.Linear(6, 5), folder / "int8", int8_below="w")
        kinds = {str(kind): torch.zeros(3, 1, dtype=getattr(torch, kind)) for kind in
                 ("bool", "uint8", "int64", "float64", "bfloat16", "float8_e4m3fn")}  # fmt: skip
        self.seeds = [
            (folder / "seed").read_bytes(),
            (folder / "int8").read_bytes(),
            safetensors.torch.save(kinds, {"format": "pt", "note": "x" * 50}),
            safetensors.torch.save(
                {"module.weight": torch.ones(3, 4), "module.bias": torch.ones(3)}
            ),
        ]
        self.module = _small_module()

    def make(self, random: Random) -> Files:
        reader = random.choice(("model", "foreign"))
        seed = random.choice(self.seeds[:1] if reader == "model" else self.seeds)
        if random.random() < 0.5:
            return {"input": mutation.mutated_bytes(random, [seed]), "reader": reader.encode()}
        size = int.from_bytes(seed[:8], "little")
        header = mutation.mutated_json(random, [json.loads(seed[8 : 8 + size])])
        head = header.encode(errors="surrogatepass")
        stated = len(head) if random.random() < 0.9 else random.choice(mutation.LENGTHS)
        data = stated.to_bytes(8, "little") + head + seed[8 + size :]
        return {"input": data, "reader": reader.encode()}

    def read(self, folder: Path) -> None:
        path = (folder / "input").rename(folder / "input.safetensors")
        if (folder / "reader").read_bytes() == b"foreign":
            tensors = read_tensors(path)
            assert tensors and all(isinstance(t, torch.Tensor) for t in tensors.values())
        else:
            load_tensors(self.module, path, extra_prefix="learned.")
            assert self.module[0].weight.shape == (3, 4), "weights of another shape"


class _Canary:
    """Makes a folder when it is unpickled by an unsafe reader."""

    def __reduce__(self) -> Any:
        import os

        return os.mkdir, ("canary-was-here",)


class Checkpoint(Target):
    """Checkpoints of other projects, as ``torch.save`` writes them."""

    name = "checkpoint"

    def prepare(self, folder: Path, with_packages: bool) -> None:
        import argparse

        state = {"module.weight": torch.ones(3, 4), "module.bias": torch.zeros(3)}
        values: list[Any] = [
            state,
            {"state_dict": state, "epoch": 3, "loss": np.float64(0.5)},
            {"model": state, "args": argparse.Namespace(rate=1e-3, path=Path("x"))},
            {"model_state_dict": {"a": torch.ones(2, dtype=torch.bfloat16), "b": torch.tensor(1)}},
            [1, 2, 3],
            {"state_dict": state, "canary": _Canary()},
        ]
        self.seeds = []
        for value in values:
            for zipped in (True, False):
                output = io.BytesIO()
                torch.save(value, output, _use_new_zipfile_serialization=zipped)
                self.seeds.append(output.getvalue())

    def make(self, random: Random) -> Files:
        return {"input.ckpt": mutation.mutated_bytes(random, self.seeds)}

    def read(self, folder: Path) -> None:
        try:
            tensors = read_tensors(folder / "input.ckpt")
        finally:
            if Path("canary-was-here").exists():
                Path("canary-was-here").rmdir()
                raise AssertionError("code in the file ran")
        assert tensors and all(isinstance(t, torch.Tensor) for t in tensors.values())
        assert all(isinstance(name, str) for name in tensors)


class Encoder(Target):
    """Folders of query encoders: sizes, tokenizer and weights."""

    name = "encoder"

    def prepare(self, folder: Path, with_packages: bool) -> None:
        from tests.conftest import write_debug_encoder

        write_debug_encoder(folder / "encoder")
        self.seed = {
            path.name: path.read_bytes() for path in sorted((folder / "encoder").iterdir())
        }
        self.config = json.loads(self.seed["config.json"])
        self.config["network"].update(text_heads=None, rank=None)
        self.tokenizer = json.loads(self.seed["tokenizer.json"])

    def make(self, random: Random) -> Files:
        kind = random.random()
        files = dict(self.seed)
        if kind < 0.4:
            text = mutation.mutated_json(random, [self.config, self.config["network"]])
            files["config.json"] = text.encode(errors="surrogatepass")
        elif kind < 0.8:
            text = mutation.mutated_json(random, [self.tokenizer])
            files["tokenizer.json"] = text.encode(errors="surrogatepass")
        else:
            name = random.choice(sorted(files))
            files[name] = mutation.mutated_bytes(random, [files[name]])
        return files

    def read(self, folder: Path) -> None:
        encoder = BuiltinEncoder.from_pretrained(folder)
        embedding = encoder.embed_text(["a dog barking", "zebra 犬 \u200b", "x" * 1_000])
        assert embedding.shape == (3, encoder.dim), "an embedding of another shape"


class Model(Target):
    """Folders of models. Most mutations are of the config, which says what is built."""

    name = "model"

    def prepare(self, folder: Path, with_packages: bool) -> None:
        from singleout.manipulations import FitEmbeddings
        from singleout.model import ModelConfig
        from tests.conftest import TINY_SEPARATOR, write_debug_encoder

        write_debug_encoder(folder / "encoder")
        self.encoder = BuiltinEncoder.from_pretrained(folder / "encoder")
        audio = torch.nn.functional.normalize(torch.randn(40, self.encoder.dim), dim=-1)
        examples = FitEmbeddings(audio, audio.roll(1, 1), torch.arange(40))
        self.seeds: list[tuple[Any, bytes]] = []
        for values in ({"separator": TINY_SEPARATOR.model_dump()}, RUN["model"], *MODELS):
            model = QueriedSeparator(ModelConfig.model_validate(values), self.encoder)
            model.manipulator.fit(examples)
            model.save_pretrained(folder / "model")
            config = json.loads((folder / "model" / "config.json").read_text(encoding="utf-8"))
            weights = (folder / "model" / "model.safetensors").read_bytes()
            self.seeds += [(config, weights), ({**config, "sha256": None}, weights)]
        self.seeds.append((RESUNET30, weights))
        shutil.rmtree(folder / "model")

    def make(self, random: Random) -> Files:
        config, weights = random.choice(self.seeds)
        text = mutation.mutated_json(random, [config])
        if random.random() < 0.1:
            weights = mutation.mutated_bytes(random, [weights])
        return {"config.json": text.encode(errors="surrogatepass"), "model.safetensors": weights}

    def read(self, folder: Path) -> None:
        model = QueriedSeparator.from_pretrained(folder, self.encoder)
        with torch.inference_mode():
            condition = model.condition(self.encoder.embed_text("a dog"), is_text=True)
        assert condition.embeddings.shape[-1] == model.condition_dim, (
            "a condition of another length"
        )


TARGETS: dict[str, type[Target]] = {
    target.name: target
    for target in (Sndfile, Ffmpeg, Manifest, Config, Safetensors, Checkpoint, Encoder, Model)
}
"""By their names on the command line."""
