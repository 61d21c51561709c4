"""Pictures of the timing model's account: what each wave issues when, and where a launch stands on the roofline."""

from pathlib import Path
from typing import Any

from flashinfer_jit.errors import UnsupportedConfigError

# Instruction classes of a timeline event, in the order of the emulator's list, as drawn.
CLASSES = (
    *("scalar", "scalar", "scalar", "wait", "wait", "scalar", "VALU", "packed VALU", "exp and the like", "VALU"),
    *("VALU", "MFMA", "LDS", "memory", "memory", "memory", "memory", "memory", "memory"),
)
_COLOURS = {
    "MFMA": "#c44e52",
    "VALU": "#4c72b0",
    "packed VALU": "#8172b3",
    "exp and the like": "#dd8452",
    "LDS": "#55a868",
    "memory": "#937860",
    "scalar": "#b0b0b0",
    "wait": "#e8e8e8",
}


def plot(path: Path, title: str, timing: dict[str, Any], roofline: dict[str, float]) -> None:
    """Draw a timeline of each wave by instruction class and a roofline into a PNG file.

    Parameters
    ----------
    path : Path
        The file to write.
    title : str
        What was modelled.
    timing : dict
        ``Report.timing`` with a timeline.
    roofline : dict of str to float
        ``peak_tflops``, ``peak_gbps``, ``flops_per_byte`` and ``tflops`` of the launch.

    Raises
    ------
    UnsupportedConfigError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UnsupportedConfigError("--plot needs matplotlib: pip install flashinfer_jit[bench]") from None
    figure = Figure(figsize=(15, 9), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{title} (modelled, not measured)")
    timeline, roof = figure.subplots(2, 1, height_ratios=(2, 1))
    _draw_timeline(timeline, timing["timeline"], timing)
    _draw_roofline(roof, roofline)
    figure.savefig(path, dpi=110, format="png")


def _draw_timeline(axes: Any, events: list[list[int]], timing: dict[str, Any]) -> None:
    # The middle of what was recorded: the start says little of the steady state.
    end = max((event[0] for event in events), default=0)
    span = min(end, max(4000, 3 * int(timing["loop_cycles"])))
    begin = (end - span) // 2
    shown = [event for event in events if begin <= event[0] <= begin + span]
    rows = {wave: row for row, (_, wave) in enumerate(sorted({(event[4], event[2]) for event in shown}))}
    simd_of = {event[2]: event[4] for event in shown}
    for name, colour in _COLOURS.items():
        for wave, row in rows.items():
            bars = [(clock, clocks) for clock, clocks, of, kind, _ in shown if of == wave and CLASSES[kind] == name]
            if bars:
                axes.broken_barh(bars, (row - 0.42, 0.84), facecolors=colour)
    axes.set_yticks(list(rows.values()), [f"SIMD {simd_of[wave]} wave {wave}" for wave in rows])
    axes.set_xlabel("modelled clock")
    axes.set_xlim(begin, begin + span)
    handles = [axes.barh(0, 0, color=colour, label=name) for name, colour in _COLOURS.items()]
    axes.legend(handles=handles, loc="upper center", ncols=len(handles), bbox_to_anchor=(0.5, 1.08), frameon=False)


def _draw_roofline(axes: Any, roofline: dict[str, float]) -> None:
    peak, bandwidth = roofline["peak_tflops"], roofline["peak_gbps"] / 1000
    here, reached = roofline["flops_per_byte"], roofline["tflops"]
    ridge = peak / bandwidth
    low, high = min(here, ridge) / 8, max(here, ridge) * 8
    axes.plot([low, ridge, high], [low * bandwidth, peak, peak], color="#444444")
    axes.plot([here], [reached], "o", color="#c44e52")
    axes.annotate(f" {reached:.3g} TFLOP/s modelled", (here, reached))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("attention FLOP per byte of q, k, v and o")
    axes.set_ylabel("TFLOP/s at the maximum clock")
    axes.grid(True, which="both", alpha=0.2)
