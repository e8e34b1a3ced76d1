"""Photos and networks in a browser: `python -m alexnet_jax.explore --workdir=W`.

Serves a page on this machine, until Ctrl-C: drop a photo, or pick one of the run's dataset, and see
what the network answers, why, what every layer says of it and which images are nearest.
`--workdir=W1,W2` has several networks to switch between. Nothing leaves the machine. Needs
`pip install 'alexnet_jax[explore]'`.
"""

import argparse
import threading
from collections.abc import Sequence

from alexnet_jax import cli


def parse_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the flags; `workdir` is a list."""
    parser = cli.Parser("explore", __doc__)
    cli.add_workdir(parser, several=True)
    parser.add_argument(
        "--port",
        type=cli.at_least(0),
        default=7860,
        help="Of the page; 7860 by default, 0 for any.",
    )
    parser.add_argument(
        "--best", action="store_true", help="The best checkpoint by validation error, not the last."
    )
    flags = parser.parse(argv)
    flags.workdir = cli.workdirs(flags.workdir)
    if flags.port > 65535:
        cli.refuse(f"--port={flags.port}: ports go up to 65535; 0 is any that is free", 2)
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Serves the page until it is stopped."""
    flags = parse_flags(argv)
    with cli.errors_in_one_line("the page is gone, and no file was written"):
        import gradio  # noqa: F401  (before the networks are read: it may not be installed)

        from alexnet_jax import load
        from alexnet_jax.pictures import browser, of_runs

        names = of_runs.short_names(flags.workdir)
        networks = [load(workdir, best=flags.best) for workdir in flags.workdir]
        explorer = browser.Explorer(dict(zip(names, networks, strict=True)))
        with browser.served(explorer, flags.port) as address:
            print(f"{address}  (Ctrl-C ends it)", flush=True)
            threading.Event().wait()
    return 0


if __name__ == "__main__":
    cli.run(main)
