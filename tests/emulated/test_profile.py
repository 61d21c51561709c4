"""The profiler's command line: what it prints, what it refuses, and the parts it is made of."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import torch

import flashinfer_jit
from flashinfer_jit import emulator, profile
from flashinfer_jit.emulator import disassembly
from flashinfer_jit.emulator.source_lines import LineTable
from flashinfer_jit.jit.arch import get_arch
from flashinfer_jit.jit.compiler import inspect_library
from tests.emulated.assemble import assemble

PREFILL = ("prefill", "--head-dim", "128", "--num-qo-heads", "4", "--num-kv-heads", "4", "--qo-len", "128")
DECODE = ("decode", "--head-dim", "128", "--num-qo-heads", "8", "--num-kv-heads", "2")


def as_json(capsys: pytest.CaptureFixture[str], arch: str, *options: str) -> dict:
    assert profile.main([*options, "--arch", arch, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["modelled"] is True
    (only,) = printed["profiles"]
    return only


def test_json_of_a_prefill(arch: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, arch, *PREFILL, "--kv-len", "512")
    attention, chip = found["launches"][0], found["whole_chip"]
    assert attention["kernel"].startswith("prefill") and not attention["truncated"]
    assert 0 < attention["mfma_efficiency"] < attention["loop_mfma_efficiency"] < 1
    assert chip["cycles"] == sum(launch["launch_cycles"] for launch in found["launches"])
    assert chip["seconds"] == pytest.approx(chip["cycles"] / get_arch(arch).max_clock_mhz / 1e6)
    assert chip["tflops"] == pytest.approx(4 * 4 * 128 * 512 * 128 / chip["seconds"] / 1e12)
    assert chip["peak_tflops"] == pytest.approx({"gfx942": 1307.4, "gfx950": 2517}[arch], rel=1e-3)
    hot = attention["hot_pcs"]
    assert sum(row["share"] for row in hot) <= 1
    named = [row for row in hot if row["line"]]
    assert len(named) > len(hot) // 2 and all(row["file"] == "kernel.hip" and row["source"] for row in named)
    assert not any(row["instruction"] == "?" for row in hot)


def test_everything_printed_says_modelled(arch: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert profile.main([*PREFILL, "--kv-len", "256", "--causal", "--arch", arch]) == 0
    blocks = capsys.readouterr().out.split("\n\n")
    assert len(blocks) >= 3
    assert all("modelled" in block.lower() for block in blocks)
    assert "power" in blocks[-1] and f"{get_arch(arch).num_cus} CUs" in blocks[-1] and "MHz" in blocks[-1]


def test_a_decode_without_an_objdump(
    arch: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disassembly, "find_objdumps", lambda beside: ())
    found = as_json(capsys, arch, *DECODE, "--kv-len", "1024")
    launch = found["launches"][0]
    assert "llvm-objdump" in launch["disassembled_by"]
    assert all(re.fullmatch(r"[vs]_\w+|(ds|buffer|global|flat)_\w+", row["instruction"]) for row in launch["hot_pcs"])


def test_batches_with_pages(arch: str, capsys: pytest.CaptureFixture[str]) -> None:
    pages = ("--batch", "3", "--page-size", "16")
    found = as_json(capsys, arch, *DECODE, "--kv-len", "200", *pages)
    assert found["launches"][0]["kernel"].startswith("decode") and "page" in found["launches"][0]["kernel"]
    found = as_json(capsys, arch, *PREFILL, "--kv-len", "200", "--causal", *pages)
    assert found["launches"][0]["kernel"].startswith("prefill") and "page" in found["launches"][0]["kernel"]


def test_a_sample_says_so_and_comes_close(
    arch: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = (*PREFILL[:-1], "512", "--kv-len", "1024")
    whole = as_json(capsys, arch, *shape)
    monkeypatch.setattr(profile, "LARGEST_WHOLE_FLOPS", 0.0)
    sample = as_json(capsys, arch, *shape, "--instructions", "3000")
    launch = sample["launches"][0]
    assert launch["sampled"] and "scaled up" in launch["sampling"] and "workgroups" in launch["sampling"]
    assert sample["whole_chip"]["extrapolated"] and not whole["whole_chip"]["extrapolated"]
    assert launch["launch_cycles"] == pytest.approx(whole["launches"][0]["launch_cycles"], rel=0.3)


def test_a_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "waves.png"
    assert profile.main([*PREFILL, "--kv-len", "256", "--arch", "gfx950", "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")


def test_what_it_refuses(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*options: str) -> str:
        try:
            assert profile.main(options) == 2
        except SystemExit as end:
            assert end.code == 2
        return capsys.readouterr().err

    arch = ("--arch", "gfx942")
    monkeypatch.setattr(flashinfer_jit, "BatchDecodeWithPagedKVCacheWrapper", None, raising=False)
    assert "BatchDecodeWithPagedKVCacheWrapper" in refused(*DECODE, *arch, "--kv-len", "64", "--batch", "2")
    assert "--qo-len" in refused(*PREFILL[:-2], *arch, "--kv-len", "64")
    assert "--qo-len 3" in refused(*DECODE, *arch, "--kv-len", "64", "--qo-len", "3")
    assert "--kv-len" in refused(*PREFILL, *arch, "--kv-len", "64", "--causal")
    assert "GiB" in refused(*DECODE, *arch, "--kv-len", "100000000")
    assert "'0'" in refused(*PREFILL, *arch, "--kv-len", "0")


def test_the_flops_of_a_causal_call_are_those_of_the_pairs_it_sees() -> None:
    def flops(causal: bool) -> float:
        return profile.Workload("prefill", "float16", 64, 2, 1, 3, 5, causal, 0, 1).flops

    assert flops(False) == 4 * 2 * 15 * 64
    assert flops(True) == 4 * 2 * (3 + 4 + 5) * 64


def test_line_tables_agree_with_llvm(arch: str, tmp_path: Path) -> None:
    with emulator.use_arch(arch), profile.with_line_tables(), profile.recorded(flashinfer_jit.runtime.current()) as ran:
        flashinfer_jit.single_prefill_with_kv_cache(*(torch.randn(64, 2, 64, dtype=torch.float16) for _ in range(3)))
    code_object = inspect_library(ran[0].kernel.entry.library.read_bytes())[arch]
    path = tmp_path / "kernel.co"
    path.write_bytes(code_object)
    commands = ([objdump, "-dl", f"--mcpu={arch}", str(path)] for objdump in disassembly.find_objdumps())
    runs = (subprocess.run(command, capture_output=True, text=True, check=False) for command in commands)
    listing = next((run.stdout for run in runs if run.returncode == 0), None)
    if listing is None:
        pytest.skip("no llvm-objdump that knows the GPU")
    table = LineTable(code_object)
    expected, line = {}, None
    for text in listing.splitlines():
        if place := re.match(r"; .*kernel\.hip:(\d+)$", text):
            line = int(place[1])
        elif instruction := re.search(r"// ([0-9A-F]{8,}):", text):
            expected[int(instruction[1], 16)] = line
    # Line 0 stands for no line: objdump repeats the one before it.
    compared = [(at, table.at(at)) for at in expected]
    wrong = [at for at, found in compared if found is not None and found.line != expected[at]]
    assert len(compared) > 300 and not wrong
    assert sum(found is not None for _, found in compared) > 0.7 * len(compared)


def test_a_code_object_without_lines() -> None:
    table = LineTable(assemble("s_endpgm\n", "gfx942"))
    assert len(table) == 0 and table.at(0) is None


def test_the_same_call_takes_the_same_cycles(arch: str) -> None:
    q, k, v = (torch.randn(n, 2, 64, dtype=torch.float16) for n in (96, 300, 300))
    accounts = []
    for _ in range(2):
        with emulator.use_arch(arch), emulator.timed_launches():
            flashinfer_jit.single_prefill_with_kv_cache(q.clone(), k.clone(), v.clone())
        accounts.append(emulator.last_report().timing)
    assert accounts[0] == accounts[1]
