"""One update of the network, compiled: loss, gradients, the rule of 2012 (paper section 5)."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import Mesh, PartitionSpec
from ml_collections import ConfigDict

from alexnet_jax.errors import ConfigError
from alexnet_jax.evaluation import views
from alexnet_jax.evaluation.scores import sums
from alexnet_jax.model import AlexNet
from alexnet_jax.model.mesh import constrain, shardings
from alexnet_jax.model.platforms import platform_of
from alexnet_jax.run.momentum import momentum_of, with_momentum
from alexnet_jax.training import update_rule

Tree = Any
Examples = tuple[jax.Array, jax.Array, dict[str, jax.Array]]  # images, labels, dropout masks


class State(struct.PyTreeNode):
    """Everything that a step needs of a run and may change; all arrays, all global.

    A checkpoint has it but for `seed`, which the configuration has, and `bad_step`.
    """

    seed: jax.Array  # of the run; an argument, so that another seed needs no other program
    step: jax.Array  # updates so far
    params: Tree
    batch_stats: Tree
    opt_state: Tree
    plateau: update_rule.Plateau
    running: dict[str, jax.Array]  # sums since the last row of metrics
    bad_step: jax.Array  # the first step whose loss was not finite, or -1

    def model(self) -> Tree:
        """What evaluation needs."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    def trees(self) -> dict[str, Tree]:
        """The state as the two parts of a checkpoint."""
        return {
            "model": self.model(),
            "training": {
                "step": self.step,
                "momentum": momentum_of(self.opt_state, self.params),
                "plateau": self.plateau,
                "running": self.running,
            },
        }

    def with_trees(self, trees: Mapping[str, Tree]) -> "State":
        """The state that `trees` came from."""
        training = dict(trees["training"])
        momentum = training.pop("momentum")
        opt_state = with_momentum(self.opt_state, momentum, training["step"])
        return self.replace(**trees["model"], **training, opt_state=opt_state)


NOTHING_YET = {"loss": 0.0, "top1": 0.0, "top5": 0.0, "examples": 0.0}


def initial_state(
    model: AlexNet, optimizer: optax.GradientTransformationExtraArgs, seed: int
) -> State:
    """The state before the first step, drawn at global shape: the same for a seed on every mesh."""
    assert model.mesh is not None
    draw = partial(_draw_state, model, optimizer)
    places = shardings(jax.eval_shape(draw, np.uint32(seed)), model.mesh)
    return jax.jit(draw, out_shardings=places)(np.uint32(seed))


def state_shapes(model: AlexNet, optimizer: optax.GradientTransformationExtraArgs) -> State:
    """A state as `jax.ShapeDtypeStruct`s, each with its place on the mesh; nothing is computed."""
    assert model.mesh is not None
    shapes = jax.eval_shape(partial(_draw_state, model, optimizer), np.uint32(0))
    return jax.tree.map(
        lambda array, place: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=place),
        shapes,
        shardings(shapes, model.mesh),
    )


def _draw_state(
    model: AlexNet, optimizer: optax.GradientTransformationExtraArgs, seed: jax.Array
) -> State:
    assert model.mesh is not None
    size = model.network.input_size
    images = jnp.zeros((model.mesh.shape["data"], size, size, 3), jnp.float32)
    variables = model.init(jax.random.key(seed), images)
    return State(
        seed=seed,
        step=jnp.int32(0),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(variables["params"]),
        plateau=update_rule.Plateau.start(),
        running={name: jnp.float32(zero) for name, zero in NOTHING_YET.items()},
        bad_step=jnp.int32(-1),
    )


def make_train_step(
    model: AlexNet,
    optimizer: optax.GradientTransformationExtraArgs,
    mean_image: np.ndarray,
    config: ConfigDict,
    steps: int,
) -> Callable[[State, dict[str, jax.Array]], State]:
    """One update (section 5), compiled, which consumes the state it is given."""
    mesh = model.mesh
    assert mesh is not None
    platform = platform_of(mesh)
    lit_steps = lighting_steps(config, steps)
    mean = jnp.asarray(mean_image)

    def train_step(state: State, batch: dict[str, jax.Array]) -> State:
        divisor = jnp.where(state.step < lit_steps, config.data.lighting_divisor, 1.0)
        with jax.named_scope("images"):
            images = views.training_images(batch, mean, divisor)
        masks = model.dropout_masks(dropout_key(state.seed, state.step), len(images))
        images, masks = platform.computed_once((images, masks))  # not drawn for every reader

        trained = update_rule.trained(config.optim, state.params)

        def loss(trained: Tree, batch_stats: Tree, examples: Examples) -> tuple[jax.Array, Any]:
            images, labels, masks = examples
            variables = {"params": {**state.params, **trained}, "batch_stats": batch_stats}
            logits, updated = model.apply(variables, images, masks, mutable=["batch_stats"])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), (logits, updated.get("batch_stats", {}))

        with jax.default_matmul_precision(config.precision):
            (value, (logits, batch_stats)), gradients = accumulated(
                jax.value_and_grad(loss, has_aux=True), config.accumulate, mesh
            )(trained, state.batch_stats, (images, batch["label"], masks))
        with jax.named_scope("update"):
            updates, opt_state = optimizer.update(
                gradients, state.opt_state, state.params, plateau_factor=state.plateau.factor
            )
            params = {**state.params, **optax.apply_updates(trained, updates)}
        everyone = jnp.ones(len(images))
        seen = sums(jax.nn.softmax(logits), batch["label"], everyone)
        seen["loss"] = value * len(images)
        first_bad = (state.bad_step < 0) & ~jnp.isfinite(value)
        return state.replace(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            running={name: total + seen[name] for name, total in state.running.items()},
            bad_step=jnp.where(first_bad, state.step + 1, state.bad_step),
        )

    options = platform.compiler_options(training=True, deterministic=config.deterministic)
    return jax.jit(train_step, donate_argnums=0, compiler_options=options)


def accumulated(gradient: Callable[..., Any], parts: int, mesh: Mesh) -> Callable[..., Any]:
    """The same as `gradient`, of as many parts of the examples one after the other.

    A part has every so-manieth example, so that each device has its share of all.

    Args:
        gradient: ((loss, (logits, batch_stats)), gradients) of (params, batch_stats, examples),
            loss and gradients means over the examples, of which the images are the first.
        parts: 1 takes all at once.
        mesh: over which the examples lie.
    """
    if parts == 1:
        return gradient
    platform = platform_of(mesh)

    def of_parts(params: Tree, batch_stats: Tree, examples: Examples) -> Any:
        def split(x: jax.Array) -> jax.Array:
            x = x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)
            rest = [PartitionSpec.UNCONSTRAINED] * (x.ndim - 2)  # masks lie over the towers
            return constrain(x, mesh, PartitionSpec(None, "data", *rest))

        def one(carry: tuple[Tree, Tree], part: Examples) -> tuple[tuple[Tree, Tree], Any]:
            total, batch_stats = carry
            part = (platform.only_after(part[0], total), *part[1:])
            (value, (logits, batch_stats)), new = gradient(params, batch_stats, part)
            return (jax.tree.map(jnp.add, total, new), batch_stats), (value, logits)

        start = jax.tree.map(jnp.zeros_like, params), batch_stats
        (total, batch_stats), (values, logits) = jax.lax.scan(
            one, start, jax.tree.map(split, examples), unroll=not platform.training_may_loop
        )
        logits = logits.swapaxes(0, 1).reshape(-1, logits.shape[-1])
        gradients = jax.tree.map(lambda x: x / parts, total)
        return (values.mean(), (logits, batch_stats)), gradients

    return of_parts


def dropout_key(seed: jax.Array | int, step: jax.Array | int) -> jax.Array:
    """What a step's dropout masks are drawn from; the initial weights have the seed itself."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), step)


def total_steps(config: ConfigDict, examples: int) -> int:
    """Updates in a whole run; at least one.

    Raises:
        ConfigError: more than a 32-bit number counts.
    """
    steps = max(1, round(config.epochs * examples / config.batch_size))
    if steps >= 2**31:
        raise ConfigError(
            f"--config.epochs={config.epochs:g}: {steps:,} updates of {config.batch_size} of "
            f"{examples:,} images, and no more than {2**31 - 1:,} can be counted"
        )
    return steps


def lighting_steps(config: ConfigDict, steps: int) -> int:
    """The step at which lighting, and the division of the images that comes with it, ends."""
    return 0 if config.data.lighting == "none" else round(config.data.lighting_until * steps)
