"""Exports of two networks in every precision: how large, how fast, how often wrong."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from scipy.special import log_softmax

from alexnet_jax.data.dataset import ensure_cache
from alexnet_jax.evaluation.trained_network import TrainedNetwork, load
from alexnet_jax.exchange.exporting import PRECISIONS, calibration_pixels, central, to_onnx
from alexnet_jax.model import make_mesh
from alexnet_jax.settings import load as load_config
from alexnet_jax.settings import network
from experiments.shared.command import say
from experiments.shared.machine import cores
from experiments.shared.timing import Reading, Stopwatch, Variant, readings, spread
from experiments.step import given

Row = dict[str, Any]

BATCHES = (1, 32)  # images


class Clock(NamedTuple):
    """How often everything is timed, and about how long each time."""

    rounds: int
    seconds: float


def run_rows(workdir: Path, clock: Clock) -> list[Row]:
    """Measures the network of a run, on all images of its test split.

    Raises:
        UserError: there is no such run, or its dataset is not there.
    """
    trained = load(workdir, mesh=make_mesh(1, 1))
    data = trained.config.data
    cache = ensure_cache(data.source, data.size, data.dir, data.holdout, data.cache)
    pixels = central(np.asarray(cache.images[data.test]), trained.viewer.crop)
    labels = np.asarray(cache.labels[data.test])
    rows = measure("run", trained, calibration_pixels(trained), pixels, clock)
    own = trained.logits(cache.images[data.test])
    for row in rows:
        logits = row.pop("logits")
        row |= errors(logits, labels)
        row["from_own_logits"] = float(np.abs(logits - own).max() / np.abs(own).max())
    return rows


def full_rows(clock: Clock) -> list[Row]:
    """Measures the full network; it is calibrated with random images, and has no errors."""
    config = load_config("imagenet")
    full = network(config)
    variables = {"params": given.parameters(full)}
    mean_image = np.full((config.data.size,) * 2 + (3,), 120, np.float32)
    names = [str(label) for label in range(full.classes)]
    trained = TrainedNetwork(
        "random weights", config, make_mesh(1, 1), variables, mean_image, names, 0
    )
    pixels = given.batch(full, max(BATCHES))["image"]
    rows = measure("full", trained, pixels, pixels, clock)
    for row in rows:
        del row["logits"]
    return rows


def measure(
    key: str, trained: TrainedNetwork, calibration: np.ndarray, pixels: np.ndarray, clock: Clock
) -> list[Row]:
    """Measures size, latencies and logits in every precision.

    Args:
        key: of the network.
        trained: the network.
        calibration: images that say how large activations become, uint8 (N, C, C, 3).
        pixels: images that are asked about, uint8 (M, C, C, 3).
        clock: how often and how long.
    """
    rows, variants = {}, []
    for precision in PRECISIONS:
        say(f"exporting {trained.name} in {precision}")
        content = to_onnx(trained, precision, calibration).SerializeToString()
        session = start(content)
        rows[precision] = {
            "network": key,
            "precision": precision,
            "megabytes": len(content) / 1e6,
            "logits": by_session(session, pixels),
        }
        for batch in BATCHES:
            variants.append(variant(f"{precision}/{batch}", session, pixels[:batch]))
    timed = readings(variants, clock.rounds, clock.seconds, say)
    for precision, row in rows.items():
        for batch in BATCHES:
            calls = timed[f"{precision}/{batch}"]
            for which in ("wall", "cpu"):
                seconds = [batch * getattr(r, f"{which}_seconds") / r.images for r in calls]
                row[f"{which}_milliseconds_{batch}"] = spread([1000 * s for s in seconds])
    return list(rows.values())


def start(content: bytes) -> onnxruntime.InferenceSession:
    """A session with a thread for each core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def by_session(session: onnxruntime.InferenceSession, pixels: np.ndarray) -> np.ndarray:
    """The logits of all images, float32 (N, classes)."""
    at_once = max(BATCHES)
    parts = [
        session.run(["logits"], {"pixels": pixels[start : start + at_once]})[0]
        for start in range(0, len(pixels), at_once)
    ]
    return np.concatenate(parts)


def variant(key: str, session: onnxruntime.InferenceSession, pixels: np.ndarray) -> Variant:
    """The session, given the same images again and again."""

    def run(images: int) -> Reading:
        stopwatch = Stopwatch()
        for _ in range(images // len(pixels)):
            session.run(["probabilities"], {"pixels": pixels})
        return stopwatch.read(images)

    return Variant(key, "", key, run, len(pixels))


def errors(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The shares of images whose label is not the first, and not among the first five; the loss.

    Args:
        logits: (N, classes).
        labels: (N,) integers.
    """
    given_logits = np.take_along_axis(logits, labels[:, None], axis=1)
    ahead = np.sum(~(given_logits > logits), axis=1) - 1  # the label itself is among them
    losses = -log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels]
    return {
        "examples": len(labels),
        "top1_error": float(np.mean(ahead >= 1)),
        "top5_error": float(np.mean(ahead >= 5)),
        "loss": float(losses.mean()),
    }
