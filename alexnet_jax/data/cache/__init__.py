"""The paper's section 2, done once: every image of a source at SxS, as memory-mapped arrays.

`store` says what lies in a cache and opens it, `building` makes one, `places` says where, `earlier`
what need not be made again, and `freshness` whether it is still what its source holds.
"""
