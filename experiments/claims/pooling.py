"""Is pooling with overlap better (section 3.4)?

"Without" is 2x2 pixels every 2, not 3x3 every 2; so that the maps come out as large, conv5 has no
zeros around its maps, as in 2012's net #147 (layers-147.cfg).
"""

from experiments.claims.claim import Amount, Claim, errors, unchanged
from experiments.labnotes import without_overlap

CLAIM = Claim(
    name="pooling",
    section="3.4",
    sentence="Pooling windows that overlap lower the error",
    in_2012="0.39 points of 40.66% in ten views, runs #147 and #145",
    arms={"3x3 every 2": unchanged, "2x2 every 2": without_overlap},
    compare=errors(Amount(0.39 / 40.66, "#147")),
    notes=("145", "147"),
    caveat="without overlap conv5 has no zeros around its maps, as in #147, so that fc6 gets maps "
    "of the same size; windows of 3 miss the last row and column of maps of even size, windows of "
    "2 those of maps of odd size, where 2012's maps all fit",
)
