"""Every benchmark end to end on small replicas of its published layout, and what it refuses.

Expected numbers are computed here, with numpy, from the files and the model's own output.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from singleout.audio import write_wav
from singleout.cli import app
from singleout.encoders import BuiltinEncoder
from singleout.errors import AudioError, InputError, ManifestError
from singleout.evaluate.benchmarks import BENCHMARKS, load_benchmark
from singleout.evaluate.benchmarks.benchmark import mix
from singleout.evaluate.benchmarks.mixing import MixingConfig, mixing
from singleout.evaluate.benchmarks.run import Extras, benchmark_summary, run_benchmark
from singleout.model import QueriedSeparator
from singleout.types import Query

RATE = 32_000
SECONDS = 0.5
Samples = NDArray[np.float32]


def sound(seed: int, rate: int = RATE, level: float = 0.1) -> Samples:
    """A tone in noise, different for every seed."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(SECONDS * rate)) / rate
    tone = np.sin(2 * np.pi * 200 * 1.3 ** (seed % 12) * time)
    return (level * (tone + 0.3 * rng.standard_normal(len(time)))).astype(np.float32)


def write_pair(mixture: Path, target: Path, seed: int) -> None:
    """A target and its mixture with another sound, as the published sets have them."""
    for path in (mixture, target):
        path.parent.mkdir(parents=True, exist_ok=True)
    wanted = sound(seed)
    other = 10 ** ((seed % 7 - 3) / 20) * sound(seed + 100)
    write_wav(target, wanted[None], RATE)
    write_wav(mixture, (wanted + other)[None].astype(np.float32), RATE)


def write_table(path: Path, header: str, rows: Sequence[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header.split(","), *rows])


def audioset(root: Path) -> list[tuple[Path, Path, str, str]]:
    """Three classes of 4, 3 and 1 items: medians of even and odd counts."""
    rows, items = [], []
    for label, (name, count) in enumerate([("Speech", 4), ("Rain, heavy", 3), ("Bark", 1)]):
        for index in range(count):
            stem = f"class_id={label}/class_id={label},index={index:03d}"
            target, mixture = f"{stem},source.wav", f"{stem},mixture.wav"
            folder = root / "data/audioset"
            write_pair(folder / mixture, folder / target, 10 * label + index)
            # The column noise_wav of this table names the mixture.
            paths = [f"evaluation/data/audioset/{path}" for path in (target, mixture)]
            rows.append([label, name, *paths])
            items.append((folder / mixture, folder / target, name, str(label)))
    write_table(root / "metadata/audioset_eval.csv", "idx,caption,src_wav,noise_wav", rows)
    return items


def numbered(
    root: Path, name: str, header: str, captions: Sequence[str], *cells: str
) -> list[tuple[Path, Path, str, str]]:
    """The layout that AudioCaps, Clotho, ESC-50 and MUSIC share."""
    rows, items = [], []
    for index, caption in enumerate(captions):
        folder = root / "data" / name
        mixture, target = folder / f"mixture-{index}.wav", folder / f"segment-{index}.wav"
        write_pair(mixture, target, index)
        rows.append([index, caption, *(cell.format(index) for cell in cells)])
        items.append((mixture, target, caption, caption))
    write_table(root / f"metadata/{name}_eval.csv", header, rows)
    return items


def audiocaps(root: Path) -> list[tuple[Path, Path, str, str]]:
    captions = ["A dog barks, then growls", "Rain falls", 'A man says "hello"']
    cells = ("Dog Speech", "Y{}.wav", "Ynoise{}.wav")
    return numbered(root, "audiocaps", "idx,caption,labels,src_wav,noise_wav", captions, *cells)


def clotho(root: Path) -> list[tuple[Path, Path, str, str]]:
    captions = ["Birds chirp while children speak.", "A machine whines."]
    cells = ("Santa Motor.wav", "river, near.wav", "coin {}.wav")
    return numbered(root, "clotho", "idx,caption,src_wav,noise_wav1,noise_wav1", captions, *cells)


def esc50(root: Path) -> list[tuple[Path, Path, str, str]]:
    captions = ["dog", "chirping birds", "dog"]
    return numbered(
        root, "esc50", "idx,caption,src_wav,noise_wav", captions, "1-{}-A-0.wav", "5-{}-D-29.wav"
    )


def music(root: Path) -> list[tuple[Path, Path, str, str]]:
    captions = ["violin", "violin", "violin", "erhu", "tuba"]
    return numbered(
        root, "music", "idx,caption,src_wav,noise_wav", captions, "Y{}_0.wav", "YX4_{}.wav"
    )


def vggsound(root: Path) -> list[tuple[Path, Path, str, str]]:
    rows, items = [], []
    folder = root / "data/vggsound"
    for index, text in enumerate(["playing accordion", "sea lion barking", "people eating"]):
        name = f"-JUBdOr8Hes_00003{index}+++37Vxf0Wz-3o_00000{index}"
        mixture, target, other = (
            f"data/{kind}/{name}.wav" for kind in ("mix_wav", "s0_wav", "s1_wav")
        )
        write_pair(folder / mixture, folder / target, index)
        rows.append([name, mixture, target, text, other, "another sound"])
        items.append((folder / mixture, folder / target, text, ""))
    header = "file_id,mix_wav,s0_wav,s0_text,s1_wav,s1_text"
    write_table(root / "metadata/vggsound_eval.csv", header, rows)
    return items


REPLICAS: dict[str, Callable[[Path], list[tuple[Path, Path, str, str]]]] = {
    "audioset": audioset,
    "audiocaps": audiocaps,
    "clotho": clotho,
    "esc50": esc50,
    "music": music,
    "vggsound": vggsound,
}


def read(path: Path) -> Samples:
    import soundfile

    samples: Samples = soundfile.read(path, dtype="float32")[0]
    return samples


def extracted(model: QueriedSeparator, mixture: Samples, caption: str) -> Samples:
    with torch.inference_mode():
        found = model(torch.from_numpy(mixture)[None, None], model.embed(Query((caption,))))
    samples: Samples = found[0, 0].numpy()
    return samples


def db(numerator: float, denominator: float) -> float:
    return float(10 * np.log10(numerator / denominator))


def sdr(estimate: Samples, target: Samples) -> float:
    error = np.mean((estimate.astype(float) - target) ** 2)
    return db(np.mean(target.astype(float) ** 2), error)


def si_sdr(estimate: Samples, target: Samples) -> float:
    estimate, target = estimate.astype(float), target.astype(float)
    projection = (estimate @ target) / (target @ target) * target
    return db(np.sum(projection**2), np.sum((estimate - projection) ** 2))


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["benchmark", *map(str, arguments)])


def result_of(*arguments: object) -> dict[str, Any]:
    run = invoke(*arguments, "--json")
    assert run.exit_code == 0, run.output
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def estimates(result: dict[str, Any], system: str = "model") -> dict[str, float]:
    return {key: entry["estimate"] for key, entry in result["systems"][system].items()}


AGGREGATES: dict[str, Callable[[list[list[float]]], float]] = {
    "audioset": lambda classes: float(np.mean([np.median(own) for own in classes])),
    "music": lambda classes: float(np.mean([np.mean(own) for own in classes])),
}


def plain_mean(classes: list[list[float]]) -> float:
    return float(np.mean(np.concatenate(classes)))


@pytest.mark.parametrize("name", REPLICAS)
def test_audiosep_sets_are_scored_as_published(
    name: str, tmp_path: Path, debug_model: QueriedSeparator, debug_model_folder: Path
) -> None:
    items = REPLICAS[name](tmp_path)
    scores: dict[str, list[tuple[float, float, float]]] = {}
    for mixture, target, caption, label in items:
        x, s = read(mixture), read(target)
        found = extracted(debug_model, x, caption)
        own = (sdr(found, s), sdr(found, s) - sdr(x, s), si_sdr(found, s))
        scores.setdefault(label, []).append(own)
    result = result_of(name, "--data", tmp_path, "--partial", "--model", debug_model_folder)
    aggregate = AGGREGATES.get(name, plain_mean)
    for number, key in enumerate(("sdr_db", "sdri_db", "si_sdr_db")):
        expected = aggregate([[score[number] for score in own] for own in scores.values()])
        entry = result["systems"]["model"][key]
        assert entry["estimate"] == pytest.approx(expected, abs=2e-3), key
        assert entry["count"] == len(items)
        assert entry["low"] <= entry["estimate"] <= entry["high"]
    assert result["num_items"] == len(items)
    assert result["num_published_items"] > 999
    assert not result["is_whole"]
    assert result["sample_rate"] == 32_000
    assert set(result["published"]["AudioSep"]) == {"sdri_db", "si_sdr_db"}


@pytest.mark.parametrize("name", REPLICAS)
def test_the_whole_set_needs_no_flag_and_any_other_number_does(name: str, tmp_path: Path) -> None:
    count = len(REPLICAS[name](tmp_path))
    benchmark = replace(load_benchmark(name), num_items=count)
    items, missing = benchmark.items(tmp_path)
    assert len(items) == count
    assert missing == []
    with pytest.raises(ManifestError, match=rf"has {count} items, .* were published: use"):
        load_benchmark(name).items(tmp_path)


def test_published_numbers_of_items() -> None:
    counts = {name: load_benchmark(name).num_items for name in BENCHMARKS}
    assert counts == {
        "audioset": 5270,
        "audiocaps": 4820,
        "clotho": 5225,
        "esc50": 2000,
        "music": 5004,
        "vggsound": 1000,
        "dcase2024-validation": 3000,
        "dcase2024-evaluation": 3000,
        "dcase2024-evaluation-real": None,
        "mix": None,
    }


def test_the_registry_is_the_list_of_the_command() -> None:
    assert {name: load_benchmark(name).name for name in BENCHMARKS} == {n: n for n in BENCHMARKS}
    shown = "".join(invoke("--help").stdout.replace("│", " ").split())  # lines are wrapped
    assert f"Oneof:{','.join(BENCHMARKS)}." in shown


def test_both_interferences_of_clotho_are_kept(tmp_path: Path) -> None:
    clotho(tmp_path)
    items, _ = load_benchmark("clotho").items(tmp_path, is_partial=True)
    assert items[1].interference == ("river, near.wav", "coin 1.wav")


@pytest.mark.parametrize("place", ["data/esc50", "alone"])
def test_a_set_is_found_in_a_checkout_and_in_a_folder_of_its_own(
    place: str, tmp_path: Path
) -> None:
    esc50(tmp_path)
    if place == "alone":
        (tmp_path / "data/esc50").rename(tmp_path / "alone")
        (tmp_path / "metadata/esc50_eval.csv").rename(tmp_path / "alone/esc50_eval.csv")
    items, _ = load_benchmark("esc50").items(tmp_path / place, is_partial=True)
    assert [item.files[0].parent for item in items] == [tmp_path / place] * 3


def test_stereo_files_of_another_rate_are_scored_at_the_rate_of_the_set(
    tmp_path: Path, debug_model: QueriedSeparator, debug_model_folder: Path
) -> None:
    esc50(tmp_path)
    folder = tmp_path / "data/esc50"
    stereo = [np.stack([sound(seed, 44_100), sound(seed + 1, 44_100)]) for seed in (0, 7)]
    write_wav(folder / "segment-0.wav", stereo[0], 44_100)
    write_wav(folder / "mixture-0.wav", stereo[0] + stereo[1], 44_100)
    target, mixture = (
        soxr.resample(audio.mean(0), 44_100, RATE, quality="HQ")
        for audio in (stereo[0], stereo[0] + stereo[1])
    )
    expected = sdr(extracted(debug_model, mixture, "dog"), target)
    arguments = ("--partial", "--limit", 1, "--model", debug_model_folder)
    result = result_of("esc50", "--data", tmp_path, *arguments)
    assert estimates(result)["sdr_db"] == pytest.approx(expected, abs=2e-3)
    assert result["num_items"] == 1


VALIDATION = [
    ("clip_a", "clip_b", -15, "a bell"),
    ("clip_b", "clip_c", 15, "a drill, far away"),
    ("clip_c", "clip_a", 3, "a horn"),
    ("loud", "clip_a", 0, "a crash"),
]


def dcase_validation(root: Path, caption: str = "caption") -> None:
    (root / "lass_validation").mkdir(parents=True)
    levels = {"clip_a": 0.1, "clip_b": 0.2, "clip_c": 0.05, "loud": 0.9}
    for seed, (name, level) in enumerate(levels.items()):
        audio = sound(seed, 16_000, level)
        write_wav(root / f"lass_validation/{name}.wav", audio[None], 16_000)
    write_table(root / "lass_synthetic_validation.csv", f"source,noise,snr,{caption}", VALIDATION)


@pytest.mark.parametrize("caption", ["caption", "query"])
def test_dcase_validation_is_mixed_and_scored_as_by_its_baseline(
    caption: str, tmp_path: Path, debug_model: QueriedSeparator, debug_model_folder: Path
) -> None:
    dcase_validation(tmp_path, caption)
    expected = []
    declipped = 0
    for source, noise, snr, text in VALIDATION:
        s, n = (read(tmp_path / f"lass_validation/{name}.wav") for name in (source, noise))
        n = n * np.float32(np.sqrt(np.mean(s**2) / np.mean(n**2) / 10 ** (snr / 10)))
        x = s + n
        assert db(np.mean(s**2), np.mean(n**2)) == pytest.approx(snr, abs=1e-3)
        if np.abs(x).max() > 1:
            s, x = (signal * np.float32(0.9 / np.abs(s + n).max()) for signal in (s, x))
            declipped += 1
        heard = soxr.resample(x, 16_000, debug_model.sample_rate, quality="HQ")
        found = extracted(debug_model, heard, text)
        found = soxr.resample(found, debug_model.sample_rate, 16_000, quality="HQ")[: len(s)]
        expected.append((sdr(found, s), sdr(found, s) - sdr(x, s), si_sdr(found, s)))
    assert 0 < declipped < len(VALIDATION)
    arguments = ("--data", tmp_path, "--partial", "--model", debug_model_folder)
    found = result_of("dcase2024-validation", *arguments)
    means = np.mean(expected, axis=0)
    for key, mean in zip(("sdr_db", "sdri_db", "si_sdr_db"), means, strict=True):
        assert estimates(found)[key] == pytest.approx(mean, abs=5e-3), key
    assert (found["sample_rate"], found["model_sample_rate"]) == (16_000, 32_000)
    assert found["published"]["DCASE baseline"]["sdr_db"] == 5.708


@pytest.mark.parametrize("part", ["synthetic", "real"])
def test_dcase_evaluation_has_no_targets_and_gets_clap_scores_only(
    part: str,
    tmp_path: Path,
    debug_model: QueriedSeparator,
    debug_encoder: BuiltinEncoder,
    debug_model_folder: Path,
    debug_encoder_folder: Path,
) -> None:
    folder = tmp_path / {"synthetic": "lass_evaluation_synth", "real": "lass_evaluation_real"}[part]
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
    # The judge is the model's own encoder: that is said, in one line.
    assert scored.stderr.startswith("warning: CLAPScore by the encoder that conditions the model")
    assert scored.stderr.count("\n") == 1
    result = json.loads(scored.stdout)
    expected = []
    for wav, text in rows:
        heard = soxr.resample(read(folder / wav), 16_000, debug_model.sample_rate, quality="HQ")
        found = extracted(debug_model, heard, text)
        found = soxr.resample(found, debug_model.sample_rate, 16_000, quality="HQ")
        heard_as = debug_encoder.embed_audio(found, 16_000)[0].numpy()
        expected.append(float(heard_as @ debug_encoder.embed_text(text)[0].numpy()))
    assert estimates(result)["clap_score"] == pytest.approx(np.mean(expected), abs=1e-3)
    assert "sdr_db" not in estimates(result)
    assert "clap_score" in estimates(result, "mixture")


def test_another_judge_is_no_reason_to_warn(tmp_path: Path, debug_model_folder: Path) -> None:
    esc50(tmp_path)
    arguments = ("--partial", "--limit", 1, "--model", debug_model_folder)
    run = invoke("esc50", "--data", tmp_path, *arguments, "--clap-score", "builtin")
    assert run.exit_code == 0, run.output
    assert run.stderr == ""
    assert "CLAPScore" in run.stdout


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    lines = []
    for i in range(4):
        write_wav(tmp_path / f"{i}.wav", np.tile(sound(3 * i), 2)[None], RATE)
        row = {"path": f"{i}.wav", "seconds": 1.0, "caption": f"tone {i}", "class": f"tone/{i}"}
        lines.append(json.dumps({**row, "group": f"g{i}", "split": "test"}))
    path = tmp_path / "manifest.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_mixing_makes_the_same_pairs_at_each_snr(manifest: Path, debug_model_folder: Path) -> None:
    levels = (-6.0, 0.0, 9.0)
    benchmark = mixing(MixingConfig(snr_db=levels, num_mixtures=5))
    items, _ = benchmark.items(manifest)
    pairs = [(item.target, item.interference) for item in items]
    assert pairs[:5] == pairs[5:10] == pairs[10:]
    for number, item in enumerate(items):
        signals = item.load(RATE)
        assert signals.target is not None
        rest = signals.mixture - signals.target
        snr = db(np.mean(signals.target**2), np.mean(rest**2))
        assert snr == pytest.approx(levels[number // 5], abs=1e-2)
    flags = [word for level in levels for word in ("--snr", level)]
    arguments = (*flags, "--mixtures", 5, "--model", debug_model_folder, "--references")
    result = result_of("mix", "--data", manifest, *arguments)
    assert result["num_items"] == 15
    assert result["is_whole"]
    assert list(result["by_label"]) == ["-6 dB", "+0 dB", "+9 dB"]
    means = [scores["sdri_db"]["estimate"] for scores in result["by_label"].values()]
    assert np.mean(means) == pytest.approx(estimates(result)["sdri_db"])
    assert estimates(result, "mixture")["sdr_db"] == pytest.approx(1.0, abs=1e-2)
    assert estimates(result, "zeros")["silent_share"] == 1
    assert estimates(result, "zeros")["ruled_si_sdri_db"] == pytest.approx(-31, abs=0.1)
    assert estimates(result, "oracle_mask")["si_sdri_db"] > 5


def test_absent_sounds_are_asked_for_and_judged_by_suppression(
    manifest: Path, debug_model: QueriedSeparator
) -> None:
    benchmark = mixing(MixingConfig(snr_db=(0.0,), num_mixtures=6, absent=True))
    items, _ = benchmark.items(manifest)
    rows = run_benchmark(debug_model, benchmark, items, Extras(references=True))
    own = [row for row in rows if row["system"] == "model"]
    expected = []
    for item, row in zip(items, own, strict=True):
        assert row["absent"] == item.is_absent == (item.caption not in _in_mixture(item))
        if item.is_absent:
            x = item.load(RATE).mixture
            found = extracted(debug_model, x, item.caption)
            expected.append(db(np.mean(x.astype(float) ** 2), np.mean(found.astype(float) ** 2)))
            assert row["sdr_db"] is row["si_sdr_db"] is None
            assert row["sa_sdr_db"] == pytest.approx(expected[-1] - 10 * np.log10(2), abs=1e-3)
        else:
            assert row["suppression_db"] is None
    found = benchmark_summary(rows, benchmark)
    assert found["model"]["suppression_db"]["estimate"] == pytest.approx(
        np.mean(expected), abs=1e-3
    )
    assert found["model"]["sdri_db"]["count"] == found["model"]["suppression_db"]["count"] == 6
    assert found["zeros"]["suppression_db"]["estimate"] == pytest.approx(100)
    assert found["zeros"]["absent_silent_share"]["estimate"] == 1
    assert found["mixture"]["suppression_db"]["estimate"] == pytest.approx(0)
    assert found["mixture"]["absent_silent_share"]["estimate"] == 0


def _in_mixture(item: Any) -> set[str]:
    """Captions of the mixture's sounds; file ``i.wav``, recording ``gi``, is 'tone i'."""
    sounds = item.interference if item.is_absent else (item.target, *item.interference)
    return {f"tone {Path(name).stem.removeprefix('g')}" for name in sounds}


def test_a_silent_target_counts_where_it_is_defined_and_nowhere_else(
    tmp_path: Path, debug_model_folder: Path
) -> None:
    esc50(tmp_path)
    silence = np.zeros((1, round(SECONDS * RATE)), np.float32)
    write_wav(tmp_path / "data/esc50/segment-0.wav", silence, RATE)
    arguments = ("--data", tmp_path, "--partial", "--model", debug_model_folder, "--bss-eval")
    systems = result_of("esc50", *arguments)["systems"]["model"]
    counts = {key: entry["count"] for key, entry in systems.items()}
    assert counts["sdr_db"] == counts["sa_sdr_db"] == 3
    assert counts["si_sdr_db"] == counts["bss_eval_sdr_db"] == 2
    assert counts["suppression_db"] == 1


def test_results_are_a_table_a_markdown_row_and_two_files(
    tmp_path: Path, debug_model_folder: Path
) -> None:
    music(tmp_path)
    output = tmp_path / "results" / "music.json"
    arguments = ("music", "--data", tmp_path, "--partial", "--model", debug_model_folder)
    run = invoke(*arguments, "-o", output, "--bss-eval")
    assert run.exit_code == 0, run.output
    result = json.loads(output.read_text())
    assert result["meta"]["command"] == "singleout benchmark music"
    rows = [json.loads(line) for line in output.with_suffix(".rows.jsonl").read_text().splitlines()]
    assert [row["label"] for row in rows] == ["violin"] * 3 + ["erhu", "tuba"]
    per_class = [
        np.mean([r["sdri_db"] for r in rows if r["label"] == c]) for c in ("violin", "erhu", "tuba")
    ]
    assert np.mean(per_class) == pytest.approx(estimates(result)["sdri_db"])
    assert "mean over classes of the mean over items" in run.stdout
    assert "AudioSep, published" in run.stdout
    assert "10.508" in run.stdout
    heads, _, row = run.stdout.strip().splitlines()[-3:]
    assert heads.startswith("| set | model | items | SDRi | SI-SDR | SDR | SI-SDRi | BSS-eval SDR")
    assert row.startswith(f"| music | {debug_model_folder.name} | 5 of 5,004 | ")
    assert heads.count("|") == row.count("|")
    assert f"{estimates(result)['sdri_db']:.3f}" in row


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


TABLES: list[tuple[str, str, str, str]] = [
    ("esc50", "src_wav,noise_wav", "src,noise_wav", "the column src_wav is missing, its header is "
     "idx,caption,src,noise_wav"),
    ("audiocaps", "labels", "tags", "the column labels is missing"),
    ("clotho", "noise_wav1,noise_wav1", "noise_wav1,noise_wav2", "the column noise_wav1 is missing "
     "(number 2 of that name), its header is idx,caption,src_wav,noise_wav1,noise_wav2"),
    ("vggsound", "s0_text", "text", "the column s0_text is missing"),
    ("esc50", "1,chirping birds", "1,chirping,birds", "esc50_eval.csv:3: has 5 cells, its header "
     "has 4"),
    ("esc50", "1,chirping birds", "one,chirping birds", "esc50_eval.csv:3: idx is not a whole "
     "number: 'one'"),
    ("esc50", "1,chirping birds", "0,chirping birds", "esc50_eval.csv:3: 0 is already in line 2"),
    ("esc50", "1,chirping birds", "1, ", "esc50_eval.csv:3: its caption is not a valid query: "
     "the query is empty"),
    ("esc50", "1,chirping birds", '1,"chirping birds', "esc50_eval.csv: cannot be read as CSV"),
    ("audioset", "1,\"Rain, heavy\"", "0,\"Rain, heavy\"", "is not in the folder of class 0"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new", "message"), TABLES)
def test_a_table_that_is_not_as_published_is_refused(
    name: str, old: str, new: str, message: str, tmp_path: Path, debug_model_folder: Path
) -> None:
    REPLICAS[name](tmp_path)
    _edit(tmp_path / f"metadata/{name}_eval.csv", old, new)
    _is_refused(message, name, "--data", tmp_path, "--model", debug_model_folder)


def _is_refused(message: str, *arguments: object) -> None:
    """In one line, whatever ``--partial`` says."""
    refused = invoke(*arguments, "--partial")
    assert refused.exit_code == 1, refused.output
    assert message in refused.stderr
    assert refused.stderr.startswith("error: ")
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the column idx is missing, its header is "),
        (b"idx,caption,src_wav,noise_wav\n", "has no rows"),
        (b"idx,caption\xff", "cannot be read as CSV"),
    ],
)
def test_an_empty_or_broken_table_is_refused(
    content: bytes, message: str, tmp_path: Path, debug_model_folder: Path
) -> None:
    (tmp_path / "esc50_eval.csv").write_bytes(content)
    _is_refused(message, "esc50", "--data", tmp_path, "--model", debug_model_folder)


def test_a_wrong_folder_is_refused(tmp_path: Path) -> None:
    _is_refused("music_eval.csv is neither there nor in", "music", "--data", tmp_path)
    _is_refused("is not a folder", "music", "--data", tmp_path / "nowhere")


def test_missing_files_are_named_and_left_out_only_on_demand(
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
    _is_refused("6 files of 3 of 3 items are missing", "esc50", "--data", tmp_path)


@pytest.mark.parametrize(
    ("audio", "rate", "message"),
    [
        (sound(0)[:-1], RATE, "mixture-1.wav has 15,999 samples at 32000 Hz"),
        (sound(0), 16_000, "mixture-1.wav has 16,000 samples at 16000 Hz"),
    ],
)
def test_a_mixture_unlike_its_source_is_refused(
    audio: Samples, rate: int, message: str, tmp_path: Path
) -> None:
    esc50(tmp_path)
    write_wav(tmp_path / "data/esc50/mixture-1.wav", audio[None], rate)
    _is_refused(message, "esc50", "--data", tmp_path)


def test_damaged_audio_is_refused(tmp_path: Path, debug_model_folder: Path) -> None:
    esc50(tmp_path)
    path = tmp_path / "data/esc50/mixture-2.wav"
    whole = path.read_bytes()
    path.write_bytes(b"no audio")
    _is_refused("mixture-2.wav: cannot be read as audio", "esc50", "--data", tmp_path)
    path.write_bytes(whole[:-4000])
    with pytest.raises(AudioError, match=r"mixture-2\.wav"):
        replace(load_benchmark("esc50"), num_items=3).items(tmp_path)


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
    _edit(tmp_path / "lass_synthetic_validation.csv", old, new)
    arguments = ("--data", tmp_path, "--model", debug_model_folder)
    _is_refused(message, "dcase2024-validation", *arguments)


def test_wrong_manifests_are_refused(manifest: Path, debug_model_folder: Path) -> None:
    arguments = ("mix", "--data", manifest, "--model", debug_model_folder)
    _is_refused("no sounds of the split 'train'", *arguments, "--split", "train")
    _is_refused("'snr_db': Value error, an SNR is given twice", *arguments, "--snr", 1, "--snr", 1)
    _is_refused("'snr_db.0'", *arguments, "--snr", "nan")
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join(lines[:2]))
    _is_refused("no captioned sound of another class and group", *arguments, "--absent")
    manifest.write_text("\n".join(lines).replace('"caption": "tone', '"about": "tone'))
    _is_refused("has no caption, which the text query needs", *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fsd50k",), "'fsd50k' is not a benchmark: choose one of audioset"),
        (("music", "--snr", "0", "--seed", "3"), "snr_db, seed: music has no options, only"),
        (("music", "--absent"), "absent: music has no options, only these benchmarks have: mix"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    run = invoke(*arguments, "--data", tmp_path)
    assert run.exit_code == 2
    assert message in " ".join(run.stderr.replace("│", " ").split())


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
