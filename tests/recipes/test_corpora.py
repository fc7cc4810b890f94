"""Downloaded corpora to manifests: AudioCaps, Clotho and FSD50K, fabricated in official layout."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from recipes.corpora.__main__ import main as corpora
from recipes.corpora.manifests import study_manifests
from recipes.corpora.readers import READERS
from singleout.data.manifest import read_manifest
from singleout.errors import ManifestError


def write_sound(path: Path, number: int) -> None:
    """A tenth of a second of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng([number]).normal(0, 0.1, 1_600), 16_000)


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_table(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def audiocaps(tmp_path: Path) -> Path:
    """In the three ways in which audio is named, one file missing, one that is no audio."""
    folder = tmp_path / "audiocaps"
    header = "audiocap_id,youtube_id,start_time,caption\n"
    train = [f"{i},video{i},{10 * i},A sound of kind {i}" for i in range(40)]
    train += ['91,-quo_ted,30,"A dog, then a bell"', "92,gone,0,Nobody has this", "93,bad,0,Torn"]
    write_table(folder / "train.csv", header + "\n".join(train) + "\n")
    for i in range(40):
        write_sound(folder / f"train/video{i}_{10 * i}.wav", i)
    write_sound(folder / "train/-quo_ted.wav", 41)
    (folder / "train/bad_0.wav").write_bytes(b"no audio")
    for split in ("val", "test"):
        lines = [f"{n},{split}video,20,Caption {n} of it" for n in range(5)]
        write_table(folder / f"{split}.csv", header + "\n".join(lines) + "\n")
        write_sound(folder / f"{split}/Y{split}video.wav", 50)
    return folder


@pytest.fixture
def clotho(tmp_path: Path) -> Path:
    folder = tmp_path / "clotho"
    captions = "file_name," + ",".join(f"caption_{n}" for n in range(1, 6)) + "\n"
    metadata = "file_name,keywords,sound_id,sound_link,start_end_samples,manufacturer,license\n"
    for number, name in enumerate(("development", "validation", "evaluation")):
        rows = ('A b.wav,Rain falls.,Rain,It rains,"Rain, heavy",Wet\n') + "other.wav,a,b,c,d,e\n"
        write_table(folder / f"clotho_captions_{name}.csv", captions + rows)
        about = f'A b.wav,rain;caf\u00e9,{100 + number},http://x,"[0, 9]",me,http://cc0\n'
        about += "other.wav,x,Not found,Not found,,,\n"
        path = folder / f"clotho_metadata_{name}.csv"
        path.write_text(metadata + about, encoding="latin-1")
        write_sound(folder / name / "A b.wav", 60 + number)
        write_sound(folder / name / "other.wav", 70 + number)
    return folder


@pytest.fixture
def fsd50k(tmp_path: Path) -> Path:
    """Three clips; one is the recording that Clotho's test has."""
    folder = tmp_path / "fsd50k"
    labels = '"Electric_guitar,Guitar,Music","/m/1,/m/2,/m/3"'
    dev = f"fname,labels,mids,split\n7,{labels},train\n102,{labels},train\n9,Bark,/m/4,val\n"
    write_table(folder / "FSD50K.ground_truth/dev.csv", dev)
    write_table(folder / "FSD50K.ground_truth/eval.csv", "fname,labels,mids\n11,Bark,/m/4\n")
    for part, names in (("dev", (7, 102, 9)), ("eval", (11,))):
        info = {str(n): {"license": f"http://cc/{n}", "uploader": "u", "title": "t"} for n in names}
        path = folder / f"FSD50K.metadata/{part}_clips_info_FSD50K.json"
        write_table(path, json.dumps(info))
        for number in names:
            write_sound(folder / f"FSD50K.{part}_audio/{number}.wav", number)
    return folder


def test_audiocaps_becomes_a_manifest(audiocaps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_table(
        audiocaps / "balanced_train_segments.csv",
        "# Segments csv created\n# num_ytids=1\n# YTID, start_seconds, end_seconds, labels\n"
        'video3, 30.000, 40.000, "/m/09x,/m/02y"\n',
    )
    assert corpora(["audiocaps", str(audiocaps)]) == 0
    assert capsys.readouterr().out == (
        "43 sounds, 0.0 h (train 41, validation 1, test 1); 1 missing, 1 unreadable\n"
    )
    clips = {clip.group: clip for clip in read_manifest(audiocaps / "manifest.jsonl")}
    assert clips["youtube/-quo_ted"].caption == "A dog, then a bell"
    assert clips["youtube/video3"].label == "/m/02y,/m/09x"
    test = clips["youtube/testvideo"]
    assert (test.split, len(test.captions)) == ("test", 5)
    assert test.seconds == pytest.approx(0.1)


def test_clotho_becomes_a_manifest(clotho: Path) -> None:
    assert corpora(["clotho", str(clotho)]) == 0
    rows = read_rows(clotho / "manifest.jsonl")
    assert [row["split"] for row in rows] == ["train"] * 2 + ["validation"] * 2 + ["test"] * 2
    first, other = rows[:2]
    assert first["group"] == "freesound/100"
    assert first["alternatives"] == ["Rain", "It rains", "Rain, heavy", "Wet"]
    assert first["license"] == "http://cc0"
    assert other["group"] == "clotho/other.wav"
    assert len(read_manifest(clotho / "manifest.jsonl")) == 6


def test_fsd50k_becomes_a_manifest(fsd50k: Path) -> None:
    (fsd50k / "FSD50K.dev_audio/7.wav").unlink()
    corpus = READERS["fsd50k"](fsd50k)
    assert (corpus.missing, corpus.unreadable) == (1, 0)
    assert [row["split"] for row in corpus.rows] == ["train", "validation", "test"]
    assert corpus.rows[0]["class"] == "Electric_guitar"
    assert corpus.rows[0]["license"] == "http://cc/102"
    assert corpus.rows[0]["group"] == "freesound/102"
    assert "caption" not in corpus.rows[0]


def test_a_corpus_without_sounds_is_an_error(
    audiocaps: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train", "val", "test"):
        shutil.rmtree(audiocaps / name)
    assert corpora(["audiocaps", str(audiocaps)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "the corpus has no sounds" in error
    assert not (audiocaps / "manifest.jsonl").exists()


@pytest.mark.parametrize(
    ("corpus", "file", "text"),
    [
        ("audiocaps", "train.csv", "id,text\n1,a\n"),
        ("audiocaps", "val.csv", None),
        ("audiocaps", "test.csv", "audiocap_id,youtube_id,start_time,caption\n1,x\n"),
        ("audiocaps", "eval_segments.csv", "# x\nvideo,1\n"),
        ("clotho", "clotho_captions_validation.csv", "file_name,caption_1\na,b\n"),
        ("clotho", "clotho_metadata_development.csv", None),
        ("fsd50k", "FSD50K.ground_truth/dev.csv", "fname,labels,mids\n7,a,b\n"),
        ("fsd50k", "FSD50K.metadata/dev_clips_info_FSD50K.json", "[]"),
        ("fsd50k", "FSD50K.metadata/eval_clips_info_FSD50K.json", "{"),
    ],
)
def test_tables_of_another_format_are_refused(
    corpus: str, file: str, text: str | None, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(corpus)
    (folder / file).unlink(missing_ok=True)
    if text is not None:
        (folder / file).write_text(text)
    with pytest.raises(ManifestError, match=re.escape(Path(file).name)) as caught:
        READERS[corpus](folder)
    assert "\n" not in str(caught.value)


def test_the_full_study_never_trains_on_what_it_is_scored_on(
    audiocaps: Path, clotho: Path, fsd50k: Path, tmp_path: Path
) -> None:
    output = tmp_path / "study"
    with pytest.raises(ManifestError, match="write it first"):
        study_manifests(audiocaps, clotho, fsd50k, output)
    for name, folder in (("audiocaps", audiocaps), ("clotho", clotho), ("fsd50k", fsd50k)):
        assert corpora([name, str(folder)]) == 0
    arguments = ["study", str(audiocaps), str(clotho), str(fsd50k), "--output", str(output)]
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
