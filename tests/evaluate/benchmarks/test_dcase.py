"""The sets of DCASE 2024 task 9, end to end on small replicas."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soxr

from singleout.audio import write_wav
from singleout.encoders import BuiltinEncoder
from singleout.model import QueriedSeparator
from tests.evaluate.benchmarks.replicas import (
    VALIDATION,
    assert_refused,
    db,
    dcase_validation,
    estimates,
    extract,
    invoke,
    read_samples,
    replace_text,
    result_of,
    sdr,
    si_sdr,
    sound,
    write_table,
)


@pytest.mark.parametrize("caption", ["caption", "query"])
def test_dcase_validation_is_mixed_and_scored_as_by_the_baseline(
    caption: str, tmp_path: Path, debug_model: QueriedSeparator, debug_model_folder: Path
) -> None:
    dcase_validation(tmp_path, caption)
    expected = []
    declipped = 0
    for source, noise, snr, text in VALIDATION:
        s, n = (read_samples(tmp_path / f"lass_validation/{name}.wav") for name in (source, noise))
        n = n * np.float32(np.sqrt(np.mean(s**2) / np.mean(n**2) / 10 ** (snr / 10)))
        x = s + n
        assert db(np.mean(s**2), np.mean(n**2)) == pytest.approx(snr, abs=1e-3)
        if np.abs(x).max() > 1:
            s, x = (signal * np.float32(0.9 / np.abs(s + n).max()) for signal in (s, x))
            declipped += 1
        resampled = soxr.resample(x, 16_000, debug_model.sample_rate, quality="HQ")
        estimate = extract(debug_model, resampled, text)
        estimate = soxr.resample(estimate, debug_model.sample_rate, 16_000, quality="HQ")
        estimate = estimate[: len(s)]
        expected.append((sdr(estimate, s), sdr(estimate, s) - sdr(x, s), si_sdr(estimate, s)))
    assert 0 < declipped < len(VALIDATION)
    arguments = ("--data", tmp_path, "--partial", "--model", debug_model_folder)
    result = result_of("dcase2024-validation", *arguments)
    means = np.mean(expected, axis=0)
    for key, mean in zip(("sdr_db", "sdri_db", "si_sdr_db"), means, strict=True):
        assert estimates(result)[key] == pytest.approx(mean, abs=5e-3), key
    assert (result["sample_rate"], result["model_sample_rate"]) == (16_000, 32_000)
    assert result["published"]["DCASE baseline"]["sdr_db"] == 5.708


@pytest.mark.parametrize("part", ["synthetic", "real"])
def test_dcase_evaluation_has_clap_scores_only(
    part: str,
    tmp_path: Path,
    debug_model: QueriedSeparator,
    debug_encoder: BuiltinEncoder,
    debug_model_folder: Path,
    debug_encoder_folder: Path,
) -> None:
    folders = {"synthetic": "lass_evaluation_synth", "real": "lass_evaluation_real"}
    folder = tmp_path / folders[part]
    folder.mkdir()
    rows = [("one.wav", "a bell"), ("two.wav", "a horn"), ("two.wav", "a dog")]
    for seed, name in enumerate(("one.wav", "two.wav")):
        write_wav(folder / name, sound(seed, 16_000)[None], 16_000)
    write_table(tmp_path / f"lass_{part}_evaluation.csv", "wav,query", rows)
    name = "dcase2024-evaluation" + ("-real" if part == "real" else "")
    arguments = (name, "--data", tmp_path, "--partial", "--model", debug_model_folder)
    refused = invoke(*arguments)
    assert refused.exit_code == 1
    assert "its targets are not published" in refused.stderr
    scored = invoke(*arguments, "--clap-score", debug_encoder_folder, "--json", "--references")
    assert scored.exit_code == 0, scored.output
    # The judge is the encoder of the model, which gives a warning of one line.
    assert scored.stderr.startswith("warning: CLAPScore by the encoder that conditions the model")
    assert scored.stderr.count("\n") == 1
    result = json.loads(scored.stdout)
    expected = []
    for wav, text in rows:
        resampled = soxr.resample(
            read_samples(folder / wav), 16_000, debug_model.sample_rate, quality="HQ"
        )
        estimate = extract(debug_model, resampled, text)
        estimate = soxr.resample(estimate, debug_model.sample_rate, 16_000, quality="HQ")
        embedding = debug_encoder.embed_audio(estimate, 16_000)[0].numpy()
        expected.append(float(embedding @ debug_encoder.embed_text(text)[0].numpy()))
    assert estimates(result)["clap_score"] == pytest.approx(np.mean(expected), abs=1e-3)
    assert "sdr_db" not in estimates(result)
    assert "clap_score" in estimates(result, "mixture")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("snr", "level", "the column snr is missing, its header is source,noise,level,caption"),
        (",caption", ",text", "the column caption or query is missing"),
        (",-15,", ",loud,", "lass_synthetic_validation.csv:2: snr is not a number of dB: 'loud'"),
        (",-15,", ",nan,", "snr is not a number of dB: 'nan'"),
        ("clip_c,clip_a,3,a horn", "clip_a,clip_b,-15,a bell", "is already in line 2"),
        ("clip_a,clip_b", "clip_a,silent", "lass_synthetic_validation.csv:2: the noise is silent"),
        ("clip_a,clip_b", "silent,clip_b", "lass_synthetic_validation.csv:2: the target is silent"),
        ("clip_a,clip_b", "clip_a,short", "must have the same length and rate"),
    ],
)
def test_wrong_dcase_data_is_refused(
    old: str, new: str, message: str, tmp_path: Path, debug_model_folder: Path
) -> None:
    dcase_validation(tmp_path)
    silence = np.zeros((1, 8_000), np.float32)
    write_wav(tmp_path / "lass_validation/silent.wav", silence, 16_000)
    write_wav(tmp_path / "lass_validation/short.wav", silence[:, :-1], 16_000)
    replace_text(tmp_path / "lass_synthetic_validation.csv", old, new)
    arguments = ("--data", tmp_path, "--model", debug_model_folder)
    assert_refused(message, "dcase2024-validation", *arguments)
