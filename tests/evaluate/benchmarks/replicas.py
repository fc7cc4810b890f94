"""Small replicas of the published benchmarks, and reference scores in numpy."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from singleout.audio import write_wav
from singleout.cli import app
from singleout.model import QueriedSeparator
from singleout.types import Query

RATE = 32_000
SECONDS = 0.5
Samples = NDArray[np.float32]


def sound(seed: int, rate: int = RATE, level: float = 0.1) -> Samples:
    """A tone in noise, float32 [samples], different for every seed."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(SECONDS * rate)) / rate
    tone = np.sin(2 * np.pi * 200 * 1.3 ** (seed % 12) * time)
    return (level * (tone + 0.3 * rng.standard_normal(len(time)))).astype(np.float32)


def write_pair(mixture: Path, target: Path, seed: int) -> None:
    """Write a target and its mixture with another sound, as in the published sets."""
    for path in (mixture, target):
        path.parent.mkdir(parents=True, exist_ok=True)
    samples = sound(seed)
    other = 10 ** ((seed % 7 - 3) / 20) * sound(seed + 100)
    write_wav(target, samples[None], RATE)
    write_wav(mixture, (samples + other)[None].astype(np.float32), RATE)


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


def read_samples(path: Path) -> Samples:
    samples: Samples = soundfile.read(path, dtype="float32")[0]
    return samples


def extract(model: QueriedSeparator, mixture: Samples, caption: str) -> Samples:
    """The model's estimate for a text query."""
    with torch.inference_mode():
        target = model(torch.from_numpy(mixture)[None, None], model.embed(Query((caption,))))
    samples: Samples = target[0, 0].numpy()
    return samples


def db(numerator: np.floating | float, denominator: np.floating | float) -> float:
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
    result: dict[str, Any] = json.loads(run.stdout)
    return result


def estimates(result: dict[str, Any], system: str = "model") -> dict[str, float]:
    return {key: entry["estimate"] for key, entry in result["systems"][system].items()}


def assert_refused(message: str, *arguments: object) -> None:
    """The command fails with a message of one line, also with ``--partial``."""
    refused = invoke(*arguments, "--partial")
    assert refused.exit_code == 1, refused.output
    assert message in refused.stderr
    assert refused.stderr.startswith("error: ")
    assert refused.stderr.count("\n") == 1


def replace_text(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
