"""The update rule of section 5 and its rates, against the rule written out in NumPy."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import network_fixtures as fixtures
import numpy as np
import pytest
from ml_collections import ConfigDict

from alexnet_jax.configs import base
from alexnet_jax.run.momentum import momentum_of
from alexnet_jax.training import update_rule

LAYERS = ("conv1", "conv2", "fc8")


def optim_config(preset: str = "reconciled", **changes: Any) -> ConfigDict:
    """The `optim` part of a preset, changed."""
    config = base.get_config(preset).optim
    config.update(changes)
    return config


def random_tree(seed: int) -> Any:
    """Float64 arrays in the shape of parameters."""
    rng = np.random.default_rng(seed)
    return {
        name: {"kernel": rng.normal(0, 1, (3, 4)), "bias": rng.normal(0, 1, 4)} for name in LAYERS
    }


def run(config: ConfigDict, steps: int, factors: list[float] | None = None) -> list[Any]:
    """The parameters after every step, in float64, under gradients that do not depend on them."""
    with jax.enable_x64(True):
        rule = update_rule.update_rule(config, steps)
        params = jax.tree.map(jnp.asarray, random_tree(0))
        state = rule.init(params)
        update = jax.jit(rule.update)
        seen = [jax.device_get(params)]
        for step in range(steps):
            factor = jnp.asarray(factors[step] if factors else 1.0)
            gradients = jax.tree.map(jnp.asarray, random_tree(step + 1))
            gradients = update_rule.trained(config, gradients)
            updates, state = update(gradients, state, params, plateau_factor=factor)
            moved = jax.tree.map(jnp.add, update_rule.trained(config, params), updates)
            params = params | moved
            seen.append(jax.device_get(params))
    return seen


UNITS = 58.0  # what conv1's kernels were divided by


@pytest.mark.parametrize(("trust", "decay_biases"), [(0.0, False), (0.02, False), (0.0, True)])
def test_kernels_in_other_units_learn_as_they_did(trust: float, decay_biases: bool) -> None:
    """Divided by 58, their gradients are 58 times as large; with LARS, whose steps are in their own
    units, too. The biases are as ever."""
    config = optim_config(
        trust=trust or 1.0, rule="lars" if trust else "sgd", decay_biases=decay_biases
    )

    def in_units(tree: Any, factor: float) -> Any:
        return tree | {"conv1": tree["conv1"] | {"kernel": factor * tree["conv1"]["kernel"]}}

    with jax.enable_x64(True):
        of_conv1 = {"conv1": UNITS**2}, {"conv1": UNITS**-2}
        rule = update_rule.update_rule(config, 1000, *of_conv1)
        params = in_units(random_tree(0), 1 / UNITS)
        state = rule.init(params)
        for step in range(4):
            gradients = in_units(random_tree(step + 1), UNITS)
            updates, state = rule.update(gradients, state, params)
            params = jax.tree.map(np.add, params, updates)
    rates = [{"conv1": 0.01, "weights": 0.01, "biases": 0.02}] * 4
    *_, expected = by_hand(rates, decay_biases, trust)
    assert fixtures.difference(in_units(params, UNITS), expected) < 1e-8


def by_hand(
    rates: list[dict[str, float]],
    decay_biases: bool = False,
    trust: float = 0.0,
    paces: Mapping[str, float] = MappingProxyType({}),
) -> list[Any]:
    """v <- 0.9 v - 0.0005 rate w - rate g; w <- w + v. Rates of conv1, weights and biases.

    With LARS's trust, the rate of a kernel is multiplied by trust |w| / |g + 0.0005 w|; those of a
    layer by its pace.
    """
    params, seen = random_tree(0), [random_tree(0)]
    velocity = jax.tree.map(np.zeros_like, params)
    for step, rate in enumerate(rates):
        gradients = random_tree(step + 1)
        for name in LAYERS:
            for kind in ("kernel", "bias"):
                weight = kind == "kernel"
                which = ("conv1" if name == "conv1" else "weights") if weight else "biases"
                eps, decay = rate[which], 0.0005 if weight or decay_biases else 0.0
                eps *= paces.get(name, 1.0)
                w, v, g = params[name][kind], velocity[name][kind], gradients[name][kind]
                if trust and weight:
                    eps = eps * trust * np.linalg.norm(w) / np.linalg.norm(g + decay * w)
                velocity[name][kind] = 0.9 * v - decay * eps * w - eps * g
                if eps > 0:
                    params[name][kind] = w + velocity[name][kind]
        seen.append(jax.tree.map(np.copy, params))
    return seen


@pytest.mark.parametrize("decay_biases", [False, True])
def test_update_rule_over_a_rate_drop(decay_biases: bool) -> None:
    """The old steps coast on after the drop: the rate stands inside the velocity."""
    found = run(optim_config(drops=(0.5,), bias_drops=(0.7,), decay_biases=decay_biases), 10)
    rates = [
        {
            "conv1": 0.01 if step < 5 else 0.001,
            "weights": 0.01 if step < 5 else 0.001,
            "biases": 0.02 if step < 7 else 0.002,
        }
        for step in range(10)
    ]
    assert fixtures.difference(found, by_hand(rates, decay_biases)) < 1e-8


def test_the_plateau_factor_multiplies_the_rate() -> None:
    """Of weights and biases alike, and inside the velocity, as any other drop."""
    factors = [1.0] * 4 + [0.1] * 3 + [0.01] * 3
    found = run(optim_config(schedule="plateau"), 10, factors)
    rates = [{"conv1": 0.01 * f, "weights": 0.01 * f, "biases": 0.02 * f} for f in factors]
    assert fixtures.difference(found, by_hand(rates)) < 1e-8


def test_lars() -> None:
    """Algorithm 1 of arXiv 1708.03888: every kernel has a rate of its own, biases have not."""
    config = optim_config(rule="lars", trust=0.02, learning_rate=2.0, bias_multiplier=0.01)
    rates = [{"conv1": 2.0, "weights": 2.0, "biases": 0.02}] * 10
    found = run(config.copy_and_resolve_references(), 100)[:11]
    assert fixtures.difference(found, by_hand(rates, trust=0.02)) < 1e-8


@pytest.mark.parametrize("trust", [0.0, 0.02])
def test_layers_at_a_pace_of_their_own(trust: float) -> None:
    """Slower, faster and frozen: weights and biases, over a drop, with LARS too, whose decay is a
    part of what is scaled. Of a frozen layer no gradient is wanted, and no momentum kept."""
    paces = {"conv1": 0.1, "conv2": 0.0, "fc8": 10.0}
    config = optim_config(drops=(0.5,), bias_drops=(0.5,), trust=trust or 1.0)
    config.rule = "lars" if trust else "sgd"
    config.rates.update(paces)
    rates = [
        {"conv1": 0.01 * by, "weights": 0.01 * by, "biases": 0.02 * by}
        for by in [1.0] * 5 + [0.1] * 5
    ]
    expected = by_hand(rates, trust=trust, paces=paces)
    assert fixtures.difference(run(config, 10), expected) < 1e-8
    params = random_tree(0)
    trained = update_rule.trained(config, params)
    assert trained.keys() == {"conv1", "fc8"}
    rule = update_rule.update_rule(config, 10)
    assert momentum_of(rule.init(params), params).keys() == trained.keys()


def test_source_freezes_conv1_at_once() -> None:
    """weights.cu:148: at a rate of 0 not even momentum is added; the biases move on."""
    found = run(optim_config("source", conv1_slow_after=0.5, conv1_frozen_after=0.7), 10)
    for step in range(10):
        before, after = found[step]["conv1"], found[step + 1]["conv1"]
        assert np.any(before["bias"] != after["bias"])
        assert np.array_equal(before["kernel"], after["kernel"]) == (step >= 7), step
    assert np.all(found[9]["conv2"]["kernel"] != found[10]["conv2"]["kernel"])


def rates_at(config: ConfigDict, steps: int, at: int) -> tuple[float, float, float]:
    """Of weights, biases and conv1's weights."""
    schedules = update_rule.schedules(config, steps)
    return tuple(float(schedules[name](at)) for name in ("weights", "biases", "conv1"))


@pytest.mark.parametrize(
    ("preset", "changes", "at", "expected"),
    [
        # 25, 51 and 79 of 91 epochs, here of 1000 steps.
        ("reconciled", {}, 0, (1e-2, 2e-2, 1e-2)),
        ("reconciled", {}, 269, (1e-2, 2e-2, 1e-2)),
        ("reconciled", {}, 270, (1e-3, 2e-3, 1e-3)),
        ("reconciled", {}, 559, (1e-3, 2e-3, 1e-3)),
        ("reconciled", {}, 560, (1e-4, 2e-4, 1e-4)),
        ("reconciled", {}, 869, (1e-4, 2e-4, 1e-4)),
        ("reconciled", {}, 870, (1e-5, 2e-5, 1e-5)),
        ("reconciled", {}, 999, (1e-5, 2e-5, 1e-5)),
        # The biases stay at 0.02; conv1 goes to 1e-5 at 74% and stands from 79%.
        ("source", {}, 0, (1e-2, 2e-2, 1e-2)),
        ("source", {}, 270, (1e-3, 2e-2, 1e-3)),
        ("source", {}, 739, (1e-4, 2e-2, 1e-4)),
        ("source", {}, 740, (1e-4, 2e-2, 1e-5)),
        ("source", {}, 789, (1e-4, 2e-2, 1e-5)),
        ("source", {}, 790, (1e-4, 2e-2, 0.0)),
        ("source", {}, 999, (1e-5, 2e-2, 0.0)),
        # The plateau rule has no dates, and in `paper` all rates are equal.
        ("paper", {}, 0, (1e-2, 1e-2, 1e-2)),
        ("paper", {}, 999, (1e-2, 1e-2, 1e-2)),
        # /250 in four equal steps, the biases /10 in two (layer-params-170.cfg).
        ("reconciled", {"schedule": "dexp"}, 249, (1e-2, 2e-2, 1e-2)),
        ("reconciled", {"schedule": "dexp"}, 250, (1e-2 / 6.29960525, 2e-2, 1e-2 / 6.29960525)),
        ("reconciled", {"schedule": "dexp"}, 500, (1e-2 / 39.6850263, 2e-3, 1e-2 / 39.6850263)),
        ("reconciled", {"schedule": "dexp"}, 750, (1e-2 / 250, 2e-3, 1e-2 / 250)),
        ("reconciled", {"schedule": "dexp", "final_share": 0.002}, 750, (2e-5, 2e-3, 2e-5)),
        (
            "reconciled",
            {"schedule": "exp", "final_share": 0.01},
            499,
            (0.01**1.499, 2e-2, 0.01**1.499),
        ),
        ("reconciled", {"schedule": "exp", "final_share": 0.01}, 500, (1e-3, 2e-3, 1e-3)),
        # A twentieth of the run to come up to it, all alike.
        ("reconciled", {"warmup": 0.05}, 0, (2e-4, 4e-4, 2e-4)),
        ("reconciled", {"warmup": 0.05}, 24, (5e-3, 1e-2, 5e-3)),
        ("reconciled", {"warmup": 0.05}, 49, (1e-2, 2e-2, 1e-2)),
        ("reconciled", {"warmup": 0.05}, 270, (1e-3, 2e-3, 1e-3)),
        # The square of what is left, as in the published large batches.
        ("reconciled", {"schedule": "poly"}, 0, (1e-2, 2e-2, 1e-2)),
        ("reconciled", {"schedule": "poly"}, 500, (2.5e-3, 5e-3, 2.5e-3)),
        ("reconciled", {"schedule": "poly"}, 999, (1e-8, 2e-8, 1e-8)),
        (
            "reconciled",
            {"schedule": "poly", "warmup": 0.2},
            99,
            (0.901**2 / 2e2, 0.901**2 / 1e2, 0.901**2 / 2e2),
        ),
        ("paper", {"warmup": 0.5}, 249, (5e-3, 5e-3, 5e-3)),
    ],
)
def test_schedules(
    preset: str, changes: dict[str, Any], at: int, expected: tuple[float, float, float]
) -> None:
    """Every rate at the step before and the step of a change."""
    found = rates_at(optim_config(preset, **changes), 1000, at)
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-12)


def test_in_a_very_short_run_two_drops_fall_on_one_step_and_both_count() -> None:
    config = optim_config(drops=(0.27, 0.28, 0.9), bias_drops=(0.27, 0.28, 0.29))
    assert rates_at(config, 10, 2) == pytest.approx((1e-2, 2e-2, 1e-2))
    assert rates_at(config, 10, 3) == pytest.approx((1e-4, 2e-5, 1e-4))
    assert rates_at(config, 10, 9) == pytest.approx((1e-5, 2e-5, 1e-5))


def test_a_rate_comes_up_again() -> None:
    """That of the weights, twice at once as in 2012; conv1's where it is not frozen."""
    config = optim_config(drops=(0.2, 0.4, 0.8), bias_drops=(), rises=(0.6, 0.6))
    found = [rates_at(config, 100, at) for at in (59, 60, 79, 80)]
    expected = [(w, 2e-2, w) for w in (1e-4, 1e-2, 1e-2, 1e-3)]
    assert found == [pytest.approx(rates) for rates in expected]
    assert rates_at(optim_config(rises=()), 100, 99) == rates_at(optim_config(), 100, 99)


def test_unknown_schedule() -> None:
    with pytest.raises(ValueError, match=r"optim.schedule='cosine': one of steps, plateau"):
        update_rule.schedules(optim_config(schedule="cosine"), 100)


def test_labels_and_momentum_of_every_parameter() -> None:
    """Batch norm's scale and shift go with the biases: no decay."""
    tree = {"conv1": dict.fromkeys(("kernel", "bias", "scale", "shift"), np.zeros(2)),
            "fc8": dict.fromkeys(("kernel", "bias"), np.zeros(2))}  # fmt: skip
    assert update_rule.labels(tree) == {
        "conv1": {"kernel": "conv1", "bias": "biases", "scale": "biases", "shift": "biases"},
        "fc8": {"kernel": "weights", "bias": "biases"},
    }


def factors(errors: list[float], patience: int) -> list[float]:
    """The factor after each validation."""
    plateau, seen = update_rule.Plateau.start(), []
    for error in errors:
        plateau = plateau.after(error, patience)
        seen.append(float(plateau.factor))
    return seen


def test_plateau_waits_for_patience_and_starts_again_after_a_drop() -> None:
    """An equal error is no better; a better one starts the count anew."""
    errors = [0.9, 0.8, 0.8, 0.85, 0.7, 0.71, 0.72, 0.73, 0.6, 0.6, 0.6, 0.6]
    expected = [1, 1, 1, 1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01]
    assert factors(errors, 3) == pytest.approx(expected)


def test_plateau_drops_three_times_at_most() -> None:
    """Section 5: "reduced three times prior to termination"."""
    found = factors([0.5] * 40, 2)
    assert found[-1] == pytest.approx(1e-3, rel=1e-5)
    assert len(set(found)) == 4
    assert factors([0.5, *[float("nan")] * 9], 2)[-1] == pytest.approx(1e-3, rel=1e-5)
