"""A report as HTML: everything in the one file, every text escaped."""

import base64
from importlib.resources import files

import jinja2

from ssd_probe.views.report.content import Report
from ssd_probe.views.signs import on_a_line


def render(report: Report, viewer: str | None) -> str:
    """The page's body before the token viewer; `viewer`: which texts that shows, if any."""
    page = (files("ssd_probe.views.report") / "report.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"image": _image, "on_a_line": on_a_line}
    return environment.from_string(page).render(report=report, viewer=viewer)


def style() -> str:
    """The report's style sheet."""
    return (files("ssd_probe.views.report") / "report.css").read_text(encoding="utf-8")


def _image(svg: str) -> str:
    """A graphic as an address: inside an image no script runs and no name clashes."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode("ascii")
