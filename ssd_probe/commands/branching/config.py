"""How programs are branched: every setting, its default and limits."""

import dataclasses
from typing import Any

from ssd_probe.config_fields import SEEDS, check_limits, setting

_MAY_GROW = {"positions", "per_token"}
_UNRECORDED = {"batch_size", *_MAY_GROW}


@dataclasses.dataclass(frozen=True)
class BranchConfig:
    """How many positions, tokens and runs; how a run goes on is a `Decoding`.

    `positions` and `per_token` may be raised later: what is there is kept and gone on with.
    """

    positions: int = setting(200, "Positions in all, from every stratum of entropy.", least=1)
    per_token: int = setting(4, "Runs a forced token.", least=1)
    leading: int = setting(3, "Likeliest tokens forced; up to 5 where above 0.02.", least=2)
    tail: int = setting(1, "Unlikely tokens (below 0.01) forced, drawn by probability.", least=0)
    per_problem: int = setting(1, "Passing programs of a problem.", least=1)
    batch_size: int = setting(64, "Runs at a time.", least=1)
    seed: int = setting(0, "Of positions, tail tokens and runs.", least=0, most=SEEDS)

    def __post_init__(self) -> None:
        check_limits(self)

    def recorded(self) -> dict[str, Any]:
        """What has to stay the same in a folder."""
        fields = dataclasses.asdict(self)
        return {name: value for name, value in fields.items() if name not in _UNRECORDED}

    def grown(self) -> dict[str, Any]:
        """What may change from one run to the next."""
        return {name: getattr(self, name) for name in sorted(_MAY_GROW)}
