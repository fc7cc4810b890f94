"""Weights in files: saved, loaded, refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from singleout.errors import ModelError, OutputError
from singleout.storage.tensors import (
    SCALE_SUFFIX,
    load_tensors,
    quantized_rows,
    save_tensors,
    write_safetensors,
)
from tests.cli.commands import file_size_limit, posix


class Network(nn.Module):
    """Matrices in two places, a convolution, and buffers of both kinds."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.text = nn.Linear(16, width)
        self.audio = nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width))
        self.head = nn.Linear(width, 4)
        self.register_buffer("ids", torch.arange(5, dtype=torch.int8))


def network(seed: int = 0, width: int = 8) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Network(width)


def empty(width: int = 8) -> Network:
    with torch.device("meta"):
        return Network(width)


def refused(path: Path, module: nn.Module | None = None) -> str:
    with pytest.raises(ModelError) as caught:
        load_tensors(module or empty(), path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message


@settings(deadline=None)
@given(
    rows=st.integers(1, 6),
    columns=st.integers(2, 30),
    scale=st.sampled_from([1e-6, 1e-2, 1.0, 1e4]),
    seed=st.integers(0, 2**31),
)
def test_int8_is_within_half_a_step_per_row(
    rows: int, columns: int, scale: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = scale * torch.randn(rows, columns, generator=generator)
    matrix *= 10 ** torch.empty(rows, 1).uniform_(-2, 2, generator=generator)
    stored, scales = quantized_rows(matrix)
    assert stored.dtype == torch.int8
    assert stored.shape == matrix.shape
    assert scales.dtype == torch.float32
    assert scales.shape == (rows, 1)
    error = (stored.float() * scales - matrix).abs()
    bound = matrix.abs().amax(1, keepdim=True) / 254
    assert (error <= bound * (1 + 1e-4)).all()
    assert (stored.int().abs() <= 127).all()
    assert (stored.int().abs().amax(1) == 127).all()


def test_rows_of_zeros_stay_zero() -> None:
    stored, scales = quantized_rows(torch.zeros(3, 4))
    assert torch.equal(stored.float() * scales, torch.zeros(3, 4))


def test_matrices_are_loaded_in_half_precision_and_vectors_exactly(tmp_path: Path) -> None:
    saved, path = network(), tmp_path / "w.safetensors"
    save_tensors(saved, path)
    loaded = empty()
    load_tensors(loaded, path)
    state = loaded.state_dict()
    for name, tensor in saved.state_dict().items():
        halved = tensor.is_floating_point() and tensor.ndim > 1
        expected = tensor.half().float() if halved else tensor
        assert torch.equal(state[name], expected), name
        assert state[name].dtype == tensor.dtype
        assert not state[name].is_meta
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_matrices_below_the_prefix_are_int8(tmp_path: Path) -> None:
    saved, path = network(), tmp_path / "w.safetensors"
    save_tensors(saved, path, int8_below="text.")
    stored = load_file(path)
    assert stored["text.weight"].dtype == torch.int8
    assert stored["head.weight"].dtype == torch.float16
    assert stored["text.bias"].dtype == torch.float32
    assert [n for n in stored if n.endswith(SCALE_SUFFIX)] == ["text.weight" + SCALE_SUFFIX]
    loaded = network(seed=1)
    load_tensors(loaded, path)
    bound = saved.text.weight.abs().amax(1, keepdim=True) / 254
    assert ((loaded.text.weight - saved.text.weight).abs() <= bound * (1 + 1e-4)).all()
    assert loaded.text.weight.dtype == torch.float32


def test_saving_a_loaded_module_again_changes_nothing(tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_tensors(network(), first, int8_below="text.")
    loaded = empty()
    load_tensors(loaded, first)
    save_tensors(loaded, second, int8_below="text.")
    again, stored = load_file(second), load_file(first)
    for name, tensor in stored.items():
        torch.testing.assert_close(again[name], tensor, rtol=1e-6, atol=0)


def test_channels_last_modules_are_saved_alike(tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_tensors(network(), first)
    save_tensors(network().to(memory_format=torch.channels_last), second)  # type: ignore[call-overload]
    assert first.read_bytes() == second.read_bytes()


def extra_tensors() -> dict[str, Tensor]:
    """Float32 matrices: tensors of the module of these shapes are stored in half precision."""
    generator = torch.Generator().manual_seed(4)
    return {
        "learned.0.basis": torch.randn(3, 5, generator=generator),
        "learned.0.mean": 1e6 * torch.randn(5, generator=generator),
        "learned.1.rows": torch.arange(4),
    }


def test_extra_tensors_are_loaded_exactly(tmp_path: Path) -> None:
    plain, path = tmp_path / "plain.safetensors", tmp_path / "w.safetensors"
    save_tensors(network(), plain)
    save_tensors(network(), path, extra=extra_tensors())
    loaded, expected = empty(), empty()
    extra = load_tensors(loaded, path, extra_prefix="learned.")
    assert load_tensors(expected, plain, extra_prefix="learned.") == {}
    assert extra.keys() == extra_tensors().keys()
    for name, tensor in extra_tensors().items():
        assert torch.equal(extra[name], tensor), name
        assert extra[name].dtype == tensor.dtype
    for name, tensor in expected.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_extra_tensors_are_unexpected_without_their_prefix(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_tensors(network(), path, extra=extra_tensors())
    message = refused(path)
    for name in extra_tensors():
        assert f"tensor '{name}' is unexpected" in message
    with pytest.raises(ModelError, match=r"'learned\.0\.mean' is not finite"):
        save_tensors(network(), path, extra={"learned.0.mean": torch.tensor([1.0, torch.inf])})
    assert load_tensors(empty(), path, extra_prefix="learned.").keys() == extra_tensors().keys()


def test_loaded_tensors_are_aligned_like_new_ones(tmp_path: Path) -> None:
    """The alignment changes how products round: a loaded model would differ in the last bit."""
    path = tmp_path / "w.safetensors"
    save_tensors(network(), path, extra=extra_tensors())
    loaded = empty()
    extra = load_tensors(loaded, path, extra_prefix="learned.")
    for tensor in (*extra.values(), *loaded.state_dict().values()):
        assert tensor.data_ptr() % 64 == 0


def test_equal_tensors_and_metadata_make_equal_files(tmp_path: Path) -> None:
    """The metadata have no order in the library."""
    names = [f"name {i}" for i in range(9)]
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for path, order in zip(paths, (names, names[::-1]), strict=True):
        write_safetensors({"x": torch.ones(3)}, path, {name: f"é {name}" for name in order})
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with safe_open(paths[0], "pt") as file:
        assert {name: file.metadata()[name] for name in names} == {n: f"é {n}" for n in names}
        assert torch.equal(file.get_tensor("x"), torch.ones(3))


@posix
def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_tensors(network(), path)
    before = path.read_bytes()
    with (
        file_size_limit(len(before) // 2),
        pytest.raises(OutputError, match=r"w\.safetensors: cannot be written: File too large"),
    ):
        save_tensors(network(1), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]  # the part of a file would keep the disk full


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "no.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.99])
def test_truncated_weights_are_one_line(share: float, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_tensors(network(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert "corrupt or truncated" in refused(path)


@pytest.mark.parametrize("content", [b"not weights", b"\xff" * 64, b"\0" * 64, b"{}" * 20])
def test_corrupt_weights_are_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    assert "corrupt or truncated" in refused(path)


def test_a_folder_for_a_file_is_one_line(tmp_path: Path) -> None:
    refused(tmp_path)


def test_weights_of_another_width_are_named(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_tensors(network(width=9), path)
    message = refused(path)
    assert "another architecture" in message
    assert "expected" in message


@pytest.mark.parametrize(("change", "what"), [("drop", "missing"), ("add", "unexpected")])
def test_missing_and_unexpected_tensors_are_named(change: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_tensors(network(), path)
    tensors = load_file(path)
    if change == "drop":
        del tensors["head.bias"]
    else:
        tensors["head.other"] = torch.zeros(1)
    save_file(tensors, path)
    name = "head.bias" if change == "drop" else "head.other"
    assert f"tensor '{name}' is {what}" in refused(path)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("head.weight", torch.zeros(4, 8, dtype=torch.int8)),  # without its scales
        ("ids", torch.zeros(5)),
        ("text.weight" + SCALE_SUFFIX, torch.ones(3, 1)),
        ("text.weight" + SCALE_SUFFIX, torch.ones(1, 16, 1)),
    ],
)
def test_tensors_of_another_kind_are_refused(name: str, tensor: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_tensors(network(), path, int8_below="text.")
    save_file({**load_file(path), name: tensor}, path)
    assert "another architecture" in refused(path)


def test_a_refused_file_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_tensors(network(1, width=9), path)
    module = network()
    refused(path, module)
    for name, tensor in network().state_dict().items():
        assert torch.equal(module.state_dict()[name], tensor), name


def test_large_variances_are_kept_and_too_large_weights_are_refused(tmp_path: Path) -> None:
    """A trained BatchNorm's variance was 665,780: float16 would have made it infinite."""
    path = tmp_path / "w.safetensors"
    saved, loaded = network(), network(seed=1)
    with torch.no_grad():
        saved.text.bias.fill_(665_780.0)
    save_tensors(saved, path)
    load_tensors(loaded, path)
    assert torch.equal(loaded.text.bias, saved.text.bias)
    before = path.read_bytes()
    for value in (float("nan"), 1e6):
        with torch.no_grad():
            saved.head.weight[0, 0] = value
        with pytest.raises(ModelError, match=r"'head\.weight' is not finite or too large"):
            save_tensors(saved, path)
    assert path.read_bytes() == before
