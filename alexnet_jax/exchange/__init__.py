"""Weights in and out: other programs' files become runs, and runs become other programs' files.

from_onnx, from_caffe, from_numpy, from_torch   read a file, by onnx_graph and caffe_messages
weights, class_names                            fold it in, and name what it answers
converting                                      makes a run's directory of it
exporting                                       StableHLO, ONNX by to_onnx

torch_folder                                    for PyTorch's users, both ways, with a model_card
torch_modules, torch_source, torch_arrays       what the network is there
"""
