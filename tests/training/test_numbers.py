"""What a step computes with: precision, determinism and parts reach it, and a run says so."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import network_fixtures as fixtures
import numpy as np
import pytest

from alexnet_jax.model import AlexNet, cpu, gpu, make_mesh, tpu
from alexnet_jax.model.plain import Plain
from alexnet_jax.settings import network
from alexnet_jax.training import step as module
from alexnet_jax.training.step import make_train_step, state_shapes
from alexnet_jax.training.update_rule import update_rule

BATCH = 8


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The program of a step as it is written, before any compiler; of a plain platform."""

    def text(*assignments: str, platform: Plain | None = None) -> str:
        monkeypatch.setattr(module, "platform_of", lambda mesh: platform or Plain())
        config = fixtures.small_config(f"batch_size={BATCH}", *assignments)
        model = AlexNet(network(config), make_mesh(1, 1))
        optimizer = update_rule(config.optim, 10)
        train_step: Any = make_train_step(model, optimizer, np.zeros((96, 96, 3)), config, 10)
        batch = {
            "image": jax.ShapeDtypeStruct((BATCH, 96, 96, 3), jnp.uint8),
            "label": jax.ShapeDtypeStruct((BATCH,), jnp.int32),
        }
        return str(train_step.lower(state_shapes(model, optimizer), batch).as_text())

    return text


def test_precision(written: Callable[..., str]) -> None:
    """Of all products of the fully connected layers and of all convolutions, both ways."""
    words = {
        name: {word: len(re.findall(rf"precision[^\n]*\b{word}\b", text)) for word in WORDS}
        for name in ("default", "high", "highest")
        for text in [written(f"precision={name}")]
    }
    # Forward and by the kernels, eight each; by what goes in, seven: nobody asks for the image's.
    grouped = 3  # conv2, 4 and 5 are two convolutions
    products = 3 * (8 + grouped) - 1
    of_lrn = words["default"]["HIGHEST"]
    assert words["default"]["HIGH"] == words["high"]["HIGHEST"] - of_lrn == 0
    assert words["high"]["HIGH"] == words["highest"]["HIGHEST"] - of_lrn == products


WORDS = ("HIGH", "HIGHEST")


def test_parts(written: Callable[..., str]) -> None:
    """A loop over parts of two images."""
    at_once, in_parts = written(), written("accumulate=4")
    assert f"tensor<{BATCH}x23x23x8xf32>" in at_once and "tensor<2x23x23x8xf32>" not in at_once
    assert "tensor<2x23x23x8xf32>" in in_parts
    assert f"tensor<{BATCH}x23x23x8xf32>" not in in_parts


def test_a_seed_is_no_part_of_the_program(written: Callable[..., str]) -> None:
    """So that runs which share what was compiled share it whatever their seeds."""
    assert written("seed=1") == written("seed=2") != written("model.dropout=0.4")


@pytest.mark.parametrize("deterministic", [False, True])
def test_the_platform_hears_of_determinism(
    written: Callable[..., str], deterministic: bool
) -> None:
    heard = []

    class Listening(Plain):
        def compiler_options(self, **options: bool) -> dict[str, Any]:
            heard.append(options)
            return {}

    written(f"deterministic={deterministic}", platform=Listening())
    assert heard == [{"training": True, "deterministic": deterministic}]


def test_what_a_gpu_is_told() -> None:
    options = gpu.PLATFORM.compiler_options
    assert options(training=True) == options() == {}
    assert options(training=True, deterministic=True) == {"xla_gpu_deterministic_ops": True}


@pytest.mark.parametrize(
    ("platform", "dtype", "precision", "deterministic", "said"),
    [
        (cpu.PLATFORM, "float32", "default", False, "float32"),
        (cpu.PLATFORM, "bfloat16", "default", True, "bfloat16"),
        (
            gpu.PLATFORM,
            "float32",
            "default",
            False,
            "float32, products in TF32, not bit for bit repeatable",
        ),
        (gpu.PLATFORM, "float32", "highest", True, "float32, deterministic"),
        (gpu.PLATFORM, "bfloat16", "high", True, "bfloat16, deterministic"),
        (tpu.PLATFORM, "float32", "default", False, "float32, products in bfloat16"),
        (tpu.PLATFORM, "float32", "high", True, "float32, products in three passes of bfloat16"),
        (tpu.PLATFORM, "float32", "highest", True, "float32"),
    ],
)
def test_what_a_run_says(
    platform: Plain, dtype: str, precision: str, deterministic: bool, said: str
) -> None:
    found = platform.describe_numbers(dtype, precision, deterministic=deterministic)
    assert found == said
