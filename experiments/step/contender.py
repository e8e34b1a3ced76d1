"""What is to be computed, the ways to do it, and what each of them has to be able to do."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from alexnet_jax.model import Network
from alexnet_jax.settings import network as network_of
from experiments.shared.timing import Reading, Stopwatch

Arrays = dict[str, np.ndarray]
Params = dict[str, dict[str, np.ndarray]]


class Failed(Exception):
    """Something could not be done; the message says why, and the others go on."""


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
        return network_of(self.config)


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
    def outcome(self, first: Mapping[str, np.ndarray]) -> Arrays:
        """What comes out, to be compared; called before anything else.

        Args:
            first: the outcome of the first way that has to agree; dropout masks are among it.
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
