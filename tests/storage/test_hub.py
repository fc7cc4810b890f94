"""Models from the hub's cache, without network; checksums; models that may be uploaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from singleout import Extractor
from singleout.errors import ModelError
from singleout.model import QueriedSeparator, read_config
from singleout.model.loading import _model_card

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached(debug_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache as huggingface-hub lays it out, holding the debug model; no network."""
    repository = tmp_path / "hub" / "models--someone--debug"
    snapshot = repository / "snapshots" / COMMIT
    shutil.copytree(debug_model_folder, snapshot)
    for name in ("main", "v1"):
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / name).write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return snapshot


@pytest.mark.parametrize("name", ["someone/debug", "someone/debug@v1", f"someone/debug@{COMMIT}"])
def test_a_cached_model_is_loaded_offline(
    name: str, cached: Path, debug_model: QueriedSeparator
) -> None:
    extractor = Extractor.from_pretrained(name)
    loaded = extractor.model.state_dict()
    assert all(torch.equal(t, loaded[k]) for k, t in debug_model.state_dict().items())


def test_a_model_that_is_not_cached_is_refused(cached: Path) -> None:
    with pytest.raises(ModelError, match=r"someone/other: no folder of that name, not in the hub"):
        QueriedSeparator.from_pretrained("someone/other")
    with pytest.raises(ModelError, match="someone/debug@v2: no folder of that name"):
        QueriedSeparator.from_pretrained("someone/debug", revision="v2")


def test_a_changed_file_is_refused(debug_model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(debug_model_folder, folder)
    weights = folder / "model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(bytes(damaged))
    with pytest.raises(ModelError, match=r"model\.safetensors: corrupt or truncated: its SHA-256"):
        QueriedSeparator.from_pretrained(folder)


def test_a_saved_model_carries_its_checksum(debug_model_folder: Path) -> None:
    sha256 = read_config(debug_model_folder).sha256
    assert sha256 is not None
    assert len(sha256) == 64


def test_an_encoder_that_is_only_on_this_machine_is_not_uploaded(
    debug_model: QueriedSeparator,
) -> None:
    with pytest.raises(ModelError, match="is only on this machine"):
        debug_model.push_to_hub("someone/model")


def test_an_upload_needs_the_hub(cached: Path, debug_model: QueriedSeparator) -> None:
    config = debug_model.config
    encoder = config.encoder.model_copy(update={"name": "builtin"})
    model = QueriedSeparator(config.model_copy(update={"encoder": encoder}), debug_model.encoder)
    with pytest.raises(ModelError, match="someone/model: cannot be uploaded to the hub"):
        model.push_to_hub("someone/model")


def test_the_card_names_the_separator_and_the_encoder(debug_model: QueriedSeparator) -> None:
    card = _model_card(debug_model)
    assert "`conditioned_unet`" in card
    assert debug_model.encoder.fingerprint in card
