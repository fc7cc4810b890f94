"""Tar files, written and scanned."""

from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from singleout.errors import InputError
from singleout.shards.tars import TarWriter, scan_samples, scan_tar
from singleout.storage.locations import Location
from tests.shards.corpora import write_tar

MEMBERS = {"a.json": b"{}", "a.wav": bytes(1_000), "b.json": b"", "b.wav": bytes(512)}


def test_the_bytes_follow_from_the_members_alone(tmp_path: Path) -> None:
    first = write_tar(tmp_path / "0.tar", MEMBERS).read_bytes()
    assert write_tar(tmp_path / "1.tar", MEMBERS).read_bytes() == first
    assert len(first) % 10_240 == 0
    with tarfile.open(tmp_path / "0.tar") as tar:
        for info in tar.getmembers():
            assert (info.mtime, info.uid, info.gid, info.uname, info.gname) == (0, 0, 0, "", "")
            assert info.mode == 0o644
            file = tar.extractfile(info)
            assert file is not None
            assert file.read() == MEMBERS[info.name]


@given(
    st.dictionaries(
        st.text(st.characters(codec="ascii", exclude_characters="\0/"), min_size=1, max_size=250),
        st.binary(max_size=1_100),
        max_size=5,
    )
)
def test_offsets_are_those_of_the_contents(members: dict[str, bytes]) -> None:
    tar = TarWriter(file := io.BytesIO())
    for name, content in members.items():
        offset = tar.add(name, content)
        assert file.getvalue()[offset : offset + len(content)] == content
    tar.finish()
    file.seek(0)
    with tarfile.open(fileobj=file) as read:
        assert read.getnames() == [name.rstrip("/") for name in members]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_files_of_every_kind_are_scanned(kind: int, tmp_path: Path) -> None:
    """With folders, links, long names (in PAX and GNU headers) and notes of WebDataset."""
    long = "long/" * 15 + "name" * (5 if kind == tarfile.USTAR_FORMAT else 60) + ".wav"
    with tarfile.open(tmp_path / "0.tar", "w", format=kind) as tar:
        folder = tarfile.TarInfo("dogs")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name in ("__note__", "dogs/1.WAV", "dogs/1.cap.json", long, "no suffix", ".hidden"):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(name), 123.5 if kind == tarfile.PAX_FORMAT else 123
            tar.addfile(info, io.BytesIO(name.encode()))
        link = tarfile.TarInfo("dogs/2.wav")
        link.type, link.linkname = tarfile.SYMTYPE, "1.WAV"
        tar.addfile(link)
    content = (tmp_path / "0.tar").read_bytes()
    scanned = list(scan_tar(Location(tmp_path / "0.tar")))
    assert [(each.key, each.suffix) for each in scanned] == [
        ("dogs/1", "wav"),
        ("dogs/1", "cap.json"),
        (long[:-4], "wav"),
    ]
    for each in scanned:
        assert content[each.offset : each.offset + each.size].decode() == each.name
    assert [len(sample.members) for sample in scan_samples(Location(tmp_path / "0.tar"))] == [2, 1]


def test_every_cut_is_a_lost_tail(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "whole.tar", MEMBERS).read_bytes()
    end = 4 * 512 + 512 + 1_024 + 512  # of the last member
    cut = tmp_path / "cut.tar"
    for size in [*range(1, end, 97), *range(512, end + 1, 512), end + 100]:
        cut.write_bytes(whole[:size])
        with pytest.raises(InputError) as caught:
            list(scan_tar(Location(cut)))
        assert str(caught.value).startswith(f"{cut}: ")
        assert "lost its tail" in str(caught.value) or size < 512
        assert "\n" not in str(caught.value)


def test_damage_between_members_is_no_end(tmp_path: Path) -> None:
    content = bytearray(write_tar(tmp_path / "0.tar", MEMBERS).read_bytes())
    content[1_024 + 10 : 1_024 + 20] = b"x" * 10  # in the header of the second member
    (tmp_path / "0.tar").write_bytes(content)
    with pytest.raises(InputError, match="byte 1,024 begins no header"):
        list(scan_tar(Location(tmp_path / "0.tar")))


@pytest.mark.parametrize("content", [b"", b"no tar file at all" * 99, bytes(100)])
def test_what_is_no_tar_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(content)
    with pytest.raises(InputError, match=r"0\.tar: "):
        list(scan_tar(Location(tmp_path / "0.tar")))
    with pytest.raises(InputError, match="no such file"):
        list(scan_tar(Location(tmp_path / "1.tar")))


def test_compressed_files_are_refused_with_the_way_out(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "0.tar", MEMBERS).read_bytes()
    (tmp_path / "0.tar.gz").write_bytes(gzip.compress(whole))
    with pytest.raises(InputError, match=r"compressed \(gzip\).*unpack the file with gunzip"):
        list(scan_tar(Location(tmp_path / "0.tar.gz")))


def test_a_sample_has_one_file_of_a_suffix(tmp_path: Path) -> None:
    with (tmp_path / "0.tar").open("wb") as file:
        tar = TarWriter(file)
        tar.add("a.wav", b"")
        tar.add("a.WAV", b"")
        tar.finish()
    with pytest.raises(InputError, match=r"has the member a\.WAV twice"):
        list(scan_samples(Location(tmp_path / "0.tar")))


def test_headers_cannot_ask_for_memory(tmp_path: Path) -> None:
    """A PAX header that says that it has 8 GB, and one whose member goes back."""
    info = tarfile.TarInfo("a.wav")
    info.type, info.size = tarfile.XHDTYPE, 0o77777777777
    header = info.tobuf(tarfile.USTAR_FORMAT)
    (tmp_path / "0.tar").write_bytes(header + bytes(20_000))
    tracemalloc.start()
    with pytest.raises(InputError, match=r"0\.tar: "):
        list(scan_tar(Location(tmp_path / "0.tar")))
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    for size in ("-1024", "-512", "9" * 30):
        pax = tarfile.TarInfo("a.wav")
        pax.pax_headers = {"size": size}
        (tmp_path / "1.tar").write_bytes(pax.tobuf(tarfile.PAX_FORMAT) + bytes(20_000))
        with pytest.raises(InputError, match=r"1\.tar: "):
            list(scan_tar(Location(tmp_path / "1.tar")))


def test_members_are_not_kept_in_memory(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", {f"{i:06d}.txt": b"" for i in range(5_000)})
    tracemalloc.start()
    assert sum(1 for _ in scan_tar(Location(path))) == 5_000
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()
