"""Checkpoints on every mesh, and what becomes of damaged ones."""

import json
import logging
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run_fixtures as fixtures
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_jax.configs import base
from alexnet_jax.errors import UserError
from alexnet_jax.model import make_mesh
from alexnet_jax.model.mesh import shardings
from alexnet_jax.run import checkpoint, hosts, momentum, versions
from alexnet_jax.run.checkpoint import Checkpoints, fingerprint
from alexnet_jax.training.update_rule import update_rule

MESHES = [(1, 1), (1, 2), (2, 1), (2, 2), (4, 2)]
Tree = Any


def trees(step: int) -> dict[str, Tree]:
    """Two parts with every kind of leaf that a run has: kernels, odd sizes, scalars, integers."""
    rng = np.random.default_rng(step)
    return {
        "model": {
            "params": {
                "conv1": {"kernel": rng.normal(size=(5, 5, 3, 64)).astype(np.float32)},
                "fc8": {"bias": rng.normal(size=7).astype(np.float32)},
            },
            "batch_stats": {},
        },
        "training": {"step": np.int32(step), "best": np.float32(np.inf)},
    }


def on(tree: Tree, shape: tuple[int, int]) -> Tree:
    """The tree as global arrays on a mesh."""
    return jax.device_put(tree, shardings(tree, make_mesh(*shape)))


def abstract(tree: Tree) -> Tree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def same_bits(tree: Tree, other: Tree) -> bool:
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Checkpoints of steps 1, 2 and 3."""
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, on(trees(step), (1, 2)), {"input": {"next_index": step}}, 0.5)
    return tmp_path / "checkpoints"


def restore(
    directory: Path, shape: tuple[int, int] = (1, 1)
) -> tuple[dict[str, Tree], dict[str, Any], list[str], list[Path]]:
    """The trees, the record, what was said, and where damaged checkpoints went."""
    said: list[str] = []
    with Checkpoints(directory) as checkpoints:
        found = checkpoints.restore(abstract(trees(0)), make_mesh(*shape), say=said.append)
        assert found is not None
        moved = checkpoints.discard_after(found[1]["step"])
    return *found, said, moved


# --- the fingerprint ------------------------------------------------------------------------------


@settings(deadline=None)  # a machine with other work to do
@given(
    leaf=st.sampled_from([(np.float32, (3, 5)), (np.int32, ()), (np.float32, (64,))]),
    position=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 31),
)
def test_any_single_flipped_bit_changes_the_fingerprint(leaf, position, bit):
    dtype, shape = leaf
    before = {"a": np.arange(6, dtype=np.float32), "b": np.full(shape, 3, dtype)}
    after = {"a": before["a"], "b": before["b"].copy()}
    words = after["b"].reshape(-1).view(np.uint32)
    words[int(position * len(words))] ^= np.uint32(1 << bit)
    after["b"] = words.view(dtype).reshape(shape)
    assert int(fingerprint(before)) != int(fingerprint(after))


def test_exchanged_values_change_the_fingerprint():
    ones, twos = np.ones(4, np.float32), np.full(4, 2, np.float32)
    prints = {
        int(fingerprint(tree))
        for tree in ([ones, twos], [twos, ones], [np.array([1, 1, 2, 2], np.float32), ones])
    }
    assert len(prints) == 3


@pytest.mark.parametrize("shape", MESHES)
def test_the_fingerprint_is_the_same_on_every_mesh(shape):
    tree = trees(1)
    assert int(fingerprint(on(tree, shape))) == int(fingerprint(on(tree, (1, 1))))


# --- restoring ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", MESHES)
def test_a_checkpoint_comes_back_bit_for_bit_on_every_mesh(saved: Path, shape):
    restored, record, said, moved = restore(saved, shape)
    assert same_bits(restored, trees(3))
    assert (record["step"], record["input"], said, moved) == (3, {"next_index": 3}, [], [])
    kernel = restored["model"]["params"]["conv1"]["kernel"]
    assert kernel.sharding.mesh.devices.shape == shape
    assert kernel.addressable_shards[0].data.shape[-1] == 64 // shape[1]


def test_evaluation_restores_the_model_alone(saved: Path):
    with Checkpoints(saved, read_only=True) as checkpoints:
        found = checkpoints.restore({"model": abstract(trees(0)["model"])}, make_mesh(1, 1))
    assert found is not None
    assert same_bits(found[0], {"model": trees(3)["model"]})


def test_looking_for_checkpoints_makes_none(tmp_path: Path):
    with Checkpoints(tmp_path / "none", read_only=True) as checkpoints:
        assert checkpoints.steps() == []
        assert checkpoints.best() is None
        assert checkpoints.restore(abstract(trees(0)), make_mesh(1, 1)) is None
    assert list(tmp_path.iterdir()) == []


def test_the_best_is_the_one_with_the_lowest_error_and_outlives_the_latest(tmp_path: Path):
    errors = [0.9, 0.3, None, 0.6, 0.5, None, 0.4]
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step, error in enumerate(errors, 1):
            checkpoints.save(step, on(trees(step), (1, 1)), {}, error)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.steps() == [2, 6, 7]
        assert checkpoints.best() == 2
        assert [checkpoints.is_best(e) for e in (0.2, 0.3, 0.4, None)] == [True, *[False] * 3]


# --- damage ---------------------------------------------------------------------------------------


def remove(file: Path) -> None:
    file.unlink()


def shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def alter(file: Path) -> None:
    content = bytearray(file.read_bytes())
    for position in range(len(content) // 4, len(content), max(1, len(content) // 4)):
        content[position] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [remove, shorten, alter])
def test_whichever_file_is_damaged_the_arrays_are_right(saved: Path, damage, tmp_path: Path):
    """Either the damage does no harm, or the checkpoint before is taken, and that is said."""
    files = [file.relative_to(saved) for file in (saved / "3").rglob("*") if file.is_file()]
    assert len(files) > 10
    harmed = set()
    for number, file in enumerate(files):
        copy = tmp_path / f"{number}" / "checkpoints"
        shutil.copytree(saved, copy)
        damage(copy / file)
        if (copy / file).exists() and (saved / file).read_bytes() == (copy / file).read_bytes():
            continue  # an empty file cannot be shortened
        restored, record, said, moved = restore(copy)
        step = record["step"]
        assert same_bits(restored, trees(step)), file
        if step == 3:
            assert not said and not moved, file
            continue
        assert step == 2, file
        harmed.add(str(file))
        assert said[0].startswith(f"checkpoint {copy / '3'} is damaged: "), said
        assert said[1:] == ["falling back to the checkpoint of step 2"]
        assert moved == [copy.parent / "damaged_checkpoints" / "3"]
        assert (moved[0] / "model").is_dir()
        if len(harmed) == 1:  # step 3 can be saved again; the same after each, as it was moved
            with Checkpoints(copy) as checkpoints:
                checkpoints.save(3, on(trees(3), (1, 2)), {"input": {}}, None)
            assert same_bits(restore(copy)[0], trees(3))
    for part in ("model", "training"):
        assert any(file.startswith(f"3/{part}/") and "/d/" in file for file in harmed)
    assert "3/_CHECKPOINT_METADATA" in harmed


def test_every_byte_of_the_large_files_counts(saved: Path, tmp_path: Path):
    """Orbax reads altered arrays without a word; their fingerprint notices, wherever it is."""
    file = max((saved / "3" / "model").rglob("*"), key=lambda f: f.stat().st_size)
    whole = file.read_bytes()
    noticed = 0
    for position in np.linspace(100, len(whole) - 100, 12).astype(int):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        said: list[str] = []
        with Checkpoints(saved, read_only=True) as checkpoints:
            found = checkpoints.restore(abstract(trees(0)), make_mesh(1, 1), say=said.append)
        assert found is not None
        assert same_bits(found[0], trees(found[1]["step"]))
        noticed += bool(said) and found[1]["step"] == 2
    assert noticed >= 10  # some bytes belong to nothing


def test_damage_to_an_old_checkpoint_is_no_hindrance(saved: Path):
    """A kill while an old checkpoint is deleted leaves half of one."""
    for name in ("model", "_CHECKPOINT_METADATA", "commit_success.txt"):
        path = saved / "1" / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        restored, _, said, _ = restore(saved)
        assert same_bits(restored, trees(3)) and not said
    with Checkpoints(saved) as checkpoints:
        for step in (4, 5):
            checkpoints.save(step, on(trees(step), (1, 2)), {"input": {}}, 0.6)
    assert same_bits(restore(saved)[0], trees(5))


def test_all_damaged_is_an_error_and_changes_nothing(saved: Path):
    for step in (1, 2, 3):
        for file in (saved / str(step) / "model").rglob("*"):
            if file.is_file():
                file.write_bytes(b"")
    before = {file: file.read_bytes() for file in saved.rglob("*") if file.is_file()}
    with (
        Checkpoints(saved) as checkpoints,
        pytest.raises(UserError, match="tried: 3, 2, 1") as info,
    ):
        checkpoints.restore(abstract(trees(0)), make_mesh(1, 1), say=lambda text: None)
    assert "Restore the files from a backup, or train again" in str(info.value)
    assert {file: file.read_bytes() for file in saved.rglob("*") if file.is_file()} == before


def test_an_altered_record_is_noticed(saved: Path):
    """The input's position is no array: it has a checksum of its own."""
    path = saved / "3" / "_CHECKPOINT_METADATA"
    metadata = json.loads(path.read_text())
    metadata["custom_metadata"]["input"]["next_index"] = 4
    path.write_text(json.dumps(metadata))
    _, record, said, _ = restore(saved)
    assert record["input"] == {"next_index": 2}
    assert "its record has been altered" in said[0]


def test_the_reader_of_these_tests_agrees_with_orbax(saved: Path):
    restored, *_ = restore(saved)
    read = fixtures.arrays(saved / "3")
    np.testing.assert_array_equal(
        read["model/params.conv1.kernel"], restored["model"]["params"]["conv1"]["kernel"]
    )
    assert jnp.isinf(read["training/best"])


# --- what is no damage ----------------------------------------------------------------------------


def state_of_disk(directory: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    "failure",
    [
        OSError(24, "Too many open files"),
        OSError(5, "Input/output error"),
        PermissionError(13, "Permission denied"),
        MemoryError(),
        ValueError("UNKNOWN: Failed to open: \"d\": Stale file handle [os_error_code='116']"),
        ValueError("RESOURCE_EXHAUSTED: Error reading"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
    ],
)
@pytest.mark.parametrize("where", ["load_checkpointables", "checkpointables_metadata"])
def test_a_read_that_failed_stops_and_moves_nothing(
    saved: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception, where: str
) -> None:
    """Once, at the newest; it may be right the next time. Orbax hides the cause in its own."""

    def fail(*arguments: Any) -> None:
        raise KeyError("incompatible handler") from failure

    before = state_of_disk(saved)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.ocp, where, fail)
        with (
            Checkpoints(saved) as checkpoints,
            pytest.raises(UserError, match=r"3 cannot be read: .*nothing was changed"),
        ):
            checkpoints.restore(abstract(trees(0)), make_mesh(1, 1), say=pytest.fail)
    assert state_of_disk(saved) == before
    assert restore(saved)[1]["step"] == 3


def test_whichever_file_cannot_be_opened_it_is_no_damage(saved: Path, tmp_path: Path) -> None:
    """Orbax itself would take some of them for missing, and the checkpoint for damaged."""
    files = [file.relative_to(saved) for file in (saved / "3").rglob("*") if file.is_file()]
    for number, file in enumerate(files):
        copy = tmp_path / f"{number}" / "checkpoints"
        shutil.copytree(saved, copy)
        (copy / file).unlink()
        (copy / file).symlink_to((copy / file).name)  # "too many levels", for root as well
        with (
            Checkpoints(copy) as checkpoints,
            pytest.raises(UserError, match=r"cannot be read: .*Too many levels"),
        ):
            checkpoints.restore(abstract(trees(0)), make_mesh(1, 1), say=pytest.fail)
        assert sorted(path.name for path in copy.iterdir()) == ["1", "2", "3"]


def test_an_unreadable_checkpoint_is_not_moved_by_the_next_save(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch, Checkpoints(saved) as checkpoints:
        patch.setattr(checkpoint, "load_record", fail)
        with pytest.raises(UserError, match=r"cannot be read: .*Input/output error"):
            checkpoints.save(4, on(trees(4), (1, 1)), {}, None)
    assert not (saved.parent / "damaged_checkpoints").exists()
    assert restore(saved)[1]["step"] == 3


def test_arrays_of_another_form_are_named_as_that(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the versions that saved them, where they are others."""
    before = state_of_disk(saved)
    wanted = abstract(trees(0))
    wanted["model"]["params"]["conv1"]["kernel"] = jax.ShapeDtypeStruct((3, 3, 3, 64), np.float32)
    now = versions.installed()
    monkeypatch.setattr(versions, "installed", lambda: now | {"jax": "9.9"})
    with Checkpoints(saved) as checkpoints, pytest.raises(UserError) as info:
        checkpoints.restore(wanted, make_mesh(1, 1), say=pytest.fail)
    assert "is whole, but its model arrays have other names or shapes" in str(info.value)
    assert f"(jax {now['jax']}, now 9.9)" in str(info.value)
    assert state_of_disk(saved) == before


def test_a_checkpoint_names_the_versions_that_made_it(saved: Path) -> None:
    record = fixtures.record(saved / "3")
    assert {"python", "jax", "numpy", "grain", "optax"} <= record["versions"].keys()
    assert record["versions"]["jax"] == jax.__version__
    assert versions.differing(record["versions"]) == ""
    others = record["versions"] | {"jax": "0.1", "left": "2"}
    assert versions.differing(others) == f"jax 0.1, now {jax.__version__}; left 2, now gone"


# --- momentum -------------------------------------------------------------------------------------

OPTIM = base.get_config().optim


def stepped(params: Tree) -> tuple[Any, Tree]:
    """An optimizer, and its state after three steps."""
    rule = update_rule(OPTIM, 100)
    state = rule.init(params)
    for _ in range(3):
        gradients = jax.tree.map(lambda x: x + 1, params)
        _, state = rule.update(gradients, state, params, plateau_factor=jnp.float32(1))
    return rule, state


def parameters() -> Tree:
    rng = np.random.default_rng(0)
    return {
        layer: {
            "kernel": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32),
            "bias": jnp.asarray(rng.normal(size=4), jnp.float32),
        }
        for layer in ("conv1", "conv2", "fc8")
    }


def test_momentum_is_a_plain_tree_and_makes_the_state_again() -> None:
    params = parameters()
    rule, state = stepped(params)
    plain = momentum.momentum_of(state, params)
    assert jax.tree.structure(plain) == jax.tree.structure(params)
    assert all(np.abs(leaf).min() > 0 for leaf in jax.tree.leaves(plain))
    again = momentum.with_momentum(rule.init(params), plain, jnp.int32(3))
    assert jax.tree.structure(again) == jax.tree.structure(state)
    assert same_bits(again, state)
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(again)]
    assert len(set(buffers)) == len(buffers)  # a step gives each away


def test_a_checkpoint_with_the_tree_of_optax_still_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As earlier versions saved it: no forms, no versions, and optax's names, whatever they are."""
    params = parameters()
    _, state = stepped(params)
    old = {"model": {"params": params}, "training": {"opt_state": (state,), "step": jnp.int32(3)}}
    with monkeypatch.context() as patch, Checkpoints(tmp_path / "checkpoints") as checkpoints:
        patch.setattr(checkpoint, "_checksum", lambda record: checksum(plain_record(record)))
        checkpoints.save(3, on(old, (1, 1)), {"input": {}}, None)
    path = tmp_path / "checkpoints" / "3" / "_CHECKPOINT_METADATA"
    metadata = json.loads(path.read_text())
    metadata["custom_metadata"] = plain_record(metadata["custom_metadata"])
    path.write_text(json.dumps(metadata))
    wanted = abstract(
        {
            "model": {"params": params},
            "training": {"momentum": momentum.momentum_of(state, params), "step": jnp.int32(0)},
        }
    )
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        found = checkpoints.restore(wanted, make_mesh(1, 2), say=pytest.fail)
    assert found is not None
    assert same_bits(found[0]["training"]["momentum"], momentum.momentum_of(state, params))
    assert int(found[0]["training"]["step"]) == 3


checksum = checkpoint._checksum


def plain_record(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in ("forms", "versions")}


# --- saves that fail ------------------------------------------------------------------------------


class Failing:
    """A writer whose disk is full."""

    def wait(self) -> None:
        raise OSError(28, "No space left on device")

    close = wait


def test_a_failed_save_is_said_though_another_error_goes_first(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt), Checkpoints(saved) as checkpoints:
        checkpoints._writer = Failing()
        raise KeyboardInterrupt
    words = f"could not save a checkpoint to {saved}: [Errno 28] No space left on device"
    assert words in capsys.readouterr().out
    with pytest.raises(UserError, match="No space left"), Checkpoints(saved) as checkpoints:
        checkpoints._writer = Failing()
    with pytest.raises(UserError, match="No space left"), Checkpoints(saved) as checkpoints:
        checkpoints._writer = Failing()
        checkpoints.wait()
    assert capsys.readouterr().out == ""  # not said twice


def test_a_save_that_another_process_broke_is_not_called_a_full_disk(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Alone:
        def wait(self) -> None:
            raise RuntimeError("UNKNOWN: Gloo AllGather failed: Connection reset by peer")

        close = wait

    checkpoints = Checkpoints(saved)
    checkpoints._writer = Alone()
    with pytest.raises(UserError, match="Free some space"):
        checkpoints.wait()
    monkeypatch.setattr(hosts, "several", lambda: True)
    with pytest.raises(RuntimeError, match="Gloo"):
        checkpoints.wait()


# --- the host program -----------------------------------------------------------------------------


def test_the_host_programs_hooks_and_loggers_are_left_alone(saved: Path) -> None:
    def seen() -> list[Any]:
        levels = [logging.getLogger(name).level for name in (None, "absl", "asyncio")]
        return [sys.excepthook, sys.unraisablehook, warnings.filters[:], levels]

    before = seen()
    shorten(max((saved / "3" / "model").rglob("*"), key=lambda f: f.stat().st_size))
    _, record, said, _ = restore(saved)
    assert record["step"] == 2 and said
    with Checkpoints(saved) as checkpoints:
        checkpoints.save(4, on(trees(4), (1, 1)), {}, None)
    assert seen() == before
