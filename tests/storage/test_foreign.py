"""Checkpoints of other projects: their files, their tensors, and what is refused."""

from __future__ import annotations

import _codecs
import argparse
import functools
import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from singleout.errors import ModelError
from singleout.storage.foreign import checkpoint_file, read_tensors


def test_a_file_is_its_own_checkpoint(tmp_path: Path) -> None:
    for path in (tmp_path / "a.ckpt", tmp_path / "missing.pt"):
        assert checkpoint_file(path) == path


def test_the_names_of_hubs_come_first(tmp_path: Path) -> None:
    for name in ("other.ckpt", "pytorch_model.bin", "model.safetensors"):
        (tmp_path / name).touch()
        assert checkpoint_file(tmp_path) == tmp_path / name


def test_a_folder_without_a_single_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="must hold one checkpoint, holds none: name the file"):
        checkpoint_file(tmp_path)
    (tmp_path / "a.ckpt").touch()
    (tmp_path / "b.pt").touch()
    with pytest.raises(ModelError, match=r"holds a\.ckpt, b\.pt: name the file"):
        checkpoint_file(tmp_path)


def test_safetensors_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"module.a": torch.ones(2)}, path)
    assert torch.equal(read_tensors(path)["a"], torch.ones(2))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"a\.safetensors: corrupt or truncated"):
        read_tensors(path)


def test_a_lightning_checkpoint_is_unwrapped(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    state = {"module.a": torch.ones(2), "module.b": torch.zeros(1)}
    extras = {"epoch": 3, "best": np.float64(0.5), "args": argparse.Namespace(rate=1)}
    torch.save({"state_dict": state, **extras}, path)
    tensors = read_tensors(path)
    assert list(tensors) == ["a", "b"]
    assert torch.equal(tensors["a"], torch.ones(2))


def test_the_format_before_zip_is_read(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    assert torch.equal(read_tensors(path)["a"], torch.ones(2))


def test_code_is_refused_and_not_run(tmp_path: Path) -> None:
    touched = tmp_path / "touched"

    class Code:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(touched),)

    torch.save({"state_dict": {"a": torch.ones(2)}, "x": Code()}, tmp_path / "bad.ckpt")
    with pytest.raises(ModelError, match=r"bad\.ckpt: refused: it holds code or objects"):
        read_tensors(tmp_path / "bad.ckpt")
    assert not touched.exists()


@pytest.mark.parametrize("kept", [0, 40, 3_000])
def test_a_cut_file_is_refused(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "cut.ckpt"
    torch.save({"a": torch.ones(20_000)}, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"cut\.ckpt: not a checkpoint, or truncated"):
        read_tensors(path)


@pytest.mark.parametrize(
    "content", [b"error: x\n", b"<!DOCTYPE html>", b"version https://git-lfs", bytes(64), b"PK"]
)
def test_a_file_that_is_not_a_checkpoint_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "text.ckpt"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"text\.ckpt: not a checkpoint, or truncated"):
        read_tensors(path)


def test_a_cut_file_of_the_old_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save({"a": torch.ones(8)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for kept in range(0, len(whole), 3):
        path.write_bytes(whole[:kept])
        with pytest.raises(ModelError, match=r"old\.pt"):
            read_tensors(path)


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    class Forged:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return np.ndarray, ((1,), "O", bytes(8))

    torch.save({"a": torch.ones(1), "x": Forged()}, tmp_path / "forged.pt")
    with pytest.raises(ModelError, match="refused"):
        read_tensors(tmp_path / "forged.pt")


def test_names_that_are_not_text_are_ignored(tmp_path: Path) -> None:
    torch.save({0: torch.ones(1), "a": torch.ones(2)}, tmp_path / "a.pt")
    assert list(read_tensors(tmp_path / "a.pt")) == ["a"]


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"a": 1}, tmp_path / "none.pt")
    with pytest.raises(ModelError, match="holds no tensors"):
        read_tensors(tmp_path / "none.pt")
    with pytest.raises(ModelError, match="no such file"):
        read_tensors(tmp_path / "missing.pt")


# Files that want to run code.


class Call:
    """Pickled as the call of a function."""

    def __init__(self, *call: Any, state: Any = None) -> None:
        self.call, self.state = call, state

    def __reduce__(self) -> tuple[Any, ...]:
        function, *arguments = self.call
        return (function, tuple(arguments), *([] if self.state is None else [self.state]))


def attacks(folder: Path) -> dict[str, Any]:
    """Values that call something while they are unpickled, by name."""
    touched = str(folder / "touched")
    return {
        "system": Call(os.system, f"touch {touched}"),
        "eval": Call(eval, f"open({touched!r}, 'w')"),
        "exec": Call(exec, f"open({touched!r}, 'w')"),
        "open": Call(open, touched, "w"),
        "getattr": Call(getattr, Path(touched), "touch"),
        "import": Call(__import__, "os"),
        "path": Call(Path.touch, Path(touched)),
        "partial": Call(functools.partial, os.mkdir, touched),
        "torch.load": Call(torch.load, touched),
        "hub": Call(torch.hub.load, touched, "x"),
        "state": Call(Call, os.mkdir, touched, state={"call": (os.mkdir, touched)}),
        "bytearray": Call(bytearray, 10**10),
        "array": Call(np.zeros, 10**10),
        "tensor": Call(torch.zeros, 10**10),
        "untyped": Call(torch.UntypedStorage, 10**10),
        "sparse": Call(torch._utils._rebuild_sparse_tensor, torch.sparse_coo, ()),
        "punycode": Call(_codecs.encode, "é" * 9, "PunyCode"),
    }


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["top", "beside the weights", "in the weights"])
@pytest.mark.parametrize("name", attacks(Path()))
def test_no_attack_runs(name: str, place: str, zipped: bool, tmp_path: Path) -> None:
    attack, path = attacks(tmp_path)[name], tmp_path / "bad.pt"
    content = {
        "top": attack,
        "beside the weights": {"state_dict": {"a": torch.ones(1)}, "x": [attack]},
        "in the weights": {"state_dict": {"a": torch.ones(1), "x": attack}},
    }[place]
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match=r"bad\.pt: refused: it holds code or objects") as caught:
        read_tensors(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 300
    assert [file.name for file in tmp_path.iterdir()] == ["bad.pt"]


def test_values_that_are_not_tensors_are_never_built(tmp_path: Path) -> None:
    """A scalar of a type of 10 GB would take this memory."""
    scalar = np.float64(0).__reduce__()[0]
    values = [Call(np.dtype, "V10000000000"), Call(scalar, Call(np.dtype, "V10000000000"))]
    torch.save({"a": torch.ones(2), "x": values, "p": Path("/etc")}, tmp_path / "a.pt")
    assert list(read_tensors(tmp_path / "a.pt")) == ["a"]


def test_tensors_in_containers_of_many_kinds_are_read(tmp_path: Path) -> None:
    state = OrderedDict(a=torch.nn.Parameter(torch.ones(2)), b=torch.ones(2, 3).T)
    values = {"milestones": Counter([3, 5]), "names": {"x"}, "dtype": torch.float16}
    for zipped in (True, False):
        path = tmp_path / f"{zipped}.pt"
        saved = {"state_dict": {f"module.{k}": v for k, v in state.items()}, **values}
        torch.save(saved, path, _use_new_zipfile_serialization=zipped)
        tensors = read_tensors(path)
        assert tensors.keys() == state.keys()
        assert all(torch.equal(tensors[name], tensor) for name, tensor in state.items())


# Files that are larger than they look.


def repacked(path: Path, pickle: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    """Write a checkpoint of one tensor of 8 bytes with another pickle."""
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w", compression) as target:
        for entry in source.infolist():
            is_pickle = entry.filename.endswith("data.pkl")
            target.writestr(entry.filename, pickle if is_pickle else source.read(entry))


def refused(path: Path) -> str:
    tracemalloc.start()
    with pytest.raises(ModelError) as caught:
        read_tensors(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < len(str(path)) + 300
    assert peak < 10e6  # bytes
    return message


def text_pickle(num_bytes: int) -> bytes:
    return b"\x80\x02X" + struct.pack("<I", num_bytes) + bytes(num_bytes) + b"."


def test_a_compressed_file_is_read_up_to_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"a": torch.zeros(1_000)}, path)
    with zipfile.ZipFile(path) as source:
        content = {entry.filename: source.read(entry) for entry in source.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name, entry in content.items():
            target.writestr(name, entry)
    assert path.stat().st_size < 3_000
    assert torch.equal(read_tensors(path)["a"], torch.zeros(1_000))


def test_a_zip_bomb_is_refused_before_it_unpacks(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    repacked(path, text_pickle(20 << 20), zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    assert "its data.pkl is longer than 16 MiB" in refused(path)
    repacked(path, text_pickle(10), zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        for number in range(2):
            archive.writestr(f"archive/data/{number + 1}", bytes(33 << 20))
    assert "unpacks to more than its size and 64 MiB" in refused(path)


def test_entries_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    """The entries of the directory are copied: each unpacks to the same bytes."""
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data/0", bytes(1 << 20))
        archive.writestr("archive/data.pkl", b"\x80\x02N.")
    content = path.read_bytes()
    start = content.index(b"PK\1\2")
    end, directory = content.index(b"PK\5\6"), content[start : content.index(b"PK\1\2", start + 1)]
    copies = directory * 70
    tail = bytearray(content[end:])
    struct.pack_into("<HHI", tail, 8, 72, 72, end - start + len(copies))
    path.write_bytes(content[:start] + copies + content[start:end] + tail)
    assert "unpacks to more than its size" in refused(path)


def test_the_directory_of_a_zip_file_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    repacked(path, b"\x80\x02N.")
    content = path.read_bytes()
    path.write_bytes(content + b"PK")
    assert "its directory is missing" in refused(path)
    tail = bytearray(content)
    struct.pack_into("<I", tail, len(tail) - 10, 1 << 31)
    path.write_bytes(tail)
    assert "more than 10,000 tensors" in refused(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_the_number_of_tensors_is_bounded(
    zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("singleout.storage.foreign.MAX_TENSORS", 3)
    shared = torch.ones(1)
    for number in (3, 4):
        tensors = {str(i): shared for i in range(number)}
        torch.save(tensors, tmp_path / f"{number}.pt", _use_new_zipfile_serialization=zipped)
    assert len(read_tensors(tmp_path / "3.pt")) == 3
    assert "holds 4 tensors, at most 3" in refused(tmp_path / "4.pt")


def test_many_objects_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tuple in a tuple, a million times: Python's stack would end in a crash."""
    repacked(tmp_path / "x.pt", b"\x80\x02})" + b"\x85" * 1_000_000 + b"K\1s.")
    assert "more objects than any model" in refused(tmp_path / "x.pt")
    monkeypatch.setattr("singleout.storage.pickles.MAX_OPCODES", 1_000)
    repacked(tmp_path / "x.pt", b"\x80\x02](" + b"N" * 1_000 + b"e.")
    assert "more objects than any model" in refused(tmp_path / "x.pt")


class Storage:
    """Pickled as a storage of so many floats, of which the file holds 2."""

    def __init__(self, number: int) -> None:
        self.number = number


class Forger(pickle._Pickler):
    """Writes the class ``Storage`` as torch does; the old format has one value more."""

    extra: tuple[object, ...] = ()

    def persistent_id(self, value: object) -> tuple[object, ...] | None:
        if isinstance(value, Storage):
            return ("storage", torch.FloatStorage, "0", "cpu", value.number, *self.extra)
        return None


Forgery = tuple[int, int, tuple[int, ...], tuple[int, ...]]
"""Numbers in the storage, offset, size and stride of a tensor."""


def forged(forgery: Forgery, *extra: object) -> bytes:
    number, *view = forgery
    buffer = io.BytesIO()
    rebuild = torch._utils._rebuild_tensor_v2
    forger = Forger(buffer, 2)
    forger.extra = extra
    forger.dump({"a": Call(rebuild, Storage(number), *view, False, OrderedDict())})
    return buffer.getvalue()


def old_format(forgery: Forgery) -> bytes:
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    start = [torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, system]
    pickles = [*(pickle.dumps(value, 2) for value in start), forged(forgery, None)]
    return b"".join([*pickles, pickle.dumps(["0"], 2), struct.pack("<q", 2), bytes(8)])


@pytest.mark.parametrize(
    "forgery",
    [
        (2, 0, (1 << 20,), (1,)),  # larger than its storage
        (2, 1, (2,), (1,)),  # begins too late
        (2, 0, (2,), (4,)),
        (2, 0, (1 << 38,), (0,)),  # one number, repeated
        (2, 0, (1 << 20, 1 << 20, 1 << 20), (0, 0, 0)),
        (2, 0, (-1,), (1,)),
        (2, 0, (2,), (-1,)),
        (2, -4, (2,), (1,)),
        (1 << 20, 0, (1 << 20,), (1,)),  # a storage that is larger than the file
        (1 << 40, 0, (2,), (1,)),
    ],
)
def test_tensors_that_are_larger_than_their_data_are_refused(
    forgery: Forgery, tmp_path: Path
) -> None:
    path, honest = tmp_path / "x.pt", (2, 0, (2,), (1,))
    repacked(path, forged(honest))
    assert torch.equal(read_tensors(path)["a"], torch.zeros(2))
    repacked(path, forged(forgery))
    refused(path)
    path.write_bytes(old_format(honest))
    assert torch.equal(read_tensors(path)["a"], torch.zeros(2))
    path.write_bytes(old_format(forgery))
    refused(path)


def test_what_is_not_a_file_is_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    assert "is a device or a pipe" in refused(tmp_path / "pipe.pt")
    assert "is a folder" in refused(tmp_path)
    assert "is a device or a pipe" in refused(Path("/dev/zero"))
    assert "no such file" in refused(tmp_path / "pipe.pt" / "x")
    with pytest.raises(ModelError, match="holds none"):  # a pipe is no checkpoint
        checkpoint_file(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_what_may_not_be_read_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "x.pt"
    path.parent.mkdir()
    torch.save({"a": torch.ones(1)}, path)
    path.chmod(0)
    assert "cannot be read: Permission denied" in refused(path)
    path.parent.chmod(0)
    with pytest.raises(ModelError, match="folder: cannot be read: Permission denied"):
        checkpoint_file(path.parent)
    path.parent.chmod(0o700)
