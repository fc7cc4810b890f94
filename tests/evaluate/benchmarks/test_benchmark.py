"""Checks of files, and mixing at an SNR."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from singleout.audio import write_wav
from singleout.errors import AudioError, InputError, ManifestError
from singleout.evaluate.benchmarks import load_benchmark
from singleout.evaluate.benchmarks.benchmark import mix
from tests.evaluate.benchmarks.replicas import (
    RATE,
    Samples,
    assert_refused,
    db,
    esc50,
    invoke,
    sound,
)


def test_missing_files_are_named_and_left_out_with_a_flag(
    tmp_path: Path, debug_model_folder: Path
) -> None:
    esc50(tmp_path)
    lost = tmp_path / "data/esc50/segment-1.wav"
    lost.unlink()
    with pytest.raises(ManifestError, match=r"1 files of 1 of 3 items are missing, .*segment-1"):
        replace(load_benchmark("esc50"), num_items=3).items(tmp_path)
    scored = invoke("esc50", "--data", tmp_path, "--partial", "--model", debug_model_folder)
    assert scored.exit_code == 0, scored.output
    assert (
        scored.stderr == f"warning: 1 files are missing, such as {lost}: their items are left out\n"
    )
    assert "2 of 2,000 items" in scored.stdout
    for path in (tmp_path / "data/esc50").iterdir():
        path.unlink()
    assert_refused("6 files of 3 of 3 items are missing", "esc50", "--data", tmp_path)


@pytest.mark.parametrize(
    ("audio", "rate", "message"),
    [
        (sound(0)[:-1], RATE, "mixture-1.wav has 15,999 samples at 32000 Hz"),
        (sound(0), 16_000, "mixture-1.wav has 16,000 samples at 16000 Hz"),
    ],
)
def test_a_mixture_of_another_length_or_rate_is_refused(
    audio: Samples, rate: int, message: str, tmp_path: Path
) -> None:
    esc50(tmp_path)
    write_wav(tmp_path / "data/esc50/mixture-1.wav", audio[None], rate)
    assert_refused(message, "esc50", "--data", tmp_path)


def test_damaged_audio_is_refused(tmp_path: Path, debug_model_folder: Path) -> None:
    esc50(tmp_path)
    path = tmp_path / "data/esc50/mixture-2.wav"
    whole = path.read_bytes()
    path.write_bytes(b"no audio")
    assert_refused("mixture-2.wav: cannot be read as audio", "esc50", "--data", tmp_path)
    path.write_bytes(whole[:-4000])
    with pytest.raises(AudioError, match=r"mixture-2\.wav"):
        replace(load_benchmark("esc50"), num_items=3).items(tmp_path)


def test_mix_keeps_levels_that_fit_and_declips_the_rest() -> None:
    target, noise = sound(0, level=0.2), sound(1, level=0.05)
    signals = mix(target, noise, 0.0)
    assert signals.target is not None
    np.testing.assert_array_equal(signals.target, target)
    rest = signals.mixture - target
    assert db(np.mean(target**2), np.mean(rest**2)) == pytest.approx(0, abs=1e-3)
    signals = mix(4 * target, noise, 0.0)
    assert signals.target is not None
    assert np.abs(signals.mixture).max() == pytest.approx(0.9)
    np.testing.assert_allclose(
        signals.target * (target @ target) / (target @ signals.target), target, atol=1e-6
    )
    for silent in ((0 * target, noise), (target, 0 * noise)):
        with pytest.raises(InputError, match="is silent"):
            mix(*silent, 0.0)
