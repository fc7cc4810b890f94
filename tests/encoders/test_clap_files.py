"""CLAPs in folders and on hubs: saved, loaded, refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from singleout.encoders import ClapEncoder, load_encoder
from singleout.encoders.clap_files import check_sizes
from singleout.errors import MissingExtraError, ModelError
from tests.encoders.clap_models import (
    RATE,
    extractor_of,
    noise,
    one_line,
    tiny_model,
)

pytestmark = pytest.mark.slow


def test_a_saved_encoder_gives_the_same_embeddings(encoder: ClapEncoder, tmp_path: Path) -> None:
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


def prepare(folder: Path, **changes: Any) -> None:
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def replace_by_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


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
        (lambda f: configure(f, projection_dim=2**40), "'projection_dim' is 1099511627776"),
        (lambda f: configure(f, text_config={"hidden_size": 10**6}), "'hidden_size' is 1000000"),
        (lambda f: configure(f, text_config={"num_hidden_layers": 10**7}), "'num_hidden_layers'"),
        (lambda f: configure(f, audio_config={"depths": [2, 10**7]}), "'depths' is 10000000"),
        (lambda f: configure(f, audio_config={"depths": [1] * 10**4}), "'depths' has 10,000"),
        (lambda f: configure(f, audio_config={"spec_size": float("inf")}), "'spec_size' is inf"),
        (lambda f: configure(f, note="x" * 2_000_000), "not a query encoder's folder: has"),
        (lambda f: (f / "config.json").write_text('{"a":' * 10**5), "nested deeper"),
        (lambda f: prepare(f, fft_window_size=2**30), "'fft_window_size' is 1073741824"),
        (lambda f: prepare(f, feature_size=2**30), "'feature_size' is 1073741824"),
        (lambda f: replace_by_pipe(f / "config.json"), "not a query encoder's folder: not a file"),
        (lambda f: replace_by_pipe(f / "tokenizer.json"), "no tokenizer|not a file"),
        (lambda f: replace_by_pipe(f / "tokenizer_config.json"), "config.json: not a file"),
        (lambda f: replace_by_pipe(f / "preprocessor_config.json"), "not a file"),
        (lambda f: os.truncate(f / "tokenizer.json", 10**9), "has 1,000,000,000 bytes"),
        (
            lambda f: (
                (f / "model.safetensors").unlink(),
                (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../b"}}'),
            ),
            "not an index of weights",
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
    assert len(one_line(caught)) <= 1_500


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
    """Fill the cache with ``owner/tiny`` as the hub's client does."""
    repository = cache / "models--owner--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / revision).write_text("ab" * 20)
    return Path(shutil.copytree(folder, repository / "snapshots" / ("ab" * 20)))


def test_the_hubs_own_variables_name_its_cache(saved: Path, tmp_path: Path) -> None:
    """A process, because the variables are read when the hub's client is imported."""
    fill_cache(tmp_path / "hub", saved, "v1")
    code = """if True:
        from singleout.errors import ModelError
        from singleout.storage.hub import fetched
        print(fetched("owner/tiny", "v1", ["*.json"]))
        try:
            fetched("owner/tiny", None, ["*.json"])
        except ModelError as error:
            print(error)
    """
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    first, second = run.stdout.splitlines()
    assert first.startswith(str(tmp_path / "hub"))
    assert second.startswith("owner/tiny: no folder of that name, not in the hub's cache")
    assert run.stderr == ""


def test_a_cached_encoder_is_loaded_offline(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_cache(tmp_path / "hub", saved, "v1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert load_encoder("owner/tiny@v1").fingerprint == load_encoder(str(saved)).fingerprint
    loaded = ClapEncoder.from_pretrained("owner/tiny", revision="ab" * 20)
    assert loaded.name == "owner/tiny@" + "ab" * 20
    with pytest.raises(ModelError, match="owner/tiny: no folder of that name, not in the hub's"):
        load_encoder("owner/tiny")


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
def test_a_name_of_nothing_is_one_line(name: str) -> None:
    for find in (load_encoder, ClapEncoder.from_pretrained):
        with pytest.raises(ModelError) as caught:
            find(name)
        assert Path(name).name in one_line(caught)


# The extra.


def test_a_missing_extra_is_named(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_the_sizes_of_real_claps_are_within_the_bounds() -> None:
    from transformers import ClapConfig, ClapFeatureExtractor

    check_sizes(ClapConfig().to_dict(), "the default")
    check_sizes(ClapFeatureExtractor(truncation="fusion").to_dict(), "the default")
    base = {"patch_embeds_hidden_size": 128, "hidden_size": 1_024, "depths": [2, 2, 12, 2]}
    check_sizes(ClapConfig(audio_config=base).to_dict(), "HTSAT-base")
    check_sizes({"max_length": 10**30, "torch_dtype": "float32"}, "written by transformers")
