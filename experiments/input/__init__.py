"""What training batches cost: this package's stream beside grain, PyTorch and the machine's limits.

`material` is what all work on, `ways_*` the ways to read it, `limits` what the machine can do,
`agreement` the proof that all do the same, `report` the page.
"""
