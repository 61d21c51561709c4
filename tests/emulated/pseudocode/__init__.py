"""An evaluator of the pseudocode in AMD's ISA manuals, over numpy arrays of lanes.

The tinygrad wheel carries, per opcode, the text that the CDNA manual prints (`D0.f32 = fma(S0.f32, S1.f32, S2.f32)`).
`syntax` parses such a text into a tree, `values` holds typed bit vectors, `functions` the manual's built-in functions,
`expressions` and `evaluate` run a tree over all lanes at once. Nothing here knows the emulator: it is the second
opinion.
"""

from emulated.pseudocode.evaluate import run
from emulated.pseudocode.expressions import Machine, Unsupported
from emulated.pseudocode.syntax import PseudocodeSyntaxError, parse
from emulated.pseudocode.values import Value

__all__ = ["Machine", "PseudocodeSyntaxError", "Unsupported", "Value", "parse", "run"]
