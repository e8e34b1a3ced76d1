"""The page of the input's benchmark: its table, its ratios, and how it was measured."""

from collections.abc import Iterator
from typing import Any

from experiments.input.material import PREPARING_LONGER, WORKERS_LONGER
from experiments.shared.machine import made_by
from experiments.shared.tables import in_groups, listed, table

Row = dict[str, Any]

PACKAGES = ("grain", "numpy", "opencv-python-headless", "Pillow", "torch")  # named above the table
OTHERS = {
    "grain": "the best of grain's rows",
    "torch_cached": "the best of the DataLoader's over the cache",
    "torch_jpeg": "the best of the DataLoader's over JPEG files",
}


def ratios(rows: list[Row]) -> dict[str, float]:
    """Ratios of the medians; per CPU second, unless the name says by the clock."""
    cpu = {row["key"]: row["images_per_cpu_second"]["median"] for row in rows}
    wall = {row["key"]: row["images_per_second"]["median"] for row in rows}

    def best(prefix: str) -> float:
        return max((rate for key, rate in cpu.items() if key.startswith(prefix)), default=0.0)

    found = {}
    for where in ("host", "device"):
        rate = cpu[f"stream_{where}"]
        found[f"{where}_images_per_cpu_second"] = rate
        found[f"{where}_to_copy"] = rate / cpu["copy"]
        for other in OTHERS:
            if best(other):  # no torch, no rows
                found[f"{where}_to_best_{other}"] = rate / best(other)
    found["preparation_to_opencv_by_the_clock"] = wall["prepare"] / wall["fit_opencv_all"]
    found["preparation_to_opencv"] = cpu["prepare"] / cpu["fit_opencv_all"]
    found["preparation_to_package"] = cpu["prepare"] / cpu["fit_package_all"]
    found["preparation_to_opencv_with_files"] = cpu["prepare"] / cpu["files_opencv_all"]
    return found


def comparisons(found: dict[str, float]) -> Iterator[str]:
    """What the ratios mean."""
    for where in ("host", "device"):
        yield (
            f"The stream, lighting on the {where}, gives "
            f"{found[f'{where}_images_per_cpu_second']:,.0f} images per CPU second, "
            f"{found[f'{where}_to_copy']:.0%} of the memory copy"
        )
    for key, name in OTHERS.items():
        if f"host_to_best_{key}" in found:
            yield (
                f"Per CPU second, {found[f'host_to_best_{key}']:.1f} times {name} with lighting on "
                f"the host, {found[f'device_to_best_{key}']:.1f} times with lighting on the device"
            )
    yield (
        "Preparation has this much of the speed of OpenCV's decoding and resizing alone: "
        f"{found['preparation_to_opencv']:.0%} per CPU second, "
        f"{found['preparation_to_opencv_by_the_clock']:.0%} by the clock; per CPU second "
        f"{found['preparation_to_opencv_with_files']:.0%} where that reads and writes files too"
    )


def how(result: dict[str, Any]) -> Iterator[str]:
    """What one has to know of the measurement."""
    settings, jpegs = result["settings"], result["jpegs"]
    size, seconds = jpegs["kilobytes"], settings["seconds"]
    yield (
        f"{jpegs['files']:,} JPEG files, {jpegs['width']}x{jpegs['height']}, {size['min']:.0f} to "
        f"{size['max']:.0f} kB (median {size['median']:.0f}), no two the same. Files and cache are "
        "in the page cache, no disk is waited for, but in the row that says so: there the system "
        "was told to forget the images before every epoch"
    )
    yield (
        f"Median, least and most of {settings['rounds']} rounds. In each all rows take turns, for "
        f"about {seconds:g} s; with workers for {WORKERS_LONGER * seconds:g} s, because starting "
        f"them is in their time, and preparation for {PREPARING_LONGER * seconds:g} s, which are "
        "the same files several times over"
    )
    yield "A CPU second is one of user or system time, over all threads and processes"
    yield (
        "OpenCV and PyTorch run one thread in each process. All images are uint8, height x width x "
        "colour"
    )
    yield (
        "Grain's rows map each image by this package's own arithmetic, PyTorch flips and adds in "
        "PyTorch. Grain's shuffle is slower for few images than for many; what it costs its rows "
        "is among the limits"
    )
    if not settings["torch"]:
        yield "PyTorch is not installed: its rows are left out"


def rates(rows: list[Row]) -> str:
    """The table: the medians and ranges of all rows."""
    head = ("", "images/s", "from - to", "images per CPU second", "from - to")
    lines = []
    for row in rows:
        cells = [row["name"]]
        for name in ("images_per_second", "images_per_cpu_second"):
            spread = row[name]
            cells += [f"{spread['median']:,.0f}", f"{spread['min']:,.0f} - {spread['max']:,.0f}"]
        lines.append((row["group"], cells))
    return table(head, in_groups(lines))


def report(result: dict[str, Any]) -> str:
    """The Markdown page of what stands in the JSON file."""
    settings = result["settings"]
    parts = [
        f"# {settings['crop']}x{settings['crop']} crops from {settings['size']}x{settings['size']} "
        f"in batches of {settings['batch_size']}",
        made_by(result, PACKAGES),
        rates(result["rows"]),
        listed(comparisons(result["ratios"])),
        listed(how(result)),
    ]
    return "\n\n".join(parts) + "\n"
