"""Save the averaged weights of a run as a model, even while the run continues.

Command: ``python -m recipes.builtin.snapshot FOLDER [--config FILE] [--calibrate]``.

The model can be the ``init`` of another run, such as one that lets the learning rate of a flat
schedule fall. It can also be scored, or committed. The file ``step`` in its folder holds the number
of steps that it has been trained. With ``--calibrate``, the model can replace the extractor in the
package.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from singleout.config import load_config
from singleout.encoders import load_encoder
from singleout.model import QueriedSeparator
from singleout.train.checkpoint import FILE_NAME, restore
from singleout.train.config import TrainConfig
from singleout.train.corpus import split_clips
from singleout.train.module import TrainingModule
from singleout.train.run import calibrate, quietest_db

STEP_NAME = "step"
"""Name, in the folder of the model, of the file with the number of steps."""


def snapshot(config: TrainConfig) -> tuple[QueriedSeparator, int]:
    """The averaged model of a run's checkpoint, in evaluation mode, and its number of steps."""
    reference = config.model.encoder
    encoder = load_encoder(reference.name, reference.fingerprint)
    changes = {"quietest_db": quietest_db(config.mixtures)}
    model = QueriedSeparator(config.model.model_copy(update=changes), encoder)
    module = TrainingModule(model, config)
    restore(module, None, config.output / FILE_NAME)
    model.separator.load_state_dict(module.averaged.module.state_dict())
    return model.eval(), module.step_index


def main() -> None:
    """Save the model of a run in its present state."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path, help="of the model")
    parser.add_argument("--config", type=Path, default=Path("configs/v4.yaml"))
    parser.add_argument(
        "--calibrate", action="store_true", help="also fit its presence and its gate"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(TrainConfig, args.config)
    model, step = snapshot(config)
    if args.calibrate:
        calibrate(model, split_clips(config)[1], config.validation)
    model.save_pretrained(args.folder)
    (args.folder / STEP_NAME).write_text(f"{step}\n")
    print(f"saved {args.folder}, trained for {step:,} steps")


if __name__ == "__main__":
    main()
