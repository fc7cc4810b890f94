"""The public face of the package: what a user imports, and how it behaves."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import singleout
from singleout import (
    AudioError,
    Extraction,
    ExtractOptions,
    Extractor,
    InputError,
    ModelError,
    Presence,
    Query,
    QueryError,
    SingleoutError,
)
from tests.recordings import RATE, noise, write_recording


def test_public_surface_is_locked() -> None:
    assert singleout.__all__ == [
        "AudioError",
        "Cancelled",
        "ConfigError",
        "Example",
        "ExtractOptions",
        "Extraction",
        "Extractor",
        "InputError",
        "ManifestError",
        "MissingExtraError",
        "ModelError",
        "OutputError",
        "Presence",
        "Query",
        "QueryError",
        "ShardError",
        "SingleoutError",
        "TrainingError",
        "list_models",
    ]
    assert all(getattr(singleout, name) is not None for name in singleout.__all__)
    assert set(singleout.__all__) <= set(dir(singleout))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        singleout.nothing  # noqa: B018


def test_importing_loads_neither_torch_nor_weights() -> None:
    code = (
        "import sys, singleout; from singleout import Query, SingleoutError; "
        "print(sorted({'torch', 'numpy', 'lightning'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_module_is_the_command() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "singleout", "--version"], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == f"singleout {singleout.__version__}"


def test_the_packaged_model_has_a_name() -> None:
    assert singleout.list_models() == ["builtin"]
    by_name, by_default = (Extractor.from_pretrained(name) for name in ("builtin", None))
    assert by_name.model.config == by_default.model.config
    assert by_name.sample_rate == RATE
    assert by_name.device == torch.device("cpu")
    assert repr(by_name) == "Extractor(sample_rate=32000, device='cpu')"
    assert by_name.to("cpu") is by_name
    with pytest.raises(ModelError, match="device 'nothing' cannot be used"):
        by_name.to("nothing")
    with pytest.raises(ModelError, match="does not exist"):
        Extractor.from_pretrained("no-such-folder")


def test_several_queries_give_a_list(extractor: Extractor) -> None:
    mixture = noise()
    results = extractor.extract(mixture, ["a dog", Query("rain")], RATE)
    assert isinstance(results, list)
    assert [str(result.query) for result in results] == ["a dog", "rain"]
    assert results[0] == extractor.extract(mixture, "a dog", RATE)
    (single,) = extractor.extract(mixture, ["a dog"], RATE)
    assert single == results[0]
    with pytest.raises(QueryError, match="no query"):
        extractor.extract(mixture, [], RATE)
    with pytest.raises(QueryError, match="must be text or an example, not int"):
        extractor.extract(mixture, 5, RATE)  # type: ignore[call-overload]
    with pytest.raises(AudioError, match="takes a path or a file object, not ndarray"):
        extractor.extract_file(noise(), "a dog")  # type: ignore[arg-type]


def test_arrays_with_a_rate_and_file_objects_are_recordings(
    extractor: Extractor, tmp_path: Path
) -> None:
    mixture = noise(20_000, 2)
    expected = extractor.extract(mixture, "a dog", 44_100)
    np.testing.assert_array_equal(
        extractor.extract((mixture, 44_100), "a dog").target, expected.target
    )
    path = write_recording(tmp_path / "x.wav", mixture, 44_100, "FLOAT")
    for source in (io.BytesIO(path.read_bytes()), path.open("rb")):
        with source:
            result = extractor.extract(source, "a dog")
        np.testing.assert_array_equal(result.target, expected.target)
        assert result.sample_rate == 44_100
        assert result.source is None
    with pytest.raises(AudioError, match=r"^audio: its sample rate is 44100 Hz, not 48000"):
        extractor.extract((mixture, 44_100), "a dog", 48_000)
    with pytest.raises(AudioError, match=r"^audio: its sample rate is 44100 Hz, not 48000"):
        extractor.extract(io.BytesIO(path.read_bytes()), "a dog", 48_000)
    with pytest.raises(AudioError, match=r"^audio: "):
        extractor.extract(io.BytesIO(b"no sound"), "a dog")
    with pytest.raises(AudioError, match="open it with 'rb'"):
        extractor.extract(io.StringIO("no sound"), "a dog")  # type: ignore[call-overload]


def test_file_objects_leave_no_temporary_files(
    extractor: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(AudioError):
        extractor.extract(io.BytesIO(b"no sound"), "a dog")
    assert list(tmp_path.iterdir()) == []


def test_options_are_given_at_construction_or_for_one_call(debug_model_folder: Path) -> None:
    extractor = Extractor.from_pretrained(debug_model_folder, chunk_seconds=0.5, gate=False)
    assert extractor.options == ExtractOptions(chunk_seconds=0.5, gate=False)
    mixture = noise(channels=2)
    separate = extractor.extract(mixture, "a dog", RATE, link_channels=False)
    assert separate != extractor.extract(mixture, "a dog", RATE)
    other = Extractor.from_pretrained(debug_model_folder, link_channels=False, chunk_seconds=0.5)
    assert separate == other.extract(mixture, "a dog", RATE, gate=False)
    with pytest.raises(TypeError, match="unexpected keyword"):
        extractor.extract(mixture, "a dog", RATE, no_such_option=True)  # type: ignore[call-overload]


@pytest.mark.parametrize("seconds", [0, -5.0, float("nan"), float("inf"), "5", None])
def test_an_impossible_chunk_length_is_refused(extractor: Extractor, seconds: Any) -> None:
    with pytest.raises(InputError, match="chunk_seconds must be a positive number, not"):
        Extractor(extractor.model, chunk_seconds=seconds)
    with pytest.raises(InputError, match="chunk_seconds must be a positive number, not"):
        extractor.extract(noise(), "a dog", RATE, chunk_seconds=seconds)


def test_an_extraction_compares_hashes_and_prints(
    extractor: Extractor, calibrated_extractor: Extractor
) -> None:
    mixture = noise()
    one, same = (extractor.extract(mixture, "a dog", RATE) for _ in range(2))
    assert one == same
    assert hash(one) == hash(same)
    assert one != extractor.extract(mixture, "rain", RATE)
    assert one != "a dog"
    assert repr(one) == "Extraction(query='a dog', channels=1, seconds=1.00, sample_rate=32000)"
    np.testing.assert_allclose(one.mixture, mixture, atol=1e-6)
    assert one.presence is None
    result = calibrated_extractor.extract(mixture, "a dog", RATE)
    assert isinstance(result, Extraction)
    presence = result.presence
    assert isinstance(presence, Presence)
    assert f"presence={presence.probability:.2f}" in repr(result)
    again = calibrated_extractor.extract(mixture, "a dog", RATE).presence
    assert presence == again
    assert hash(presence) == hash(again)
    assert repr(presence) == f"Presence(probability={presence.probability:.3f}, frames=1, " + (
        "frame_seconds=0.5)"
    )
    assert presence != calibrated_extractor.extract(mixture, "rain", RATE).presence


def test_every_error_has_one_base() -> None:
    errors = [getattr(singleout, name) for name in singleout.__all__ if name.endswith("Error")]
    defined = [value for name, value in vars(singleout.errors).items() if name.endswith("Error")]
    assert set(errors) == set(defined)
    assert all(issubclass(error, SingleoutError) for error in [*errors, singleout.Cancelled])
