"""Prepares a dataset as `alexnet_jax.prepare` was asked to, and says what came out."""

import csv
import os
import shlex
import time

from alexnet_jax.data import sources
from alexnet_jax.data.cache import building, estimate, splits, store
from alexnet_jax.data.cache.store import Cache, open_cache, partial_path


def prepare(
    spec: str,
    out: str,
    *,
    size: int = 256,
    holdout: float = 0,
    workers: int | None = None,
    on_bad_image: building.OnBadImage = "fail",
    data_dir: str | None = None,
) -> None:
    """Makes the cache of a source, or resumes that, and says what came out.

    Args:
        spec: the data source, see `sources`.
        out: the cache's directory.
        size, holdout, workers, on_bad_image: see `building.make_cache`.
        data_dir: TFDS's directory, or None for its default.

    Raises:
        UserError: see `building.make_cache`.
    """
    source = sources.open_source(spec, data_dir)
    counts = ", ".join(f"{name} {len(split):,}" for name, split in source.splits.items())
    print(f"{source.name}: {len(source.class_names):,} classes; {counts}")
    plan = splits.plan_splits(source, size, holdout)
    settings = splits.settings_of(source, plan, size, holdout)
    if building.is_made(out, settings):
        print("It is complete already; without --source it is verified.")
        report(open_cache(out))
        return
    cost = estimate.estimate(source, size, workers)
    goes_on = os.path.isdir(partial_path(out))
    print(f"{cost}{', less what is in ' + partial_path(out) if goes_on else ''}", flush=True)
    start = time.perf_counter()
    cache = building.make_cache(source, size, out, holdout, workers, on_bad_image)
    print(f"done in {time.perf_counter() - start:,.0f} s")
    report(cache)


def report(cache: Cache) -> None:
    """What is in the cache, and what to do with it."""
    print(f"\n{cache.path}, fingerprint {cache.fingerprint}")
    for split, images in cache.images.items():
        print(f"  {split:<11}{len(images):>10,} images of {cache.size}x{cache.size}")
    skipped_file = os.path.join(cache.path, "skipped.csv")
    with open(skipped_file, encoding="utf-8", errors="surrogateescape", newline="") as file:
        skipped = list(csv.reader(file))[1:]
    if skipped:
        print(f"  {'left out':<11}{len(skipped):>10,} images, with the reasons in {skipped_file}:")
        for split, name, reason in skipped[:5]:
            print(f"    {split} {name}: {reason}")
        if len(skipped) > 5:
            print("    ...")
    deviations = ", ".join(f"{value**0.5:.2f}" for value in cache.eigenvalues[::-1])
    print(f"  standard deviations of the colours along their components: {deviations} grey levels")
    fields = {"data.cache": cache.path}
    if cache.size != 256:
        fields["data.size"] = str(cache.size)
    if len(cache.class_names) != 1000:
        fields["model.classes"] = str(len(cache.class_names))
    if "validation" not in cache.images:
        fields["data.validation"] = ""
        fields["data.test"] = "test" if "test" in cache.images else "train"
    flags_ = [f"--config.{field}={value}" for field, value in fields.items()]
    print(
        "\nTo train from it:\n\n    python -m alexnet_jax.main --workdir=W --config=imagenet "
        + shlex.join(flags_)
    )


def verify(out: str) -> None:
    """Reads the cache and compares it with its checksums."""
    cache = open_cache(out)
    store.verify(cache)
    total = sum(len(images) for images in cache.images.values())
    print(f"{out}: all {total:,} images are as they were written ({cache.fingerprint})")
