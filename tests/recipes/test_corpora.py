"""The three manifests of the full-size study, from replicas of AudioCaps, Clotho and FSD50K."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recipes.corpora.__main__ import main as corpora
from recipes.corpora.manifests import study_manifests
from singleout.corpora import write_corpus
from singleout.data.manifest import read_manifest
from singleout.errors import ManifestError
from tests.corpora.replicas import audiocaps, clotho, fsd50k, sound, table


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Replicas; AudioCaps has enough recordings for both sides of the study."""
    replicas = {"audiocaps": audiocaps, "clotho": clotho, "fsd50k": fsd50k}
    made = {name: replica(tmp_path / name) for name, replica in replicas.items()}
    lines = [f"{i},video{i:06d},10,Sound {i}" for i in range(40)]
    header = "audiocap_id,youtube_id,start_time,caption\n"
    table(made["audiocaps"] / "train.csv", header + "\n".join(lines) + "\n")
    for i in range(40):
        sound(made["audiocaps"] / f"train/video{i:06d}_10.wav", i)
    return made


def test_the_study_names_what_it_lacks(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ManifestError, match="write it first by singleout corpus"):
        study_manifests(
            folders["audiocaps"], folders["clotho"], folders["fsd50k"], tmp_path / "study"
        )
    assert corpora(["study", *map(str, folders.values()), "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_the_full_study_never_trains_on_what_it_is_scored_on(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    output = tmp_path / "study"
    for name, folder in folders.items():
        write_corpus(name, folder, folder / "manifest.jsonl")
    arguments = ["study", *map(str, folders.values()), "--output", str(output)]
    assert corpora(arguments) == 0
    rows = read_rows(output / "manifest.jsonl")
    captioned, uncaptioned = (
        read_rows(output / f"{name}.jsonl") for name in ("captioned", "uncaptioned")
    )
    scored = {row["group"] for row in rows if row["split"] != "train"}
    train = {row["group"] for row in rows if row["split"] == "train"}
    assert {row["split"] for row in rows} == {
        *("train", "validation", "test_in_domain", "test_out_of_domain")
    }
    with_captions = {row["group"] for row in captioned if row["split"] == "train"}
    without_captions = {row["group"] for row in uncaptioned}
    assert 0 < len(with_captions) < len(train)
    assert train - with_captions == {
        group for group in without_captions if group.startswith("youtube/")
    }
    assert without_captions - train == {"freesound/7", "freesound/9", "freesound/11"}
    assert "freesound/102" in scored
    assert not (train | with_captions | without_captions) & scored
    assert not any(row.keys() & {"caption", "alternatives", "class"} for row in uncaptioned)
    for name in ("manifest", "captioned", "uncaptioned"):
        assert read_manifest(output / f"{name}.jsonl")
