"""Tiny CLAPs and their tokenizer, built locally, for the tests of CLAP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from singleout.encoders import ClapEncoder
from tests.conftest import randomise_statistics

RATE = 48_000


def noise(seconds: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(int(RATE * seconds), generator=generator)


def varied(seconds: float, rate: int = RATE) -> Tensor:
    """A loud tone that fades into digital silence: the hardest case for a logarithm."""
    time = torch.arange(int(rate * seconds)) / rate
    tone = torch.sin(2 * torch.pi * 440 * time) * torch.exp(-3 * time)
    return torch.where((time * 3).int() % 3 == 2, torch.zeros(()), tone)


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def write_tokenizer(folder: Path) -> None:
    """RoBERTa's kind of tokenizer, over single bytes: the number of a byte is fixed."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    # GPT-2's alphabet: bytes that cannot be printed are moved up.
    letters = {byte: chr(byte) for byte in printable}
    others = [byte for byte in range(256) if byte not in letters]
    letters |= {byte: chr(256 + i) for i, byte in enumerate(others)}
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *(letters[byte] for byte in range(256)), "<mask>"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")


def tiny_config(fused: bool = False, dim: int = 24) -> Any:
    from transformers import ClapConfig

    return ClapConfig(
        text_config={
            "vocab_size": 261,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "max_position_embeddings": 514,
            "pad_token_id": 1,
        },
        audio_config={
            "patch_embeds_hidden_size": 4,
            "hidden_size": 32,
            "depths": [1, 2, 1, 1],
            "num_attention_heads": [1, 1, 2, 2],
            "enable_fusion": fused,
            "fusion_type": "aff_2d" if fused else None,
        },
        projection_dim=dim,
    )


def extractor_of(fused: bool, **changes: Any) -> Any:
    """The ``ClapFeatureExtractor`` that LAION's checkpoints come with."""
    from transformers import ClapFeatureExtractor

    settings = {"frequency_min": 50, "truncation": "fusion" if fused else "rand_trunc", **changes}
    return ClapFeatureExtractor(**settings)


def tiny_model(fused: bool = False, dim: int = 24, seed: int = 0) -> Any:
    """As if it had been trained: every weight counts."""
    from transformers import ClapModel

    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = ClapModel(tiny_config(fused, dim))
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        randomise_statistics(model)
        norm = model.audio_model.audio_encoder.batch_norm
        norm.running_mean.sub_(40)
        norm.running_var.mul_(400)
    return model


def tiny_encoder(folder: Path, fused: bool = False, dim: int = 24, seed: int = 0) -> ClapEncoder:
    """A tiny CLAP; its tokenizer's files are left in ``folder``."""
    from transformers import RobertaTokenizerFast

    write_tokenizer(folder)
    tokenizer = RobertaTokenizerFast.from_pretrained(folder)
    return ClapEncoder(tiny_model(fused, dim, seed), tokenizer, extractor_of(fused), str(folder))
