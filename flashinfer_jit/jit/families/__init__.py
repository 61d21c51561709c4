"""Families of kernels that are a module each: configuration, parameters and tiles together.

Importing this package imports all of them, so that what command lines and records say of them can be read.
"""

import importlib
from pathlib import Path

for _path in sorted(Path(__file__).parent.glob("[!_]*.py")):
    importlib.import_module(f"{__name__}.{_path.stem}")
