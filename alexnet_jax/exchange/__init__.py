"""Weights in and out: other programs' files become runs, and runs become other programs' files.

from_onnx, from_torch, onnx_graph   read          converting   a run's directory of it
weights                             folds         exporting    StableHLO, ONNX by `to_onnx`
"""
