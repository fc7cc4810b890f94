"""Model hubs, through ``huggingface_hub``: its cache, its variables, its revisions."""

from __future__ import annotations

import re
from pathlib import Path

from singleout.errors import MissingExtraError, ModelError, one_line

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def split_revision(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """``owner/name@revision`` to its two parts; an explicit ``revision`` wins."""
    identifier, _, suffix = name.partition("@")
    return identifier, revision or suffix or None


def is_hub_id(name: str) -> bool:
    """Whether ``name`` has the form ``owner/name`` or ``owner/name@revision``."""
    return bool(HUB_ID.fullmatch(split_revision(name)[0]))


def place_of(name: str | Path) -> Path:
    """A model's name as a path, at which there may be something or not.

    Raises:
        ModelError: nobody can tell, such as of a folder that may not be looked into.
    """
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: of ~ and nobody's name
        raise ModelError(
            f"{str(name)[:200]}: cannot be looked for: {one_line(error)[:200]}"
        ) from None
    return path


def _require(what: str = "") -> None:
    try:
        import huggingface_hub  # noqa: F401
    except ImportError:
        raise MissingExtraError(
            f"{what}models on a hub need huggingface-hub: pip install 'singleout[hub]'"
        ) from None


def fetched(
    identifier: str, revision: str | None, patterns: list[str], offline: bool = False
) -> Path:
    """The folder, in the hub's cache, with the files of a repository that match ``patterns``.

    Args:
        identifier: ``owner/name``.
        revision: branch, tag or commit.
        patterns: of file names.
        offline: look into the cache only.

    Raises:
        MissingExtraError: huggingface-hub is not installed.
        ModelError: it is neither in the cache nor to be had from the hub.
    """
    _require(f"{identifier}: there is no such folder, and ")
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import (
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    shown = identifier if revision is None else f"{identifier}@{revision}"
    try:
        return Path(
            snapshot_download(
                identifier, revision=revision, allow_patterns=patterns, local_files_only=offline
            )
        )
    except LocalEntryNotFoundError as error:
        # Newer versions refuse a folder that lacks a file; whether it is needed, its reader knows.
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
            f"{shown}: no folder of that name, and the hub has no such {what}, or not for you: "
            "check the name; 'hf auth login' opens what is private"
        ) from None
    except Exception as error:  # those of the HTTP client, which differ between versions
        raise ModelError(f"{shown}: could not be fetched from the hub: {one_line(error)}") from None


def upload(folder: Path, identifier: str, private: bool, card: str) -> str:
    """Put a folder's files into the repository, which is made if missing; its address.

    ``card`` becomes its README.md if it has none: what an author wrote there stays.

    Raises:
        MissingExtraError: huggingface-hub is not installed.
        ModelError: the hub cannot be reached or refuses.
    """
    _require()
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        address = api.create_repo(identifier, private=private, exist_ok=True)
        if not api.file_exists(identifier, "README.md"):
            (folder / "README.md").write_text(card, encoding="utf-8")
        api.upload_folder(repo_id=identifier, folder_path=folder)
    except Exception as error:  # those of the HTTP client, which differ between versions
        raise ModelError(
            f"{identifier}: could not be put on the hub: {one_line(error)}; 'hf auth login' first"
        ) from None
    return str(address)
