"""The lab notes of 2012 as data: what they say is consistent, and what can be repeated builds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import settings
from alexnet_jax.model import AlexNet, make_mesh
from alexnet_jax.settings.fields import flatten
from alexnet_jax.settings.scaling import shrink
from alexnet_jax.training.step import initial_state, make_train_step
from alexnet_jax.training.update_rule import update_rule
from experiments import labnotes

EXPRESSED = [note.name for note in labnotes.NOTES if note.change is not None]


# Of those that train the same in the same way, on other images, the first.
TRAININGS = {
    (str(config.model), str(config.optim)): name
    for name in EXPRESSED[::-1]
    for config in [labnotes.configuration(labnotes.BY_NAME[name])]
}


def parameters(name: str) -> int:
    """Of a run's network."""
    network = settings.network(labnotes.configuration(labnotes.BY_NAME[name]))
    return sum(leaf.size for leaf in jax.tree.leaves(AlexNet(network).shapes()["params"]))


def error(name: str, views: int = 10) -> tuple[float, float]:
    """As noted."""
    (found,) = [e for e in labnotes.BY_NAME[name].errors if e.views == views]
    return found.top1, found.top5


@pytest.mark.parametrize("name", EXPRESSED)
def test_every_run_that_can_be_repeated_is_a_network(name: str) -> None:
    """And its command gives the same configuration again."""
    note = labnotes.BY_NAME[name]
    words = labnotes.command(note).replace("'", "").split(" --config.")
    again = settings.override(settings.load(labnotes.BASE), words[1:])
    expected = flatten(labnotes.configuration(note))
    differing = {k for k, v in flatten(again).items() if v != expected[k]}
    assert differing <= {"preset"}
    assert parameters(name) > 50_000_000


def test_the_networks_are_those_of_2012() -> None:
    """Parameters as counted from the released files; #150: what its cfg gives by hand."""
    assert parameters("145") == parameters("147") == parameters("148") == 60_965_224
    assert parameters("145-half") == 59_798_312
    silent = {
        "conv1": 11 * 11 * 3 * 96 + 96,
        "conv2": 5 * 5 * 48 * 320 + 320,
        "conv3": 3 * 3 * 160 * 384 + 384,
        "conv4": 3 * 3 * 192 * 384 + 384,
        "conv5": 3 * 3 * 192 * 256 + 256,
        "fc6": 6 * 6 * 128 * 8192 + 8192,
        "fc7": 4096 * 4096 + 4096,
        "fc8": 4096 * 1000 + 1000,
    }
    assert parameters("150") == sum(silent.values())


def test_the_unpublished_ones_differ_in_what_they_say() -> None:
    """The sixth convolution of the two "1 CNN*" sees both towers' 128 maps and has as many; in the
    others, what follows a layer or where towers talk, and no parameter."""
    for name in ("146-2012-2011", "146-2012-2009", "141-2009"):
        assert parameters(name) == 60_965_224 + 3 * 3 * 256 * 256 + 256
    models = {name: labnotes.configuration(labnotes.BY_NAME[name]).model for name in EXPRESSED}
    assert models["145"].conv2.after == "activation norm within_map_norm pool"
    assert models["166"].conv2.after == "norm within_map_norm pool activation"
    assert models["167"].conv2.after == models["148"].conv2.after == "activation pool"
    assert models["167"].norm == "lrn" and models["148"].norm == models["110"].norm == "none"
    assert models["177"].conv4.after == "activation dropout"
    for name in ("166", "167", "169", "170", "177"):
        assert parameters(name) == 60_965_224
    for name, talking in (("145", "conv3"), ("132", "conv4"), ("133", "conv4")):
        layers = [
            layer for layer in ("conv2", "conv3", "conv4") if models[name][layer].communicates
        ]
        assert layers == [talking]


def test_without_overlap_the_maps_are_those_of_147() -> None:
    """55-28-26-13-13-13-11-6."""
    network = settings.network(labnotes.configuration(labnotes.BY_NAME["147"]))
    found = [side for pair in network.sides().values() for side in pair]
    assert found == [55, 28, 26, 13, 13, 13, 13, 13, 11, 6]


@pytest.mark.parametrize(
    ("worse", "better", "points"),
    [
        ("148", "145", (1.37, 1.15)),
        ("147", "145", (0.39, 0.30)),
        ("145-half", "145-2010", (1.70, 1.23)),
    ],
)
def test_the_differences_are_those_of_the_paper(
    worse: str, better: str, points: tuple[float, float]
) -> None:
    """Sections 3.2 to 3.4, unrounded."""
    found = np.subtract(error(worse), error(better))
    assert found == pytest.approx(points, abs=0.005)
    assert labnotes.BY_NAME[worse].claimed and labnotes.BY_NAME[better].claimed


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS.values())
def test_every_run_takes_a_step(name: str) -> None:
    """At a sixteenth of its widths."""
    config = labnotes.configuration(labnotes.BY_NAME[name])
    wide = config.model.copy_and_resolve_references()
    shrink(config.model, conv=1 / 16, fc=32)
    for layer in ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6"):
        config.model[layer].width = wide[layer].width // 16
    config.model.fc6.width = wide.fc6.width // 128
    config.batch_size, config.model.classes = 2, 10
    model = AlexNet(settings.network(config), make_mesh(1, 1))
    optimizer = update_rule(config.optim, 10)
    step = make_train_step(model, optimizer, np.zeros((256, 256, 3), np.float32), config, 10)
    images = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    state = initial_state(model, optimizer, seed=0)
    before = jax.device_get(state.params)
    state = step(state, {"image": images, "label": np.array([0, 1], np.int32)})
    assert np.isfinite(float(state.running["loss"]))
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), before, state.params)
    assert min(pair["kernel"] for pair in moved.values()) > 0


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """A table that fits a terminal, one run in words, and the name meant for a wrong one."""
    labnotes.main([])
    table = capsys.readouterr().out
    assert max(map(len, table.splitlines())) <= 80
    assert all(f"| {note.name}" in table for note in labnotes.NOTES)
    labnotes.main(["145-half"])
    out = capsys.readouterr().out
    assert "39.168% top-1" in out and "--config.model.towers=1" in out
    labnotes.main(["153"])
    assert "repeats" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        labnotes.main(["145half"])
    assert "did you mean '145-half'?" in capsys.readouterr().err
