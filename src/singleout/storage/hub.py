"""Model hubs, through ``huggingface_hub``: its cache, environment variables and revisions."""

from __future__ import annotations

import re
from pathlib import Path

from singleout.errors import MissingExtraError, ModelError, one_line, shortened

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
"""An id without its revision."""


def split_revision(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """Split ``owner/name@revision`` into its two parts; an explicit ``revision`` wins.

    Example:
        >>> split_revision("owner/name@v1")
        ('owner/name', 'v1')
        >>> split_revision("owner/name")
        ('owner/name', None)
    """
    identifier, _, suffix = name.partition("@")
    return identifier, revision or suffix or None


def is_hub_id(name: str) -> bool:
    """Whether ``name`` has the form ``owner/name`` or ``owner/name@revision``.

    Example:
        >>> is_hub_id("owner/name@v1"), is_hub_id("run/model/best")
        (True, False)
    """
    return bool(HUB_ID.fullmatch(split_revision(name)[0]))


def path_of(name: str | Path) -> Path:
    """The name of a model as a path; ``~`` is expanded. Nothing needs to exist there.

    Raises:
        ModelError: it cannot be told whether the path exists, for example because its folder may
            not be read.

    Example:
        >>> path_of("run/model").as_posix()
        'run/model'
    """
    try:
        path = Path(name).expanduser()
        path.exists()
        if "\0" in str(path):
            raise ValueError("a null character")
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: ~ of an unknown user
        raise ModelError(f"{shortened(name)}: not a path: {one_line(error)}") from None
    return path


def _require_hub(reason: str = "") -> None:
    try:
        import huggingface_hub  # noqa: F401
    except ImportError:
        raise MissingExtraError(
            f"{reason}models on a hub need huggingface-hub: pip install 'singleout[hub]'"
        ) from None


def fetched(
    identifier: str, revision: str | None, patterns: list[str], offline: bool = False
) -> Path:
    """Download files of a repository, unless the hub's cache has them.

    Args:
        identifier: ``owner/name``.
        revision: branch, tag or commit.
        patterns: of the names of the files.
        offline: look only into the cache.

    Returns:
        The folder in the cache that holds the files.

    Raises:
        MissingExtraError: huggingface-hub is not installed.
        ModelError: the repository is not in the cache, and the hub does not give it.

    Example:
        >>> fetched("someone/missing", "v1", ["*.safetensors"], offline=True)
        Traceback (most recent call last):
        singleout.errors.ModelError: someone/missing@v1: no folder of that name, not in ...
    """
    _require_hub(f"{identifier}: there is no such folder, and ")
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import (
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    shown = shortened(identifier if revision is None else f"{identifier}@{revision}")
    try:
        return Path(
            snapshot_download(
                identifier, revision=revision, allow_patterns=patterns, local_files_only=offline
            )
        )
    except LocalEntryNotFoundError as error:
        # Newer versions refuse a folder that lacks a file. The reader knows which files it needs.
        cached = getattr(error, "snapshot_path", None)
        if cached is not None:
            return Path(cached)
        raise ModelError(
            f"{shown}: no folder of that name, not in the hub's cache, and the hub cannot be "
            "reached: go online once, or give the folder of a downloaded copy"
        ) from None
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        what = "revision" if isinstance(error, RevisionNotFoundError) else "repository"
        raise ModelError(
            f"{shown}: no folder of that name, and the hub has no such {what}, or it is private: "
            "check the name, or log in with 'hf auth login'"
        ) from None
    except Exception as error:  # the errors of the HTTP client differ between versions
        raise ModelError(f"{shown}: cannot be downloaded from the hub: {one_line(error)}") from None


def upload(folder: Path, identifier: str, private: bool, card: str) -> str:
    """Upload the files of a folder to a repository of the hub.

    Args:
        folder: its files are uploaded.
        identifier: ``owner/name``; the repository is made if it does not exist.
        private: whether a new repository is private.
        card: written as README.md if the repository has none. The README of an author stays.

    Returns:
        The address of the repository.

    Raises:
        MissingExtraError: huggingface-hub is not installed.
        ModelError: the hub cannot be reached, or it refuses.

    Example:
        >>> upload(Path("run/model"), "not/a/name", private=True, card="# A model")
        Traceback (most recent call last):
        singleout.errors.ModelError: not/a/name: cannot be uploaded to the hub: ...
    """
    _require_hub()
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        address = api.create_repo(identifier, private=private, exist_ok=True)
        if not api.file_exists(identifier, "README.md"):
            (folder / "README.md").write_text(card, encoding="utf-8")
        api.upload_folder(repo_id=identifier, folder_path=folder)
    except Exception as error:  # the errors of the HTTP client differ between versions
        raise ModelError(
            f"{identifier}: cannot be uploaded to the hub: {one_line(error)}: log in with "
            "'hf auth login'"
        ) from None
    return str(address)
