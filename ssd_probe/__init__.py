"""ssd-probe: what did fine-tuning do to my model's next-token distributions?"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what `__getattr__` gives, for type checkers
    from ssd_probe.commands.loop.opened import Run as Run
    from ssd_probe.commands.pictures.notebook import explore as explore
    from ssd_probe.commands.pictures.notebook import sliders as sliders
    from ssd_probe.decoding import Decoding as Decoding
    from ssd_probe.errors import UserError as UserError
    from ssd_probe.kernels.head import lm_head_stats as lm_head_stats
    from ssd_probe.kernels.pair import pair_stats as pair_stats
    from ssd_probe.kernels.stats import position_stats as position_stats
    from ssd_probe.probing.table import Probe as Probe
    from ssd_probe.views.notebook.extension import load_ipython_extension as load_ipython_extension
    from ssd_probe.views.notebook.extension import (
        unload_ipython_extension as unload_ipython_extension,
    )
    from ssd_probe.watching.callback import ForkLockCallback as ForkLockCallback

__version__ = "0.1.0"

_EXPORTS = {
    "Decoding": "ssd_probe.decoding",
    "ForkLockCallback": "ssd_probe.watching.callback",
    "Probe": "ssd_probe.probing.table",
    "Run": "ssd_probe.commands.loop.opened",
    "UserError": "ssd_probe.errors",
    "explore": "ssd_probe.commands.pictures.notebook",
    "lm_head_stats": "ssd_probe.kernels.head",
    "load_ipython_extension": "ssd_probe.views.notebook.extension",
    "pair_stats": "ssd_probe.kernels.pair",
    "position_stats": "ssd_probe.kernels.stats",
    "sliders": "ssd_probe.commands.pictures.notebook",
    "unload_ipython_extension": "ssd_probe.views.notebook.extension",
}
__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> object:
    """Import on first use, so that `ssd-probe --help` does not wait for torch."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'ssd_probe' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)
