"""Phrases for General MIDI programs, written as MIDI files and rendered with fluidsynth."""

import csv
import hashlib
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from recipes.sounds.fetch import RecipeError, last_line

PHRASES_PER_PROGRAM = 3
TICKS_PER_SECOND = 960  # 480 per quarter note at the default 120 quarter notes a minute
DRUM_CHANNEL = 9
RELEASE_SECONDS = 0.7
MAX_SECONDS = 4.0
FADE_SECONDS = 0.05
RENDER_RATE_HZ = 44_100
MAJOR = (0, 2, 4, 5, 7, 9, 11, 12)
MINOR = (0, 2, 3, 5, 7, 8, 10, 12)


@dataclass(frozen=True)
class Program:
    """A row of gm_programs.csv."""

    kind: str  # melodic, effect or drum
    program: int
    notes: tuple[int, ...]
    polyphonic: bool
    caption: str
    alternatives: tuple[str, ...]
    sound_class: str

    @property
    def name(self) -> str:
        """Stands for a path in the package, as these sounds are not files of it."""
        number = f"{self.program:03d}" if self.kind != "drum" else "-".join(map(str, self.notes))
        return f"{self.kind}/{number}"


@dataclass(frozen=True)
class Note:
    """A key held from `start_s` for `length_s`."""

    start_s: float
    length_s: float
    key: int
    velocity: int


def read_programs(path: Path) -> list[Program]:
    """Programs to render."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Program(
                row["kind"],
                int(row["program"]),
                tuple(map(int, row["notes"].split())),
                row["polyphonic"] == "1",
                row["caption"],
                tuple(row["alternatives"].split("|")),
                row["class"],
            )
            for row in csv.DictReader(file)
        ]


def random_for(program: Program, phrase: int) -> np.random.Generator:
    """Generator of its own for each phrase, so that none depends on what was rendered before."""
    digest = hashlib.sha256(f"{program.name}/{phrase}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def compose(program: Program, phrase: int) -> list[Note]:
    """Notes of a phrase of 2 to 4 s (with its release); the phrases of a program differ in kind."""
    random = random_for(program, phrase)
    total_s = float(random.uniform(1.6, 3.2))
    if program.kind == "effect":  # held, as most are textures; each phrase at another pitch
        return [Note(0.0, total_s, program.notes[phrase], int(random.integers(80, 120)))]
    if program.kind == "drum":
        return _compose_drum(program, phrase, total_s, random)
    return _compose_melody(program, phrase, total_s, random)


def _compose_drum(
    program: Program, phrase: int, total_s: float, random: np.random.Generator
) -> list[Note]:
    """A steady beat, a looser one, or a few hits that ring."""
    hits = (int(random.integers(6, 11)), int(random.integers(4, 8)), int(random.integers(2, 5)))
    step_s = total_s / hits[phrase]
    notes = []
    for hit in range(hits[phrase]):
        late_s = float(random.uniform(0, 0.35)) * step_s if phrase == 1 and hit else 0.0
        key = program.notes[int(random.integers(len(program.notes)))]
        velocity = int(random.integers(60, 121))
        notes.append(Note(hit * step_s + late_s, step_s * 0.6, key, velocity))
    return notes


def _compose_melody(
    program: Program, phrase: int, total_s: float, random: np.random.Generator
) -> list[Note]:
    """A tune in steps, a slower one in leaps, and a few long notes or chords."""
    root = program.notes[0] + int(random.integers(-4, 5)) + (0, 5, -3)[phrase]
    scale = MAJOR if random.random() < 0.6 else MINOR
    count = (int(random.integers(5, 9)), int(random.integers(3, 5)), int(random.integers(2, 4)))
    weights = random.uniform(0.6, 1.6, count[phrase])
    lengths_s = total_s * weights / weights.sum()
    legato = float(random.uniform(0.7, 1.0))
    degree = int(random.integers(0, 5))
    start_s = 0.0
    notes = []
    for length_s in lengths_s:
        leap = (2, 4, 3)[phrase]
        degree = int(np.clip(degree + random.integers(-leap, leap + 1), 0, len(scale) - 1))
        velocity = int(random.integers(62, 116))
        chord = (0, 2, 4) if program.polyphonic and phrase == 2 else (0,)
        for voice in chord:
            octave, step = divmod(degree + voice, len(scale) - 1)
            key = root + 12 * octave + scale[step]
            notes.append(Note(start_s, float(length_s) * legato, key, velocity))
        start_s += float(length_s)
    return notes


def variable_length(value: int) -> bytes:
    """MIDI's number of 7 bits a byte, high bit set on all but the last."""
    encoded = bytearray([value & 0x7F])
    while value := value >> 7:
        encoded.insert(0, 0x80 | value & 0x7F)
    return bytes(encoded)


def midi_file(program: Program, notes: list[Note]) -> bytes:
    """A MIDI file of one track, which ends after the release of the last note."""
    channel = DRUM_CHANNEL if program.kind == "drum" else 0
    events = [(0, 0, bytes([0xC0 | channel, program.program]))]
    for note in notes:
        on, off = (
            round(at_s * TICKS_PER_SECOND) for at_s in (note.start_s, note.start_s + note.length_s)
        )
        key = min(127, max(0, note.key))
        events.append((on, 2, bytes([0x90 | channel, key, note.velocity])))
        events.append((off, 1, bytes([0x80 | channel, key, 0])))  # before a repeated key
    end = max(tick for tick, _, _ in events) + round(RELEASE_SECONDS * TICKS_PER_SECOND)
    events.append((end, 3, b"\xff\x2f\x00"))
    track = bytearray()
    now = 0
    for tick, _, message in sorted(events):
        track += variable_length(tick - now) + message
        now = tick
    header = struct.pack(">4sIHHH", b"MThd", 6, 0, 1, TICKS_PER_SECOND // 2)
    return header + struct.pack(">4sI", b"MTrk", len(track)) + bytes(track)


def render(midi: bytes, soundfont: Path, scratch_dir: Path) -> Path:
    """Render a MIDI file to float WAV without reverb and chorus, faded where it is cut."""
    midi_path, wav_path = scratch_dir / "phrase.mid", scratch_dir / "phrase.wav"
    midi_path.write_bytes(midi)
    command = ["fluidsynth", "-n", "-i", "-q", "-R", "0", "-C", "0", "-g", "0.4"]
    command += ["-r", str(RENDER_RATE_HZ), "-o", "synth.dynamic-sample-loading=1"]
    command += ["-T", "wav", "-O", "float", "-F", str(wav_path), str(soundfont), str(midi_path)]
    try:
        run = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise RecipeError("fluidsynth is not installed (try: apt-get install fluidsynth)") from None
    if run.returncode or not wav_path.is_file():
        raise RecipeError(f"fluidsynth failed: {last_line(run.stderr)}")
    samples, rate_hz = soundfile.read(wav_path, dtype="float32", always_2d=True)
    samples = samples[: round(MAX_SECONDS * rate_hz)]
    fade = np.linspace(1, 0, round(FADE_SECONDS * rate_hz), dtype=np.float32)[-len(samples) :]
    samples[len(samples) - len(fade) :] *= fade[:, None]
    soundfile.write(wav_path, samples, rate_hz, subtype="FLOAT")
    return wav_path


def render_all(
    programs: list[Program], soundfont: Path, scratch_dir: Path
) -> Iterator[tuple[Program, int, Path]]:
    """Every phrase of every program; the file is overwritten by the next."""
    for program in programs:
        for phrase in range(PHRASES_PER_PROGRAM):
            midi = midi_file(program, compose(program, phrase))
            yield program, phrase, render(midi, soundfont, scratch_dir)
