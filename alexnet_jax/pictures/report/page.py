"""The page of a report: one file of HTML with all its pictures, no script and no network.

What has names is text of the page and not of a picture: a browser has the letters of every
language, wraps them on a telephone, and reads them aloud.
"""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from alexnet_jax.evaluation.answers import Answer
from alexnet_jax.evaluation.by_class import OfClass, most_confused
from alexnet_jax.evaluation.evaluator import Opened
from alexnet_jax.evaluation.scores import Score, interval
from alexnet_jax.evaluation.trained_network import TrainedNetwork
from alexnet_jax.model.mesh import describe_mesh
from alexnet_jax.pictures import colour, figure3
from alexnet_jax.pictures.figure4 import Neighbours, Shown
from alexnet_jax.pictures.network_table import network_table
from alexnet_jax.pictures.saving import MADE_BY
from alexnet_jax.run.versions import installed
from alexnet_jax.settings.listing import listed

STYLE = (Path(__file__).parent / "style.css").read_text()
CLASSES, PAIRS = 20, 12  # shown before the others; of confusions
MATRIX = 30  # classes of which the matrix is a table of the page; of more it is a picture
SIDE, SMALL = 256, 96  # pixels: pictures are no larger; those up to the other one keep every pixel
SCALES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1)  # what the bars of errors may end at
VIEWS = "in ten views"


class Contents(NamedTuple):
    """What the page tells.

    Attributes:
        run: that was tested.
        network: the same, to be asked.
        best: whether it is the best checkpoint by validation error, not the last.
        names: what to call each label.
        scores: in one view and in ten.
        counts: (classes, classes), of `by_class.confusions`, in ten views.
        found: of every class.
        confusion: a picture of `counts`.
        mistakes: the worst, the worst first.
        curves: a picture of each field; none of weights that were not trained here.
        answers: to some other images.
        layer: by which images are near.
        neighbours: of some images; none of a single one.
        command: which made it.
    """

    run: Opened
    network: TrainedNetwork
    best: bool
    names: Sequence[str]
    scores: Sequence[Score]
    counts: np.ndarray
    found: Sequence[OfClass]
    confusion: bytes
    mistakes: Sequence[Answer]
    curves: Mapping[str, bytes]
    answers: Sequence[Answer]
    layer: str
    neighbours: Sequence[Neighbours]
    command: str


def page(contents: Contents) -> str:
    """The whole page."""
    sections = {
        "Errors by class": _classes(contents),
        "Confusions": _confusions(contents),
        "Worst mistakes": _mistakes(contents),
        "Learning curves": _curves(contents),
        "Kernels of conv1": _kernels(contents),
        "Answers": _answers(contents),
        "Nearest neighbours": _neighbours(contents),
        "Network": _network(contents),
        "Configuration": _configuration(contents),
    }
    anchors = {title: title.lower().replace(" ", "-") for title in sections}
    links = "".join(f'<a href="#{anchor}">{title}</a>' for title, anchor in anchors.items())
    body = "".join(
        f'<section id="{anchors[title]}"><h2>{title}</h2>\n{text}</section>\n'
        for title, text in sections.items()
    )
    title = _text(contents.run.workdir.absolute().name)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="{MADE_BY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: {contents.scores[-1].top1_error:.2%} top-1 error {VIEWS}</title>
<style>
{STYLE}</style>
</head>
<body>
<header>
<h1>{title}</h1>
{_totals(contents)}
<nav aria-label="Sections">{links}</nav>
</header>
<main>
{body}</main>
<footer>Made by {MADE_BY}: <code>{_text(contents.command)}</code>. The numbers are in classes.csv,
confusion.csv and mistakes.csv beside this file.</footer>
</body>
</html>
"""


# --- sections -------------------------------------------------------------------------------------


def _totals(contents: Contents) -> str:
    run, split = contents.run, contents.run.config.data.test
    examples, classes = contents.scores[0].examples, len(contents.names)
    items = []
    for score in reversed(contents.scores):
        for top, error in ((1, score.top1_error), (5, score.top5_error)):
            if top == 1 or classes > 5:
                low, high = interval(error, score.examples)
                items.append(
                    f"<li><b>{error:.2%}</b> top-{top} error in {score.seen} "
                    f"<small>{low:.2%} to {high:.2%}</small></li>"
                )
    which = "the best by validation error" if contents.best else "the last"
    return (
        f"<p>Step {run.record['step']:,}, {which}, tested on {_count(examples, 'image')} of "
        f"{_count(classes, 'class')}: the split ‘{_text(split)}’ of {_text(run.cache.name)}.</p>"
        f'<ul class="totals">{"".join(items)}</ul>'
        '<p class="soft">Small numbers are 95% confidence intervals (Wilson): what other images of '
        "the same kind would have given. What another seed would change is no part of them.</p>"
    )


def _classes(contents: Contents) -> str:
    found = sorted((own for own in contents.found if own.images), key=lambda own: -own.error)
    reach = next(scale for scale in SCALES if scale >= max(own.interval[1] for own in found))
    items = [_of_class(own, reach, contents.names) for own in found]
    note = (
        f"<p>Top-1 error {VIEWS}, the largest first. The mark is the error, the band its 95% "
        f"confidence interval (Wilson); the bars end at {reach:.0%}.</p>"
    )
    empty = len(contents.found) - len(found)
    if empty:
        note += f"<p>{_count(empty, 'class')} without images in this split "
        note += f"{'is' if empty == 1 else 'are'} not shown.</p>"
    return note + _folded(items, CLASSES, "classes", "class")


def _of_class(own: OfClass, reach: float, names: Sequence[str]) -> str:
    low, high = own.interval
    left, mark, right = (100 * part / reach for part in (low, own.error, high))
    rival = ""
    if own.confused_images:
        rival = f"most often taken for {_text(names[own.confused_with])} ({own.confused_images:,})"
        rival = f'<small class="wide rival">{rival}</small>'
    return (
        f"<li><span>{_text(names[own.label])}</span>"
        f'<span class="number"><b>{own.error:.1%}</b> <small>{100 * low:.1f} to {high:.1%}, '
        f"{own.top1_errors:,} of {own.images:,}</small></span>"
        '<span class="track wide" aria-hidden="true">'
        f'<i style="left:{left:.1f}%;width:{right - left:.1f}%"></i>'
        f'<b style="left:{mark:.1f}%"></b></span>{rival}</li>'
    )


def _confusions(contents: Contents) -> str:
    names, counts = contents.names, contents.counts
    images = counts.sum(axis=1)
    pairs = most_confused(counts, PAIRS)
    if not pairs:
        often = f"<p>No image has a wrong answer {VIEWS}.</p>"
    else:
        items = (
            f"<li><span><b>{_text(names[true])}</b> taken for <b>{_text(names[answer])}</b></span>"
            f'<span class="number">{times / images[true]:.1%} <small>{times:,} of '
            f"{images[true]:,}</small></span></li>"
            for true, answer, times in pairs
        )
        often = f'<h3>Most frequent</h3><ol class="list pairs">{"".join(items)}</ol>'
    if len(names) <= MATRIX:
        shown = _scrolled("The confusion matrix", _matrix(counts, names))
        note = f"Each row is a class with its images, by their answers {VIEWS}, the columns."
    else:
        alt = (
            f"Confusion matrix of {len(names):,} classes: how many images of each class, the rows, "
            f"had each answer {VIEWS}, the columns. The numbers are in confusion.csv."
        )
        shown = f'<figure class="sheet">{_image(contents.confusion, "png", alt)}</figure>'
        note = (
            f"Each row is a class, or some that follow each other, each column an answer {VIEWS}. "
            "The diagonal is what was right; the steps of colour are finer where shares are small."
        )
    return f"{often}<h3>All</h3><p>{note}</p>{shown}"


def _matrix(counts: np.ndarray, names: Sequence[str]) -> str:
    heads = "".join(f'<th scope="col"><span>{_text(name)}</span></th>' for name in names)
    rows = []
    for label, (name, row) in enumerate(zip(names, counts, strict=True)):
        cells = []
        for answer, count in enumerate(row):
            share = (count / max(1, row.sum())) ** 0.5  # small ones are to be seen
            hue = "blue" if answer == label else "red"
            style = f' style="--hue:var(--{hue});--share:{0.65 * share:.2f}"' if count else ""
            cells.append(f"<td{style}>{count:,}</td>" if count else "<td></td>")
        rows.append(f'<tr><th scope="row">{_text(name)}</th>{"".join(cells)}</tr>')
    return (
        f'<table class="matrix"><thead><tr><td></td>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _mistakes(contents: Contents) -> str:
    total = int(contents.counts.sum() - np.trace(contents.counts))
    if not total:
        return f"<p>There are none {VIEWS}.</p>"
    return (
        f"<p>Of {_count(total, 'wrong answer')} {VIEWS} those of which the network was surest. The "
        "true class stands first, its bar is red. Some may be mistakes of the labels.</p>"
        + _cards(contents.mistakes, contents.names)
    )


def _answers(contents: Contents) -> str:
    return (
        "<p>The paper’s Figure 4, left half: images from all over the split, and the most "
        f"probable classes {VIEWS}. The bar of the true class is red.</p>"
        + _cards(contents.answers, contents.names)
    )


def _cards(answers: Iterable[Answer], names: Sequence[str]) -> str:
    cards = []
    for answer in answers:
        assert answer.label is not None
        true, best = names[answer.label], answer.best
        bars = "".join(
            f'<li{" class=true" * (label == answer.label)}><i style="width:'
            f'{answer.probabilities[label]:.1%}"></i><span>{_text(names[label])}</span>'
            f"<b>{answer.probabilities[label]:.1%}</b></li>"
            for label in best
        )
        alt = f"{true}; the answer is {names[best[0]]}"
        cards.append(
            f'<figure class="card">{_picture(answer.picture, alt)}<figcaption><b>{_text(true)}</b>'
            f'<small>{_text(answer.file)}</small><ol class="bars">{bars}</ol></figcaption></figure>'
        )
    return f'<div class="cards">{"".join(cards)}</div>'


def _curves(contents: Contents) -> str:
    if not contents.curves:
        return "<p>There are none: no training was recorded in this directory.</p>"
    words = {"loss": "Loss in nats", "top1_error": "Top-1 error in per cent"}
    sheets = "".join(
        f'<figure class="sheet">{_image(png, "png", f"{words[field]} over the epochs")}</figure>'
        for field, png in contents.curves.items()
    )
    return f'<div class="sheets">{sheets}</div>'


def _kernels(contents: Contents) -> str:
    kernel = np.asarray(contents.network.variables["params"]["conv1"]["kernel"])
    towers = contents.run.config.model.towers
    text = (
        "<p>The paper’s Figure 3. Each kernel is scaled by its own largest weight, grey is zero; "
        "the bar is its share of colour.</p>"
    )
    for tower, part in enumerate(np.split(kernel, towers, axis=-1)):
        shares = colour.shares(part)
        name = f"Tower {'AB'[tower]}" if towers > 1 else "One tower"
        title = f"{name}: {_count(len(shares), 'kernel')}, {shares.mean():.0%} colour"
        tiles = "".join(
            f'<span>{_tile(part[..., i])}<i style="--share:{share:.0%}"></i></span>'
            for i, share in enumerate(shares)
        )
        text += f"<h3>{title}</h3>"
        text += f'<div class="kernels" role="img" aria-label="{title}">{tiles}</div>'
    return text


def _tile(weights: np.ndarray) -> str:
    pixels = np.clip(np.rint(255 * figure3.scaled(weights)), 0, 255).astype(np.uint8)
    return _image(_encoded(pixels, "png"), "png", "")


def _neighbours(contents: Contents) -> str:
    if not contents.neighbours:
        return "<p>A single image has none.</p>"
    rows = []
    for query, found in contents.neighbours:
        figures = _near(query, "query", "")
        for shown, distance in found:
            kind = "same" if shown.label == query.label else "other"
            figures += _near(shown, kind, f"{distance:.3g}")
        rows.append(f'<div class="near">{figures}</div>')
    return (
        "<p>The paper’s Figure 4, right half: the images of the split that are nearest to the "
        f"first of each row, by the Euclidean distance of what {contents.layer} says of them in "
        "one view. Those of another class have a red border.</p>" + "".join(rows)
    )


def _near(shown: Shown, kind: str, note: str) -> str:
    return (
        f'<figure class="{kind}">{_picture(shown.picture, shown.name)}<figcaption>'
        f"{_text(shown.name)} <small>{note}</small></figcaption></figure>"
    )


def _network(contents: Contents) -> str:
    table = network_table(contents.network.viewer.model.network, "html")
    return _scrolled("The network", table)


def _configuration(contents: Contents) -> str:
    run = contents.run
    config = run.config
    trained = f"{config.epochs:g} epochs, {config.batch_size:,} images a step, seed {config.seed}"
    facts = {
        "run": run.workdir,
        "reading": config.preset,
        "trained": trained if contents.curves else "not here",
        "dataset": f"{run.cache.name}, fingerprint {run.cache.fingerprint}",
        "tested on": f"a mesh of {describe_mesh(run.mesh)}, in float32",
        "by": ", ".join(f"{name} {version}" for name, version in installed().items()),
    }
    pairs = "".join(f"<dt>{name}</dt><dd>{_text(fact)}</dd>" for name, fact in facts.items())
    return (
        f"<dl>{pairs}</dl><details><summary>Every field, with its meaning</summary>"
        f"<pre>{_text(listed(config))}</pre></details>"
    )


# --- pieces ---------------------------------------------------------------------------------------


def _text(value: object) -> str:
    """Any value, as text of the page; a path's name may be bytes that are no UTF-8."""
    return escape(str(value).encode(errors="surrogateescape").decode(errors="replace"))


def _count(number: int, what: str) -> str:
    """'1 class', '20 classes'."""
    plural = "" if number == 1 else "es" if what.endswith("s") else "s"
    return f"{number:,} {what}{plural}"


def _scrolled(label: str, table: str) -> str:
    """A table that may be wider than the page, also for those who have no mouse."""
    return f'<div class="scroll" role="region" aria-label="{label}" tabindex="0">{table}</div>'


def _folded(items: Sequence[str], first: int, kind: str, what: str) -> str:
    """A list of which the first are shown, and the others when they are asked for."""
    text = f'<ol class="list {kind}">{"".join(items[:first])}</ol>'
    rest = items[first:]
    if rest:
        text += f"<details><summary>The other {_count(len(rest), what)}</summary>"
        text += f'<ol class="list {kind}">{"".join(rest)}</ol></details>'
    return text


def _picture(picture: np.ndarray, alt: str) -> str:
    """An image of the dataset, (S, S, 3) uint8. A small one keeps its pixels."""
    side = picture.shape[0]
    if side <= SMALL:
        return _image(_encoded(picture, "png"), "png", alt, 'class="small" ')
    return _image(_encoded(picture, "jpeg"), "jpeg", alt)


def _encoded(pixels: np.ndarray, form: str) -> bytes:
    """Pixels (H, W, 3) uint8 as a file."""
    image, file = Image.fromarray(pixels), io.BytesIO()
    if form == "jpeg":
        image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    options: dict[str, Any] = {"quality": 88} if form == "jpeg" else {"optimize": True}
    image.save(file, form, **options)
    return file.getvalue()


def _image(content: bytes, form: str, alt: str, more: str = "") -> str:
    """A picture as part of the page itself."""
    data = base64.b64encode(content).decode()
    return f'<img {more}src="data:image/{form};base64,{data}" alt="{_text(alt)}">'
