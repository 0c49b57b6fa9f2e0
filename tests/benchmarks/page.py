"""Write `docs/speed.md` from `docs/speed.json`: `python tests/benchmarks/page.py [--check]`."""

import json
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
HEAD = """# Measured speeds

Process CPU time of one core, contestants in turn, medians; written by
`python tests/benchmarks/page.py` from `docs/speed.json`, which
`RLKIT_BENCH_TABLE=docs/speed.json python -m pytest tests/benchmarks -m peers` writes. Absolute
rates belong to one shared machine; the ratios are what counts.

Regret experiments are ten Bernoulli arms, 10,000 pulls, 1,000 replicas of ours; rates are pulls a
second. "With compilation" is the whole of a first run in a fresh process. Stepping is ten arms
with regret and optimal pulls kept, against Gymnax's two arms with the reward kept; rates are
environment steps a second. Finite MDPs: stepping a random MDP of 100 states, 4 actions and 5
successors against JAX with the same alias tables; an episode of 20 steps on RiverSwim, of 5 on a
linear MDP; dynamic programming in sweeps of one model a second, whose ratio was 3.7 to 4.5 in eight
runs, as the shared cache was free or not. Responses: tokens a second of a transformer of width 64
with 2 layers, 1,024 responses of 32 tokens, against `generate` of transformers with its cache.
Chains of diffusion: 1e5 of RING(2), 20 steps, float32, against a loop over `DDIMScheduler.step` of
diffusers with the same mixture's denoiser written plainly or with matrix products.
Bandits, finite MDPs, planning and diffusion were measured in separate runs.

| Race | Contestant | Rate or value | Ours is faster by |
|---|---|---:|---:|
"""


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    race = row["race"].removeprefix("test_").replace("_", " ")
    if "regret[" in race:
        race = "regret, " + race.split("[")[1].removesuffix("]").split("-")[0]
    number = f"{row['rate']:,.0f}" if "rate" in row else f"{row['value']:,.2f}"
    ratio = f"{row['ratio']:,.1f}" if "ratio" in row else ""
    return f"| {race} | {row['contestant']} | {number} | {ratio} |\n"


def main(check: bool) -> int:
    """Write the page, or return 1 if it is not what would be written."""
    rows = json.loads((DOCS / "speed.json").read_text(encoding="utf-8"))
    page, target = HEAD + "".join(map(line, rows)), DOCS / "speed.md"
    if check:
        return int(target.read_text(encoding="utf-8") != page)
    target.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
