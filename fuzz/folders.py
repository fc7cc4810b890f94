"""Readers of the folders of query encoders and models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

import torch

from fuzz import mutation
from fuzz.target import Files, Target
from fuzz.texts import MODELS, RESUNET30, RUN
from singleout.encoders import BuiltinEncoder
from singleout.manipulations import FitEmbeddings
from singleout.model import ModelConfig, QueriedSeparator
from tests.conftest import TINY_SEPARATOR, write_debug_encoder


class Encoder(Target):
    """Folders of query encoders: sizes, tokenizer and weights."""

    name = "encoder"

    def prepare(self, folder: Path, with_packages: bool) -> None:
        write_debug_encoder(folder / "encoder")
        self.seed = {
            path.name: path.read_bytes() for path in sorted((folder / "encoder").iterdir())
        }
        self.config = json.loads(self.seed["config.json"])
        self.config["network"].update(text_heads=None, rank=None)
        tokenizer = json.loads(self.seed["tokenizer.json"])
        replace = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
        laughs = {"type": "Sequence", "normalizers": [replace] * 12}
        self.tokenizers: list[Any] = [tokenizer, {**tokenizer, "normalizer": laughs}]

    def make(self, random: Random) -> Files:
        kind = random.random()
        files = dict(self.seed)
        if kind < 0.4:
            text = mutation.mutated_json(random, [self.config, self.config["network"]])
            files["config.json"] = text.encode(errors="surrogatepass")
        elif kind < 0.8:
            text = mutation.mutated_json(random, self.tokenizers)
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
