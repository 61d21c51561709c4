"""Every option of every command line, walked by its parser: a wrong value is one line with what is allowed."""

import argparse
import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from flashinfer_jit import __main__ as cli
from flashinfer_jit import bench, profile, warmup
from flashinfer_jit.command_line import Parser
from flashinfer_jit.emulator import __main__ as emulator_cli

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.py"))
PROGRAMS = {
    "flashinfer_jit": cli,
    "flashinfer_jit.warmup": warmup,
    "flashinfer_jit.bench": bench,
    "flashinfer_jit.profile": profile,
    "flashinfer_jit.emulator": emulator_cli,
}
RUBBISH = "rub'bish"
SIZES = ["--arch", "gfx942", "--head-dim", "64", "--num-qo-heads", "1", "--num-kv-heads", "1", "--kv-len", "9"]
# Whatever text is given may be right: names, and files that are looked for when they are needed.
FREE = {
    ("flashinfer_jit", "list", "--filter"),
    ("flashinfer_jit", "cache", "--cache-dir"),
    ("flashinfer_jit", "render", "--output"),
    ("flashinfer_jit.warmup", "--output"),
    ("flashinfer_jit.bench", "_load", "keys"),
    ("flashinfer_jit.profile", "--plot"),
    ("flashinfer_jit.emulator", "run", "file"),
    ("flashinfer_jit.emulator", "run", "kernel"),
}


def values(parser: argparse.ArgumentParser, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Return each option or argument that takes a value, and the words that give it a wrong one."""
    before: list[str] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield (*path, action.dest), [*path[1:], RUBBISH]
            for name, sub in action.choices.items():
                yield from values(sub, (*path, name))
        elif action.option_strings and action.nargs != 0:
            yield (*path, action.option_strings[-1]), [*path[1:], action.option_strings[-1], RUBBISH]
        elif not action.option_strings:
            yield (*path, action.dest), [*path[1:], *before, RUBBISH]
            before.append(next(iter(action.choices)) if action.choices else "x")


CASES = [case for name, module in PROGRAMS.items() for case in values(module._parser(), (name,))]


def test_parsers_are_walked_and_no_exception_is_stale() -> None:
    places = {place for place, _ in CASES}
    assert len(places) == len(CASES) >= 45 and places >= FREE
    assert ("flashinfer_jit.warmup", "--jobs") in places and ("flashinfer_jit", "cache", "action") in places


def test_all_parsers_say_errors_in_one_line() -> None:
    def check(parser: argparse.ArgumentParser) -> None:
        assert isinstance(parser, Parser), parser.prog
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for sub in action.choices.values():
                    check(sub)

    for module in PROGRAMS.values():
        check(module._parser())


@pytest.mark.parametrize(
    "place, words", [case for case in CASES if case[0] not in FREE], ids=lambda part: " ".join(part)
)
def test_a_wrong_value_is_one_line_with_what_is_allowed(place, words, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        PROGRAMS[place[0]].main(words)
    captured = capsys.readouterr()
    assert caught.value.code == 2 and not captured.out
    assert captured.err.count("\n") == 1 and RUBBISH in captured.err
    assert any(word in captured.err for word in ("expected", "choose from", "form name=value", "No such file"))


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_unknown_option_is_one_line(name, capsys) -> None:
    commands = {"flashinfer_jit": ["list"], "flashinfer_jit.bench": ["plan"], "flashinfer_jit.emulator": ["build"]}
    commands["flashinfer_jit.profile"] = ["decode", *SIZES]
    with pytest.raises(SystemExit) as caught:
        PROGRAMS[name].main([*commands.get(name, []), "--nonsense"])
    captured = capsys.readouterr()
    assert caught.value.code == 2 and not captured.out
    assert captured.err.endswith("error: unrecognized arguments: --nonsense\n") and captured.err.count("\n") == 1


@pytest.mark.parametrize(
    "name, words",
    [
        ("flashinfer_jit.bench", ["jit"]),
        ("flashinfer_jit.bench", ["plan"]),
        ("flashinfer_jit.bench", ["decode"]),
        ("flashinfer_jit.profile", ["decode", *SIZES]),
    ],
)
def test_a_wrong_variable_is_one_line_of_every_program(name, words, monkeypatch, capsys) -> None:
    monkeypatch.setenv("FLASHINFER_JIT_DEVICE", RUBBISH)
    assert PROGRAMS[name].main(words) == 2
    captured = capsys.readouterr()
    said = f"FLASHINFER_JIT_DEVICE={RUBBISH!r} is not allowed: expected auto, hip or emulator"
    assert captured.err == f"error: {said}\n" and not captured.out


@pytest.mark.parametrize(
    "words, said",
    [
        (["run", "f", "k", "--grid", "1", "1", "1", "1"], "--grid has 4 numbers: expected x, y and z at most"),
        (["run", "f", "k", "i32:1", "--save", "0:out"], "--save 0: expected the number of a ptr: or file: argument"),
        (["run", "f", "k", "--save", "0:out"], "--save 0: expected the number of a ptr: or file: argument"),
    ],
)
def test_what_the_emulator_is_asked_to_run_is_checked_first(words, said, capsys) -> None:
    assert emulator_cli.main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {said}") and captured.err.count("\n") == 1


@pytest.mark.parametrize("text", ["i8:1000", "i32:x", "what:1", "hex:xy", "f32:one", "file:/nowhere"])
def test_arguments_of_kernels_are_checked_first(text, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        emulator_cli.main(["run", "f", "k", text])
    error = capsys.readouterr().err
    assert caught.value.code == 2 and f"argument kind:value: {text!r} is not allowed: " in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_read_their_options_the_same_way(path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    names = [ast.unparse(call.func) for call in calls]
    assert "argparse.ArgumentParser" not in names, "use flashinfer_jit.command_line.Parser: one line, status 2"
    assert "main" not in path.read_text() or any(name.endswith("command_line.Parser") for name in names)
    for call in calls:
        if ast.unparse(call.func).endswith("add_argument"):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert given.get("type") not in ("int", "float"), "say what is allowed: command_line.positive, whole_number"
