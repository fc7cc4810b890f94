"""The modality gap: closed forms, invariances, and the command on a manifest of tones."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from typer.testing import CliRunner

from singleout.audio import write_wav
from singleout.cli import app
from singleout.errors import InputError, OutputError
from singleout.evaluate.gap import measure as gap
from singleout.evaluate.gap.geometry import effective_rank, linked_groups
from singleout.evaluate.gap.measure import GapReport, modality_gap, pair_accuracy
from singleout.evaluate.gap.picture import save_picture
from singleout.evaluate.statistics import bootstrap_interval

pytestmark = pytest.mark.slow

RATE = 32_000


def cloud(count: int, dim: int, seed: int = 0) -> Tensor:
    """Unit vectors in all directions, float32 [count, dim]."""
    drawn = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))
    return F.normalize(drawn, dim=1)


def classes(count: int, size: int = 2) -> list[str]:
    """Classes of ``size`` sounds, families of two classes."""
    return [f"family{i // (2 * size)}/class{i // size}" for i in range(count)]


def figures(report: GapReport) -> dict[str, float]:
    """All numbers of a report by their path."""

    def flat(value: Any, path: str) -> dict[str, float]:
        if isinstance(value, dict):
            return {k: v for key in value for k, v in flat(value[key], f"{path}.{key}").items()}
        return {} if value is None else {path: value}

    return flat(report, "")


def test_no_gap_where_both_modalities_are_the_same() -> None:
    same = cloud(40, 16)
    report = modality_gap(same, same, classes(40))
    assert report["matched_cosine"]["estimate"] == pytest.approx(1)
    assert report["matched_cosine_std"] == pytest.approx(0, abs=1e-6)
    assert report["centroid_distance"] == 0
    assert report["centroid_share"] == 0
    assert report["separability"] == pytest.approx(0.5, abs=0.02)
    assert report["pair_accuracy_classes"]["estimate"] == 1
    families = report["pair_accuracy_families"]
    assert families is not None
    assert families["estimate"] == 1
    for direction in (report["text_to_audio"], report["audio_to_text"]):
        assert direction["recall_at_1"] == {"estimate": 1, "low": 1, "high": 1}
        assert direction["median_rank"]["estimate"] == 1
        assert direction["num_candidates"] == 40
    ranks = report["effective_rank"]
    assert ranks["audio"] == ranks["text"] == pytest.approx(ranks["joint"])


def test_a_constant_shift_is_the_whole_gap() -> None:
    audio = cloud(60, 16)
    shift = 3 * cloud(1, 16, seed=1)[0]
    report = modality_gap(audio, audio + shift, classes(60))
    assert report["centroid_distance"] == pytest.approx(float(shift.norm()), rel=1e-6)
    assert report["centroid_share"] == pytest.approx(1, rel=1e-6)
    assert report["separability"] == 1
    assert report["effective_rank"]["audio"] == pytest.approx(
        report["effective_rank"]["text"], rel=1e-4
    )


def test_cosines_are_those_of_all_pairs_one_by_one() -> None:
    audio, text, labels = cloud(12, 5), 2 * cloud(12, 5, seed=1), classes(12, 3)
    report = modality_gap(audio, text, labels)
    cosines = (F.normalize(text, dim=1) @ audio.T).double().numpy()
    pairs = [(i, j) for i in range(12) for j in range(12) if labels[i] != labels[j]]
    matched, mismatched = np.diag(cosines), [cosines[pair] for pair in pairs]
    assert report["matched_cosine"]["estimate"] == pytest.approx(matched.mean(), abs=1e-6)
    assert report["matched_cosine_std"] == pytest.approx(matched.std(), abs=1e-6)
    assert report["mismatched_cosine"] == pytest.approx(np.mean(mismatched), abs=1e-6)
    assert report["cosine_difference"] == pytest.approx(
        matched.mean() - np.mean(mismatched), abs=1e-6
    )
    accuracy = np.mean([cosines[i, i] > cosines[i, j] for i, j in pairs])
    assert report["pair_accuracy_classes"]["estimate"] == pytest.approx(accuracy)
    ranks = 1 + (cosines > matched[:, None]).sum(1)
    retrieval = report["text_to_audio"]
    recalls = [retrieval["recall_at_1"], retrieval["recall_at_5"], retrieval["recall_at_10"]]
    for k, recall in zip((1, 5, 10), recalls, strict=True):
        assert recall["estimate"] == pytest.approx(np.mean(ranks <= k))
    assert retrieval["median_rank"]["estimate"] == np.median(ranks)


def test_all_sounds_of_a_shared_caption_are_correct() -> None:
    axes = torch.eye(4)
    audio = axes[[0, 1, 2, 3]]
    # The first two share a caption that lies at the second's sound.
    text = axes[[1, 1, 2, 3]]
    labels = ["a/1", "a/1", "b/1", "c/1"]
    shared = modality_gap(audio, text, labels, ["dog", "dog", "cat", "cow"])
    assert shared["text_to_audio"]["recall_at_1"]["estimate"] == 1
    assert shared["text_to_audio"]["num_candidates"] == 4
    assert shared["num_captions"] == shared["audio_to_text"]["num_candidates"] == 3
    # The first sound is as far from all three captions: a tie loses.
    assert shared["audio_to_text"]["recall_at_1"]["estimate"] == 0.75
    distinct = modality_gap(audio, text, labels)
    assert distinct["text_to_audio"]["recall_at_1"]["estimate"] == 0.75
    assert distinct["audio_to_text"]["num_candidates"] == 4


def test_ties_of_a_collapsed_encoder_are_errors() -> None:
    point = torch.ones(10, 4)
    report = modality_gap(point, point, classes(10))
    assert report["pair_accuracy_classes"]["estimate"] == 0
    assert report["text_to_audio"]["median_rank"]["estimate"] == 10
    assert report["separability"] == 0.5
    assert report["effective_rank"] == {"audio": 0, "text": 0, "joint": 0}


@pytest.mark.parametrize("dim", [2, 7, 64])
def test_effective_rank_of_an_isotropic_cloud_is_its_dimension(dim: int) -> None:
    isotropic = torch.cat([torch.eye(dim), -torch.eye(dim)])
    assert effective_rank(isotropic) == pytest.approx(dim)
    assert effective_rank(5 + 3 * isotropic) == pytest.approx(dim)
    line = torch.linspace(-1, 1, 9)[:, None] * torch.ones(dim)
    assert effective_rank(line) == pytest.approx(1)


def test_held_out_sounds_share_no_group_and_no_caption() -> None:
    group, caption = torch.tensor([0, 0, 1, 2, 3, 4]), torch.tensor([0, 1, 1, 2, 2, 3])
    assert linked_groups(group, caption).tolist() == [0, 0, 0, 1, 1, 2]
    # The modalities change places between the halves, so that nothing is learned from the other.
    audio = torch.tensor([[5.0, 0]] * 4 + [[-5.0, 0]] * 4) + 0.01 * cloud(8, 2)
    halves = ["a"] * 4 + ["b"] * 4
    report = modality_gap(audio, -audio, classes(8), groups=halves)
    assert report["separability"] == 0
    assert modality_gap(audio, -audio, classes(8), ["x"] * 8)["separability"] is None


def test_one_family_has_no_accuracy_between_families() -> None:
    report = modality_gap(cloud(4, 3), cloud(4, 3, 1), ["a/1", "a/2", "a/3", "a/4"])
    assert report["pair_accuracy_families"] is None
    assert 0 <= report["pair_accuracy_classes"]["estimate"] <= 1


def test_sounds_of_one_group_are_drawn_together() -> None:
    audio, labels = cloud(40, 8), classes(40)
    text = F.normalize(audio + 0.6 * cloud(40, 8, 1), dim=1)
    audio, text = audio.repeat(5, 1), text.repeat(5, 1)
    separate = pair_accuracy(audio, text, labels * 5)
    together = pair_accuracy(audio, text, labels * 5, [str(i % 40) for i in range(200)])
    assert separate["estimate"] == together["estimate"]
    assert together["high"] - together["low"] > 1.5 * (separate["high"] - separate["low"])


@settings(deadline=None, max_examples=15)
@given(st.permutations(range(14)), st.integers(0, 3))
def test_the_order_of_the_sounds_does_not_matter(order: list[int], seed: int) -> None:
    audio, text = cloud(14, 6, seed), cloud(14, 6, seed + 10)
    text[1] = text[0]
    labels = classes(14)
    captions = ["c0", "c0", *(f"c{i}" for i in range(2, 14))]
    groups = [f"g{i // 3}" for i in range(14)]
    names = ([values[i] for i in order] for values in (labels, captions, groups))
    new_labels, new_captions, new_groups = names
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gap, "bootstrap_interval", partial(bootstrap_interval, num_resamples=20))
        first = figures(modality_gap(audio, text, labels, captions, groups))
        again = figures(
            modality_gap(audio[order], text[order], new_labels, new_captions, new_groups)
        )
    assert again == pytest.approx(first, abs=1e-6)


@pytest.mark.parametrize("size", [1, 17, 100])
def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    audio, text = cloud(30, 8), cloud(30, 8, 1)
    whole = modality_gap(audio, text, classes(30))
    monkeypatch.setattr(gap, "_CHUNK_COSINES", size)
    assert modality_gap(audio, text, classes(30)) == whole


def test_the_seed_decides_and_the_report_is_json() -> None:
    audio, text = cloud(30, 8), cloud(30, 8, 1)
    report = modality_gap(audio, text, classes(30))
    assert json.loads(json.dumps(report)) == report
    assert set(report) == set(GapReport.__annotations__)
    assert report == modality_gap(audio, text, classes(30), seed=0)
    other = modality_gap(audio, text, classes(30), seed=1)
    assert other["matched_cosine"]["low"] != report["matched_cosine"]["low"]
    assert other["mismatched_cosine"] == report["mismatched_cosine"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": cloud(4, 2)}, r"got \[4, 3\] and \[4, 2\]"),
        ({"audio": torch.tensor(1.0)}, r"got \[\] and"),
        ({"audio": cloud(1, 3), "text": cloud(1, 3), "labels": ["a"]}, "at least two sounds"),
        ({"text": torch.full((4, 3), torch.nan)}, "text embeddings must be finite, 4 are not"),
        ({"labels": ["a", "b"]}, "labels must name 4 sounds, got 2"),
        ({"captions": []}, "captions must name 4 sounds, got 0"),
        ({"groups": ["g"]}, "groups must name 4 sounds, got 1"),
        ({"labels": ["a/b"] * 4}, r"one class \('a/b'\).* pair accuracy"),
    ],
)
def test_errors_name_the_cause(change: dict[str, Any], message: str) -> None:
    arguments = {"audio": cloud(4, 3), "text": cloud(4, 3, 1), "labels": classes(4), **change}
    with pytest.raises(InputError, match=message):
        modality_gap(**arguments)


@pytest.mark.parametrize(
    ("audio", "text"),
    [
        (cloud(2, 2), cloud(2, 2, 1)),
        (torch.ones(4, 3), torch.ones(4, 3)),
        (cloud(200, 5), cloud(200, 5, 1) + 9),
    ],
    ids=["two sounds", "one point", "far apart"],
)
def test_extremes_can_be_drawn(tmp_path: Path, audio: Tensor, text: Tensor) -> None:
    labels = classes(len(audio), 1)
    report = modality_gap(audio, text, labels)
    path = tmp_path / "gap.png"
    save_picture(audio, text, labels, report, path, "a $title$")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_picture_is_written_whole_and_repeatably(tmp_path: Path) -> None:
    audio, text, labels = cloud(4, 3), cloud(4, 3, 1), classes(4)
    report, path = modality_gap(audio, text, labels), tmp_path / "gap.png"
    pictures = []
    for _ in range(2):
        save_picture(audio, text, labels, report, path, seed=3)
        pictures.append(path.read_bytes())
    assert pictures[0] == pictures[1]
    with pytest.raises(OutputError, match="cannot be written"):
        save_picture(audio, text, labels, report, tmp_path / "missing" / "gap.png")
    assert [p.name for p in tmp_path.iterdir()] == ["gap.png"]


def write_manifest(folder: Path, **changes: Any) -> Path:
    """Six tones in stereo, captioned, of three classes in two families."""
    rows = []
    for i in range(6):
        time = np.arange(RATE // 2) / RATE
        tone = 0.3 * np.sin(2 * np.pi * 300 * 1.5**i * time).astype(np.float32)
        write_wav(folder / f"{i}.wav", np.stack([tone, tone / 2]), RATE)
        row = {"path": f"{i}.wav", "seconds": 0.5, "caption": f"tone {i // 2}", "group": f"g{i}"}
        row |= {"class": ("low/1", "low/2", "high/1")[i // 2], "split": "test"}
        rows.append(json.dumps(row | changes))
    rows.append(json.dumps(json.loads(rows[0]) | {"caption": " "}))
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_command_measures_and_draws_the_packaged_encoder(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path)
    output, plot = tmp_path / "new" / "gap.json", tmp_path / "new" / "gap.png"
    arguments = ["gap", str(manifest), "--split", "test", "--seed", "2"]
    run = CliRunner().invoke(app, [*arguments, "-o", str(output), "--plot", str(plot), "--json"])
    assert run.exit_code == 0, run.output
    result = json.loads(run.stdout)
    assert result == json.loads(output.read_text())
    meta = result.pop("meta")
    assert set(result) == set(GapReport.__annotations__)
    assert (result["num_sounds"], result["num_classes"], result["num_captions"]) == (6, 3, 3)
    assert (meta["encoder"], meta["seed"], meta["num_without_caption"]) == ("builtin", 2, 1)
    assert meta["fingerprint"]
    assert meta["manifest"] == str(manifest)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in output.parent.iterdir()) == ["gap.json", "gap.png"]

    table = CliRunner().invoke(app, arguments)
    assert table.exit_code == 0, table.output
    assert "6 sounds of 3 classes, 3 captions" in table.stdout
    assert "1 sounds without caption left out" in table.stdout
    assert f"{result['matched_cosine']['estimate']:.3f}" in table.stdout
    assert "audio to text" in table.stdout


def test_another_encoder_and_undefined_figures(tmp_path: Path, debug_encoder_folder: Path) -> None:
    lines = write_manifest(tmp_path).read_text().splitlines()[:6]  # one for each file
    rows = [json.loads(line) for line in lines]
    manifest = tmp_path / "one.jsonl"
    lines = [
        json.dumps(row | {"class": f"only/{i}", "caption": "tone"}) for i, row in enumerate(rows)
    ]
    manifest.write_text("\n".join(lines))
    run = CliRunner().invoke(app, ["gap", str(manifest), "--encoder", str(debug_encoder_folder)])
    assert run.exit_code == 0, run.output
    assert "all sounds share captions or groups" in run.stdout
    assert "only one family of classes" in run.stdout


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({}, ["{manifest}x"], "cannot be read as a manifest"),
        ({}, ["{manifest}", "--split", "train"], "no sounds of the split 'train'"),
        ({"caption": None}, ["{manifest}"], "0 of 7 sounds have a caption"),
        ({"class": "a/b"}, ["{manifest}"], "6 of 7 sounds have a caption, of 1 classes"),
        ({}, ["{manifest}", "--encoder", "missing"], "missing: not a query encoder's folder"),
        ({}, ["{manifest}", "-o", "{manifest}/gap.json"], "is a file, the output needs a folder"),
        ({}, ["{manifest}", "--plot", "{manifest}/gap.png"], "is a file, the output needs"),
        ({}, ["{manifest}", "-o", "{manifest}"], "would overwrite"),
        ({}, ["{manifest}", "--plot", "a.png", "-o", "a.png"], "would overwrite a.png"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, changes: dict[str, Any], arguments: list[str], message: str
) -> None:
    manifest = write_manifest(tmp_path, **changes)
    run = CliRunner().invoke(app, ["gap", *(a.format(manifest=manifest) for a in arguments)])
    assert run.exit_code == 1, run.output
    assert message in run.stderr
    assert run.stderr.count("\n") == 1


def test_one_sound_is_too_few_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path)
    lines = manifest.read_text().splitlines()
    manifest.write_text(lines[0])
    run = CliRunner().invoke(app, ["gap", str(manifest)])
    assert run.exit_code == 1
    assert "1 of 1 sounds have a caption" in run.stderr
    manifest.write_text("\n".join(lines))
    (tmp_path / "3.wav").write_bytes(b"no audio")
    run = CliRunner().invoke(app, ["gap", str(manifest), "-o", str(tmp_path / "gap.json")])
    assert run.exit_code == 1
    assert "3.wav: cannot be read as audio" in run.stderr
    assert not (tmp_path / "gap.json").exists()


def test_a_picture_needs_matplotlib_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("singleout.extract.picture.find_spec", lambda name: None)
    run = CliRunner().invoke(app, ["gap", str(tmp_path / "missing"), "--plot", "gap.png"])
    assert run.exit_code == 1
    assert "pip install 'singleout[plot]'" in run.stderr
