"""Small replicas of corpora, in the layouts and with the quirks of the published ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import soundfile

from tests.recordings import noise

SECONDS = 0.1
RATE = 16_000


def sound(path: Path, seed: int = 0) -> Path:
    """A tenth of a second of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise(round(SECONDS * RATE), seed=seed).T, RATE)
    return path


def table(path: Path, content: str | bytes) -> Path:
    """A file with these bytes; text becomes UTF-8, and its line ends stay."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def json_table(path: Path, content: Any) -> Path:
    return table(path, json.dumps(content))


SEGMENTS_HEAD = (
    "# Segments csv created Sun Mar  5 10:54:31 2017\n"
    "# num_ytids=3, num_segs=3, num_unique_labels=527, num_positive_labels=5\n"
    "# YTID, start_seconds, end_seconds, positive_labels\n"
)
ONTOLOGY = [
    {"id": "/m/0jbk", "name": "Animal", "child_ids": ["/m/068hy", "/m/01280g"]},
    {"id": "/m/068hy", "name": "Domestic animals, pets", "child_ids": ["/m/0bt9lr"]},
    {"id": "/m/0bt9lr", "name": "Dog", "child_ids": ["/m/05tny_"]},
    {"id": "/m/05tny_", "name": "Bark", "child_ids": []},
    {"id": "/m/01280g", "name": "Wild animals", "child_ids": ["/m/07qf0zm"]},
    {"id": "/m/07qf0zm", "name": "Howl", "child_ids": []},
    {"id": "/m/0dgw9r", "name": "Human sounds", "child_ids": ["/m/09l8g"]},
    {"id": "/m/09l8g", "name": "Human voice", "child_ids": ["/m/09x0r"]},
    {"id": "/m/09x0r", "name": "Speech", "child_ids": []},
]
"""A part of the real one: two roots, and a branch of four levels."""


def audioset(folder: Path) -> Path:
    """One segment named as each download program does; one missing, one empty."""
    balanced = (
        '--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/m/05tny_"\n'
        '--ZhevVpy1s, 50.000, 60.000, "/m/0bt9lr"\n'
        '-0RWZT-miFs, 420.000, 430.000, "/m/0jbk"\n'
    )
    unbalanced = (
        '---1_cCGK4M, 0.000, 10.000, "/m/07qf0zm"\n'
        '---2_BBVHAA, 30.000, 40.000, "/m/09x0r"\n'
        '---B_v8ZoBY, 1.500, 11.500, "/m/09x0r"\n'
        '--gone_gone, 30.000, 40.000, "/m/09x0r"\n'
    )
    evaluation = '--4gqARaEJE, 0.000, 10.000, "/m/068hy,/t/dd00125"\n'
    table(folder / "balanced_train_segments.csv", SEGMENTS_HEAD + balanced)
    table(folder / "unbalanced_train_segments.csv", SEGMENTS_HEAD + unbalanced)
    table(folder / "eval_segments.csv", SEGMENTS_HEAD + evaluation)
    json_table(folder / "ontology.json", ONTOLOGY)
    sound(folder / "audio/bal_train/--PJHxphWEs.flac", 1)
    sound(folder / "audio/bal_train/Y--ZhevVpy1s.wav", 2)
    sound(folder / "audio/bal_train/-0RWZT-miFs_420000_430000.wav", 3)
    part = folder / "unbalanced_train_segments/unbalanced_train_segments_part00"
    sound(part / "---1_cCGK4M_0.wav", 4)
    sound(part / "Y---2_BBVHAA_30.000_40.000.wav", 5)
    table(part / "---B_v8ZoBY_1.5_11.5.wav", b"")
    sound(folder / "audio/eval/--4gqARaEJE_000000.wav", 6)
    return folder


def audiocaps(folder: Path) -> Path:
    """Version 1.0 with its Windows line ends; one file missing, one that is no sound."""
    head = "audiocap_id,youtube_id,start_time,caption\r\n"
    train = [f"{i},videoTRAIN{i},{10 * i},A sound of kind {i}" for i in range(8)]
    train += [
        '91,-quo_ted_id,30,"A dog, then a bell"',
        "92,gonegonegon,0,Gone",
        "93,badbadbadba,0,x",
    ]
    table(folder / "train.csv", head + "\r\n".join(train) + "\r\n")
    for i in range(8):
        sound(folder / f"train/videoTRAIN{i}_{10 * i}.wav", i)
    sound(folder / "train/-quo_ted_id.wav", 41)
    table(folder / "train/badbadbadba_0.wav", "no sound")
    for part in ("val", "test"):
        lines = [f"{n},{part}VIDEO_id,20,Caption {n} of it" for n in range(5)]
        table(folder / f"{part}.csv", head + "\r\n".join(lines) + "\r\n")
        sound(folder / f"{part}/Y{part}VIDEO_id.wav", 50)
    return folder


def clotho(folder: Path) -> Path:
    """Captions in UTF-8, metadata in Latin-1, one clip whose Freesound id is not known."""
    head = "file_name," + ",".join(f"caption_{n}" for n in range(1, 6)) + "\n"
    about_head = "file_name,keywords,sound_id,sound_link,start_end_samples,manufacturer,license\n"
    for number, part in enumerate(("development", "validation", "evaluation")):
        rows = 'Caf\u00e9 B.v2.wav,Rain falls.,Rain,It rains,"Rain, heavy",Wet\n'
        table(folder / f"clotho_captions_{part}.csv", head + rows + "other.wav,a,b,c,d,e\n")
        about = f'Caf\u00e9 B.v2.wav,rain;caf\u00e9,{100 + number},http://x,"[0, 9]",J\u00fcrgen,http://cc0\n'
        about += "other.wav,x,Not found,NA,,,\n"
        table(folder / f"clotho_metadata_{part}.csv", (about_head + about).encode("latin-1"))
        sound(folder / part / "Cafe\u0301 B.v2.wav", 60 + number)  # as macOS unpacks it
        sound(folder / part / "other.wav", 70 + number)
    return folder


def fsd50k(folder: Path) -> Path:
    """Labels with those above them; the recording 102 is in Clotho's test set, too."""
    guitar = (
        '"Electric_guitar,Guitar,Plucked_string_instrument,Musical_instrument,Music","/m/02sgy"'
    )
    bark = '"Bark,Dog,Domestic_animals_and_pets,Animal","/m/05tny_"'
    dev = f"fname,labels,mids,split\n7,{guitar},train\n102,{guitar},train\n9,{bark},val\n"
    table(folder / "FSD50K.ground_truth/dev.csv", dev)
    table(
        folder / "FSD50K.ground_truth/eval.csv",
        'fname,labels,mids\n11,"Bark,Dog,Domestic_animals_and_pets,Animal,Speech","/m/05tny_"\n',
    )
    for part, numbers in (("dev", (7, 102, 9)), ("eval", (11,))):
        info = {
            str(n): {"title": "t", "tags": ["a"], "license": f"http://cc/{n}", "uploader": "u"}
            for n in numbers
        }
        json_table(folder / f"FSD50K.metadata/{part}_clips_info_FSD50K.json", info)
        for number in numbers:
            sound(folder / f"FSD50K.{part}_audio/{number}.wav", number)
    return folder


def vggsound(folder: Path) -> Path:
    """No header; a label with a comma; two clips of one video, one in each split."""
    rows = (
        "---g-f_I2yQ,1,people marching,test\n"
        '--0PQM4-hqg,30,"bird chirping, tweeting",train\n'
        "B5KE79I2f-A,188,wind noise,test\n"
        "B5KE79I2f-A,220,wind noise,train\n"
        "twoTRAIN_id,10,wind noise,train\n"
        "twoTRAIN_id,90,wind noise,train\n"
        "--56QUhyDQM,185,playing tennis,train\n"
    )
    table(folder / "vggsound.csv", rows)
    table(
        folder / "data/stat.csv",
        'wind noise,997,nature\r\n"bird chirping, tweeting",1050,animals\r\n',
    )
    sound(folder / "audio/---g-f_I2yQ_000001.wav", 1)
    sound(folder / "audio/--0PQM4-hqg.wav", 2)
    sound(folder / "audio/B5KE79I2f-A_000188.wav", 3)
    sound(folder / "audio/B5KE79I2f-A_000220.wav", 4)
    sound(folder / "audio/twoTRAIN_id_000090.wav", 5)
    sound(folder / "audio/twoTRAIN_id.wav", 6)  # of which stretch is it?
    return folder


WAVCAPS_UNPACKED = "mnt/fast/nobackup/scratch4weeks/xm00178/WavCaps/data/waveforms"


def wavcaps(folder: Path) -> Path:
    """JSON files as on Hugging Face, sounds as the archives unpack, one number in two sources."""
    lists: dict[str, tuple[str, list[dict[str, Any]]]] = {
        "AudioSet_SL": (
            "as_final",
            [{"id": f"Y{name}.wav"} for name in ("b0RFKhbpFJA", "r1nicOVtvkQ")],
        ),
        "BBC_Sound_Effects": ("bbc_final", [{"id": "07066104", "category": "['Machines']"}]),
        "FreeSound": (
            "fsd_final",
            [{"id": name, "author": "me"} for name in ("49", "180913", 376)],
        ),
        "SoundBible": ("sb_final", [{"id": "49", "title": "Breathing Vent"}]),
    }
    for source, (name, records) in lists.items():
        data = [
            {"caption": f"Sound {record['id']}.", "duration": 1.0, "audio": "wav_path", **record}
            for record in records
        ]
        content = {"num_captions_per_audio": 1, "data": data}
        json_table(folder / f"json_files/{source}/{name}.json", content)
        for record in records:
            stem = str(record["id"]).removesuffix(".wav")
            sound(folder / f"Zip_files/{WAVCAPS_UNPACKED}/{source}_flac/{stem}.flac", len(stem))
    blacklists = {
        "all_ac": {"AudioSet": ["Yb0RFKhbpFJA.wav"], "FreeSound": ["49"]},
        "test_ac": {"AudioSet": ["Yr1nicOVtvkQ.wav"], "FreeSound": ["1"]},
        "ub8k_esc50_vggsound": {"AudioSet": [], "FreeSound": ["376", "376"]},
    }
    for name, blacklist in blacklists.items():
        json_table(folder / f"json_files/blacklist/blacklist_exclude_{name}.json", blacklist)
    return folder


def esc50(folder: Path) -> Path:
    """One clip of each fold."""
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    root = folder / "ESC-50-master"
    for fold in range(1, 6):
        name = f"{fold}-{1000 + fold}-A-{10 * fold - 10}.wav"
        is_esc10 = fold == 1
        rows.append(f"{name},{fold},{10 * fold - 10},kind_{fold},{is_esc10},{1000 + fold},A")
        sound(root / "audio" / name, fold)
    table(root / "meta/esc50.csv", "\n".join(rows) + "\n")
    return folder


def urbansound8k(folder: Path) -> Path:
    """Excerpts in three folds, two of one recording."""
    root = folder / "UrbanSound8K"
    rows = ["slice_file_name,fsID,start,end,salience,fold,classID,class"]
    for name, fold in (("17-3-0-0", 1), ("17-3-0-1", 1), ("18-0-0-0", 9), ("19-8-0-0", 10)):
        number, class_id, *_ = name.split("-")
        rows.append(f"{name}.wav,{number},0.0,0.317551,1,{fold},{class_id},kind_{class_id}")
        sound(root / f"audio/fold{fold}/{name}.wav", fold)
    table(root / "metadata/UrbanSound8K.csv", "\n".join(rows) + "\n")
    return folder


def music21(folder: Path) -> Path:
    """A video that two lists name; sounds in folders of instruments, as m4a and wav."""
    lists = {
        "MUSIC21_solo_videos.json": {"accordion": ["M3dekVSwNjY", "kw-OQpF9N4E"]},
        "MUSIC_solo_videos.json": {"accordion": ["M3dekVSwNjY"], "flute": ["jW_AuF6dQYY"]},
        "MUSIC_duet_videos.json": {"flute violin": ["8DHG_hVSw1o"]},
    }
    for name, videos in lists.items():
        json_table(folder / name, {"version": 2.0, "videos": videos})
        for instruments, ids in videos.items():
            for video in ids:
                sound(folder / f"audio/{instruments}/{video}.wav", 3)
    return folder


def dcase2024(folder: Path) -> Path:
    """FSD50K and Clotho in folders of their names, with captions by GPT-4."""
    fsd50k(folder / "FSD50K")
    clotho(folder / "clotho")
    for part, numbers in (("dev", (7, 102, 9)), ("eval", (11,))):
        data = [{"wav": f"{number}.wav", "caption": f"Caption of {number}."} for number in numbers]
        json_table(folder / f"fsd50k_{part}_auto_caption.json", {"data": data})
    return folder


REPLICAS = {
    each.__name__: each
    for each in (
        audiocaps,
        audioset,
        clotho,
        dcase2024,
        esc50,
        fsd50k,
        music21,
        urbansound8k,
        vggsound,
        wavcaps,
    )
}


def without_sounds(folder: Path) -> Path:
    """Remove all sounds of a replica."""
    for path in [*folder.rglob("*.wav"), *folder.rglob("*.flac")]:
        path.unlink()
    return folder


def copied(folder: Path, target: Path) -> Path:
    """A copy of a replica."""
    return Path(shutil.copytree(folder, target))
