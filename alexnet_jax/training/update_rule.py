"""The update rule of 2012 and its learning rates (paper section 5).

    v <- 0.9 v - 0.0005 rate w - rate gradient
    w <- w + v

The rate stands *inside* the velocity (`weights.cu:152,193,195`), so after a drop of the rate the
old steps still coast; `optax.sgd` has it outside. Weights and biases each follow a schedule of
their own.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

Tree = Any

PLATEAU_DROPS = 3  # section 5: "reduced three times prior to termination"


def update_rule(
    optim: ConfigDict,
    steps: int,
    decays: Mapping[str, float] | None = None,
    rates: Mapping[str, float] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The optax transformation for a run of `steps` steps.

    The weights of a layer decay so many times as fast as `optim.weight_decay` as `decays` says of
    it, by default once; in cuda-convnet's networks for CIFAR-10 each has a decay of its own.
    Likewise they learn at so many times the rate as `rates` says, because of the units that they
    are in; LARS, whose steps are in units of the kernel, undoes that.

    A whole layer, biases and all, learns at `optim.rates` times that. One with a rate of 0 is
    frozen: it has no momentum, and `update` takes gradients of the `trained` layers alone.

    `update` takes `plateau_factor`, by which the plateau rule has lowered the rate so far.

    With LARS a kernel's gradient, decay included, is first scaled to `optim.trust` times the norm
    of the kernel (You, Gitman and Ginsburg, arXiv 1708.03888, algorithm 1); biases are as ever.

    Raises:
        ValueError: an unknown schedule.
    """
    velocities = {
        name: _velocity(rate, optim.momentum) for name, rate in schedules(optim, steps).items()
    }
    trust = optax.scale_by_trust_ratio(trust_coefficient=optim.trust)
    layerwise = [optax.masked(trust, _is_weight)] if optim.rule == "lars" else []
    rule = optax.chain(
        *_decay(optim, decays or {}),
        *_times(rates or {}, kernels_alone=True),
        *layerwise,
        *_times(optim.rates, kernels_alone=False),
        optax.partition(velocities, labels),
    )

    def init(params: Tree) -> Any:
        return rule.init(trained(optim, params))

    def update(gradients: Tree, state: Any, params: Tree = None, **extra: Any) -> Any:
        return rule.update(gradients, state, trained(optim, params), **extra)

    return optax.GradientTransformationExtraArgs(init, update)


def trained(optim: ConfigDict, params: Tree) -> Tree:
    """The parameters without those of frozen layers."""
    return {layer: kinds for layer, kinds in params.items() if optim.rates.get(layer, 1.0) > 0}


def pace(rate: float) -> str:
    """What a layer's number in `optim.rates` means, as it goes on in a line; empty for 1."""
    return "" if rate == 1 else f", at {rate:g} times the rate" if rate else ", frozen"


def _times(
    factors: Mapping[str, float], *, kernels_alone: bool
) -> Iterator[optax.GradientTransformation]:
    """Multiplies what comes of each layer by a factor of its own, where they are not all 1."""

    def multiplied(updates: Tree, _: Tree) -> Tree:
        return {
            layer: {
                kind: update * factors.get(layer, 1.0)
                if kind == "kernel" or not kernels_alone
                else update
                for kind, update in kinds.items()
            }
            for layer, kinds in updates.items()
        }

    if any(factor != 1 for factor in factors.values()):
        yield optax.stateless(multiplied)


def _decay(
    optim: ConfigDict, decays: Mapping[str, float]
) -> Iterator[optax.GradientTransformation]:
    """A transformation for the layers of every decay that there is."""

    def mask(times: float) -> Callable[[Tree], Tree]:
        def decayed(params: Tree) -> Tree:
            weights = _is_weight(params)
            return {
                layer: {
                    kind: decays.get(layer, 1.0) == times
                    if is_weight
                    else optim.decay_biases and times == 1
                    for kind, is_weight in kinds.items()
                }
                for layer, kinds in weights.items()
            }

        return decayed

    for times in sorted({1.0, *decays.values()}):
        yield optax.add_decayed_weights(times * optim.weight_decay, mask=mask(times))


def labels(params: Tree) -> Tree:
    """Names the schedule of every parameter: 'conv1', 'weights' or 'biases'."""

    def label(path: tuple[Any, ...], _: Any) -> str:
        layer, kind = path[-2].key, path[-1].key
        if kind != "kernel":
            return "biases"
        return "conv1" if layer == "conv1" else "weights"

    return jax.tree_util.tree_map_with_path(label, params)


def _is_weight(params: Tree) -> Tree:
    return jax.tree.map(lambda label: label != "biases", labels(params))


def _velocity(rate: optax.Schedule, momentum: float) -> optax.GradientTransformationExtraArgs:
    """Rate, then momentum. At a rate of 0 a parameter stands still at once (`weights.cu:148`)."""

    def scale_by_plateau(updates: Tree, state: Any, params: Tree = None, **extra: Any) -> Any:
        del params
        factor = extra.get("plateau_factor", 1.0)
        return jax.tree.map(lambda u: u * jnp.asarray(factor, u.dtype), updates), state

    return optax.chain(
        optax.scale_by_learning_rate(rate),
        optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), scale_by_plateau),
        optax.trace(momentum),
        optax.scale_by_schedule(lambda step: jnp.where(rate(step) > 0, 1.0, 0.0)),
    )


def schedules(optim: ConfigDict, steps: int) -> dict[str, optax.Schedule]:
    """The rate of 'weights', 'biases' and 'conv1' (its weights) at a step, before any plateau."""
    rate = optim.learning_rate
    bias_rate = rate * optim.bias_multiplier
    match optim.schedule:
        case "steps":
            weights = _divided(rate, 10.0, optim.drops, steps, optim.rises)
            biases = _divided(bias_rate, 10.0, optim.bias_drops, steps)
        case "dexp":  # weights / 250 in four steps, biases / 10 in two (layer-params-170.cfg)
            by = (1 / optim.final_share) ** (1 / 3)
            weights = _divided(rate, by, (0.25, 0.5, 0.75), steps)
            biases = _divided(bias_rate, 10.0, (0.5,), steps)
        case "exp":
            falling = optax.exponential_decay(1.0, steps, optim.final_share)
            weights, biases = _scaled(rate, falling), _divided(bias_rate, 10.0, (0.5,), steps)
        case "plateau":
            weights = optax.constant_schedule(rate)
            biases = optax.constant_schedule(bias_rate)
        case "poly":  # to zero, as in the published large batches
            left = optax.polynomial_schedule(1.0, 0.0, power=2, transition_steps=steps)
            weights, biases = (_scaled(base, left) for base in (rate, bias_rate))
        case other:
            raise ValueError(f"optim.schedule={other!r}: one of steps, plateau, dexp, exp, poly")

    weights, biases = (_risen(rate, optim.warmup, steps) for rate in (weights, biases))
    slow, frozen = optim.conv1_slow_after * steps, optim.conv1_frozen_after * steps

    def conv1(step: jax.Array) -> jax.Array:
        lowered = jnp.where(step < slow, weights(step), rate / 1000)
        return jnp.where(step < frozen, lowered, 0.0)

    return {"weights": weights, "biases": biases, "conv1": conv1}


def _scaled(rate: float, by: optax.Schedule) -> optax.Schedule:
    return lambda step: rate * by(step)


def _risen(rate: optax.Schedule, warmup: float, steps: int) -> optax.Schedule:
    """A rate that comes up in equal steps during the share `warmup` of the run."""
    rising = round(warmup * steps)
    return (lambda step: rate(step) * jnp.minimum(1.0, (step + 1) / rising)) if rising else rate


def _divided(
    rate: float, by: float, at: tuple[float, ...], steps: int, rises: tuple[float, ...] = ()
) -> optax.Schedule:
    """A rate divided by `by` at each of the shares `at` of the run, and multiplied at `rises`."""
    boundaries: dict[int, float] = {}
    for share, factor in (*((share, 1 / by) for share in at), *((share, by) for share in rises)):
        step = round(share * steps)  # in a very short run two may fall on one
        boundaries[step] = boundaries.get(step, 1.0) * factor
    return optax.piecewise_constant_schedule(rate, boundaries)


class Plateau(NamedTuple):
    """What the plateau rule remembers between validations; scalars."""

    factor: jax.Array  # by which the rate is multiplied
    best: jax.Array  # the lowest top-1 error so far
    stalled: jax.Array  # validations since then

    @staticmethod
    def start() -> "Plateau":
        """Returns the state before the first validation."""
        return Plateau(jnp.float32(1), jnp.float32(jnp.inf), jnp.int32(0))

    def after(self, error: float, patience: int) -> "Plateau":
        """The state after a validation with this top-1 error.

        The rate is divided by 10 when `patience` validations have brought nothing better, at most
        `PLATEAU_DROPS` times.
        """
        better = error < self.best
        stalled = jnp.where(better, 0, self.stalled + 1)
        drop = (stalled >= patience) & (self.factor > 1.5 * 10.0**-PLATEAU_DROPS)
        return Plateau(
            jnp.where(drop, self.factor / 10, self.factor).astype(jnp.float32),
            jnp.where(better, error, self.best).astype(jnp.float32),
            jnp.where(drop, 0, stalled).astype(jnp.int32),
        )
