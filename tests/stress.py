"""Many processes, the same kernels, some processes killed, round after round: python tests/stress.py --rounds 50."""

import argparse
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from support.ranks import run_round  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("rounds", 50), ("processes", 16), ("kernels", 20), ("kills", 3), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            seed = options.seed + number
            done = run_round(Path(folder), options.processes, options.kernels, options.kills, seed)
            done.check(options.processes, options.kernels)
            again = sum(done.compiled.values()) - options.kernels
            print(f"round {number + 1}: {done.seconds:.1f} s, {done.killed} killed, {again} compiled again", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
