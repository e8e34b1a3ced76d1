"""What training batches cost: this package's stream beside grain, PyTorch and the machine's limits.

    python -m experiments.input [--images=1024] [--rounds=5] [--out=FILE]

Draws JPEG files like ImageNet's, prepares them, checks that all the ways to read them give the same
images, and times these ways in turns, round by round. All readings go into the JSON file `--out`;
the table that is printed also goes into its neighbour of the same name that ends in .md. Without
PyTorch its rows are left out.
"""

import bisect
import contextlib
import dataclasses
import importlib
import importlib.util
import io
import json
import math
import os
import random
import shutil
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent import futures
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import grain
import numpy as np
from absl import app, flags
from PIL import Image

from alexnet_jax.data import augment, images, leaves, preparation, sources, stream, undecoded
from alexnet_jax.data.cache import Cache
from alexnet_jax.data.records import Record, Split
from experiments.shared import machine, timing
from experiments.shared.timing import Reading, Stopwatch, Variant

torch: Any = importlib.import_module("torch") if importlib.util.find_spec("torch") else None
if torch is not None:
    importlib.import_module("torch.utils.data")

FLAGS = flags.FLAGS
flags.DEFINE_integer("images", 1024, "JPEG files to draw, and images in the cache.", 2)
flags.DEFINE_integer("rounds", 5, "How often everything is timed.", 1)
flags.DEFINE_integer("batch_size", 128, "Images in a batch.", 1)
flags.DEFINE_integer("crop", 224, "Side of the crops in pixels.", 1, 256)
flags.DEFINE_float("seconds", 2.0, "About how long everything runs in every round.", 0.0)
flags.DEFINE_string(
    "out",
    str(Path(__file__).parents[1] / "results" / "input" / "benchmark.json"),
    "Where the readings go.",
)

SIZE = 256  # of the cached images
HEIGHT, WIDTH = 375, 500  # of the JPEG files, as most of ImageNet's
MOST_BYTES = 120_000  # of a JPEG file; at the next lower quality it has some 15% less
NOISE = (7.0, 13.0)  # standard deviations in grey levels; leaves alone would take 80 kB at most
IMAGENET = 1_281_167  # training images of 2012
CLASSES = 2  # a dataset needs two
CHUNK = 16  # images that a thread decodes at a time
SEED = 2012
NAMED = ("numpy", "grain", "opencv-python-headless", "Pillow", "torch")  # above the table
WORKERS = 2
WORKERS_LONGER = 2.0  # rounds with workers last so many times as long: starting them is in the time
PREPARING_LONGER = 4  # its start and end are long, and ImageNet takes an hour

Shift = np.ndarray  # what lighting adds to an image, float (3,) in grey levels


@dataclasses.dataclass(frozen=True)
class Material:
    """What all variants work on.

    Attributes:
        folder: for files that go when all is done.
        paths: the JPEG files.
        labels: their classes.
        contents: their bytes.
        source: the same as a data source.
        cache: the same, prepared.
        decoding: the same, to be decoded on access.
        batch_size: images in a batch.
        crop: side of a crop.
        threads: the cores of this machine.
    """

    folder: Path
    paths: Sequence[Path]
    labels: Sequence[int]
    contents: Sequence[bytes]
    source: Any
    cache: Cache
    decoding: Cache
    batch_size: int
    crop: int
    threads: int


def main(_: list[str]) -> None:
    """Draws, checks, times, reports."""
    cv2.setNumThreads(1)  # batches and images are the parallelism
    if torch is not None:
        torch.set_num_threads(1)
    # PyTorch forks its workers, which never use JAX; grain only imports it.
    warnings.filterwarnings("ignore", r".*fork", RuntimeWarning)
    warnings.filterwarnings("ignore", r".*fork", DeprecationWarning)
    where = machine.describe()
    where["packages"] |= versions()
    out = Path(FLAGS.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        material = prepare(Path(folder), where["cores"])
        checks = check(material)
        for sentence in checks:
            say(f"checked: {sentence}")
        variants = all_variants(material)
        readings: dict[str, list[Reading]] = {variant.key: [] for variant in variants}
        load_before = os.getloadavg()
        say("warming up")
        for number, variant, reading in timing.in_turns(variants, FLAGS.rounds, FLAGS.seconds):
            readings[variant.key].append(reading)
            rate = reading.images / reading.wall_seconds
            say(f"round {number + 1}/{FLAGS.rounds}  {rate:9,.0f} images/s  {variant.key}")
    rows = [
        {"key": variant.key, "group": variant.group, "name": variant.name}
        | timing.summary(readings[variant.key])
        for variant in variants
    ]
    names = ("images", "rounds", "batch_size", "crop", "seconds")
    result = {
        "command": " ".join(["python -m experiments.input", *sys.argv[1:]]),
        "machine": where,
        "load_average": {"before": load_before, "after": os.getloadavg()},
        "settings": {name: FLAGS[name].value for name in names}
        | {"size": SIZE, "threads": material.threads, "torch": torch is not None},
        "jpegs": {
            "files": len(material.paths),
            "width": WIDTH,
            "height": HEIGHT,
            "kilobytes": timing.spread([len(content) / 1000 for content in material.contents]),
        },
        "checks": checks,
        "rows": rows,
        "ratios": ratios(rows),
        "targets": targets(ratios(rows)),
    }
    out.write_text(json.dumps(result, indent=2) + "\n")
    out.with_suffix(".md").write_text(report(result))
    print(report(result))


def say(line: str) -> None:
    """Tells how far it is; the table alone goes to stdout."""
    print(line, file=sys.stderr, flush=True)


def versions() -> dict[str, str]:
    """Of what only this benchmark speaks of."""
    names = ["opencv-python-headless", "Pillow", *(["torch"] if torch is not None else [])]
    return {name: metadata.version(name) for name in names}


# --- the images -----------------------------------------------------------------------------------


def prepare(folder: Path, threads: int) -> Material:
    """Draws the files, and opens them in every way."""
    say(f"drawing {FLAGS.images:,} JPEG files")
    for name in range(CLASSES):
        (folder / "jpegs" / "train" / f"{name}").mkdir(parents=True)
    labels = [number * CLASSES // FLAGS.images for number in range(FLAGS.images)]
    paths = [
        folder / "jpegs" / "train" / f"{label}" / f"{number:06}.jpg"
        for number, label in enumerate(labels)
    ]
    with futures.ThreadPoolExecutor(threads) as pool:
        contents = list(pool.map(draw, range(FLAGS.images)))
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    say("preparing the cache")
    source = sources.open_source(f"folder:{folder}/jpegs")
    cache = preparation.make_cache(source, SIZE, f"{folder}/cache")
    with contextlib.redirect_stdout(io.StringIO()):  # it says how slow it is going to be
        decoding = undecoded.open_undecoded(source, SIZE)
    return Material(
        folder=folder,
        paths=paths,
        labels=labels,
        contents=contents,
        source=source,
        cache=cache,
        decoding=decoding,
        batch_size=FLAGS.batch_size,
        crop=FLAGS.crop,
        threads=threads,
    )


def draw(number: int) -> bytes:
    """A JPEG file: the background of the embedded dataset's pictures, and noise upon it."""
    rng = np.random.Generator(np.random.Philox(key=np.array([SEED, number], np.uint64)))
    scale = HEIGHT / leaves.UNIT
    canvas = np.full((HEIGHT, WIDTH, 4), [90, 90, 90, 2 * leaves.GRAIN], np.uint8)
    everywhere = np.array([[0, 0], [WIDTH, HEIGHT]], float)
    count = round(leaves.LEAVES * WIDTH / HEIGHT)
    leaves._draw_leaves(canvas, rng, everywhere, count, leaves.LEAF_RADIUS, scale)
    noise = cv2.GaussianBlur(rng.standard_normal((HEIGHT, WIDTH), np.float32), (0, 0), 0.7)
    noise *= rng.uniform(*NOISE) / noise.std()
    picture = np.clip(leaves._light(canvas, rng, scale) + noise[..., None], 0, 255)
    picture = cv2.cvtColor(picture.astype(np.uint8), cv2.COLOR_RGB2BGR)

    def encode(quality: int) -> bytes:
        return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()

    too_large = bisect.bisect(range(101), MOST_BYTES, lo=50, key=lambda q: len(encode(q)))
    return encode(too_large - 1)


# --- one image at a time, as grain and PyTorch are usually used -----------------------------------


def augmented(window: np.ndarray, mirrored: bool, shift: Shift) -> np.ndarray:
    """A crop, mirrored and lit as this package does it, one image at a time."""
    image = cv2.flip(window, 1) if mirrored else window.copy()
    colour = np.append(np.rint(shift), 0.0)
    cv2.add(image, np.clip(colour, 0, 255), dst=image)
    return np.asarray(cv2.subtract(image, np.clip(-colour, 0, 255), dst=image))


def augmented_by_torch(window: np.ndarray, mirrored: bool, shift: Shift) -> Any:
    """The same in PyTorch, on uint8: cheaper than in NumPy, and than in ToTensor's floats."""
    image = torch.from_numpy(np.array(window))
    if mirrored:
        image = image.flip(1)
    return (image + torch.from_numpy(np.rint(shift).astype(np.int16))).clamp_(0, 255).byte()


def opened_by_pillow(path: Path) -> Image.Image:
    """The usual transforms: shorter side to 256, then the central 256x256."""
    image = Image.open(path).convert("RGB")
    scale = SIZE / min(image.size)
    width, height = (round(scale * side) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    return image.crop((left, top, left + SIZE, top + SIZE))


class Torch:
    """A map-style dataset for PyTorch's DataLoader."""

    def __init__(self, material: Material):
        self._labels = material.labels
        self._crop = material.crop
        self._positions = augment.crop_positions(SIZE, material.crop)
        self._eigenvectors = material.cache.eigenvectors
        self._deviations = np.sqrt(material.cache.eigenvalues)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        # Python's generator is the fastest for a few numbers, and PyTorch seeds it in each worker.
        top, left = random.randrange(self._positions), random.randrange(self._positions)
        alphas = [random.gauss(0, augment.LIGHTING_STD) for _ in range(3)]
        shift = self._eigenvectors @ (self._deviations * alphas)
        window = self.window(index, top, left)
        return augmented_by_torch(window, random.random() < 0.5, shift), self._labels[index]

    def window(self, index: int, top: int, left: int) -> np.ndarray:
        """A crop as it is."""
        raise NotImplementedError


class TorchFiles(Torch):
    """Decodes, resizes and crops with Pillow."""

    def __init__(self, material: Material):
        super().__init__(material)
        self._paths = material.paths

    def window(self, index: int, top: int, left: int) -> np.ndarray:
        image = opened_by_pillow(self._paths[index])
        return np.asarray(image.crop((left, top, left + self._crop, top + self._crop)))


class TorchArray(Torch):
    """Crops the memory-mapped cache."""

    def __init__(self, material: Material):
        super().__init__(material)
        self._images = material.cache.images["train"]

    def window(self, index: int, top: int, left: int) -> np.ndarray:
        return self._images[index, top : top + self._crop, left : left + self._crop]


# --- the variants ---------------------------------------------------------------------------------


def all_variants(material: Material) -> list[Variant]:
    """Every row of the table."""
    return [
        *stream_variants(material),
        *grain_variants(material),
        *(torch_variants(material) if torch is not None else []),
        *limits(material),
        *preparing(material),
    ]


def stream_variants(material: Material) -> list[Variant]:
    """This package."""
    group, threads = "this package's stream", material.threads

    def streaming(cache: Cache, **options: Any) -> grain.IterDataset:
        return stream.training_stream(
            cache, batch_size=material.batch_size, crop=material.crop, seed=SEED, **options
        )

    cached = [
        Variant(
            f"stream_{where}",
            group,
            f"from the cache, lighting on the {where}",
            reading_batches(streaming(material.cache, lighting_on=where), material),
            material.batch_size,
        )
        for where in ("host", "device")
    ]
    undecoded_ = Variant(
        "stream_undecoded",
        group,
        f"from the JPEG files, no cache, {threads} threads",
        # Each thread makes a whole batch. They start together, so they are counted in whole turns.
        reading_batches(streaming(material.decoding, threads=threads), material, 2 * threads),
        material.batch_size * threads,
    )
    return [*cached, undecoded_]


def grain_variants(material: Material) -> list[Variant]:
    """Grain as its tutorials use it: a map for each image, and batches of what comes out."""
    pixels, labels = material.cache.images["train"], material.cache.labels["train"]
    eigenvectors = material.cache.eigenvectors
    deviations = np.sqrt(material.cache.eigenvalues)
    positions = augment.crop_positions(SIZE, material.crop)

    def example(index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        top, left = rng.integers(0, positions, 2).tolist()
        shift = eigenvectors @ (deviations * rng.normal(0, augment.LIGHTING_STD, 3))
        window = pixels[index, top : top + material.crop, left : left + material.crop]
        return {"image": augmented(window, rng.random() < 0.5, shift), "label": labels[index]}

    def variant(threads: int, name: str) -> Variant:
        order = grain.MapDataset.range(len(pixels)).seed(SEED).shuffle().repeat()
        dataset = order.random_map(example).to_iter_dataset(grain.ReadOptions(num_threads=threads))
        run = reading_batches(dataset.batch(material.batch_size), material)
        group = "grain with a map for each image, from the cache"
        return Variant(f"grain_{threads}", group, name, run, material.batch_size)

    default = grain.ReadOptions().num_threads
    return [
        variant(default, f"{default} threads, its default"),
        variant(1, "1 thread"),
        variant(0, "no thread, as it advises for data in memory"),
    ]


def reading_batches(
    dataset: grain.IterDataset, material: Material, warm_up: int = 8
) -> Callable[[int], Reading]:
    """A `Variant.run` that takes batches from grain.

    The clock starts after `warm_up` batches: as much is read ahead then as when it stops.
    """

    def run(count: int) -> Reading:
        iterator = iter(dataset)
        for _ in range(warm_up):
            expect(next(iterator)["image"], material)
        stopwatch = Stopwatch()
        for _ in range(count // material.batch_size):
            next(iterator)
        reading = stopwatch.read(count)
        iterator.close()
        for thread in threading.enumerate():  # they end with what they are at; not in others' time
            if thread.name.startswith("grain"):
                thread.join()
        return reading

    return run


def torch_variants(material: Material) -> list[Variant]:
    """PyTorch's DataLoader, with the default collation."""

    def loading(dataset: Torch, workers: int) -> Callable[[int], Reading]:
        def run(count: int) -> Reading:
            loader = torch.utils.data.DataLoader(
                dataset,
                material.batch_size,
                sampler=torch.utils.data.RandomSampler(dataset, num_samples=count),
                num_workers=workers,
                multiprocessing_context="fork" if workers else None,
            )
            stopwatch = Stopwatch()
            for batch, _ in loader:
                expect(batch.numpy(), material)
            return stopwatch.read(count)  # the workers have ended: they count

        return run

    kinds = (
        ("cached", TorchArray(material), "PyTorch's DataLoader, from the cache, in PyTorch"),
        ("jpeg", TorchFiles(material), "PyTorch's DataLoader, from the JPEG files, with Pillow"),
    )
    return [
        Variant(
            f"torch_{key}_{workers}",
            group,
            f"{workers} workers" if workers else "no workers",
            loading(dataset, workers),
            material.batch_size * max(1, workers),
            WORKERS_LONGER if workers else 1,
        )
        for key, dataset, group in kinds
        for workers in (0, WORKERS)
    ]


def limits(material: Material) -> list[Variant]:
    """What one thread could do at best."""
    group, contents = "limits, 1 thread", material.contents
    block = material.batch_size * material.crop**2 * 3
    pixels = np.asarray(material.cache.images["train"]).reshape(-1)
    target = np.empty(block, np.uint8)
    blocks = len(pixels) // block

    def copy(count: int) -> Reading:
        stopwatch = Stopwatch()
        for number in range(count // material.batch_size):
            start = number % blocks * block
            np.copyto(target, pixels[start : start + block])
        return stopwatch.read(count)

    def variant(key: str, name: str, work: Callable[[bytes], Any]) -> Variant:
        run = timing.repeat(lambda number: work(contents[number % len(contents)]))
        return Variant(key, group, name, run, CHUNK)

    def order(key: str, total: int, name: str) -> Variant:
        indices = grain.MapDataset.range(total).seed(SEED).shuffle().repeat()
        run = timing.repeat(lambda number: indices[number])
        return Variant(key, group, f"shuffling {name}, grain", run, CHUNK)

    return [
        order("shuffle", len(contents), f"{len(contents):,} images"),
        order("shuffle_imagenet", IMAGENET, f"{IMAGENET:,} images"),
        Variant("copy", group, "memory copy of as many bytes", copy, material.batch_size),
        variant("decode_opencv", "decoding a JPEG, OpenCV", decoded),
        variant("decode_pillow", "decoding a JPEG, Pillow", decoded_by_pillow),
        variant("fit_opencv", "decoding and resizing, OpenCV", fitted),
        variant("fit_package", "decoding and resizing, this package", loaded),
    ]


def decoded(content: bytes) -> np.ndarray:
    """OpenCV's decoder, nothing else."""
    return np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR))


def decoded_by_pillow(content: bytes) -> Image.Image:
    """Pillow's decoder, nothing else."""
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def fitted(content: bytes) -> np.ndarray:
    """Decoding and the paper's rescaling with nothing around them: no checks, no colour modes."""
    image = decoded(content)
    height, width = image.shape[:2]
    scale = SIZE / min(height, width)
    height, width = math.floor(scale * height + 0.5), math.floor(scale * width + 0.5)
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    top, left = (height - SIZE) // 2, (width - SIZE) // 2
    return image[top : top + SIZE, left : left + SIZE]


def loaded(content: bytes) -> np.ndarray:
    """The package's own way from a file's bytes to the cached pixels."""
    return images.load(content, SIZE)


def preparing(material: Material) -> list[Variant]:
    """Making the cache, and what it could be at best, on as many threads."""
    count, threads = len(material.contents), material.threads
    group = f"making the cache, {threads} threads"
    source, bare = material.source, material.folder / "bare"

    def make(images: int) -> Reading:
        split = {"train": Repeated(source.splits["train"], images)}
        stopwatch = Stopwatch()
        preparation.make_cache(
            dataclasses.replace(source, splits=split), SIZE, f"{material.folder}/again"
        )
        reading = stopwatch.read(images)
        shutil.rmtree(material.folder / "again")
        return reading

    def on_all(work: Callable[[bytes], Any]) -> Callable[[int], Reading]:
        def chunk(start: int) -> None:
            for number in range(start, start + CHUNK):
                work(material.contents[number % count])

        return in_chunks(chunk)

    def with_files(start: int) -> None:
        with (bare / f"{start}").open("wb", buffering=0) as out:
            for number in range(start, start + CHUNK):
                out.write(np.ascontiguousarray(fitted(material.paths[number % count].read_bytes())))

    def in_chunks(chunk: Callable[[int], None]) -> Callable[[int], Reading]:
        def run(images: int) -> Reading:
            bare.mkdir()
            stopwatch = Stopwatch()
            with futures.ThreadPoolExecutor(threads) as pool:
                list(pool.map(chunk, range(0, images, CHUNK)))
            reading = stopwatch.read(images)
            shutil.rmtree(bare)
            return reading

        return run

    step = CHUNK * threads
    return [
        Variant("prepare", group, "preparation, all of it", make, count, PREPARING_LONGER),
        Variant(
            "fit_package_all", group, "decoding and resizing, this package", on_all(loaded), step
        ),
        Variant("fit_opencv_all", group, "decoding and resizing, OpenCV", on_all(fitted), step),
        Variant(
            "files_opencv_all",
            group,
            "the same, with files read and written",
            in_chunks(with_files),
            step,
            PREPARING_LONGER,
        ),
    ]


class Repeated:
    """The same records over and over: a preparation of millions is not all start and end."""

    def __init__(self, split: Split, count: int):
        self._split = split
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Record:
        return self._split[index % len(self._split)]


# --- that all do the same -------------------------------------------------------------------------


def expect(batch: np.ndarray, material: Material) -> None:
    """Every variant gives out this."""
    shape = (material.batch_size, material.crop, material.crop, 3)
    if batch.shape != shape or batch.dtype != np.uint8:
        raise ValueError(f"{batch.dtype} {batch.shape} instead of uint8 {shape}")


def check(material: Material) -> list[str]:
    """Compares the variants' images where they must agree; says what was found.

    Raises:
        ValueError: they do not agree.
    """
    cache, crop = material.cache, material.crop
    pixels = cache.images["train"]
    count = min(len(pixels), 64)
    found = []

    def equal(one: Any, other: Any, sentence: str) -> None:
        if not np.array_equal(one, other):
            raise ValueError(f"not so: {sentence}")
        found.append(sentence)

    equal(material.decoding.images["train"][:count], pixels[:count], "decoded = cached pixels")
    equal(cache.labels["train"], material.labels, "the cache's labels are the folders'")

    def first(source: Cache, **options: Any) -> dict[str, np.ndarray]:
        options = {"batch_size": material.batch_size, "crop": crop, "seed": SEED} | options
        iterator = iter(stream.training_stream(source, **options))
        batch = next(iterator)
        iterator.close()
        return batch

    host, device = first(cache), first(cache, lighting_on="device")
    lit = device["image"] + np.rint(device["shift"])[:, None, None]
    equal(host["image"], np.clip(lit, 0, 255), "lighting on the device, rounded = on the host")
    without_cache = first(
        dataclasses.replace(  # whose colour components come from a sample
            material.decoding, eigenvalues=cache.eigenvalues, eigenvectors=cache.eigenvectors
        )
    )
    equal(without_cache["image"], host["image"], "the stream without a cache = the cached one")

    rng = np.random.default_rng(SEED)
    draws = augment.draw(rng, count, augment.crop_positions(SIZE, crop))
    shift = augment.lighting_shift(draws.alphas, cache.eigenvalues, cache.eigenvectors, "sqrt")
    wanted = augment.cut(pixels, np.arange(count), draws.offsets, crop, shift)

    def one_by_one(
        function: Callable[[np.ndarray, bool, Shift], Any],
        window: Callable[[int, int, int], np.ndarray],
    ) -> np.ndarray:
        offsets = enumerate(draws.offsets.tolist())
        return np.stack(
            [function(window(i, y, x), bool(flip), shift[i]) for i, (y, x, flip) in offsets]
        )

    def from_cache(index: int, top: int, left: int) -> np.ndarray:
        return pixels[index, top : top + crop, left : left + crop]

    equal(one_by_one(augmented, from_cache), wanted, "grain's map for an image = the stream's crop")
    if torch is not None:
        by_torch = one_by_one(augmented_by_torch, TorchArray(material).window)
        equal(by_torch, wanted, "PyTorch's map for an image = the stream's crop")
        by_pillow = one_by_one(augmented_by_torch, TorchFiles(material).window)
        apart = float(np.abs(by_pillow.astype(int) - wanted).mean())
        sentence = f"Pillow's bilinear resizing is {apart:.1f} grey levels from ours on average"
        if apart > 8:
            raise ValueError(sentence)
        found.append(sentence)
    return found


# --- what came out --------------------------------------------------------------------------------


def ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Of the medians; per CPU second, unless the name says by the clock."""
    cpu = {row["key"]: row["images_per_cpu_second"]["median"] for row in rows}
    wall = {row["key"]: row["images_per_second"]["median"] for row in rows}

    def best(prefix: str) -> float:
        return max((rate for key, rate in cpu.items() if key.startswith(prefix)), default=0.0)

    found = {}
    for where in ("host", "device"):
        rate = cpu[f"stream_{where}"]
        found[f"{where}_images_per_cpu_second"] = rate
        found[f"{where}_to_copy"] = rate / cpu["copy"]
        for other in ("grain", "torch_cached", "torch_jpeg"):
            if best(other):  # no torch, no rows
                found[f"{where}_to_best_{other}"] = rate / best(other)
    found["preparation_to_opencv_by_the_clock"] = wall["prepare"] / wall["fit_opencv_all"]
    found["preparation_to_opencv"] = cpu["prepare"] / cpu["fit_opencv_all"]
    found["preparation_to_package"] = cpu["prepare"] / cpu["fit_package_all"]
    found["preparation_to_opencv_with_files"] = cpu["prepare"] / cpu["files_opencv_all"]
    return found


def targets(found: dict[str, float]) -> list[dict[str, Any]]:
    """What was aimed at, and whether it was reached: `score` is the measured over the wanted."""
    goals = []

    def goal(key: str, what: str, measured: str, wanted: str, score: float) -> None:
        how = "reached" if score >= 1 else f"missed by {1 - score:.0%}"
        sentence = f"{how}: {what} {measured}; wanted {wanted}"
        goals.append({"key": key, "score": score, "reached": score >= 1, "sentence": sentence})

    for where, rate, share in (("host", 8_000, 0.25), ("device", 15_000, 0.5)):
        measured, copied = found[f"{where}_images_per_cpu_second"], found[f"{where}_to_copy"]
        goal(
            where,
            f"the stream, lighting on the {where},",
            f"gives {measured:,.0f} images per CPU second, {copied:.0%} of the memory copy",
            f"{rate:,}, or {share:.0%}",
            max(measured / rate, copied / share),
        )
    if "host_to_best_torch_jpeg" in found:
        times = found["host_to_best_torch_jpeg"]
        goal(
            "torch_jpeg",
            "per CPU second, lighting on the host,",
            f"it gives {times:.1f} times what the DataLoader over JPEG files gives",
            "20 times",
            times / 20,
        )
    clock, cpu = found["preparation_to_opencv_by_the_clock"], found["preparation_to_opencv"]
    goal(
        "preparation",
        "preparation",
        "has this much of the speed of OpenCV's decoding and resizing alone: "
        f"{cpu:.0%} per CPU second, {clock:.0%} by the clock; per CPU second "
        f"{found['preparation_to_opencv_with_files']:.0%} where that reads and writes files too",
        "85% per CPU second",
        cpu / 0.85,
    )
    return goals


def comparisons(found: dict[str, float]) -> list[str]:
    """What the table says of the others, per CPU second; no targets."""
    others = {
        "grain": "the best of grain's rows",
        "torch_cached": "the best of the DataLoader's over the cache",
        "torch_jpeg": "the best of the DataLoader's over JPEG files",
    }
    return [
        f"- Per CPU second, {found[f'host_to_best_{key}']:.1f} times {name} with lighting on the "
        f"host, {found[f'device_to_best_{key}']:.1f} times with lighting on the device."
        for key, name in others.items()
        if f"host_to_best_{key}" in found
    ]


def report(result: dict[str, Any]) -> str:
    """The Markdown page."""
    where, settings, jpegs = result["machine"], result["settings"], result["jpegs"]
    packages = where["packages"]
    size = jpegs["kilobytes"]
    versions_ = ", ".join(f"{name} {packages[name]}" for name in packages if name in NAMED)
    seconds = settings["seconds"]
    how = [
        f"{jpegs['files']:,} JPEG files, {jpegs['width']}x{jpegs['height']}, {size['min']:.0f} to "
        f"{size['max']:.0f} kB (median {size['median']:.0f}), no two the same. Files and cache are "
        "in the page cache: no disk is waited for.",
        f"Median, least and most of {settings['rounds']} rounds. In each all rows take turns, for "
        f"about {seconds:g} s; with workers for {WORKERS_LONGER * seconds:g} s, because starting "
        f"them is in their time, and preparation for {PREPARING_LONGER * seconds:g} s, which are "
        "the same files several times over.",
        "A CPU second is one of user or system time, over all threads and processes.",
        "OpenCV and PyTorch run one thread in each process. All images are uint8, height x width x "
        "colour.",
        "Grain's rows map each image by this package's own arithmetic, PyTorch flips and adds in "
        "PyTorch. Grain's shuffle is slower for few images than for many; what it costs its rows "
        "is among the limits.",
    ]
    parts = [
        f"# {settings['crop']}x{settings['crop']} crops from {settings['size']}x{settings['size']} "
        f"in batches of {settings['batch_size']}",
        f"{where['processor']}, {where['cores']} cores; Python {where['python']}, {versions_}; "
        f"commit {where['commit']}. Made by `{result['command']}`.",
        timing.table(result["rows"]),
        "\n".join(f"- {target['sentence']}." for target in result["targets"]),
        "\n".join(comparisons(result["ratios"])),
        "\n".join(f"- {sentence}" for sentence in how),
    ]
    if not settings["torch"]:
        parts.append("PyTorch is not installed: its rows and one target are left out.")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    app.run(main)
