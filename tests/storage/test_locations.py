"""Files and folders on a disk, in memory, and in a local server that speaks S3."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from singleout.errors import InputError, MissingExtraError, OutputError
from singleout.storage.locations import Location

BUCKET = "singleout"


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """A bucket in moto's server on this machine."""
    moto = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        remote, _ = Location(f"s3://{BUCKET}/x")._remote
        if not remote.exists(BUCKET):  # the servers of a process share their buckets
            remote.mkdir(BUCKET)
        yield f"s3://{BUCKET}"
        type(remote).clear_instance_cache()
    server.stop()


@pytest.fixture(params=["disk", "memory", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """A folder that does not exist."""
    if request.param == "disk":
        return Location(tmp_path / "a" / "b")
    if request.param == "memory":
        return Location(f"memory://{tmp_path.name}/b")
    return Location(f"{request.getfixturevalue('s3_server')}/{tmp_path.name}/b")


@pytest.mark.parametrize("place", ["file:///home/me/a.wav", "LOCAL:///home/me/a.wav"])
def test_addresses_of_this_machine_are_refused(place: str) -> None:
    for each in (place, Path(place)):
        with pytest.raises(InputError, match=r"home/me/a\.wav: is on this machine: give its path"):
            Location(each)


def test_files_are_written_read_listed_and_removed(folder: Location, tmp_path: Path) -> None:
    assert not folder.exists()
    assert folder.names() == []
    file = folder / "one.bin"
    assert file.name == "one.bin"
    assert not file.exists()
    file.write(b"0123456789")
    (folder / "below" / "two.bin").write(b"")
    assert file.exists()
    assert folder.exists()
    assert folder.names() == ["one.bin"]
    assert folder.sizes() == {"one.bin": 10}
    assert file.size() == 10
    assert [file.read(), file.read(2, 5), file.read(8, 99)] == [b"0123456789", b"234", b"89"]
    state = file.state()
    file.write(b"another content")
    assert file.state() != state
    assert file.read() == b"another content"
    (tmp_path / "local").write_bytes(b"put")
    file.put(tmp_path / "local")
    file.fetch(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"put"
    with file.open() as opened:
        assert opened.seek(1) == 1
        assert opened.read() == b"ut"
    file.remove()
    file.remove()
    assert not file.exists()
    assert folder.names() == []


def test_a_missing_file_is_named(folder: Location, tmp_path: Path) -> None:
    file = folder / "missing.bin"
    for call in (file.size, file.state, file.read, file.open, lambda: file.fetch(tmp_path / "f")):
        with pytest.raises(InputError, match="no such file") as caught:
            call()
        assert str(caught.value).startswith(f"{file}: ")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "f").exists()


def test_a_file_that_cannot_be_put_leaves_the_old_one(folder: Location, tmp_path: Path) -> None:
    file = folder / "x"
    file.write(b"old")
    with pytest.raises(OutputError, match=r"(?i)no such file"):
        file.put(tmp_path / "missing")
    assert file.read() == b"old"
    assert folder.names() == ["x"]


def _read(file: Location, queue: Any) -> None:
    queue.put(file.read(1, 3))


def test_forked_processes_read_on(folder: Location) -> None:
    """A file system of the parent does not work in a fork."""
    file = folder / "x"
    file.write(b"0123")
    assert pickle.loads(pickle.dumps(file)).read() == b"0123"
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_read, args=(file, queue))
    process.start()
    assert queue.get(timeout=60) == b"12"
    process.join()


def test_spawned_processes_read_from_a_store(s3_server: str) -> None:
    file = Location(f"{s3_server}/spawned")
    file.write(b"0123")
    code = (
        "from singleout.storage.locations import Location\n"
        f"print(Location('{file}').read(1, 3).decode())"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, env=os.environ, check=True)
    assert done.stdout.split() == [b"12"]


def test_large_files_are_copied_in_parts(s3_server: str, tmp_path: Path) -> None:
    content = os.urandom(6 << 20)
    (tmp_path / "large").write_bytes(content)
    file = Location(f"{s3_server}/large")
    file.put(tmp_path / "large")
    assert file.size() == len(content)
    assert file.read(5 << 20, (5 << 20) + 9) == content[5 << 20 : (5 << 20) + 9]


def test_a_store_that_fails_is_one_line(
    s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match=r"s3://no-such-bucket/x: ") as caught:
        Location("s3://no-such-bucket/x").write(b"")
    assert "\n" not in str(caught.value)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    remote, _ = Location("s3://elsewhere/x")._remote
    monkeypatch.setattr(type(remote), "retries", 1)
    type(remote).clear_instance_cache()
    with pytest.raises(InputError, match=r"s3://elsewhere/x: .*127\.0\.0\.1") as failure:
        Location("s3://elsewhere/x").read()
    assert "\n" not in str(failure.value)
    type(remote).clear_instance_cache()


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        ("s3://bucket/a", "s3://bucket/a"),
        (Path("s3://bucket/a"), "s3://bucket/a"),
        ("memory://" + "a" * 200, "memory://" + "a" * 200),
        ("C:/a", "C:/a"),
        ("a/b", "a/b"),
    ],
)
def test_addresses_are_kept_whole(place: str | Path, shown: str) -> None:
    assert str(Location(place)) == shown
    assert Location(place).is_local == ("://" not in shown)
    assert str(Location(place) / "x.tar") == f"{shown}/x.tar"


def test_a_store_that_does_not_answer_lacks_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """fsspec's own ``exists`` says that there is no file then."""
    place = Location("memory://store-that-fails/x")
    assert not place.exists()
    place.write(b"")
    assert place.exists()
    assert Location("memory://store-that-fails").exists()

    def fail(*arguments: object, **options: object) -> None:
        raise ConnectionError("the network is down")

    monkeypatch.setattr(type(place._remote[0]), "info", fail)
    with pytest.raises(InputError, match="memory://store-that-fails/x: the network is down"):
        place.exists()


def test_a_protocol_that_nobody_knows_is_refused() -> None:
    with pytest.raises(InputError, match=r"nonsense://x: .*nonsense"):
        Location("nonsense://x").read()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'singleout\[scale\]'"):
        Location("memory://x").read()


def test_failures_of_a_disk_name_the_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    below = Location(tmp_path / "file" / "x")
    with pytest.raises(OutputError, match=r"file: cannot be made: File exists"):
        below.write(b"")
    with pytest.raises(InputError, match=r"file/x: Not a directory"):
        below.read()
    assert below.names() == []
    with pytest.raises(InputError, match="Is a directory"):
        Location(tmp_path).read()
