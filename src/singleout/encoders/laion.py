"""LAION-CLAP's own checkpoints (``.pt``) as ``ClapEncoder``, by renaming their tensors.

HTS-AT of any size (tiny, base) with RoBERTa-base, fused or not: the architecture is read off the
tensors' shapes. This is also the query encoder inside AudioSep's checkpoints.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import Any

from torch import Tensor

from singleout.encoders.clap import (
    TOKENIZER_FILES,
    ClapEncoder,
    filled_model,
    has_tokenizer,
    import_transformers,
    load_tokenizer,
)
from singleout.errors import ModelError
from singleout.storage.foreign import read_tensors
from singleout.storage.hub import fetched

AUDIOSEP_PREFIX = "query_encoder.model."
"""Of the CLAP in AudioSep's Lightning checkpoints."""
ROBERTA = ("FacebookAI/roberta-base", "roberta-base")
"""Names of one repository; caches have either."""

# Fixed by the architecture, or of parts that no embedding passes: the STFT, the tagger's head, and
# the perceptrons of LAION's training loss.
_DROPPED = re.compile(
    r".*\.(position_ids|relative_position_index|attn_mask|num_batches_tracked)"
    r"|audio_branch\.(spectrogram_extractor|logmel_extractor|tscam_conv|head)\..*"
    r"|(audio|text)_transform\..*"
)
_RENAMED = (
    ("audio_branch.", "audio_model.audio_encoder."),
    ("text_branch.", "text_model."),
    ("_projection.0.", "_projection.linear1."),
    ("_projection.2.", "_projection.linear2."),
    (".bn0.", ".batch_norm."),
    (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
    (".attn.proj.", ".attention.output.dense."),
    (".attn.", ".attention.self."),
)


def from_laion(
    source: str | Path | Mapping[str, Tensor],
    tokenizer: str | Path | None = None,
    name: str | None = None,
) -> ClapEncoder:
    """The encoder of a LAION-CLAP checkpoint.

    Preprocessing is LAION's: 48 kHz, 10 s, repeated and padded. Two things are as AudioSep has
    them: samples are not rounded to 16 bits, and texts are cut at 512 tokens, not at 77. One is
    our own: clips above 10 s are cut to their middle, not at random.

    Args:
        source: a checkpoint's file, AudioSep's too, or the tensors of one by LAION's names.
        tokenizer: folder or hub id of RoBERTa-base's tokenizer; by default the files beside the
            checkpoint, or else ``roberta-base`` from the hub's cache or the hub.
        name: what ``load_encoder`` finds the encoder by: the file's path.

    Raises:
        MissingExtraError: transformers is not installed.
        ModelError: the checkpoint cannot be read or is of another architecture (names every
            tensor that is missing, unexpected or of another shape), or there is no tokenizer.
    """
    transformers = import_transformers()
    origin = name or ("LAION-CLAP" if isinstance(source, Mapping) else str(source))
    path = Path(origin if isinstance(source, Mapping) else source).expanduser()
    if isinstance(source, Mapping):
        tensors = dict(source)
    else:
        tensors = read_tensors(path)
        inside = {k: v for k, v in tensors.items() if k.startswith(AUDIOSEP_PREFIX)}
        if inside:
            tensors = {k.removeprefix(AUDIOSEP_PREFIX): v for k, v in inside.items()}
    try:
        config = transformers.ClapConfig(**_read_off(tensors, origin))
        given = renamed(tensors)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise ModelError(f"{origin}: LAION-CLAP of impossible shapes ({error!r})") from None
    model = filled_model(config, given, origin)
    audio = config.audio_config
    extractor = transformers.ClapFeatureExtractor(
        feature_size=audio.num_mel_bins,
        sampling_rate=48_000,
        hop_length=480,
        max_length_s=10,
        fft_window_size=1_024,
        frequency_min=50,
        frequency_max=14_000,
        truncation="fusion" if audio.enable_fusion else "rand_trunc",
        padding="repeatpad",
    )
    return ClapEncoder(model, _tokenizer(tokenizer, path, origin), extractor, origin)


def encoder_inside(checkpoint: Path) -> ClapEncoder:
    """The query encoder that a checkpoint of AudioSep's layout holds beside the separator.

    Raises:
        MissingExtraError, ModelError: see ``from_laion``; or there is none inside.
    """
    tensors = {
        name.removeprefix(AUDIOSEP_PREFIX): tensor
        for name, tensor in read_tensors(checkpoint).items()
        if name.startswith(AUDIOSEP_PREFIX)
    }
    if not tensors:
        raise ModelError(
            f"{checkpoint}: holds no query encoder: give the CLAP it was trained with (--encoder "
            "on the command line): a file of LAION's, a folder or a hub id"
        )
    beside = checkpoint.parent if has_tokenizer(checkpoint.parent) else None
    return from_laion(tensors, tokenizer=beside, name=str(checkpoint))


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """LAION's tensors under the names of transformers' ``ClapModel``; what it lacks is left out.

    The joint projection of an HTS-AT block is split into query, key and value.
    """
    result: dict[str, Tensor] = {}
    for theirs, tensor in tensors.items():
        if _DROPPED.fullmatch(theirs):
            continue
        ours = theirs
        for old, new in _RENAMED:
            ours = ours.replace(old, new)
        if ".self.qkv." in ours:
            for part, rows in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                result[ours.replace("qkv", part)] = rows
        else:
            result[ours] = tensor
    return result


def _read_off(tensors: Mapping[str, Tensor], origin: str) -> dict[str, Any]:
    """The arguments of the ``ClapConfig`` that the tensors are of."""

    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors:
            raise ModelError(
                f"{origin}: not a LAION-CLAP with HTS-AT and RoBERTa: tensor '{name}' is missing"
            )
        return tuple(tensors[name].shape)

    def count(pattern: str) -> int:
        found = (re.match(pattern, name) for name in tensors)
        return len({match[1] for match in found if match})

    audio, text = "audio_branch.", "text_branch."
    dim, _, patch, *_ = shape(f"{audio}patch_embed.proj.weight")
    num_stages = count(r"audio_branch\.layers\.(\d+)\.")
    depths = [count(rf"audio_branch\.layers\.{i}\.blocks\.(\d+)\.") for i in range(num_stages)]
    blocks = [f"{audio}layers.{i}.blocks.0." for i in range(num_stages)]
    tables = [shape(f"{block}attn.relative_position_bias_table") for block in blocks]
    fused = f"{audio}patch_embed.mel_conv2d.weight" in tensors
    vocabulary, width = shape(f"{text}embeddings.word_embeddings.weight")
    num_types = shape(f"{text}embeddings.token_type_embeddings.weight")[0]
    if num_types != 1:
        raise ModelError(f"{origin}: not a LAION-CLAP with RoBERTa: its text branch is a BERT")
    audio_config = {
        "patch_embeds_hidden_size": dim,
        "hidden_size": dim * 2 ** (num_stages - 1),
        "depths": depths,
        "num_attention_heads": [table[1] for table in tables],
        "window_size": (isqrt(tables[0][0]) + 1) // 2,
        "mlp_ratio": shape(f"{blocks[0]}mlp.fc1.weight")[0] / dim,
        "num_mel_bins": shape(f"{audio}bn0.weight")[0],
        "spec_size": 256,
        "patch_size": patch,
        "patch_stride": [patch, patch],
        "enable_fusion": fused,
        "fusion_type": "aff_2d" if fused else None,
        "num_hidden_layers": num_stages,
    }
    if fused:
        inner = shape(f"{audio}patch_embed.fusion_model.local_att.0.weight")[0]
        audio_config["aff_block_r"] = dim // inner
    text_config = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": count(r"text_branch\.encoder\.layer\.(\d+)\."),
        "num_attention_heads": max(1, width // 64),
        "intermediate_size": shape(f"{text}encoder.layer.0.intermediate.dense.weight")[0],
        "max_position_embeddings": shape(f"{text}embeddings.position_embeddings.weight")[0],
        "type_vocab_size": num_types,
        "pad_token_id": 1,
        # RoBERTa's; the default of transformers' ClapTextConfig is BERT's.
        "layer_norm_eps": 1e-5,
    }
    return {
        "audio_config": audio_config,
        "text_config": text_config,
        "projection_dim": shape("text_projection.2.weight")[0],
    }


def _tokenizer(wanted: str | Path | None, checkpoint: Path, origin: str) -> Any:
    kind = import_transformers().RobertaTokenizerFast
    if wanted is not None:
        folder = Path(wanted).expanduser()
        if not folder.is_dir():
            folder = fetched(str(wanted), None, TOKENIZER_FILES)
        return load_tokenizer(kind, folder, str(wanted))
    if checkpoint.is_file() and has_tokenizer(checkpoint.parent):
        return load_tokenizer(kind, checkpoint.parent, str(checkpoint.parent))
    for offline in (True, False):
        for identifier in ROBERTA:
            try:
                folder = fetched(identifier, None, TOKENIZER_FILES, offline)
            except ModelError:
                continue
            if has_tokenizer(folder):
                return load_tokenizer(kind, folder, identifier)
    raise ModelError(
        f"{origin}: a LAION checkpoint has no tokenizer of its own, and roberta-base's is neither "
        "in the hub's cache nor to be had from the hub: put its vocab.json and merges.txt beside "
        "the checkpoint, or give their folder as from_laion(..., tokenizer=FOLDER)"
    )
