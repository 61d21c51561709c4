"""Runs a pseudocode tree over all lanes at once: control flow and assignment by lane masks."""

import numpy as np

from emulated.pseudocode import syntax
from emulated.pseudocode.expressions import WAVE, Expressions, Machine, Unsupported
from emulated.pseudocode.values import Value, fit, mask


class _Run(Expressions):
    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
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

    def scatter(self, lane: object, register: object, value: Value) -> None:
        name = self.vector(register)
        old = self.state[name]
        lanes = np.broadcast_to(old.bits, (self.machine.lanes,)).reshape(-1, WAVE).copy()
        source = np.broadcast_to(value.bits, (self.machine.lanes,)).reshape(-1, WAVE)
        lanes[np.arange(len(lanes)), self.lane_of_group(lane)] = source[:, 0]
        self.state[name] = Value(old.kind, old.width, lanes.reshape(-1))

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

    def run_text(self, text: str, machine: Machine) -> None:
        run(syntax.parse(text), machine)


def run(statements: tuple, machine: Machine) -> None:
    """Executes the statements on `machine.state` in place, all lanes active.

    Raises
    ------
    Unsupported
        Where the text uses something that is not modelled.
    """
    with np.errstate(over="ignore"):
        _Run(machine).block(statements, np.ones(machine.lanes, dtype=bool))
