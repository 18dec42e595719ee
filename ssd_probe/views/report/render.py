"""A report as HTML: everything in the one file, every text escaped."""

import base64
import re
from importlib.resources import files

import jinja2

from ssd_probe.views.report.content import Report

MIDDLE = 24  # characters of a token that are shown


def render(report: Report, viewer: str | None) -> str:
    """The page's body before the token viewer; `viewer`: which texts that shows, if any."""
    page = (files("ssd_probe.views.report") / "report.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"image": _image, "visible": visible}
    return environment.from_string(page).render(report=report, viewer=viewer)


def style() -> str:
    """The report's style sheet."""
    return (files("ssd_probe.views.report") / "report.css").read_text(encoding="utf-8")


def visible(text: str) -> str:
    """White space and control characters as signs; what is long is cut in the middle."""
    text = text.replace("\n", "⏎").replace("\t", "⇥")
    text = re.sub(r"^ +| +$", lambda found: "␣" * len(found[0]), text)
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]",
                  lambda found: f"\\u{ord(found[0]):04x}", text)  # fmt: skip
    return text if len(text) <= MIDDLE else f"{text[: MIDDLE // 2]}…{text[-MIDDLE // 2 :]}"


def _image(svg: str) -> str:
    """A graphic as an address: inside an image no script runs and no name clashes."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode("ascii")
