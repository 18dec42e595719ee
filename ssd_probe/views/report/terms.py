"""What the words on a page mean, in a line each: of reports and of the token viewer.

Formulas, units and equations: docs/method.md.
"""

# Of a token viewer; its head and tail are those of the settings that are set in it.
VIEWED = {
    "position": "a place in a text, and what the model expects there: a probability for each token "
    "that may come next",
    "lock": "a position with one token to choose: nearly all that would be drawn is that token",
    "fork": "a position where several tokens compete, and each leads on differently",
    "open": "a position so flat that the six likeliest tokens hold less than half of the mass",
    "neither": "between lock and fork by the decoding of the labels, which need not be a table's",
    "support": "the tokens that a decoding (temperature, top-k, top-p) keeps: the head. All others "
    "are the tail",
    "kept mass": "the probability, at T=1, of all tokens in the support together",
    "branching": "how many equally likely tokens the draw is worth: e to the power of its entropy. "
    "1 at a firm lock, 2 where two tokens are as likely",
    "entropy": "how undecided the model is, in nats, tail and all: 0 when sure, 0.69 between two "
    "tokens",
    "surprisal": "how unexpected the text's own token was, in nats: 0 when it was certain",
    "change": "total variation: the probability that lies on other tokens after training",
}
_RUN = {
    "base": "the model before training; everything is measured against it",
    "arm": "one way of making a student: the temperature and truncation its training samples were "
    "drawn with",
    "main": "the arm that is compared: the one with the highest pass@1 on dev, controls aside",
    "control": "an arm without what is tried: samples at T=1 untruncated, or the corpus' own text",
    "T_train": "the temperature that the training samples were drawn at",
    "T_eval": "the temperature that a model answers at when it is tested",
    "pass@1": "the share of problems that one answer solves, all tests passed; pass@k: that at "
    "least one of k does",
}
_COMPARED = {
    "tail mass": "the probability outside the base's support at the training decoding: the "
    "distractors. 1 less kept mass",
    "head entropy": "how evenly the tokens of that support share, in nats; what is to stay at "
    "forks",
    "target kl": "KL(q || p), in nats: how far the model is from its training target q, the base's "
    "tempered support. Trained to the end: 0",
    "gate part": "a part of the entropy: whether the token is in the head or the tail. With head "
    "part and tail part it adds up to it",
    "compression": "a term of the training loss, in nats: for the mass outside the support",
    "reshaping": "a term of the training loss, in nats: for a head less flat than the temperature "
    "makes it",
    "alignment": "a term of the training loss, in nats: for a head of another shape than the "
    "target's",
    "undecided": "the interval holds both answers, or too few positions or runs speak",
    "leverage": "the entropy left at forks at the highest T_eval that keeps locks tight: how much "
    "a higher temperature can explore before locks slip",
    "[low, high]": "a 95 % interval over problems: BCa bootstrap; exact binomial where all agree; "
    "percentile bootstrap for leverage",
    "under noise": "no larger than what scoring the base a second time changes",
}
NAME, TITLE = "words", "What the words mean"  # of the section
PROBED = {word: VIEWED[word] for word in ("position", "lock", "fork", "open", "neither", "entropy")}
COMPARED = VIEWED | _COMPARED
RUN = _RUN | COMPARED
