"""The lowest versions that pyproject.toml allows, as constraints for pip (`make test-lowest`)."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
for each in [*project["dependencies"], *(name for extra in extras.values() for name in extra)]:
    if bound := re.match(r"([\w-]+)>=([\w.]+)", each):
        print(f"{bound[1]}=={bound[2]}")
