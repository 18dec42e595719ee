"""Environment variables that libraries read as they load; a person's own setting wins."""

import os

# How often an idle thread of torch's OpenMP team looks for work before it sleeps. By default some
# milliseconds long: two processes on the same cores then keep each other from working (4-14 times
# slower). 1,000 looks cost nothing alone and leave each about half; sleeping at once (PASSIVE)
# makes small operations wait for a core to wake (benchmarks/shared.py; LOG.md).
WAITING = {"GOMP_SPINCOUNT": "1000"}
FIGURES = {"MPLBACKEND": "Agg"}  # they go to files: no window, no screen


def prepare() -> None:
    """Set what is not set; to be called before torch and matplotlib are imported."""
    waiting = {} if "OMP_WAIT_POLICY" in os.environ else WAITING  # which it would overrule
    for name, value in (waiting | FIGURES).items():
        os.environ.setdefault(name, value)
