"""AudioSep's separator: equality with its code, every form of its checkpoint, training, models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional as F
from typer.testing import CliRunner

from benchmarks.resunet30 import agreement_db, inputs, randomise, save_checkpoint
from singleout import Extractor
from singleout.audio import read_audio, write_wav
from singleout.cli import app
from singleout.condition import Condition
from singleout.encoders import BuiltinEncoder
from singleout.encoders.laion import from_laion
from singleout.errors import ModelError
from singleout.model import QueriedSeparator
from singleout.separators import ResUNet30, ResUNet30Config
from singleout.separators.resunet30.network import VARIANTS
from tests.encoders.clap_models import write_tokenizer
from tests.encoders.test_laion import small_weights
from tests.extract.chunks import separate_in_chunks
from tests.recordings import with_final_stages, without_infrasound

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[1] / "golden" / "resunet30.npz"
"""AudioSep's own output: ``benchmarks/resunet30.py --theirs CHECKOUT --golden FILE``."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Lightning checkpoint with seeded random weights at 32 kHz."""
    path = tmp_path_factory.mktemp("audiosep") / "audiosep.ckpt"
    save_checkpoint(32_000, path, seed=0)
    return path


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> ResUNet30:
    return ResUNet30.from_checkpoint(checkpoint)


@pytest.fixture(scope="module")
def tensors(model: ResUNet30) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.fixture
def small_model() -> Iterator[ResUNet30]:
    """With embeddings of the debug encoder's length and a short STFT."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = ResUNet30Config(
            sample_rate=16_000, num_fft=256, hop=80, inference_precision="float32"
        ).build(32)
        randomise(model, 3)
        yield model.eval()


@pytest.mark.parametrize("rate", [32_000, 16_000])
def test_equals_audiosep(rate: int, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    save_checkpoint(rate, path, seed=0)
    model = ResUNet30.from_checkpoint(path)
    assert (model.sample_rate, model.num_fft, model.hop) in VARIANTS.values()
    assert model.sample_rate == rate
    mixture, embedding = inputs(4_801, seed=0)
    with torch.inference_mode():
        folded = model(mixture, embedding).numpy().ravel()
    layers = model(mixture, embedding).detach().numpy().ravel()
    with np.load(GOLDEN) as golden:
        theirs = golden[str(rate)]
    assert np.abs(theirs).max() > 0.01
    np.testing.assert_allclose(folded, theirs, rtol=0, atol=2e-6)
    np.testing.assert_allclose(layers, theirs, rtol=0, atol=2e-6)


def test_bfloat16_agrees_to_35_db(model: ResUNet30, checkpoint: Path) -> None:
    fast = ResUNet30.from_checkpoint(checkpoint, "bfloat16")
    mixture, embedding = inputs(16_000, seed=1)
    with torch.inference_mode():
        assert agreement_db(fast(mixture, embedding), model(mixture, embedding)) >= 35


def test_has_the_published_number_of_parameters(model: ResUNet30) -> None:
    assert sum(p.numel() for p in model.parameters()) == 26_447_941
    assert len(model.state_dict()) == 332 - 5  # without the kernels of the STFT


@pytest.mark.parametrize("num_samples", [1, 79, 128, 129, 2_559, 2_561])
def test_takes_any_length(small_model: ResUNet30, num_samples: int) -> None:
    mixture = torch.randn(1, 1, num_samples, generator=torch.Generator().manual_seed(0)) * 0.1
    with torch.inference_mode():
        target = small_model(mixture, torch.ones(1, 32) / 32**0.5)
    assert target.shape == mixture.shape
    assert bool(torch.isfinite(target).all())
    assert float(target.abs().max()) > 0


def test_chunks_equal_the_whole(small_model: ResUNet30) -> None:
    generator = torch.Generator().manual_seed(4)
    mixture = (torch.randn(2, 60_001, generator=generator) * 0.1).numpy()
    embedding = torch.nn.functional.normalize(torch.randn(1, 32, generator=generator), dim=-1)
    with torch.inference_mode():
        whole, chunked = (
            np.concatenate(
                list(
                    separate_in_chunks(
                        small_model, [mixture], [Condition.single(embedding)], length
                    )
                ),
                axis=2,
            )
            for length in (mixture.shape[1], 20_000)
        )
    np.testing.assert_allclose(chunked, whole, atol=1e-5)


def test_channels_share_one_mask(small_model: ResUNet30) -> None:
    generator = torch.Generator().manual_seed(6)
    mono = torch.randn(1, 1, 4_000, generator=generator) * 0.1
    query = torch.nn.functional.normalize(torch.randn(1, 32, generator=generator), dim=-1)
    with torch.inference_mode():
        single = small_model(mono, query)
        gains = torch.tensor([1.0, -1.0, 1.0])[None, :, None]
        together = small_model(mono * gains, query)
    torch.testing.assert_close(together, single * gains, atol=1e-5, rtol=1e-4)


def test_two_queries_share_a_mixture(small_model: ResUNet30) -> None:
    generator = torch.Generator().manual_seed(5)
    mixture = torch.randn(2, 1, 4_000, generator=generator) * 0.1
    queries = torch.nn.functional.normalize(torch.randn(4, 32, generator=generator), dim=-1)
    with torch.inference_mode():
        together = small_model(mixture, queries)
        single = small_model(mixture[1:], queries[3:])
    torch.testing.assert_close(together[3:], single)


def test_trains_and_evaluates_with_the_new_weights(small_model: ResUNet30) -> None:
    mixture = torch.randn(1, 1, 4_000, generator=torch.Generator().manual_seed(0)) * 0.1
    embedding = torch.ones(1, 32) / 32**0.5
    with torch.inference_mode():
        before = small_model(mixture, embedding)
    small_model.train()
    optimizer = torch.optim.SGD(small_model.parameters(), lr=0.1)
    small_model(mixture, embedding).square().mean().backward()
    unused = {
        name
        for name, p in small_model.named_parameters()
        if p.grad is None or not bool(p.grad.any())
    }
    assert all(
        (".bn2." in name and "decoder" in name and "conv_block2" not in name)
        or ("decoder" in name and name.count("->") == 1 and "->beta2." in name)
        for name in unused
    )
    optimizer.step()
    small_model.eval()
    with torch.inference_mode():
        folded = small_model(mixture, embedding)
    layers = small_model(mixture, embedding).detach()
    assert float((folded - before).abs().max()) > 1e-6
    torch.testing.assert_close(folded, layers, atol=1e-5, rtol=0)


def test_loaded_weights_are_used_at_once(small_model: ResUNet30) -> None:
    mixture, embedding = torch.ones(1, 1, 2_000) * 0.1, torch.ones(1, 32) / 32**0.5
    with torch.inference_mode():
        before = small_model(mixture, embedding)
    state = {name: tensor.clone() for name, tensor in small_model.state_dict().items()}
    state["base.after_conv.bias"] += 1
    small_model.load_state_dict(state)
    with torch.inference_mode():
        after = small_model(mixture, embedding)
    assert float((after - before).abs().max()) > 1e-3
    state["base.after_conv.bias"] -= 1
    parent = torch.nn.Sequential(small_model)
    parent.load_state_dict({f"0.{name}": tensor for name, tensor in state.items()})
    with torch.inference_mode():
        torch.testing.assert_close(small_model(mixture, embedding), before)


class TestCheckpoints:
    """The forms in which the weights are published."""

    def same(self, path: Path, model: ResUNet30) -> bool:
        loaded = ResUNet30.from_checkpoint(path).state_dict()
        return all(torch.equal(tensor, loaded[k]) for k, tensor in model.state_dict().items())

    def test_plain_state_dict(
        self, model: ResUNet30, tensors: dict[str, Tensor], tmp_path: Path
    ) -> None:
        torch.save(tensors, tmp_path / "model.pth")
        assert self.same(tmp_path / "model.pth", model)

    def test_lightning_with_query_encoder_and_stft_kernels(
        self, model: ResUNet30, tensors: dict[str, Tensor], tmp_path: Path
    ) -> None:
        state = {f"ss_model.{name}": tensor for name, tensor in tensors.items()}
        state["query_encoder.model.logit_scale_a"] = torch.ones(())
        state["ss_model.base.stft.conv_real.weight"] = torch.zeros(1_025, 1, 4)
        state["ss_model.base.istft.ola_window"] = torch.zeros(4)
        torch.save({"state_dict": state, "best": np.float64(1), "epoch": 3}, tmp_path / "a.ckpt")
        assert self.same(tmp_path / "a.ckpt", model)

    def test_hub_folder(self, model: ResUNet30, tensors: dict[str, Tensor], tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("{}")
        # Some conversions drop the norms' counters.
        kept = {k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
        prefixed = {f"ss_model.{k}": v for k, v in kept.items()}
        safetensors.torch.save_file(prefixed, tmp_path / "model.safetensors")
        assert self.same(tmp_path, model)

    def test_names_every_wrong_tensor(self, tensors: dict[str, Tensor], tmp_path: Path) -> None:
        wrong = dict(tensors)
        del wrong["base.pre_conv.bias"], wrong["base.bn0.bias"]
        wrong["base.extra.weight"] = torch.zeros(3)
        wrong["base.after_conv.weight"] = torch.zeros(4, 32, 1, 1)
        torch.save(wrong, tmp_path / "wrong.ckpt")
        with pytest.raises(ModelError) as error:
            ResUNet30.from_checkpoint(tmp_path / "wrong.ckpt")
        message = str(error.value)
        assert "'base.pre_conv.bias' is missing" in message
        assert "'base.bn0.bias' is missing" in message
        assert "'base.extra.weight' is unexpected" in message
        assert "'base.after_conv.weight' is [4, 32, 1, 1], expected [3, 32, 1, 1]" in message
        assert "\n" not in message

    def test_a_wrong_tensor_that_decides_the_variant_is_named(self, tmp_path: Path) -> None:
        tensors = {"ss_model.base.pre_conv.weight": torch.zeros(32, 1, 1, 1)}
        tensors["ss_model.base.bn0.weight"] = torch.zeros(())
        safetensors.torch.save_file(tensors, tmp_path / "little.safetensors")
        with pytest.raises(ModelError, match=r"'base\.bn0\.weight' is \[\], expected \[1025\]"):
            ResUNet30.from_checkpoint(tmp_path / "little.safetensors")

    def test_refuses_another_network(self, tmp_path: Path) -> None:
        torch.save({"encoder.weight": torch.zeros(2)}, tmp_path / "other.ckpt")
        with pytest.raises(ModelError, match=r"other\.ckpt: no checkpoint of AudioSep's"):
            ResUNet30.from_checkpoint(tmp_path / "other.ckpt")

    def test_refuses_a_folder_with_no_or_two_checkpoints(
        self, tensors: dict[str, Tensor], tmp_path: Path
    ) -> None:
        with pytest.raises(ModelError, match="holds none"):
            ResUNet30.from_checkpoint(tmp_path)
        (tmp_path / "a.ckpt").touch()
        (tmp_path / "b.ckpt").touch()
        with pytest.raises(ModelError, match=r"holds a\.ckpt, b\.ckpt: name the file"):
            ResUNet30.from_checkpoint(tmp_path)


class TestModels:
    """As a model with a query encoder."""

    @pytest.fixture
    def small_checkpoint(self, small_model: ResUNet30, tmp_path: Path) -> Path:
        path = tmp_path / "small.ckpt"
        with torch.random.fork_rng():
            torch.manual_seed(6)
            torch.save(
                ResUNet30Config(sample_rate=16_000, num_fft=1_024, hop=160).build(32).state_dict(),
                path,
            )
        return path

    def test_extracts_by_text(
        self, small_checkpoint: Path, debug_encoder: BuiltinEncoder, debug_encoder_folder: Path
    ) -> None:
        extractor = Extractor.from_pretrained(small_checkpoint, str(debug_encoder_folder))
        assert extractor.model.sample_rate == 16_000
        mixture = np.random.default_rng(0).normal(0, 0.1, (2, 9_000)).astype(np.float32)
        result = extractor.extract(mixture, "a dog barking", sample_rate=44_100)
        assert result.target.shape == mixture.shape
        np.testing.assert_allclose(result.target + result.residual, mixture, atol=1e-6)
        separator = ResUNet30.from_checkpoint(small_checkpoint, "auto")
        # As the model normalises it: bfloat16 turns another last bit into 1e-4 of the target.
        embedding = F.normalize(debug_encoder.embed_text("a dog barking"), dim=-1)
        at_rate = np.ascontiguousarray(mixture[0])
        same = extractor.extract(at_rate, "a dog barking", sample_rate=16_000)
        with torch.inference_mode():
            steady = torch.from_numpy(without_infrasound(at_rate[None], 16_000))
            target = separator(steady[None], embedding)
        expected = with_final_stages(target.numpy(), 16_000)[0]
        np.testing.assert_allclose(same.target, expected, atol=1e-6)

    def test_a_saved_model_gives_the_same_targets(
        self, small_checkpoint: Path, debug_encoder_folder: Path, tmp_path: Path
    ) -> None:
        encoder = BuiltinEncoder.from_pretrained(debug_encoder_folder)
        model = QueriedSeparator.from_pretrained(small_checkpoint, encoder)
        model.save_pretrained(tmp_path / "saved")
        again = QueriedSeparator.from_pretrained(tmp_path / "saved", encoder)
        mixture, embedding = torch.ones(1, 1, 2_000) * 0.1, torch.ones(1, 32) / 32**0.5
        with torch.inference_mode():
            condition = Condition.single(embedding)
            assert agreement_db(again(mixture, condition), model(mixture, condition)) > 30

    def test_refuses_an_encoder_of_another_width(
        self, checkpoint: Path, debug_encoder: BuiltinEncoder
    ) -> None:
        with pytest.raises(ModelError, match=r"embeddings of length 512, the query encoder .* 32"):
            QueriedSeparator.from_pretrained(checkpoint, debug_encoder)

    def test_the_clap_inside_a_checkpoint_is_used(self, tmp_path: Path) -> None:
        path = tmp_path / "audiosep.ckpt"
        write_tokenizer(tmp_path)
        clap = small_weights()
        dim = len(clap["text_projection.2.bias"])
        with torch.random.fork_rng():
            torch.manual_seed(6)
            separator = (
                ResUNet30Config(sample_rate=16_000, num_fft=1_024, hop=160).build(dim).state_dict()
            )
        state = {f"ss_model.{name}": tensor for name, tensor in separator.items()}
        state |= {f"query_encoder.model.{name}": tensor for name, tensor in clap.items()}
        torch.save({"state_dict": state}, path)
        mixture = tmp_path / "mixture.wav"
        noise = np.random.default_rng(0).normal(0, 0.1, (1, 9_000)).astype(np.float32)
        write_wav(mixture, noise, 16_000)
        out = tmp_path / "out"
        result = CliRunner().invoke(
            app, ["extract", str(mixture), "a dog", "--model", str(path), "-o", str(out)]
        )
        assert result.exit_code == 0, result.output
        audio, _ = read_audio(out / "mixture.a-dog.target.wav")
        expected = Extractor.from_pretrained(path, from_laion(path)).extract(mixture, "a dog")
        np.testing.assert_allclose(audio, expected.target, atol=1e-6)
        assert np.abs(audio).max() > 1e-4

    def test_an_encoder_is_required(self, checkpoint: Path) -> None:
        with pytest.raises(ModelError, match="holds no query encoder: give the CLAP"):
            QueriedSeparator.from_pretrained(checkpoint)
