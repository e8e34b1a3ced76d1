"""What the paper says, each sentence a command with its result.

    python -m experiments.claims                     the table of all claims
    python -m experiments.claims lrn depth           these, tried
    python -m experiments.claims all --seeds=3       all of them

A claim is tried on small networks, as many times as there are seeds; every number has its 95%
interval over seeds, and runs that share a seed are compared with each other. The verdict is "seen",
"not seen", "the opposite", or "cannot be told at this scale". In a claim no test image chooses
anything. Finished runs stand in runs.jsonl of the folder of the results and are not trained again:
started again with the same `--out`, the command goes on. Writes NAME.json and NAME.png of every
claim that was tried, claims.md, the page of all that are there, and claims.png, their differences.
"""

import argparse
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alexnet_jax.settings.fields import nearest
from experiments.claims import page, picture
from experiments.claims.catalogue import CLAIMS
from experiments.claims.claim import Claim
from experiments.claims.curves import at_the_end, course
from experiments.claims.statistics import difference, mean, verdict
from experiments.claims.training import Trainer
from experiments.shared.command import (
    PUBLISHED,
    Flags,
    Results,
    add_fields,
    fields,
    listing,
    number,
    say,
    start,
)
from experiments.shared.journal import Journal

CONFIGS = "embedded_hard,fashion_mnist_small"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags."""
    flags = Flags("claims", __doc__)
    add = flags.add_argument
    add("names", nargs="*", metavar="NAME", help="Claims to try, or all.")
    add("--config", type=listing(), default=CONFIGS, help="Networks and data to try them on.")
    add(
        "--seeds",
        type=number(3),
        help="Runs of every network; each claim has its own number. (relu: the first chooses the "
        "rates, the others are compared.)",
    )
    add(
        "--at_once",
        type=number(1),
        help="Runs that are trained side by side, each on its share of the cores; as many as there "
        "are cores, which is best for small networks. One that fills a GPU wants 1.",
    )
    add_fields(flags)
    arguments = flags.parse(argv)
    if arguments.names == ["all"]:
        arguments.names = list(CLAIMS)
    for name in arguments.names:
        if name not in CLAIMS:
            near = nearest(name, CLAIMS)
            flags.error(f"{name}: no such claim{near} There are {', '.join(CLAIMS)}")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Tries claims, or shows what was found."""
    arguments = parse(argv)
    if not arguments.names:
        print(page.listing(read(arguments.out or PUBLISHED / "claims")))
        if arguments.out is None and (own := Path("results-claims")).exists():
            say(f"Those are the published results; yours are shown by --out={own}")
        return
    results = Results("claims", arguments, ("scipy",))
    results.path("runs.jsonl")
    tried: dict[str, dict[str, Any]] = {name: {} for name in CLAIMS}
    for config in arguments.config:
        trainer = Trainer(results.folder, config, fields(arguments), arguments.at_once)
        for name in arguments.names:
            claim = CLAIMS[name]
            if not claim.applies(trainer.config):
                say(f"{name}: {config} says nothing of it")
                continue
            arms = trainer.distinct(claim.arms)
            if same := [arm for arm in claim.arms if arm not in arms]:
                say(f"{name}: {config} has nothing to change for {', '.join(same)}: left out")
            if len(arms) == 1 < len(claim.arms):
                continue
            claim = dataclasses.replace(claim, arms=arms)
            seeds = range(arguments.seeds or claim.seeds)
            found = results.made_by() | judge(claim, trainer, seeds)
            found |= {"load_average": results.made_by()["load_average"]}
            tried[name][" ".join([config, *fields(arguments)])] = plain(found)
            whole = results.earlier(f"{name}.json") | tried[name]
            results.write(f"{name}.json", whole)
            print(page.paragraph(claim, whole))
            picture.draw(claim, whole, results.path(f"{name}.png"))
    every = {
        name: whole for name in CLAIMS if (whole := results.earlier(f"{name}.json") | tried[name])
    }
    if not every:
        return
    if results.publish_to is not None:  # all that the page will show, not what was tried alone
        for name, whole in every.items():
            results.write(f"{name}.json", whole)
            picture.draw(CLAIMS[name], whole, results.path(f"{name}.png"))
        Journal(results.path("runs.jsonl"), "").add(results.publish_to / "runs.jsonl")
    picture.overview(every, results.path("claims.png"))
    results.write("claims.md", page.page(every))
    results.finish()


def judge(claim: Claim, trainer: Trainer, seeds: Sequence[int]) -> dict[str, Any]:
    """Trains what a claim needs on one dataset, compares and judges."""
    wanted = dict(claim.arms)
    before = [trainer.first(claim.before, seeds)]
    if claim.chosen is not None:
        before.append(trainer.runs(wanted, seeds[:1], weights=claim.weights))
        wanted = {name: wanted[name] for name in claim.chosen(before[-1])}
    runs = trainer.runs(wanted, seeds, weights=claim.weights)
    arms = {}
    for name, change in wanted.items():
        assignments = trainer.assignments(change)
        errors = {str(views): [run.error(views) for run in runs[name]] for views in (1, 10)}
        errors["training"] = [at_the_end(run) for run in runs[name]]
        arms[name] = {
            "command": trainer.command(assignments),
            "error": {where: mean(of)._asdict() for where, of in errors.items()},
            "errors": errors,
        } | ({"course": course(runs[name])} if claim.level else {})
    comparisons = [
        {
            **vars(comparison),
            "difference": difference(comparison)._asdict(),
            "verdict": verdict(comparison),
        }
        for comparison in claim.compare(runs)
    ]
    tests = [run.test[1] for of in runs.values() for run in of if run.test]
    return {
        "dataset": trainer.config.data.source,
        "test_images": tests[0]["examples"] if tests else 0,
        "network": trainer.network(),
        "seeds": list(seeds),
        **trainer.about(*before, runs),
        "arms": arms,
        "comparisons": comparisons,
        "extra": claim.extra(runs) if claim.extra else [],
    }


def plain(found: Any) -> Any:
    """The same for a file of JSON, which has null where there is no number."""
    if isinstance(found, dict):
        return {name: plain(of) for name, of in found.items()}
    if isinstance(found, list | tuple):
        return [plain(of) for of in found]
    return None if isinstance(found, float) and not math.isfinite(found) else found


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """What was found of each claim, by configuration."""
    files = {name: folder / f"{name}.json" for name in CLAIMS}
    return {name: json.loads(path.read_text()) for name, path in files.items() if path.is_file()}


if __name__ == "__main__":
    start(main)
