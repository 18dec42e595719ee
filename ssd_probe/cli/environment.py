"""Environment variables that libraries read as they load; a person's own setting wins."""

import os

# Idle threads of torch's OpenMP team spin for milliseconds, by default: two processes on the same
# cores then keep each other from working, a hundred times slower. Passive ones sleep.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE"}
FIGURES = {"MPLBACKEND": "Agg"}  # they go to files: no window, no screen


def prepare() -> None:
    """Set what is not set; to be called before torch and matplotlib are imported."""
    for name, value in (WAITING | FIGURES).items():
        os.environ.setdefault(name, value)
