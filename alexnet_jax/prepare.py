"""Makes a dataset ready for training: `python -m alexnet_jax.prepare --source=... --out=DIR`.

Every image is decoded and brought to 256x256 once (paper section 2), with the mean image and the
RGB components of the training split. `--config.data.cache=DIR` then trains from it. Small datasets
need no such command: `main` prepares them by itself.
"""

import csv
import os
import shlex
import time

from absl import app, flags

from alexnet_jax import cli
from alexnet_jax.data import cost, plans, preparation, sources
from alexnet_jax.data.cache import Cache, open_cache, partial_path
from alexnet_jax.data.cache import verify as verify_cache

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags; not at import, so that others may import this module."""
    flags.DEFINE_string(
        "source",
        None,
        "tfds:NAME (a prepared TFDS dataset), ilsvrc:DIR (with ILSVRC2012_img_train.tar and "
        "ILSVRC2012_img_val.tar), folder:PATH (PATH/{train,val,test}/CLASS/*.jpg, or PATH/CLASS/), "
        "or any data.source of a configuration. Without it, the cache in --out is verified.",
    )
    flags.DEFINE_string("out", None, "The cache's directory; made if it is not there.")
    flags.DEFINE_integer("size", 256, "Side of the prepared images in pixels.", lower_bound=1)
    flags.DEFINE_float(
        "holdout", 0, "Training images set aside as 'validation': a number, or a share below 1."
    )
    flags.DEFINE_enum(
        "on_bad_image",
        "fail",
        ("fail", "skip"),
        "An image that cannot be used: stop there, or leave it out and list it in skipped.csv.",
    )
    flags.DEFINE_integer("workers", None, "Threads; all cores by default.", lower_bound=1)
    flags.DEFINE_string("data_dir", None, "Where TFDS keeps its datasets; its own default if not.")


def parse_flags(argv: list[str]) -> None:
    """Parses the flags."""
    cli.parse(argv, define_flags)
    if not FLAGS.out:
        cli.refuse("--out is missing: the directory of the cache, such as --out=/data/pets-256", 2)


def main(_: None) -> None:
    """Prepares, or verifies what is prepared."""
    out = os.path.realpath(os.path.expanduser(FLAGS.out))
    with cli.mendable(out, "what was prepared is kept"):
        if FLAGS.source:
            prepare(out)
        else:
            verify(out)


def prepare(out: str) -> None:
    """Makes the cache, or goes on with it, and says what came out."""
    source = sources.open_source(FLAGS.source, FLAGS.data_dir)
    splits = ", ".join(f"{name} {len(split):,}" for name, split in source.splits.items())
    print(f"{source.name}: {len(source.class_names):,} classes; {splits}")
    plan = plans.plan_splits(source, FLAGS.size, FLAGS.holdout)
    settings = plans.settings_of(source, plan, FLAGS.size, FLAGS.holdout)
    if preparation.is_made(out, settings):
        print("It is complete already; without --source it is verified.")
        report(open_cache(out))
        return
    estimate = cost.estimate(source, FLAGS.size, FLAGS.workers)
    goes_on = os.path.isdir(partial_path(out))
    print(f"{estimate}{', less what is in ' + partial_path(out) if goes_on else ''}", flush=True)
    start = time.perf_counter()
    cache = preparation.make_cache(
        source, FLAGS.size, out, FLAGS.holdout, FLAGS.workers, FLAGS.on_bad_image
    )
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
    verify_cache(cache)
    total = sum(len(images) for images in cache.images.values())
    print(f"{out}: all {total:,} images are as they were written ({cache.fingerprint})")


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
