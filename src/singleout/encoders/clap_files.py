"""Reads the files of a CLAP of ``transformers``: config, weights, tokenizer, preprocessing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor

from singleout.config import is_path
from singleout.documents import DocumentError, check_file, read_json
from singleout.encoders.tokens import check_parts, refusing
from singleout.errors import MissingExtraError, ModelError, one_line, shortened
from singleout.storage.foreign import read_tensors
from singleout.storage.hub import fetched, is_hub_id
from singleout.storage.tensors import fill

TOKENIZER_FILES = [
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt",
]  # fmt: skip
CLAP_FILES = ["config.json", "preprocessor_config.json", "processor_config.json", *TOKENIZER_FILES]
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
MAX_TOKENIZER_BYTES = 50_000_000
"""Size of the largest file of a tokenizer."""
MAX_SIZE = 2_000_000
"""Largest number in a config: RoBERTa has 50,265 tokens, its widest layer 3,072 channels."""
MAX_LISTED = 1_000
"""Most values in a list of a config."""
MAX_SIZES = {
    "num_hidden_layers": 48, "depths": 48, "num_attention_heads": 256, "hidden_size": 4_096,
    "intermediate_size": 16_384, "patch_embeds_hidden_size": 4_096, "projection_dim": 4_096,
    "spec_size": 4_096, "window_size": 64, "patch_size": 256, "patch_stride": 256,
    "num_mel_bins": 1_024, "mlp_ratio": 64, "max_position_embeddings": 16_384, "num_labels": 1_024,
    "feature_size": 1_024, "fft_window_size": 32_768, "nb_max_samples": 10_000_000,
    "nb_max_frames": 100_000, "nb_frequency_bins": 32_768, "max_length_s": 600,
    "max_length": 10**30,
}  # fmt: skip
"""Largest numbers under these keys. Transformers writes 10^30 for texts of any length."""


def import_transformers() -> Any:
    """Import the package ``transformers``.

    Raises:
        MissingExtraError: it is not installed.

    Example:
        >>> import_transformers().__name__
        'transformers'
    """
    try:
        import transformers
    except ImportError:
        raise MissingExtraError(
            "CLAP encoders need transformers: pip install 'singleout[clap]'"
        ) from None
    return transformers


def filled_model(config: Any, tensors: Mapping[str, Tensor], origin: str) -> Any:
    """Make a ``ClapModel`` and fill it.

    ``transformers`` would fill missing tensors with random numbers; here they are an error.

    Args:
        config: a ``ClapConfig``.
        tensors: by the names of ``ClapModel``.
        origin: where the tensors come from, for the message.

    Raises:
        ModelError: tensors are missing, unexpected or of another shape: names all of them.

    Example:
        >>> bert = import_transformers().BertConfig()
        >>> filled_model(bert, {}, "owner/name")
        Traceback (most recent call last):
        singleout.errors.ModelError: owner/name: config of another CLAP: ...
    """
    transformers = import_transformers()
    try:
        with _without_initialisation():
            model = transformers.ClapModel(config)
    except Exception as error:  # an impossible config may raise any error
        raise ModelError(f"{origin}: config of another CLAP: {one_line(error)}") from None
    # Tensors of integers are positions and counters, which the architecture fixes.
    fixed = {k: v for k, v in model.state_dict().items() if not v.is_floating_point()}
    given = {k: v for k, v in tensors.items() if v.is_floating_point()}
    fill(model, {**given, **fixed}, Path(origin))
    return model


def _without_initialisation() -> Any:
    """Build a model without random weights, which takes seconds: a file replaces them."""
    try:
        from transformers.initialization import no_init_weights
    except ImportError:
        try:
            from transformers.modeling_utils import no_init_weights
        except ImportError:
            return nullcontext()
    return no_init_weights()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress bars and warnings of transformers; our errors name what is wrong.

    Example:
        >>> from transformers.utils import logging
        >>> with quiet():
        ...     logging.is_progress_bar_enabled()
        False
    """
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def fetched_clap(identifier: str, revision: str | None) -> Path:
    """The folder of a CLAP in the hub's cache; it is downloaded if needed.

    Args:
        identifier: ``owner/name``.
        revision: branch, tag or commit.

    Raises:
        ModelError: the hub does not have it.
        MissingExtraError: huggingface-hub is not installed.

    Example:
        >>> fetched_clap("no-such-folder", None)
        Traceback (most recent call last):
        singleout.errors.ModelError: no-such-folder: no such folder, and not a hub id ...
    """
    if not is_hub_id(identifier):
        raise ModelError(
            f"{identifier}: no such folder, and not a hub id (owner/name or owner/name@revision)"
        )
    folder = fetched(identifier, revision, [*CLAP_FILES, "model*.safetensors*"])
    if not any(folder.glob("model*.safetensors*")) and not any(folder.glob("pytorch_model*.bin*")):
        # Pickles are downloaded only if there are no safetensors.
        folder = fetched(identifier, revision, [*CLAP_FILES, "pytorch_model*.bin*"])
    return folder


def read_clap_config(folder: Path, origin: str) -> dict[str, Any]:
    """The ``config.json`` of a CLAP.

    Args:
        folder: of the CLAP.
        origin: name of the CLAP, for the message.

    Raises:
        ModelError: the file is missing or damaged, or it belongs to another kind of model.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "config.json").write_text('{"model_type": "bert"}')
        ...     read_clap_config(Path(folder), "owner/name")
        Traceback (most recent call last):
        singleout.errors.ModelError: owner/name: not a CLAP: its config.json has ... 'bert'
    """
    try:
        config = read_json(folder / "config.json")
    except DocumentError as error:
        raise ModelError(
            f"{origin}: no readable config.json ({error}): not the folder of a CLAP of transformers"
        ) from None
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != "clap":
        raise ModelError(
            f"{origin}: not a CLAP: its config.json has the model_type '{shortened(kind)}'"
        )
    check_sizes(config, f"{origin}: config.json")
    return config  # type: ignore[no-any-return]


def check_sizes(values: Any, origin: str, key: str = "", limit: int = MAX_SIZE) -> None:
    """Refuse sizes that no CLAP has, before a network of these sizes is built.

    Args:
        values: of a config.
        origin: where they come from, for the message.
        key: their key in a larger config.
        limit: largest number under this key.

    Raises:
        ModelError: names the key.

    Example:
        >>> check_sizes({"audio_config": {"depths": [2, 10**9]}}, "owner/name")
        Traceback (most recent call last):
        singleout.errors.ModelError: owner/name: 'depths' is 1000000000, the limit is 48
    """
    if isinstance(values, list) and len(values) > MAX_LISTED:
        raise ModelError(f"{origin}: '{shortened(key)}' has {len(values):,} values")
    if isinstance(values, dict | list):
        pairs = values.items() if isinstance(values, dict) else ((key, value) for value in values)
        for name, value in pairs:
            check_sizes(value, origin, str(name), MAX_SIZES.get(str(name), MAX_SIZE))
    elif isinstance(values, int | float) and not abs(values) <= limit:
        raise ModelError(
            f"{origin}: '{shortened(key)}' is {shortened(values)}, the limit is {limit:,}"
        )


def _check_files(folder: Path, names: Iterable[str], origin: str) -> None:
    """Refuse a folder with a pipe, a device or a huge file of one of these names.

    Transformers would read it to its end.
    """
    for name in names:
        path = folder / name
        if path.exists():
            try:
                check_file(path, MAX_TOKENIZER_BYTES)
            except DocumentError as error:
                raise ModelError(f"{origin}: {name}: {error}") from None


def read_weights(folder: Path, origin: str) -> dict[str, Tensor]:
    """All tensors of a model of transformers, in one file or in several.

    Args:
        folder: of the model.
        origin: name of the model, for the message.

    Raises:
        ModelError: a file is missing or damaged.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"weight": torch.ones(2)}, Path(folder) / "pytorch_model.bin")
        ...     read_weights(Path(folder), "owner/name")
        {'weight': tensor([1., 1.])}
    """
    for name in WEIGHTS:
        if (folder / name).exists():
            return read_tensors(folder / name)
        index = folder / f"{name}.index.json"
        if index.exists():
            try:
                shards = set(read_json(index)["weight_map"].values())
                if not all(is_path(shard) and "/" not in shard for shard in shards):
                    raise ValueError("a part of the weights lies elsewhere")
            except (ValueError, LookupError, TypeError, AttributeError):
                raise ModelError(f"{index}: not an index of weights") from None
            return {
                name: tensor
                for shard in sorted(shards)
                for name, tensor in read_tensors(folder / shard).items()
            }
    raise ModelError(
        f"{origin}: no weights ({' or '.join(WEIGHTS)}): download them into the folder {folder}, "
        "or go online"
    )


def load_extractor(folder: Path, origin: str) -> Any:
    """Load the ``ClapFeatureExtractor`` of a CLAP.

    Args:
        folder: of the CLAP.
        origin: name of the CLAP, for the message.

    Raises:
        ModelError: its file is missing or damaged.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     load_extractor(Path(folder), "owner/name")
        Traceback (most recent call last):
        singleout.errors.ModelError: owner/name: no preprocessing settings ...
    """
    files = ("preprocessor_config.json", "processor_config.json")
    if not any((folder / name).exists() for name in files):
        raise ModelError(
            f"{origin}: no preprocessing settings ({files[0]}): download them into the folder "
            f"{folder}, or go online"
        )
    for name in files:
        if (folder / name).exists():
            try:
                check_sizes(read_json(folder / name), f"{origin}: {name}")
            except DocumentError as error:
                raise ModelError(
                    f"{origin}: preprocessing cannot be read: {name}: {error}"
                ) from None
    try:
        with quiet():
            return import_transformers().ClapFeatureExtractor.from_pretrained(folder)
    except Exception as error:  # the errors differ between versions of transformers
        raise ModelError(f"{origin}: preprocessing cannot be read: {one_line(error)}") from None


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds the files of a tokenizer.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (Path(folder) / "tokenizer.json").touch()
        ...     has_tokenizer(Path(folder))
        True
    """
    vocabulary = (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
    return vocabulary or (folder / "tokenizer.json").is_file()


def load_tokenizer(kind: Any, folder: Path, origin: str) -> Any:
    """Load a tokenizer.

    Args:
        kind: class of the tokenizer in transformers.
        folder: it holds the files of the tokenizer.
        origin: name of the model, for the message.

    Raises:
        ModelError: the tokenizer is missing or damaged.

    Example:
        >>> import tempfile
        >>> kind = import_transformers().RobertaTokenizerFast
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     load_tokenizer(kind, Path(folder), "owner/name")
        Traceback (most recent call last):
        singleout.errors.ModelError: owner/name: no tokenizer (tokenizer.json, or vocab.json ...
    """
    # Without files, some versions of transformers make an empty tokenizer.
    if not has_tokenizer(folder):
        raise ModelError(
            f"{origin}: no tokenizer (tokenizer.json, or vocab.json and merges.txt): download it "
            f"into the folder {folder}, or go online"
        )
    _check_files(folder, TOKENIZER_FILES, origin)
    with refusing(f"{origin}: the tokenizer cannot be read"), quiet():
        tokenizer = kind.from_pretrained(folder)
    try:
        check_parts(tokenizer.backend_tokenizer)
    except (AttributeError, ModelError) as error:  # AttributeError: one without Rust
        raise ModelError(f"{origin}: {error}") from None
    return tokenizer
