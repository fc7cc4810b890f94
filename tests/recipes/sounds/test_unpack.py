"""Audio in archives and packages."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from recipes.sounds import unpack
from tests.recipes.sounds.archives import make_c4group, make_deb, make_rcc, make_zip


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
    captioned = ["archive/audio/b/hit.ogg", "usr/hit.ogg", "archive/none.ogg"]
    assert unpack.match_paths(captioned, paths) == {
        "archive/audio/b/hit.ogg": "usr/g/base.wz/audio/b/hit.ogg",
        "usr/hit.ogg": "usr/hit.ogg",
        "archive/none.ogg": None,
    }
