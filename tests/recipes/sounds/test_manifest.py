"""Splits, tables and MIDI phrases."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from recipes.sounds import build, manifest, render


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
        assert all(len(each) == 1 for each in splits.values())
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
