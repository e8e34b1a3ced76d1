"""The claims: what is compared is what they say, and the verdicts are honest."""

import argparse
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from run_fixtures import Tiny

from alexnet_jax import settings
from alexnet_jax.errors import ConfigError, UserError
from alexnet_jax.settings.fields import flatten
from alexnet_jax.settings.files import LATER
from experiments.claims import __main__ as command
from experiments.claims import (
    answers,
    augmentation,
    kernels,
    lesions,
    neighbours,
    page,
    picture,
    pooling,
    pretraining,
    relu,
    statistics,
)
from experiments.claims.catalogue import CLAIMS
from experiments.claims.claim import RATIO, WRONG, Amount, Claim, Comparison, Run, errors, unchanged
from experiments.claims.curves import at_the_end, course, steps_until
from experiments.claims.training import Trainer, places
from experiments.shared import command as shared
from experiments.shared.journal import Journal

CONFIGS = ("embedded_hard", "fashion_mnist_small", "imagenet", "imagenet:source")


def run(seed: int, *, error: float = 0.5, training: Any = ()) -> Run:
    """A run that came to an error, in one view and in ten."""
    test = {views: {"top1_error": error, "loss": 1.0, "examples": 100} for views in (1, 10)}
    return Run(seed, test, training, Path("W"))


def compared(base: list[float], other: list[float], sign: int = 1, size: float = 1) -> Comparison:
    """Numbers of some seeds."""
    return Comparison("other", WRONG, base, other, sign, size)


# --- statistics -----------------------------------------------------------------------------------


def test_an_interval_is_that_of_student() -> None:
    """Of 1 to 5 the mean is 3 and its standard error sqrt(2.5 / 5); t at 4 degrees is 2.776."""
    found = statistics.mean([1, 2, 3, 4, 5])
    assert found.mean == 3
    assert found.high - 3 == pytest.approx(2.7764 * math.sqrt(0.5), rel=1e-4)
    assert 3 - found.low == pytest.approx(found.high - 3)
    assert statistics.mean([7.0]) == (7, -math.inf, math.inf)


def test_intervals_hold_the_truth_in_95_of_100() -> None:
    """Of 2,000 samples of five; the standard deviation of that count is half a point."""
    samples = np.random.default_rng(0).normal(1, 3, (2000, 5))
    intervals = map(statistics.mean, samples)
    assert np.mean([found.low < 1 < found.high for found in intervals]) == pytest.approx(
        0.95, abs=0.02
    )


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    """The textbook's case; and of the logarithm of a mean, about that over the mean."""
    values = np.random.default_rng(0).normal(10, 1, 40)
    found = statistics.jackknife(lambda some: float(values[list(some)].mean()), 40)
    np.testing.assert_allclose(found, values)
    found = statistics.jackknife(lambda some: math.log(values[list(some)].mean()), 40)
    assert np.mean(found) == pytest.approx(math.log(values.mean()))
    assert np.std(found) == pytest.approx(values.std() / values.mean(), rel=0.05)


def test_a_difference_is_of_runs_that_share_a_seed() -> None:
    """Seeds differ by tens, the networks by one: paired, that is seen."""
    base = [10.0, 40.0, 70.0, 20.0]
    found = statistics.difference(compared(base, [number + 1 for number in base]))
    assert (found.mean, found.low, found.high) == pytest.approx((1, 1, 1))
    with pytest.raises(ValueError):
        statistics.difference(compared(base, base[1:]))


@pytest.mark.parametrize(
    ("differences", "sign", "expected"),
    [
        ((1.0, 1.2, 0.9, 1.1), 1, statistics.SEEN),
        ((1.0, 1.2, 0.9, 1.1), -1, statistics.OPPOSITE),
        ((-1.0, -1.2, -0.9, -1.1), 1, statistics.OPPOSITE),
        ((-1.0, -1.2, -0.9, -1.1), -1, statistics.SEEN),
        ((0.1, -0.1, 0.2, -0.2), 1, statistics.NOT_SEEN),
        ((0.1, -0.1, 0.2, -0.2), -1, statistics.NOT_SEEN),
        ((3.0, -3.0, 2.0, -1.0), 1, statistics.UNKNOWN),
        ((1.0,), 1, statistics.UNKNOWN),
        ((1.0, 1.2, 0.9, 1.1, math.nan), 1, statistics.UNKNOWN),
        ((0.1, -0.1, 0.2, -0.2, math.nan), 1, statistics.UNKNOWN),
        ((math.nan, math.nan), 1, statistics.UNKNOWN),
    ],
)
def test_verdicts(differences: tuple[float, ...], sign: int, expected: str) -> None:
    """By the side of the interval, and by the size that is claimed, which is 1; who never came to a
    number might have had any."""
    zeros = [0.0] * len(differences)
    assert statistics.verdict(compared(zeros, list(differences), sign)) == expected


def test_the_step_of_an_error_lies_on_a_line_between_two_rows() -> None:
    """A row is the mean over the steps since the one before: it stands for their middle."""
    rows = ((10, 2.0, 0.9), (20, 1.5, 0.5), (30, 1.0, 0.1))
    assert steps_until(run(0, training=rows), 0.5) == 15
    assert steps_until(run(0, training=rows), 0.3) == pytest.approx(20)
    assert steps_until(run(0, training=rows), 0.95) == pytest.approx(2.5)  # from all wrong at 0
    assert math.isnan(steps_until(run(0, training=rows), 0.05))
    assert math.isnan(steps_until(run(0), 0.5))


def test_the_training_error_at_the_end_is_of_the_last_tenth_of_the_steps() -> None:
    """Rows count by their steps, the last may have few."""
    rows = ((80, 1.0, 0.9), (100, 1.0, 0.3), (105, 1.0, 0.2))
    assert at_the_end(run(0, training=rows)) == pytest.approx(100 * (20 * 0.3 + 5 * 0.2) / 25)
    assert math.isnan(at_the_end(run(0)))


def test_a_course_is_the_mean_of_all_runs_at_each_row() -> None:
    """Of runs that have the same rows."""
    runs = [
        run(0, training=((10, 2.0, 0.9), (20, 1.5, 0.5))),
        run(1, training=((10, 1.0, 0.7),) * 2),
    ]
    assert course(runs) == [(10, 0.8), (20, 0.6)]


def test_rates_are_chosen_by_a_run_that_is_not_compared() -> None:
    """tanh is best at 0.01 by the first seed, and then takes 3 times the steps of ReLU at 0.02."""

    def courses(*steps: int) -> list[Run]:
        rows = [((step * 2, 1.0, 0.2),) for step in steps]
        return [run(seed, training=training) for seed, training in enumerate(rows)]

    runs = {name: courses(500, 500, 500) for name in relu.ARMS}
    runs |= {"relu at 0.02": courses(90, 100, 200), "tanh at 0.01": courses(400, 300, 600)}
    runs["tanh at 0.002"] = courses(450, 1, 1)
    arms = relu.chosen(runs)
    assert arms == ["relu at 0.02", "tanh at 0.01"]
    (found,) = relu.compare({name: runs[name] for name in arms})
    assert found.other == pytest.approx([3, 3]) and found.base == [1, 1]


def test_a_rate_at_the_end_of_those_tried_is_told() -> None:
    """One beyond may be faster, and the ratio another."""
    assert relu.extra({relu.name("relu", 0.002): [], relu.name("tanh", 0.05): []}) == []
    (told,) = relu.extra({relu.name("relu", 0.002): [], relu.name("tanh", relu.RATES[-1]): []})
    assert told.startswith(f"At an end of the rates that were tried: tanh at {relu.RATES[-1]:g};")


def test_who_never_learns_is_no_tie() -> None:
    """At no rate tanh comes to the error: the rate that came nearest is compared, and nothing can
    be told; a run without a step is the last to be taken."""
    never = {name: [run(0, training=((9, 1.0, 0.8),))] * 3 for name in relu.ARMS}
    never["relu at 0.02"] = [run(seed, training=((9, 1.0, 0.1),)) for seed in range(3)]
    never["tanh at 0.01"] = [run(seed, training=((9, 1.0, 0.6),)) for seed in range(3)]
    never["tanh at 0.0002"] = [run(0)] * 3
    arms = relu.chosen(never)
    assert arms == ["relu at 0.02", "tanh at 0.01"]
    (found,) = relu.compare({name: never[name] for name in arms})
    assert statistics.verdict(found) == statistics.UNKNOWN


def test_to_overfit_is_to_know_the_training_images_better(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both losses are those of the network at test; steps are counted to a training error."""
    course = ((40, 1.0, 0.6), (80, 1.0, 0.4)), ((20, 1.0, 0.6), (40, 1.0, 0.4))
    runs = {
        name: [run(seed, error=0.2, training=training) for seed in range(3)]
        for name, training in zip(("dropout", "without"), course, strict=True)
    }
    losses = {"train": 0.1, "test": 0.5}

    def loss(one: Run, split: str) -> float:
        return losses[split] if one in runs["without"] else 0.4

    monkeypatch.setattr(answers, "loss", loss)
    test, gap, steps = CLAIMS["dropout"].compare(runs)
    assert test.base == test.other == [pytest.approx(20)] * 3
    assert gap.base == [0, 0, 0] and gap.other == pytest.approx([0.4] * 3)
    assert steps.other == pytest.approx([2] * 3)


# --- the claims -----------------------------------------------------------------------------------


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("name", CLAIMS)
def test_the_networks_of_a_claim_differ_as_it_says(name: str, config: str) -> None:
    """The first is what stands in the configuration, but for the claim that sets all; each of the
    others is another network or another training, and can be."""
    claim, base = CLAIMS[name], settings.load(config)
    if not claim.applies(base):
        pytest.skip("says nothing of it")
    seen = []
    for change in claim.arms.values():
        other = base.copy_and_resolve_references()
        change(other)
        settings.check(other)
        flat = flatten(other)
        assert flat not in seen
        seen.append(flat)
    if name not in ("relu", "lighting"):
        assert seen[0] == flatten(base) | {"log_every": seen[0]["log_every"]}


@pytest.mark.parametrize("config", CONFIGS)
def test_pooling_without_overlap_gives_fc6_as_many_maps(config: str) -> None:
    """ "outputs of equivalent dimensions", or a word about it."""
    base = settings.load(config)
    other = base.copy_and_resolve_references()
    pooling.without_overlap(other)
    assert other.model.pool_window == 2
    sides = settings.network(base).final_maps(), settings.network(other).final_maps()
    assert sides[0] == sides[1]


def test_errors_are_compared_in_ten_views_as_a_share_of_the_first() -> None:
    """The size that a claim amounts to is of the error here."""
    runs = {
        "a": [run(0, error=0.2), run(1, error=0.4)],
        "b": [run(0, error=0.5), run(1, error=0.4)],
    }
    (found,) = errors(Amount(0.1, "#1"))(runs)
    assert (found.what, found.sign, found.size) == ("b", 1, pytest.approx(3))
    assert found.source == "#1"
    (found,) = errors({"b": Amount(0.2, "#2")}, sign=-1)(runs)
    assert (found.sign, found.size, found.source) == (-1, pytest.approx(6), "#2")
    assert (found.base, found.other) == (pytest.approx([20, 40]), pytest.approx([50, 40]))


def test_a_fine_tuning_is_compared_with_its_own_rate_as_well() -> None:
    """Or a tenth of the rate would be blamed on what was seen before."""
    ends = {"NOTHING": 0.2, "OTHERS": 0.1, "SLOW_NOTHING": 0.6, "SLOW_OTHERS": 0.5}
    runs = {getattr(pretraining, name): [run(0, error=end)] for name, end in ends.items()}
    assert runs.keys() == pretraining.CLAIM.arms.keys()
    found = pretraining.CLAIM.compare(runs)
    assert [(of.base, of.other) for of in found] == [
        ([pytest.approx(base)], [pytest.approx(other)])
        for base, other in ((20, 10), (20, 50), (60, 50))
    ]
    assert "both" in found[2].what and {of.sign for of in found} == {-1}


def test_where_a_fine_tuning_begins_is_said() -> None:
    """It may begin ahead and end behind."""
    starts = {"NOTHING": 0.9, "OTHERS": 0.4, "SLOW_NOTHING": 0.95, "SLOW_OTHERS": 0.45}
    runs = {
        getattr(pretraining, name): [
            run(0, training=((25, 2.0, start + by), (50, 1.0, 0.1))) for by in (-0.02, 0.02)
        ]
        for name, start in starts.items()
    }
    assert pretraining.CLAIM.extra is not None
    (found,) = pretraining.CLAIM.extra(runs)
    assert re.findall(r"\d+%?", found) == ["25", "90%", "40%", "95%", "45%"]


# --- the command ----------------------------------------------------------------------------------


def test_nothing_tried_is_nothing_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a dataset that says nothing of a claim."""
    command.main(["pretraining", "--config=embedded", f"--out={tmp_path}/out"])
    assert "pretraining: embedded says nothing of it" in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*.*"))


def test_neighbours_of_the_same_class_are_counted() -> None:
    """Of ten points on a line, the six nearest to the first are 0 to 5, to the last 4 to 9."""
    points, labels = np.arange(10.0)[:, None], np.array([0, 0, 0, 1, 1, 1, 1, 1, 1, 1])
    found = neighbours.share(points[[0, 9]], labels[[0, 9]], points, labels)
    assert found == pytest.approx(100 * (3 + 6) / 12)


def test_the_list_of_claims_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Each with its section, what 2012 found, and its command."""
    command.main([])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for name in CLAIMS:
        assert f"$ python -m experiments.claims {name}\n" in out + "\n"
    with pytest.raises(SystemExit):
        command.main(["depht"])
    assert "did you mean 'depth'?" in capsys.readouterr().err


def worse(config: ConfigDict) -> None:
    """A change."""
    config.optim.learning_rate = 1e-7


def from_worse(config: ConfigDict) -> None:
    """Another."""
    config.init_from = "worse"


@pytest.mark.slow
def test_a_claim_is_run_judged_and_not_run_again(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With real runs, two seeds of three networks, one of which starts from the weights of another,
    of the same seed; what is in the journal is not trained again."""
    arms = {"a": unchanged, "b": worse, "c": from_worse}
    claim = Claim(
        "tiny", "0", "It learns", "so", arms, errors(Amount(0.1, "ours")), before={"worse": worse}
    )
    monkeypatch.setitem(CLAIMS, "tiny", claim)
    arguments = ["tiny", f"--config={tiny.config}", "--seeds=3", f"--out={tmp_path / 'out'}"]
    command.main(arguments)
    found = json.loads((tmp_path / "out" / "tiny.json").read_text())[str(tiny.config)]
    comparison, _ = found["comparisons"]
    assert found["seeds"] == [0, 1, 2] and len(comparison["base"]) == 3
    assert found["runs"] == 9 and found["seconds_a_run"] > 0 and found["trained_at"]
    assert found["arms"]["b"]["command"].endswith("--config.optim.learning_rate=1e-07")
    assert (tmp_path / "out" / "tiny.png").stat().st_size > 1000
    assert comparison["verdict"] in (tmp_path / "out" / "claims.md").read_text()
    journal = (tmp_path / "out" / "runs.jsonl").read_text()
    assert len(journal.splitlines()) == 9  # "b" is the network that "c" starts from
    first, then = found["arms"]["c"]["command"].split(" && ")
    assert "--workdir=W0" in first and "--config.optim.learning_rate=1e-07" in first
    assert "--workdir=W " in then and "--config.init_from=W0" in then
    told = [log.read_text() for log in (tmp_path / "out" / "logs").iterdir()]
    starts = {line.split()[-1] for text in told for line in text.splitlines() if "first w" in line}
    given = [settings.read(Path(start[:-1]) / "config.json") for start in starts]
    assert sorted(config.seed for config in given) == [0, 1, 2]
    assert all(config.optim.learning_rate == 1e-7 for config in given)
    command.main(arguments)
    assert (tmp_path / "out" / "runs.jsonl").read_text() == journal
    capsys.readouterr()


def too_fast(config: ConfigDict) -> None:
    """A rate at which the loss is no number any more after a few steps."""
    config.optim.learning_rate = 1e6


@pytest.mark.slow
def test_a_rate_that_is_too_high_is_a_finding_and_no_end(tiny: Tiny, tmp_path: Path) -> None:
    """Its run never comes to an error, and has none to be compared; other failures are said."""
    trainer = Trainer(tmp_path, str(tiny.config))
    (diverged,) = trainer.runs({"too fast": too_fast}, [0])["too fast"]
    assert math.isnan(steps_until(diverged, 0.01)) and math.isnan(diverged.error())
    assert (tmp_path / "runs.jsonl").read_text().count("\n") == 1
    with pytest.raises(UserError, match="ended with 1: error: folder:/none"):
        trainer.runs({"nothing to read": lambda c: c.data.update(source="folder:/none")}, [0])


def test_a_comparison_with_more_normalisation_looks_for_less_error() -> None:
    """The arms with less of it should err more, that with the released net's second norm less."""
    errors_of = {
        "with it": 0.4,
        "without": 0.5,
        "after conv1 alone": 0.45,
        "and within each map": 0.3,
    }
    runs = {arm: [run(0, error=of), run(1, error=of)] for arm, of in errors_of.items()}
    found = CLAIMS["lrn"].compare(runs)
    assert {statistics.verdict(comparison) for comparison in found} == {statistics.SEEN}


def test_a_field_that_comes_later_renames_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is at what was before it; else it is another run, and so is another seed. Where data
    lie is no part of the name."""
    trainer = Trainer(tmp_path, "embedded_hard")
    name = trainer.key([], 0)
    load = settings.load

    def with_a_field(spec: str) -> ConfigDict:
        config = load(spec)
        with config.unlocked():
            config.optim.later = 1.0
        return config

    monkeypatch.setattr(settings, "load", with_a_field)
    monkeypatch.setitem(LATER, "optim.later", 1.0)
    assert trainer.key([], 0) == name == trainer.key(["data.dir=/elsewhere"], 0)
    assert name not in (trainer.key(["optim.later=2.0"], 0), trainer.key([], 1))


def test_a_run_is_named_by_what_it_starts_from(tmp_path: Path) -> None:
    """And not by the word for it."""
    trainer = Trainer(tmp_path, "embedded_hard")
    names = set()
    for rate in (0.1, 0.2):
        trainer.before["there"] = [f"optim.learning_rate={rate}"]
        names.add(trainer.key(["init_from=there"], 0))
    assert len({*names, trainer.key([], 0)}) == 3


def test_a_file_of_results_has_null_where_there_is_no_number() -> None:
    """What JSON cannot say otherwise."""
    found = command.plain({"a": [1.5, math.nan], "b": statistics.mean([2])._asdict(), "c": "d"})
    text = json.dumps(found, allow_nan=False)
    assert text == '{"a": [1.5, null], "b": {"mean": 2.0, "low": null, "high": null}, "c": "d"}'


def test_weights_of_a_run_that_was_broken_off_are_none(tmp_path: Path) -> None:
    """Its config.json is there from its first step on; its errors stand in a journal that was
    copied."""
    trainer = Trainer(tmp_path, "embedded_hard")
    workdir = tmp_path / "runs" / "key"
    assert not trainer._is_whole("key")
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text("{}")
    rows = [{"split": "train", "step": 300}, {"split": "test", "step": 625}]
    assert not trainer._is_whole("key")
    (workdir / "metrics.jsonl").write_text(json.dumps(rows[0]) + "\n")
    assert not trainer._is_whole("key")
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert trainer._is_whole("key")


def test_other_images_are_another_run(tmp_path: Path) -> None:
    """A cache says which they are, whatever the source is."""
    trainer = Trainer(tmp_path, "embedded_hard")
    assert trainer.key(["data.cache=/mine"], 0) != trainer.key([], 0)
    assert trainer.key(["data.dir=/mine"], 0) == trainer.key([], 0)


def test_what_is_published_is_added_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim that is tried alone takes no other's place on the page, nor another dataset's; what
    lies in the folder of an earlier time takes none that is published."""
    monkeypatch.setattr(shared, "PUBLISHED", tmp_path / "published")
    there, here = tmp_path / "published" / "claims", tmp_path / "here"
    for folder, found in ((there, {"one": 1, "two": 2}), (here, {"two": 3})):
        folder.mkdir(parents=True)
        (folder / "lrn.json").write_text(json.dumps(found))
    (there / "runs.jsonl").write_text('{"key": "a", "x": 1}\n{"key": "b", "x": 2}\n')
    (here / "runs.jsonl").write_text('{"key": "b", "x": 3}\n')
    arguments = argparse.Namespace(command="c", out=here, publish=False)
    assert shared.Results("claims", arguments).earlier("lrn.json") == {"two": 3}
    monkeypatch.setattr(shared.machine, "describe", lambda _: {"commit": "abc"})
    arguments.publish = True
    assert shared.Results("claims", arguments).earlier("lrn.json") == {"one": 1, "two": 2}
    Journal(here / "runs.jsonl", "").add(there / "runs.jsonl")
    rows = Journal(here / "runs.jsonl", "").rows
    assert [row["x"] for row in rows.values()] == [3, 1]


def test_runs_side_by_side_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each core is of one run; where a system cannot pin them, none is."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {9, 2, 4, 5, 7}, raising=False)
    assert places(None) == ["2", "4", "5", "7", "9"]
    assert places(2) == ["2,5,9", "4,7"] and places(1) == ["2,4,5,7,9"]
    with pytest.raises(UserError, match="--at_once=6: there are 5 cores"):
        places(6)
    monkeypatch.delattr(os, "sched_getaffinity")
    assert places(None) == [""] and places(3) == ["", "", ""]


def test_the_greyer_tower_has_less_than_half_of_the_colour_of_random_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of two runs the greyer towers have 0.1 and 0.3 of colour."""
    found = iter(
        {"by chance": 0.05, "difference": high - low, "towers": [{"mean": high}, {"mean": low}]}
        for high, low in ((0.6, 0.1), (0.5, 0.3))
    )
    monkeypatch.setattr(kernels, "towers", lambda run: next(found))
    apart, grey = kernels.compare({"it": [Run(0, {}, [], Path()), Run(1, {}, [], Path())]})
    assert (apart.base, apart.other) == ([0.05, 0.05], pytest.approx([0.5, 0.2]))
    assert (grey.base, grey.other, grey.sign) == ([1 / 3, 1 / 3], [0.1, 0.3], -1)


def test_what_ten_views_are_worth_is_told_of_every_augmentation() -> None:
    """Errors of 30 and 32% in one view, 28 and 29% in ten: 2 and 3 points."""

    def run(one: float, ten: float) -> Run:
        return Run(0, {1: {"top1_error": one}, 10: {"top1_error": ten}}, [], Path())

    (told,) = augmentation.extra({"neither": [run(0.30, 0.28), run(0.32, 0.29)]})
    assert "minus that in ten, in points: neither +2.50 (-3.85 to +8.85)." in told


def test_a_network_that_cannot_be_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    """By the field."""
    trainer = Trainer(tmp_path, "embedded_hard", ["model.conv1.width=0"])
    with pytest.raises(ConfigError, match="conv1"):
        trainer.runs({"a": unchanged}, [0])
    assert not (tmp_path / "runs").exists()


def test_the_page_and_the_picture(tmp_path: Path) -> None:
    """All that was found, with its verdict; the names of networks as they are."""
    comparison = compared([20.0, 21, 22], [23.0, 25, 24])
    result = {
        "dataset": "embedded/hard",
        "test_images": 4000,
        "network": "a network",
        "seeds": [0, 1, 2],
        "runs": 6,
        "trained_at": ["abc", "def"],
        "seconds_a_run": 90.2,
        "arms": {
            "with it": {
                "error": {
                    where: statistics.mean([20, 21, 22])._asdict()
                    for where in ("training", "1", "10")
                }
            }
        },
        "comparisons": [
            vars(comparison)
            | {"difference": statistics.difference(comparison)._asdict(), "verdict": "seen"}
        ],
        "extra": ["A word more."],
        "command": "python -m experiments.claims lrn",
        "machine": {
            "processor": "P", "cores": 2, "python": "3", "packages": {}, "commit": "abc",
        },
        "load_average": {"before": [0.0], "after": [0.0]},
    }  # fmt: skip
    found = {"embedded_hard": result}
    text = page.page({"lrn": found})
    assert "| 24.00 instead of 21.00 % wrong, +3.00 (+0.52 to +5.48): **seen** |" in text
    assert "| +1.00 (ours) | seen" in text and "Not tried yet: relu, towers, batch_norm" in text
    assert "6 runs of 90 seconds each. P, 2 cores; Python 3" in text
    assert "commit abc, runs begun at abc, def. Load" in text
    assert "21.00 (18.52 to 23.48)" in text and "A word more." in text
    first, *_ = (line for line in text.splitlines() if line.startswith("| 2012: #"))
    assert [cell.strip() for cell in first.strip("|").split("|")] == ["2012: #145", "", "", "40.66"]
    shown = page.paragraph(CLAIMS["lrn"], found)
    assert "24.00 instead of 21.00 % wrong" in " ".join(shown.split())
    path = picture.draw(CLAIMS["lrn"], found, tmp_path / "lrn.png")
    assert path.stat().st_size > 5000
    for arm in result["arms"].values():
        arm["course"] = [(10, 0.5), (20, 0.2)]
    with_course = picture.draw(CLAIMS["relu"], found, tmp_path / "relu.png")
    with Image.open(path) as small, Image.open(with_course) as large:
        assert large.height > small.height + 250
    path = picture.overview({"lrn": found}, tmp_path / "claims.png")
    assert path.stat().st_size > 5000
    two_units = [vars(comparison) | result["comparisons"][0] | {"unit": "nats"}]
    more = result | {"comparisons": result["comparisons"] + two_units}
    picture.draw(CLAIMS["lrn"], {"embedded_hard": more}, tmp_path / "units.png")
    with Image.open(tmp_path / "lrn.png") as one, Image.open(tmp_path / "units.png") as two:
        assert two.height > one.height + 100
    comparison.base[:] = [0.0] * 3  # none wrong, of which there is no share
    result["comparisons"][0]["base"] = comparison.base
    assert picture.overview({"lrn": found}, path).stat().st_size > 3000
    nothing = errors(Amount(0.1, "ours"))({name: [Run(0, {}, (), path)] for name in ("a", "b")})[0]
    assert math.isnan(nothing.size)
    words = {"difference": statistics.difference(nothing)._asdict(), "verdict": "cannot be told"}
    result["comparisons"] = [command.plain(vars(nothing) | words)]
    text = " ".join(page.page({"lrn": found}).split())
    assert "none of 1 pairs of runs came to a number | (ours) |" in text
    assert picture.draw(CLAIMS["lrn"], found, path).stat().st_size > 3000


def test_the_mean_of_ratios_knows_no_side() -> None:
    """Where one needs twice the steps as often as the other, neither is slower: the arithmetic mean
    of 2 and 1/2 would be 1.25, whichever is divided by the other."""
    ratios = [2.0, 0.5, 1.25, 0.8]
    here, there = (
        statistics.difference(Comparison("x", RATIO, [1.0] * 4, of, 1, 1.0))
        for of in (ratios, [1 / ratio for ratio in ratios])
    )
    assert here.mean == pytest.approx(0, abs=1e-12) and here == pytest.approx(there)
    assert 1 + here.low == pytest.approx(1 / (1 + here.high)) and here.high > 1


def test_the_classes_that_suffer_are_named() -> None:
    """The three that lose most, and least, on the mean of all runs, without either tower."""
    names = [f"c{number}" for number in range(7)]
    coloured = np.array([[0.0, 1, 2, 30, 40, 50, 6], [0.0, 1, 2, 30, 40, 52, 6]])
    found = [
        lesions.Lost((0, 0), (0, 0), np.array([points, points[::-1]]), names, differ=False)
        for points in coloured
    ]
    assert lesions.suffering(*found) == (
        "The classes that lose most are, in points, without the coloured tower c5 (+51), c4 (+40), "
        "c3 (+30), and least c0 (+0), c1 (+1), c2 (+2); without the other c1 (+51), c2 (+40), "
        "c3 (+30), and least c6 (+0), c5 (+1), c4 (+2)."
    )


@pytest.mark.parametrize("config", CONFIGS)
def test_without_a_layer_the_maps_come_out_as_small(config: str) -> None:
    """But for conv5's: a layer that was pooled leaves that to a neighbour."""
    base = settings.load(config)
    for name, change in CLAIMS["depth"].arms.items():
        other = base.copy_and_resolve_references()
        change(other)
        network = settings.network(other)
        assert network.final_maps() == settings.network(base).final_maps(), name
        assert len(network.convolutions()) + len(network.hidden()) == 7 - (name != "all layers")


@pytest.mark.parametrize(
    "unit, other, size, told",
    [
        (RATIO, [2.0, 2.1, 2.2], 5.0, "2.10 (1.86 to 2.36) times over 3 seeds: seen, though "
         "less."),
        (RATIO, [2.0, 2.1, 2.2], 1.0, "2.10 (1.86 to 2.36) times over 3 seeds: seen."),
        (WRONG, [1.1, 1.2, 1.3], 0.9, "1.20 instead of 1.00 % wrong, +0.20 (-0.05 to +0.45) "
         "over 3 seeds: not seen."),
    ],
)  # fmt: skip
def test_what_is_seen_may_be_less_than_what_is_claimed(
    unit: str, other: list[float], size: float, told: str
) -> None:
    """Of a ratio that is the number itself, not how far it is from 1."""
    comparison = Comparison("x", unit, [1.0] * 3, other, 1, size)
    found = vars(comparison) | {
        "difference": statistics.difference(comparison)._asdict(),
        "verdict": statistics.verdict(comparison),
    }
    shown = page.paragraph(CLAIMS["relu"], {"embedded_hard": {"comparisons": [found]}})
    assert told in " ".join(shown.split())


def test_an_arm_that_changes_nothing_is_left_out(tmp_path: Path) -> None:
    """cuda-convnet's networks for CIFAR-10 have no dropout and fewer layers to take out."""
    trainer = Trainer(tmp_path, "cifar10:80sec")
    assert list(trainer.distinct(CLAIMS["dropout"].arms)) == ["dropout"]
    assert list(trainer.distinct(CLAIMS["depth"].arms)) == [
        "all layers",
        "no conv2",
        "no conv3",
    ]
    for name in ("lrn", "batch_norm", "towers"):
        assert not CLAIMS[name].applies(trainer.config)
    for field in ("model.norm=batch_norm", "model.norm=none", "model.conv2.after=activation pool"):
        without = Trainer(tmp_path, "embedded_hard", [field]).config
        assert not CLAIMS["lrn"].applies(without) and not CLAIMS["batch_norm"].applies(without)
    trainer = Trainer(tmp_path, "embedded_hard")
    for name, of in CLAIMS.items():
        assert list(trainer.distinct(of.arms)) == list(of.arms), name


def test_what_never_came_to_a_number_is_told_and_drawn(tmp_path: Path) -> None:
    """Of the runs that did the numbers are shown; of none there is nothing to show."""
    for other, told in (
        ([23.0, math.nan, 24], "23.50 instead of 21.00 % wrong, +2.50 (-3.85 to +8.85), 1 of 3 "
         "never came to a number over 3 seeds"),
        ([math.nan] * 3, "none of 3 pairs of runs came to a number over 3 seeds"),
    ):  # fmt: skip
        comparison = compared([20.0, 21, 22], other)
        found = {
            "embedded_hard": command.plain(
                {
                    "comparisons": [
                        vars(comparison)
                        | {
                            "difference": statistics.difference(comparison)._asdict(),
                            "verdict": statistics.verdict(comparison),
                        }
                    ]
                }
            )
        }
        shown = " ".join(page.paragraph(CLAIMS["lrn"], found).split())
        assert f"other {told}: cannot be told at this scale." in shown
        assert picture.draw(CLAIMS["lrn"], found, tmp_path / "lrn.png").stat().st_size > 3000
        assert picture.overview({"lrn": found}, tmp_path / "all.png").stat().st_size > 3000
