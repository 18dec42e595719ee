"""The lowest versions that pyproject.toml allows, as constraints for pip (`make test-lowest`)."""

import re
import tomllib
from pathlib import Path


def lowest(*extras: str) -> dict[str, str]:
    """Version by name, of the dependencies and of those extras."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    asked = [*project["dependencies"], *(each for extra in extras for each in optional[extra])]
    bounds = (re.match(r"([\w-]+)>=([\w.]+)", each) for each in asked)
    return {bound[1]: bound[2] for bound in bounds if bound}


if __name__ == "__main__":
    for name, version in lowest("eval", "notebook", "dev").items():
        print(f"{name}=={version}")
