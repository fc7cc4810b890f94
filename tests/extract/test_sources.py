"""The input gain of recordings that are quieter than those in training."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from singleout import Cancelled, Extractor
from singleout.audio import AudioInfo, AudioReader, Note
from singleout.extract.sources import _gain as gain_of
from singleout.extract.sources import input_gain, open_source
from singleout.model import QueriedSeparator

RATE = 32_000
QUIETEST_DB = -40.0


def uniform_noise(rms_db: float, num_samples: int = RATE, channels: int = 1) -> NDArray[np.float32]:
    """Uniform noise [channels, samples]; its peak is about 5 dB above its level."""
    samples = np.random.default_rng(0).uniform(-1, 1, (channels, num_samples)) * 3**0.5
    return (10 ** (rms_db / 20) * samples).astype(np.float32)


class Blocks:
    """A reader that counts the blocks it gives."""

    name = "audio"

    def __init__(self, audio: NDArray[np.float32], is_length_known: bool = True) -> None:
        self.audio, self.num_read = audio, 0
        self.info = AudioInfo(RATE, len(audio), audio.shape[1] if is_length_known else None)
        self.notes: list[Note] = []

    def reopened(self) -> AbstractContextManager[AudioReader]:
        return nullcontext(self)

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        for block in np.array_split(self.audio, 20, axis=1):
            self.num_read += 1
            yield block


@pytest.fixture
def levelled(calibrated_model_folder: Path) -> Extractor:
    """An extractor of a model with a quietest level."""
    model = QueriedSeparator.from_pretrained(calibrated_model_folder)
    model.config = model.config.model_copy(update={"quietest_db": QUIETEST_DB})
    return Extractor(model, chunk_seconds=0.5)


@settings(max_examples=30)
@given(rms_db=st.floats(-100, -1), channels=st.integers(1, 3), is_known=st.booleans())
def test_quiet_recordings_are_raised_to_the_quietest_level(
    rms_db: float, channels: int, is_known: bool
) -> None:
    reader = Blocks(uniform_noise(rms_db, channels=channels), is_known)
    gain_db = 20 * np.log10(gain_of(reader, QUIETEST_DB))
    assert gain_db == pytest.approx(max(0.0, QUIETEST_DB - rms_db), abs=0.1)


def test_a_loud_recording_is_not_read_to_its_end() -> None:
    """A fifth of a recording at -33 dB already has the power of a recording at -40 dB.

    The filter that removes infrasound holds back one of the twenty blocks.
    """
    for rms_db, num_read in ((-22, 2), (-33, 5), (-39.9, 20), (-60, 20)):
        reader = Blocks(uniform_noise(rms_db, num_samples=8 * RATE))
        gain_of(reader, QUIETEST_DB)
        assert reader.num_read == num_read
    unknown = Blocks(uniform_noise(-22), is_length_known=False)
    assert gain_of(unknown, QUIETEST_DB) == 1
    assert unknown.num_read == 20


def test_peaks_stay_below_full_scale_and_silence_silent() -> None:
    click = uniform_noise(-60)
    click[0, 5] = 0.25
    assert gain_of(Blocks(click), QUIETEST_DB) == pytest.approx(4, rel=0.01)
    click[0, 5] = 2.0
    assert gain_of(Blocks(click), QUIETEST_DB) == 1
    assert gain_of(Blocks(np.zeros((1, RATE), np.float32)), QUIETEST_DB) == 1
    assert gain_of(Blocks(uniform_noise(-130)), QUIETEST_DB) == 1


@pytest.mark.parametrize("offset", [0.01, -0.5])
def test_an_offset_does_not_count_as_loudness(offset: float) -> None:
    quiet = uniform_noise(-60, num_samples=2 * RATE)
    with_offset = (quiet + np.float32(offset)).astype(np.float32)
    gain = gain_of(Blocks(quiet), QUIETEST_DB)
    assert gain_of(Blocks(with_offset), QUIETEST_DB) == pytest.approx(gain, rel=1e-3)


def test_an_offset_and_infrasound_go_to_the_residual(levelled: Extractor) -> None:
    time = np.arange(2 * RATE) / RATE
    low = (0.1 + 0.05 * np.cos(2 * np.pi * 6 * time)).astype(np.float32)
    quiet = uniform_noise(-55, num_samples=2 * RATE)
    plain, low_too = (levelled.extract(audio, "a dog", RATE) for audio in (quiet, quiet + low))
    scale = float(np.abs(plain.target).max())
    assert scale > 0
    np.testing.assert_allclose(low_too.target, plain.target, rtol=0, atol=1e-2 * scale)
    spectrum = np.abs(np.fft.rfft(low_too.target[0] * np.hanning(2 * RATE)))
    assert spectrum[: 2 * 12].max() < 1e-3 * spectrum.max()
    np.testing.assert_allclose(low_too.target + low_too.residual, quiet + low, rtol=0, atol=1e-6)


@pytest.mark.parametrize("down_db", [20.0, 47.0])
def test_the_level_of_a_quiet_recording_does_not_matter(
    levelled: Extractor, down_db: float
) -> None:
    share = np.float32(10 ** (-down_db / 20))
    audio = uniform_noise(QUIETEST_DB, channels=2)
    loud, quiet = (levelled.extract(level, "a dog", RATE) for level in (audio, audio * share))
    assert float(np.square(loud.target).mean()) > 0
    np.testing.assert_allclose(
        quiet.target / share, loud.target, rtol=0, atol=1e-3 * np.abs(loud.target).max()
    )
    assert quiet.presence == pytest.approx(loud.presence, abs=1e-3)
    total = quiet.target + quiet.residual
    np.testing.assert_allclose(total, audio * share, rtol=0, atol=float(1e-6 * share))


def test_models_without_a_lowest_level_get_recordings_as_they_are(
    calibrated_extractor: Extractor, levelled: Extractor
) -> None:
    plain, lifted = (
        e.extract(uniform_noise(-70), "a dog", RATE).target
        for e in (calibrated_extractor, levelled)
    )
    assert np.abs(plain - lifted).max() > 1e-2 * np.abs(plain).max()
    plain, same = (
        e.extract(uniform_noise(-20), "a dog", RATE).target
        for e in (calibrated_extractor, levelled)
    )
    np.testing.assert_array_equal(plain, same)


def test_files_and_blocks_have_the_same_input_level(levelled: Extractor, tmp_path: Path) -> None:
    path = tmp_path / "quiet.wav"
    soundfile.write(path, uniform_noise(-70, channels=2).T, RATE, "FLOAT")
    whole = levelled.extract(path, "a dog").target
    (written,) = levelled.extract_file(path, "a dog", tmp_path / "out")
    np.testing.assert_array_equal(soundfile.read(written.target, dtype="float32")[0].T, whole)
    blocks = [targets[0] for _, targets in levelled.extract_blocks(path, "a dog")]
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), whole)


def test_reading_the_gain_can_be_cancelled() -> None:
    cancel = Event()
    cancel.set()
    with (
        open_source((np.full(8_000, 1e-3, np.float32), 8_000)) as reader,
        pytest.raises(Cancelled, match="audio: cancelled"),
    ):
        input_gain(reader, -40.0, cancel)


def test_any_error_names_a_file_object_audio_and_not_a_temporary_file() -> None:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(800), 8_000, format="WAV")
    file.seek(0)
    with pytest.raises(Cancelled, match=r"^audio: cancelled$"), open_source(file) as reader:
        raise Cancelled(f"{reader.name}: cancelled")


def test_the_rate_next_to_an_array_may_be_a_float() -> None:
    with open_source((np.zeros(800, np.float32), 8_000.0)) as reader:  # type: ignore[arg-type]
        assert reader.info.sample_rate == 8_000
