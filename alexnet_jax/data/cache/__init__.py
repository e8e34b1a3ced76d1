"""The paper's section 2, done once: every image of a source at SxS, as memory-mapped arrays.

`store` says what lies in a cache and opens it, `building` makes one.
"""
