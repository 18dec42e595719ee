"""The token viewer as one HTML file: no server, no network, nothing in it but what is shown.

Scripts and style are inlined and named by their hashes in the content security policy; data are
text in elements that no browser runs, and the viewer puts text on the page as text only.
"""

import base64
import gzip
import hashlib
import html
import re
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from ssd_probe.analysis.labels import KINDS, SupportRule
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.files.writing import atomic_path, strict_json
from ssd_probe.views.blocks import Names, Text, pack
from ssd_probe.views.report.terms import VIEWED

# In the order in which they are joined: each uses those before it.
VIEWER = ("math", "block", "elements", "surroundings", "layout", "colours", "details", "lines",
          "viewer")  # fmt: skip
MODULES = (*VIEWER, "file")
PAGE_STYLE = "html, body { height: 100%; margin: 0; }\n"
_IMPORT = re.compile(r"^import \{[^}]*\} from \"\./\w+\.js\";\n", re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|const|class)\b)", re.MULTILINE)


class About(NamedTuple):
    """What the page says of its probes."""

    title: str
    models: list[str]  # the base, and the other one if there are two
    vocabulary: int
    rule: SupportRule
    special: list[int]  # ids of special tokens
    notes: list[str]
    decoding: Decoding | None = None  # to open at; labels are by the rule's own all the same


class Around(NamedTuple):
    """The page that the viewer stands in: HTML before it, style, and what else the page may do."""

    before: str = ""
    css: str = PAGE_STYLE
    policy: str = ""  # begins with ";"


def script(modules: Iterable[str] = MODULES) -> str:
    """The front end's modules as one; their imports of each other fall away."""
    return "".join(_EXPORT.sub("", _IMPORT.sub("", _web(f"{name}.js"))) for name in modules)


def style(*names: str) -> str:
    """The viewer's style sheet, and the named ones after it."""
    return "".join(_web(f"{name}.css") for name in ("viewer", *names))


def page_file(path: Path) -> Path:
    """A page's file to write; `UserError` where that may be another file's name."""
    if path.is_dir():
        raise UserError(f"{path}: a folder; give the name of an HTML file")
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"{path}: no .html file, and may be one that holds something else")
    return path


def write_page(
    path: Path,
    texts: Iterable[Text],
    about: About,
    names: Names,
    ranks: int,
    around: Around | None = None,
) -> int:
    """Write the viewer of these texts, one at a time; how many positions it shows.

    Each text is a block of its own (gzip, base64), which the viewer unpacks when it is looked at.
    """
    around = around or Around()
    code, css = script(), around.css + style()
    listed, rows, stored = [], 0, ranks
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(_head(about.title, css, code, around) + _VIEWER)
        for number, text in enumerate(texts):
            names.add(text, ranks)
            packed = base64.b64encode(gzip.compress(pack(text, ranks), 6, mtime=0)).decode("ascii")
            file.write(_data(f"block-{number}", "application/octet-stream", packed))
            stored = min(ranks, len(text.frame["top_ids"].iloc[0]))
            listed.append({"name": text.sample_id, "rows": len(text.frame)})
            rows += len(text.frame)
        meta = meta_of(about, stored) | names.table() | {"texts": listed}
        file.write(_data("meta", "application/json", _inert_json(meta)))
        file.write(f'<script type="module">{code}</script>\n{_END}')
    return rows


def write_plain(path: Path, title: str, around: Around) -> None:
    """Write a page of the same kind without a viewer."""
    with atomic_path(path) as temporary:
        temporary.write_text(_head(title, around.css, "", around) + _END, encoding="utf-8")


def _head(title: str, css: str, code: str, around: Around) -> str:
    policy = _policy(code, css) + around.policy
    return _HEAD.format(policy=policy, title=html.escape(title), css=css) + around.before


def meta_of(about: About, ranks: int) -> dict[str, Any]:
    """What the front end must know of all texts, but their names; ranks: those stored."""
    rule = about.rule
    parameters = {k: v for k, v in vars(rule).items() if not isinstance(v, Decoding)}
    return {
        "title": about.title,
        "models": about.models,
        "vocabulary": about.vocabulary,
        "ranks": ranks,
        "rule": parameters,
        "kinds": list(KINDS),
        "decoding": settings_of(about.decoding or rule.decoding),
        "labelling": settings_of(rule.decoding),
        "terms": VIEWED,
        "special": about.special,
        "notes": about.notes,
    }


def settings_of(decoding: Decoding) -> dict[str, float]:
    """A decoding as `math.js` has it."""
    return {
        "temperature": decoding.temperature, "topK": decoding.top_k, "topP": decoding.top_p,
        "minP": 0,
    }  # fmt: skip


def _inert_json(content: object) -> str:
    """JSON that cannot end the element that it stands in."""
    return strict_json(content).replace("<", "\\u003c").replace(">", "\\u003e")


def _data(name: str, kind: str, content: str) -> str:
    return f'<script type="{kind}" id="{name}">{content}</script>\n'


def _policy(code: str, css: str) -> str:
    hashes = [base64.b64encode(hashlib.sha256(each.encode()).digest()).decode("ascii")
              for each in (code, css)]  # fmt: skip
    return (
        f"default-src 'none'; script-src 'sha256-{hashes[0]}'; style-src 'sha256-{hashes[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _web(name: str) -> str:
    return (files("ssd_probe.views") / "web" / name).read_text(encoding="utf-8")


_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
"""
_VIEWER = '<div id="viewer"><noscript>The token viewer needs JavaScript.</noscript></div>\n'
_END = "</body>\n</html>\n"
