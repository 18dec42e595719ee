"""Going on after a kill, exactly: the last whole checkpoint, and the order of its epoch."""

import json
from pathlib import Path

import torch
from transformers import TrainerCallback

STATE = "trainer_state.json"  # which the Trainer writes last


def last_whole(work: Path) -> Path | None:
    """The newest checkpoint in `work` that was written to its end; None where there is none."""
    found = [path for path in work.glob("checkpoint-*") if _is_whole(path)]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _is_whole(path: Path) -> bool:
    try:
        return "global_step" in json.loads((path / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


class EpochOrder(TrainerCallback):
    """A resumed epoch has the order that it began with.

    The Trainer's sampler by length draws it from torch's own random numbers at the epoch's start,
    and a checkpoint has only those of its own step: from the second epoch on, a resumed training
    saw other batches. So the state at the epoch's start is kept in the checkpoint, too.
    """

    def __init__(self, resumed: Path | None, rank: int):
        self.resumed, self.name = resumed, f"epoch_rng_{rank}.pt"

    def on_epoch_begin(self, args, state, control, **kwargs):
        file = self.resumed / self.name if self.resumed else None
        if file and file.is_file():
            torch.set_rng_state(torch.load(file, weights_only=True))
        self.resumed, self.began = None, torch.get_rng_state()

    def on_save(self, args, state, control, **kwargs):
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        torch.save(self.began, folder / self.name)
