"""Loads LAION-CLAP's checkpoints (``.pt``) as ``ClapEncoder``, by renaming their tensors.

The audio network is an HTS-AT of any size (tiny, base), fused or not; the text network is
RoBERTa-base. The architecture is derived from the shapes of the tensors. AudioSep's checkpoints
contain such a query encoder, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from math import isqrt
from pathlib import Path
from typing import Any

from torch import Tensor

from singleout.encoders.clap import ClapEncoder
from singleout.encoders.clap_files import (
    TOKENIZER_FILES,
    check_sizes,
    filled_model,
    has_tokenizer,
    import_transformers,
    load_tokenizer,
)
from singleout.errors import ModelError
from singleout.storage.foreign import read_tensors
from singleout.storage.hub import fetched

AUDIOSEP_PREFIX = "query_encoder.model."
"""Prefix of the CLAP's tensors in AudioSep's Lightning checkpoints."""
ROBERTA = ("FacebookAI/roberta-base", "roberta-base")
"""Two names of one repository: a cache may have either."""

# Tensors that the architecture fixes, and tensors that do not change the embeddings: the STFT, the
# tagger's head, and the perceptrons of LAION's training loss.
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
    """Load the encoder of a LAION-CLAP checkpoint.

    Preprocessing is that of LAION: 48 kHz, 10 s, repeated and padded. Two details are those of
    AudioSep: samples are not rounded to 16 bits, and texts are cut at 512 tokens, not at 77. One
    is ours: clips above 10 s are cut to their middle, not at random.

    Args:
        source: the file of a checkpoint, also of AudioSep, or its tensors by LAION's names.
        tokenizer: folder or hub id of RoBERTa-base's tokenizer. By default the files next to the
            checkpoint, or ``roberta-base`` from the hub's cache or the hub.
        name: name of the encoder for ``load_encoder``; by default the path of the file.

    Raises:
        MissingExtraError: transformers is not installed.
        ModelError: the checkpoint cannot be read, or it has another architecture (names every
            tensor that is missing, unexpected or of another shape), or there is no tokenizer.

    Example:
        A file without tensors is refused before anything is loaded:

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     from_laion(Path(folder) / "missing.pt")
        Traceback (most recent call last):
        singleout.errors.ModelError: ...missing.pt: no such file: ...checkpoint...
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
        config = transformers.ClapConfig(**_config_of(tensors, origin))
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
    """Load the query encoder inside a checkpoint of AudioSep's layout.

    Args:
        checkpoint: the file. It holds a separator, and maybe the query encoder.

    Raises:
        MissingExtraError: transformers is not installed.
        ModelError: the checkpoint has no query encoder, or see ``from_laion``.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"base.weight": torch.ones(1)}, Path(folder) / "separator.pt")
        ...     encoder_inside(Path(folder) / "separator.pt")
        Traceback (most recent call last):
        singleout.errors.ModelError: ...separator.pt: holds no query encoder: give the CLAP ...
    """
    tensors = {
        name.removeprefix(AUDIOSEP_PREFIX): tensor
        for name, tensor in read_tensors(checkpoint).items()
        if name.startswith(AUDIOSEP_PREFIX)
    }
    if not tensors:
        raise ModelError(
            f"{checkpoint}: holds no query encoder: give the CLAP it was trained with (--encoder "
            "on the command line), as a file of LAION-CLAP, a folder or a hub id"
        )
    tokenizer = checkpoint.parent if has_tokenizer(checkpoint.parent) else None
    return from_laion(tensors, tokenizer=tokenizer, name=str(checkpoint))


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """LAION's tensors under the names of transformers' ``ClapModel``.

    Tensors that a ``ClapModel`` does not have are left out. The joint projection of an HTS-AT
    block is split into query, key and value.

    Example:
        >>> import torch
        >>> list(renamed({"audio_branch.bn0.bias": torch.zeros(64)}))
        ['audio_model.audio_encoder.batch_norm.bias']
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


def _config_of(tensors: Mapping[str, Tensor], origin: str) -> dict[str, Any]:
    """Arguments of the ``ClapConfig`` to which the tensors fit."""

    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors:
            raise ModelError(
                f"{origin}: not a LAION-CLAP with HTS-AT and RoBERTa: tensor '{name}' is missing"
            )
        return tuple(tensors[name].shape)

    def count(pattern: str) -> int:
        matches = (re.match(pattern, name) for name in tensors)
        return len({match[1] for match in matches if match})

    audio_config = _audio_config(
        shape, count, "audio_branch.patch_embed.mel_conv2d.weight" in tensors
    )
    if shape("text_branch.embeddings.token_type_embeddings.weight")[0] != 1:
        raise ModelError(f"{origin}: not a LAION-CLAP with RoBERTa: its text branch is a BERT")
    config = {
        "audio_config": audio_config,
        "text_config": _text_config(shape, count),
        "projection_dim": shape("text_projection.2.weight")[0],
    }
    check_sizes(config, origin)  # a tensor without values may have any shape
    return config


Shape = Callable[[str], tuple[int, ...]]
"""Gives the shape of a tensor by its name."""
Count = Callable[[str], int]
"""Gives the number of different matches of a pattern's group."""


def _audio_config(shape: Shape, count: Count, fused: bool) -> dict[str, Any]:
    """Config of the audio encoder, HTS-AT."""
    audio = "audio_branch."
    dim, _, patch, *_ = shape(f"{audio}patch_embed.proj.weight")
    num_stages = count(r"audio_branch\.layers\.(\d+)\.")
    depths = [count(rf"audio_branch\.layers\.{i}\.blocks\.(\d+)\.") for i in range(num_stages)]
    blocks = [f"{audio}layers.{i}.blocks.0." for i in range(num_stages)]
    tables = [shape(f"{block}attn.relative_position_bias_table") for block in blocks]
    config = {
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
        config["aff_block_r"] = dim // inner
    return config


def _text_config(shape: Shape, count: Count) -> dict[str, Any]:
    """Config of the text encoder, RoBERTa."""
    text = "text_branch."
    vocabulary, width = shape(f"{text}embeddings.word_embeddings.weight")
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": count(r"text_branch\.encoder\.layer\.(\d+)\."),
        "num_attention_heads": max(1, width // 64),
        "intermediate_size": shape(f"{text}encoder.layer.0.intermediate.dense.weight")[0],
        "max_position_embeddings": shape(f"{text}embeddings.position_embeddings.weight")[0],
        "type_vocab_size": 1,
        "pad_token_id": 1,
        # RoBERTa's; the default of transformers' ClapTextConfig is BERT's.
        "layer_norm_eps": 1e-5,
    }


def _tokenizer(name: str | Path | None, checkpoint: Path, origin: str) -> Any:
    """RoBERTa's tokenizer from ``name``, from next to the checkpoint, or from a hub."""
    kind = import_transformers().RobertaTokenizerFast
    if name is not None:
        folder = Path(name).expanduser()
        if not folder.is_dir():
            folder = fetched(str(name), None, TOKENIZER_FILES)
        return load_tokenizer(kind, folder, str(name))
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
        f"{origin}: a LAION checkpoint contains no tokenizer, and that of roberta-base is neither "
        "in the hub's cache nor on the hub: put its vocab.json and merges.txt next to the "
        "checkpoint, or give their folder as from_laion(..., tokenizer=FOLDER)"
    )
