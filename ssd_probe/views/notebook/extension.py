"""`%load_ext ssd_probe`: pictures of the package's objects, registered by type."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pandas as pd

from ssd_probe.views.notebook import pictures

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

# By the module and the name of a type: none is imported before there is an object of it.
PICTURES: dict[tuple[str, str], Callable[[Any], str | None]] = {
    ("ssd_probe.probing.table", "Probe"): pictures.probe_picture,
    ("ssd_probe.decoding", "Decoding"): pictures.decoding_picture,
    ("ssd_probe.analysis.digest", "Digest"): pictures.digest_picture,
    ("ssd_probe.kernels.results", "PositionStats"): pictures.stats_picture,
    (pd.Series.__module__, "Series"): pictures.labels_picture,
}


def load_ipython_extension(shell: "InteractiveShell") -> None:
    """Show `Probe`, `Decoding`, `Digest`, `PositionStats` and labels as pictures."""
    for (module, name), picture in PICTURES.items():
        _html(shell).for_type_by_name(module, name, picture)


def unload_ipython_extension(shell: "InteractiveShell") -> None:
    """Show them as text again."""
    for module, name in PICTURES:
        _html(shell).pop(f"{module}.{name}", None)


def _html(shell: "InteractiveShell") -> Any:
    assert shell.display_formatter is not None
    return shell.display_formatter.formatters["text/html"]
