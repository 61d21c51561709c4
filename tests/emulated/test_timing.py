"""The timing model against microbenchmarks whose answers are known."""

import numpy as np
import pytest

from flashinfer_jit import emulator
from tests.emulated.assemble import assemble
from tests.emulated.timing_anchors import ANCHORS, Anchor
from tests.emulated.timing_document import PAGE, with_tables
from tests.emulated.timing_machine import (
    EXP_CLOCKS,
    FULL_SHAPE,
    MFMA_CLOCKS,
    WAVE_OF_GROUP,
    clocks_each,
    exp,
    mfma,
    packed,
    run,
    timing,
    valu,
)

COMPUTE_UNITS = {"gfx942": 304, "gfx950": 256}
COMMON_SHAPES = ("32x32x8", "16x16x16", "32x32x16_fp8")
SHAPES = {"gfx942": COMMON_SHAPES, "gfx950": (*COMMON_SHAPES, "32x32x16", "16x16x32")}
# Wait states between a product and a vector instruction that reads it, by passes (LLVM's hazard recogniser).
RESULT_WAIT_STATES = {"gfx942": 3, "gfx950": 4}
LANE_ADDRESS = "v_mbcnt_lo_u32_b32 v3, -1, 0\nv_mbcnt_hi_u32_b32 v3, -1, v3\n"


def test_full_rate_instructions_take_four_clocks(arch: str) -> None:
    assert clocks_each("v_add_f32 v4, v4, v5", arch) == 4
    assert clocks_each("v_add_f32 v4, v5, v6", arch) == 4
    assert clocks_each("v_fma_f64 v[4:5], v[6:7], v[8:9], v[4:5]", arch) == 4
    assert clocks_each("s_add_u32 s10, s10, 1", arch) == 4


def test_slow_vector_instructions(arch: str) -> None:
    assert clocks_each(exp(0), arch) == EXP_CLOCKS[arch]
    assert clocks_each("v_exp_f32 v4, v4", arch) == EXP_CLOCKS[arch]
    assert clocks_each("v_mul_lo_u32 v4, v5, v6", arch) == 16
    if arch == "gfx950":
        assert clocks_each("v_permlane32_swap_b32 v4, v5", arch) == 20


def test_nops_wait_what_they_say(arch: str) -> None:
    assert clocks_each("s_nop 0", arch) == 4
    assert clocks_each("s_nop 9", arch) == 40
    assert clocks_each("s_sleep 2", arch) == 132


def test_matrix_instructions_issue_at_the_pace_of_their_pipe(arch: str) -> None:
    for shape in SHAPES[arch]:
        independent = "\n".join(mfma(shape, 128 + 16 * n) for n in range(4))
        assert clocks_each(independent, arch) == 4 * MFMA_CLOCKS[shape], shape
        assert clocks_each(mfma(shape), arch) == MFMA_CLOCKS[shape], f"{shape}: the same accumulator"


def test_formats_of_scaled_matrix_instructions() -> None:
    for formats, clocks in ((("0", "0"), 64), (("4", "0"), 64), (("4", "4"), 32), (("2", "4"), 32)):
        a, b = ({"0": 7, "2": 5, "4": 3}[code] for code in formats)
        body = (
            f"v_mfma_f32_32x32x64_f8f6f4 v[128:143], v[64:{64 + a}], v[80:{80 + b}], v[128:143] "
            f"cbsz:{formats[0]} blgp:{formats[1]}"
        )
        assert clocks_each(body, "gfx950") == clocks, formats


def test_products_as_operands_wait_for_the_result(arch: str) -> None:
    for shape in SHAPES[arch]:
        passes = MFMA_CLOCKS[shape] // 4
        wait = 4 * (1 + passes + RESULT_WAIT_STATES[arch])
        assert clocks_each(mfma(shape, dst=128, a=128, c=160), arch) == wait, shape
        # The next product waits for the vector instruction's result: two wait states.
        chain = mfma(shape, dst=128) + "\nv_add_f32 v64, v128, v128"
        assert clocks_each(chain, arch) == wait + 12, shape


def test_a_product_that_starts_from_part_of_another_waits(arch: str) -> None:
    assert clocks_each(mfma("16x16x16", dst=128, c=126), arch) == 4 * (1 + 4 + RESULT_WAIT_STATES[arch] - 2)


def test_vector_results_reach_the_matrix_pipe_two_wait_states_later(arch: str) -> None:
    body = "v_mov_b32 v64, 1.0\n" + mfma("4x4x4")
    assert clocks_each(body, arch) == 16
    assert clocks_each("v_mov_b32 v70, 1.0\n" + mfma("4x4x4"), arch) == 8


def test_software_nops_and_the_models_waits_agree(arch: str) -> None:
    """Code with the s_nop that compilers insert takes as long as the code that leaves them out."""
    product, use = mfma("32x32x8"), "v_add_f32 v64, v128, v128"
    states = 8 + RESULT_WAIT_STATES[arch]
    with_nop = "\n".join([product, f"s_nop {states - 1}", use, "s_nop 1"])
    assert clocks_each(with_nop, arch) == clocks_each(product + "\n" + use, arch)


@pytest.mark.parametrize(
    ("arch_name", "shape", "hidden"),
    [
        ("gfx942", "32x32x8", 7),
        ("gfx942", "16x16x16", 3),
        ("gfx942", "32x32x16_fp8", 7),
        ("gfx950", "32x32x16", 6),
        ("gfx950", "16x16x32", 2),
    ],
)
def test_vector_instructions_hide_under_matrix_instructions(arch_name: str, shape: str, hidden: int) -> None:
    for count in range(hidden + 3):
        body = "\n".join([mfma(shape), *(valu(n) for n in range(count))])
        over = max(0, count - hidden)
        assert clocks_each(body, arch_name, repeats=12) == MFMA_CLOCKS[shape] + 4 * over, count


def test_exponentials_hide_under_matrix_instructions(arch: str) -> None:
    hidden = {"gfx942": 2, "gfx950": 3}[arch]
    for count in (hidden, hidden + 1):
        body = "\n".join([mfma(FULL_SHAPE[arch]), *(exp(n) for n in range(count))])
        assert (clocks_each(body, arch) == 32) == (count == hidden)


def test_packed_instructions_never_run_beside_the_matrix_pipe(arch: str) -> None:
    product = mfma(FULL_SHAPE[arch])
    for instruction in (packed(0), "v_cvt_pk_fp8_f32 v8, v4, v5", "v_pk_add_f16 v8, v4, v5"):
        assert clocks_each(f"{product}\n{instruction}", arch) == 36, instruction


def test_waves_of_one_simd_share_its_pipes(arch: str) -> None:
    """One wave multiplies, the other wave of its SIMD does vector work: 6 instructions a product fit."""
    split = WAVE_OF_GROUP + "s_cmp_ge_u32 s10, 4\ns_cbranch_scc1 .Lvector\n"
    products = f".rept 40\n{mfma(FULL_SHAPE[arch])}\n.endr\ns_endpgm\n.Lvector:\n"
    vector = ".rept 240\n" + valu(0) + "\n.endr"
    both = timing(split + products + vector, arch, block=512, vgprs=256, accum_offset=256)
    assert both["waves_per_simd"] == 2
    assert both["cycles"] < 40 * 32 + 200
    assert both["mfma_efficiency"] == pytest.approx(40 * 32 / both["cycles"], rel=1e-5)


def test_priority_decides_between_waves_that_want_the_same_pipe(arch: str) -> None:
    text = WAVE_OF_GROUP + (
        "s_cmp_ge_u32 s10, 4\ns_cbranch_scc0 .Lsame\ns_setprio 3\n.Lsame:\ns_barrier\n.rept 100\n" + valu(0) + "\n.endr"
    )
    report = run(text, arch, block=512, vgprs=128, accum_offset=128, timeline=100_000)
    assert report.timing is not None
    last = {}
    for clock, _, wave, *_ in report.timing["timeline"]:
        last[wave] = max(last.get(wave, 0), clock)
    assert max(last[wave] for wave in range(4, 8)) + 350 < min(last[wave] for wave in range(4))


def test_lds_bandwidth(arch: str) -> None:
    """One wave reads, then one wave a SIMD: the published 16 clocks a SIMD, and the limit of the unit."""
    setup = LANE_ADDRESS + "v_lshlrev_b32 v3, 4, v3"
    alone = {"gfx942": 16, "gfx950": 16}[arch]
    together = {"gfx942": 32, "gfx950": 16}[arch]
    body = "ds_read_b128 v[4:7], v3"
    assert clocks_each(body, arch, setup=setup, lds=4096) == pytest.approx(alone, abs=0.5)
    assert clocks_each(body, arch, setup=setup, lds=4096, block=256) == pytest.approx(together, abs=0.5)
    halves = LANE_ADDRESS + "v_lshlrev_b32 v3, 3, v3"
    half = clocks_each("ds_read_b64 v[4:5], v3", arch, setup=halves, lds=4096, block=256)
    assert half == pytest.approx(together / 2, abs=0.5)
    # gfx950 reads twice as fast as it writes.
    written = clocks_each("ds_write_b128 v3, v[4:7]", arch, setup=setup, lds=4096, block=256)
    assert written == pytest.approx(32, abs=0.5)


def test_a_burst_of_lds_reads_issues_until_the_queue_is_full(arch: str) -> None:
    text = LANE_ADDRESS + "v_lshlrev_b32 v3, 4, v3\n.rept 14\nds_read_b128 v[4:7], v3\n.endr"
    report = run(text, arch, lds=4096, timeline=100)
    assert report.timing is not None
    lds = 12  # the class, by its place in the report's list
    issued = [event[0] for event in report.timing["timeline"] if event[3] == lds]
    steps = np.diff(issued)
    assert len(issued) == 14
    assert list(steps[:7]) == [4] * 7
    assert list(steps[-3:]) == [16] * 3
    assert report.timing["stall_cycles"]["lds_queue"] > 0


def test_bank_conflicts_cost_their_clocks(arch: str) -> None:
    setup = LANE_ADDRESS + "v_lshlrev_b32 v3, {shift}, v3"
    body = "ds_read_b32 v4, v3"
    banks = {"gfx942": 32, "gfx950": 64}[arch]
    # Rows as long as all banks: every lane of a phase wants the same bank.
    shift = {"gfx942": 7, "gfx950": 8}[arch]
    each = clocks_each(body, arch, setup=setup.format(shift=shift), lds=16384)
    assert each == 64
    report = run(setup.format(shift=shift) + "\n" + body, arch, lds=16384)
    assert report.timing is not None
    assert report.timing["bank_conflict_cycles"] == report.lds_conflict_cycles == 64 - 64 // banks
    assert run(setup.format(shift=2) + "\n" + body, arch, lds=16384).timing["bank_conflict_cycles"] == 0


def test_vector_l1_delivers_its_bandwidth(arch: str) -> None:
    data = np.zeros(4096, np.uint8)
    setup = "s_load_dwordx2 s[6:7], s[0:1], 0\n" + LANE_ADDRESS
    setup += "v_lshlrev_b32 v3, 4, v3\ns_waitcnt lgkmcnt(0)\nglobal_load_dwordx4 v[4:7], v3, s[6:7]\ns_waitcnt vmcnt(0)"
    each = clocks_each("global_load_dwordx4 v[4:7], v3, s[6:7]", arch, setup=setup, args=[data], repeats=140)
    assert each == 16  # 1 KB at 64 bytes a clock
    scattered = setup.replace("v_lshlrev_b32 v3, 4, v3", "v_lshlrev_b32 v3, 6, v3")
    lines = clocks_each("global_load_dword v4, v3, s[6:7]", arch, setup=scattered, args=[data], repeats=140)
    assert lines == 32  # 32 lines, one a clock


def test_a_line_on_its_way_is_not_there_yet(arch: str) -> None:
    """A second load of a line that is being fetched waits for it; a third one, later, finds it in L1."""
    data = np.zeros(4096, np.uint8)
    load = "global_load_dword v4, v3, s[6:7]\n"
    setup = "s_load_dwordx2 s[6:7], s[0:1], 0\nv_mov_b32 v3, 0\ns_waitcnt lgkmcnt(0)\n"
    cold = timing(setup + load + "s_waitcnt vmcnt(0)", arch, args=[data])
    twice = timing(setup + load + load + "s_waitcnt vmcnt(0)", arch, args=[data])
    later = timing(setup + load + "s_waitcnt vmcnt(0)\n" + load + "s_waitcnt vmcnt(0)", arch, args=[data])
    latency = {"gfx942": 1700, "gfx950": 2000}[arch]
    assert latency - 10 < cold["stall_cycles"]["vmcnt"] < latency + 50
    assert twice["cycles"] - cold["cycles"] <= 8
    assert (later["l1_hits"], later["l1_misses"]) == (1, 1)
    assert 100 < later["cycles"] - cold["cycles"] < 160


def streamed(arch: str, workgroups: int, kilobytes: int, shared: bool) -> dict:
    """Time workgroups of four waves that read ``kilobytes`` each, their own or all the same."""
    steps = kilobytes // 16
    data = np.zeros((1 if shared else workgroups) * kilobytes * 1024, np.uint8)
    text = "s_load_dwordx2 s[6:7], s[0:1], 0\nv_lshlrev_b32 v3, 4, v0\n"
    text += f"s_mul_i32 s10, s2, {0 if shared else kilobytes * 1024}\ns_waitcnt lgkmcnt(0)\n"
    text += "s_add_u32 s6, s6, s10\ns_addc_u32 s7, s7, 0\ns_mov_b32 s11, 0\n.Lnext:\n"
    text += "".join(
        f"global_load_dwordx4 v[{8 + 4 * n}:{11 + 4 * n}], v3, s[6:7]\nv_add_u32 v3, 0x1000, v3\n" for n in range(4)
    )
    text += "s_waitcnt vmcnt(4)\n"
    text += f"s_add_u32 s11, s11, 1\ns_cmp_lt_u32 s11, {steps}\ns_cbranch_scc1 .Lnext\ns_waitcnt vmcnt(0)"
    # One array index of work-item ids: only x is used.
    text = "v_and_b32 v0, 0x3ff, v0\n" + text
    return timing(text, arch, grid=workgroups, block=256, args=[data], vgprs=64, accum_offset=64)


def test_a_full_gpu_streams_at_the_units_share_of_hbm(arch: str) -> None:
    units, bytes_per_clock = COMPUTE_UNITS[arch], {"gfx942": 8.31 * 0.79, "gfx950": 13.0 * 0.75}[arch]
    found = streamed(arch, units, 64, shared=False)
    assert found["hbm_bytes"] == 64 * 1024
    rate = found["hbm_bytes"] / (found["cycles"] - {"gfx942": 1700, "gfx950": 2000}[arch])
    assert rate == pytest.approx(bytes_per_clock, rel=0.09)
    assert found["minimum_bytes"] == pytest.approx(found["requested_bytes"], rel=1e-3)


def test_what_all_units_read_comes_from_hbm_once(arch: str) -> None:
    found = streamed(arch, COMPUTE_UNITS[arch], 64, shared=True)
    assert found["l2_bytes"] + found["hbm_bytes"] == 64 * 1024
    assert found["hbm_bytes"] <= 16 * 128  # some 2 of 512 lines
    assert found["minimum_bytes"] == pytest.approx(64 * 1024, rel=0.01)


def test_few_workgroups_get_more_than_a_units_share(arch: str) -> None:
    alone = streamed(arch, 4, 64, shared=False)
    assert alone["cycles"] < streamed(arch, COMPUTE_UNITS[arch], 64, shared=False)["cycles"]


def test_counters_let_younger_loads_fly(arch: str) -> None:
    data = np.zeros(1 << 16, np.uint8)
    setup = "s_load_dwordx2 s[6:7], s[0:1], 0\nv_mov_b32 v3, 0\nv_mov_b32 v5, 0x4000\ns_waitcnt lgkmcnt(0)\n"
    warm = "global_load_dword v4, v3, s[6:7]\ns_waitcnt vmcnt(0)\n"
    loads = "global_load_dword v4, v3, s[6:7]\nglobal_load_dword v6, v5, s[6:7]\n"
    first = timing(setup + warm + loads + "s_waitcnt vmcnt(1)", arch, args=[data])
    both = timing(setup + warm + loads + "s_waitcnt vmcnt(0)", arch, args=[data])
    assert both["cycles"] - first["cycles"] > 1400


def test_lds_does_not_wait_for_scalar_loads_before_it(arch: str) -> None:
    """lgkmcnt counts what is outstanding, in whatever order it completes."""
    text = "v_mov_b32 v3, 0\ns_load_dwordx2 s[6:7], s[0:1], 0\nds_read_b32 v4, v3\ns_waitcnt lgkmcnt({})"
    data = np.zeros(64, np.uint8)
    one = timing(text.format(1), arch, args=[data], lds=1024)["cycles"]
    none = timing(text.format(0), arch, args=[data], lds=1024)["cycles"]
    assert one < 120 < 480 < none


def test_a_barrier_waits_for_the_last_wave(arch: str) -> None:
    text = WAVE_OF_GROUP + "s_cmp_eq_u32 s10, 2\ns_cbranch_scc0 .Lthere\ns_sleep 10\n.Lthere:\ns_barrier"
    found = timing(text, arch, block=256)
    assert 3 * 640 <= found["stall_cycles"]["barrier"] <= 3 * 720
    assert found["cycles"] >= 640


def test_the_hottest_of_nested_loops_is_the_inner_one(arch: str) -> None:
    body = "\n".join(valu(n) for n in range(10))
    text = f"s_mov_b32 s10, 0\n.Louter:\ns_mov_b32 s11, 0\n.Linner:\n{body}\n"
    text += "s_add_u32 s11, s11, 1\ns_cmp_lt_u32 s11, 9\ns_cbranch_scc1 .Linner\n"
    text += "s_add_u32 s10, s10, 1\ns_cmp_lt_u32 s10, 5\ns_cbranch_scc1 .Louter"
    found = timing(text, arch)
    assert found["loop_cycles"] == 10 * 4 + 4 + 4 + 16
    assert found["loop_iterations"] == 5 * 8
    assert found["loop_window_cycles"] == 5 * 7 * found["loop_cycles"]


def test_the_steady_state_of_groups_that_run_one_after_another(arch: str) -> None:
    """Half of a group's time is its prologue; the loop of each group multiplies all the time, branches aside."""
    text = "s_sleep 60\ns_mov_b32 s10, 0\n.Lnext:\n" + "\n".join(mfma("32x32x8") for _ in range(8))
    text += "\ns_add_u32 s10, s10, 1\ns_cmp_lt_u32 s10, 16\ns_cbranch_scc1 .Lnext"
    lds = {"gfx942": 65536, "gfx950": 163840}[arch]
    found = timing(text, arch, grid=3 * COMPUTE_UNITS[arch], block=256, lds=lds)
    assert (found["resident_workgroups"], found["waves_per_simd"], found["simds_used"]) == (1, 1, 4)
    assert found["timed_workgroups"] == 3
    assert found["loop_cycles"] == 256  # the loop's own instructions hide under the last product
    assert found["loop_mfma_efficiency"] == pytest.approx(1.0, abs=1e-3)
    assert found["mfma_efficiency"] < 0.6
    assert found["loop_window_cycles"] == 3 * 14 * 256


def test_occupancy_follows_from_registers(arch: str) -> None:
    for vgprs, waves in ((64, 8), (128, 4), (256, 2), (512, 1)):
        accum = min(vgprs, 256)
        found = timing("s_nop 0", arch, grid=8 * COMPUTE_UNITS[arch], block=256, vgprs=vgprs, accum_offset=accum)
        assert found["waves_per_simd"] == waves, vgprs


def test_the_same_object_and_inputs_take_the_same_cycles(arch: str) -> None:
    """Wherever the buffers lie, and however many host threads take part."""
    library = emulator.load()
    blob = assemble(
        "v_and_b32 v0, 0x3ff, v0\ns_load_dwordx2 s[6:7], s[0:1], 0\nv_lshlrev_b32 v3, 4, v0\ns_waitcnt lgkmcnt(0)\n"
        ".rept 16\nglobal_load_dwordx4 v[4:7], v3, s[6:7]\nv_add_u32 v3, 0x1000, v3\ns_waitcnt vmcnt(2)\n.endr\n"
        "s_endpgm\n",
        arch,
        arguments=["ptr"],
    )
    found = []
    for threads, offset in ((1, 0), (2, 64), (3, 4096)):
        data = np.zeros((1 << 17) + offset, np.uint8)[offset:]
        library.fij_emu_set_threads(threads)
        with emulator.timed_launches(units=4):
            report = emulator.run(blob, "kernel", grid=40, block=256, args=[data], arch=arch)
        found.append(report.timing)
    library.fij_emu_set_threads(0)
    assert found[0] == found[1] == found[2]


def test_a_sampled_launch_knows_how_long_the_whole_is(arch: str) -> None:
    blob = assemble(".rept 500\n" + valu(0) + "\n.endr\ns_endpgm\n", arch)
    grid = 40 * COMPUTE_UNITS[arch]
    with emulator.timed_launches(units=1, instruction_limit=2000, sample=16):
        found = emulator.run(blob, "kernel", grid=grid, block=64, args=[], arch=arch).timing
    assert found["sampled"] and found["truncated"] and found["instructions"] == 2000
    assert found["launch_instructions"] == 501 * grid


@pytest.mark.parametrize("anchor", ANCHORS, ids=lambda anchor: anchor.what)
def test_published_figures(anchor: Anchor) -> None:
    """A row of the table in docs/timing_model.md: it hits, or says why it does not."""
    assert anchor.hit(anchor.predict()) == (not anchor.miss)


def test_the_document_shows_the_models_own_numbers() -> None:
    """To make its tables anew: python -m tests.emulated.timing_document."""
    text = PAGE.read_text()
    assert text == with_tables(text)
