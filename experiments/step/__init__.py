"""How fast the network trains and infers: beside PyTorch, onnxruntime and the machine's limits.

`contender` says what a way to compute a step is; `ways_*` and `operators` are the ways, of which
`plain` and `torch_network` are other versions of the network; `given` and `work` are what all are
given and what it amounts to; `outcomes` compares them, `desk` and `session` run them in processes
of their own, `ratios` and `report` say what came out.
"""
