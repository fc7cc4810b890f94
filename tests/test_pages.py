"""The pages keep their promises: blocks run, configs are valid, links lead somewhere."""

from __future__ import annotations

import json
import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from singleout.audio import write_wav
from singleout.cli import app
from singleout.config import validated
from singleout.data.manifest import read_manifest
from singleout.train.config import TrainConfig

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PAGES = [
    *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("*.md")),
    *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md")),
    "examples/cases/README.md",
    "src/singleout/builtin/README.md",
]
RATE = 16_000
SLOW = ("train", "evaluate", "benchmark", "corpus", "prepare", "index")
"""Commands that take minutes or a downloaded corpus: their options are checked, nothing runs."""
TOOLS = {"git", "pre-commit", "cd", "ffmpeg"}
"""Commands that are not ours."""


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def command_lines(block: str) -> list[list[str]]:
    """The commands of a console block, split into words; their output is left out."""
    joined = block.replace("\\\n", " ")
    lines = [line[2:] for line in joined.splitlines() if line.startswith("$ ")]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


COMMANDS = [
    pytest.param(words, id=f"{page}: {' '.join(words)}")
    for page in PAGES
    for block in blocks(page, "console")
    for words in command_lines(block)
]


def pages_with(language: str) -> list[str]:
    """Pages that have blocks in a language."""
    return [page for page in PAGES if blocks(page, language)]


def noise(seconds: float, seed: int) -> np.ndarray:
    """Stereo noise, float32 [2, samples]."""
    drawn = np.random.default_rng(seed).normal(0, 0.1, (2, round(seconds * RATE)))
    return drawn.astype(np.float32)


def write_media(path: Path, codec: str) -> None:
    """Write noise by FFmpeg."""
    pcm = np.rint(noise(0.5, 9) * 32_767).astype(np.int16)
    frame: Any = av.AudioFrame.from_ndarray(pcm.T.reshape(1, -1), format="s16", layout="stereo")
    frame.sample_rate, frame.pts = RATE, 0
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream(codec, rate=RATE)
        stream.layout = "stereo"
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


@pytest.fixture(scope="module")
def named_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small files of the names that the pages use."""
    folder = tmp_path_factory.mktemp("pages")
    rows = []
    for number in range(8):
        path = folder / "sounds" / f"{number}.wav"
        path.parent.mkdir(exist_ok=True)
        write_wav(path, noise(0.5, number), RATE)
        row = {
            "path": f"sounds/{path.name}",
            "seconds": 0.5,
            "caption": f"sound number {number}",
            "class": ("animal/dog", "weather/rain")[number // 4],
            "split": ("validation", "test")[number % 2],
        }
        rows.append(json.dumps(row))
    (folder / "manifest.jsonl").write_text("\n".join(rows) + "\n")
    recordings = (
        "street.wav",
        "my_dog.wav",
        "field_recordings/1.wav",
        "field/1.wav",
        "takes/1.wav",
    )
    for number, name in enumerate(recordings):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        write_wav(path, noise(0.5, number), RATE)
    write_media(folder / "holiday.mp4", "aac")
    write_media(folder / "street.mkv", "flac")
    return folder


@pytest.fixture
def street(named_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder with the files is the current one."""
    monkeypatch.chdir(named_files)


# Console


def commands_of(words: list[str]) -> Iterator[list[str]]:
    """The commands that a line connects by pipes, without the file that takes the output."""
    if ">" in words:
        words = words[: words.index(">")]
    while "|" in words:
        yield words[: words.index("|")]
        words = words[words.index("|") + 1 :]
    yield words


@pytest.mark.parametrize("words", COMMANDS)
@pytest.mark.usefixtures("street")
def test_commands_of_the_pages_are_right(words: list[str]) -> None:
    for command in commands_of(words):
        check_command(command)


def check_command(words: list[str]) -> None:
    """Run or check one command."""
    match words:
        case ["singleout", *arguments]:
            check_singleout(arguments)
        case ["make", *targets]:
            known = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert {target for target in targets if "=" not in target} <= set(known)
        case ["python" | ".venv/bin/python", *arguments]:
            check_script(arguments)
        case ["pip", "install", *arguments]:
            check_install(arguments)
        case [script] if script.endswith(".sh"):
            assert os.access(ROOT / script, os.X_OK)
        case [tool, *_]:
            assert tool in TOOLS


def check_singleout(arguments: list[str]) -> None:
    """Run a quick command; check the options of a slow one, and of one that needs a model."""
    is_slow = arguments[0] in SLOW or {"--model", "--encoder"} & set(arguments)
    if not is_slow:
        result = CliRunner().invoke(app, arguments, input=Path("street.wav").read_bytes())
        assert result.exit_code == 0, result.stderr
        return
    for argument in arguments:
        assert not argument.startswith("configs/") or (ROOT / argument).is_file(), argument
    commands: Any = get_command(app)
    command = commands.commands[arguments[0]]
    try:
        command.make_context(arguments[0], arguments[1:])  # parses the options, and runs nothing
    except Exception as error:  # of typer or of click, by their versions
        raise AssertionError(f"{arguments}: {error}") from None


def check_script(arguments: list[str]) -> None:
    """A module of the repository exists, and its source has every option."""
    if arguments[0] == "-m":
        name, options = arguments[1], arguments[2:]
        stem = ROOT / name.replace(".", "/")
        path = stem / "__main__.py" if stem.is_dir() else stem.with_suffix(".py")
        if name in ("pytest", "singleout"):
            return
    else:
        path, options = ROOT / arguments[0], arguments[1:]
    source = path.read_text(encoding="utf-8")
    for option in options:
        if option.startswith("-"):
            assert f'"{option}"' in source, f"{path}: has no option {option}"


def check_install(arguments: list[str]) -> None:
    """The extras of an installation exist."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for argument in arguments:
        if argument.startswith(".["):
            extras = set(argument[2:-1].split(","))
            assert extras <= set(project["optional-dependencies"])
        elif not argument.startswith("-"):
            assert (ROOT / argument).exists()


@pytest.mark.parametrize(
    "line",
    [
        "singleout train --no-such-option",
        "singleout no-such-command --model x",
        "singleout train configs/none.yaml",
        "make nothing",
        "ffmpeg | singleout extract - --no-such-option",
        "python -m benchmarks.nothing",
        "python -m recipes.sounds --no-such-option",
        "pip install .[nothing]",
        "unknown",
    ],
)
def test_a_wrong_command_is_noticed(line: str) -> None:
    with pytest.raises((AssertionError, KeyError, OSError)):
        test_commands_of_the_pages_are_right(shlex.split(line))


# Python, YAML, JSON


@pytest.mark.parametrize("page", pages_with("python"))
@pytest.mark.usefixtures("street")
def test_python_blocks_of_the_pages_run(page: str) -> None:
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), {})


@pytest.mark.parametrize("page", pages_with("yaml"))
def test_yaml_blocks_of_the_pages_are_configs(page: str) -> None:
    for block in blocks(page, "yaml"):
        rest = {"audio": "sounds", "output": "run", "model": {"separator": {"type": "identity"}}}
        validated(TrainConfig, merged(rest, yaml.safe_load(block)), page)


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Two levels of dictionaries as one: a page shows the part of a config that it is about."""
    both = {key: base[key] | over[key] for key in base.keys() & over.keys() if key == "model"}
    return base | over | both


@pytest.mark.parametrize("page", pages_with("json"))
def test_json_blocks_of_the_pages_are_manifests(page: str, tmp_path: Path) -> None:
    for block in blocks(page, "json"):
        manifest = tmp_path / "manifest.jsonl"
        manifest.write_text(block)
        for line in block.splitlines():
            path = tmp_path / json.loads(line)["path"]
            path.parent.mkdir(exist_ok=True)
            write_wav(path.with_suffix(".wav"), noise(0.1, 0), RATE)
            path.with_suffix(".wav").rename(path)
        assert len(read_manifest(manifest, None)) == len(block.splitlines())


# Links


def anchors(page: Path) -> Iterator[str]:
    """The anchors of the headings of a page, as hubs of source code make them."""
    for heading in re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_links_of_the_pages_lead_somewhere(page: str) -> None:
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page}: {link}"
        if anchor:
            assert anchor in set(anchors(target)), f"{page}: {link}"
