"""The sounds recipe, on tiny packages and archives that the tests build themselves."""

import gzip
import io
import json
import shutil
import signal
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from numpy.typing import NDArray

from recipes.sounds import build, manifest, prepare, render, unpack
from recipes.sounds.__main__ import main
from recipes.sounds.fetch import RecipeError, fetch_deb

RATE_HZ = 44_100
Samples = NDArray[np.float32]


def noise(seconds: float, seed: int = 0, level: float = 0.3) -> Samples:
    random = np.random.default_rng(seed)
    size = round(seconds * RATE_HZ)
    return (level * random.uniform(-1, 1, size)).astype(np.float32)


def wav_bytes(samples: Samples) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE_HZ, format="WAV")
    return file.getvalue()


# Archives


def make_c4group(members: dict[str, bytes | dict[str, bytes]], pack: bool = True) -> bytes:
    header = bytearray(204)
    header[:24] = b"RedWolf Design GrpFolder"
    struct.pack_into("<iii", header, 28, 1, 2, len(members))
    for i in range(0, len(header) - 2, 3):
        header[i], header[i + 2] = header[i + 2], header[i]
    entries, contents = b"", b""
    for name, member in members.items():
        blob = make_c4group(dict(member), pack=False) if isinstance(member, dict) else member
        entry = bytearray(316)
        entry[: len(name)] = name.encode()
        is_group = int(isinstance(member, dict))
        struct.pack_into("<iiiii", entry, 260, 0, is_group, len(blob), 0, len(contents))
        entries += bytes(entry)
        contents += blob
    data = bytes(byte ^ 237 for byte in header) + entries + contents
    return b"\x1e\x8c" + gzip.compress(data)[2:] if pack else data


def make_rcc(folder: str, files: dict[str, bytes], flags: int = 0) -> bytes:
    """A version 1 resource: root -> folder -> files."""
    names, name_offsets = b"", []
    for name in (folder, *files):
        name_offsets.append(len(names))
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    blobs, blob_offsets = b"", []
    for content in files.values():
        blob_offsets.append(len(blobs))
        if flags & 1:
            content = struct.pack(">I", len(content)) + zlib.compress(content)
        blobs += struct.pack(">I", len(content)) + content
    tree = struct.pack(">IHII", 0, 2, 1, 1) + struct.pack(
        ">IHII", name_offsets[0], 2, len(files), 2
    )
    for name_offset, blob_offset in zip(name_offsets[1:], blob_offsets, strict=True):
        tree += struct.pack(">IHHHI", name_offset, flags, 0, 0, blob_offset)
    starts = (20, 20 + len(tree), 20 + len(tree) + len(blobs))
    return b"qres" + struct.pack(">4I", 1, *starts) + tree + blobs + names


def make_zip(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def make_deb(
    folder: Path, package: str, files: dict[str, bytes], links: dict[str, str] | None = None
) -> Path:
    root = folder / f"root-{package}"
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    for path, target in (links or {}).items():
        (root / path).symlink_to(target)
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN/control").write_text(
        f"Package: {package}\nVersion: 1:2.0-1\nArchitecture: all\n"
        "Maintainer: nobody <nobody@example.org>\nDescription: test\n"
    )
    debs_dir = folder / "debs"
    debs_dir.mkdir(exist_ok=True)
    deb_path = debs_dir / f"{package}_1%3a2.0-1_all.deb"
    subprocess.run(["dpkg-deb", "-Znone", "-b", root, deb_path], check=True, capture_output=True)
    return deb_path


def test_zip_yields_only_audio() -> None:
    archive = make_zip({"sound/a.ogg": b"aaa", "sound/read.me": b"no", "B.WAV": b"bbb"})
    members = dict(unpack.zip_members(io.BytesIO(archive)))
    assert members == {"sound/a.ogg": b"aaa", "B.WAV": b"bbb"}


@pytest.mark.parametrize("flags", [0, 1])
def test_rcc_yields_folders_plain_and_compressed(flags: int) -> None:
    files = {"duck.ogg": b"quack" * 50, "page.qml": b"no", "ö.wav": b"x"}
    members = dict(unpack.rcc_members(io.BytesIO(make_rcc("animals", files, flags))))
    assert members == {"animals/duck.ogg": b"quack" * 50, "animals/ö.wav": b"x"}


def test_c4group_yields_nested_groups() -> None:
    group = make_c4group({"a.ogg": b"aaa", "x.txt": b"no", "UI.ocg": {"b.wav": b"bbb"}})
    members = dict(unpack.c4group_members(io.BytesIO(group)))
    assert members == {"a.ogg": b"aaa", "UI.ocg/b.wav": b"bbb"}


def test_deb_with_every_kind_of_archive(tmp_path: Path) -> None:
    files = {
        "usr/share/g/plain.ogg": b"plain",
        "usr/share/g/text.txt": b"no audio",
        "usr/share/g/data.wz": make_zip({"sound/z.ogg": b"zip"}),
        "usr/share/g/ui.rcc": make_rcc("r", {"r.ogg": b"rcc"}),
        "usr/share/g/Sound.ocg": make_c4group({"c.ogg": b"c4"}),
        "usr/share/g/broken.pk3": b"PK\x03\x04 but no archive",
    }
    deb_path = make_deb(tmp_path, "game", files, {"usr/share/g/link.ogg": "plain.ogg"})
    scratch_dir = tmp_path / "scratch"
    scratch_dir.mkdir()
    tree = unpack.unpack_audio(deb_path, scratch_dir)
    assert {path: file.read_bytes() for path, file in tree.files.items()} == {
        "usr/share/g/plain.ogg": b"plain",
        "usr/share/g/link.ogg": b"plain",
        "usr/share/g/data.wz/sound/z.ogg": b"zip",
        "usr/share/g/ui.rcc/r/r.ogg": b"rcc",
        "usr/share/g/Sound.ocg/c.ogg": b"c4",
    }
    assert [line.split(":")[0] for line in tree.broken_archives] == ["usr/share/g/broken.pk3"]


def test_the_longest_tail_wins() -> None:
    paths = {"usr/g/base.wz/audio/a/hit.ogg", "usr/g/base.wz/audio/b/hit.ogg", "usr/hit.ogg"}
    wanted = ["archive/audio/b/hit.ogg", "usr/hit.ogg", "archive/none.ogg"]
    assert unpack.match_paths(wanted, paths) == {
        "archive/audio/b/hit.ogg": "usr/g/base.wz/audio/b/hit.ogg",
        "usr/hit.ogg": "usr/hit.ogg",
        "archive/none.ogg": None,
    }


# Preparation


def prepared(samples: Samples, max_segments: int = 3) -> prepare.Prepared:
    columns = samples if samples.ndim == 2 else samples[:, None]
    return prepare.prepare_samples(columns, RATE_HZ, max_segments)


def test_silent_ends_are_trimmed_and_the_peak_is_minus_one_db() -> None:
    silence = np.zeros(RATE_HZ, np.float32)
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(RATE_HZ) / RATE_HZ).astype(np.float32)
    (clip,) = prepared(np.concatenate([silence, tone, silence])).clips
    assert clip.seconds == pytest.approx(1.0, abs=0.05)  # the high-pass rings a little
    assert 20 * np.log10(np.abs(clip.samples).max()) == pytest.approx(-1.0, abs=0.01)
    assert clip.gain_db == pytest.approx(-1 - 20 * np.log10(0.3), abs=0.3)


def test_a_quiet_file_is_trimmed_relative_to_its_peak() -> None:
    body = noise(1.0, level=10 ** (-30 / 20))
    tail = noise(1.0, seed=1, level=10 ** (-58 / 20))  # above 40 dB under the peak
    (clip,) = prepared(np.concatenate([body, tail])).clips
    assert clip.seconds == pytest.approx(2.0, abs=0.02)


@pytest.mark.parametrize(
    ("seconds", "max_segments", "segments"), [(9.0, 3, 1), (25.0, 3, 2), (60.0, 3, 3), (60.0, 2, 2)]
)
def test_segments_of_a_longer_file(seconds: float, max_segments: int, segments: int) -> None:
    clips = prepared(noise(seconds), max_segments).clips
    assert [clip.segment for clip in clips] == list(range(segments))
    assert all(clip.seconds <= prepare.SEGMENT_SECONDS + 1e-3 for clip in clips)


def test_segments_do_not_overlap_and_reach_the_end() -> None:
    assert prepare.segment_starts(100, 10, 3) == [0, 45, 90]
    assert prepare.segment_starts(20, 10, 3) == [0, 10]
    assert prepare.segment_starts(19, 10, 3) == [0]


def test_channels_that_cancel_give_the_louder_one() -> None:
    left = noise(1.0)
    np.testing.assert_array_equal(prepare.to_mono(np.stack([0.9 * left, -left], axis=1)), -left)
    mono = prepare.to_mono(np.stack([left, left], axis=1))
    np.testing.assert_allclose(mono, left, atol=1e-7)


def test_offset_and_rumble_go() -> None:
    time_s = np.arange(2 * RATE_HZ) / RATE_HZ
    tone = 0.1 * np.sin(2 * np.pi * 440 * time_s)
    rumble = 0.3 + 0.3 * np.sin(2 * np.pi * 5 * time_s)
    filtered = prepare.high_pass((tone + rumble).astype(np.float32), RATE_HZ)
    inner = slice(RATE_HZ // 2, -RATE_HZ // 2)
    assert np.abs(filtered - tone)[inner].max() < 0.01


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (noise(0.1), "too short"),
        (noise(1.0, level=10 ** (-62 / 20)), "too quiet"),
        (np.zeros(RATE_HZ, np.float32), "too quiet"),
        (np.zeros(0, np.float32), "empty"),
        (np.full(RATE_HZ, np.nan, np.float32), "empty"),
    ],
)
def test_what_is_too_short_or_too_quiet_is_dropped(samples: Samples, reason: str) -> None:
    result = prepared(samples)
    assert (result.clips, result.dropped) == ([], reason)


def test_the_hash_is_of_the_audio_not_of_the_file() -> None:
    mono = noise(0.5)
    padded = np.concatenate([np.zeros(100, np.float32), mono])
    stereo = np.stack([mono, mono], axis=1)
    hashes = {prepared(samples).audio_hash for samples in (mono, padded, stereo)}
    assert len(hashes) == 1
    assert prepared(noise(0.5, seed=1)).audio_hash not in hashes


def test_the_band_edge_is_found() -> None:
    low = soxr.resample(soxr.resample(noise(2.0), RATE_HZ, 11_025), 11_025, RATE_HZ)
    (clip,) = prepared(low).clips
    assert clip.bandwidth_hz == pytest.approx(5_500, abs=600)
    assert prepared(noise(2.0)).clips[0].bandwidth_hz > 15_500


def test_mpeg_audio_with_a_broken_end_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "tone.mp3"
    soundfile.write(path, noise(1.0), RATE_HZ, format="MP3")
    path.write_bytes(path.read_bytes() + b"LIST" * 500)
    samples, rate_hz = prepare.decode(path)
    assert (rate_hz, samples.shape[1]) == (RATE_HZ, 1)
    assert len(samples) == pytest.approx(RATE_HZ, rel=0.1)


def test_an_unknown_codec_is_an_error_of_that_file(tmp_path: Path) -> None:
    path = tmp_path / "odd.ogg"  # a RIFF file with a codec that nobody has
    content = bytearray(wav_bytes(noise(0.2)))
    content[20:22] = b"Og"
    path.write_bytes(content)
    with pytest.raises(prepare.DecodeError):
        prepare.decode(path)


def test_a_file_that_is_no_audio_is_an_error_of_that_file(tmp_path: Path) -> None:
    path = tmp_path / "not.ogg"
    path.write_bytes(b"no audio at all")
    with pytest.raises(prepare.DecodeError):
        prepare.decode(path)


# Splits


def entry(split: str, group: str, audio_hash: str, name: str) -> manifest.Entry:
    origin = {"package": f"{split}-package", "source_path": name, "segment": 0}
    return {"split": split, "group": group, "audio_hash": audio_hash, "origin": origin}


def test_no_group_and_no_audio_is_in_two_splits() -> None:
    random = np.random.default_rng(0)
    entries = [
        entry(
            manifest.SPLITS[random.integers(3)],
            f"g{random.integers(60)}",
            f"h{random.integers(60)}",
            f"{i}.ogg",
        )
        for i in range(150)
    ]
    kept, dropped = manifest.settle(entries)
    assert len(kept) + sum(dropped.values()) == len(entries)
    for key in ("group", "audio_hash"):
        splits: dict[str, set[str]] = {}
        for one in kept:
            splits.setdefault(one[key], set()).add(one["split"])
        assert all(len(found) == 1 for found in splits.values())
    assert {one["split"] for one in kept} == set(manifest.SPLITS)
    order = random.permutation(len(entries))
    assert manifest.settle(entries[i] for i in order)[0] == kept


def test_the_higher_split_keeps_a_shared_sound() -> None:
    entries = [
        entry("train", "g1", "h1", "a"),
        entry("validation", "g1", "h2", "b"),
        entry("test", "g2", "h2", "c"),
    ]
    kept, _ = manifest.settle(entries)
    assert [one["split"] for one in kept] == ["test"]


def test_unlabelled_audio_never_repeats_captioned_audio() -> None:
    entries = [entry("train", f"g{i}", f"h{i}", f"{i}") for i in range(3)]
    kept, dropped = manifest.settle(entries, {"h0", "g1"})
    assert [one["audio_hash"] for one in kept] == ["h2"]
    assert dropped == {"same as a captioned sound": 2}


def test_committed_tables_agree() -> None:
    recipe = build.Recipe(Path())
    packages = set(recipe.packages("full"))
    assert packages == {*recipe.captions, build.SOUNDFONT_PACKAGE}
    others = set(recipe.packages("full", uncaptioned=True)) - packages
    assert others == set(recipe.package_facts) - packages
    assert {recipe.split(name) for name in others} == {"train"}
    assert not any(recipe.has_kind(name, unlabelled=False) for name in others)
    assert all(recipe.has_kind(name, unlabelled=True) for name in others)
    assert set(recipe.held_out) <= packages
    assert recipe.split(build.SOUNDFONT_PACKAGE) == "train"
    assert set(recipe.packages("core")) < set(recipe.packages("full"))
    groups = {row.group for rows in recipe.captions.values() for row in rows}
    unlabelled = {name for name in recipe.same_recordings if "/" in name}
    assert set(recipe.same_recordings) - unlabelled <= groups
    assert {name.split("/")[0] for name in unlabelled} <= packages
    core_bytes = sum(
        recipe.package_facts[name]["download_bytes"] for name in recipe.packages("core")
    )
    assert core_bytes < 2e9


# MIDI


def test_variable_length_numbers() -> None:
    examples = {0: "00", 0x7F: "7f", 0x80: "8100", 0x3FFF: "ff7f", 0x4000: "818000"}
    assert {n: render.variable_length(n).hex() for n in examples} == examples


def test_phrases_are_deterministic_varied_and_short() -> None:
    programs = build.Recipe(Path()).programs
    files = {}
    for program in reversed(programs):  # the order must not matter
        for phrase in range(render.PHRASES_PER_PROGRAM):
            notes = render.compose(program, phrase)
            end_s = max(note.start_s + note.length_s for note in notes)
            assert 1.0 < end_s + render.RELEASE_SECONDS <= render.MAX_SECONDS
            assert all(0 <= note.key < 128 and 0 < note.velocity < 128 for note in notes)
            files[program, phrase] = render.midi_file(program, notes)
    assert len(set(files.values())) == len(files)
    for (program, phrase), midi in files.items():
        assert render.midi_file(program, render.compose(program, phrase)) == midi
    assert len({program.name for program in programs}) == len(programs)


def test_midi_file_layout() -> None:
    program = render.Program("drum", 0, (36,), False, "kick drum", (), "instrument/kick_drum")
    midi = render.midi_file(program, [render.Note(0.0, 0.5, 36, 100)])
    track = bytes.fromhex("00 c9 00  00 99 24 64  83 60 89 24 00  85 20 ff 2f 00")
    assert (
        midi
        == b"MThd"
        + struct.pack(">IHHH", 6, 0, 1, 480)
        + b"MTrk"
        + struct.pack(">I", len(track))
        + track
    )


# The whole


COLUMNS = (
    "package,source_path,caption,alternatives,class,license,redistributable,loopable,group,"
    "seconds,rate_hz,bandwidth_hz,speech_share,rms_dbfs"
)


def small_recipe(folder: Path) -> build.Recipe:
    """Two packages: one of train, one of test which shares a sound with it; and one without
    captions, which shares a sound with each."""
    recipe_dir = folder / "recipe"
    recipe_dir.mkdir()
    rows = [
        "game,usr/share/a.wav,a duck,duck|quack,animal/duck,CC0-1.0,1,0,g1,1,44100,9000,0,-20",
        "game,archive/sound/b.wav,a saw,saw,tool/saw,GPL-2,0,1,g2,1,44100,9000,0,-20",
        "game,usr/share/gone.wav,a cat,cat,animal/cat,GPL-2,0,0,g3,1,44100,9000,0,-20",
        "game,usr/share/bad.wav,a cow,cow,animal/cow,GPL-2,0,0,g4,1,44100,9000,0,-20",
        "held,usr/share/c.wav,a duck,duck,animal/duck,GPL-2,0,0,g5,1,44100,9000,0,-20",
    ]
    (recipe_dir / "captions.csv").write_text("\n".join([COLUMNS, *rows]) + "\n")
    (recipe_dir / "gm_programs.csv").write_text("kind,program,notes\n")
    (recipe_dir / "splits.json").write_text('{"test": ["held"], "validation": []}')
    facts = {"download_bytes": 1, "version": "1"}
    tiers = {"game": "core", "held": "full", "wild": "uncaptioned"}
    packages = {name: {"tier": tier, **facts} for name, tier in tiers.items()}
    (recipe_dir / "packages.json").write_text(json.dumps(packages))
    same = {"groups": [["g5", "game/usr/share/recoded.wav"]]}
    (recipe_dir / "same_recordings.json").write_text(json.dumps(same))
    output_dir = folder / "sounds"
    output_dir.mkdir()
    game = {
        "usr/share/a.wav": wav_bytes(noise(1.0, seed=1)),
        "usr/share/data.pk3": make_zip({"sound/b.wav": wav_bytes(noise(12.0, seed=2))}),
        "usr/share/bad.wav": b"not audio",
        "usr/share/other.wav": wav_bytes(noise(1.0, seed=3)),
        "usr/share/leak.wav": wav_bytes(noise(1.0, seed=4)),
        "usr/share/recoded.wav": wav_bytes(0.9 * noise(1.0, seed=4)),
    }
    make_deb(output_dir, "game", game)
    make_deb(output_dir, "held", {"usr/share/c.wav": wav_bytes(noise(1.0, seed=4))})
    wild = {f"usr/share/{seed}.wav": wav_bytes(noise(1.0, seed=seed)) for seed in (1, 4, 5)}
    make_deb(output_dir, "wild", wild)
    return build.Recipe(output_dir, recipe_dir)


def read_lines(path: Path) -> list[manifest.Entry]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_from_packages_to_manifests(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    assert recipe.packages("full") == ["game", "held"]
    packages = recipe.packages("full", uncaptioned=True)
    results = dict(build.build_all(recipe, packages, unlabelled=True, jobs=2))
    assert results == {"game": None, "held": None, "wild": None}
    report = build.write_manifests(recipe, {}, unlabelled=True)
    entries = read_lines(recipe.output_dir / "manifest.jsonl")
    assert [(one["class"], one["split"]) for one in entries] == [
        ("tool/saw", "train"),
        ("animal/duck", "train"),
        ("animal/duck", "test"),
    ]
    permissive = read_lines(recipe.output_dir / "permissive.jsonl")
    assert [one["license"] for one in permissive] == ["CC0-1.0", "GPL-2"]
    assert [one["split"] for one in permissive] == ["train", "test"]
    duck = entries[1]
    samples, rate_hz = soundfile.read(recipe.output_dir / duck["path"])
    assert rate_hz == duck["sample_rate"] == 32_000
    assert samples.shape == (round(duck["seconds"] * rate_hz),)
    assert duck["origin"] == {
        "package": "game",
        "version": "1:2.0-1",
        "source_path": "usr/share/a.wav",
        "segment": 0,
    }
    assert (duck["alternatives"], duck["redistributable"]) == (["duck", "quack"], True)
    assert report["captioned"]["not_found"] == {"game": ["usr/share/gone.wav"]}
    assert report["captioned"]["not_decodable"] == {"game": ["usr/share/bad.wav"]}
    others = read_lines(recipe.output_dir / "unlabelled.jsonl")
    # Of the packages without captions, only what no captioned package has.
    assert [one["origin"]["source_path"] for one in others] == [
        "usr/share/other.wav",
        "usr/share/5.wav",
    ]
    assert others[0]["caption"] is others[0]["class"] is None


def test_a_run_killed_half_way_is_resumed(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    build.build_package(recipe, "held")
    held_wav = next((recipe.output_dir / "audio/held").glob("*.wav"))
    written_at = held_wav.stat().st_mtime_ns
    captions = recipe.recipe_dir / "captions.csv"
    row = "game,usr/share/many{0}.wav,rain,rain,nature/rain,GPL-2,0,0,m{0},1,44100,9000,0,-20\n"
    captions.write_text(captions.read_text() + "".join(row.format(i) for i in range(50)))
    many = {f"usr/share/many{i}.wav": wav_bytes(noise(20.0, seed=100 + i)) for i in range(50)}
    shutil.rmtree(tmp_path / "sounds/root-game/DEBIAN")
    make_deb(recipe.output_dir, "game", many)
    recipe = build.Recipe(recipe.output_dir, recipe.recipe_dir)

    code = "import sys; from pathlib import Path; from recipes.sounds import build\n"
    code += "build.build_package(build.Recipe(*map(Path, sys.argv[1:])), 'game')"
    command = [sys.executable, "-c", code, str(recipe.output_dir), str(recipe.recipe_dir)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2]) as process:
        while process.poll() is None and not list(recipe.output_dir.glob("audio/game/*.wav")):
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    for path in recipe.output_dir.glob("audio/game/*.wav"):
        assert soundfile.info(path).frames > 0
    assert list(recipe.output_dir.glob(".scratch-*"))
    assert not recipe.is_done("game", unlabelled=False)
    assert recipe.is_done("held", unlabelled=False)

    with build.locked(recipe.output_dir):
        assert [path.name for path in recipe.output_dir.rglob(".*")] == [".lock"]
        for package in ("game", "held"):
            build.build_package(recipe, package)
        build.write_manifests(recipe, {}, unlabelled=False)
    assert len(read_lines(recipe.output_dir / "manifest.jsonl")) == 50 * 2 + 3
    assert held_wav.stat().st_mtime_ns == written_at


def test_a_package_is_made_again_when_its_captions_change(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    build.build_package(recipe, "held")
    captions = recipe.recipe_dir / "captions.csv"
    captions.write_text(
        captions.read_text().replace("held,usr/share/c.wav,a duck", "held,usr/share/c.wav,a goose")
    )
    assert not build.Recipe(recipe.output_dir, recipe.recipe_dir).is_done("held", False)


def test_a_missing_or_broken_package_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"^gone: no such file: "):
        unpack.unpack_audio(tmp_path / "gone_1_all.deb", tmp_path)
    deb_path = make_deb(tmp_path, "game", {"usr/share/a.wav": wav_bytes(noise(5.0))})
    deb_path.write_bytes(deb_path.read_bytes()[:100_000])
    with pytest.raises(RecipeError, match=r"^game: cannot read game_\S+.deb: .+") as caught:
        unpack.unpack_audio(deb_path, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_failing_download_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    (tmp_path / "apt.conf").write_text(
        f'Dir::State::lists "{tmp_path}";\nDir::Cache "{tmp_path}";\n'
    )
    with pytest.raises(RecipeError, match=r"^no-such-package: .*apt-get update"):
        fetch_deb("no-such-package", tmp_path / "debs")
    assert not list((tmp_path / "debs").iterdir())


def test_two_runs_into_one_folder_do_not_mix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with build.locked(tmp_path):
        assert main(["--output", str(tmp_path), "--packages", "acm"]) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path}: another run works in this folder: wait for it, or end it\n"
    )


def test_an_unknown_package_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output", str(tmp_path), "--packages", "nonesuch"]) == 2
    assert capsys.readouterr().err == "error: no such package in the recipe: nonesuch\n"
