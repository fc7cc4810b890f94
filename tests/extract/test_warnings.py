"""What a listener should know about a recording: in results, files, logs, and refused if strict."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from singleout import AudioError, Example, Extractor
from singleout.extract.outputs import WrittenFiles
from tests.recordings import file_names, noise, write_recording

RATE = 8_000


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A whole recording of one second."""
    return write_recording(tmp_path / "whole.wav", noise(RATE), RATE)


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    """A recording whose last quarter of a second is missing."""
    path = write_recording(tmp_path / "cut.wav", noise(RATE), RATE)
    path.write_bytes(path.read_bytes()[: -RATE // 2])
    return path


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Gives what the package logged since the last call."""
    caplog.set_level(logging.INFO, logger="singleout")

    def messages() -> list[str]:
        assert all(record.levelname == "WARNING" for record in caplog.records)
        assert all(record.name == "singleout" for record in caplog.records)
        texts = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return texts

    return messages


def test_a_whole_recording_has_no_warnings(
    extractor: Extractor, whole: Path, tmp_path: Path, logged: Callable[[], list[str]]
) -> None:
    for audio in (whole, noise(RATE), io.BytesIO(whole.read_bytes())):
        result = extractor.extract(audio, "a dog", RATE)
        assert (result.warnings, result.missing_seconds) == ((), 0.0)
        assert result.save(tmp_path / "saved", "x").is_whole
    (files,) = extractor.extract_file(whole, "a dog", tmp_path / "out", strict=True)
    assert (files.warnings, files.missing_seconds, files.is_whole) == ((), 0.0, True)
    assert files.as_json()["warnings"] == []
    assert logged() == []


def test_a_cut_recording_is_extracted_with_one_warning(
    extractor: Extractor, cut: Path, tmp_path: Path, logged: Callable[[], list[str]]
) -> None:
    results = extractor.extract(cut, ["a dog", "rain"])
    (text,) = logged()
    assert str(cut) in text
    for result in results:
        assert result.warnings == (text,)
        assert result.missing_seconds == pytest.approx(0.25)
        assert result.target.shape == (1, 3 * RATE // 4)
    np.testing.assert_allclose(results[0].mixture, noise(RATE)[:, : 3 * RATE // 4], atol=1e-4)
    saved = results[0].save(tmp_path / "saved")
    assert (saved.warnings, saved.missing_seconds) == ((text,), results[0].missing_seconds)

    files = extractor.extract_file(cut, ["a dog", "rain"], tmp_path / "out")
    assert logged() == [text]
    for written in files:
        assert written.seconds == 0.75
        assert not written.is_whole
        assert written.as_json()["warnings"] == [text]
        assert written.as_json()["missing_seconds"] == results[0].missing_seconds
        assert soundfile.info(written.target).frames == 3 * RATE // 4

    assert sum(block.mixture.shape[1] for block in extractor.extract_blocks(cut, "a dog")) == 6_000
    assert logged() == [text]
    assert [r.warnings for r in extractor.extract_many([cut, cut], "a dog")] == [(text,)] * 2
    assert logged() == [text, text]


def test_a_warning_of_a_file_object_names_no_temporary_file(
    extractor: Extractor, cut: Path, tmp_path: Path, logged: Callable[[], list[str]]
) -> None:
    result = extractor.extract(io.BytesIO(cut.read_bytes()), "a dog")
    (text,) = result.warnings
    assert logged() == [text]
    assert text.startswith("audio: ")
    with pytest.raises(AudioError, match=r"^audio: "):
        extractor.extract(io.BytesIO(cut.read_bytes()), "a dog", strict=True)
    (files,) = extractor.extract_file(io.BytesIO(cut.read_bytes()), "a dog", tmp_path / "out")
    assert files.warnings == (text,)
    assert files.target.name == "audio.a-dog.target.wav"


def test_strict_refuses_a_cut_recording_and_leaves_no_file(
    extractor: Extractor, cut: Path, whole: Path, tmp_path: Path
) -> None:
    reason = f"^{cut}: "
    with pytest.raises(AudioError, match=reason):
        extractor.extract(cut, "a dog", strict=True)
    with pytest.raises(AudioError, match=reason):
        extractor.extract_file(cut, "a dog", tmp_path / "out", strict=True)
    assert not (tmp_path / "out").exists() or file_names(tmp_path / "out") == []
    with pytest.raises(AudioError, match=reason):
        list(extractor.extract_blocks(cut, "a dog", strict=True))
    refused: list[object] = []
    many = extractor.extract_many(
        [cut, whole], "a dog", strict=True, on_error=lambda recording, _: refused.append(recording)
    )
    assert [result.source for result in many] == [whole]
    assert refused == [cut]


def test_an_example_that_is_cut_is_used_with_one_warning(
    calibrated_extractor: Extractor, cut: Path, logged: Callable[[], list[str]]
) -> None:
    extractor, example = Extractor(calibrated_extractor.model), Example(cut)
    for _ in range(2):
        result = extractor.extract(noise(RATE), example, RATE)
        assert result.warnings == ()
    (text,) = logged()
    assert str(cut) in text
    for _ in range(2):  # a condition that is kept is not strict
        with pytest.raises(AudioError, match=f"^{cut}: "):
            extractor.extract(noise(RATE), example, RATE, strict=True)
    with pytest.raises(AudioError, match=f"^{cut}: "):
        Extractor(extractor.model, strict=True).prepare(example)


def test_the_picture_of_a_cut_recording_is_that_of_its_rest(
    extractor: Extractor, cut: Path, tmp_path: Path
) -> None:
    rest = write_recording(tmp_path / "rest" / "cut.wav", noise(RATE)[:, : 3 * RATE // 4], RATE)
    pictures = [
        extractor.extract_file(path, "a dog", tmp_path / name, plot=True)[0].plot
        for name, path in (("cut", cut), ("whole", rest))
    ]
    first, second = (path.read_bytes() for path in pictures if path is not None)
    assert first == second


def test_an_unknown_length_is_not_whole() -> None:
    files = WrittenFiles("rain", Path("rain.wav"), None, None, RATE, 1, 1.0, None, None)
    assert files.is_whole
    unknown = WrittenFiles(**{**files.__dict__, "missing_seconds": None})
    assert not unknown.is_whole
