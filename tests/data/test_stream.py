"""The training stream: its order, its crops and its lighting, and that it resumes exactly."""

import dataclasses
import json
import pathlib
import socket
import subprocess
import sys
from types import SimpleNamespace

import data_fixtures as fixtures
import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from alexnet_jax.data import augmentation, stream
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation import views

ROOT = pathlib.Path(__file__).parents[2]
COUNT, SIZE, CROP, BATCH = 37, 24, 16, 8
CACHE = fixtures.memory_cache(fixtures.position_images(COUNT, SIZE))


def take(count: int, cache=CACHE, **options) -> list[dict[str, np.ndarray]]:
    """The first batches of a stream."""
    options = {"batch_size": BATCH, "crop": CROP, "seed": 1, "lighting": "none"} | options
    iterator = iter(stream.training_stream(cache, **options))
    batches = [next(iterator) for _ in range(count)]
    iterator.close()
    return batches


def assert_same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(np.asarray(a[name]), np.asarray(b[name]))


# --- order ----------------------------------------------------------------------------------------


def test_every_image_once_an_epoch_and_another_order_each_epoch():
    batches = take(COUNT)  # 37 batches of 8 are 8 epochs of 37
    order = np.concatenate([batch["image"][:, 0, 0, 0] for batch in batches])
    epochs = order.reshape(BATCH, COUNT)
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(COUNT), (BATCH, 1)))
    assert len({epoch.tobytes() for epoch in epochs}) == BATCH
    labels = np.concatenate([batch["label"] for batch in batches])
    np.testing.assert_array_equal(labels, order % 7)


def test_the_seed_alone_decides():
    options = {"lighting": "sqrt", "with_offsets": True}
    first = take(12, **options)
    assert_same(first, take(12, **options))
    assert_same(first, take(12, threads=3, **options))
    other = take(12, **options | {"seed": 2})
    assert not np.array_equal(first[0]["label"], other[0]["label"])
    assert not np.array_equal(first[0]["offset"], other[0]["offset"])
    assert not np.array_equal(first[0]["offset"], first[1]["offset"])


@pytest.mark.parametrize(
    ("images", "threads", "expected"),
    [("arrays", None, 1), ("decoded", None, 5), ("arrays", 3, 3), ("decoded", 3, 3)],
)
def test_threads(monkeypatch, images, threads, expected):
    """One for arrays, all cores where images are decoded, or as many as are asked for."""
    asked = []
    options = stream.grain.ReadOptions
    monkeypatch.setattr(stream, "cores", lambda: 5)
    monkeypatch.setattr(
        stream.grain, "ReadOptions", lambda **given: asked.append(given) or options(**given)
    )
    held = CACHE.images["train"] if images == "arrays" else list(CACHE.images["train"])
    cache = dataclasses.replace(CACHE, images={"train": held})
    stream.training_stream(cache, batch_size=BATCH, crop=CROP, seed=1, threads=threads)
    assert [given["num_threads"] for given in asked] == [expected]


def test_the_order_of_an_epoch_is_philox_s_of_the_seed_and_the_epoch():
    """Batches draw by numbers from 0 up, epochs by numbers from -1 down: the same in any version,
    or a run would go on in another order."""
    order = np.concatenate([batch["image"][:, 0, 0, 0] for batch in take(COUNT)])
    for epoch, found in enumerate(order.reshape(BATCH, COUNT)):
        key = np.array([1, 2**64 - 1 - epoch], np.uint64)
        drawn = np.random.Generator(np.random.Philox(key=key)).permutation(COUNT)
        np.testing.assert_array_equal(found, drawn)


def test_dtypes_and_shapes():
    (batch,) = take(1, lighting_on="device", with_offsets=True)
    found = {name: (value.shape, value.dtype.name) for name, value in batch.items()}
    assert found == {
        "image": ((8, 16, 16, 3), "uint8"),
        "label": ((8,), "int32"),
        "shift": ((8, 3), "float32"),
        "offset": ((8, 3), "int32"),
    }
    assert take(1)[0].keys() == {"image", "label"}


# --- crops ----------------------------------------------------------------------------------------


def test_crops_are_windows_of_their_images():
    seen = set()
    for batch in take(60, with_offsets=True):
        for image, (top, left, mirrored) in zip(batch["image"], batch["offset"]):
            number = image[0, 0, 0]
            window = CACHE.images["train"][number][top : top + CROP, left : left + CROP]
            np.testing.assert_array_equal(image, window[:, ::-1] if mirrored else window)
            seen.add((int(top), int(left)))
    assert {top for top, _ in seen} == {left for _, left in seen} == set(range(SIZE - CROP + 1))


def test_all_positions_of_the_released_code_and_of_the_paper():
    """33 x 33 x 2 in convdata_jpeg.py:239,244, 32 x 32 x 2 = "a factor of 2048" in the paper."""
    for last_offset, side in ((True, 33), (False, 32)):
        positions = augmentation.crop_positions(256, 224, last_offset)
        draws = augmentation.draw(np.random.default_rng(0), 50_000, positions)
        cells, counts = np.unique(draws.offsets, axis=0, return_counts=True)
        assert len(cells) == side * side * 2 and cells.max() == side - 1
        # 50,000 draws into 2,178 (2,048) cells: chi-squared has that mean and twice that variance.
        expected = 50_000 / len(cells)
        chi_squared = ((counts - expected) ** 2 / expected).sum()
        assert abs(chi_squared - len(cells)) < 4 * (2 * len(cells)) ** 0.5
    assert (
        augmentation.crop_positions(24, 24, True) == augmentation.crop_positions(24, 24, False) == 1
    )


def test_no_flip_and_no_crop_leave_the_image_alone():
    (batch,) = take(1, crop=SIZE, flip=False)
    for image in batch["image"]:
        np.testing.assert_array_equal(image, CACHE.images["train"][image[0, 0, 0]])


@pytest.mark.parametrize("last_offset", [True, False])
@pytest.mark.parametrize("crop", [CROP, CROP + 1])
def test_the_centre_of_training_is_that_of_the_test(crop: int, last_offset: bool) -> None:
    """Also where it lies between two pixels."""
    (batch,) = take(1, crop=crop, crops=False, with_offsets=True, last_offset=last_offset)
    rows = np.tile(np.arange(SIZE)[:, None, None], (1, SIZE, 3))
    first = views.centre(rows, crop)[0, 0, 0]
    assert set(batch["offset"][:, :2].ravel().tolist()) == {int(first)}


def test_options_do_not_move_the_other_numbers():
    plain = take(3, with_offsets=True)
    lit = take(3, with_offsets=True, lighting="sqrt", flip=False)
    for a, b in zip(plain, lit):
        np.testing.assert_array_equal(a["label"], b["label"])
        np.testing.assert_array_equal(a["offset"][:, :2], b["offset"][:, :2])


# --- lighting -------------------------------------------------------------------------------------


def lit_cache():
    """Images from 90 to 165: with shifts of some 12 levels a few standard deviations are safe."""
    images = np.random.default_rng(1).integers(90, 166, (200, 20, 20, 3), dtype=np.uint8)
    return fixtures.memory_cache(images)


def reference_shift(alphas, scales, vectors):
    """The formula of section 4.1, term by term."""
    shift = np.zeros((len(alphas), 3))
    for image in range(len(alphas)):
        for component in range(3):
            shift[image] += vectors[:, component] * alphas[image, component] * scales[component]
    return shift


def test_lighting_on_the_device_and_on_the_host_against_the_float32_reference():
    cache = lit_cache()
    options = {"cache": cache, "batch_size": 50, "lighting": "sqrt", "with_offsets": True}
    on_device = take(6, lighting_on="device", **options)
    on_host = take(6, lighting_on="host", **options)
    for step, (device, host) in enumerate(zip(on_device, on_host)):
        rng = np.random.Generator(np.random.Philox(key=np.array([1, step], np.uint64)))
        alphas = augmentation.draw(rng, 50, augmentation.crop_positions(20, CROP)).alphas
        shift = reference_shift(alphas, np.sqrt(cache.eigenvalues), cache.eigenvectors)
        assert np.abs(device["shift"] - shift).max() < 1e-3
        # grey levels: crop, minus mean, plus shift, in float32 (design, section 6)
        mean = cache.mean_image[2 : 2 + CROP, 2 : 2 + CROP]
        reference = device["image"].astype(np.float32) - mean + shift[:, None, None].astype("f4")
        device_way = (device["image"].astype(np.float32) + device["shift"][:, None, None]) - mean
        assert np.abs(device_way - reference).max() < 1e-3
        unsaturated = (host["image"] > 0) & (host["image"] < 255)
        assert unsaturated.mean() > 0.999
        host_way = host["image"].astype(np.float32) - mean
        assert np.abs(host_way - reference)[unsaturated].max() <= 0.5 + 1e-3
        np.testing.assert_array_equal(host["offset"], device["offset"])


def test_shifts_have_a_hundredth_of_the_pixels_covariance():
    """E[s s^T] = V diag(l) V^T / 100: with the square roots, lighting is noise of the data's own
    colour statistics at a tenth of its standard deviation."""
    cache = lit_cache()
    covariance = cache.eigenvectors @ np.diag(cache.eigenvalues) @ cache.eigenvectors.T
    alphas = augmentation.draw(np.random.default_rng(2), 200_000, 1).alphas
    shift = augmentation.lighting_shift(alphas, cache.eigenvalues, cache.eigenvectors, "sqrt")
    found = shift.T @ shift / len(shift)
    assert np.abs(found - covariance / 100).max() < 0.01 * covariance.max() / 100
    assert augmentation.lighting_shift(alphas, *[cache.eigenvalues] * 2, "none").max() == 0


def test_the_printed_formula_moves_by_5_8_grey_levels():
    """On pixels scaled to 0..1, with ImageNet's largest eigenvalue, 121.78^2 (input_meta)."""
    alphas = np.array([[0, 0, augmentation.LIGHTING_STD]])
    eigenvalues = np.array([19.721, 37.094, 121.780]) ** 2
    shift = augmentation.lighting_shift(alphas, eigenvalues, np.eye(3), "eigenvalue")
    np.testing.assert_allclose(shift, [[0, 0, 5.816]], atol=1e-3)
    shift = augmentation.lighting_shift(alphas, eigenvalues, np.eye(3), "sqrt")
    np.testing.assert_allclose(shift, [[0, 0, 12.178]], atol=1e-3)


@pytest.mark.parametrize("shift", [(3.4, -5.6, 7.5), (300.0, -300.0, 0.49), (-9.0, -1.0, -128.0)])
def test_colour_is_added_saturating(shift):
    image = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    expected = np.clip(image.astype(int) + np.rint(shift).astype(int), 0, 255)
    cut = augmentation.cut(
        image[np.newaxis],
        np.array([0, 0]),
        np.array([[0, 0, 0], [0, 0, 1]]),
        16,
        np.array([shift, shift], np.float32),
    )
    np.testing.assert_array_equal(cut, [expected, expected[:, ::-1]])
    np.testing.assert_array_equal(image[0, :3, 0], [0, 1, 2])  # as it was


def test_lighting_stops_at_its_step_and_nothing_else_changes():
    options = {"cache": lit_cache(), "lighting": "sqrt", "lighting_steps": 2}
    on_device = take(4, lighting_on="device", **options)
    assert [bool(batch["shift"].any()) for batch in on_device] == [True, True, False, False]
    on_host, unlit = take(4, **options), take(4, **options | {"lighting": "none"})
    assert_same(on_host[2:], unlit[2:])
    assert not np.array_equal(on_host[1]["image"], unlit[1]["image"])


# --- devices and processes ------------------------------------------------------------------------


def test_rows_of_all_processes_are_the_global_batch():
    options = {"lighting": "sqrt", "lighting_on": "device", "with_offsets": True}
    whole = take(5, **options)
    parts = [take(5, process_index=i, process_count=4, **options) for i in range(4)]
    joined = [
        {name: np.concatenate([part[step][name] for part in parts]) for name in whole[0]}
        for step in range(5)
    ]
    assert_same(whole, joined)


def sharding():
    mesh = jax.make_mesh(
        (jax.device_count(), 1), ("data", "tower"), axis_types=(AxisType.Auto,) * 2
    )
    return NamedSharding(mesh, PartitionSpec("data"))


def device_dataset():
    dataset = stream.training_stream(CACHE, batch_size=BATCH, crop=CROP, seed=1, lighting="sqrt")
    return stream.device_stream(dataset, sharding())


@pytest.mark.parametrize("consumed", [0, 1, 7])
def test_resume_counts_the_batches_consumed(consumed):
    expected = take(12, lighting="sqrt")
    iterator = iter(device_dataset())
    before = [next(iterator) for _ in range(consumed)]
    state = json.loads(json.dumps(iterator.get_state()))  # as a checkpoint keeps it
    after = [next(iterator) for _ in range(12 - consumed)]
    iterator.close()
    assert_same(before + after, expected)
    resumed = iter(device_dataset())
    resumed.set_state(state)
    assert_same([next(resumed) for _ in range(12 - consumed)], expected[consumed:])
    resumed.close()


def test_device_batches_lie_as_the_sharding_says():
    iterator = iter(device_dataset())
    batch = next(iterator)
    iterator.close()
    assert all(isinstance(value, jax.Array) for value in batch.values())
    assert batch["image"].sharding == sharding() and batch["label"].sharding == sharding()
    assert stream.process_share(sharding(), BATCH) == (0, 1)


def share(*blocks: tuple[int, int], batch: int = 8) -> tuple[int, int]:
    """`process_share` of a process whose devices hold these rows of a batch, from and to."""
    held = {device: (slice(*block),) for device, block in enumerate(blocks)}
    return stream.process_share(
        SimpleNamespace(addressable_devices_indices_map=lambda shape: held), batch
    )


def test_a_process_has_one_of_equal_blocks_of_rows():
    assert share((0, 4), (4, 8)) == (0, 1)
    assert share((4, 6), (6, 8)) == share((4, 8), (4, 8)) == (1, 2)
    assert share((2, 4)) == (1, 4)


@pytest.mark.parametrize(
    "blocks",
    [[(0, 2), (4, 6)], [(1, 3)], [(2, 6)], [(0, 3)], [(0, 2), (2, 4), (6, 8)]],
    ids=["with a gap", "not at a multiple", "over the middle", "not a divisor", "six of eight"],
)
def test_rows_that_are_no_even_block_are_refused(blocks):
    """The stream would cut other rows than the devices hold."""
    with pytest.raises(UserError, match="no even block of the batch of 8: order the mesh"):
        share(*blocks)


TWO_PROCESSES = """
import sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
sys.path.insert(0, "tests")
import data_fixtures as fixtures
from alexnet_jax.data import stream

cache = fixtures.memory_cache(fixtures.position_images(37, 24))
devices = np.array(jax.devices())
for steps, order in ((37, devices), (3, devices[[0, 2, 1, 3]])):
    mesh = jax.sharding.Mesh(order.reshape(2, 2), ("data", "tower"))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    index, count = stream.process_share(sharding, 8)
    dataset = stream.training_stream(
        cache, batch_size=8, crop=16, seed=1, lighting_on="device",
        process_index=index, process_count=count,
    )
    iterator = iter(stream.device_stream(dataset, sharding))
    for step in range(steps):
        batch = next(iterator)
        assert batch["image"].shape == (8, 16, 16, 3)
        for shard in batch["image"].addressable_shards:
            images = np.asarray(shard.data)
            first = shard.index[0].start or 0
            for row, image in enumerate(images, first):  # colour 0 of an image is its number
                print(index, count, step, row, image[0, 0, 0], image.sum())
    iterator.close()
"""


def test_two_real_processes_share_every_epoch():
    """Once each holds its data rows, once each holds one tower and so all rows."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_PROCESSES, address, str(i)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for i in range(2)
    ]
    answers = [run.communicate(timeout=90) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], answers[0][1] + answers[1][1]
    whole = np.concatenate([batch["image"] for batch in take(COUNT)])
    examples = []  # (place in the stream, image), of both processes
    for process, (out, _) in enumerate(answers):
        lines = [tuple(map(int, line.split())) for line in out.splitlines()]
        for _, _, step, row, _, total in lines:
            assert total == whole[BATCH * step + row].sum()
        own = {line for line in lines if line[:2] == (process, 2)}  # two devices hold each row
        examples += [(BATCH * step + row, image) for _, _, step, row, image, _ in own]
        shared = {line[2:4] for line in lines if line[:2] == (0, 1)}
        assert shared == {(step, row) for step in range(3) for row in range(8)}
    places, images = zip(*sorted(examples))
    assert places == tuple(range(8 * COUNT))  # no overlap, nothing missing
    for epoch in range(8):
        assert sorted(images[epoch * COUNT : (epoch + 1) * COUNT]) == list(range(COUNT))


FLAT = """
import sys
sys.path.insert(0, "tests")
import jax
import data_fixtures as fixtures
import numpy as np
from alexnet_jax.data import stream

def anonymous():  # bytes in memory that no file stands behind
    with open("/proc/self/status") as status:
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))

images = np.random.default_rng(0).integers(0, 256, (512, 64, 64, 3), dtype=np.uint8)
dataset = stream.training_stream(fixtures.memory_cache(images), batch_size=64, crop=56, seed=0)
sharding = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
iterator = iter(stream.device_stream(dataset, sharding))
seen = []
for epoch in range(300):
    for _ in range(8):
        next(iterator)["label"].block_until_ready()
    seen.append(anonymous())
iterator.close()
print(max(seen[-50:]) - max(seen[50:100]))
"""


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_memory_stays_flat_over_many_epochs():
    done = subprocess.run([sys.executable, "-c", FLAT], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    # 200 epochs between the two looks: a batch kept of each would be 120 MB.
    assert int(done.stdout) < 12e6, done.stdout


# --- evaluation, errors ---------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "batches"), [(37, 5), (8, 1), (40, 5), (3, 1)])
def test_evaluation_counts_every_example_once(count, batches):
    images, labels = fixtures.position_images(count, 6), np.arange(count) % 7
    found = list(stream.evaluation_batches(images, labels, 8))
    assert len(found) == batches
    assert all(batch["image"].shape == (8, 6, 6, 3) for batch in found)
    weights = np.concatenate([batch["weight"] for batch in found])
    assert weights.sum() == count and weights.dtype == np.float32
    counted = np.concatenate([batch["image"] for batch in found])[weights == 1]
    np.testing.assert_array_equal(counted, images)
    counted = np.concatenate([batch["label"] for batch in found])[weights == 1]
    np.testing.assert_array_equal(counted, labels)


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("count", [37, 33, 40, 3])
def test_the_shares_of_processes_are_the_rows_of_a_batch(count, processes):
    """As many batches in each, though there is nothing but padding in the last one of some."""
    images, labels = fixtures.position_images(count, 6), np.arange(count) % 7
    whole = list(stream.evaluation_batches(images, labels, 8))
    shares = [
        list(
            stream.evaluation_batches(
                images, labels, 8, process_index=index, process_count=processes
            )
        )
        for index in range(processes)
    ]
    for number, batch in enumerate(whole):
        for name, rows in batch.items():
            parts = [share[number][name] for share in shares]
            assert all(len(part) == 8 // processes for part in parts)
            np.testing.assert_array_equal(np.concatenate(parts), rows)
    assert all(len(share) == len(whole) for share in shares)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 38}, "batch_size=38: expected 1 to 37"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"crop": 25}, "crop=25: the cached images are 24"),
        ({"process_count": 3}, "does not divide into 3"),
        ({"split": "test"}, "no split 'test', only"),
        ({"seed": -1}, "seed=-1: expected 0 to 4294967295"),
        ({"seed": 2**32}, "seed=4294967296: expected 0 to 4294967295"),
    ],
)
def test_sizes_that_do_not_fit(options, message):
    with pytest.raises(UserError, match=message):
        take(1, **options)


@pytest.mark.parametrize(
    "options", [{"batch_size": 1}, {"batch_size": COUNT}, {"crop": 1}, {"crop": SIZE},
                {"seed": 0}, {"seed": 2**32 - 1}]
)  # fmt: skip
def test_the_smallest_and_the_largest_that_fit(options):
    (batch,) = take(1, **options)
    side = options.get("crop", CROP)
    assert batch["image"].shape == (options.get("batch_size", BATCH), side, side, 3)


def test_what_is_not_said_is_as_in_the_released_code():
    """Lighting by the root of the eigenvalues, on the host; 33 crops a side; mirrored."""
    cache = lit_cache()
    said = {"lighting": "sqrt", "lighting_on": "host", "last_offset": True, "flip": True}
    options = {"batch_size": BATCH, "crop": 18, "seed": 1}
    unsaid, explicit = (
        iter(stream.training_stream(cache, **options, **more)) for more in ({}, said)
    )
    for _ in range(3):
        assert_same([next(unsaid)], [next(explicit)])
    unsaid.close()
    explicit.close()
