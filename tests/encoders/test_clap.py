"""CLAP through transformers: embeddings, and a model with a CLAP from training to extraction."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from typer.testing import CliRunner

from singleout import Extractor
from singleout.audio import resample, write_wav
from singleout.cli import app
from singleout.encoders import ClapEncoder, load_encoder
from singleout.errors import AudioError, ModelError, QueryError
from tests.conftest import TINY_SEPARATOR
from tests.encoders.clap_models import (
    RATE,
    noise,
    one_line,
    tiny_encoder,
    varied,
)

pytestmark = pytest.mark.slow


def test_text_embeddings_are_those_of_transformers(encoder: ClapEncoder) -> None:
    sentences = ["a dog barking", "rain", "Ünïcode 犬 and 🐕, " * 3]
    ours = encoder.embed_text(sentences)
    assert ours.shape == (3, encoder.dim)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.norm(dim=-1), torch.ones(3))
    for sentence, embedding in zip(sentences, ours, strict=True):
        tokens = encoder.tokenizer(sentence, return_tensors="pt")
        hidden = encoder.model.text_model(**tokens).pooler_output
        expected = F.normalize(encoder.model.text_projection(hidden), dim=-1)[0]
        torch.testing.assert_close(embedding, expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(embedding, encoder.embed_text(sentence)[0], atol=1e-5, rtol=0)
    assert (ours[0] - ours[1]).abs().max() > 1e-2


def test_audio_embeddings_are_those_of_transformers(encoder: ClapEncoder) -> None:
    clips = torch.stack([noise(2), varied(2)])
    ours = encoder.embed_audio(clips, RATE)
    torch.testing.assert_close(ours.norm(dim=-1), torch.ones(2))
    for clip, embedding in zip(clips, ours, strict=True):
        features = encoder.extractor(clip.numpy(), sampling_rate=RATE, return_tensors="pt")
        hidden = encoder.model.audio_model(
            features["input_features"], is_longer=torch.tensor([[False]])
        ).pooler_output
        expected = F.normalize(encoder.model.audio_projection(hidden), dim=-1)[0]
        torch.testing.assert_close(embedding, expected, atol=1e-5, rtol=0)
        single = encoder.embed_audio(clip.numpy(), RATE)[0]
        torch.testing.assert_close(embedding, single, atol=1e-5, rtol=0)
    assert (ours[0] - ours[1]).abs().max() > 1e-3


def test_more_clips_than_a_batch_keep_their_order(encoder: ClapEncoder) -> None:
    clips = torch.stack([noise(0.2, seed) for seed in range(9)])
    together = encoder.embed_audio(clips, RATE)
    torch.testing.assert_close(together[8:], encoder.embed_audio(clips[8], RATE))
    texts = [f"sound {i}" for i in range(9)]
    torch.testing.assert_close(
        encoder.embed_text(texts)[8:], encoder.embed_text(texts[8]), atol=1e-5, rtol=0
    )


def test_clips_of_different_lengths_have_the_embeddings_of_single_clips(
    encoder: ClapEncoder,
) -> None:
    """Long clips and short clips share a batch of a fused model, too."""
    clips = [noise(seconds, seed) for seed, seconds in enumerate((0.2, 10.5, 3.0, 0.2, 12.0))]
    order: list[int] = []

    def augment(log_mel: Tensor, numbers: Sequence[int]) -> Tensor:
        order.extend(numbers)
        return log_mel

    together = encoder.embed_audio(clips, RATE, augment)
    singles = torch.cat([encoder.embed_audio(clip, RATE) for clip in clips])
    torch.testing.assert_close(together, singles, atol=1e-5, rtol=0)
    assert order == [0, 1, 2, 3, 4]


def test_an_encoder_runs_on_a_device(encoder: ClapEncoder) -> None:
    """Everything runs there, up to the copy of the embeddings to the CPU."""
    moved = copy.deepcopy(encoder)
    assert moved.to("meta") is moved  # the device without data stands for a GPU
    for clips in ([noise(0.2), noise(10.5)], [noise(1)]):
        with pytest.raises(NotImplementedError, match=r"out of meta tensor|nonzero"):
            moved.embed_audio(clips, RATE)


def test_long_audio_has_one_embedding(encoder: ClapEncoder) -> None:
    audio = torch.cat([noise(10), varied(7)])
    first, again = (encoder.embed_audio(audio, RATE) for _ in range(2))
    assert torch.equal(first, again)
    if not encoder._features.settings.fused:
        cut = audio[7 * RATE // 2 :][: 10 * RATE]
        assert torch.equal(first, encoder.embed_audio(cut, RATE))


@pytest.mark.parametrize("seconds", [0.2, 10.5])
def test_an_augment_gets_the_features_in_order(seconds: float, encoder: ClapEncoder) -> None:
    seen: list[Tensor] = []
    order: list[int] = []

    def augment(log_mel: Tensor, numbers: Sequence[int]) -> Tensor:
        assert list(numbers) == list(range(len(order), len(order) + len(log_mel)))
        order.extend(numbers)
        seen.append(log_mel.clone())
        return log_mel

    clips = torch.stack([noise(seconds, seed) for seed in range(9)])
    encoder.embed_audio(clips, RATE, augment)
    assert len(seen) == 2, "more clips than a batch"
    torch.testing.assert_close(torch.cat(seen), encoder._features(clips)[0])


def test_audio_is_resampled(encoder: ClapEncoder) -> None:
    audio = noise(1)[: RATE // 2].numpy()
    expected = encoder.embed_audio(resample(audio, 32_000, RATE), RATE)
    assert torch.equal(encoder.embed_audio(audio, 32_000), expected)


def test_the_511th_word_counts_and_the_one_after_the_512_tokens_does_not(
    encoder: ClapEncoder,
) -> None:
    # A letter is a token; the first and last of 512 are the sentence's own.
    full = "a" * 510
    embedding = encoder.embed_text(full)
    assert torch.equal(embedding, encoder.embed_text(full + "b" * 3_000))
    assert not torch.equal(embedding, encoder.embed_text("a" * 509 + "b"))


@pytest.mark.parametrize("text", ["", "  \n", [], ["a", " "]])
def test_blank_text_is_refused(text: str | list[str], encoder: ClapEncoder) -> None:
    with pytest.raises(QueryError, match="the query is empty"):
        encoder.embed_text(text)


@pytest.mark.parametrize(
    ("audio", "rate", "message"),
    [
        (np.zeros(0, np.float32), RATE, "must be"),
        (np.zeros((1, 1, 5), np.float32), RATE, "must be"),
        (np.array([0, np.nan], np.float32), RATE, "NaN or infinite"),
        (np.zeros(100, np.float32), 0, "rate"),
    ],
)
def test_audio_that_cannot_be_embedded_is_one_line(
    audio: Any, rate: int, message: str, encoder: ClapEncoder
) -> None:
    with pytest.raises(AudioError, match=message) as caught:
        encoder.embed_audio(audio, rate)
    one_line(caught)


def test_silence_and_single_samples_are_embedded(encoder: ClapEncoder) -> None:
    for audio in (torch.zeros(100), torch.ones(1)):
        assert torch.isfinite(encoder.embed_audio(audio, RATE)).all()


def test_the_model_is_frozen(encoder: ClapEncoder) -> None:
    assert not encoder.model.training
    assert not any(p.requires_grad for p in encoder.model.parameters())


def test_trains_evaluates_and_extracts_with_a_clap(copied: Path, tmp_path: Path) -> None:
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    lines = []
    for i in range(4):
        tone = np.sin(2 * np.pi * 300 * 2**i * np.arange(16_000) / 32_000)
        write_wav(sounds / f"{i}.wav", 0.3 * tone[None].astype(np.float32), 32_000)
        row = {"path": f"{i}.wav", "seconds": 0.5, "caption": f"tone {i}", "split": "test"}
        lines.append(json.dumps({**row, "class": f"tone/{i}", "group": f"g{i}"}))
    manifest = sounds / "manifest.jsonl"
    manifest.write_text("\n".join(lines) + "\n")
    config = tmp_path / "run.json"
    config.write_text(
        json.dumps(
            {
                "audio": str(sounds),
                "output": str(tmp_path / "run"),
                "model": {
                    "separator": TINY_SEPARATOR.model_dump(mode="json"),
                    "encoder": {"name": str(copied)},
                },
                "mixtures": {"segment_seconds": 0.5, "crop_hop_seconds": 0.25},
                "steps": 2,
                "batch_size": 2,
                "num_workers": 0,
                "precision": "float32",
            }
        )
    )
    run = CliRunner().invoke(app, ["train", str(config)])
    assert run.exit_code == 0, run.output
    model = tmp_path / "run" / "model"
    reference = json.loads((model / "config.json").read_text())["encoder"]
    assert reference == {"name": str(copied), "fingerprint": load_encoder(str(copied)).fingerprint}

    arguments = ["evaluate", str(manifest), "--model", str(model), "--mixtures", "2", "--json"]
    run = CliRunner().invoke(app, arguments)
    assert run.exit_code == 0, run.output
    assert {"text", "audio"} <= set(json.loads(run.stdout)["systems"])

    mixture = np.random.default_rng(9).normal(0, 0.1, (1, 32_000)).astype(np.float32)
    extractor = Extractor.from_pretrained(model)
    high, low = (extractor.extract(mixture, text, 32_000) for text in ("high", "a low tone"))
    assert np.abs(high.target + high.residual - mixture).max() <= 1e-6
    assert np.abs(high.target - low.target).max() > 0

    # The name now means another CLAP, of another width.
    shutil.rmtree(copied)
    tiny_encoder(tmp_path / "tokenizer", dim=32).save_pretrained(copied)
    with pytest.raises(ModelError, match=r"was trained with .* give the encoder") as caught:
        Extractor.from_pretrained(model)
    assert str(copied) in one_line(caught)
