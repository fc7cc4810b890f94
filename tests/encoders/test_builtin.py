"""The built-in encoder and its parts: text, audio, files."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from singleout.encoders import BuiltinEncoder, load_encoder
from singleout.encoders.audio_tower import (
    NUM_MELS,
    LogMel,
    level,
    mel_filters,
    minimum_samples,
    pad_to_minimum,
)
from singleout.encoders.minilm import MAX_TOKENS, MiniLM, from_bert_names
from singleout.errors import AudioError, ModelError, QueryError

RATE = 32_000


def noise(num_samples: int = RATE, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(num_samples, generator=torch.Generator().manual_seed(seed))


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# Text.


def test_text_embeddings_have_unit_norm_and_depend_on_the_words(
    debug_encoder: BuiltinEncoder,
) -> None:
    sentences = ["a dog barking", "rain on a roof", "x"]
    embeddings = debug_encoder.embed_text(sentences)
    assert embeddings.shape == (3, debug_encoder.dim)
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(3))
    assert (embeddings[0] - embeddings[1]).abs().max() > 1e-4
    assert torch.equal(embeddings, debug_encoder.embed_text(sentences))
    assert torch.equal(debug_encoder.embed_text("X"), debug_encoder.embed_text("x"))


def test_padding_in_a_batch_changes_nothing(debug_encoder: BuiltinEncoder) -> None:
    sentences = ["a", "a dog barking at the moon far away", "rain"]
    together = debug_encoder.embed_text(sentences)
    for sentence, embedding in zip(sentences, together, strict=True):
        single = debug_encoder.embed_text(sentence)[0]
        torch.testing.assert_close(embedding, single, atol=1e-5, rtol=0)


@pytest.mark.parametrize("text", ["", "  \n", [], ["a", " "]])
def test_blank_text_is_refused(text: str | list[str], debug_encoder: BuiltinEncoder) -> None:
    with pytest.raises(QueryError, match="the query is empty"):
        debug_encoder.embed_text(text)


def test_long_and_strange_text_is_embedded(debug_encoder: BuiltinEncoder) -> None:
    for text in ("dog " * 2_500, "犬が吠える", "🐕", "a" * 10_000):
        embedding = debug_encoder.embed_text(text)
        assert torch.isfinite(embedding).all()
        assert embedding.norm() == pytest.approx(1, abs=1e-5)


def bert_tensors(vocabulary: int, dim: int, hidden: int, num_layers: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return 0.3 * torch.randn(shape, generator=generator)

    tensors = {
        "embeddings.word_embeddings.weight": drawn(vocabulary, dim),
        "embeddings.token_type_embeddings.weight": drawn(2, dim),
        "embeddings.position_embeddings.weight": drawn(2 * MAX_TOKENS, dim),
        "embeddings.LayerNorm.weight": 1 + drawn(dim),
        "embeddings.LayerNorm.bias": drawn(dim),
    }
    for i in range(num_layers):
        layer = f"encoder.layer.{i}."
        for name, rows, columns in [
            ("attention.self.query", dim, dim),
            ("attention.self.key", dim, dim),
            ("attention.self.value", dim, dim),
            ("attention.output.dense", dim, dim),
            ("intermediate.dense", hidden, dim),
            ("output.dense", dim, hidden),
        ]:
            tensors[f"{layer}{name}.weight"] = drawn(rows, columns)
            tensors[f"{layer}{name}.bias"] = drawn(rows)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            tensors[f"{layer}{name}.weight"] = 1 + drawn(dim)
            tensors[f"{layer}{name}.bias"] = drawn(dim)
    return tensors


def reference_bert(t: dict[str, Tensor], ids: list[int], layers: int, heads: int) -> Tensor:
    """BERT with mean pooling, of one sentence without padding, written from its description."""

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], t[f"{name}.weight"], t[f"{name}.bias"], 1e-12)

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    x = t["embeddings.word_embeddings.weight"][ids]
    x = x + t["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + t["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for i in range(layers):
        layer = f"encoder.layer.{i}."
        parts = [linear(x, f"{layer}attention.self.{p}") for p in ("query", "key", "value")]
        heads_out = []
        for q, k, v in zip(*(part.chunk(heads, -1) for part in parts), strict=True):
            heads_out.append((q @ k.T / q.shape[-1] ** 0.5).softmax(-1) @ v)
        y = linear(torch.cat(heads_out, -1), f"{layer}attention.output.dense")
        x = norm(x + y, f"{layer}attention.output.LayerNorm")
        y = linear(F.gelu(linear(x, f"{layer}intermediate.dense")), f"{layer}output.dense")
        x = norm(x + y, f"{layer}output.LayerNorm")
    return x.mean(0)


def test_minilm_agrees_with_an_independent_bert() -> None:
    tensors = bert_tensors(20, 24, 40, 2)
    network = MiniLM(20, 24, 2, 3, 40).eval().requires_grad_(False)
    renamed = from_bert_names(tensors, 2)
    network.load_state_dict(renamed)
    table = renamed["words.weight"].float() * renamed["words.scale"]
    error = (table - tensors["embeddings.word_embeddings.weight"]).abs()
    assert (error <= renamed["words.scale"] / 2 * (1 + 1e-4)).all()
    tensors["embeddings.word_embeddings.weight"] = table
    sentences = [[1, 5, 7, 2], [3, 19]]
    ids = torch.tensor([sentences[0], [*sentences[1], 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    for ours, sentence in zip(network(ids, mask), sentences, strict=True):
        torch.testing.assert_close(
            ours, reference_bert(tensors, sentence, 2, 3), atol=1e-5, rtol=1e-5
        )


# Audio.


def test_audio_embeddings_have_unit_norm_and_are_the_same_in_a_batch(
    debug_encoder: BuiltinEncoder,
) -> None:
    clips = torch.stack([noise(seed=0), noise(seed=1)])
    together = debug_encoder.embed_audio(clips, RATE)
    assert together.shape == (2, debug_encoder.dim)
    torch.testing.assert_close(together.norm(dim=-1), torch.ones(2))
    for clip, embedding in zip(clips, together, strict=True):
        single = debug_encoder.embed_audio(clip.numpy(), RATE)[0]
        torch.testing.assert_close(single, embedding, atol=1e-5, rtol=0)


def test_clips_of_different_lengths_have_the_embeddings_of_single_clips(
    debug_encoder: BuiltinEncoder,
) -> None:
    """To rounding. Clips of one length share a call of the network."""
    lengths = (RATE, 100, RATE // 2, RATE, 200, RATE // 2, RATE)
    clips = [noise(length, seed) for seed, length in enumerate(lengths)]
    calls: list[list[int]] = []

    def augment(log_mel: Tensor, numbers: Sequence[int]) -> Tensor:
        calls.append([*numbers])
        return log_mel

    together = debug_encoder.embed_audio(clips, RATE, augment)
    singles = torch.cat([debug_encoder.embed_audio(clip, RATE) for clip in clips])
    torch.testing.assert_close(together, singles, atol=1e-5, rtol=0)
    assert calls == [[0, 3, 6], [1, 2, 4, 5]]  # the shortest are padded to 0.64 s


def test_an_encoder_runs_on_a_device(debug_encoder: BuiltinEncoder) -> None:
    """Everything runs there, up to the copy of the embeddings to the CPU."""
    moved = copy.deepcopy(debug_encoder)
    assert moved.to("meta") is moved  # the device without data stands for a GPU
    with pytest.raises(NotImplementedError, match="out of meta tensor"):
        moved.embed_audio([noise(), noise(100)], RATE)
    with pytest.raises(RuntimeError, match="meta tensors"):  # where tokens are compared
        moved.embed_text("a dog")


@pytest.mark.parametrize("gain", [1e-3, 10.0])
def test_the_level_of_a_sound_has_no_effect(gain: float, debug_encoder: BuiltinEncoder) -> None:
    a, b = (debug_encoder.embed_audio(g * noise(), RATE) for g in (1.0, gain))
    torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def test_an_augment_gets_the_log_mel_of_the_levelled_clips(debug_encoder: BuiltinEncoder) -> None:
    log_mels: list[Tensor] = []

    def augment(log_mel: Tensor, clips: Sequence[int]) -> Tensor:
        log_mels.append(log_mel.clone())
        return log_mel

    clips = torch.stack([noise(seed=0), 3 * noise(seed=1)])
    debug_encoder.embed_audio(clips, RATE, augment)
    (log_mel,) = log_mels
    torch.testing.assert_close(log_mel, LogMel()(level(clips)).transpose(2, 3))


@settings(deadline=None, max_examples=8)
@given(num_samples=st.integers(1, 40_000), rate=st.sampled_from([8_000, 32_000, 44_100, 48_000]))
def test_any_length_and_rate_is_embedded(
    debug_encoder: BuiltinEncoder, num_samples: int, rate: int
) -> None:
    embedding = debug_encoder.embed_audio(noise(num_samples).numpy(), rate)
    assert embedding.shape == (1, debug_encoder.dim)
    assert torch.isfinite(embedding).all()


def test_silence_is_embedded(debug_encoder: BuiltinEncoder) -> None:
    assert torch.isfinite(debug_encoder.embed_audio(torch.zeros(100), RATE)).all()


@pytest.mark.parametrize(
    ("audio", "rate", "message"),
    [
        (np.zeros(0, np.float32), RATE, "must be"),
        (np.zeros((1, 1, 5), np.float32), RATE, "must be"),
        (np.float32(1), RATE, "must be"),
        (np.array([0, np.nan], np.float32), RATE, "NaN or infinite"),
        (np.array([0, np.inf], np.float32), RATE, "NaN or infinite"),
        (np.zeros(100, np.float32), 0, "rate"),
        (np.zeros(100, np.float32), -1, "rate"),
    ],
)
def test_audio_that_cannot_be_embedded_is_one_line(
    audio: Any, rate: int, message: str, debug_encoder: BuiltinEncoder
) -> None:
    with pytest.raises(AudioError, match=message) as caught:
        debug_encoder.embed_audio(audio, rate)
    one_line(caught)


def test_padding_and_level() -> None:
    short = noise(100)
    padded = pad_to_minimum(short)
    assert padded.shape == (minimum_samples(),)
    assert torch.equal(padded[:100], short)
    assert not padded[100:].any()
    long = noise(minimum_samples())
    assert pad_to_minimum(long) is long
    quiet = torch.cat([torch.zeros(RATE), 0.01 * torch.ones(RATE)])[None]
    torch.testing.assert_close(level(quiet)[0, -1], torch.tensor(0.1))
    assert not level(torch.zeros(1, 500)).any()


def test_a_tone_is_in_the_band_of_its_frequency() -> None:
    filters = mel_filters()
    assert filters.shape == (NUM_MELS, 513)
    assert (filters >= 0).all()
    assert (filters <= 1).all()
    tones = torch.stack([torch.sin(2 * torch.pi * hz * torch.arange(RATE) / RATE)
                         for hz in (300.0, 2_000.0, 9_000.0)])  # fmt: skip
    bands = LogMel()(tones)[:, 0].mean(-1).argmax(-1)
    centres = 1127 * torch.log1p(torch.tensor([300.0, 2_000.0, 9_000.0]) / 700)
    low, high = (1127 * np.log1p(hz / 700) for hz in (50, 14_000))
    expected = (centres - low) / (high - low) * (NUM_MELS + 1) - 1
    assert (bands - expected).abs().max() <= 1


# On disk.


def test_an_encoder_of_an_earlier_version_keeps_its_fingerprint(tmp_path: Path) -> None:
    golden = Path(__file__).parents[1] / "golden" / "old_run" / "encoder"
    encoder = BuiltinEncoder.from_pretrained(golden)
    encoder.save_pretrained(tmp_path)  # with a checksum, which the golden file does not have
    assert encoder.fingerprint == "451056523857a5ed"
    assert load_encoder(str(tmp_path), "451056523857a5ed").fingerprint == "451056523857a5ed"


def test_a_saved_encoder_gives_the_same_embeddings(
    debug_encoder: BuiltinEncoder, debug_encoder_folder: Path, tmp_path: Path
) -> None:
    loaded = BuiltinEncoder.from_pretrained(debug_encoder_folder)
    assert loaded.fingerprint == debug_encoder.fingerprint != ""
    sentence = "a dog barking"
    assert torch.equal(loaded.embed_text(sentence), debug_encoder.embed_text(sentence))
    assert torch.equal(loaded.embed_audio(noise(), RATE), debug_encoder.embed_audio(noise(), RATE))
    loaded.save_pretrained(tmp_path)
    again = BuiltinEncoder.from_pretrained(tmp_path)
    torch.testing.assert_close(
        again.embed_text(sentence), loaded.embed_text(sentence), atol=1e-4, rtol=0
    )


def change_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


REPLACE = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
LAUGHS = {"normalizer": {"type": "Sequence", "normalizers": [REPLACE] * 12}}
"""Makes 10^12 letters of one."""
SPLIT = {"type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Isolated", "invert": False}


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "config.json").unlink(),
        lambda folder: (folder / "config.json").write_text("{"),
        lambda folder: (folder / "config.json").write_text("[]"),
        lambda folder: (folder / "tokenizer.json").unlink(),
        lambda folder: (folder / "tokenizer.json").write_text("{}"),
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: truncate(folder / "model.safetensors"),
        lambda folder: change_json(folder / "config.json", lambda c: c.update(type="clap")),
        lambda folder: change_json(folder / "config.json", lambda c: c.pop("network")),
        lambda folder: change_json(folder / "config.json", lambda c: c.pop("fingerprint")),
        lambda folder: change_json(folder / "config.json", lambda c: c["network"].update(dim=8)),
        lambda folder: change_json(folder / "config.json", lambda c: c["network"].update(dim="x")),
        lambda folder: change_json(
            folder / "config.json", lambda c: c["network"].update(audio_channels=[])
        ),
        lambda folder: change_json(
            folder / "config.json", lambda c: c["network"]["sentence"].update(depth=3)
        ),
        lambda folder: shutil.rmtree(folder),
        lambda folder: (folder / "config.json").write_text('{"a":' * 100_000),
        lambda folder: (folder / "config.json").write_text(" " * 2_000_000),
        lambda folder: replace_by_pipe(folder / "config.json"),
        lambda folder: replace_by_pipe(folder / "tokenizer.json"),
        lambda folder: (folder / "tokenizer.json").write_text('{"a":' * 100_000),
        lambda folder: os.truncate(folder / "tokenizer.json", 10**9),
        *(
            lambda folder, part=part: change_json(
                folder / "tokenizer.json", lambda tokenizer: tokenizer.update(part)
            )
            for part in (LAUGHS, {"pre_tokenizer": SPLIT}, {"model": {"type": "BPE"}})
        ),
        *(
            lambda folder, key=key, value=value: change_json(
                folder / "config.json", lambda c: c["network"].update({key: value})
            )
            for key in ("dim", "text_hidden", "text_heads", "rank", "audio_channels")
            for value in (0, -1, 2**40, 10**4_000, 1.5, "x" * 100_000, [2**62] * 5, None)
            if (key, value) not in [("text_heads", None), ("rank", None)]
        ),
        *(
            lambda folder, key=key, value=value: change_json(
                folder / "config.json", lambda c: c["network"]["sentence"].update({key: value})
            )
            for key in ("dim", "vocabulary", "num_layers", "num_heads", "hidden")
            for value in (0, 5, 2**40, None)
        ),
    ],
)
def test_a_damaged_encoder_is_one_line(
    damage: Callable[[Path], object], debug_encoder_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(debug_encoder_folder, folder)
    damage(folder)
    with pytest.raises(ModelError) as caught:
        load_encoder(str(folder))
    assert str(folder) in one_line(caught)
    assert len(one_line(caught)) <= 1_500


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["model"]["vocab"].update({"dog": 10**6}), "it gives token 1,000,000 of 76"),
        (lambda t: t.update(post_processor=None), "1 to 256 tokens"),
    ],
)
def test_a_tokenizer_of_another_encoder_is_one_line(
    change: Callable[[dict[str, Any]], object],
    message: str,
    debug_encoder_folder: Path,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(debug_encoder_folder, folder)
    change_json(folder / "tokenizer.json", change)
    encoder = BuiltinEncoder.from_pretrained(folder)
    with pytest.raises(ModelError, match=message) as caught:
        encoder.embed_text(["dog", "\u200b"])
    one_line(caught)


def test_another_fingerprint_is_refused(
    debug_encoder: BuiltinEncoder, debug_encoder_folder: Path
) -> None:
    name = str(debug_encoder_folder)
    assert load_encoder(name, debug_encoder.fingerprint).dim == debug_encoder.dim
    with pytest.raises(ModelError, match=r"fingerprint .* was trained with 0123") as caught:
        load_encoder(name, "0123")
    one_line(caught)
