"""Figures become files."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def save(figure: Figure, path: Path) -> Path:
    """Writes a figure in the format that the file's name asks for; makes the folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    figure.savefig(path, bbox_inches="tight")
    return path
