"""Save the averaged weights of a run that still goes on, as a model of its own.

What comes out starts another run (as its ``init``, such as the one that makes the decay of a flat
schedule), is scored like any model, or is committed, with the number of steps that it has had in
the file ``step``; calibrated, it can take the place of the extractor in the package.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from singleout.config import load_config
from singleout.model import QueriedSeparator
from singleout.query import load_encoder
from singleout.train.checkpoint import FILE_NAME, restore
from singleout.train.config import TrainConfig
from singleout.train.module import TrainingModule
from singleout.train.run import calibrate, quietest_db, split_clips

STEP = "step"
"""File beside the weights."""


def snapshot(config: TrainConfig) -> tuple[QueriedSeparator, int]:
    """The model of the run's checkpoint, and how many steps it has had."""
    reference = config.model.encoder
    encoder = load_encoder(reference.name, reference.fingerprint)
    learns_at = {"quietest_db": quietest_db(config.mixtures)}
    module = TrainingModule(
        QueriedSeparator(config.model.model_copy(update=learns_at), encoder), config
    )
    restore(module, None, config.output / FILE_NAME)
    averaged = module.averaged.module.state_dict()
    module.model.separator.load_state_dict(averaged)  # type: ignore[attr-defined]
    return module.model.eval(), module.step_index


def main() -> None:
    """Write the model of a run as it stands."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--config", type=Path, default=Path("configs/v4.yaml"))
    parser.add_argument("--calibrate", action="store_true", help="its presence and its gate, too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(TrainConfig, args.config)
    model, step = snapshot(config)
    if args.calibrate:
        calibrate(model, split_clips(config)[1], config.validation)
    model.save_pretrained(args.folder)
    (args.folder / STEP).write_text(f"{step}\n")
    print(f"saved {args.folder}, of step {step:,}")


if __name__ == "__main__":
    main()
