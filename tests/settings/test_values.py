"""Values that no run can mean are refused; what is not refused can be built and stepped."""

import functools
import json
import math
import operator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import network_fixtures as fixtures
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from alexnet_jax import settings
from alexnet_jax.model import AlexNet, Conv, Dense, Network, make_mesh
from alexnet_jax.settings import files
from alexnet_jax.training.step import State, make_train_step, total_steps
from alexnet_jax.training.update_rule import Plateau, update_rule

SMALLEST = Network(
    classes=3,
    input_size=20,
    conv1=Conv(4, 5, 1, (2, 2), after="activation norm pool"),
    conv2=Conv(4, 3, 1, (1, 1), after="activation norm pool"),
    conv3=Conv(4, 3, 1, (1, 1), communicates=True),
    conv4=Conv(4, 3, 1, (1, 1)),
    conv5=Conv(4, 3, 1, (1, 1), after="activation pool"),
    fc6=Dense(8),
    fc7=Dense(8),
)


def configuration() -> ConfigDict:
    return fixtures.small_config("data.size=24", "batch_size=2", network=SMALLEST)


REFUSED = {
    "batch_size": (0, -1, 2**31),
    "seed": (-1, 2**32),
    "epochs": (0.0, -1.0, math.nan, math.inf, 1e300, 1e-300),
    "eval_every": (0.0, 1e308),
    "checkpoint_every": (-0.5, math.nan),
    "keep_checkpoints": (0,),
    "data.size": (0, 70_000),
    "data.holdout": (-1.0, 1.5),
    "data.lighting_until": (75.0, -0.1),
    "data.lighting_divisor": (0.0, math.inf),
    "mesh.data": (-1, 10**6),
    "mesh.tower": (-1, 3),
    "optim.learning_rate": (0.0, -0.1, 1e-50, 1e39, math.nan),
    "optim.momentum": (-0.1, 1.0, 1.5),
    "optim.weight_decay": (-1.0, math.inf),
    "optim.bias_multiplier": (-2.0,),
    "optim.drops": ((27, 56, 87), (-0.1,), (math.nan,), ("a",)),
    "optim.bias_drops": ((0.5, 1.1),),
    "optim.rises": ((91,),),
    "optim.conv1_slow_after": (1.1,),
    "optim.conv1_frozen_after": (79.0,),
    "optim.patience": (0,),
    "model.lrn_size": (4, 0, -3),
    "model.lrn_k": (0.0, -2.0),
    "model.lrn_alpha": (-1e-4,),
    "model.lrn_beta": (-0.75,),
    "model.dropout": (-0.1, 1.0),
    "model.fc8_std": (-0.01, math.nan),
    "model.conv1.std": (-0.01,),
    "model.conv2.width": (-4, 10**6),
    "model.classes": (1, 10**9),
    "model.conv1.padding": ((-1, 2), (1.5, 2), (1,)),
    "model.conv1.stride": (0,),
    "model.conv5.pool_padding": ((3, 3), (0, 3), (-1, 0)),
    "model.conv5.after": ("pool pool",),
    "model.fc6.std": (-1.0,),
    "model.fc6.after": ("dropout dropout",),
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in REFUSED.items() for value in values]
)
def test_a_value_that_no_run_can_mean_is_refused_by_its_name(field: str, value: Any) -> None:
    config = configuration()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(settings.ConfigError) as info:
        settings.check(config)
    (line,) = str(info.value).splitlines()
    section, _, name = field.rpartition(".")
    assert section in line and (name in line or name in ("stride", "pool_padding")), line


def test_a_rise_that_no_schedule_would_make_is_refused() -> None:
    """Instead of left out unsaid."""
    config = configuration()
    config.optim.rises = (0.5,)
    settings.check(config)
    config.optim.schedule = "dexp"
    with pytest.raises(settings.ConfigError, match=r"optim.rises=\(0.5,\): optim.schedule=dexp"):
        settings.check(config)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("optim.drops", ()), ("optim.drops", (0, 1)), ("optim.momentum", 0.0), ("seed", 2**32 - 1),
        ("optim.weight_decay", 0.0), ("model.lrn_size", 1), ("data.holdout", 0.25),
        ("data.holdout", 5000.0), ("model.conv5.pool_padding", (2, 0)), ("model.lrn_alpha", 0.0),
        ("data.lighting_until", 1.0), ("model.conv1.std", 0.0), ("mesh.data", 0),
    ],
)  # fmt: skip
def test_what_a_run_can_mean_is_not(field: str, value: Any) -> None:
    config = configuration()
    config.update_from_flattened_dict({field: value})
    settings.check(config)


def step_is_possible(config: ConfigDict) -> None:
    """The network, the update rule and one step of it, by their shapes."""
    network = settings.network(config)
    model = AlexNet(network, make_mesh(1, 1), jnp.dtype(config.dtype))
    steps = total_steps(config, 1000)
    rule = update_rule(config.optim, steps)
    mean = np.zeros((config.data.size,) * 2 + (3,), np.float32)
    step = make_train_step(model, rule, mean, config, steps)
    size = network.input_size
    variables = model.shapes()

    def start(params: Any) -> State:
        return State(
            seed=jnp.uint32(0),
            step=jnp.int32(0),
            params=params,
            batch_stats=jax.tree.map(jnp.zeros_like, variables["batch_stats"]),
            opt_state=rule.init(params),
            plateau=Plateau.start(),
            running={name: jnp.float32(0) for name in ("loss", "top1", "top5", "examples")},
            bad_step=jnp.int32(-1),
        )

    state = jax.eval_shape(start, variables["params"])
    count = config.batch_size
    batch = {
        "image": jax.ShapeDtypeStruct((count, size, size, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((count,), jnp.int32),
    }
    if config.data.mean == "aligned":
        batch["offset"] = jax.ShapeDtypeStruct((count, 3), jnp.int32)
    after = jax.eval_shape(step, state, batch)
    assert jax.tree.map(lambda leaf: leaf.shape, after) == jax.tree.map(
        lambda leaf: leaf.shape, state
    )


FIELDS = {
    field: value
    for field, value in settings.flatten(configuration()).items()
    if value is not None and field != "preset"
}
NUMBERS = st.one_of(
    st.sampled_from([-1, 0, 1, 2, 3, 4, 5, 16, 10**5, 2**31 - 1, 2**31, 2**63]), st.integers()
)
SHARES = st.one_of(st.floats(0, 1.5), st.floats(), st.sampled_from([0.0, 1.0, 1e-40, 1e40]))
WORDS = st.one_of(
    st.sampled_from(
        ["", "float32", "bfloat16", "steps", "plateau", "dexp", "sqrt", "eigenvalue", "none",
         "host", "device", "centre", "aligned", "relu", "tanh", "lrn", "batch_norm", "activation",
         "activation norm pool", "pool", "norm activation", "within_map_norm", "dropout",
         "activation dropout", "pool pool", "norm norm", "train", "test"],
    ),
    st.text(max_size=5),
)  # fmt: skip


def values(like: Any) -> st.SearchStrategy[Any]:
    """Any value of the kind of `like`."""
    if isinstance(like, bool):
        return st.booleans()
    if isinstance(like, int):
        return NUMBERS
    if isinstance(like, float):
        return SHARES
    if isinstance(like, str):
        return WORDS
    return st.lists(st.one_of(NUMBERS, SHARES), max_size=3).map(tuple)


@hypothesis_settings(
    deadline=None, max_examples=60, derandomize=True, suppress_health_check=list(HealthCheck)
)
@example({"data.lighting": "\r"})
@example({"model.conv5.pool_padding": (3, 3)})
@example({"model.norm": "batch_norm", "model.conv1.after": "norm norm"})
@example({"optim.schedule": "dexp", "epochs": 1e6})
@example({"model.towers": 1, "model.lrn_across_towers": True, "data.mean": "aligned"})
@given(
    st.lists(st.sampled_from(sorted(FIELDS)), min_size=1, max_size=3, unique=True).flatmap(
        lambda fields: st.fixed_dictionaries({field: values(FIELDS[field]) for field in fields})
    )
)
def test_whatever_is_asked_is_refused_by_name_or_can_be_stepped(changes: dict[str, Any]) -> None:
    config = configuration()
    config.update_from_flattened_dict(changes)
    try:
        settings.check(config)
    except settings.ConfigError as error:
        (line,) = str(error).splitlines()
        # A layer that gives too small maps is noticed at the next one.
        named = [name if not name.startswith("model.") else "model." for name in changes]
        assert any(f"--config.{name}" in line or f" {name}" in line for name in named), line
        return
    step_is_possible(config)


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("batch_size", "64", "a whole number"),
        ("batch_size", None, "a whole number"),
        ("epochs", [1], "a number"),
        ("init_from", 3, "a text"),
        ("seed", True, "a whole number"),
    ],
)
def test_a_saved_value_of_another_kind_is_refused(
    tmp_path: Path, field: str, value: Any, words: str
) -> None:
    path = tmp_path / "config.json"
    settings.save(configuration(), path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(settings.ConfigError, match=rf"config.json: {field}=.*: expected {words}"):
        settings.read(path)


def test_a_saved_part_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    settings.save(configuration(), path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"optim": 3}))
    with pytest.raises(settings.ConfigError, match=r"config.json"):
        settings.read(path)


def test_a_run_that_began_before_a_field_was_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    settings.save(configuration(), path)
    fields = json.loads(path.read_text())
    for name in files.LATER:
        *rooms, field = name.split(".")
        del functools.reduce(operator.getitem, rooms, fields)[field]
    path.write_text(json.dumps(fields))
    assert settings.read(path) == configuration()
