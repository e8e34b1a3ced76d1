"""A run that starts from another's weights: which layers it takes, and that it really does."""

import shutil
from pathlib import Path
from typing import Any

import jax
import network_fixtures as networks
import numpy as np
import pytest
import run_fixtures as fixtures
from ml_collections import ConfigDict
from run_fixtures import Tiny

from alexnet_jax import settings
from alexnet_jax.errors import UserError
from alexnet_jax.model import AlexNet, Conv, Dense, make_mesh
from alexnet_jax.model.mesh import shardings
from alexnet_jax.run.checkpoint import Checkpoints
from alexnet_jax.training import first_weights, update_rule
from alexnet_jax.training.session import train
from alexnet_jax.training.step import State, initial_state

Tree = Any
LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
BATCH_NORM = {"norm": "batch_norm"}


def variables(config: ConfigDict, seed: int) -> Tree:
    """Float32 parameters of a configuration's network, and running averages if it has such."""
    shapes = AlexNet(settings.network(config)).shapes()
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(1, 0.1, x.shape).astype(np.float32), shapes)


def write_run(directory: Path, config: ConfigDict, step: int = 7, seed: int = 5) -> Tree:
    """A directory like that of a run; the variables in it. At step 0, of converted weights."""
    directory.mkdir()
    settings.save(config, directory / "config.json")
    model = variables(config, seed)
    with Checkpoints(directory / "checkpoints") as checkpoints:
        checkpoints.save(
            step, {"model": jax.device_put(model)}, {"dataset": None, "input": None}, None
        )
    return model


def drawn(config: ConfigDict, mesh_shape: tuple[int, int]) -> State:
    """The state before the first step, on a mesh; its weights are others than `initial_state`'s,
    which would take seconds to compile."""
    mesh = make_mesh(*mesh_shape)
    model = AlexNet(settings.network(config), mesh)
    rule = update_rule.update_rule(config.optim, 10)
    state = jax.eval_shape(lambda: initial_state(model, rule, config.seed))
    own = variables(config, seed=6)
    return state.replace(**jax.device_put(own, shardings(own, mesh)))


def same_bits(one: Any, other: Any) -> bool:
    return np.asarray(one).tobytes() == np.asarray(other).tobytes()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tree]:
    """A run of the small network, and its variables."""
    path = tmp_path_factory.mktemp("source") / "W"
    return path, write_run(path, networks.small_config())


# --- which layers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mesh_shape", [(1, 1), (1, 2)])
def test_all_layers_but_the_last_are_the_others_to_the_bit(
    source: tuple[Path, Tree], tmp_path: Path, mesh_shape: tuple[int, int], capsys
) -> None:
    """With 12 classes here as there: the last layer is drawn all the same."""
    path, theirs = source
    config = networks.small_config(f"init_from={path}")
    before = drawn(config, mesh_shape)
    state = first_weights.start(before, first_weights.take(config, tmp_path / "new"))
    for name in LAYERS:
        for key in ("kernel", "bias"):
            expected = (before.params if name == "fc8" else theirs["params"])[name][key]
            assert same_bits(state.params[name][key], expected), (name, key)
            mesh = state.params[name][key].sharding.mesh
            assert mesh.devices.shape == mesh_shape
    assert jax.tree.map(lambda x: x.sharding, state.params) == shardings(
        state.params, make_mesh(*mesh_shape)
    )
    assert state.opt_state is before.opt_state  # no momentum is taken
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        f"first weights, from step 7 of {path}:",
        *(f"{name}: taken" for name in LAYERS[:-1]),
        "fc8: new (the last layer)",
    ]


def test_what_does_not_fit_is_drawn_and_said(
    source: tuple[Path, Tree], tmp_path: Path, capsys
) -> None:
    """Another width, another input, a layer more, a layer less."""
    path, theirs = source
    wider = networks.small_network(
        classes=5,
        conv4=Conv(32, 3, 1, (1, 1), std=0.1, bias=1.0),
        conv6=Conv(16, 3, 1, (1, 1), communicates=True),
        fc7=Dense(0),
        input_size=128,
    )
    config = networks.small_config(f"init_from={path}", network=wider)
    before = drawn(config, (1, 1))
    state = first_weights.start(before, first_weights.take(config, tmp_path / "new"))
    taken = {
        name
        for name, layer in state.params.items()
        if not same_bits(layer["kernel"], before.params[name]["kernel"])
    }
    assert taken == {"conv1", "conv2", "conv3"}
    for name in taken:
        assert same_bits(state.params[name]["kernel"], theirs["params"][name]["kernel"])
    for name in state.params.keys() - taken:
        assert same_bits(state.params[name]["bias"], before.params[name]["bias"]), name
    printed = capsys.readouterr().out
    for line in (
        "conv4: new, (3, 3, 12, 32) here, (3, 3, 12, 24) there",
        "conv5: new, (3, 3, 16, 16) here, (3, 3, 12, 16) there",
        "conv6: new (no such layer there)",
        "fc6: new, (144, 32) here, (64, 32) there",
        "fc7: left out (no such layer here)",
        "fc8: new (the last layer)",
    ):
        assert f"\n{line}\n" in printed
    assert "note:" not in printed  # the shapes say it all


def test_batch_norm_comes_with_its_running_averages(tmp_path: Path, capsys) -> None:
    """Scale, shift, mean and variance of the layers that have them; new where they have none."""
    with_norm = networks.small_config(network=networks.small_network(**BATCH_NORM))
    theirs = write_run(tmp_path / "W", with_norm)
    config = settings.override(with_norm, [f"init_from={tmp_path / 'W'}"])
    state = first_weights.start(drawn(config, (1, 2)), first_weights.take(config, tmp_path / "new"))
    for name in ("conv1", "conv2"):
        assert state.params[name].keys() == {"kernel", "bias", "scale", "shift"}
        assert state.batch_stats[name].keys() == {"mean", "variance"}
    ours = {"params": state.params, "batch_stats": state.batch_stats}
    del ours["params"]["fc8"], theirs["params"]["fc8"]
    assert jax.tree.all(jax.tree.map(same_bits, ours, theirs))
    assert ", but new" not in capsys.readouterr().out


def test_batch_norm_that_was_not_there_is_new_and_the_note_says_so(
    source: tuple[Path, Tree], tmp_path: Path, capsys
) -> None:
    """The kernels are taken, the norm starts as ever; what the weights were made for is said."""
    path, theirs = source
    config = networks.small_config("model.norm=batch_norm", f"init_from={path}")
    before = drawn(config, (1, 1))
    state = first_weights.start(before, first_weights.take(config, tmp_path / "new"))
    assert same_bits(state.params["conv1"]["kernel"], theirs["params"]["conv1"]["kernel"])
    assert same_bits(state.params["conv1"]["scale"], before.params["conv1"]["scale"])
    assert same_bits(state.batch_stats["conv2"]["mean"], before.batch_stats["conv2"]["mean"])
    printed = capsys.readouterr().out
    assert "\nconv1: taken, but new scale, shift, mean, variance\n" in printed
    assert printed.endswith(
        f"note: the network of {path} has --config.model.norm=lrn, this one has not\n"
    )


def test_weights_of_one_tower_fit_two_where_no_kernel_sees_its_own_alone(
    tmp_path: Path, capsys
) -> None:
    """Converted weights, at step 0; a run of one tower cannot be restored on a mesh of two."""
    write_run(tmp_path / "W", networks.small_config("model.towers=1"), step=0)
    together = ("conv2.communicates=True", "conv4.communicates=True", "conv5.communicates=True")
    fields = [f"model.{field}" for field in together]
    config = networks.small_config(f"init_from={tmp_path / 'W'}", *fields)
    taken = first_weights.take(config, tmp_path / "new")
    assert tuple(taken["params"]) == LAYERS[:-1]
    printed = capsys.readouterr().out
    assert printed.endswith(" --config.model.towers=1, this one has not\n")


def test_nothing_is_taken_onto_a_layer_that_is_not_there(
    source: tuple[Path, Tree], tmp_path: Path, capsys
) -> None:
    """As in 2012, when conv6 was put upon conv5: fc6 and fc7 would fit, but saw other maps."""
    path, _ = source
    more = networks.small_network(conv6=Conv(16, 3, 1, (1, 1), communicates=True))
    config = networks.small_config(f"init_from={path}", "optim.rates.conv1=0.1", network=more)
    taken = first_weights.take(config, tmp_path / "new")
    assert tuple(taken["params"]) == LAYERS[:5]
    assert capsys.readouterr().out.splitlines()[1:] == [
        "conv1: taken, at 0.1 times the rate",
        *(f"{name}: taken" for name in LAYERS[1:5]),
        "conv6: new (no such layer there)",
        "fc6: new (it follows conv6, which is new)",
        "fc7: new (it follows conv6, which is new)",
        "fc8: new (the last layer)",
    ]


def test_a_layer_without_what_it_learned_from_is_taken_with_a_word(
    source: tuple[Path, Tree], tmp_path: Path, capsys
) -> None:
    """As fc6 of a network that had a sixth convolution, or the one behind a layer taken out."""
    path, _ = source
    fewer = networks.small_network(conv4=Conv(0, 3, 1, (1, 1)))
    config = networks.small_config(f"init_from={path}", network=fewer)
    first_weights.take(config, tmp_path / "new")
    out = capsys.readouterr().out.splitlines()
    assert "conv4: left out (no such layer here)" in out and "conv5: taken" in out
    assert "note: conv5 has learned from conv4, which this network has not" in out


def test_the_fine_tuned_network_of_2012_takes_all_but_fc8_of_the_pretrained_one() -> None:
    """Six convolutions in both; 21,843 classes there, 1,000 here."""
    there, here = (
        AlexNet(settings.network(settings.load(name))).shapes()["params"]
        for name in ("pretrain", "finetune_2012")
    )
    assert [name for name in here if not first_weights._misfit(name, here[name], there[name])] == [
        *LAYERS[:5], "conv6", "fc6", "fc7",
    ]  # fmt: skip
    assert here["conv6"]["kernel"].shape == (3, 3, 256, 256)
    assert there["fc8"]["kernel"].shape == (4096, 21843)
    assert here["fc8"]["kernel"].shape == (4096, 1000)


# --- refusals -------------------------------------------------------------------------------------


def refused(config: ConfigDict, workdir: Path) -> UserError:
    """What `train` says; it prepared no data and wrote nothing."""
    config.data.source = "folder:/nowhere"  # would be another error
    with pytest.raises(UserError) as info:
        train(config, workdir)
    assert "\n" not in str(info.value) and "/nowhere" not in str(info.value)
    assert not (workdir / "input").exists()
    return info.value


def test_a_directory_that_is_no_run(tmp_path: Path) -> None:
    """A mistake in the command, so the exit code is 2."""
    config = networks.small_config(f"init_from={tmp_path / 'none'}")
    error = refused(config, tmp_path / "new")
    assert str(error).startswith(
        f"--config.init_from={tmp_path / 'none'}: there is no run, nor converted weights"
    )
    assert error.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_fine_tuning_without_a_word_of_what(tmp_path: Path, monkeypatch) -> None:
    """There is no other network to start from than the one that is named."""
    monkeypatch.chdir(tmp_path)
    error = refused(settings.load("finetune_2012"), tmp_path / "new")
    assert str(error).startswith("--config.init_from=PRETRAINED: there is no run")
    error = refused(settings.load("finetune"), tmp_path / "new")
    assert str(error).startswith("--config.init_from is missing: whose weights to start from")


def test_a_run_without_a_checkpoint(tmp_path: Path) -> None:
    """It was started, and killed before it saved."""
    (tmp_path / "W").mkdir()
    settings.save(networks.small_config(), tmp_path / "W" / "config.json")
    config = networks.small_config(f"init_from={tmp_path / 'W'}")
    assert "has no checkpoint yet" in str(refused(config, tmp_path / "new"))
    assert [path.name for path in tmp_path.rglob("*")] == ["W", "config.json"]


def test_a_run_of_which_nothing_fits(source: tuple[Path, Tree], tmp_path: Path) -> None:
    """Not even fc8 of the same shape makes it another start than a drawn one."""
    path, _ = source
    other = networks.small_network(
        conv1=Conv(16, 5, 4, (0, 3), after="activation norm pool"),
        conv2=Conv(16, 3, 1, (1, 1), after="activation norm pool"),
        conv3=Conv(32, 3, 1, (1, 1), communicates=True),
        conv4=Conv(32, 3, 1, (1, 1)),
        conv5=Conv(20, 3, 1, (1, 1), after="activation pool"),
        fc6=Dense(64),
    )
    config = networks.small_config(f"init_from={path}", network=other)
    assert "no layer of its network but fc8 fits this one" in str(refused(config, tmp_path / "w"))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (["conv5.kernel=1", "conv5.padding=(0,0)"], "fc6, fc7 would be taken onto conv5, drawn"),
        (["conv2.width=32", "conv3.width=32"],
         "conv5, fc6, fc7 would be taken onto conv2, conv3, conv4, drawn"),
    ],
)  # fmt: skip
def test_layers_upon_one_that_does_not_fit(
    source: tuple[Path, Tree], tmp_path: Path, fields: list[str], words: str
) -> None:
    """They would fit, and have learned from what is not there any more."""
    fields = [f"model.{field}" for field in fields]
    error = refused(networks.small_config(f"init_from={source[0]}", *fields), tmp_path / "w")
    assert f"--config.init_from={source[0]}: {words}" in str(error)
    assert str(error).endswith("take all of its network, by --config=finetune")


@pytest.mark.parametrize("layer", ["conv6", "fc8"])
def test_a_layer_that_is_drawn_and_frozen(
    source: tuple[Path, Tree], tmp_path: Path, layer: str
) -> None:
    """A slip: nothing would ever come of it."""
    more = networks.small_network(conv6=Conv(16, 3, 1, (1, 1), communicates=True))
    fields = (f"init_from={source[0]}", f"optim.rates.{layer}=0")
    error = refused(networks.small_config(*fields, network=more), tmp_path / "w")
    assert f"{layer} is new (" in str(error)
    assert f"give --config.optim.rates.{layer} a number above 0" in str(error)


def test_converted_weights_are_no_run_to_go_on_with(tmp_path: Path) -> None:
    """They are left as they are, and the error has the way to use them."""
    config = networks.small_config()
    write_run(tmp_path / "W", config, step=0)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert str(refused(config, tmp_path / "W")) == (
        f"--workdir={tmp_path / 'W'} holds weights only, no run to resume: start one "
        f"elsewhere, with --workdir=ANOTHER --config.init_from={tmp_path / 'W'}"
    )
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_the_field_is_not_read_by_a_run_that_has_a_checkpoint(
    source: tuple[Path, Tree], tmp_path: Path, capsys
) -> None:
    """Its source may be gone by then."""
    write_run(tmp_path / "run", networks.small_config())
    config = networks.small_config("init_from=/nowhere")
    assert first_weights.take(config, tmp_path / "run") == {"params": {}, "batch_stats": {}}
    assert capsys.readouterr().out == ""


# --- whole runs -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def first(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of eight steps."""
    workdir = tmp_path_factory.mktemp("first")
    tiny.train(workdir, "--config.epochs=1")
    return workdir


def test_a_real_run_starts_from_the_weights_of_another(
    tiny: Tiny, first: Path, tmp_path: Path
) -> None:
    """At a rate of next to nothing the weights at the end are those at the start, to the bit; read
    by tensorstore alone."""
    still = ("--config.epochs=0.25", "--config.optim.learning_rate=1e-30")
    printed = tiny.train(tmp_path, *still, f"--config.init_from={first}", "--config.seed=3")
    assert "\nconv1: taken\n" in printed
    theirs = fixtures.arrays(first / "checkpoints/8")
    ours = fixtures.arrays(tmp_path / "checkpoints/2")
    for name in LAYERS:
        for key in ("kernel", "bias"):
            array = f"model/params.{name}.{key}"
            assert same_bits(ours[array], theirs[array]) == (name != "fc8"), array


def test_killed_and_gone_on_with_it_ends_as_an_unbroken_one_and_its_source_may_be_gone(
    tiny: Tiny, first: Path, tmp_path: Path
) -> None:
    """Bit for bit; another source is refused meanwhile."""
    source, unbroken, broken = (tmp_path / name for name in ("W", "unbroken", "broken"))
    shutil.copytree(first, source)
    arguments = (f"--config.init_from={source}", "--config.seed=3", "--config.epochs=15")
    tiny.train(unbroken, *arguments)
    process = tiny.start(f"--workdir={broken}", f"--config={tiny.config}", *arguments)
    assert fixtures.wait_until(process, lambda: bool(fixtures.checkpoint_steps(broken)))
    assert "first weights, from step 8 of" in fixtures.kill(process)
    assert fixtures.row_count(broken) < fixtures.row_count(unbroken), "killed too late"
    other = settings.override(settings.load(str(tiny.config)), ["seed=3", "epochs=15"])
    with pytest.raises(UserError, match=r"init_from \('.*W' there, None asked\)"):
        train(other, broken)
    shutil.rmtree(source)
    printed = tiny.train(broken, *arguments)
    assert "resuming from the checkpoint of step" in printed
    assert "first weights" not in printed
    fixtures.assert_same_end(broken, unbroken)
