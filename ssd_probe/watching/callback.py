"""`ForkLockCallback`: watch locks, forks and open positions in any transformers or TRL trainer."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import torch
from accelerate.utils import broadcast_object_list
from transformers import Trainer, TrainerCallback

from ssd_probe.analysis.frames import require_exact
from ssd_probe.analysis.labels import Rule, SupportRule
from ssd_probe.decoding import PAPER_TRAIN, Decoding
from ssd_probe.errors import UserError
from ssd_probe.figures.saving import save
from ssd_probe.figures.style import paper_style
from ssd_probe.files.writing import atomic_path
from ssd_probe.probing.forward import in_eval
from ssd_probe.problems.texts import Text, read_texts
from ssd_probe.watching.contexts import LOGITS, Contexts, chosen, load_logits, save_logits
from ssd_probe.watching.figure import fig_watch
from ssd_probe.watching.measuring import STATISTICS, compared, forward_of, means

TABLE = "watch.csv"
TIMED_STEPS = 3  # before the default interval is chosen
SHARE = 0.03  # of the training's time
MOST = 200  # measurements of a training at the default interval: more would show no more


class ForkLockCallback(TrainerCallback):
    """At intervals: the loss's terms, kept mass, tail, entropy and KL to the start, by kind.

        watch = ForkLockCallback("held-out.jsonl", tokenizer)
        trainer = Trainer(model, args, ..., callbacks=[watch])

    texts: what `read_texts` takes (a samples file, a benchmark's name, a list of them) or `Text`s,
    held out from training; the first `limit`, cut at `max_length` tokens. tokenizer: else the
    trainer's `processing_class`. decoding: of the training samples, whose support and target the
    statistics are of. rule: labels each scored token once, by the model at step 0; `positions` of
    each kind are watched.

    every: steps between two measurements. By default it adapts: after `TIMED_STEPS` steps, and
    after each measurement anew, so many that measuring takes `share` of the time of the steps
    between: ceil(median seconds of a measurement / (share * median seconds of a step)), and at
    least a `MOST`-th of the training. Step 0 and the last are measured besides.

    Into `out` (default: the trainer's output_dir/watch): `watch.csv`, a row a step and label, its
    columns as in `analysis.changes`, means in nats; at the end the figure `watch`. Into the
    trainer's log: `watch/LABEL/STATISTIC`. `trainer`: as of TRL's own callbacks, then reporters
    (TensorBoard ...) get the numbers too; else they are in `state.log_history` alone.

    A resumed training drops the rows behind its checkpoint and goes on: the start's logits are kept
    in `out` (positions x kinds x vocabulary, float32) until training ends. With several processes
    all run the contexts, as sharded models need, and the first measures and writes. The numbers
    that training draws are left as they are.
    Errors: `UserError` for texts without a token to watch, a decoding whose support the 64 ranks do
    not hold, and a resumed training that was not watched from its start.
    Source: paper sections 2 and 3, eq. 12 and 15.
    """

    def __init__(
        self,
        texts: str | Path | Sequence[str | Path | Text],
        tokenizer: Any = None,
        *,
        decoding: Decoding = PAPER_TRAIN,
        rule: Rule | None = None,
        every: int | None = None,
        share: float = SHARE,
        out: str | Path | None = None,
        limit: int = 24,
        max_length: int = 512,
        positions: int = 128,
        trainer: Trainer | None = None,
    ) -> None:
        if every is not None and every < 1:
            raise UserError(f"every = {every}: must be at least 1 step, or None: it adapts")
        if not 0 < share < 1:
            raise UserError(f"share = {share}: must be between 0 and 1, of the training's time")
        if decoding.is_greedy:
            raise UserError("greedy decoding has no loss terms: give one with a temperature")
        self.texts, self.tokenizer = texts, tokenizer
        self.decoding, self.rule = decoding, rule or SupportRule()
        self.every, self.share, self.out = every, share, out
        self.limit, self.max_length, self.positions = limit, max_length, positions
        self.trainer = trainer

    def on_train_begin(self, args, state, control, model=None, processing_class=None, **kwargs):
        self.folder = Path(self.out or Path(args.output_dir) / "watch")
        self.main = state.is_world_process_zero
        self.forward = forward_of(model, args.device)
        self.steps: list[float] = []
        self.costs: list[float] = []
        self.due: int | None = None
        self.rows: list[dict[str, Any]] = []
        if state.global_step:
            self._go_on(state)
        else:
            with in_eval([model]):
                self._choose(model, self.tokenizer or processing_class)
            self._measure(args, state, control, model)
        self.measured = self.measured_first = state.global_step

    def on_step_begin(self, args, state, control, **kwargs):
        self.begun = time.perf_counter()

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.steps.append(time.perf_counter() - self.begun)
        step = state.global_step
        if self.every:
            due = step % self.every == 0
        else:
            if self.due is None and step >= self.measured_first + TIMED_STEPS:
                self.due = self.measured + self._interval(state.max_steps)
            due = self.due is not None and step >= self.due
        if due:
            self._measure(args, state, control, model)
            if not self.every:
                self.due = step + self._interval(state.max_steps)

    def on_train_end(self, args, state, control, model=None, **kwargs):
        if self.measured < state.global_step:
            self._measure(args, state, control, model)
        if self.main:
            with paper_style():
                save(fig_watch(self.table), self.folder / "watch", self._caption())
            if state.global_step >= state.max_steps:
                (self.folder / LOGITS).unlink(missing_ok=True)

    @property
    def table(self) -> pd.DataFrame:
        """What was measured so far: step, label, positions, the statistics, and the seconds."""
        return pd.DataFrame(
            self.rows, columns=["step", "label", "positions", *STATISTICS, "seconds"]
        )

    def _choose(self, model: Any, tokenizer: Any) -> None:
        """The contexts and the start's logits; every process takes the first one's labels."""
        if tokenizer is None:
            raise UserError("ForkLockCallback: no tokenizer: give it one, or the trainer")
        given = [self.texts] if isinstance(self.texts, str | Path) else list(self.texts)
        texts = [text for text in given if isinstance(text, Text)]
        if sources := [text for text in given if not isinstance(text, Text)]:
            texts += read_texts(sources, self.limit)
        found = chosen(
            texts[: self.limit], tokenizer, model, self.forward, self.rule,
            self.positions, self.max_length,
        )  # fmt: skip
        self.contexts = _from_first(found)
        parts = [self.contexts.logits(self.forward, places) for places in self.contexts.batches()]
        if self.main:
            for part in parts:
                require_exact(compared(part.cpu().numpy(), part).base, self.decoding)
            self.contexts.save(self.folder)
            save_logits(parts, self.folder)

    def _go_on(self, state: Any) -> None:
        """The contexts and rows of the training that this one resumes."""
        found = Contexts.load(self.folder) if self.main else None
        self.contexts = _from_first(found)
        if self.contexts is None:
            raise UserError(
                f"{self.folder}: nothing was watched from the start, and this training goes on "
                f"from step {state.global_step}; train without watching, or anew"
            )
        if self.main and (self.folder / TABLE).is_file():
            table = pd.read_csv(self.folder / TABLE)
            table = table[table["step"] <= state.global_step]
            self.rows = table.to_dict("records")
            self.costs = table.groupby("step")["seconds"].first().tolist()

    def _interval(self, of: int) -> int:
        """Steps to the next measurement, as the first process sees it."""
        if not self.main:
            return _from_first(None)
        paid = self.share * max(median(self.steps), 1e-9)  # seconds a step
        return _from_first(max(1, of // MOST, math.ceil(median(self.costs) / paid)))

    def _measure(self, args: Any, state: Any, control: Any, model: Any) -> None:
        started = time.perf_counter()
        start = load_logits(self.folder) if self.main else None
        parts = []
        with in_eval([model]):
            for places in self.contexts.batches():
                logits = self.contexts.logits(self.forward, places)
                if start is not None:
                    parts.append(compared(start[places.start : places.stop], logits))
        self.measured = state.global_step
        if not self.main:
            return
        found = means(self.contexts, parts, self.decoding)
        seconds = time.perf_counter() - started
        self.costs.append(seconds)
        self.rows += [{"step": state.global_step, **row, "seconds": seconds} for row in found]
        with atomic_path(self.folder / TABLE) as temporary:
            self.table.to_csv(temporary, index=False)
        self._log(state, control, found)

    def _log(self, state: Any, control: Any, found: list[dict[str, Any]]) -> None:
        entry = {f"watch/{row['label']}/{name}": row[name] for row in found for name in STATISTICS}
        if self.trainer is None:
            state.log_history.append({**entry, "epoch": state.epoch, "step": state.global_step})
            return
        due = control.should_log  # which logging clears, and the trainer's own entry is to come
        Trainer.log(self.trainer, entry)  # not TRL's: it would take in the means of its own entry
        control.should_log = due

    def _caption(self) -> str:
        counts = self.table.groupby("label")["positions"].first()
        kinds = ", ".join(f"{count} {label}" for label, count in counts.items())
        return (
            f"The training as it went, on held-out contexts: {kinds} positions, labelled once by "
            f"the model at step 0. Support and target are the start's at {self.decoding}."
        )


def _from_first(value: Any) -> Any:
    """The first process's value, in all of them."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    return broadcast_object_list([value])[0]
