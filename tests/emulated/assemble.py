"""The package's own assembler of code objects, under the name by which the tests know it."""

from flashinfer_jit.emulator.assemble import assemble, assembler

__all__ = ["assemble", "assembler"]
