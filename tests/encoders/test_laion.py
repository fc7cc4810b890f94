"""LAION's checkpoints: embeddings equal to LAION's own code, and every way a file can be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from singleout.encoders import ClapEncoder, load_encoder
from singleout.encoders.laion import from_laion
from singleout.errors import ModelError
from tests.encoders.clap_models import write_tokenizer
from tests.encoders.laion_golden import CASES, GOLDEN, SECONDS, TEXTS, drawn, shapes, sound, weights

pytestmark = pytest.mark.slow

RATE = 48_000


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return folder


def small_weights(fused: bool = False) -> dict[str, Tensor]:
    """A LAION-CLAP with a small HTS-AT, and the other tensors of a real file."""
    tensors = {name: drawn(name, shape) for name, shape in shapes(8, (1, 1, 1, 1), fused).items()}
    for name in (
        "text_branch.embeddings.position_ids",
        "audio_branch.layers.0.blocks.0.attn.relative_position_index",
        "audio_branch.layers.0.blocks.0.attn_mask",
        "audio_branch.bn0.num_batches_tracked",
        "audio_branch.spectrogram_extractor.stft.conv_real.weight",
        "audio_branch.logmel_extractor.melW",
        "audio_branch.tscam_conv.weight",
        "audio_branch.head.bias",
        "text_transform.sequential.0.weight",
        "audio_transform.sequential.3.bias",
    ):
        tensors[name] = torch.zeros(3)
    return tensors


@pytest.mark.parametrize("case", CASES)
def test_embeddings_are_those_of_laions_code(case: str, tokenizer: Path) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))[case]
    encoder = from_laion(weights(case), tokenizer=tokenizer)
    assert encoder.dim == 512
    ours = [encoder.embed_audio(sound(seconds), RATE) for seconds in SECONDS]
    if CASES[case]["fused"]:
        # Two sounds as the four channels of one, which is marked as long.
        clips = torch.stack([sound(seconds)[: 3 * RATE] for seconds in SECONDS])
        mel = encoder._features(clips)[0][:, 0]
        channels = torch.stack([mel[0], mel[1], mel[0], mel[1]])[None]
        with torch.inference_mode():
            output = encoder.model.get_audio_features(channels, torch.tensor([[True]]))
        ours.append(output if isinstance(output, Tensor) else output.pooler_output)
    for kind, embeddings in (("audio", torch.cat(ours)), ("text", encoder.embed_text(TEXTS))):
        theirs = torch.tensor(golden[kind])
        assert (embeddings - theirs).abs().max() <= 5e-6, kind
        # The sounds and the texts differ by far more than that.
        assert (theirs[0] - theirs[1]).abs().max() > 1e-2


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    ("name", "wrapped"),
    [
        ("clap.pt", lambda t: {"epoch": 15, "state_dict": {f"module.{k}": t[k] for k in t}}),
        ("clap.pth", lambda t: t),
        (
            "audiosep.ckpt",
            lambda t: {
                "state_dict": {
                    "ss_model.base.pre_conv.weight": torch.zeros(1),
                    **{f"query_encoder.model.{k}": t[k] for k in t},
                }
            },
        ),
    ],
)
def test_a_file_is_loaded_by_name_and_can_be_saved_as_a_folder(
    name: str, wrapped: Callable[[Any], Any], fused: bool, tmp_path: Path
) -> None:
    write_tokenizer(tmp_path)
    file = tmp_path / name
    torch.save(wrapped(small_weights(fused)), file)
    encoder = load_encoder(str(file))
    assert isinstance(encoder, ClapEncoder)
    assert encoder.name == str(file)
    other = from_laion(small_weights(fused), name=str(file))
    assert encoder.fingerprint == other.fingerprint
    encoder.save_pretrained(tmp_path / "folder")
    stored = load_encoder(str(tmp_path / "folder"), encoder.fingerprint)
    assert torch.equal(stored.embed_text("a dog"), encoder.embed_text("a dog"))
    noise = drawn("noise", (RATE,))
    assert torch.equal(stored.embed_audio(noise, RATE), encoder.embed_audio(noise, RATE))


def without(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.pop(name)


@pytest.mark.parametrize(
    ("damage", "messages"),
    [
        (
            lambda t: [t.pop("audio_projection.2.bias"), t.update(extra=torch.zeros(2))],
            ["'audio_projection.linear2.bias' is missing", "'extra' is unexpected"],
        ),
        (
            lambda t: t.update({"audio_branch.norm.weight": torch.zeros(7)}),
            ["'audio_model.audio_encoder.norm.weight' is [7], expected [64]"],
        ),
        (without("audio_branch.patch_embed.proj.weight"), ["'audio_branch.patch_embed.proj.we"]),
        (without("text_branch.embeddings.word_embeddings.weight"), ["RoBERTa: tensor 'text_branc"]),
        (
            lambda t: t.update(
                {"text_branch.embeddings.token_type_embeddings.weight": torch.zeros(2, 768)}
            ),
            ["is a BERT"],
        ),
        (lambda t: t.clear(), ["not a LAION-CLAP"]),
        (
            lambda t: [t.pop(name) for name in list(t) if ".layers." in name],
            ["LAION-CLAP of impossible shapes"],
        ),
        (
            lambda t: t.update({"audio_branch.patch_embed.proj.weight": torch.zeros(7)}),
            ["LAION-CLAP of impossible shapes"],
        ),
    ],
)
def test_tensors_of_another_model_are_named_in_one_line(
    damage: Callable[[dict[str, Tensor]], object], messages: list[str], tokenizer: Path
) -> None:
    tensors = small_weights()
    damage(tensors)
    with pytest.raises(ModelError) as caught:
        from_laion(tensors, tokenizer=tokenizer, name="my.pt")
    message = str(caught.value)
    assert message.startswith("my.pt: ")
    assert "\n" not in message
    for part in messages:
        assert part in message


def test_a_truncated_file_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "clap.pt"
    torch.save({"a": torch.zeros(1_000)}, file)
    file.write_bytes(file.read_bytes()[:-500])
    for path in (file, tmp_path / "missing.pt"):
        with pytest.raises(ModelError, match=r"truncated|no such file") as caught:
            load_encoder(str(path))
        assert "\n" not in str(caught.value)


def test_a_missing_tokenizer_is_one_line_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    file = tmp_path / "clap.pt"
    torch.save(small_weights(), file)
    with pytest.raises(ModelError, match=r"vocab\.json and merges\.txt next to") as caught:
        load_encoder(str(file))
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match=r"some/tokenizer: .*cannot be reached"):
        from_laion(file, tokenizer="some/tokenizer")
    with pytest.raises(ModelError, match="no tokenizer"):
        from_laion(file, tokenizer=tmp_path)


def test_the_tokenizer_in_the_hubs_cache_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repository = tmp_path / "cache" / "models--roberta-base"
    write_tokenizer(repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    file = tmp_path / "clap.pt"
    torch.save(small_weights(), file)
    assert from_laion(file).embed_text("a dog").shape == (1, 512)
