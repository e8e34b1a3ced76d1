"""Weights in and out: other programs' files become runs, and runs become other programs' files.

from_onnx, from_torch, onnx_graph   read          converting   a run's directory of it
weights                             folds         exporting    StableHLO, ONNX by `to_onnx`

torch_folder                        a folder for PyTorch's users, both ways, with a `model_card`
torch_modules, torch_source, torch_arrays         what the network is there
"""
