"""Prints what one part of worldloop needs from the package index: the core, or an extra of pyproject.toml.

An image installs that before worldloop itself, so that a change of the code alone costs one small layer.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
parts = {"core": project["dependencies"], **project["optional-dependencies"]}
print("\n".join(parts[sys.argv[1]]))
