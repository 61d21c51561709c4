"""Grammar of the manual's pseudocode: text to a tree of small tuples-with-names."""

import re
from dataclasses import dataclass
from functools import cache


class PseudocodeSyntaxError(ValueError):
    """The text is prose or broken; the message holds the place."""


@dataclass(frozen=True)
class Number:
    """A literal. `kind` is U, I, F or B (hexadecimal without a suffix: raw bits); `text` keeps the digits."""

    kind: str
    width: int
    text: str


@dataclass(frozen=True)
class Name:
    name: str


@dataclass(frozen=True)
class View:
    """`base.f32`: the same bits under another type."""

    base: object
    kind: str
    width: int


@dataclass(frozen=True)
class Index:
    base: object
    index: object


@dataclass(frozen=True)
class Slice:
    """`base[high : low]`; a low above the high reverses the bits."""

    base: object
    high: object
    low: object


@dataclass(frozen=True)
class PartSelect:
    """`base[start +: count]`."""

    base: object
    start: object
    count: object


@dataclass(frozen=True)
class Cast:
    kind: str
    width: int
    value: object


@dataclass(frozen=True)
class Call:
    function: str
    arguments: tuple


@dataclass(frozen=True)
class Unary:
    operator: str
    value: object


@dataclass(frozen=True)
class Binary:
    operator: str
    left: object
    right: object


@dataclass(frozen=True)
class Ternary:
    condition: object
    yes: object
    no: object


@dataclass(frozen=True)
class Concat:
    """`{ high, ..., low }`."""

    parts: tuple


@dataclass(frozen=True)
class Assign:
    """`targets[0] = targets[1] = ... = value`; `operator` is '' or the sign of `+=` and `-=`."""

    targets: tuple
    operator: str
    value: object


@dataclass(frozen=True)
class Declare:
    name: str
    kind: str
    width: int
    count: int | None


@dataclass(frozen=True)
class Lambda:
    name: str
    parameters: tuple
    body: tuple


@dataclass(frozen=True)
class If:
    """`branches` are (condition, statements); a condition of None is the else branch."""

    branches: tuple


@dataclass(frozen=True)
class For:
    variable: str
    first: object
    last: object
    body: tuple


@dataclass(frozen=True)
class Break:
    pass


@dataclass(frozen=True)
class Return:
    value: object


_TOKEN = re.compile(
    r"""\s*(?:
      (?P<comment>//[^\n]*)
    | (?P<sized>\d+'(?:0x[0-9a-fA-F]+|\d+\.\d+|\d+)(?:ULL|LL|U|F)?)
    | (?P<type>\d+'(?:BF|[UIFB]))
    | (?P<number>0x[0-9a-fA-F]+(?:ULL|LL|U)?|\d+\.\d+F?|\d+(?:ULL|LL|U|F)?)
    | (?P<name>[A-Za-z_]\w*)
    | (?P<sign>\+:|\*\*|<<|>>|<=|>=|==|!=|<>|&&|\|\||\+=|-=|[-+*/%&|^~!<>=?:;,.(){}\[\]])
    )""",
    re.VERBOSE,
)
_VIEW = re.compile(r"(bf|fp|[uifb])(\d+)$")
# Lowest first; the manual follows C, with <> for "less or greater" and ** for powers.
_PRECEDENCE = (
    ("||",),
    ("&&",),
    ("|",),
    ("^",),
    ("&",),
    ("==", "!=", "<>"),
    ("<", "<=", ">", ">="),
    ("<<", ">>"),
    ("+", "-"),
    ("*", "/", "%"),
    ("**",),
)
_WORDS_THAT_END_A_BLOCK = ("endif", "else", "elsif", "endfor")


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens, position = [], 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if not match:
            raise PseudocodeSyntaxError(f"no token at {text[position : position + 40]!r}")
        position = match.end()
        kind = match.lastgroup
        if kind and kind != "comment":
            tokens.append((kind, match.group(kind)))
    return tokens


def _number(text: str) -> Number:
    width = None
    if "'" in text:
        size, text = text.split("'")
        width = int(size)
    suffix = re.search(r"(ULL|LL|U|F)?$", text if not text.startswith("0x") else re.sub(r"F$", "f", text)).group(0)
    digits = text[: len(text) - len(suffix)] if suffix else text
    if "." in digits or suffix == "F":
        return Number("F", width or (32 if suffix == "F" else 64), digits)
    unsigned = suffix.startswith("U")
    long = "LL" in suffix or int(digits, 0) > 0xFFFFFFFF
    kind = "U" if unsigned else "B" if digits.startswith("0x") else "I"
    return Number(kind, width or (64 if long else 32), digits)


class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens = _tokens(text)
        self.at = 0

    def peek(self, ahead: int = 0) -> str:
        return self.tokens[self.at + ahead][1] if self.at + ahead < len(self.tokens) else ""

    def kind(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    def take(self, expected: str | None = None) -> str:
        text = self.peek()
        if not text or (expected is not None and text != expected):
            near = " ".join(token for _, token in self.tokens[max(0, self.at - 4) : self.at + 4])
            raise PseudocodeSyntaxError(f"expected {expected or 'more'}, got {text!r} near {near!r}")
        self.at += 1
        return text

    def accept(self, text: str) -> bool:
        if self.peek() == text:
            self.at += 1
            return True
        return False

    # statements -----------------------------------------------------------------------------------------------
    def block(self, *ends: str) -> tuple:
        statements = []
        while self.peek() and self.peek() not in ends:
            if self.accept(";"):
                continue
            statements.append(self.statement())
        return tuple(statements)

    def statement(self) -> object:
        word = self.peek()
        if word == "if":
            return self.conditional()
        if word == "for":
            return self.loop()
        if word == "declare":
            return self.declaration()
        if word == "break":
            self.take()
            return Break()
        if word == "return":
            self.take()
            return Return(self.expression())
        if self.peek(1) == "=" and self.peek(2) == "lambda":
            return self.function()
        return self.assignment()

    def conditional(self) -> If:
        branches = []
        self.take("if")
        while True:
            condition = self.expression()
            self.take("then")
            branches.append((condition, self.block(*_WORDS_THAT_END_A_BLOCK)))
            if self.accept("elsif"):
                continue
            if self.accept("else"):
                branches.append((None, self.block(*_WORDS_THAT_END_A_BLOCK)))
            self.take("endif")
            return If(tuple(branches))

    def loop(self) -> For:
        self.take("for")
        variable = self.take()
        self.take("in")
        first = self.expression()
        self.take(":")
        last = self.expression()
        self.take("do")
        body = self.block("endfor")
        self.take("endfor")
        return For(variable, first, last, body)

    def declaration(self) -> Declare:
        self.take("declare")
        name = self.take()
        self.take(":")
        width, kind = self.take().split("'")
        count = None
        if self.accept("["):
            count = int(self.take())
            self.take("]")
        return Declare(name, kind, int(width), count)

    def function(self) -> Lambda:
        name = self.take()
        self.take("=")
        self.take("lambda")
        self.take("(")
        parameters = [self.take()]
        while self.accept(","):
            parameters.append(self.take())
        self.take(")")
        self.take("(")
        statements = self.peek() in ("if", "for", "declare", "return")
        body = self.block(")") if statements else (Return(self.expression()),)
        self.take(")")
        return Lambda(name, tuple(parameters), body)

    def assignment(self) -> object:
        target = self.expression()
        if self.peek() in ("+=", "-="):
            operator = self.take()[0]
            return Assign((target,), operator, self.expression())
        if self.peek() != "=":
            if isinstance(target, Call):
                return target  # nop() of s_nop
            raise PseudocodeSyntaxError(f"not a statement: {target!r}")
        targets = [target]
        while self.accept("="):
            targets.append(self.expression())
        return Assign(tuple(targets[:-1]), "", targets[-1])

    # expressions ----------------------------------------------------------------------------------------------
    def expression(self) -> object:
        condition = self.binary(0)
        if not self.accept("?"):
            return condition
        yes = self.expression()
        self.take(":")
        return Ternary(condition, yes, self.expression())

    def binary(self, level: int) -> object:
        if level == len(_PRECEDENCE):
            return self.unary()
        left = self.binary(level + 1)
        while self.kind() == "sign" and self.peek() in _PRECEDENCE[level]:
            operator = self.take()
            left = Binary(operator, left, self.binary(level + 1))
        return left

    def unary(self) -> object:
        if self.kind() == "sign" and self.peek() in ("-", "+", "!", "~"):
            operator = self.take()
            return Unary(operator, self.unary())
        return self.postfix(self.primary())

    def primary(self) -> object:
        kind, text = self.kind(), self.take()
        if kind in ("number", "sized"):
            return _number(text)
        if kind == "type":
            width, letters = text.split("'")
            self.take("(")
            value = self.expression()
            self.take(")")
            return Cast(letters, int(width), value)
        if kind == "name":
            if self.peek() != "(":
                return Name(text)
            self.take("(")
            arguments = []
            while not self.accept(")"):
                if arguments:
                    self.take(",")
                arguments.append(self.expression())
            return Call(text, tuple(arguments))
        if text == "(":
            value = self.expression()
            self.take(")")
            return value
        if text == "{":
            parts = [self.expression()]
            while self.accept(","):
                parts.append(self.expression())
            self.take("}")
            return Concat(tuple(parts))
        raise PseudocodeSyntaxError(f"unexpected {text!r}")

    def postfix(self, value: object) -> object:
        while True:
            if self.accept("."):
                field = self.take()
                match = _VIEW.match(field)
                if match:
                    kind = {"bf": "BF", "fp": "FP"}.get(match.group(1), match.group(1).upper())
                    value = View(value, kind, int(match.group(2)))
                elif isinstance(value, Name):
                    value = Name(f"{value.name}.{field}")  # WAVE_MODE.IEEE, INST.OMOD
                else:
                    raise PseudocodeSyntaxError(f"unknown view .{field}")
            elif self.accept("["):
                first = self.expression()
                if self.accept(":"):
                    value = Slice(value, first, self.expression())
                elif self.accept("+:"):
                    value = PartSelect(value, first, self.expression())
                else:
                    value = Index(value, first)
                self.take("]")
            else:
                return value


@cache
def parse(text: str) -> tuple:
    """Statements of a pseudocode text.

    Raises
    ------
    PseudocodeSyntaxError
        For prose (`D = A (16x16) * B (16x16) + C`) and for text that the grammar does not cover.
    """
    parser = _Parser(text)
    statements = parser.block()
    if parser.at != len(parser.tokens):
        raise PseudocodeSyntaxError(f"left over: {parser.peek()!r}")
    return statements
