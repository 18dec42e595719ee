"""What two runs can differ in, the weightiest first, and why each matters."""

from typing import NamedTuple


class Aspect(NamedTuple):
    """One line of the table: its key among the facts, its name, and why it matters."""

    key: str
    name: str
    why: str


ASPECTS = tuple(Aspect(*each) for each in (
    ("model", "model", "Another base has other locks and forks: no other number carries over."),
    ("style", "prompt style", "Without its template an instruct model answers another question."),
    ("template", "chat template", "Another template, or a system turn, moves every first token."),
    ("order", "truncation order",
     "Truncated before the temperature, the same T, k and p keep another support."),
    ("train", "training decoding",
     "T and truncation decide what the tail loses: with T=1 and no truncation nothing is learned."),
    ("source", "sampled from", "A further round's student learns from a student, not the base."),
    ("filter", "filter", "What is left out decides which answers the student takes for usual."),
    ("dedup", "de-duplication", "A prompt that stands there twice weighs twice in training."),
    ("seed", "seeds", "One seed is one draw: pass@1 of two seeds differs by points of its own."),
    ("warmup", "warm-up", "A warm-up that takes most of the steps never trains at the full rate."),
    ("weights", "trained weights", "Adapters learn less of the target than all weights do."),
    ("rate", "learning rate", "It sets how far the student gets towards its target."),
    ("steps", "training length", "Too short, and the student is still the base."),
    ("batch", "batch", "With the steps it is how many samples are seen."),
    ("decay", "weight decay", "Little at a short training."),
    ("window", "problem window",
     "The same name stands for other problems: LiveCodeBench v6 is 131 of them, or 175."),
    ("eval", "evaluation decoding", "T_eval is to be chosen for each model, on other problems."),
    ("eval_n", "answers a problem", "Fewer answers: a wider interval, and no pass@5 under 5."),
    ("timeout", "time limit", "A slow right program fails under a short limit."),
    ("prompts", "training prompts", "Prompts far from the test problems teach other contexts."),
    ("count", "prompts used", "Fewer prompts: fewer contexts whose tails are cut."),
    ("n", "answers a prompt", "The paper needs one; more repeat the same contexts."),
    ("max_new_tokens", "longest answer", "Answers that are cut, or left out, are the long ones."),
    ("max_length", "longest sample", "Longer samples are left out of the training."),
    ("precision", "precision", "bfloat16 rounds a logit by up to 0.4 % of it."),
    ("engine", "engine", "Kernels and samplers differ; seeds do not carry over."),
))  # fmt: skip
