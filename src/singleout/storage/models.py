"""Names of models: the one place that turns a name into files."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from singleout.storage.foreign import CHECKPOINT_SUFFIXES
from singleout.storage.hub import fetched, is_hub_id, place_of, split_revision

BUILTIN = "builtin"
"""Name of the model in the package."""
OUR_FILES = ["config.json", "model.safetensors"]


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
        name: ``builtin`` (or None) for the model in the package; the folder of a saved model; a
            checkpoint of AudioSep's layout, as a file or as a folder of a hub; or a hub id,
            ``owner/name`` or ``owner/name@revision``. A folder named ``builtin`` is ``./builtin``.
        revision: branch, tag or commit on the hub.

    Returns:
        A path. Nothing needs to exist there: the reader of the path tells what is missing.

    Raises:
        ModelError: the name is no path, or the hub does not have it.
        MissingExtraError: huggingface-hub is not installed.

    Example:
        >>> resolve_model("builtin").name
        'extractor'
        >>> resolve_model("run/model").as_posix()
        'run/model'
    """
    if name is None or str(name) == BUILTIN:
        return Path(str(files("singleout") / "builtin" / "extractor"))
    path = place_of(name)
    if path.exists() or not is_hub_id(str(name)):
        return path
    identifier, revision = split_revision(str(name), revision)
    folder = fetched(identifier, revision, OUR_FILES)
    if (folder / "model.safetensors").is_file():
        return folder
    # Checkpoints only where there is nothing better. The cache names a folder by its commit.
    return fetched(identifier, folder.name, [f"*.{suffix}" for suffix in CHECKPOINT_SUFFIXES])
