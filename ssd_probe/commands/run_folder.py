"""What the folder of a run of the loop holds, and where."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pandas as pd

from ssd_probe.analysis.passk import pass_curves
from ssd_probe.commands.grid import Grid, Trained
from ssd_probe.commands.loop.declaration import BASE, MAIN, PROGRAMS, Loop, Trial
from ssd_probe.commands.loop.reading import loop_of
from ssd_probe.commands.sampling.certificates import known_of, matched
from ssd_probe.commands.sweep import Cell, cells_of, verdicts
from ssd_probe.core.config import BY_LENGTH
from ssd_probe.decoding import LABELLING, Decoding, Policy
from ssd_probe.engines.choice import engine_of, serve_all
from ssd_probe.errors import UserError
from ssd_probe.files.reading import read_jsonl
from ssd_probe.files.record import read_object, read_record
from ssd_probe.models.checkpoints import load_tokenizer
from ssd_probe.models.identity import Checkpoint
from ssd_probe.policies.parsing import own_decoding, policy_of
from ssd_probe.probing.config import ProbeConfig
from ssd_probe.probing.table import Probe
from ssd_probe.tiny import domain
from ssd_probe.tiny.truth import true_labels

CHOICE = "choice.json"  # the main arm and each model's T_eval, before the test problems are touched
TINY = "tiny:"  # texts whose true forks and locks are known


class Training(NamedTuple):
    """What a student was trained on."""

    used: int  # samples
    of: int  # drawn
    cut: int  # left out because of their length
    steps: int


@dataclass(frozen=True)
class RunFolder:
    """A run's folder and what it was declared to be."""

    out: Path
    loop: Loop

    @classmethod
    def load(cls, out: Path) -> "RunFolder":
        """Of a folder as it lies. Raises UserError if it is not a run of the loop."""
        record = out / "run.json"
        if not record.is_file():
            raise UserError(f"{out}: not a run (no run.json); make one with `ssd-probe run`")
        settings = read_record(record)["settings"]
        try:
            return cls(out, loop_of(settings["loop"]))
        except (KeyError, TypeError, UserError):
            raise UserError(
                f"{out}: not a run of `ssd-probe run` or `demo` (run.json does not declare a "
                "loop); for probes use `compare --out`, for a sweep `figures --sweep`"
            ) from None

    def samples(self, student: str) -> Path:
        """What a student was trained on."""
        return self.out / "samples" / f"{student}.jsonl"

    def checkpoint(self, model: str) -> str:
        """What to load for `base`, a decode-only rival of it, or a student."""
        of_base = {BASE, *(rival.name for rival in self.loop.rivals)}
        return self.loop.model if model in of_base else str(self.out / "checkpoints" / model)

    def training(self, student: str) -> Training | None:
        """As its record says; None where there is none, or one of an older version."""
        record = self.out / "checkpoints" / student / "run.json"
        content = read_record(record) if record.is_file() else {}
        planned = content.get("planned", {}).get("steps")
        if planned is None or "used" not in content:
            return None
        cut = content.get("dropped", {}).get(BY_LENGTH, 0)
        return Training(content["used"], content["of"], cut, planned)

    def trial_folder(self, split: str) -> Path:
        """The sweep's folder of the dev or the test problems."""
        return self.out / "evaluations" / split

    def grid(
        self,
        trial: Trial,
        models: dict[str, Decoding | None],
        at: Mapping[str, Sequence[Decoding]] = MappingProxyType({}),
        rivals: Mapping[str, str] = MappingProxyType({}),
    ) -> Grid:
        """The sweep of `models` (name -> training decoding), some `at` decodings of their own.

        rivals: name -> policy, of those among the models that are none.
        """
        loop = self.loop
        return Grid(
            tuple(Trained(name, self.checkpoint(name), trained, tuple(at.get(name, ())),
                          rivals.get(name))
                  for name, trained in models.items()),
            loop.eval_decodings,
            trial.problems,
            n=trial.n,
            k=trial.ks,
            max_new_tokens=loop.max_new_tokens,
            batch_size=loop.batch_size,
            seed=loop.seed,
            limit=trial.limit,
            timeout=loop.timeout,
            workers=loop.workers,
            style=loop.style,
            engine=loop.engine,
            engine_args=loop.engine_args,
        )  # fmt: skip

    def first_models(self) -> dict[str, Decoding | None]:
        """The base and the first seed's students, with what these were trained at."""
        return {BASE: None, **{arm.name: arm.decoding for arm in self.loop.arms}}

    def rivals(self, main: str) -> dict[str, str]:
        """The policies of the decode-only rivals by name, beside this main arm."""
        return {rival.name: rival.beside(self.loop.arm(main)) for rival in self.loop.rivals}

    def drawn_from_base(self) -> tuple[Policy, ...]:
        """All that the base may be drawn by, each once; a rival beside every arm that may be main.

        Which decodings dev chooses is not known before.
        """
        at = self.loop.eval_decodings
        rivals = [
            policy_of(text, own_decoding(text, each))
            for arm in self.loop.candidates
            for text in self.rivals(arm.name).values()
            for each in at
        ]
        return tuple(dict.fromkeys([*self.loop.base_decodings, *rivals]))

    def certificates(self) -> dict[Policy, str]:
        """The declared ones by what they are of, right as far as no engine need be at work.

        Errors: as of `matched`.
        """
        loop = self.loop
        if not loop.certificates:
            return {}
        checkpoint, choice = Checkpoint(loop.model), serve_all(loop.engine, loop.engine_args)
        wanted = known_of(checkpoint, engine_of(choice, checkpoint, loop.batch_size))
        return matched(loop.certificates, loop.model, self.drawn_from_base(), wanted)

    def dev_grid(self, main: str | None = None) -> Grid:
        """The dev sweep; the rivals of the main arm are in it when that is known."""
        assert self.loop.dev is not None
        rivals = {} if main is None else self.rivals(main)
        at = {
            name: [own_decoding(policy, d) for d in self.loop.eval_decodings]
            for name, policy in rivals.items()
        }
        models = {**self.first_models(), **dict.fromkeys(rivals)}
        return self.grid(self.loop.dev, models, at, rivals)

    def dev_cells(self, main: str | None = None) -> list[Cell]:
        """Of the dev sweep, see `dev_grid`; none where there is nothing to choose."""
        if self.loop.dev is None:
            return []
        return cells_of(self.dev_grid(main), self.trial_folder("dev"))

    def choice(self) -> dict:
        """What was chosen on dev. Raises UserError if the run did not come so far."""
        if not (self.out / CHOICE).is_file():
            raise UserError(f"{self.out}: stopped before its main arm was chosen; run it again")
        return read_object(self.out / CHOICE)

    def probe(self, model: str, text: str) -> Path:
        """The probe of a model on a text."""
        return self.out / "probes" / self.loop.probe_name(model, text)

    def programs(self, text: str) -> Path:
        """The noise-free programs that stand for a text of the bundled domain, "tiny:SPLIT"."""
        return programs_file(self.out, text.removeprefix(TINY))


@contextmanager
def as_written(where: Path) -> Iterator[None]:
    """`UserError` naming `where` if its JSON lacks something, or holds another kind of value."""
    try:
        yield
    except UserError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        what = str(error)[:100]
        what = f"no {what}" if isinstance(error, LookupError) else what
        raise UserError(
            f"{where}: damaged, or of another version ({what}); make it again"
        ) from error


def dev_curves(folder: RunFolder) -> pd.DataFrame | None:
    """pass@k against T_eval, from whatever part of the dev sweep has been evaluated."""
    main = folder.choice()["main"] if (folder.out / CHOICE).is_file() else None
    done = [cell for cell in folder.dev_cells(main) if cell.evaluation.exists()]
    if not done or folder.loop.dev is None:
        return None
    return pass_curves(pd.concat(map(verdicts, done)), ks=folder.loop.dev.ks, by=None)


def probed_models(folder: RunFolder, main: str) -> list[str]:
    """The models to probe, `main` by its arm's name; each once."""
    return list(dict.fromkeys(main if name == MAIN else name for name in folder.loop.probed))


def compared_at(folder: RunFolder, name: str, main: str) -> Decoding:
    """What a student is compared by: its training decoding where a probe's ranks can tell that.

    Else, as of controls, the main arm's; else that with the truncation of the tests.
    """
    loop, ranks = folder.loop, ProbeConfig.top_k
    for arm in (name, main):
        decoding = loop.arm(arm).decoding
        if decoding is not None and 0 < decoding.top_k <= ranks:
            return decoding
    trained = loop.arm(main).decoding
    assert trained is not None  # the main arm is no control
    top_k = loop.top_k_eval if 0 < loop.top_k_eval <= ranks else LABELLING.top_k
    return Decoding(trained.temperature, top_k, loop.top_p_eval)


def text_words(folder: RunFolder, text: str) -> str:
    """What a text is, for captions."""
    if text.startswith(TINY):
        split = text.removeprefix(TINY)
        return f"{len(read_jsonl(folder.programs(text)))} noise-free {split} programs"
    if text in {BASE, MAIN, *(arm.name for arm in folder.loop.arms)}:
        name = folder.choice()["main"] if text == MAIN else text
        return f"{name}'s answers to {folder.loop.test.problems}"
    return text


def programs_file(run: Path, split: str) -> Path:
    """Of a run: those of a split of the bundled domain."""
    name = PROGRAMS if split == "test" else f"{PROGRAMS}-{split}"
    return run / "samples" / f"{name}.jsonl"


def labelled_probe(run: Path, name: str, split: str = "test") -> pd.DataFrame:
    """A probe of a tiny run with the column `truth`: the domain's true fork and lock labels."""
    frame = Probe.load(run / "probes" / name).frame
    rows = read_jsonl(programs_file(run, split))
    known = {problem.problem_id: problem for problem in domain.tiny_problems(split)}
    problems = [known[row["problem_id"]] for row in rows]
    truth = true_labels(load_tokenizer("tiny"), problems, rows)
    return frame.merge(truth, on=["sample_id", "position"], how="left")
