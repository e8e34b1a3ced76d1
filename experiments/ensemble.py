"""Several networks as one (paper section 6, Table 2): trained, then tested alone and as one.

    python -m experiments.ensemble [--seeds=0,1,2] [--epochs=2]

Each seed is trained by a process of its own, as a user would start it, for so few epochs that the
networks still err; then `--mode=evaluate --ensemble=` compares the ways to combine them. Writes
ensemble.json. The runs stay in the folder of the results: started again with the same `--out`, the
command resumes where it was stopped.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from experiments.shared import runs
from experiments.shared.command import Flags, Results, add_fields, fields, listing, number, start


def main(argv: Sequence[str] | None = None) -> None:
    """Trains the networks, and asks for the comparison."""
    flags = Flags("ensemble", __doc__)
    flags.add_argument("--config", default="embedded", help="Name or file of the configuration.")
    flags.add_argument("--seeds", type=listing(int), default="0,1,2", help="One network each.")
    flags.add_argument("--epochs", type=number(0.0), default=2.0, help="Of each network.")
    add_fields(flags)
    arguments = flags.parse(argv)
    if len(set(arguments.seeds)) < 2:
        flags.error("--seeds: name two or more, such as --seeds=0,1,2")
    results = Results("ensemble", arguments)
    workdirs = [results.folder / f"W{seed}" for seed in arguments.seeds]
    lines = [
        runs.train(
            results,
            workdir.name,
            arguments.config,
            [f"epochs={arguments.epochs:g}", f"seed={seed}", *fields(arguments)],
        )
        for workdir, seed in zip(workdirs, arguments.seeds, strict=True)
    ]
    others = ",".join(map(str, workdirs[1:]))
    testing = ("main", f"--workdir={workdirs[0]}", "--mode=evaluate", f"--ensemble={others}")
    runs.call(*testing)
    lines.append(runs.line(*testing).replace(f"{results.folder}/", ""))
    found = json.loads((workdirs[0] / "ensemble.json").read_text())
    found["runs"] = [run | {"workdir": Path(run["workdir"]).name} for run in found["runs"]]
    results.write("ensemble.json", results.made_by() | {"commands": lines} | found)
    results.finish()


if __name__ == "__main__":
    start(main)
