"""Values of pseudocode expressions over all lanes: C's integer rules, the manual's functions, reads of other lanes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from emulated.pseudocode import syntax
from emulated.pseudocode.functions import FUNCTIONS, conversion, float32_to_float16, is_denormal
from emulated.pseudocode.values import FLOAT_TYPES, Value, fit, mask


class Unsupported(NotImplementedError):
    """The text uses something that this evaluator does not model; the message names it."""


WAVE = 64
_CONSTANTS = {
    "INF": np.inf,
    "NAN": np.nan,
    "PI": np.pi,
    "UNDERFLOW_F32": 0.0,
    "UNDERFLOW_F64": 0.0,
    "OVERFLOW_F32": np.inf,
    "OVERFLOW_F64": np.inf,
}
_ROUND_MODES = {"ROUND_NEAREST_EVEN": 0, "ROUND_TOWARD_ZERO": 3}


@dataclass
class Machine:
    """The state that a text reads and writes. Entries are per lane (or one for all).

    `state` names values: S0, S1, S2, D0 (before the instruction), VCC, EXEC, SCC, SIMM16, OPSEL ...
    `texts` gives the pseudocode of another instruction by its lower-case name, for calls such as `v_min_f32(a, b)`.
    """

    lanes: int
    state: dict[str, Value]
    texts: Callable[[str], str | None] = lambda name: None
    functions: Mapping[str, Callable[..., Value]] = field(default_factory=dict)
    lambdas: dict[str, syntax.Lambda] = field(default_factory=dict)
    arrays: dict[str, list[Value]] = field(default_factory=dict)
    lane_id: np.ndarray | None = None

    def lane_numbers(self) -> np.ndarray:
        if self.lane_id is None:
            self.lane_id = np.arange(self.lanes, dtype=np.uint64) % np.uint64(WAVE)
        return self.lane_id


class Expressions:
    """The expressions of one run; `evaluate` adds the statements."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.state = machine.state

    # cross-lane -----------------------------------------------------------------------------------------------
    def register(self, base: object) -> object:
        """`VGPR[laneId][VDST.u32]` is D0 and `VGPR[laneId][SRC0.u32]` is S0."""
        match base:
            case syntax.Index(
                syntax.Index(syntax.Name("VGPR"), syntax.Name("laneId")), syntax.View(syntax.Name(register))
            ):
                return syntax.Name({"VDST": "D0", "SRC0": "S0"}[register])
        return base

    def vector(self, register: object) -> str:
        match register:
            case syntax.View(syntax.Name("VDST")):
                return "D0"
            case syntax.View(syntax.Name("SRC0")):
                return "S0"
        raise Unsupported(f"VGPR[..][{register!r}]")

    def lane_of_group(self, lane: object) -> np.ndarray:
        lanes = np.broadcast_to(self.value(lane).bits, (self.machine.lanes,)).reshape(-1, WAVE)
        return lanes[:, 0].astype(np.int64)

    def gather(self, lane: object, register: object) -> Value:
        value = self.state[self.vector(register)]
        lanes = np.broadcast_to(value.bits, (self.machine.lanes,)).reshape(-1, WAVE)
        return Value(value.kind, value.width, np.repeat(lanes[np.arange(len(lanes)), self.lane_of_group(lane)], WAVE))

    # expressions ----------------------------------------------------------------------------------------------
    def value(self, node: object) -> Value:
        match node:
            case syntax.Number():
                return self.number(node)
            case syntax.Name(name):
                return self.name(name)
            case syntax.View(base, kind, width):
                return self.value(base).viewed(kind, width)
            case syntax.Cast(kind, width, value):
                return self.value(value).converted(kind, width)
            case syntax.Slice(base, high, low):
                return self.slice(self.value(self.register(base)), self.value(high), self.value(low))
            case syntax.PartSelect(base, start, count):
                return self.extract(self.value(base), self.value(start).signed(), self.value(count).scalar())
            case syntax.Index(base, index):
                return self.index(base, index)
            case syntax.Unary(operator, value):
                return self.unary(operator, self.value(value))
            case syntax.Binary():
                return self.binary(node)
            case syntax.Ternary(condition, yes, no):
                return self.ternary(self.value(condition).true(), self.value(yes), self.value(no))
            case syntax.Concat(parts):
                return self.concat([self.value(part) for part in parts])
            case syntax.Call(name, arguments):
                return self.call(name, [self.value(argument) for argument in arguments])
        raise Unsupported(f"expression {node!r}")

    @staticmethod
    def number(node: syntax.Number) -> Value:
        if node.kind == "F":
            return Value.of_float(np.array([float(node.text)], dtype=FLOAT_TYPES[node.width]))
        return Value.constant(node.kind, node.width, int(node.text, 0))

    def name(self, name: str) -> Value:
        if name in self.state:
            return self.state[name]
        if name == "laneId":
            return Value("U", 32, self.machine.lane_numbers())
        if name in _CONSTANTS:
            return Value.of_float(np.array([_CONSTANTS[name]], dtype=np.float64))
        if name in _ROUND_MODES:
            return Value.constant("U", 32, _ROUND_MODES[name])
        raise Unsupported(f"name {name}")

    def index(self, base: object, index: object) -> Value:
        if isinstance(base, syntax.Name) and base.name in self.machine.arrays:
            return self.element(self.machine.arrays[base.name], self.value(index))
        if isinstance(base, syntax.Index) and base.base == syntax.Name("VGPR"):
            whole = self.register(syntax.Index(base, index))
            return self.value(whole) if isinstance(whole, syntax.Name) else self.gather(base.index, index)
        return self.extract(self.value(base), self.value(index).signed(), 1)

    @staticmethod
    def element(array: list[Value], index: Value) -> Value:
        numbers = index.signed()
        result = array[0]
        for number, entry in enumerate(array):
            result = Value(entry.kind, entry.width, np.where(numbers == number, entry.bits, result.bits))
        return result

    @staticmethod
    def extract(value: Value, low: np.ndarray, count: int) -> Value:
        if value.width > 64:
            return Value("U", count, fit(value.bits >> low.astype(object), count))
        return Value("U", count, fit(value.bits >> low.astype(np.uint64), count))

    def slice(self, value: Value, high: Value, low: Value) -> Value:
        width = Value("I", 32, fit((high.signed() - low.signed()).astype(np.int64).view(np.uint64), 32)).scalar()
        if width >= 0:
            return self.extract(value, low.signed(), width + 1)
        forward = self.extract(value, high.signed(), 1 - width)
        reversed_bits = [int(f"{int(bits):0{1 - width}b}"[::-1], 2) for bits in forward.bits.flat]
        return Value("U", 1 - width, fit(np.array(reversed_bits, dtype=object), 1 - width))

    @staticmethod
    def unary(operator: str, value: Value) -> Value:
        if operator == "+":
            return value
        if operator == "!":
            return Value.of_bool(~value.true())
        if operator == "-":
            if value.kind in ("F", "BF"):
                return Value(value.kind, value.width, value.bits ^ np.uint64(1 << (value.width - 1)))
            wide = value.converted(value.kind, max(32, value.width))
            zero = np.uint64(0) if wide.width <= 64 else 0
            return Value("I" if value.kind == "I" else value.kind, wide.width, fit(zero - wide.bits, wide.width))
        ones = mask(value.width) if value.width > 64 else np.uint64(mask(value.width))
        return Value(value.kind, value.width, value.bits ^ ones)

    def ternary(self, condition: np.ndarray, yes: Value, no: Value) -> Value:
        if yes.kind != no.kind or yes.width != no.width:
            yes, no = self.common(yes, no)
        return Value(yes.kind, yes.width, np.where(condition, yes.bits, no.bits))

    @staticmethod
    def concat(parts: list[Value]) -> Value:
        total, width = 0, 0
        for part in reversed(parts):
            total = total + (part.bits.astype(object) << width)
            width += part.width
        return Value("B", width, fit(total, width))

    @staticmethod
    def common(left: Value, right: Value) -> tuple[Value, Value]:
        """Both operands in the type of their result, by C's rules."""
        floats = [value for value in (left, right) if value.kind in ("F", "BF")]
        if floats:
            width = max(value.width for value in floats)
            return left.converted("F", width), right.converted("F", width)
        width = max(32, left.width, right.width)
        wider = [value for value in (left, right) if value.width == width] or [Value("I", 32, left.bits)]
        unsigned = any(value.kind != "I" for value in wider)
        kind = "U" if unsigned else "I"
        return Value(kind, width, _widened(left, width)), Value(kind, width, _widened(right, width))

    def binary(self, node: syntax.Binary) -> Value:
        operator = node.operator
        if operator in ("==", "!=") and _is_denormal_name(node.right):
            flags = is_denormal(self.value(node.left))
            return Value.of_bool(flags if operator == "==" else ~flags)
        left, right = self.value(node.left), self.value(node.right)
        if operator == "==" and _is_signed_zero(node.right):  # `S0.f64 == -0.0` asks for this zero, not for either
            return Value.of_bool(left.converted("F", right.width).bits == right.bits)
        if operator == "&&":
            return Value.of_bool(left.true() & right.true())
        if operator == "||":
            return Value.of_bool(left.true() | right.true())
        if operator in ("==", "!=", "<>", "<", "<=", ">", ">="):
            return self.compare(operator, left, right)
        if operator in ("<<", ">>"):
            return self.shift(operator, left, right)
        if operator == "**":
            return FUNCTIONS["pow"](left, right)
        return self.arithmetic(operator, left, right)

    def compare(self, operator: str, left: Value, right: Value) -> Value:
        left, right = self.common(left, right)
        x, y = (left.floats(), right.floats()) if left.kind == "F" else (left.signed(), right.signed())
        with np.errstate(invalid="ignore"):
            match operator:
                case "==":
                    flags = x == y
                case "!=":
                    flags = x != y
                case "<>":
                    flags = (x < y) | (x > y)
                case "<":
                    flags = x < y
                case "<=":
                    flags = x <= y
                case ">":
                    flags = x > y
                case _:
                    flags = x >= y
        return Value.of_bool(np.asarray(flags, dtype=bool))

    @staticmethod
    def shift(operator: str, left: Value, right: Value) -> Value:
        width = max(32, left.width)
        left = left.converted(left.kind, width)
        count = right.signed()
        if width > 64:
            numbers = left.signed()
            shifted = numbers << count.astype(object) if operator == "<<" else numbers >> count.astype(object)
            return Value(left.kind, width, fit(shifted, width))
        count = np.asarray(count).astype(np.uint64)
        gone = count >= np.uint64(width)
        safe = np.where(gone, np.uint64(0), count)
        if operator == "<<":
            return Value(left.kind, width, fit(np.where(gone, np.uint64(0), left.bits << safe), width))
        numbers = left.signed()
        if left.kind == "I":
            safe = np.minimum(count, np.uint64(63)).astype(np.int64)
            return Value("I", width, fit((numbers >> safe).view(np.uint64), width))
        return Value(left.kind, width, np.where(gone, np.uint64(0), numbers >> safe))

    def arithmetic(self, operator: str, left: Value, right: Value) -> Value:
        left, right = self.common(left, right)
        if left.kind == "F":
            return self.float_arithmetic(operator, left, right)
        x, y = left.bits, right.bits
        match operator:
            case "+":
                bits = x + y
            case "-":
                bits = x - y
            case "*":
                bits = x * y
            case "&":
                bits = x & y
            case "|":
                bits = x | y
            case "^":
                bits = x ^ y
            case _:
                raise Unsupported(f"integer {operator}")
        return Value(left.kind, left.width, fit(bits, left.width))

    @staticmethod
    def float_arithmetic(operator: str, left: Value, right: Value) -> Value:
        x, y = left.floats(), right.floats()
        with np.errstate(all="ignore"):
            match operator:
                case "+":
                    return Value.of_float(x + y)
                case "-":
                    return Value.of_float(x - y)
                case "*":
                    return Value.of_float(x * y)
                case "/":
                    return Value.of_float(x / y)
        raise Unsupported(f"float {operator}")

    # calls ----------------------------------------------------------------------------------------------------
    def call(self, name: str, arguments: list[Value]) -> Value:
        if name in self.machine.lambdas:
            return self.apply(self.machine.lambdas[name], arguments)
        function = self.machine.functions.get(name) or FUNCTIONS.get(name)
        if function:
            return function(*arguments)
        if name == "f32_to_f16":
            mode = self.state.get("ROUND_MODE")
            return float32_to_float16(
                arguments[0], mode is not None and mode.scalar() == _ROUND_MODES["ROUND_TOWARD_ZERO"]
            )
        convert = conversion(name)
        if convert:
            return convert(arguments[0])
        text = self.machine.texts(name)
        if text is None:
            raise Unsupported(f"function {name}")
        kind, width = (
            "I" if "_i" in name else "F" if "_f" in name else "U",
            int("".join(filter(str.isdigit, name.split("_")[2]))),
        )
        sources = {f"S{number}": Value("B", argument.width, argument.bits) for number, argument in enumerate(arguments)}
        state = {
            **{key: value for key, value in self.state.items() if key.startswith(("WAVE_MODE", "EXEC"))},
            **sources,
        }
        state["D0"] = Value.constant("B", 32, 0)
        inner = Machine(self.machine.lanes, state, self.machine.texts)
        self.run_text(text, inner)
        return inner.state["D0"].viewed(
            "U" if name.endswith("_u8") else kind, 32 if name.endswith("_u8") or (kind == "U" and width == 8) else width
        )

    def apply(self, function: syntax.Lambda, arguments: list[Value]) -> Value:
        raise NotImplementedError

    def run_text(self, text: str, machine: Machine) -> None:
        raise NotImplementedError


def _is_signed_zero(node: object) -> bool:
    return isinstance(node, syntax.Unary) and isinstance(node.value, syntax.Number) and float(node.value.text) == 0


def _is_denormal_name(node: object) -> bool:
    base = node.base if isinstance(node, syntax.View) else node
    return isinstance(base, syntax.Name) and base.name == "DENORM"


def _widened(value: Value, width: int) -> np.ndarray:
    return value.converted(value.kind if value.kind == "I" else "U", width).bits
