"""This network on its meshes, the plain version of it, and what JAX makes of the machine."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from alexnet_jax.model import AlexNet, Network, make_mesh
from alexnet_jax.model.mesh import IMAGES, shardings
from alexnet_jax.model.platforms import platform_of
from alexnet_jax.training.step import State, dropout_key, initial_state, make_train_step
from alexnet_jax.training.update_rule import Plateau, update_rule
from experiments.step import given, plain
from experiments.step.contender import Arrays, Contender, Failed, Task, Way
from experiments.step.outcomes import CHECKED_STEPS, changes
from experiments.step.work import flops

Tree = Any

STEPS = 1_000_000  # of the run that a step is taken from: no rate drops on the way
COPIED = {"cpu": 256 * 2**20, "gpu": 2**30}  # bytes
SIDE = {"cpu": 2048, "gpu": 8192}  # of the matrices


def start(task: Task) -> str:
    """Makes the devices: on a CPU two, if it is not said how many. Its threads are its cores."""
    jax.config.update("jax_num_cpu_devices", task.devices or 2)
    device = jax.devices()[0]
    return f"JAX on {len(jax.devices())} x {device.device_kind} ({device.platform})"


def found(task: Task) -> Task:
    """The task on what `start` has found."""
    devices = jax.devices()
    count = min(task.devices or len(devices), len(devices))
    return dataclasses.replace(task, platform=devices[0].platform, devices=count)


def ways(task: Task) -> list[Way]:
    """One device comes first: it is what the others are compared with."""
    group = f"{task.kind}, batch {task.batch}"
    limits = [
        Way("jax_matmul", "limits", "matrix product, jax"),
        Way("jax_copy", "limits", "copy, jax"),
    ]
    one = Way("jax_1x1", group, "this network, 1x1", task.kind)
    unadorned = Way("jax_plain", group, "plain lax operators", task.kind)
    if task.kind == "operators":
        return limits
    if task.kind == "inference":
        return [one, unadorned, *limits]
    meshes = [
        Way(f"jax_{data}x{tower}", group, f"this network, {data}x{tower}", task.kind)
        for data, tower in ((1, 2), (2, 1), (2, 2))
        if data * tower <= max(2, task.devices)
    ]
    stream = [Way("jax_stream", group, "this network, 1x1, from a prepared cache")]
    return [one, *meshes, unadorned, *(stream if task.cache else []), *limits]


def make(key: str, task: Task) -> Contender:
    """Gets one of the `ways` ready.

    Raises:
        Failed: there are not enough devices for its mesh.
    """
    if key == "jax_matmul":
        side = SIDE[task.platform]
        dtype = jnp.bfloat16 if task.platform == "gpu" else task.dtype
        matrix = jax.random.normal(jax.random.key(0), (side, side), dtype)
        return Compiled(jax.jit(jnp.matmul), (matrix, matrix), flops=2 * side**3)
    if key == "jax_copy":
        array = jnp.ones(COPIED[task.platform], jnp.uint8)
        return Compiled(jax.jit(jnp.copy), (array,), bytes=2 * array.nbytes)
    if key == "jax_plain":
        return plain_training(task) if task.kind == "training" else plain_inference(task)
    if task.kind == "inference":
        return inference(task)
    if key == "jax_stream":
        return Stream(task)
    data, _, tower = key.removeprefix("jax_").partition("x")
    try:
        mesh = make_mesh(int(data), int(tower))
    except ValueError as error:
        raise Failed(str(error)) from error
    return Training(task, mesh)


def model_of(task: Task, mesh: Mesh) -> AlexNet:
    """The network in the dtype that was asked for."""
    return AlexNet(task.network, mesh, jnp.dtype(task.dtype))


class Compiled(Contender):
    """A jitted function of arrays that are on the device."""

    def __init__(
        self,
        function: Any,
        arguments: tuple[Any, ...],
        *,
        batch: int = 1,
        flops: float = 0.0,
        bytes: float = 0.0,
        result: Callable[[Any], Arrays] = lambda out: {},
    ) -> None:
        """Args:
        function: what `jax.jit` returned.
        arguments: of every step.
        batch, flops, bytes: see `Contender`.
        result: the outcome from what the function returns.
        """
        self.batch, self.flops, self.bytes = batch, flops, bytes
        self.arguments, self.result = arguments, result
        started = time.perf_counter()
        self.compiled = function.lower(*arguments).compile()
        self.compile_seconds = time.perf_counter() - started
        self.out: Any = None

    def step(self) -> None:
        """Blocks on a CPU, as `platform.settle` does in the program."""
        self.out = self.compiled(*self.arguments)
        if jax.default_backend() == "cpu":
            self.wait()

    def wait(self) -> None:
        """Waits for the last step."""
        jax.block_until_ready(self.out)

    def outcome(self, first: Mapping[str, np.ndarray]) -> Arrays:
        """Steps once."""
        self.step()
        return {
            name: np.asarray(array, np.float32) for name, array in self.result(self.out).items()
        }

    def memory(self) -> tuple[int, str] | None:
        """What the device says, and on a CPU, which says nothing, what the compiler planned."""
        stats = jax.devices()[0].memory_stats()
        if stats:
            return stats["peak_bytes_in_use"], "peak_bytes_in_use"
        plan = self.compiled.memory_analysis()
        in_and_out = plan.argument_size_in_bytes + plan.output_size_in_bytes
        planned = in_and_out + plan.temp_size_in_bytes - plan.alias_size_in_bytes
        return planned, "memory_analysis"


class Stepping(Compiled):
    """A jitted function from a state and a batch to the next state, which takes the place of the
    first."""

    def __init__(self, task: Task, function: Any, state: Any, batch: Any) -> None:
        super().__init__(
            function,
            (state, batch),
            batch=task.batch,
            flops=flops(task.network, task.kind),
        )
        self.before = given.parameters(task.network)

    def step(self) -> None:
        """Takes a step from the state that the last one left."""
        super().step()
        self.arguments = (self.out, *self.arguments[1:])

    def outcome(self, first: Mapping[str, np.ndarray]) -> Arrays:
        """What one step changes, and the losses of some."""
        sums: list[float] = [0.0]
        changed: Arrays = {}
        for _ in range(CHECKED_STEPS):
            self.step()
            state = self.arguments[0]
            sums.append(float(state.running["loss"]))
            if not changed:
                after = jax.tree.map(np.asarray, state.params)
                changed = changes(self.before, after)
        return {"losses": np.diff(sums) / self.batch} | changed


class Training(Stepping):
    """The program's own step, `make_train_step`."""

    def __init__(self, task: Task, mesh: Mesh, mean_image: np.ndarray | None = None) -> None:
        self.task, self.mesh = task, mesh
        network, config = task.network, task.config
        self.model = model_of(task, mesh)
        optimizer = update_rule(config.optim, STEPS)
        mean = given.mean_image(network) if mean_image is None else mean_image
        state = initial_state(self.model, optimizer, config.seed)
        params = given.parameters(network)
        state = state.replace(params=jax.device_put(params, shardings(params, mesh)))
        batch = jax.device_put(given.batch(network, task.batch), NamedSharding(mesh, IMAGES))
        step = make_train_step(self.model, optimizer, mean, config, STEPS)
        super().__init__(task, step, state, batch)

    def outcome(self, first: Mapping[str, np.ndarray]) -> Arrays:
        """Also the masks that the step draws, for those who cannot draw the same."""
        outcome = super().outcome(first)
        for step in range(CHECKED_STEPS):
            masks = self.model.dropout_masks(dropout_key(self.task.config.seed, step), self.batch)
            outcome |= {f"mask/{step}/{name}": np.asarray(mask) for name, mask in masks.items()}
        return outcome


class Stream(Training):
    """Training on the images of a prepared cache, which come as in a run."""

    def __init__(self, task: Task) -> None:
        from alexnet_jax.data.cache.store import open_cache
        from alexnet_jax.training.loop import input_stream

        cache = open_cache(task.cache)
        config = task.config.copy_and_resolve_references()
        config.batch_size = task.batch
        mesh = make_mesh(1, 1)
        self.batches = iter(input_stream(config, cache, task.network, mesh, STEPS))
        super().__init__(task, mesh, cache.mean_image)

    def step(self) -> None:
        """Waits for its batch first."""
        self.arguments = (self.arguments[0], next(self.batches))
        super().step()


def plain_training(task: Task) -> Contender:
    """A step around `plain.logits`; the masks are those of the program."""
    network = task.network
    rule = plain.update_rule(task.config.optim)
    mean = jnp.asarray(given.mean_image(network))
    model = AlexNet(network, make_mesh(1, 1))
    params = jax.tree.map(jnp.asarray, given.parameters(network))
    state = State(
        seed=jnp.uint32(task.config.seed),
        step=jnp.int32(0),
        params=params,
        batch_stats={},
        opt_state=rule.init(params),
        plateau=Plateau.start(),
        running={"loss": jnp.float32(0)},
        bad_step=jnp.int32(-1),
    )

    def step(state: State, batch: Any) -> State:
        images = batch["image"].astype(jnp.float32) - mean
        masks = model.dropout_masks(dropout_key(state.seed, state.step), len(images))

        def loss(params: Tree) -> jax.Array:
            logits = plain.logits(network, params, images, masks, jnp.dtype(task.dtype))
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
            return losses.mean()

        value, gradients = jax.value_and_grad(loss)(state.params)
        updates, opt_state = rule.update(gradients, state.opt_state, state.params)
        return state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
            running={"loss": state.running["loss"] + len(images) * value},
        )

    batch = jax.tree.map(jnp.asarray, given.batch(network, task.batch))
    return Stepping(task, jax.jit(step, donate_argnums=0), state, batch)


def inference(task: Task) -> Contender:
    """The logits of one batch, on one device."""
    mesh = make_mesh(1, 1)
    model = model_of(task, mesh)

    def logits(params: Tree, images: jax.Array) -> Any:
        return model.apply({"params": params}, images)

    options = platform_of(mesh).compiler_options()
    return _inference(task, logits, NamedSharding(mesh, PartitionSpec()), options)


def plain_inference(task: Task) -> Contender:
    """The same by `plain.logits`."""

    def logits(params: Tree, images: jax.Array) -> jax.Array:
        return plain.logits(task.network, params, images, None, jnp.dtype(task.dtype))

    return _inference(task, logits, None, {})


def _inference(
    task: Task, logits: Callable[..., Any], place: Any, options: dict[str, str]
) -> Contender:
    network: Network = task.network
    arguments = (given.parameters(network), given.pixels(network, task.batch))
    return Compiled(
        jax.jit(logits, compiler_options=options),
        jax.device_put(arguments, place),
        batch=task.batch,
        flops=flops(network, task.kind),
        result=lambda out: {"logits": out},
    )
