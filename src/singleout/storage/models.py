"""The names of models, and the files behind them. ``load_encoder`` resolves query encoders."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from singleout.errors import ModelError
from singleout.storage.disk import is_device
from singleout.storage.foreign import CHECKPOINT_SUFFIXES
from singleout.storage.hub import fetched, is_hub_id, path_of, split_revision
from singleout.storage.journal import recover

BUILTIN = "builtin"
"""Name of the model in the package."""
MODEL_FILES = ["config.json", "model.safetensors"]
"""Files of a saved model."""


def list_models() -> list[str]:
    """Names of the models that come with the package.

    Example:
        >>> import singleout
        >>> singleout.list_models()
        ['builtin']
    """
    return [BUILTIN]


def resolve_model(name: str | Path | None = None, revision: str | None = None) -> Path:
    """The file or folder of a model.

    Args:
        name: one of
            - ``builtin`` (or None), the model in the package;
            - the folder of a saved model (write ``./builtin`` for a folder named ``builtin``);
            - the folder of a training, which holds its model in ``model``;
            - a checkpoint of AudioSep's layout, as a file or as a folder of a hub;
            - a hub id, ``owner/name`` or ``owner/name@revision``.
        revision: branch, tag or commit on the hub.

    Returns:
        A path. Nothing needs to exist there: its reader reports what is missing.

    Raises:
        ModelError: the name is not a path, or is that of a device or a pipe, or the hub does not
            have the model.
        MissingExtraError: huggingface-hub is not installed.

    Example:
        >>> resolve_model("builtin").name
        'extractor'
        >>> resolve_model("./run/model").as_posix()
        'run/model'
    """
    if name is None or str(name) == BUILTIN:
        return Path(str(files("singleout") / "builtin" / "extractor"))
    path = path_of(name)
    if str(path) == BUILTIN:  # it was ./builtin: as a Path it must not become the name again
        path = path.absolute()
    if is_device(path):
        raise ModelError(f"{path}: is a device or a pipe: give the folder of a model")
    if path.exists() or not is_hub_id(str(name)):
        return _model_in(path)
    identifier, revision = split_revision(str(name), revision)
    folder = fetched(identifier, revision, MODEL_FILES)
    if (folder / "model.safetensors").is_file():
        return folder
    # A checkpoint is downloaded only if there is no saved model. The folder's name is the commit.
    return fetched(identifier, folder.name, [f"*.{suffix}" for suffix in CHECKPOINT_SUFFIXES])


def _model_in(path: Path) -> Path:
    """The path, or the folder of the model in the folder of a training."""
    inside = path / "model"
    try:
        is_training = (inside / "config.json").is_file() and not (path / MODEL_FILES[1]).exists()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from None
    folder = inside if is_training else path
    recover(folder)  # a program may have been killed while it saved the model
    return folder
