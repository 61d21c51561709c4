"""Families of kernels that are a module each: configuration, parameters and tiles together.

Importing this package imports all of them, so that what command lines and records say of them can be read.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
