"""Labelled images by index, from TFDS, folders, lists of files, ImageNet's own tars, or IDX files.

A source is opened by a short text, the `data.source` field of the configuration:

    embedded[/full|/tiny|/hard]       dead-leaves images that the package draws itself
    fashion_mnist                     TFDS if prepared there, else Debian's IDX files
    idx:DIR                           any folder with MNIST's four IDX files
    cifar10:PATH                      an archive of CIFAR-10, packed or not; see `cifar10`
    tfds:NAME[/config][:version]      any prepared TFDS image-classification dataset
    folder:PATH                       PATH/<train|val|test>/<class>/*.jpg, or PATH/<class>/*.jpg,
                                      or lists of files, or Kaggle's ImageNet; see `folder`
    ilsvrc:TARS                       the directory with ILSVRC2012_img_train.tar and
                                      ILSVRC2012_img_val.tar as downloaded; see `ilsvrc`

What they have in common is in `record`. Images come undecoded; `data.decoding` decodes them. TFDS
and its imports are loaded only by the sources that need them.
"""

import contextlib
import dataclasses
import io
import os
import sys
from collections.abc import Iterator

from absl import logging

from alexnet_jax.data.sources import cifar10, folder, idx, ilsvrc, tfds
from alexnet_jax.data.sources.record import Source
from alexnet_jax.errors import UserError
from alexnet_jax.files import exclusive_lock

DEBIAN_FASHION_MNIST = "/usr/share/datasets/fashion-mnist"
FASHION_MNIST_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def open_source(spec: str, data_dir: str | None = None) -> Source:
    """Opens the dataset that `spec` names.

    Args:
        spec: one of the forms in this module's docstring.
        data_dir: TFDS's directory; None means TFDS's own default (`resolve_data_dir`).

    Raises:
        UserError: if the spec is not understood or its data is not there; the message says how to
            get it.
    """
    kind, _, rest = spec.partition(":")
    if kind in ("idx", "folder", "ilsvrc", "cifar10"):
        _check_name(kind, os.path.realpath(os.path.expanduser(rest)))
    if spec == "embedded" or spec.startswith("embedded/"):
        return _open_embedded(spec.partition("/")[2] or "full", resolve_data_dir(data_dir))
    if spec == "fashion_mnist":
        return _open_fashion_mnist(resolve_data_dir(data_dir))
    if kind == "idx" and rest:
        return idx.open_idx(rest)
    if kind == "cifar10" and rest:
        return cifar10.open_cifar10(rest)
    if kind == "tfds" and rest:
        return tfds.open_tfds(rest, resolve_data_dir(data_dir))
    if kind == "folder" and rest:
        return folder.open_folder(rest)
    if kind == "ilsvrc" and rest:
        return ilsvrc.open_ilsvrc(rest)
    if os.path.isdir(os.path.expanduser(spec)):
        raise UserError(f"unknown data source {spec!r}: did you mean folder:{spec}?")
    raise UserError(
        f"unknown data source {spec!r}: expected embedded, fashion_mnist, idx:DIR, folder:PATH, "
        "ilsvrc:TARS, cifar10:PATH or tfds:NAME[/config][:version] "
        f"(did you mean tfds:{spec.strip(':') or 'imagenet2012'}?)"
    )


def _check_name(kind: str, path: str) -> None:
    """Refuses a path that could not be written into a cache's description or a configuration."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{kind}:{os.fsencode(path)!r}: the path is not UTF-8: rename that directory"
        ) from None


def resolve_data_dir(data_dir: str | None) -> str:
    """The directory given, else TFDS's own default: `TFDS_DATA_DIR`, else ~/tensorflow_datasets."""
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return chosen if "://" in chosen else os.path.abspath(os.path.expanduser(chosen))


def _open_embedded(config: str, data_dir: str) -> Source:
    """Opens the package's own dataset, drawing it first where it is not there yet."""
    from alexnet_jax.data.sources import embedded

    configs = embedded.EmbeddedImages.builder_configs
    if config not in configs:
        raise UserError(
            f"unknown data source embedded/{config}: choose embedded/{'|'.join(configs)}"
        )
    arguments = {"data_dir": data_dir, "config": config, "file_format": "array_record"}
    with _quiet_tfds():
        builder = embedded.EmbeddedImages(**arguments)
        if not builder.is_prepared():
            with exclusive_lock(os.path.join(data_dir, "alexnet_jax", f".embedded-{config}.lock")):
                # Another process may have drawn it while this one waited: this returns at once.
                builder = embedded.prepare(data_dir, config)
    again = "give the same command again, which draws it anew"
    return tfds.source_from_builder(builder, f"embedded/{config}", again)


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
    """Keeps TFDS to its progress bars, and to none where nobody watches.

    It prints "Unknown size" to stdout, and warns of the directory that it is about to make.
    """
    import tensorflow_datasets as tfds

    verbosity = logging.get_verbosity()  # absl's: INFO is 0, WARNING -1, ERROR -2
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    logging.set_verbosity(min(verbosity, logging.ERROR))
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
        tfds.enable_progress_bar()


def _open_fashion_mnist(data_dir: str) -> Source:
    """TFDS's copy where it is prepared, else the IDX files of Debian's package."""
    if os.path.isdir(os.path.join(data_dir, "fashion_mnist")):
        with contextlib.suppress(UserError):  # there, but not readable: the files below will do
            return tfds.open_tfds("fashion_mnist", data_dir)
    if os.path.isdir(DEBIAN_FASHION_MNIST):
        source = idx.open_idx(DEBIAN_FASHION_MNIST)
        return dataclasses.replace(source, name="fashion_mnist", class_names=FASHION_MNIST_CLASSES)
    raise UserError(
        "Fashion-MNIST is not here: run `apt-get install dataset-fashion-mnist` (Debian, Ubuntu), "
        f"or `tfds build fashion_mnist --file_format=array_record --data_dir={data_dir}` "
        f"{tfds.NEEDS_TENSORFLOW}, or set data.source=idx:DIR where DIR holds its four IDX files"
    )
