"""Models in files: saved, loaded, refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from singleout.condition import Condition
from singleout.encoders import BuiltinEncoder
from singleout.errors import ModelError, QueryError
from singleout.manipulations import (
    AnyManipulation,
    Chain,
    Dropout,
    FitEmbeddings,
    MeanShift,
    Neighbours,
    Noise,
    Pca,
    Pls,
    Projection,
    Retrieval,
)
from singleout.model import EncoderReference, ModelConfig, QueriedSeparator
from singleout.separators import IdentityConfig
from singleout.types import Query
from tests.conftest import TINY_SEPARATOR

RATE = 32_000


def noise(num_samples: int = RATE, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(num_samples, generator=torch.Generator().manual_seed(seed))


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def change_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def same(condition: Condition, expected: Condition) -> bool:
    return all(
        torch.equal(getattr(condition, name), getattr(expected, name))
        for name in ("embeddings", "weights", "mask")
    )


def only(condition: Condition) -> Tensor:
    """Embedding [1, dim] of a condition of one part."""
    assert condition.weights.tolist() == [[1.0]]
    return condition.embeddings[0]


def test_a_saved_model_gives_the_same_targets(
    debug_model: QueriedSeparator, tmp_path: Path
) -> None:
    debug_model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    again = QueriedSeparator.from_pretrained(tmp_path)
    assert again.config.encoder.fingerprint == debug_model.encoder.fingerprint
    assert again.config.separator == debug_model.config.separator
    assert not again.training
    assert not any(p.requires_grad for p in again.parameters())
    stored = load_file(tmp_path / "model.safetensors")
    assert all(t.dtype == torch.float16 for t in stored.values() if t.ndim > 1)
    condition = debug_model.embed(Query(("a dog barking",)))
    assert same(condition, again.embed(Query(("a dog barking",))))
    mixture = noise(5_000)[None, None]
    assert torch.equal(debug_model(mixture, condition), again(mixture, condition))


def test_several_prompts_are_averaged(debug_model: QueriedSeparator) -> None:
    encoder = debug_model.encoder
    expected = F.normalize(encoder.embed_text(["a dog", "barking"]).mean(0, keepdim=True), dim=-1)
    torch.testing.assert_close(only(debug_model.embed(Query(("a dog", "barking")))), expected)
    assert debug_model.embed(Query(("a dog",))).embeddings.shape == (1, 1, encoder.dim)


def test_negative_prompts_are_refused(debug_model: QueriedSeparator) -> None:
    with pytest.raises(QueryError, match=r"cannot answer negative prompts \(traffic\)"):
        debug_model.embed(Query(("a dog",), ("traffic",)))


def test_the_manipulation_is_saved_and_inference_stays_deterministic(
    debug_encoder: BuiltinEncoder, debug_encoder_folder: Path, tmp_path: Path
) -> None:
    config = ModelConfig(
        separator=IdentityConfig(),
        manipulation=Chain(steps=(Dropout(p=0.3), Noise())),
        encoder=EncoderReference(name=str(debug_encoder_folder)),
    )
    QueriedSeparator(config, debug_encoder).save_pretrained(tmp_path)
    model = QueriedSeparator.from_pretrained(tmp_path)
    assert model.config.manipulation == config.manipulation
    query = Query(("a dog",))
    assert same(model.embed(query), model.embed(query))


LEARNING = [
    (MeanShift(),),
    (MeanShift(renormalise=False), Noise()),  # C3
    (Pca(k=7),),
    (Pca(k=7, keep="rest", centre="audio", renormalise=False),),
    (Pls(k=5),),
    (Retrieval(nearest=2),),
    (Projection(),),
    (Projection(onto="text", blend=0.5),),
    (Neighbours(sounds=3, candidates=20, memory=30),),
    (Neighbours(sounds=3), Dropout(), Pca(k=7)),
    (Dropout(p=0.2), Pca(k=20, centre="none"), Noise(kind="ball"), Pls(k=6), Retrieval()),
]


def model_with(
    steps: tuple[AnyManipulation, ...], encoder: BuiltinEncoder, name: Path
) -> QueriedSeparator:
    """A tiny model, its manipulation fitted on random embeddings."""
    config = ModelConfig(
        separator=TINY_SEPARATOR,
        manipulation=Chain(steps=steps),
        encoder=EncoderReference(name=str(name)),
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = QueriedSeparator(config, encoder)
        audio, text = F.normalize(torch.randn(2, 50, encoder.dim) + 0.3, dim=-1)
    model.manipulator.fit(FitEmbeddings(audio, text, torch.arange(50)))
    return model


@pytest.mark.parametrize("steps", LEARNING, ids=lambda steps: "-".join(s.type for s in steps))
def test_the_state_of_the_manipulation_is_saved_to_the_bit(
    steps: tuple[AnyManipulation, ...],
    debug_encoder: BuiltinEncoder,
    debug_encoder_folder: Path,
    tmp_path: Path,
) -> None:
    model = model_with(steps, debug_encoder, debug_encoder_folder)
    dim = model.manipulator.dim
    assert model.separator.embedding_dim == dim
    model.save_pretrained(tmp_path / "a")
    again = QueriedSeparator.from_pretrained(tmp_path / "a")
    assert again.config.manipulation == model.config.manipulation
    assert again.separator.embedding_dim == again.manipulator.dim == dim
    assert model.manipulator.state is not None
    assert again.manipulator.state is not None
    stored = load_file(tmp_path / "a" / "model.safetensors")
    for name, tensor in model.manipulator.state.items():
        assert torch.equal(again.manipulator.state[name], tensor)
        assert stored[f"manipulation.{name}"].dtype == torch.float32
    given_ = F.normalize(noise(10 * debug_encoder.dim).view(10, -1), dim=-1)
    for is_text in (False, True):
        expected = model.manipulator.for_inference(given_, is_text)
        assert torch.equal(again.manipulator.for_inference(given_, is_text), expected)
    condition = model.embed(Query(("a dog", "barking")))
    assert condition.embeddings.shape[::2] == (1, dim)
    mean = debug_encoder.embed_text(["a dog", "barking"]).mean(0, keepdim=True)
    assert same(condition, model.manipulator.condition(F.normalize(mean, dim=-1), True))
    assert condition.weights.shape[1] == (3 if Neighbours in map(type, steps) else 1)
    assert same(again.embed(Query(("a dog", "barking"))), condition)
    assert again(noise(3_000)[None, None], condition).shape == (1, 1, 3_000)
    again.save_pretrained(tmp_path / "b")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_model_whose_manipulation_is_not_fitted_is_neither_saved_nor_used(
    debug_encoder: BuiltinEncoder, tmp_path: Path
) -> None:
    config = ModelConfig(separator=IdentityConfig(), manipulation=Chain(steps=(MeanShift(),)))
    model = QueriedSeparator(config, debug_encoder)
    with pytest.raises(ModelError, match="not saved: the manipulation has not been fitted"):
        model.save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ModelError, match="has not been fitted: train it first"):
        model.embed(Query(("a dog",)))


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Change tensors, and drop the digest that would reveal it."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    change_json(folder / "config.json", lambda c: c.update(sha256=None))


def other_steps(*steps: dict[str, Any]) -> Callable[[Path], object]:
    return lambda folder: change_json(
        folder / "config.json", lambda c: c["manipulation"].update(steps=steps)
    )


@pytest.mark.parametrize(
    ("damage", "messages"),
    [
        (
            lambda f: change_weights(f, lambda t: t.pop("manipulation.0.basis")),
            ["'0.basis' is missing"],
        ),
        (
            lambda f: change_weights(
                f, lambda t: [t.pop(n) for n in list(t) if n.startswith("manipulation.")]
            ),
            ["'0.audio_mean' is missing", "'0.basis' is missing", "'1.captions' is missing"],
        ),
        (
            lambda f: change_weights(f, lambda t: t.update({"manipulation.x": torch.ones(1)})),
            ["'x' is unexpected"],
        ),
        (
            lambda f: change_weights(
                f, lambda t: t.update({"manipulation.0.basis": torch.ones(6, 32)})
            ),
            [r"'0.basis' is \[6, 32\], expected \[7, 32\]"],
        ),
        (
            lambda f: change_weights(
                f, lambda t: t.update({"manipulation.0.audio_mean": torch.ones(32).half()})
            ),
            ["'0.audio_mean' is torch.float16"],
        ),
        (
            lambda f: change_weights(f, lambda t: t.update({"learned.0.basis": torch.ones(1)})),
            ["tensor 'learned.0.basis' is unexpected"],
        ),
        (
            other_steps({"type": "pca", "k": 7}),
            ["'1.captions' is unexpected"],
        ),
        (
            other_steps({"type": "retrieval"}, {"type": "pca", "k": 7}),
            ["'0.basis' is unexpected", "'0.captions' is missing", "'1.captions' is unexpected"],
        ),
        (
            other_steps({"type": "pca", "k": 8}, {"type": "retrieval"}),
            ["another architecture: tensor 'query.0.weight'"],
        ),
        (
            other_steps({"type": "pca", "k": 33}, {"type": "retrieval"}),
            ["'pca': k is 33, embeddings have length 32"],
        ),
        (lambda f: truncate(f / "model.safetensors"), ["corrupt or truncated"]),
    ],
)
def test_a_damaged_manipulation_is_one_line(
    damage: Callable[[Path], object],
    messages: list[str],
    debug_encoder: BuiltinEncoder,
    debug_encoder_folder: Path,
    tmp_path: Path,
) -> None:
    steps = (Pca(k=7), Retrieval())
    model_with(steps, debug_encoder, debug_encoder_folder).save_pretrained(tmp_path)
    QueriedSeparator.from_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(ModelError) as caught:
        QueriedSeparator.from_pretrained(tmp_path)
    assert one_line(caught).startswith(str(tmp_path))
    for message in messages:
        assert caught.match(message)


def test_training_sounds_stand_for_a_text_in_the_packaged_model() -> None:
    """The model takes negative prompts; the negative side of this query is missing."""
    model = QueriedSeparator.from_pretrained()
    assert model.manipulator.state is not None
    memory = model.manipulator.state["0.memory"]
    text = F.normalize(model.encoder.embed_text(["a dog barking"]), dim=-1)
    condition = model.embed(Query(("a dog barking",)))
    assert condition.mask.tolist() == [[True, False]]
    positive, negative = condition.embeddings[0].chunk(2, -1)
    assert not negative.any()
    assert torch.equal((positive[:, None] == memory).all(-1).sum(1), torch.ones(len(positive)))
    similarity = (positive @ text.T)[:, 0]
    assert float(similarity[0]) == float((memory @ text.T).max())
    assert int(condition.weights.argmax()) == int(similarity.argmax()) == 0
    sound = torch.randn(1, 32_000, generator=torch.Generator().manual_seed(0))
    audio = model.encoder.embed_audio(sound[0], 32_000)
    assert torch.equal(only(model.condition(audio, is_text=False)), F.pad(audio, (0, 96)))
    assert model.config.presence is not None
    assert model.config.gate is not None


def test_the_encoder_is_not_saved_with_the_model(debug_model: QueriedSeparator) -> None:
    assert all(name.startswith("separator.") for name in debug_model.state_dict())


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


HOSTILE: list[tuple[dict[str, Any], str]] = [
    ({"separator": {"type": "locoformer", "num_blocks": 10**7}}, "num_blocks"),
    ({"separator": {"type": "resunet30", "num_fft": 2**30, "hop": 1}}, "num_fft"),
    ({"separator": {"type": "conditioned_unet", "channels": [2**62] * 3}}, "channels"),
    ({"separator": {"type": "conditioned_unet", "channels": [16_000] * 4}}, "weights: the limit"),
    ({"separator": {"type": "identity", "sample_rate": 2**62}}, "sample_rate"),
    ({"separator": {"type": "x" * 100_000}}, "another architecture"),
    ({"quietest_db": 1e308}, "quietest_db"),
    ({"quietest_db": float("nan")}, "quietest_db"),
    ({"presence": {"scale": float("inf"), "bias": 0}}, "presence.scale"),
    ({"gate": {"low": -1e300, "high": 0.5, "floor_db": -20, "gain_db": 0}}, "gate.low"),
    ({"gate": {"low": 0, "high": 0.5, "floor_db": -1e300, "gain_db": 0}}, "gate.floor_db"),
    ({"manipulation": {"steps": [{"type": "dropout"}] * 1_000}}, "manipulation.steps"),
    ({"manipulation": {"steps": [{"type": "neighbours", "sounds": 10**6}]}}, "sounds"),
    ({"manipulation": {"steps": [{"type": "projection", "temperature": 1e-300}]}}, "temperature"),
    ({"encoder": {"name": "a\nb"}}, "encoder.name"),
    ({"encoder": {"name": "x" * 5_000}}, "encoder.name"),
    ({"encoder": {"name": "builtin", "fingerprint": "\x1b[31m"}}, "encoder.fingerprint"),
    ({"sha256": "\n"}, "sha256"),
]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "does not exist"),
        (lambda folder: (folder / "config.json").unlink(), "no readable config.json"),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff"), "no readable config.json"),
        (
            lambda folder: (folder / "config.json").write_text("[]"),
            "not the config of a model",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), "no such file"),
        (lambda folder: truncate(folder / "model.safetensors"), "corrupt or truncated"),
        (
            lambda folder: change_json(folder / "config.json", lambda c: c.update(format=2)),
            "another architecture: .*'format'",
        ),
        (
            lambda folder: change_json(folder / "config.json", lambda c: c.update(extra=2)),
            "unknown key 'extra'",
        ),
        (
            lambda folder: change_json(
                folder / "config.json", lambda c: c["separator"].update(type="transformer")
            ),
            "another architecture",
        ),
        (
            lambda folder: change_json(
                folder / "config.json", lambda c: c["separator"].update(bottleneck=17)
            ),
            "another architecture: tensor",
        ),
        (
            lambda folder: change_json(
                folder / "config.json", lambda c: c["encoder"].update(name="/no/such/encoder")
            ),
            "not a query encoder's folder",
        ),
        (
            lambda folder: change_json(
                folder / "config.json", lambda c: c["encoder"].update(fingerprint="0")
            ),
            "fingerprint",
        ),
        (lambda folder: (folder / "config.json").write_text('{"a":' * 100_000), "nested deeper"),
        (lambda folder: (folder / "config.json").write_text(" " * 2_000_000), "2,000,000 bytes"),
        (lambda folder: replace_by_pipe(folder / "config.json"), "not a file"),
        (lambda folder: replace_by_pipe(folder / "model.safetensors"), "a device or a pipe"),
        *(
            (
                lambda folder, change=change: change_json(
                    folder / "config.json", lambda config: config.update(change)
                ),
                message,
            )
            for change, message in HOSTILE
        ),
    ],
)
def test_a_damaged_model_is_one_line(
    damage: Callable[[Path], object], message: str, debug_model_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(debug_model_folder, folder)
    damage(folder)
    with pytest.raises(ModelError, match=message) as caught:
        QueriedSeparator.from_pretrained(folder)
    assert len(one_line(caught)) <= 1_500


def test_no_flipped_bit_of_a_config_is_taken(debug_model_folder: Path, tmp_path: Path) -> None:
    """Every byte of the file, each with another bit, apart from spaces."""
    folder = shutil.copytree(debug_model_folder, tmp_path / "model")
    path = folder / "config.json"
    whole = path.read_bytes()
    expected = json.loads(whole)
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with suppress(ModelError):
            QueriedSeparator.from_pretrained(folder)
            assert json.loads(path.read_text()) == expected


def test_a_config_that_was_edited_is_refused(debug_model_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(debug_model_folder, tmp_path / "model")
    change_json(folder / "config.json", lambda c: c["separator"].update(sample_rate=16_000))
    with pytest.raises(ModelError, match=r"config\.json: was damaged or edited after the model"):
        QueriedSeparator.from_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")  # as earlier versions saved it
    save_file(tensors, folder / "model.safetensors")
    change_json(folder / "config.json", lambda c: c.update(sha256=None))
    assert QueriedSeparator.from_pretrained(folder).sample_rate == 16_000


def test_the_encoder_of_a_saved_model_may_move(debug_model_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(debug_model_folder, tmp_path / "model")
    name = json.loads((folder / "config.json").read_text())["encoder"]["name"]
    moved = shutil.copytree(name, tmp_path / "encoder")
    change_json(folder / "config.json", lambda c: c["encoder"].update(name=str(moved)))
    QueriedSeparator.from_pretrained(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "other.safetensors", "last.ckpt"])
def test_a_pipe_for_a_checkpoint_is_never_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(ModelError) as caught:
            QueriedSeparator.from_pretrained(path)
        one_line(caught)


def test_a_file_for_a_model_is_one_line(debug_model_folder: Path) -> None:
    with pytest.raises(ModelError, match="no checkpoint of AudioSep"):
        QueriedSeparator.from_pretrained(debug_model_folder / "model.safetensors")


def test_an_encoder_of_another_size_does_not_fit(
    debug_encoder: BuiltinEncoder, debug_model_folder: Path
) -> None:
    class Wider:
        name, dim, fingerprint = "builtin", debug_encoder.dim + 1, ""

    with pytest.raises(ModelError, match="another architecture"):
        QueriedSeparator.from_pretrained(debug_model_folder, Wider())  # type: ignore[arg-type]
    assert TINY_SEPARATOR.build(Wider.dim)
