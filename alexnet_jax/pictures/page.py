"""Why a network gave its answer, as a piece of HTML that fits a telephone and asks for nothing."""

import base64
from collections.abc import Iterable, Sequence
from html import escape

import cv2
import numpy as np

from alexnet_jax.data.photos import printable
from alexnet_jax.evaluation.album import Neighbour
from alexnet_jax.evaluation.answers import best
from alexnet_jax.evaluation.why import Explanation
from alexnet_jax.pictures import why
from alexnet_jax.pictures.sheet import OTHER, TRUE

STRONGEST = 8  # maps of each tower

STYLE = f"""
.alexnet {{ line-height: 1.35; }}
.alexnet h3 {{ margin: 1.2em 0 .5em; font-size: 1.05em; }}
.alexnet p {{ margin: .3em 0; }}
.alexnet small, .alexnet figcaption {{ font-size: .8em; opacity: .8; font-weight: normal; }}
.alexnet .across {{ display: flex; flex-wrap: wrap; gap: 14px; }}
.alexnet .across > * {{ flex: 1 1 230px; max-width: 340px; margin: 0; min-width: 0; }}
.alexnet figure img {{ width: 100%; display: block; border-radius: 3px; }}
.alexnet figcaption {{ margin-top: .3em; overflow-wrap: anywhere; }}
.alexnet .bar {{ position: relative; display: flex; gap: 8px; padding: 2px 6px; margin: 2px 0;
  font-size: .85em; border: 1px solid #8885; border-radius: 3px; overflow: hidden; }}
.alexnet .bar i {{ position: absolute; inset: 0 auto 0 0; background: {OTHER}; opacity: .6; }}
.alexnet .bar.asked i {{ background: {TRUE}; }}
.alexnet .bar span {{ position: relative; flex: 1; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; }}
.alexnet .bar b {{ position: relative; font-weight: normal; }}
.alexnet .maps {{ display: flex; flex-wrap: wrap; gap: 4px; margin: 3px 0; }}
.alexnet .maps b {{ width: 1.2em; font-weight: normal; opacity: .8; }}
.alexnet .maps img {{ width: 58px; height: 58px; image-rendering: pixelated; }}
.alexnet .maps img.units {{ flex: 1; max-width: 492px; min-width: 0; height: 32px; }}
.alexnet .near > * {{ flex: 0 1 112px; }}
#picks .grid-container {{ grid-template-columns: repeat(4, minmax(0, 1fr)); }}
#picks .grid-container {{ grid-auto-rows: auto; grid-template-rows: none; }}
#picks .thumbnail-item {{ aspect-ratio: 1; height: auto; }}
#picks .grid-wrap {{ min-height: 0; max-height: none; overflow: visible; }}
.alexnet .error {{ padding: .6em .8em; border-left: 4px solid #b03028; background: #b0302818; }}
"""

NOTHING = '<div class="alexnet"><p>Drop a photo, or pick one.</p></div>'


def explained(
    name: str,
    found: Explanation,
    classes: Sequence[str],
    neighbours: Sequence[Neighbour],
    among: str,
) -> str:
    """All that is known of an answer.

    Args:
        name: of the photo.
        found: see `evaluation.why.explain`.
        classes: what each label means, in words.
        neighbours: of the photo; where there are none, nothing is said of them.
        among: what they were looked for in, such as '2,000 images of the split test'.
    """
    said = why.sentences(found, classes)
    panels = {
        "seen": found.seen,
        "occlusion": why.occlusion(found),
        "saliency": why.saliency(found),
    }
    figures = [_figure(picture, said[which]) for which, picture in panels.items()]
    answers = {"The answer": found.probabilities}
    answers |= {f"Without tower {'AB'[t]}": own for t, own in enumerate(found.silenced)}
    bars = [
        f"<div><p><b>{title}</b></p>{_bars(probabilities, found.label, classes)}</div>"
        for title, probabilities in answers.items()
    ]
    parts = [
        f"<h3>{escape(printable(name))}</h3>",
        _across(bars),
        "<h3>What it depends on</h3>",
        _across(figures),
    ]
    if neighbours:
        near = [
            _figure(one.picture, f"{printable(one.name)}, {one.distance:.3g}") for one in neighbours
        ]
        parts += [
            f"<h3>Nearest <small>of {escape(among)}, with their distances</small></h3>",
            f'<div class="across near">{"".join(near)}</div>',
        ]
    parts += ["<h3>Activations</h3>", *_activations(found)]
    parts.append(f"<p><small>{escape(why.sources(found))}</small></p>")
    return f'<div class="alexnet">{"".join(parts)}</div>'


def refused(line: str) -> str:
    """Why there is no answer."""
    return f'<div class="alexnet"><p class="error">{escape(printable(line))}</p></div>'


def _across(parts: Iterable[str]) -> str:
    return f'<div class="across">{"".join(parts)}</div>'


def _bars(probabilities: np.ndarray, label: int, classes: Sequence[str]) -> str:
    """A bar for each of the most probable classes; that of the class in question is red."""
    bars = []
    for one in best(probabilities):
        share, name = probabilities[one], escape(printable(classes[one]))
        bars.append(
            f'<div class="bar{" asked" * (one == label)}"><i style="width:{share:.2%}"></i>'
            f'<span title="{name}">{name}</span><b>{share:.1%}</b></div>'
        )
    return "".join(bars)


def _figure(picture: np.ndarray, caption: str) -> str:
    return f"<figure>{_image(picture)}<figcaption>{escape(caption)}</figcaption></figure>"


def _activations(found: Explanation) -> Iterable[str]:
    """Every layer, a line for each tower."""
    towers = len(next(iter(found.activations.values())))
    for name, values in found.activations.items():
        maps = values[0].ndim == 3
        black, white = why.scale(values)
        lines, responding = [], 0
        for tower, own in enumerate(values):
            shades = (255 * np.clip((own - black) / (white - black), 0, 1)).astype(np.uint8)
            if maps:
                some = why.strongest(own, tower, STRONGEST * (3 - towers))
                responding += some.responding
                places = [number - tower * some.total for number in some.numbers]
                images = [
                    _image(shades[..., place], f'title="map {number}"')
                    for number, place in zip(some.numbers, places, strict=True)
                ]
            else:
                responding += int((own != 0).sum())
                images = [_image(why.folded(shades), 'class="units"')]
            letter = f"<b>{'AB'[tower]}</b>" if towers > 1 else ""
            lines.append(f'<div class="maps">{letter}{"".join(images)}</div>')
        total = towers * values[0].shape[-1]
        what = "maps of " + "x".join(map(str, values[0].shape[:2])) if maps else "units"
        yield f"<p><b>{name}</b> <small>{responding:,} of {total:,} {what} respond</small></p>"
        yield from lines


def _image(picture: np.ndarray, attributes: str = "") -> str:
    """A picture, RGB or grey, as part of the page."""
    if picture.ndim == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    _, png = cv2.imencode(".png", picture)
    data = base64.b64encode(png.tobytes()).decode()
    return f'<img alt="" {attributes} src="data:image/png;base64,{data}">'
