"""Download .deb files with apt, which checks their hashes; existing files are kept."""

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote


class RecipeError(Exception):
    """The run or a whole package cannot continue; the message names the package and the reason."""


@dataclass(frozen=True)
class Deb:
    """A downloaded package."""

    package: str
    path: Path

    @property
    def version(self) -> str:
        """Version as apt wrote it into the file name (`:` is escaped there)."""
        return unquote(self.path.stem.split("_")[1])


def last_line(text: str) -> str:
    """The last line that is not empty, which in the output of a command is the error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def find_deb(package: str, debs_dir: Path) -> Deb | None:
    """The newest file of a package in a folder."""
    paths = sorted(debs_dir.glob(f"{package}_*.deb"), key=lambda path: path.stat().st_mtime)
    return Deb(package, paths[-1]) if paths else None


def fetch_deb(package: str, debs_dir: Path) -> Deb:
    """Download a package, unless its file exists; an interrupted download leaves no file.

    Raises:
        RecipeError: apt-get is missing or fails.
    """
    if deb := find_deb(package, debs_dir):
        return deb
    debs_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=debs_dir) as partial:
        try:
            run = subprocess.run(
                ["apt-get", "download", "-q", package], cwd=partial, capture_output=True, text=True
            )
        except FileNotFoundError:
            raise RecipeError(f"{package}: apt-get is not installed") from None
        downloaded = list(Path(partial).glob("*.deb"))
        if run.returncode or not downloaded:
            raise RecipeError(
                f"{package}: apt-get download failed: {last_line(run.stderr)} "
                "(is the package list fresh? try: apt-get update)"
            )
        downloaded[0].rename(debs_dir / downloaded[0].name)
    return Deb(package, debs_dir / downloaded[0].name)
