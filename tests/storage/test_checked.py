"""Safetensors files: every change is refused, and nothing is allocated before the bounds hold."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from singleout.errors import ModelError
from singleout.storage import checked
from singleout.storage.checked import DTYPES, MAX_HEADER_BYTES, read_checked
from singleout.storage.tensors import read_safetensors, write_safetensors

TENSORS = {
    "a": torch.arange(3, dtype=torch.float16),
    "b.weight": torch.tensor([[1.0, -2.0]]),
    "none": torch.empty(0, 4),
    "step": torch.tensor(7),
}
METADATA = {"key": "0123", "step": "200"}


def same(tensors: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    return tensors.keys() == others.keys() and all(
        torch.equal(tensor, others[name]) and tensor.dtype == others[name].dtype
        for name, tensor in tensors.items()
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "w.safetensors"
    write_safetensors(TENSORS, path, METADATA)
    return path.read_bytes()


def refused(content: bytes, path: Path) -> str:
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        read_safetensors(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: corrupt or truncated weights (")
    assert "\n" not in message
    assert len(message) < len(str(path)) + 250
    return message


def with_header(header: object, data: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def entry(dtype: str = "U8", shape: Any = (1,), offsets: Any = (0, 1)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_tensors_and_metadata_are_read_exactly(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    write_safetensors(TENSORS, path, METADATA)
    tensors, metadata = read_safetensors(path)
    assert same(tensors, TENSORS)
    assert metadata == METADATA
    assert same(load_file(path), TENSORS)  # any reader of the format takes the file
    assert all(tensor.data_ptr() % 64 == 0 for tensor in tensors.values())


def test_files_without_a_checksum_are_read(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(TENSORS, path, METADATA)
    assert same(read_safetensors(path)[0], TENSORS)
    assert read_safetensors(path)[1] == METADATA
    save_file(TENSORS, path)
    assert read_safetensors(path)[1] == {}


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_every_type_is_read_as_safetensors_reads_it(dtype: torch.dtype, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"x": torch.tensor([0, 1, 1]).to(dtype)}, path)
    tensor, expected = read_safetensors(path)[0]["x"], load_file(path)["x"]
    assert tensor.dtype == expected.dtype == dtype
    assert torch.equal(tensor.view(torch.uint8), expected.view(torch.uint8))


def test_every_flipped_bit_is_refused(whole: bytes) -> None:
    for position in range(len(whole)):
        for bit in range(8):
            changed = bytearray(whole)
            changed[position] ^= 1 << bit
            with pytest.raises(ValueError, match=r"\w"):
                read_checked(io.BytesIO(changed))


def test_every_other_length_is_refused(whole: bytes, tmp_path: Path) -> None:
    for length in range(0, len(whole), 7):
        refused(whole[:length], tmp_path / "w.safetensors")
    for tail in (b"\0", whole[-8:], b" " * 4_096):
        refused(whole + tail, tmp_path / "w.safetensors")


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_any_damage_is_refused(
    data: st.DataObject, whole: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    changed = whole[:start] + data.draw(st.binary(max_size=40)) + whole[end:]
    if changed != whole:
        refused(changed, tmp_path_factory.mktemp("damage") / "w.safetensors")


@settings(deadline=None, max_examples=100)
@given(content=st.binary(max_size=60) | st.binary(max_size=60).map(with_header))
def test_any_bytes_are_refused_or_read(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("bytes") / "w.safetensors"
    if content[8:].strip() != b"{}":
        refused(content, path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (with_header({"a": entry(), "b": entry()}, b"1"), "'b' overlaps another or leaves a gap"),
        (with_header({"a": entry(offsets=(1, 2))}, b"12"), "'a' overlaps another or leaves a gap"),
        (with_header({"a": entry()}, b"12"), "its tensors have 1 bytes, the file has 2"),
        (with_header({"a": entry(shape=(9,), offsets=(0, 9))}, b"1"), "have 9 bytes, the file"),
        (with_header({"a": entry(shape=(1 << 50,))}, b"1"), "'a' has an impossible"),
        (with_header({"a": entry(shape=(0, 1 << 61), offsets=(0, 0))}), "'a' has an impossible"),
        (with_header({"a": entry(shape=(-1, -1))}, b"1"), "'a' has an impossible"),
        (with_header({"a": entry(shape=(True,))}, b"1"), "'a' has an impossible"),
        (with_header({"a": entry(shape=(1,) * 40)}, b"1"), "'a' has an impossible"),
        (with_header({"a": entry(shape=7)}, b"1"), "'a' has an impossible"),
        (with_header({"a": entry(offsets=(0, 1, 2))}, b"1"), "'a' has an impossible"),
        (with_header({"a": entry(dtype="X1")}, b"1"), "'a' has an impossible"),
        (with_header({"a": [1]}, b"1"), "'a' has an impossible"),
        (with_header({"n" * 9_999: 1}), "'nnn"),
        (with_header({"\n\x1b[2J": 1}), "'?[2J' has"),
        (with_header({"__metadata__": {"step": 3}}), "metadata are not texts"),
        (with_header({"__metadata__": ["step"]}), "metadata are not texts"),
        (with_header({"__metadata__": {checked.CHECKSUM: "x"}}), "its checksum is damaged"),
        (with_header([1]), "its header is not a dictionary"),
        (with_header(b'{"a": 1, "a": 2}'), "a name is twice"),
        (with_header(b"[" * 100_000), ""),
        (with_header(b"9" * 100_000), ""),
        ((1 << 62).to_bytes(8, "little") + b"{}", "longer than the file"),
        (b"", ""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_hostile_headers_are_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    assert reason in refused(content, tmp_path / "w.safetensors")


def test_a_header_is_bounded_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes((MAX_HEADER_BYTES + 1).to_bytes(8, "little"))
    os.truncate(path, 1 << 40)  # 1 TiB, of which the disk holds 4 KiB
    with pytest.raises(ModelError, match="its header is longer than the file or than 16 MiB"):
        read_safetensors(path)


def test_the_number_of_tensors_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked, "MAX_TENSORS", 3)
    tensors = {str(i): entry(shape=(0,), offsets=(0, 0)) for i in range(4)}
    assert "it has 4 tensors" in refused(with_header(tensors), tmp_path / "w.safetensors")
    del tensors["3"]
    (tmp_path / "w.safetensors").write_bytes(with_header(tensors))
    assert len(read_safetensors(tmp_path / "w.safetensors")[0]) == 3


def test_what_is_not_a_file_is_one_line(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, reason in [
        (tmp_path, "is a folder"),
        (tmp_path / "missing", "no such file"),
        (tmp_path / "pipe" / "file", "no such file"),
        (pipe, "is a device or a pipe"),
        (Path("/dev/zero"), "is a device or a pipe"),
        (tmp_path / ("n" * 300), "cannot be read: File name too long"),
    ]:
        with pytest.raises(ModelError, match=reason) as caught:
            read_safetensors(path)
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_file_that_may_not_be_read_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    write_safetensors(TENSORS, path)
    path.chmod(0)
    with pytest.raises(ModelError, match=r"w\.safetensors: cannot be read: Permission denied"):
        read_safetensors(path)
