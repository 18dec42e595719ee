"""A finished run of the loop, opened in Python: its probes, texts and comparisons by name."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ssd_probe.commands.branching.stage import BRANCHES, POSITIONS, Branched
from ssd_probe.commands.compare import crew_for, part_readers, rule_of, tokenizer_of
from ssd_probe.commands.loop.declaration import BASE, MAIN
from ssd_probe.commands.loop.positions import text_source
from ssd_probe.commands.run_folder import (
    TINY,
    RunFolder,
    compared_at,
    dev_curves,
    labelled_probe,
    probed_models,
    text_words,
)
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.files.record import read_object
from ssd_probe.probing.table import Probe

if TYPE_CHECKING:
    from ssd_probe.analysis.digest import Digest


def digest_of(folder: RunFolder, main: str, student: str, text: str) -> "Digest":
    """The base against a student on a text; `main`: the main arm, by its name."""
    from ssd_probe.analysis.digest import digest

    before, after = (Probe.load(folder.probe(name, text)) for name in (BASE, student))
    with crew_for(before) as workforce:
        return digest(
            part_readers(before, after),
            rule_of(folder.loop.labels, before),
            compared_at(folder, student, main),
            where=f"{len(before):,} positions of {text_words(folder, text)}",
            noise=before.noise,
            names=(BASE, student),
            tokenizer=tokenizer_of(before, after),
            crew=workforce,
        )


@dataclass(frozen=True)
class Run:
    """What `ssd-probe run` or `demo` left in a folder.

        run = Run.load("runs/demo")
        run.summary               # the content of its summary.json
        run.probe("base")         # a `Probe`, of the run's first text
        run.compare()             # base and main arm: a `Digest`

    A model is "base", "main" (the arm that was chosen on dev) or an arm by its name; a text is one
    of `texts`, by default the first. Errors: `UserError` for what the run does not hold.
    """

    folder: RunFolder
    summary: dict[str, Any]

    @classmethod
    def load(cls, path: str | Path) -> "Run":
        """Open a folder. `UserError` where it is no run, or not finished."""
        folder = RunFolder.load(Path(path))
        if not (folder.out / "summary.json").is_file():
            raise UserError(f"{path}: this run is not finished; run the same command again")
        return cls(folder, read_object(folder.out / "summary.json"))

    @property
    def main(self) -> str:
        """The main arm's name."""
        return self.summary["main"]

    @property
    def models(self) -> list[str]:
        """Those that were probed, the base first."""
        return [BASE, *(name for name in probed_models(self.folder, self.main) if name != BASE)]

    @property
    def texts(self) -> tuple[str, ...]:
        """Those that were probed."""
        return self.folder.loop.texts

    @property
    def controls(self) -> list[str]:
        """The arms of which no change is expected, probed or not."""
        return [arm.name for arm in self.folder.loop.arms if arm.is_control]

    def decoding(self, model: str = MAIN) -> Decoding:
        """By which a student is compared: that of its training samples where ranks can tell it."""
        return compared_at(self.folder, self._student(model), self.main)

    def source(self, text: str | None = None) -> str:
        """What was probed as this text: a file, or a source that `probe --text` takes."""
        return text_source(self.folder, self.folder.choice(), self._text(text))

    def about(self, text: str | None = None) -> str:
        """A text in words."""
        return text_words(self.folder, self._text(text))

    def probe(self, model: str = BASE, text: str | None = None) -> Probe:
        """The probe of a model on a text."""
        return Probe.load(self.folder.probe(self._name(model), self._text(text)))

    def frame(self, model: str = BASE, text: str | None = None) -> pd.DataFrame:
        """The same as one table; of the bundled domain's programs with their true kind, `truth`."""
        chosen = self._text(text)
        if chosen == self.texts[0] and chosen.startswith(TINY):
            split = chosen.removeprefix(TINY)
            return labelled_probe(self.folder.out, self._name(model), split)
        return self.probe(model, text).frame

    def compare(self, model: str = MAIN, text: str | None = None) -> "Digest":
        """The base against a student, labelled by the run's rule on the base."""
        return digest_of(self.folder, self.main, self._student(model), self._text(text))

    def dev_curves(self) -> pd.DataFrame | None:
        """pass@k against T_eval on the dev problems: Figure 2. None where none were declared."""
        return dev_curves(self.folder)

    def branched(self) -> Branched | None:
        """What became of forced tokens, if the run branched programs."""
        files = [self.folder.out / "branch" / name for name in (BRANCHES, POSITIONS)]
        if not all(file.is_file() for file in files):
            return None
        return Branched(*map(pd.read_parquet, files))

    def _text(self, text: str | None) -> str:
        if text is not None and text not in self.texts:
            raise UserError(f"{self.folder.out}: no text {text!r}; known: {', '.join(self.texts)}")
        return text or self.texts[0]

    def _name(self, model: str) -> str:
        name = self.main if model == MAIN else model
        if name not in self.models:
            known = ", ".join([MAIN, *self.models])
            raise UserError(f"{self.folder.out}: {model!r} was not probed; known: {known}")
        return name

    def _student(self, model: str) -> str:
        if (name := self._name(model)) == BASE:
            raise UserError("base: no student; give main, or an arm by its name")
        return name
