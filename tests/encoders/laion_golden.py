"""Embeddings by LAION's code for ``tests/encoders/test_laion.py``, with the same weights as ours.

LAION's package needs torchvision, librosa, webdataset, wandb and more, which is too much for the
tests. So its embeddings are kept in ``laion.json``. HTS-AT has its full size (tiny, base, fused
tiny). RoBERTa, for which both use transformers, has two layers and 261 words. To make the file
again, use a separate environment without the packages that the model's code does not need:

    pip install -c constraints.txt -e '.[dev]' torchlibrosa h5py
    pip install --no-deps laion-clap
    python -m tests.encoders.laion_golden

Made with laion-clap 1.1.7, torchlibrosa 0.1.0, torch 2.13.0 and transformers 5.23.0.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
import tempfile
import types
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).parents[1] / "golden" / "laion.json"
TEXTS = ("a dog barking", "Rain on a tin roof, then thunder; naïve 犬.")
SECONDS = (3.0, 10.0)
"""Of the sounds: one is repeated and padded, one is not."""
CASES = {
    "tiny": {"dim": 96, "depths": (2, 2, 6, 2), "fused": False},
    "base": {"dim": 128, "depths": (2, 2, 12, 2), "fused": False},
    "tiny fused": {"dim": 96, "depths": (2, 2, 6, 2), "fused": True},
}
TEXT_WIDTH, TEXT_LAYERS, TEXT_HIDDEN, VOCABULARY = 768, 2, 256, 261


def shapes(dim: int, depths: tuple[int, ...], fused: bool) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a LAION-CLAP's tensors, as far as embeddings depend on them."""
    result: dict[str, tuple[int, ...]] = {"logit_scale_a": (), "logit_scale_t": ()}

    def affine(name: str, width: int) -> None:
        result[f"{name}.weight"] = result[f"{name}.bias"] = (width,)

    def batch_norm(name: str, width: int) -> None:
        affine(name, width)
        result[f"{name}.running_mean"] = result[f"{name}.running_var"] = (width,)

    def linear(name: str, c_in: int, c_out: int, *kernel: int) -> None:
        result[f"{name}.weight"], result[f"{name}.bias"] = (c_out, c_in, *kernel), (c_out,)

    audio = "audio_branch."
    batch_norm(f"{audio}bn0", 64)
    linear(f"{audio}patch_embed.proj", 1, dim, 4, 4)
    affine(f"{audio}patch_embed.norm", dim)
    if fused:
        linear(f"{audio}patch_embed.mel_conv2d", 1, dim, 4, 12)
        for part, first in (("local_att", 0), ("global_att", 1)):
            name = f"{audio}patch_embed.fusion_model.{part}."
            linear(f"{name}{first}", dim, dim // 4, 1, 1)
            batch_norm(f"{name}{first + 1}", dim // 4)
            linear(f"{name}{first + 3}", dim // 4, dim, 1, 1)
            batch_norm(f"{name}{first + 4}", dim)
    for i, depth in enumerate(depths):
        width = dim * 2**i
        for j in range(depth):
            name = f"{audio}layers.{i}.blocks.{j}."
            affine(f"{name}norm1", width)
            affine(f"{name}norm2", width)
            linear(f"{name}attn.qkv", width, 3 * width)
            linear(f"{name}attn.proj", width, width)
            linear(f"{name}mlp.fc1", width, 4 * width)
            linear(f"{name}mlp.fc2", 4 * width, width)
            result[f"{name}attn.relative_position_bias_table"] = (15 * 15, 4 * 2**i)
        if i + 1 < len(depths):
            affine(f"{audio}layers.{i}.downsample.norm", 4 * width)
            result[f"{audio}layers.{i}.downsample.reduction.weight"] = (2 * width, 4 * width)
    affine(f"{audio}norm", 8 * dim)

    text = "text_branch.embeddings."
    result[f"{text}word_embeddings.weight"] = (VOCABULARY, TEXT_WIDTH)
    result[f"{text}position_embeddings.weight"] = (514, TEXT_WIDTH)
    result[f"{text}token_type_embeddings.weight"] = (1, TEXT_WIDTH)
    affine(f"{text}LayerNorm", TEXT_WIDTH)
    for i in range(TEXT_LAYERS):
        name = f"text_branch.encoder.layer.{i}."
        for part in ("query", "key", "value"):
            linear(f"{name}attention.self.{part}", TEXT_WIDTH, TEXT_WIDTH)
        linear(f"{name}attention.output.dense", TEXT_WIDTH, TEXT_WIDTH)
        affine(f"{name}attention.output.LayerNorm", TEXT_WIDTH)
        linear(f"{name}intermediate.dense", TEXT_WIDTH, TEXT_HIDDEN)
        linear(f"{name}output.dense", TEXT_HIDDEN, TEXT_WIDTH)
        affine(f"{name}output.LayerNorm", TEXT_WIDTH)
    linear("text_branch.pooler.dense", TEXT_WIDTH, TEXT_WIDTH)
    for name, width in (("audio", 8 * dim), ("text", TEXT_WIDTH)):
        linear(f"{name}_projection.0", width, 512)
        linear(f"{name}_projection.2", 512, 512)
    return result


def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
    """The tensor called ``name``: uniform numbers from a counter that its name starts.

    Words of 32 bits of Philox, whose key is the SHA-256 of the name: the same on every machine.
    """
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    count = int(np.prod(shape))
    words = np.random.Philox(key=key).random_raw((count + 1) // 2).view(np.uint32)[:count]
    uniform = torch.from_numpy((words >> 8).astype(np.float32) * 2**-23 - 1).reshape(shape)
    if name.endswith("bn0.running_mean"):
        return uniform * 10 - 40  # of a log-mel in dB
    if name.endswith("running_var"):
        return (1 + 0.5 * uniform) * (400 if "bn0" in name else 1)
    if len(shape) == 1 and name.endswith("weight"):
        return 1 + 0.2 * uniform
    if len(shape) < 2:
        return 0.1 * uniform
    if "embeddings" in name or name.endswith("table"):
        return uniform
    return uniform * (3 / np.prod(shape[1:])) ** 0.5


def weights(case: str) -> dict[str, Tensor]:
    """All tensors of one of ``CASES`` by LAION's names."""
    return {name: drawn(name, shape) for name, shape in shapes(**CASES[case]).items()}  # type: ignore[arg-type]


def sound(seconds: float) -> Tensor:
    """Chirp and noise at 48 kHz, in the 24 bits that any machine computes alike."""
    time = np.arange(int(seconds * 48_000)) / 48_000
    chirp = 0.3 * np.sin(2 * np.pi * (200 * time + 400 * time**2)) * np.exp(-0.2 * time)
    noise = 0.05 * drawn(f"sound {seconds}", (len(time),)).double().numpy()
    return torch.from_numpy(np.round((chirp + noise) * 2**20) / 2**20).float()


def _laion_model(case: str) -> Any:
    """LAION's ``CLAP``, without running the ``__init__`` of its packages or loading RoBERTa."""
    import transformers

    class Skipped:
        """Of torchvision; only a training option uses it."""

    misc = types.ModuleType("torchvision.ops.misc")
    misc.FrozenBatchNorm2d = Skipped  # type: ignore[attr-defined]
    sys.modules.update({"torchvision.ops.misc": misc})
    for name in ("torchvision", "torchvision.ops"):
        sys.modules[name] = types.ModuleType(name)
    spec = find_spec("laion_clap")
    assert spec is not None, "pip install --no-deps laion-clap"
    assert spec.submodule_search_locations
    package = types.ModuleType("clap_module")
    package.__path__ = [f"{spec.submodule_search_locations[0]}/clap_module"]
    sys.modules["clap_module"] = package

    roberta = transformers.RobertaConfig(
        vocab_size=VOCABULARY, hidden_size=TEXT_WIDTH, num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=12, intermediate_size=TEXT_HIDDEN, max_position_embeddings=514,
        type_vocab_size=1, layer_norm_eps=1e-5,
    )  # fmt: skip
    transformers.RobertaModel.from_pretrained = lambda name: transformers.RobertaModel(roberta)
    size = CASES[case]
    return importlib.import_module("clap_module.model").CLAP(
        embed_dim=8 * size["dim"],  # type: ignore[operator]
        audio_cfg={
            "audio_length": 1024, "clip_samples": 480_000, "mel_bins": 64, "sample_rate": 48_000,
            "window_size": 1024, "hop_size": 480, "fmin": 50, "fmax": 14_000, "class_num": 527,
            "model_type": "HTSAT", "model_name": case.split()[0],
        },
        text_cfg={
            "context_length": 77, "vocab_size": 49_408, "width": 512, "heads": 8, "layers": 12,
            "model_type": "roberta",
        },
        enable_fusion=size["fused"],
        fusion_type="aff_2d" if size["fused"] else "None",
    ).eval()  # fmt: skip


def _inputs(fused: bool) -> tuple[list[list[dict[str, Tensor]]], dict[str, Tensor]]:
    """Of LAION's ``get_audio_embedding``, sound by sound, and ``get_text_embedding``.

    LAION makes the fused features with torchaudio; transformers' extractor stands in for it.
    """
    from transformers import RobertaTokenizerFast

    from tests.encoders.clap_models import extractor_of, write_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder))
        tokenizer = RobertaTokenizerFast.from_pretrained(folder)
    # To 512 tokens, as AudioSep does.
    tokens = tokenizer(
        list(TEXTS), padding="max_length", truncation=True, max_length=512, return_tensors="pt"
    )
    audio = []
    for seconds in SECONDS:
        waveform = sound(seconds)
        entry = {"waveform": waveform.repeat(480_000 // len(waveform))}
        entry["waveform"] = torch.nn.functional.pad(
            entry["waveform"], (0, 480_000 - len(entry["waveform"]))
        )
        if fused:
            features = extractor_of(True)(waveform.numpy(), sampling_rate=48_000)
            entry["mel_fusion"] = torch.tensor(np.asarray(features["input_features"][0]))
        audio.append([{**entry, "longer": torch.tensor([False])}])
    if fused:
        parts = torch.stack([sound(seconds)[: 3 * 48_000] for seconds in SECONDS])
        features = [extractor_of(True)(p.numpy(), sampling_rate=48_000) for p in parts]
        mel = torch.tensor(np.asarray([f["input_features"][0][0] for f in features]))
        fusion = torch.stack([mel[0], mel[1], mel[0], mel[1]])
        audio.append([{"mel_fusion": fusion, "longer": torch.tensor([True])}])
    return audio, {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}


@torch.inference_mode()
def main() -> None:
    golden: dict[str, Any] = {
        "made with": {
            p: version(p) for p in ("laion-clap", "torchlibrosa", "torch", "transformers")
        }
    }
    unused = ("relative_position_index", "attn_mask", "position_ids", "token_type_ids",
              "num_batches_tracked")  # fmt: skip
    for case, size in CASES.items():
        model = _laion_model(case)
        given = weights(case)
        state = model.state_dict()
        missing = state.keys() - given.keys()
        prefixes = ("audio_branch.spectrogram_extractor.", "audio_branch.logmel_extractor.",
                    "audio_branch.tscam_conv.", "audio_branch.head.", "audio_transform.",
                    "text_transform.")  # fmt: skip
        rest = [n for n in missing if not n.startswith(prefixes) and not n.endswith(unused)]
        assert not rest, rest
        assert given.keys() <= state.keys(), given.keys() - state.keys()
        model.load_state_dict(given, strict=False)
        audio, text = _inputs(bool(size["fused"]))
        embeddings = {
            "audio": torch.cat([model.get_audio_embedding(entry) for entry in audio]),
            "text": model.get_text_embedding(text),
        }
        golden[case] = {
            k: np.round(v.numpy().astype(float), 6).tolist() for k, v in embeddings.items()
        }
        print(case, {k: list(v.shape) for k, v in embeddings.items()}, "left out:", len(missing))
    lines = json.dumps(golden, separators=(",", ":"))
    GOLDEN.write_text(lines.replace('},"', '},\n"') + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
