"""Each corpus, read from a small replica of its published layout."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from singleout.corpora import CORPORA, Corpus, read_corpus, write_corpus
from singleout.data.manifest import check_splits, read_manifest
from singleout.errors import ManifestError
from tests.corpora.replicas import (
    REPLICAS,
    SECONDS,
    audiocaps,
    audioset,
    clotho,
    dcase2024,
    esc50,
    fsd50k,
    json_table,
    music21,
    sound,
    table,
    urbansound8k,
    vggsound,
    wavcaps,
    without_sounds,
)


def by_group(corpus: Corpus) -> dict[str, dict[str, Any]]:
    return {row["group"]: row for row in corpus.rows}


def problems(corpus: Corpus) -> dict[str, str]:
    """Status by the name of the clip."""
    return {row["name"]: row["status"] for row in corpus.problems}


def splits(corpus: Corpus) -> Counter[str]:
    return Counter(row["split"] for row in corpus.rows)


def test_every_corpus_has_a_replica() -> None:
    assert set(REPLICAS) == set(CORPORA)


@pytest.mark.parametrize("name", REPLICAS)
def test_training_takes_the_manifest(name: str, tmp_path: Path) -> None:
    manifest = tmp_path / "manifests" / f"{name}.jsonl"
    summary = write_corpus(name, REPLICAS[name](tmp_path / "data"), manifest)
    clips = read_manifest(manifest)
    assert len(clips) == summary.clips > 0
    assert all(clip.seconds == pytest.approx(SECONDS) for clip in clips)
    check_splits(manifest)
    assert all("/" in clip.group for clip in clips)


@pytest.mark.parametrize("name", REPLICAS)
def test_counts_add_up(name: str, tmp_path: Path) -> None:
    corpus = read_corpus(name, REPLICAS[name](tmp_path))
    for counts in corpus.counts.values():
        kinds = (counts.usable, counts.missing, counts.unreadable, counts.left_out)
        assert counts.listed == sum(kinds)
        assert counts.published is not None
        assert counts.on_disk >= counts.usable + counts.unreadable
    assert len(corpus.rows) == sum(counts.usable for counts in corpus.counts.values())
    listed = sum(counts.listed for counts in corpus.counts.values())
    assert len(corpus.problems) == listed - len(corpus.rows)
    assert any("are published" in note for note in corpus.notes)  # a replica is small


@pytest.mark.parametrize("name", REPLICAS)
def test_a_corpus_without_sounds_is_an_error(name: str, tmp_path: Path) -> None:
    folder = without_sounds(REPLICAS[name](tmp_path))
    with pytest.raises(ManifestError, match=r"the corpus has no sounds: of \d+ clips") as caught:
        read_corpus(name, folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", REPLICAS)
def test_every_table_is_needed_or_noted(name: str, tmp_path: Path) -> None:
    folder = REPLICAS[name](tmp_path)
    whole = read_corpus(name, folder)
    tables = [path for path in folder.rglob("*") if path.suffix in (".csv", ".json")]
    assert tables
    for path in tables:
        content = path.read_bytes()
        path.unlink()
        refusal, num_rows = "", 0
        try:
            num_rows = len(read_corpus(name, folder).rows)
        except ManifestError as error:
            refusal = str(error)
        if refusal:
            assert f"lacks the table {path.name}: get it from https://" in refusal
        assert num_rows <= len(whole.rows)
        path.write_bytes(content)


def test_audioset(tmp_path: Path) -> None:
    corpus = read_corpus("audioset", audioset(tmp_path))
    rows = by_group(corpus)
    assert problems(corpus) == {"---B_v8ZoBY_1.5": "unreadable", "--gone_gone_30": "missing"}
    assert splits(corpus) == {"train": 5, "test": 1}
    assert rows["youtube/--PJHxphWEs"]["class"] == "Domestic animals, pets/Bark"
    assert rows["youtube/--PJHxphWEs"]["origin"]["labels"] == ["Speech", "Bark"]
    assert rows["youtube/-0RWZT-miFs"]["class"] == "Animal"
    assert rows["youtube/---1_cCGK4M"]["class"] == "Wild animals/Howl"
    assert rows["youtube/--4gqARaEJE"]["class"] == "Domestic animals, pets"
    [missing] = [row for row in corpus.problems if row["status"] == "missing"]
    assert missing["address"] == "https://www.youtube.com/watch?v=--gone_gone"
    assert corpus.counts["unbalanced"].published == 2_041_789
    assert corpus.counts["eval"].usable == 1


def test_audioset_without_ontology(tmp_path: Path) -> None:
    folder = audioset(tmp_path)
    (folder / "ontology.json").unlink()
    rows = by_group(read_corpus("audioset", folder))
    assert rows["youtube/--PJHxphWEs"]["class"] == "/m/05tny_,/m/09x0r"
    table(
        folder / "class_labels_indices.csv",
        'index,mid,display_name\n0,/m/09x0r,"Speech"\n1,/m/05tny_,"Bark"\n',
    )
    rows = by_group(read_corpus("audioset", folder))
    assert rows["youtube/--PJHxphWEs"]["class"] == "Bark,Speech"


def test_a_part_of_audioset_is_enough(tmp_path: Path) -> None:
    folder = audioset(tmp_path)
    (folder / "unbalanced_train_segments.csv").unlink()
    corpus = read_corpus("audioset", folder)
    assert corpus.counts["unbalanced"].listed == 0
    note = "unbalanced: the tables list 0 clips, and 2,041,789 are published"
    assert note in corpus.notes


def test_audiocaps(tmp_path: Path) -> None:
    corpus = read_corpus("audiocaps", audiocaps(tmp_path))
    rows = by_group(corpus)
    assert corpus.version == "1.0"
    assert problems(corpus) == {"gonegonegon_0": "missing", "badbadbadba_0": "unreadable"}
    assert rows["youtube/-quo_ted_id"]["caption"] == "A dog, then a bell"
    assert rows["youtube/valVIDEO_id"]["split"] == "validation"
    assert len(rows["youtube/testVIDEO_id"]["alternatives"]) == 4
    assert "class" not in rows["youtube/testVIDEO_id"]
    assert rows["youtube/videoTRAIN3"]["path"] == str(
        Path(os.path.realpath(tmp_path), "train/videoTRAIN3_30.wav")
    )


def test_audiocaps_takes_classes_of_audioset(tmp_path: Path) -> None:
    folder = audiocaps(tmp_path)
    text = '# a comment\nvideoTRAIN3, 30.000, 40.000, "/m/09x02y,/m/05tny_"\n'
    table(folder / "unbalanced_train_segments.csv", text)
    rows = by_group(read_corpus("audiocaps", folder))
    assert rows["youtube/videoTRAIN3"]["class"] == "/m/05tny_,/m/09x02y"


def test_audiocaps_versions_differ_in_their_counts() -> None:
    published = CORPORA["audiocaps"]
    assert published.version_of({"train": 91_000, "val": 495, "test": 975}) == "2.0"
    assert published.version_of({"train": 49_000, "val": 495, "test": 975}) == "1.0"


def test_two_versions_in_one_folder_are_refused(tmp_path: Path) -> None:
    for name in ("dataset", "dataset2.0"):
        audiocaps(tmp_path / name)
    with pytest.raises(ManifestError, match=r"holds two tables train.csv, dataset/train.csv and"):
        read_corpus("audiocaps", tmp_path)


def test_clotho(tmp_path: Path) -> None:
    corpus = read_corpus("clotho", clotho(tmp_path))
    assert splits(corpus) == {"train": 2, "validation": 2, "test": 2}
    first, other = corpus.rows[:2]
    assert first["group"] == "freesound/100"
    assert first["alternatives"] == ["Rain", "It rains", "Rain, heavy", "Wet"]
    assert first["license"] == "http://cc0"
    assert first["origin"]["uploader"] == "J\u00fcrgen"
    assert other["group"] == "clotho/development/other.wav"
    assert "license" not in other


def test_clotho_that_somebody_saved_in_utf_8(tmp_path: Path) -> None:
    folder = clotho(tmp_path)
    for path in folder.glob("clotho_metadata_*.csv"):
        path.write_text(path.read_text(encoding="latin-1"), encoding="utf-8-sig")
    assert read_corpus("clotho", folder).rows[0]["origin"]["uploader"] == "J\u00fcrgen"


def test_clotho_never_trains_on_a_recording_that_it_tests(tmp_path: Path) -> None:
    folder = clotho(tmp_path)
    path = folder / "clotho_metadata_development.csv"
    path.write_bytes(path.read_bytes().replace(b",100,", b",102,"))
    corpus = read_corpus("clotho", folder)
    [problem] = corpus.problems
    assert problem["status"] == "left out"
    assert problem["reason"] == "its recording freesound/102 is in a validation or test set"
    assert corpus.counts["development"].left_out == 1


def test_fsd50k(tmp_path: Path) -> None:
    folder = fsd50k(tmp_path)
    (folder / "FSD50K.dev_audio/7.wav").unlink()
    sound(folder / "FSD50K.eval_audio/7.wav")  # another folder: not the clip of dev
    corpus = read_corpus("fsd50k", folder)
    assert problems(corpus) == {"dev/7.wav": "missing"}
    assert [row["split"] for row in corpus.rows] == ["train", "validation", "test"]
    rows = by_group(corpus)
    assert rows["freesound/102"]["class"] == "Musical_instrument/Electric_guitar"
    assert rows["freesound/9"]["class"] == "Domestic_animals_and_pets/Bark"
    assert rows["freesound/11"]["class"] == "Domestic_animals_and_pets/Bark"
    assert rows["freesound/102"]["license"] == "http://cc/102"
    assert "caption" not in rows["freesound/102"]
    assert (corpus.counts["train"].published, corpus.counts["eval"].published) == (36_796, 10_231)


def test_vggsound(tmp_path: Path) -> None:
    corpus = read_corpus("vggsound", vggsound(tmp_path))
    assert problems(corpus) == {
        "B5KE79I2f-A_000220": "left out",  # the video is in the test set
        "twoTRAIN_id_000010": "missing",  # a name without a time does not tell the stretch
        "--56QUhyDQM_000185": "missing",
    }
    rows = by_group(corpus)
    assert rows["youtube/--0PQM4-hqg"]["class"] == "animals/bird chirping, tweeting"
    assert rows["youtube/---g-f_I2yQ"]["class"] == "people marching"
    assert rows["youtube/B5KE79I2f-A"]["class"] == "nature/wind noise"
    assert splits(corpus) == {"train": 2, "test": 2}


def test_wavcaps(tmp_path: Path) -> None:
    corpus = read_corpus("wavcaps", wavcaps(tmp_path))
    rows = by_group(corpus)
    assert set(rows) == {
        *("youtube/b0RFKhbpFJA", "bbc/07066104", "freesound/49", "freesound/180913"),
        "soundbible/49",
    }
    assert rows["freesound/49"]["path"].endswith("/FreeSound_flac/49.flac")
    assert rows["soundbible/49"]["path"].endswith("/SoundBible_flac/49.flac")
    assert rows["freesound/180913"]["caption"] == "Sound 180913."
    reasons = {row["name"]: row["reason"] for row in corpus.problems}
    assert reasons == {
        "AudioSet_SL/Yr1nicOVtvkQ": "blacklist_exclude_test_ac.json names it",
        "FreeSound/376": "blacklist_exclude_ub8k_esc50_vggsound.json names it",
    }
    assert splits(corpus) == {"train": 5}


def test_wavcaps_needs_its_blacklists(tmp_path: Path) -> None:
    folder = wavcaps(tmp_path)
    (folder / "json_files/blacklist/blacklist_exclude_test_ac.json").unlink()
    with pytest.raises(ManifestError, match=r"lacks the table blacklist_exclude_test_ac\.json"):
        read_corpus("wavcaps", folder)


def test_wavcaps_that_is_not_unpacked(tmp_path: Path) -> None:
    folder = wavcaps(tmp_path)
    for path in folder.rglob("SoundBible_flac/*.flac"):
        path.unlink()
    table(folder / "Zip_files/SoundBible/SoundBible.zip", "PK")
    notes = read_corpus("wavcaps", folder).notes
    assert any("Zip_files/SoundBible/SoundBible.zip: unpack them" in note for note in notes)
    assert any("zip -F AudioSet_SL.zip --out AS.zip" in note for note in notes)


def test_a_pointer_of_git_lfs_is_named(tmp_path: Path) -> None:
    folder = wavcaps(tmp_path)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:44\nsize 147300685\n"
    table(folder / "json_files/FreeSound/fsd_final.json", pointer)
    with pytest.raises(ManifestError, match=r"fsd_final.json: .* is a pointer of Git LFS"):
        read_corpus("wavcaps", folder)


def test_esc50(tmp_path: Path) -> None:
    corpus = read_corpus("esc50", esc50(tmp_path))
    assert [row["split"] for row in corpus.rows] == ["train"] * 3 + ["validation", "test"]
    assert [row["license"] for row in corpus.rows] == ["CC BY"] + ["CC BY-NC 3.0"] * 4
    assert corpus.rows[0]["class"] == "animals/kind_1"
    assert corpus.rows[4]["class"] == "exterior/kind_5"
    assert corpus.rows[4]["origin"]["fold"] == 5
    assert corpus.rows[0]["group"] == "freesound/1001"


def test_urbansound8k(tmp_path: Path) -> None:
    corpus = read_corpus("urbansound8k", urbansound8k(tmp_path))
    assert [row["split"] for row in corpus.rows] == ["train", "train", "validation", "test"]
    assert [row["group"] for row in corpus.rows[:2]] == ["freesound/17"] * 2
    assert sum(counts.published or 0 for counts in corpus.counts.values()) == 8_732
    assert corpus.counts["fold 1"].usable == 2


def test_music21(tmp_path: Path) -> None:
    corpus = read_corpus("music21", music21(tmp_path))
    rows = by_group(corpus)
    assert rows["youtube/8DHG_hVSw1o"]["class"] == "instrument/flute violin"
    assert problems(corpus) == {"M3dekVSwNjY": "left out"}
    assert corpus.problems[0]["part"] == "MUSIC solo"
    again = by_group(read_corpus("music21", tmp_path))
    assert {group: row["split"] for group, row in again.items()} == {
        group: row["split"] for group, row in rows.items()
    }


def test_dcase2024(tmp_path: Path) -> None:
    corpus = read_corpus("dcase2024", dcase2024(tmp_path))
    rows = {Path(row["path"]).name: row for row in corpus.rows}
    assert rows["7.wav"]["caption"] == "Caption of 7."
    assert rows["11.wav"]["split"] == "test"
    assert rows["other.wav"]["alternatives"] == ["b", "c", "d", "e"]
    assert "102.wav" not in rows  # Clotho tests this recording
    assert problems(corpus) == {"dev/102.wav": "left out"}
    published = sum(counts.published or 0 for counts in corpus.counts.values())
    assert published == 51_197 + 5_929


@pytest.mark.parametrize(
    ("name", "file", "text"),
    [
        ("audiocaps", "train.csv", "id,text\n1,a\n"),
        ("audiocaps", "val.csv", None),
        ("audiocaps", "test.csv", "audiocap_id,youtube_id,start_time,caption\n1,x\n"),
        ("audiocaps", "test.csv", "audiocap_id,youtube_id,start_time,caption\n1,x,soon,a\n"),
        ("audiocaps", "eval_segments.csv", "# x\nvideo,1\n"),
        ("audioset", "eval_segments.csv", "YTID\nvideo\n"),
        ("audioset", "eval_segments.csv", "a, b, c, d\n"),
        ("audioset", "eval_segments.csv", "a, nan, 10.000, d\n"),
        ("audioset", "eval_segments.csv", "a, 0.000, inf, d\n"),
        ("audioset", "ontology.json", "{}"),
        ("audioset", "ontology.json", '[{"id": 3}]'),
        ("clotho", "clotho_captions_validation.csv", "file_name,caption_1\na,b\n"),
        ("clotho", "clotho_metadata_development.csv", None),
        ("fsd50k", "FSD50K.ground_truth/dev.csv", "fname,labels,mids\n7,a,b\n"),
        ("fsd50k", "FSD50K.ground_truth/dev.csv", "fname,labels,mids,split\n7,a,b,x\n"),
        ("fsd50k", "FSD50K.metadata/dev_clips_info_FSD50K.json", "[]"),
        ("fsd50k", "FSD50K.metadata/eval_clips_info_FSD50K.json", "{"),
        ("vggsound", "vggsound.csv", "id,start,label,split\n"),
        ("vggsound", "vggsound.csv", "a,1,b\n"),
        ("vggsound", "vggsound.csv", "a,1,b,validation\n"),
        ("vggsound", "vggsound.csv", f"a,{'9' * 400},b,train\n"),
        ("wavcaps", "json_files/FreeSound/fsd_final.json", "[]"),
        ("wavcaps", "json_files/FreeSound/fsd_final.json", '{"data": [{"id": "1"}]}'),
        ("wavcaps", "json_files/blacklist/blacklist_exclude_test_ac.json", '{"FreeSound": []}'),
        ("esc50", "ESC-50-master/meta/esc50.csv", "filename,fold\na,1\n"),
        (
            "esc50",
            "ESC-50-master/meta/esc50.csv",
            "filename,fold,target,category,esc10,src_file\na,1,50,x,True,1\n",
        ),
        (
            "esc50",
            "ESC-50-master/meta/esc50.csv",
            "filename,fold,target,category,esc10,src_file\na,12,1,x,True,1\n",
        ),
        (
            "urbansound8k",
            "UrbanSound8K/metadata/UrbanSound8K.csv",
            "slice_file_name,fsID,start,end,fold,class\na,1,0,1,11,x\n",
        ),
        ("music21", "MUSIC_solo_videos.json", '{"videos": {"flute": "abc"}}'),
        ("music21", "MUSIC_solo_videos.json", "[]"),
        ("dcase2024", "fsd50k_dev_auto_caption.json", '{"data": [{"wav": "7.wav"}]}'),
        ("dcase2024", "fsd50k_eval_auto_caption.json", None),
    ],
)
def test_tables_of_another_form_are_refused(
    name: str, file: str, text: str | None, tmp_path: Path
) -> None:
    folder = REPLICAS[name](tmp_path)
    (folder / file).unlink(missing_ok=True)
    if text is not None:
        table(folder / file, text)
    with pytest.raises(ManifestError, match=Path(file).name) as caught:
        read_corpus(name, folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["audiocaps", "esc50", "vggsound", "audioset"])
def test_a_table_in_another_encoding_is_named(name: str, tmp_path: Path) -> None:
    folder = REPLICAS[name](tmp_path)
    path = min(folder.rglob("*.csv"))
    path.write_bytes(path.read_bytes() + b'"caf\xe9",1,2,3,4,5,6\n')
    with pytest.raises(ManifestError, match=f"{path.name}: .* it is not UTF-8 text"):
        read_corpus(name, folder)


def test_a_clip_that_a_table_lists_twice_counts_once(tmp_path: Path) -> None:
    folder = esc50(tmp_path)
    path = folder / "ESC-50-master/meta/esc50.csv"
    path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")
    corpus = read_corpus("esc50", folder)
    assert len(corpus.rows) == 5
    assert [row["reason"] for row in corpus.problems] == [
        "the tables list it twice, or its file is that of another clip"
    ]


def test_broken_and_missing_texts_of_a_table(tmp_path: Path) -> None:
    folder = wavcaps(tmp_path / "data")
    record = r'{"id": "49", "caption": null, "author": "\ud800"}'
    table(folder / "json_files/SoundBible/sb_final.json", f'{{"data": [{record}]}}')
    manifest = tmp_path / "m.jsonl"
    write_corpus("wavcaps", folder, manifest)
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    [row] = [row for row in rows if row["group"] == "soundbible/49"]
    assert "caption" not in row
    assert row["origin"]["uploader"] == "?"


def test_classes_become_captions_on_request(tmp_path: Path) -> None:
    from singleout.corpora import ReadOptions

    folder = fsd50k(tmp_path)
    corpus = read_corpus("fsd50k", folder, ReadOptions(class_captions=True))
    assert by_group(corpus)["freesound/102"]["caption"] == "Electric guitar"


def test_captions_that_are_no_queries_are_left_out(tmp_path: Path) -> None:
    folder = audiocaps(tmp_path)
    path = folder / "test.csv"
    path.write_text(path.read_text().replace("Caption 0 of it", "word " * 300))
    corpus = read_corpus("audiocaps", folder)
    row = by_group(corpus)["youtube/testVIDEO_id"]
    assert (row["caption"], len(row["alternatives"])) == ("Caption 1 of it", 3)
    assert "1 captions are left out: they are too long" in corpus.notes


def test_names_of_clips_of_two_corpora_agree(tmp_path: Path) -> None:
    """WavCaps and the corpora that it was made from name the same recording in the same way."""
    names = {"audioset": audioset, "fsd50k": fsd50k, "wavcaps": wavcaps}
    folders = {name: replica(tmp_path / name) for name, replica in names.items()}
    table(folders["audioset"] / "eval_segments.csv", 'b0RFKhbpFJA, 0.000, 10.000, "/m/09x0r"\n')
    sound(folders["audioset"] / "b0RFKhbpFJA.wav")
    path = folders["wavcaps"] / "json_files/FreeSound/fsd_final.json"
    content = json.loads(path.read_text())
    content["data"][0]["id"] = "102"
    json_table(path, content)
    sound(folders["wavcaps"] / "FreeSound_flac/102.flac")
    groups = {name: set(by_group(read_corpus(name, folders[name]))) for name in names}
    assert groups["wavcaps"] & groups["audioset"] == {"youtube/b0RFKhbpFJA"}
    assert groups["wavcaps"] & groups["fsd50k"] == {"freesound/102"}
