"""Runs a pseudocode tree over all lanes at once: control flow by lane masks, cross-lane access by groups of 64."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from emulated.pseudocode import syntax
from emulated.pseudocode.functions import FUNCTIONS, conversion, float32_to_float16, fma, is_denormal
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


class _Run:
    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.state = machine.state
        self.broken: list[np.ndarray] = []
        self.returns: list[list[tuple[np.ndarray, Value]]] = []

    # statements -----------------------------------------------------------------------------------------------
    def block(self, statements: tuple, active: np.ndarray) -> np.ndarray:
        for statement in statements:
            if not active.any():
                break
            active = self.statement(statement, active)
        return active

    def statement(self, node: object, active: np.ndarray) -> np.ndarray:
        match node:
            case syntax.Assign():
                self.assign(node, active)
            case syntax.If(branches):
                return self.conditional(branches, active)
            case syntax.For(variable, first, last, body):
                return self.loop(variable, self.value(first).scalar(), self.value(last).scalar(), body, active)
            case syntax.Break():
                self.broken[-1] |= active
                return np.zeros_like(active)
            case syntax.Return(value):
                self.returns[-1].append((active, self.value(value)))
                return np.zeros_like(active)
            case syntax.Declare(name, kind, width, count):
                self.declare(name, kind, width, count)
            case syntax.Lambda(name):
                self.machine.lambdas[name] = node
            case syntax.Call():
                self.value(node)
            case _:
                raise Unsupported(f"statement {node!r}")
        return active

    def conditional(self, branches: tuple, active: np.ndarray) -> np.ndarray:
        remaining, after = active, np.zeros_like(active)
        for condition, body in branches:
            taken = remaining if condition is None else remaining & self.value(condition).true()
            remaining = remaining & ~taken
            if taken.any():
                after |= self.block(body, taken)
        return after | remaining

    def loop(self, variable: str, first: int, last: int, body: tuple, active: np.ndarray) -> np.ndarray:
        self.broken.append(np.zeros_like(active))
        inside = active
        for number in range(first, last + 1):
            if not inside.any():
                break
            self.state[variable] = Value.constant("I", 32, number)
            inside = self.block(body, inside)
        return inside | self.broken.pop()

    def declare(self, name: str, kind: str, width: int, count: int | None) -> None:
        if count is None:
            self.state[name] = Value.constant(kind, width, 0)
        elif name == "S":  # the sources as an array (the mix instructions)
            self.machine.arrays[name] = [self.state[f"S{number}"] for number in range(count)]
        elif name not in self.machine.arrays:
            self.machine.arrays[name] = [Value.constant(kind, width, 0)] * count

    # assignment -----------------------------------------------------------------------------------------------
    def assign(self, node: syntax.Assign, active: np.ndarray) -> None:
        value = self.value(node.value)
        if node.operator:
            value = self.arithmetic(node.operator, self.value(node.targets[0]), value)
        for target in node.targets:
            self.store(target, value, active)

    def store(self, target: object, value: Value, active: np.ndarray) -> None:
        match target:
            case syntax.Name(name):
                old = self.state.get(name)
                if (
                    name in ("D0", "VCC", "EXEC", "M0") and old is not None
                ):  # registers keep their width, not a temporary's
                    value = Value(
                        old.kind,
                        old.width,
                        fit(value.converted("I", 64).bits if value.kind == "I" else value.bits, old.width),
                    )
                self.state[name] = self.blend(old, value, active)
            case syntax.View(base, kind, width):
                old = self.current(base, width)
                value = value if kind == "FP" or value.kind == "FP" else value.converted(kind, width)
                if isinstance(base, syntax.Name) and base.name not in ("D0", "D1", "VCC", "EXEC", "M0", "SCC"):
                    self.store(base, Value(kind, width, value.bits), active)
                else:
                    self.store_bits(base, 0, max(width, self.span(base, old)), value.bits, active)
            case syntax.Slice(base, high, low):
                self.store_slice(base, self.value(high), self.value(low), value, active)
            case syntax.Index(base, index):
                self.store_index(base, index, value, active)
            case syntax.Concat(parts):
                self.store_concat(parts, value, active)
            case _:
                raise Unsupported(f"assignment to {target!r}")

    def span(self, base: object, old: Value) -> int:
        """Bits that a write through a view replaces: a whole slice, or the width of the view for a register."""
        if isinstance(base, syntax.Slice):
            return abs(self.value(base.high).scalar() - self.value(base.low).scalar()) + 1
        return 0

    def current(self, base: object, width: int) -> Value:
        if isinstance(base, syntax.Name) and base.name not in self.state:
            return Value.constant("B", max(32, width), 0)
        if isinstance(base, syntax.Slice | syntax.Index):
            return Value.constant("B", width, 0)
        return self.value(base)

    def store_bits(self, base: object, low: int, width: int, bits: np.ndarray, active: np.ndarray) -> None:
        if isinstance(base, syntax.Name):
            old = self.state.get(base.name) or Value.constant("B", 32, 0)
            total = max(old.width, low + width)
            kept = fit(old.bits, total) if total > 64 else old.bits
            hole = mask(total) & ~(mask(width) << low)
            new = self.place(kept, hole, fit(bits, width), low, total)
            self.state[base.name] = self.blend(Value(old.kind, total, kept), Value(old.kind, total, new), active)
        elif isinstance(base, syntax.Slice):
            self.store_slice(
                base.base, self.value(base.high), self.value(base.low), Value("B", width, fit(bits, width)), active
            )
        else:
            self.store(base, Value("B", width, fit(bits, width)), active)

    @staticmethod
    def place(kept: np.ndarray, hole: int, bits: np.ndarray, low: int, total: int) -> np.ndarray:
        if total > 64:
            return (kept.astype(object) & hole) | (bits.astype(object) << low)
        return (kept & np.uint64(hole)) | (bits << np.uint64(low))

    def store_slice(self, base: object, high: Value, low: Value, value: Value, active: np.ndarray) -> None:
        lows = low.signed()
        width = Value("I", 32, fit((high.signed() - lows).astype(np.int64).view(np.uint64), 32)).scalar()
        if width < 0:  # D0.u32[31 : 0] = S0.u32[0 : 31] keeps its order on the left
            raise Unsupported("reversed slice on the left")
        width += 1
        base = self.register(base)
        if isinstance(base, syntax.View) and isinstance(base.base, syntax.Name):  # D0.u32[15 : 8] writes a part of D0
            self.widen(base)
            base = base.base
        bits = (
            value.bits
            if value.kind in ("B", "FP", "F", "BF", "U") or value.width >= width
            else value.converted("I", 64).bits
        )
        for start in np.unique(np.broadcast_to(lows, active.shape)[active]):
            self.store_bits(base, int(start), width, bits, active & (lows == start))

    def store_index(self, base: object, index: object, value: Value, active: np.ndarray) -> None:
        if isinstance(base, syntax.Name) and base.name in self.machine.arrays:
            array = self.machine.arrays[base.name]
            number = self.value(index).scalar()
            array[number] = self.blend(array[number], value.converted(array[number].kind, array[number].width), active)
            return
        if isinstance(base, syntax.Index) and base.base == syntax.Name("VGPR") and base.index != syntax.Name("laneId"):
            self.scatter(base.index, index, value)
            return
        base = self.register(syntax.Index(base, index) if base == syntax.Name("VGPR") else base)
        if isinstance(base, syntax.View):  # D0.u64[laneId]
            self.widen(base)
            base = base.base
        position = self.value(index)
        self.store_slice(
            base,
            position,
            position,
            Value("U", 1, fit(value.bits != 0, 1) if value.width == 1 else fit(value.bits, 1)),
            active,
        )

    def widen(self, view: syntax.View) -> None:
        if isinstance(view.base, syntax.Name) and view.base.name in self.state:
            old = self.state[view.base.name]
            if old.width < view.width:
                self.state[view.base.name] = Value(old.kind, view.width, fit(old.bits, view.width))

    def store_concat(self, parts: tuple, value: Value, active: np.ndarray) -> None:
        low = 0
        for part in reversed(parts):
            if not isinstance(part, syntax.View):
                raise Unsupported("concatenation of untyped parts on the left")
            bits = fit(value.bits >> low if value.width > 64 else value.bits >> np.uint64(low), part.width)
            self.store(part, Value("B", part.width, bits), active)
            low += part.width

    def blend(self, old: Value | None, new: Value, active: np.ndarray) -> Value:
        if old is None or active.all():
            return new
        if old.width != new.width:
            width = max(old.width, new.width)
            old, new = Value(old.kind, width, fit(old.bits, width)), Value(new.kind, width, fit(new.bits, width))
        return Value(new.kind, new.width, np.where(active, new.bits, old.bits))

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

    def scatter(self, lane: object, register: object, value: Value) -> None:
        name = self.vector(register)
        old = self.state[name]
        lanes = np.broadcast_to(old.bits, (self.machine.lanes,)).reshape(-1, WAVE).copy()
        source = np.broadcast_to(value.bits, (self.machine.lanes,)).reshape(-1, WAVE)
        lanes[np.arange(len(lanes)), self.lane_of_group(lane)] = source[:, 0]
        self.state[name] = Value(old.kind, old.width, lanes.reshape(-1))

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
        run(syntax.parse(text), inner)
        return inner.state["D0"].viewed(
            "U" if name.endswith("_u8") else kind, 32 if name.endswith("_u8") or (kind == "U" and width == 8) else width
        )

    def apply(self, function: syntax.Lambda, arguments: list[Value]) -> Value:
        outer = {name: self.state.get(name) for name in function.parameters}
        self.state.update(zip(function.parameters, arguments, strict=True))
        self.returns.append([])
        self.block(function.body, np.ones(self.machine.lanes, dtype=bool))
        parts = self.returns.pop()
        result = parts[0][1]
        for lanes, value in parts[1:]:
            result = self.ternary(lanes, value, result)
        for name, value in outer.items():
            if value is None:
                self.state.pop(name, None)
            else:
                self.state[name] = value
        return result


def _is_denormal_name(node: object) -> bool:
    base = node.base if isinstance(node, syntax.View) else node
    return isinstance(base, syntax.Name) and base.name == "DENORM"


def _widened(value: Value, width: int) -> np.ndarray:
    return value.converted(value.kind if value.kind == "I" else "U", width).bits


def run(statements: tuple, machine: Machine) -> None:
    """Executes the statements on `machine.state` in place, all lanes active.

    Raises
    ------
    Unsupported
        Where the text uses something that is not modelled.
    """
    with np.errstate(over="ignore"):
        _Run(machine).block(statements, np.ones(machine.lanes, dtype=bool))


__all__ = ["Machine", "Unsupported", "fma", "run"]
