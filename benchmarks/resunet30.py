"""Compare our ``ResUNet30`` with the code of AudioSep: output, speed and memory.

Our network only: ``python benchmarks/resunet30.py``. For the comparison, check out
github.com/Audio-AGI/AudioSep (MIT-licensed, not part of this repository), ``pip install
torchlibrosa``, and add ``--theirs PATH_OF_THE_CHECKOUT``.

Both networks have the same random weights and norm statistics, and the same noise as input. Runs
alternate, and times are medians. Peak memory is measured in a new process that loads the model and
runs it once, without the memory of the process before.

``--theirs`` also checks equality of both variants at lengths that are difficult for the STFT. With
``--golden`` it only writes their output for ``tests/separators/test_resunet30.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from singleout.condition import Condition
from singleout.separators import ResUNet30, ResUNet30Config

Forward = Callable[[Tensor, Tensor], Tensor]
SYSTEMS = ("ours float32", "ours bfloat16", "theirs float32", "theirs bfloat16")
VARIANTS = {32_000: (2_048, 320), 16_000: (1_024, 160)}
LENGTHS = (1_025, 5_000, 31_999, 32_000, 96_017, 160_000)


def randomise(module: torch.nn.Module, seed: int) -> None:
    """Give norms statistics and weights like those of a trained network, and small query terms."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor: Tensor | None, low: float, high: float) -> None:
        assert tensor is not None
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                uniform(layer.running_mean, -0.5, 0.5)
                uniform(layer.running_var, 0.5, 2.0)
                uniform(layer.weight, 0.5, 1.5)
                uniform(layer.bias, -0.3, 0.3)
            elif isinstance(layer, torch.nn.Linear):
                uniform(layer.bias, -0.1, 0.1)


def theirs(checkpoint: Path, rate: int, dtype: torch.dtype) -> Forward:
    """The network of AudioSep, from a checkout on ``sys.path``."""
    from models import resunet  # type: ignore[import-not-found]

    num_fft, hop = VARIANTS[rate]
    if rate != 32_000:  # the file of the DCASE baseline differs only in these numbers
        source = Path(resunet.__file__).read_text()
        source = source.replace("window_size = 2048", f"window_size = {num_fft}")
        source = source.replace("hop_size = 320", f"hop_size = {hop}")
        exec(compile(source, resunet.__file__, "exec"), resunet.__dict__)
    model = resunet.ResUNet30(1, 1, 512).eval()
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    state = {name.removeprefix("ss_model."): tensor for name, tensor in state.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all("stft" in name for name in missing), missing
    if dtype == torch.bfloat16:  # users can do this in one line
        model.base.to(memory_format=torch.channels_last)

    def forward(mixture: Tensor, embedding: Tensor) -> Tensor:
        inputs = {"mixture": mixture, "condition": embedding}
        with torch.inference_mode(), torch.autocast("cpu", enabled=dtype == torch.bfloat16):
            return model(inputs)["waveform"].float()  # type: ignore[no-any-return]

    return forward


def ours(checkpoint: Path, precision: str) -> Forward:
    """The network of this package, from the same file."""
    model = ResUNet30.from_checkpoint(checkpoint, precision)  # type: ignore[arg-type]

    def forward(mixture: Tensor, embedding: Tensor) -> Tensor:
        with torch.inference_mode():
            target: Tensor = model(mixture, Condition.single(embedding))
            return target

    return forward


def load(system: str, checkpoint: Path, rate: int) -> Forward:
    """Load one of ``SYSTEMS``."""
    name, precision = system.split()
    if name == "ours":
        return ours(checkpoint, precision)
    return theirs(checkpoint, rate, getattr(torch, precision))


def save_checkpoint(rate: int, path: Path, seed: int) -> None:
    """Write random weights as a Lightning checkpoint in the layout of AudioSep."""
    torch.manual_seed(seed)
    model = ResUNet30Config(
        sample_rate=rate,
        num_fft=VARIANTS[rate][0],
        hop=VARIANTS[rate][1],
        inference_precision="float32",
    ).build(512)
    randomise(model, seed)
    state = {f"ss_model.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": state}, path)


def inputs(num_samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """A mixture of noise at -20 dB and a unit embedding."""
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(1, 512, generator=generator)
    mixture = torch.randn(1, 1, num_samples, generator=generator) * 0.1
    return mixture, torch.nn.functional.normalize(embedding, dim=-1)


def agreement_db(estimate: Tensor, reference: Tensor) -> float:
    """Power of the reference relative to that of the difference, in dB."""
    error = (estimate - reference).square().mean()
    return float(10 * (reference.square().mean() / error.clamp_min(1e-20)).log10())


def peak_mebibytes(arguments: list[str]) -> float:
    """Peak memory of this script in a new process."""
    command = [sys.executable, "-W", "ignore", __file__, *arguments]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(out.splitlines()[-1])


def measure_memory(system: str, checkpoint: Path, seconds: float) -> None:
    """Print the peak memory of this process beyond that of the libraries, in MiB."""
    if system.startswith("theirs"):
        from models import resunet  # noqa: F401
    torch.nn.functional.conv2d(torch.zeros(1, 1, 9, 9), torch.zeros(1, 1, 3, 3))
    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    load(system, checkpoint, 32_000)(*inputs(round(seconds * 32_000), 1))
    # getrusage would count the peak of the parent process, too.
    status = Path("/proc/self/status").read_text()
    peak = 1024 * int(next(x for x in status.splitlines() if x.startswith("VmHWM")).split()[1])
    print((peak - before) / 2**20)


def compare(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Speed, memory and agreement of the systems, for the file of results."""
    checkpoint = folder / "32k.ckpt"
    save_checkpoint(32_000, checkpoint, args.seed)
    systems = [s for s in SYSTEMS if args.theirs or s.startswith("ours")]
    forwards = {name: load(name, checkpoint, 32_000) for name in systems}
    mixture, embedding = inputs(round(args.seconds * 32_000), args.seed)
    outputs = {name: forward(mixture, embedding) for name, forward in forwards.items()}
    times: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(args.runs):
        for name, forward in forwards.items():
            started = time.perf_counter()
            forward(mixture, embedding)
            times[name].append(time.perf_counter() - started)
    reference = "theirs float32" if args.theirs else "ours float32"
    base = statistics.median(times[reference])
    rows = []
    for name in systems:
        arguments = ["--memory", name, "--checkpoint", str(checkpoint)]
        arguments += ["--seconds", str(args.seconds), "--threads", str(args.threads)]
        arguments += ["--theirs", str(args.theirs)] if args.theirs else []
        median = statistics.median(times[name])
        rows.append(
            {
                "system": name,
                "median_seconds": median,
                "all_seconds": times[name],
                "real_time_factor": median / args.seconds,
                "speed_ratio": base / median,
                "max_abs_difference": float((outputs[name] - outputs[reference]).abs().max()),
                "agreement_db": agreement_db(outputs[name], outputs[reference]),
                "peak_memory_mib": peak_mebibytes(arguments),
            }
        )
    result: dict[str, Any] = {"reference": reference, "speed": rows}
    if args.theirs:
        result["equality"] = equality(folder, args.seed)
    return result


def equality(folder: Path, seed: int) -> list[dict[str, Any]]:
    """Largest difference of the outputs in float32, for both variants and every length."""
    rows = []
    for rate in VARIANTS:
        checkpoint = folder / f"{rate}.ckpt"
        save_checkpoint(rate, checkpoint, seed)
        one, other = ours(checkpoint, "float32"), theirs(checkpoint, rate, torch.float32)
        for length in LENGTHS:
            mixture, embedding = inputs(length, seed)
            difference = (one(mixture, embedding) - other(mixture, embedding)).abs().max()
            rows.append(
                {"rate": rate, "num_samples": length, "max_abs_difference": float(difference)}
            )
    return rows


def write_golden(path: Path, seed: int) -> None:
    """Write the output of AudioSep's network for 0.15 s, for both variants."""
    golden: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for rate in VARIANTS:
            checkpoint = Path(folder) / f"{rate}.ckpt"
            save_checkpoint(rate, checkpoint, seed)
            output = theirs(checkpoint, rate, torch.float32)(*inputs(4_801, seed))
            golden[str(rate)] = output.numpy().ravel()
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(path, **golden)


def main() -> None:
    """Measure, print and write ``results/resunet30.json``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--theirs", type=Path, help="a checkout of AudioSep")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("results/resunet30.json"))
    parser.add_argument("--golden", type=Path)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    parser.add_argument("--checkpoint", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.theirs:
        sys.path.insert(0, str(args.theirs))
    if args.memory:
        measure_memory(args.memory, args.checkpoint, args.seconds)
        return
    if args.golden:
        write_golden(args.golden, args.seed)
        return
    with tempfile.TemporaryDirectory() as folder:
        result = compare(args, Path(folder))
    meta = {
        "command": f"python benchmarks/resunet30.py --runs {args.runs} --seconds {args.seconds:g}"
        + (" --theirs AudioSep" if args.theirs else ""),
        "machine": f"{platform.machine()}, {args.threads} threads",
        "torch": torch.__version__,
        "seed": args.seed,
    }
    args.output.parent.mkdir(exist_ok=True)
    args.output.write_text(json.dumps({"meta": meta, **result}, indent=2) + "\n")
    for row in result["speed"]:
        print(
            f"{row['system']:16} {row['median_seconds']:7.3f} s  {row['speed_ratio']:5.2f}x  "
            f"{row['agreement_db']:6.1f} dB  {row['peak_memory_mib']:7.0f} MiB"
        )
    for row in result.get("equality", []):
        print(f"{row['rate']} Hz, {row['num_samples']} samples: {row['max_abs_difference']:.1e}")


if __name__ == "__main__":
    main()
