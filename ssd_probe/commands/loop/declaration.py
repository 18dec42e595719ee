"""What a run is declared to be: the model, its students, the trials, the texts."""

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from ssd_probe.commands.branching.config import BranchConfig
from ssd_probe.core.config import TrainConfig
from ssd_probe.decoding import Decoding

BASE, MAIN, TEXT = "base", "main", "text"  # names with a meaning of their own
BASELINE, ON_DEV = "baseline", "base-on-dev"  # of a row of results, of the prediction's probe
TWO_STAGE = "two-stage"
PROGRAMS = "programs"  # noise-free programs, beside the arms' samples
RESERVED = {BASE, MAIN, TEXT, BASELINE, ON_DEV}
_NAME_BYTES = 100  # of a text's part of a folder's name
ENGINE = {"engine", "engine_args"}
UNRECORDED = {  # of `certificates` the content is, beside
    *("batch_size", "probe_batch_size", "processes", "workers", "more_seeds", "certificates")
}


@dataclass(frozen=True)
class Arm:
    """One student: the decoding of its training samples (None: the corpus' own text).

    source: the arm whose student is sampled and trained on (a further round); None: the base.
    """

    name: str
    decoding: Decoding | None
    source: str | None = None

    @property
    def is_control(self) -> bool:
        return self.decoding is None or self.decoding == Decoding()

    def settings(self) -> dict[str, Any]:
        """As in the file."""
        if self.decoding is None:
            return {"from": TEXT}
        d = self.decoding
        made = {"T_train": d.temperature, "top_k": d.top_k, "top_p": d.top_p}
        return made | ({"from": self.source} if self.source else {})


@dataclass(frozen=True)
class Rival:
    """The base drawn from by another rule, as `policies.parsing.policy_of` reads it.

    "two-stage" alone has the training decoding of the main arm: it is that arm's ideal student.
    """

    policy: str

    @property
    def name(self) -> str:
        """Of its files and in tables: "min-p-0.1"."""
        return re.sub(r"[^\w.+-]+", "-", re.sub(r"\w+=", "", self.policy)).strip("-")

    def beside(self, main: Arm) -> str:
        """The policy in full."""
        d = main.decoding
        if self.policy != TWO_STAGE or d is None:
            return self.policy
        return f"{TWO_STAGE}(T_train={d.temperature}, top_k={d.top_k}, top_p={d.top_p})"


@dataclass(frozen=True)
class Trial:
    """Problems to solve, the first `limit` of them, with `n` samples each."""

    problems: str
    n: int
    limit: int | None = None

    @property
    def ks(self) -> tuple[int, ...]:
        """The k of pass@k that so many samples allow."""
        return tuple(k for k in (1, 5) if k <= self.n)


@dataclass(frozen=True)
class Loop:
    """Everything that a run's numbers depend on, and how it is spread over the machine."""

    model: str
    prompts: str
    arms: tuple[Arm, ...]
    T_eval: tuple[float, ...]
    test: Trial
    dev: Trial | None = None  # None: one T_eval, nothing to choose
    prompt_limit: int | None = None
    style: str = "auto"  # of the prompts, see `sample`
    engine: str = "hf"  # that draws every answer but `branch`'s, see `sample`
    engine_args: tuple[str, ...] = ()  # of it, NAME=VALUE
    certificates: tuple[str, ...] = ()  # of it at decodings of the base, see `doctor --engine`
    n: int = 1  # samples a prompt
    max_new_tokens: int = 512
    training: TrainConfig = field(default_factory=TrainConfig)
    top_k_eval: int = 20
    top_p_eval: float = 0.8
    baseline: Decoding | None = None  # the base is tested at this too
    rivals: tuple[Rival, ...] = ()  # decode-only: what the base does without being trained
    texts: tuple[str, ...] = (BASE,)
    text_limit: int | None = None
    probed: tuple[str, ...] = (BASE, MAIN)
    labels: str = "support"
    predict: bool = False
    branch: BranchConfig | None = None  # of the base's passing answers to the test problems
    seed: int = 0
    more_seeds: tuple[int, ...] = ()  # the main arm and the controls again
    timeout: float = 3.0
    batch_size: int = 64
    probe_batch_size: int = 8
    workers: int = 2
    processes: int = 1

    def arm(self, name: str) -> Arm:
        """`KeyError` for one that there is not, as a damaged record may name."""
        return {arm.name: arm for arm in self.arms}[name]

    def student(self, arm: str, seed: int) -> str:
        """Of the model: its arm's name, and the seed where that is not the first."""
        return arm if seed == self.seed else f"{arm}-seed{seed}"

    def probe_name(self, model: str, text: str) -> str:
        """Of the folder of a model's probe; on the first text it bears the model's name alone."""
        return model if text == self.texts[0] else f"{model}-on-{text_name(text)}"

    def repeated(self, main: str) -> tuple[Arm, ...]:
        """What further seeds test: the main arm, and the controls of the base."""
        return tuple(a for a in self.arms if a.name == main or (a.is_control and not a.source))

    @property
    def candidates(self) -> tuple[Arm, ...]:
        """Of which the main arm is chosen."""
        return tuple(arm for arm in self.arms if not arm.is_control)

    @property
    def eval_decodings(self) -> tuple[Decoding, ...]:
        """T_eval varies; the truncation is the same for every model."""
        return tuple(Decoding(t, self.top_k_eval, self.top_p_eval) for t in self.T_eval)

    @property
    def base_decodings(self) -> tuple[Decoding, ...]:
        """What the base is drawn at, each once; not its rivals' policies."""
        found = [arm.decoding for arm in self.arms if arm.decoding and not arm.source]
        if self.dev or self.baseline is None:
            found += self.eval_decodings
        return tuple(dict.fromkeys([*found, *([self.baseline] if self.baseline else [])]))

    def settings(self) -> dict[str, Any]:
        """As in the file, every key; `read_loop` makes the same of it."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        values["arms"] = {arm.name: arm.settings() for arm in self.arms}
        values["rivals"] = [rival.policy for rival in self.rivals]
        values["training"] = _without_seed(self.training)
        for key in ("dev", "test"):
            values[key] = asdict(values[key]) if values[key] else None
        values["branch"] = self.branch and _without_seed(self.branch)
        if base := self.baseline:
            made = {"T_eval": base.temperature, "top_k": base.top_k, "top_p": base.top_p}
            values["baseline"] = made
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}

    def recorded(self) -> dict[str, Any]:
        """What a run's folder is of; older runs have neither engines nor rivals."""
        left_out = UNRECORDED | (ENGINE if self.engine == "hf" else set())
        left_out |= set() if self.rivals else {"rivals"}
        return {key: v for key, v in self.settings().items() if key not in left_out}

    def scaled(self, scale: float, count: Callable[[str], int]) -> "Loop":
        """Prompts, problems, samples, texts and steps times `scale`, one at least.

        count: how many prompts a source has, for where there is no limit.
        """

        def less(number: int) -> int:
            return max(1, round(scale * number))

        def trial(given: Trial) -> Trial:
            limit = less(given.limit or count(given.problems))
            return Trial(given.problems, less(given.n), limit)

        steps, warmup = self.training.max_steps, self.training.warmup_steps
        training = replace(
            self.training,
            max_steps=less(steps) if steps > 0 else steps,
            warmup_steps=warmup and less(warmup),
        )
        return replace(
            self,
            prompt_limit=less(self.prompt_limit or count(self.prompts)),
            training=training,
            dev=self.dev and trial(self.dev),
            test=trial(self.test),
            text_limit=self.text_limit and less(self.text_limit),
            branch=self.branch and replace(self.branch, positions=less(self.branch.positions)),
        )


def text_name(text: str) -> str:
    """A text's name as part of a folder's; of a long path its end."""
    name = re.sub(r"[^\w.-]+", "-", text).strip("-")
    return name.encode()[-_NAME_BYTES:].decode(errors="ignore")


def _without_seed(config: TrainConfig | BranchConfig) -> dict[str, Any]:
    values = config.recorded() if isinstance(config, TrainConfig) else asdict(config)
    return {key: value for key, value in values.items() if key != "seed"}
