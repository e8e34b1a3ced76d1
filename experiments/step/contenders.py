"""What the ways to compute a step have in common, and the processes that they are timed in.

A framework is a module with two functions: `ways` lists what it can do of a task, `make` gets one
of these ways ready. It runs in a process of its own, which sleeps while the others are timed.
"""

import abc
import dataclasses
import importlib
import multiprocessing
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from alexnet_jax import config as config_lib
from alexnet_jax.model import Conv, Network
from experiments.shared.timing import Reading, Stopwatch

Arrays = dict[str, np.ndarray]
Params = dict[str, dict[str, np.ndarray]]

CHECKED_STEPS = 3  # the third loss depends on a velocity
SEED = 2012


@dataclasses.dataclass(frozen=True)
class Task:
    """What is to be computed.

    Attributes:
        config: of the network and its update rule.
        dtype: of the activations; parameters are float32.
        devices: for JAX; on a CPU they are virtual and share its threads.
        threads: for every framework.
        cache: directory of a prepared dataset, or ''.
        kind: 'training', 'inference' or 'operators'.
        batch: images in a step.
        platform: 'cpu' or 'gpu'.
    """

    config: ConfigDict
    dtype: str
    devices: int
    threads: int
    cache: str
    kind: str = ""
    batch: int = 0
    platform: str = "cpu"

    @property
    def network(self) -> Network:
        """The network."""
        return config_lib.network(self.config)


class Way(NamedTuple):
    """One of the ways to do a task."""

    key: str
    group: str
    name: str
    agrees: str = ""  # all ways with the same word here have the same outcome; '': has none


class Contender(abc.ABC):
    """A way that is ready to run.

    Attributes:
        batch: images in a step.
        flops: nominal floating-point operations for an image.
        bytes: that have to go through the memory for an image, at least; 0 if that is no limit.
        compile_seconds: None where nothing is compiled.
    """

    batch: int
    flops: float
    bytes: float = 0.0
    compile_seconds: float | None = None

    @abc.abstractmethod
    def step(self) -> None:
        """Does the work once, or sees to it that it will be done."""

    @abc.abstractmethod
    def wait(self) -> None:
        """Until all of it is done."""

    @abc.abstractmethod
    def outcome(self, given: Mapping[str, np.ndarray]) -> Arrays:
        """What comes out, to be compared; called before anything else.

        Args:
            given: the outcome of the first way that has to agree; dropout masks are among it.
        """

    def memory(self) -> tuple[int, str] | None:
        """The most bytes that the device held, and how that is known."""
        return None

    def run(self, images: int) -> Reading:
        """Times steps with so many images in all."""
        self.wait()
        stopwatch = Stopwatch()
        for _ in range(images // self.batch):
            self.step()
        self.wait()
        return stopwatch.read(images)


# --- what all of them are given -------------------------------------------------------------------


def parameters(network: Network) -> Params:
    """Float32 parameters with the initial values' distribution, the same in every process."""
    rng = np.random.default_rng(SEED)
    params: Params = {}

    def add(name: str, shape: tuple[int, ...], std: float, bias: float) -> None:
        kernel = rng.standard_normal(shape, np.float32)
        kernel *= std
        params[name] = {"kernel": kernel, "bias": np.full(shape[-1], bias, np.float32)}

    for conv in convolutions(network):
        add(conv.name, conv.kernel, conv.layer.std, conv.layer.bias)
    for name, shape in denses(network).items():
        dense = network.hidden().get(name)
        std, bias = (dense.std, dense.bias) if dense else (network.fc8_std, network.fc8_bias)
        add(name, shape, std, bias)
    return params


def batch(network: Network, count: int) -> Arrays:
    """'image' uint8 (N, S, S, 3), coarse and fine structure, and 'label' int32 (N,)."""
    rng = np.random.default_rng(SEED)
    size = network.input_size
    side = -(-size // 8)
    coarse = rng.integers(0, 206, (count, side, side, 3), np.uint8)
    images = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :size, :size]
    images = images + rng.integers(0, 50, images.shape, np.uint8)
    labels = rng.integers(0, network.classes, count, np.int32)
    return {"image": images, "label": labels}


def mean_image(network: Network) -> np.ndarray:
    """Float32 (S, S, 3)."""
    size = network.input_size
    return np.random.default_rng(SEED).uniform(110, 140, (size, size, 3)).astype(np.float32)


def pixels(network: Network, count: int) -> np.ndarray:
    """The network's input, float32 (N, S, S, 3)."""
    return batch(network, count)["image"] - mean_image(network)


# --- the network's shapes and its work ------------------------------------------------------------


class Convolution(NamedTuple):
    """A convolutional layer in its place."""

    name: str
    layer: Conv
    groups: int
    kernel: tuple[int, int, int, int]  # HWIO
    maps: tuple[int, int]  # side and number of the maps that come in
    side: int  # of the maps that it makes
    stages: list[tuple[str, int]]  # what follows, each with the side of the maps that it is given


def convolutions(network: Network) -> Iterator[Convolution]:
    """All of them, in order."""
    side, channels = network.input_size, 3
    for name, layer in network.convolutions().items():
        groups = 1 if name == "conv1" or layer.communicates else network.towers
        kernel = (layer.kernel, layer.kernel, channels // groups, layer.width)
        maps = (side, channels)
        made = side = (side + sum(layer.padding) - layer.kernel) // layer.stride + 1
        stages = []
        for stage in layer.after.split():
            stages.append((stage, side))
            if stage == "pool":
                padded = side + sum(layer.pool_padding)
                side = (padded - network.pool_window) // network.pool_stride + 1
        channels = layer.width
        yield Convolution(name, layer, groups, kernel, maps, made, stages)


def denses(network: Network) -> dict[str, tuple[int, int]]:
    """The shapes of the fully connected layers' kernels."""
    inputs = network.final_maps() ** 2 * list(network.convolutions().values())[-1].width
    widths = {name: layer.width for name, layer in network.hidden().items()}
    shapes = {}
    for name, width in (widths | {"fc8": network.classes}).items():
        shapes[name] = (inputs, width)
        inputs = width
    return shapes


def rows_in_chw(kernel: np.ndarray, side: int) -> np.ndarray:
    """A kernel over maps in HWC order as one over maps of that side in CHW order."""
    hwc = kernel.reshape(side, side, -1, kernel.shape[-1])
    return hwc.transpose(2, 0, 1, 3).reshape(kernel.shape)


def rows_in_hwc(kernel: np.ndarray, side: int) -> np.ndarray:
    """The other way round."""
    chw = kernel.reshape(-1, side, side, kernel.shape[-1])
    return chw.transpose(1, 2, 0, 3).reshape(kernel.shape)


def flops(network: Network, kind: str) -> float:
    """Of the products, for an image: a multiplication and an addition are two.

    Training takes three times the forward pass (the gradients by the inputs and by the weights),
    less conv1's gradient by the image, which nobody needs.
    """
    forward = {conv.name: conv_flops(conv) for conv in convolutions(network)}
    forward |= {name: 2.0 * inputs * units for name, (inputs, units) in denses(network).items()}
    once = sum(forward.values())
    return once if kind == "inference" else 3 * once - forward["conv1"]


def conv_flops(conv: Convolution) -> float:
    """Of one convolution's forward pass, for an image."""
    return 2.0 * float(np.prod(conv.kernel)) * conv.side**2


# --- outcomes -------------------------------------------------------------------------------------


def difference(found: Arrays, expected: Arrays) -> float:
    """The norm of the difference over the norm of what was expected, of the worst array."""
    worst = 0.0
    for name, wanted in expected.items():
        if name.startswith("mask/"):
            continue
        apart = float(np.linalg.norm(found[name] - wanted) / max(np.linalg.norm(wanted), 1e-30))
        worst = max(worst, apart if np.isfinite(apart) else float("inf"))
    return worst


def changes(before: Params, after: Params) -> Arrays:
    """What an update did to every parameter."""
    return {
        f"{layer}/{kind}": after[layer][kind] - array
        for layer, pair in before.items()
        for kind, array in pair.items()
    }


def masks_of(given: Mapping[str, np.ndarray], step: int) -> Arrays:
    """The dropout masks of a step among an outcome; empty if it has none."""
    start = f"mask/{step}/"
    return {key.removeprefix(start): given[key] for key in given if key.startswith(start)}


# --- processes ------------------------------------------------------------------------------------


class Opened(NamedTuple):
    """What is known of a contender before it is timed."""

    batch: int
    flops: float
    bytes: float
    compile_seconds: float | None
    difference: float | None  # from the first way that it has to agree with; None for that itself


class Desk:
    """What a process does for its parent."""

    def __init__(self, module: str) -> None:
        self.module = importlib.import_module(module)
        self.contenders: dict[str, Contender] = {}

    def found(self, task: Task) -> Task:
        """The task with the platform and the devices that there are; JAX alone knows."""
        return self.module.found(task)

    def start(self, task: Task) -> str:
        """Sets threads and the like; says what the framework runs on."""
        return self.module.start(task)

    def ways(self, task: Task) -> list[Way]:
        """What the framework can do of a task."""
        return self.module.ways(task)

    def open(self, way: Way, task: Task, folder: str) -> Opened:
        """Gets a contender ready and compares its outcome with that of the first who agrees."""
        contender = self.module.make(way.key, task)
        path, apart = Path(folder) / f"{way.agrees}.npz", None
        if way.agrees:
            given = dict(np.load(path)) if path.exists() else {}
            outcome = contender.outcome(given)
            if given:
                apart = difference(outcome, given)
            else:
                np.savez(path, **outcome)
        self.contenders[way.key] = contender
        return Opened(
            contender.batch,
            contender.flops,
            contender.bytes,
            contender.compile_seconds,
            apart,
        )

    def run(self, key: str, images: int) -> Reading:
        """Times a contender."""
        return self.contenders[key].run(images)

    def memory(self, key: str) -> tuple[int, str] | None:
        """Of a contender."""
        return self.contenders[key].memory()

    def close(self) -> None:
        """Lets all contenders go."""
        self.contenders.clear()


class Failed(Exception):
    """A process could not do what it was asked for; the message says why."""


class Process:
    """The parent's side of a `Desk` in another process."""

    def __init__(self, module: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, module), daemon=True)
        self.process.start()
        other.close()

    def __call__(self, method: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a method of the desk.

        Raises:
            Failed: it raised an error, or the process died.
        """
        try:
            self.connection.send((method.__name__, arguments))
            done, answer = self.connection.recv()
        except (EOFError, OSError) as error:
            raise Failed("the process died") from error
        if not done:
            raise Failed(answer)
        return answer

    def end(self) -> None:
        """Ends the process."""
        self.connection.close()
        self.process.join(10)
        self.process.kill()


def _serve(connection: Any, module: str) -> None:
    desk: Desk | None = None
    while True:
        try:
            name, arguments = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            desk = desk or Desk(module)
            connection.send((True, getattr(desk, name)(*arguments)))
        except ModuleNotFoundError as error:
            connection.send((False, f"{error.name} is not installed"))
        except Failed as error:
            connection.send((False, str(error)))
        except Exception as error:
            traceback.print_exc()
            first = str(error).strip().partition("\n")[0]
            connection.send((False, f"{type(error).__name__}: {first:.200}"))
