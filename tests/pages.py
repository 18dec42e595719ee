"""Texts of made-up tokens, and the token viewer's page of them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ssd_probe.analysis.labels import SupportRule
from ssd_probe.views.blocks import Names, Text
from ssd_probe.views.page import About, write_page
from tests.probes import probe_of, random_logits

HOSTILE = [
    "</script><img src=x onerror=alert(1)>", "<script>alert(1)</script>", "<!--", "-->", "]]>",
    "<!--<script>", "</style><style>*{display:none}", "<svg/onload=alert(1)>", "&lt;b&gt;", "&#60;",
    "<iframe src=https://example.org>", "<img src=//example.org/x.png>", "<base href=//x.org>",
    "<link rel=stylesheet href=//x.org>", "<meta http-equiv=refresh content=0;url=//x.org>",
    "javascript:alert(1)", "https://example.org/?q=1", "data:text/html,<script>alert(1)</script>",
    "' onmouseover='alert(1)", '" onfocus="alert(1)" autofocus="', "`${alert(1)}`", "{{7*7}}",
    "__proto__", "constructor", "hasOwnProperty", "\\u003cscript\\u003e", "\\", "\\n", "\u202eevil",
    "\u2066\u2069", "\u200b", "\ufeff", "a\u0301\u0301\u0301", "\x00", "\x1b[31m", "\r", "\t",
    "\u2028", "\u2029", "\ufffd", "\U000e0041", "\U0001f468\u200d\U0001f469", "نص", "中文字",
    "", " ", "\n\n", "x" * 1_000_000, "<" * 3000, "\ud800", "a\udfffb",
]  # fmt: skip


def text_of(tokens: list[str], logits: np.ndarray, name: str = "s", **other: np.ndarray) -> Text:
    """A text of these tokens, with the statistics of these logits."""

    def frame(z: np.ndarray) -> pd.DataFrame:
        ids = np.arange(len(tokens)) % z.shape[1]
        log_p = torch.tensor(z).log_softmax(-1)[np.arange(len(z)), ids]
        return probe_of(z, ranks=24).assign(
            sample_id=name, problem_id="p", position=np.arange(len(tokens)) + 1, token_id=ids,
            token=pd.Series(tokens, dtype=object),  # a lone surrogate is in no string column
            segment="code", syntax=np.resize(["Name", "Call"], len(tokens)),
            logprob=log_p.numpy().astype(np.float32), rank=1,
        )  # fmt: skip

    return Text(name, "p", frame(logits), frame(other["other"]) if other else None)


def about(models: tuple[str, ...] = ("base",), **more) -> About:
    known = {"title": "t", "models": list(models), "vocabulary": 150, "rule": SupportRule(),
             "special": [], "notes": []}  # fmt: skip
    return About(**(known | more))


def page_of(path: Path, texts: list[Text], **more) -> Path:
    names = Names(lambda ids: [f"<{i}>".encode() for i in ids])
    models = ("base", "tuned") if texts[0].other is not None else ("base",)
    write_page(path, texts, about(models, **more), names, 20)
    return path


def unpacked(block: bytes) -> dict[str, np.ndarray]:
    """A block's arrays, as `block.js` reads them."""
    kinds = {"f4": "<f4", "i4": "<i4", "u2": "<u2", "u1": "<u1"}
    at = 4 + int.from_bytes(block[:4], "little")
    arrays = {}
    for name, kind, count in json.loads(block[4:at])["arrays"]:
        arrays[name] = np.frombuffer(block, kinds[kind], count, at)
        at += arrays[name].nbytes + -arrays[name].nbytes % 4
    assert at == len(block)
    return arrays


def page_of_two_models(folder: Path) -> tuple[Path, Text]:
    """A page of two models and two texts, and the first of these."""
    logits = random_logits(60)
    moved = logits + np.random.default_rng(3).normal(size=logits.shape)
    tokens = [f"t{i}\n" if i % 7 == 6 else f" t{i}" for i in range(60)]
    text = text_of(tokens, logits, other=moved)
    second = text_of(["a", "b", "c"], random_logits(3), name="second", other=random_logits(3))
    return page_of(folder / "v.html", [text, second]), text
