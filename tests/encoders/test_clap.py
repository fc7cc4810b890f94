"""CLAP through transformers: features, embeddings, the hub's cache, and end to end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from typer.testing import CliRunner

from singleout import Extractor
from singleout.audio import resample, write_wav
from singleout.cli import app
from singleout.encoders import ClapEncoder, load_encoder
from singleout.encoders.clap_features import ClapFeatures
from singleout.errors import AudioError, MissingExtraError, ModelError, QueryError
from tests.conftest import TINY_SEPARATOR
from tests.encoders.clap_models import extractor_of, tiny_encoder, tiny_model

RATE = 48_000


@pytest.fixture(scope="module", params=[False, True], ids=["unfused", "fused"])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_encoder(tmp_path_factory.mktemp("tokenizer"), fused=request.param)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a saved unfused encoder; not to be changed."""
    folder = tmp_path_factory.mktemp("clap")
    tiny_encoder(folder / "tokenizer").save_pretrained(folder / "encoder")
    return folder / "encoder"


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


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


# Features.


@pytest.fixture
def middle(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor draws the middle of whatever it draws from NumPy's global generator."""
    monkeypatch.setattr(np.random, "randint", lambda low, high: (high - 1) // 2)
    monkeypatch.setattr(np.random, "choice", lambda values: values[len(values) // 2])


@pytest.mark.usefixtures("middle")
@pytest.mark.parametrize("seconds", [0.01, 3.3, 9.999, 10.0, 10.005, 10.01, 10.03, 24.7])
@pytest.mark.parametrize("fused", [False, True])
def test_features_are_those_of_the_processor(fused: bool, seconds: float) -> None:
    extractor = extractor_of(fused)
    audio = torch.stack([noise(seconds), varied(seconds)])
    ours, is_longer = ClapFeatures(extractor)(audio)
    theirs = extractor(list(audio.numpy()), sampling_rate=RATE)
    expected = torch.tensor(np.array(theirs["input_features"]))
    assert ours.shape == expected.shape == (2, 4 if fused else 1, 1001, 64)
    assert ours.dtype == torch.float32
    assert (ours - expected).abs().max() <= 2e-5, "dB"
    assert is_longer.tolist() == [[fused and seconds >= 10.01]] * 2


@pytest.mark.usefixtures("middle")
@pytest.mark.parametrize("padding", ["repeatpad", "repeat", "pad"])
@pytest.mark.parametrize("seconds", [0.7, 4.0, 6.0])
def test_settings_are_the_checkpoints_own(padding: str, seconds: float) -> None:
    extractor = extractor_of(
        False, sampling_rate=32_000, hop_length=320, fft_window_size=512, max_length_s=4,
        feature_size=32, frequency_min=100, frequency_max=12_000, padding=padding,
    )  # fmt: skip
    audio = varied(seconds, 32_000)[None]
    ours, _ = ClapFeatures(extractor)(audio)
    theirs = extractor(audio[0].numpy(), sampling_rate=32_000)["input_features"][0]
    assert ours.shape == (1, 1, 401, 32)
    assert (ours[0] - torch.tensor(theirs)).abs().max() <= 2e-5


def test_a_truncation_that_no_clap_has_is_refused() -> None:
    with pytest.raises(ModelError, match="truncation 'sometimes'"):
        ClapFeatures(extractor_of(False, truncation="sometimes"))


# Embeddings.


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
        alone = encoder.embed_audio(clip.numpy(), RATE)[0]
        torch.testing.assert_close(embedding, alone, atol=1e-5, rtol=0)
    assert (ours[0] - ours[1]).abs().max() > 1e-3


def test_more_clips_than_a_batch_keep_their_order(encoder: ClapEncoder) -> None:
    clips = torch.stack([noise(0.2, seed) for seed in range(9)])
    together = encoder.embed_audio(clips, RATE)
    torch.testing.assert_close(together[8:], encoder.embed_audio(clips[8], RATE))
    texts = [f"sound {i}" for i in range(9)]
    torch.testing.assert_close(
        encoder.embed_text(texts)[8:], encoder.embed_text(texts[8]), atol=1e-5, rtol=0
    )


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

    def augment(log_mel: Tensor) -> Tensor:
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


# Fingerprints and folders.


def test_an_encoder_survives_saving(encoder: ClapEncoder, tmp_path: Path) -> None:
    encoder.save_pretrained(tmp_path / "saved")
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    for loaded in (
        ClapEncoder.from_pretrained(tmp_path / "saved"),
        load_encoder(str(tmp_path / "saved"), encoder.fingerprint),
    ):
        assert isinstance(loaded, ClapEncoder)
        assert loaded.fingerprint == encoder.fingerprint
        assert loaded.name == str(tmp_path / "saved")
        assert torch.equal(loaded.embed_text("a dog"), encoder.embed_text("a dog"))
        audio = noise(11)
        assert torch.equal(loaded.embed_audio(audio, RATE), encoder.embed_audio(audio, RATE))


def test_transformers_reads_what_is_saved(saved: Path) -> None:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(saved)
    assert processor.tokenizer("a dog")["input_ids"] == [0, 101, 36, 104, 115, 107, 2]
    assert processor.feature_extractor.frequency_min == 50


def test_the_fingerprint_is_of_weights_settings_and_tokenizer(
    encoder: ClapEncoder, tmp_path: Path
) -> None:
    fused = encoder._features.settings.fused
    model, tokenizer, extractor = encoder.model, encoder.tokenizer, encoder.extractor
    encoder.embed_text("a text that sets the tokenizer to pad and to truncate")
    same = ClapEncoder(model, tokenizer, extractor, "another name")
    assert same.fingerprint == encoder.fingerprint
    prints = {encoder.fingerprint}
    with torch.no_grad():
        changed = tiny_model(fused)
        changed.text_projection.linear2.bias[3] += 1e-6
    prints.add(ClapEncoder(changed, tokenizer, extractor, "x").fingerprint)
    settings = extractor_of(fused, frequency_min=60)
    prints.add(ClapEncoder(model, tokenizer, settings, "x").fingerprint)
    vocabulary = tmp_path / "vocab.json"
    tokenizer.save_pretrained(tmp_path)
    pieces = json.dumps(tokenizer.get_vocab())
    vocabulary.write_text(pieces.replace('"a": 101', '"a": 102').replace('"b": 102', '"b": 101'))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "tokenizer.json").unlink()
    swapped = type(tokenizer).from_pretrained(tmp_path)
    prints.add(ClapEncoder(model, swapped, extractor, "x").fingerprint)
    assert len(prints) == 4


def test_shards_and_pickled_weights_are_read(copied: Path) -> None:
    encoder = ClapEncoder.from_pretrained(copied)
    tensors = load_file(copied / "model.safetensors")
    (copied / "model.safetensors").unlink()
    torch.save(tensors, copied / "pytorch_model.bin")
    assert ClapEncoder.from_pretrained(copied).fingerprint == encoder.fingerprint
    (copied / "pytorch_model.bin").unlink()
    files = {name: f"model-{len(name) % 2}.safetensors" for name in tensors}
    for file in set(files.values()):
        save_file({n: t for n, t in tensors.items() if files[n] == file}, copied / file)
    (copied / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    assert ClapEncoder.from_pretrained(copied).fingerprint == encoder.fingerprint


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def configure(folder: Path, **changes: Any) -> None:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **changes}))


def remove(folder: Path, *names: str) -> None:
    # transformers 4 writes the tokenizer twice.
    for name in names:
        (folder / name).unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: configure(f, model_type="bert"), "not a CLAP: .* model_type 'bert'"),
        (lambda f: configure(f, audio_config={"depths": "x"}), "of another CLAP"),
        (lambda f: configure(f, projection_dim=-1), "of another CLAP"),
        (lambda f: (f / "model.safetensors").unlink(), r"no weights \(model\.safetensors or"),
        (
            lambda f: (f / "model.safetensors").write_bytes(
                (f / "model.safetensors").read_bytes()[:-100]
            ),
            "corrupt or truncated weights",
        ),
        (lambda f: remove(f, "tokenizer.json", "vocab.json"), "no tokenizer"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer cannot be read"),
        (lambda f: (f / "preprocessor_config.json").unlink(), "no preprocessing settings"),
        (
            lambda f: (f / "preprocessor_config.json").write_text("{"),
            "preprocessing cannot be read",
        ),
        (
            lambda f: rewrite(f, lambda t: t.pop("text_projection.linear1.bias")),
            r"'text_projection\.linear1\.bias' is missing",
        ),
        (
            lambda f: rewrite(f, lambda t: t.update(extra=torch.zeros(1))),
            "'extra' is unexpected",
        ),
        (
            lambda f: rewrite(
                f, lambda t: t.update({"text_projection.linear1.bias": torch.zeros(7)})
            ),
            r"'text_projection\.linear1\.bias' is \[7\], expected \[24\]",
        ),
    ],
)
def test_a_damaged_folder_is_one_line(
    damage: Callable[[Path], object], message: str, copied: Path
) -> None:
    damage(copied)
    with pytest.raises(ModelError, match=message) as caught:
        load_encoder(str(copied))
    assert str(copied) in one_line(caught)


def test_a_folder_without_a_clap_is_one_line(tmp_path: Path) -> None:
    for content in ("", "[]", '{"model_type": "clap"}'):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ModelError, match=r"CLAP|no weights") as caught:
            ClapEncoder.from_pretrained(tmp_path)
        assert str(tmp_path) in one_line(caught)


def test_a_tokenizer_of_another_model_is_refused(encoder: ClapEncoder) -> None:
    small = tiny_model(encoder._features.settings.fused)
    small.config.text_config.vocab_size = 100
    with pytest.raises(ModelError, match=r"261 tokens.* is not the model's \(100 tokens"):
        ClapEncoder(small, encoder.tokenizer, encoder.extractor, "x")


# The hub.


def fill_cache(cache: Path, folder: Path, revision: str = "main") -> Path:
    """As the hub's client leaves ``owner/tiny`` there."""
    repository = cache / "models--owner--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / revision).write_text("ab" * 20)
    return Path(shutil.copytree(folder, repository / "snapshots" / ("ab" * 20)))


def test_a_cached_encoder_is_found_offline_by_the_hubs_own_variables(
    saved: Path, tmp_path: Path
) -> None:
    fill_cache(tmp_path / "hub", saved, "v1")
    code = """if True:
        from singleout.errors import ModelError
        from singleout.encoders import ClapEncoder, load_encoder
        print(load_encoder("owner/tiny@v1").fingerprint)
        print(ClapEncoder.from_pretrained("owner/tiny", revision="ab" * 20).name)
        try:
            load_encoder("owner/tiny")
        except ModelError as error:
            print(error)
    """
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    first, second, third = run.stdout.splitlines()
    assert first == load_encoder(str(saved)).fingerprint
    assert second == "owner/tiny@" + "ab" * 20
    assert third.startswith("owner/tiny: no folder of that name, not in the hub's cache")
    assert run.stderr == ""


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub refuses every connection; returns its cache."""
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return cache


def test_no_network_is_one_line_unless_the_encoder_is_cached(no_network: Path, saved: Path) -> None:
    with pytest.raises(ModelError, match=r"owner/tiny: .*cannot be reached.*go online") as caught:
        load_encoder("owner/tiny")
    one_line(caught)
    fill_cache(no_network, saved)
    assert load_encoder("owner/tiny").dim == 24


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("tokenizer.json", "vocab.json"), "owner/tiny: no tokenizer"),
        (("model.safetensors",), "owner/tiny: no weights"),
    ],
)
def test_what_the_cache_lacks_is_named(
    files: tuple[str, ...], message: str, no_network: Path, copied: Path
) -> None:
    remove(copied, *files)
    fill_cache(no_network, copied)
    with pytest.raises(ModelError, match=message) as caught:
        load_encoder("owner/tiny")
    one_line(caught)


@pytest.mark.parametrize("name", ["nowhere", "a/b/c", "~/nowhere", "/nowhere/at all", "a b/c"])
def test_a_name_that_is_nothing_is_one_line(name: str) -> None:
    for find in (load_encoder, ClapEncoder.from_pretrained):
        with pytest.raises(ModelError) as caught:
            find(name)
        assert Path(name).name in one_line(caught)


# The extra.


def test_without_the_extra_it_is_named(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    for name in (str(saved), "owner/tiny", "clap.pt"):
        with pytest.raises(MissingExtraError, match=r"pip install 'singleout\[clap\]'") as caught:
            load_encoder(name)
        one_line(caught)


def test_the_built_in_model_loads_no_transformers() -> None:
    code = """if True:
        import sys
        import singleout.cli
        from singleout import Extractor
        from singleout.encoders import ClapEncoder, load_encoder
        Extractor.from_pretrained()
        loaded = {name.split(".")[0] for name in sys.modules}
        print(loaded & {"transformers", "huggingface_hub"})
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


# End to end.


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
