"""The whole recipe, on small packages."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile

from recipes.sounds import build, manifest, unpack
from recipes.sounds.__main__ import main
from recipes.sounds.fetch import RecipeError, fetch_deb
from tests.recipes.sounds.archives import make_deb, make_zip, noise, wav_bytes

pytestmark = pytest.mark.slow

COLUMNS = (
    "package,source_path,caption,alternatives,class,license,redistributable,loopable,group,"
    "seconds,rate_hz,bandwidth_hz,speech_share,rms_dbfs"
)


def small_recipe(folder: Path) -> build.Recipe:
    """Two packages: one of train, one of test which shares a sound with it; and one without
    captions, which shares a sound with each."""
    recipe_dir = folder / "recipe"
    recipe_dir.mkdir()
    rows = [
        "game,usr/share/a.wav,a duck,duck|quack,animal/duck,CC0-1.0,1,0,g1,1,44100,9000,0,-20",
        "game,archive/sound/b.wav,a saw,saw,tool/saw,GPL-2,0,1,g2,1,44100,9000,0,-20",
        "game,usr/share/gone.wav,a cat,cat,animal/cat,GPL-2,0,0,g3,1,44100,9000,0,-20",
        "game,usr/share/bad.wav,a cow,cow,animal/cow,GPL-2,0,0,g4,1,44100,9000,0,-20",
        "held,usr/share/c.wav,a duck,duck,animal/duck,GPL-2,0,0,g5,1,44100,9000,0,-20",
    ]
    (recipe_dir / "captions.csv").write_text("\n".join([COLUMNS, *rows]) + "\n")
    (recipe_dir / "gm_programs.csv").write_text("kind,program,notes\n")
    (recipe_dir / "splits.json").write_text('{"test": ["held"], "validation": []}')
    facts = {"download_bytes": 1, "version": "1"}
    tiers = {"game": "core", "held": "full", "wild": "uncaptioned"}
    packages = {name: {"tier": tier, **facts} for name, tier in tiers.items()}
    (recipe_dir / "packages.json").write_text(json.dumps(packages))
    same = {"groups": [["g5", "game/usr/share/recoded.wav"]]}
    (recipe_dir / "same_recordings.json").write_text(json.dumps(same))
    output_dir = folder / "sounds"
    output_dir.mkdir()
    game = {
        "usr/share/a.wav": wav_bytes(noise(1.0, seed=1)),
        "usr/share/data.pk3": make_zip({"sound/b.wav": wav_bytes(noise(12.0, seed=2))}),
        "usr/share/bad.wav": b"not audio",
        "usr/share/other.wav": wav_bytes(noise(1.0, seed=3)),
        "usr/share/leak.wav": wav_bytes(noise(1.0, seed=4)),
        "usr/share/recoded.wav": wav_bytes(0.9 * noise(1.0, seed=4)),
    }
    make_deb(output_dir, "game", game)
    make_deb(output_dir, "held", {"usr/share/c.wav": wav_bytes(noise(1.0, seed=4))})
    wild = {f"usr/share/{seed}.wav": wav_bytes(noise(1.0, seed=seed)) for seed in (1, 4, 5)}
    make_deb(output_dir, "wild", wild)
    return build.Recipe(output_dir, recipe_dir)


def read_lines(path: Path) -> list[manifest.Entry]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_from_packages_to_manifests(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    assert recipe.packages("full") == ["game", "held"]
    packages = recipe.packages("full", uncaptioned=True)
    results = dict(build.build_all(recipe, packages, unlabelled=True, jobs=2))
    assert results == {"game": None, "held": None, "wild": None}
    report = build.write_manifests(recipe, {}, unlabelled=True)
    entries = read_lines(recipe.output_dir / "manifest.jsonl")
    assert [(one["class"], one["split"]) for one in entries] == [
        ("tool/saw", "train"),
        ("animal/duck", "train"),
        ("animal/duck", "test"),
    ]
    permissive = read_lines(recipe.output_dir / "permissive.jsonl")
    assert [one["license"] for one in permissive] == ["CC0-1.0", "GPL-2"]
    assert [one["split"] for one in permissive] == ["train", "test"]
    duck = entries[1]
    samples, rate_hz = soundfile.read(recipe.output_dir / duck["path"])
    assert rate_hz == duck["sample_rate"] == 32_000
    assert samples.shape == (round(duck["seconds"] * rate_hz),)
    assert duck["origin"] == {
        "package": "game",
        "version": "1:2.0-1",
        "source_path": "usr/share/a.wav",
        "segment": 0,
    }
    assert (duck["alternatives"], duck["redistributable"]) == (["duck", "quack"], True)
    assert report["captioned"]["not_found"] == {"game": ["usr/share/gone.wav"]}
    assert report["captioned"]["not_decodable"] == {"game": ["usr/share/bad.wav"]}
    others = read_lines(recipe.output_dir / "unlabelled.jsonl")
    # Of the packages without captions, only what no captioned package has.
    assert [one["origin"]["source_path"] for one in others] == [
        "usr/share/other.wav",
        "usr/share/5.wav",
    ]
    assert others[0]["caption"] is others[0]["class"] is None


def test_a_run_killed_half_way_is_resumed(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    build.build_package(recipe, "held")
    held_wav = next((recipe.output_dir / "audio/held").glob("*.wav"))
    written_at = held_wav.stat().st_mtime_ns
    captions = recipe.recipe_dir / "captions.csv"
    row = "game,usr/share/many{0}.wav,rain,rain,nature/rain,GPL-2,0,0,m{0},1,44100,9000,0,-20\n"
    captions.write_text(captions.read_text() + "".join(row.format(i) for i in range(50)))
    many = {f"usr/share/many{i}.wav": wav_bytes(noise(20.0, seed=100 + i)) for i in range(50)}
    shutil.rmtree(tmp_path / "sounds/root-game/DEBIAN")
    make_deb(recipe.output_dir, "game", many)
    recipe = build.Recipe(recipe.output_dir, recipe.recipe_dir)

    code = "import sys; from pathlib import Path; from recipes.sounds import build\n"
    code += "build.build_package(build.Recipe(*map(Path, sys.argv[1:])), 'game')"
    command = [sys.executable, "-c", code, str(recipe.output_dir), str(recipe.recipe_dir)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[3]) as process:
        while process.poll() is None and not list(recipe.output_dir.glob("audio/game/*.wav")):
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    for path in recipe.output_dir.glob("audio/game/*.wav"):
        assert soundfile.info(path).frames > 0
    assert list(recipe.output_dir.glob(".scratch-*"))
    assert not recipe.is_done("game", unlabelled=False)
    assert recipe.is_done("held", unlabelled=False)

    with build.locked(recipe.output_dir):
        assert [path.name for path in recipe.output_dir.rglob(".*")] == [".lock"]
        for package in ("game", "held"):
            build.build_package(recipe, package)
        build.write_manifests(recipe, {}, unlabelled=False)
    assert len(read_lines(recipe.output_dir / "manifest.jsonl")) == 50 * 2 + 3
    assert held_wav.stat().st_mtime_ns == written_at


def test_a_package_is_made_again_when_its_captions_change(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    build.build_package(recipe, "held")
    captions = recipe.recipe_dir / "captions.csv"
    captions.write_text(
        captions.read_text().replace("held,usr/share/c.wav,a duck", "held,usr/share/c.wav,a goose")
    )
    assert not build.Recipe(recipe.output_dir, recipe.recipe_dir).is_done("held", False)


def test_a_missing_or_broken_package_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"^gone: no such file: "):
        unpack.unpack_audio(tmp_path / "gone_1_all.deb", tmp_path)
    deb_path = make_deb(tmp_path, "game", {"usr/share/a.wav": wav_bytes(noise(5.0))})
    deb_path.write_bytes(deb_path.read_bytes()[:100_000])
    with pytest.raises(RecipeError, match=r"^game: cannot read game_\S+.deb: .+") as caught:
        unpack.unpack_audio(deb_path, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_failing_download_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    (tmp_path / "apt.conf").write_text(
        f'Dir::State::lists "{tmp_path}";\nDir::Cache "{tmp_path}";\n'
    )
    with pytest.raises(RecipeError, match=r"^no-such-package: .*apt-get update"):
        fetch_deb("no-such-package", tmp_path / "debs")
    assert not list((tmp_path / "debs").iterdir())


def test_two_runs_into_one_folder_do_not_mix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with build.locked(tmp_path):
        assert main(["--output", str(tmp_path), "--packages", "acm"]) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path}: another run works in this folder: wait for it, or end it\n"
    )


def test_an_unknown_package_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output", str(tmp_path), "--packages", "nonesuch"]) == 2
    assert capsys.readouterr().err == "error: no such package in the recipe: nonesuch\n"
