"""Caffe's files as messages: what of its `caffe.proto` matters to this network, and nothing else.

Google's own parser reads them, by descriptions that are made here from the fields below; no code of
Caffe's is needed, and none is generated. Weights are taken as the bytes that they are in the file.
"""

import functools
import math
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from alexnet_jax.errors import UserError

# Numbers, names, types and defaults as in src/caffe/proto/caffe.proto of BVLC/caffe. A star is a
# repeated field; enumerations are integers; packed floats and names of files are bytes here.
MESSAGES = {
    "BlobShape": "dim 1 int64*",
    "BlobProto": (
        "num 1 int64, channels 2 int64, height 3 int64, width 4 int64, data 5 bytes, "
        "shape 7 BlobShape, double_data 8 bytes"
    ),
    "TransformationParameter": (
        "scale 1 float=1, crop_size 3 int64, mean_file 4 bytes, mean_value 5 float*"
    ),
    "DataParameter": "scale 2 float=1, mean_file 3 bytes, crop_size 5 int64",  # until 2014
    "MemoryDataParameter": "batch_size 1 int64, channels 2 int64, height 3 int64, width 4 int64",
    "InputParameter": "shape 1 BlobShape*",
    "ConvolutionParameter": (
        "num_output 1 int64, bias_term 2 bool, group 5 int64=1, weight_filler 7 bytes, "
        "bias_filler 8 bytes, engine 15 int32, axis 16 int32=1, force_nd_im2col 17 bool, "
        "dilation 18 int64*, pad 3 int64*, pad_h 9 int64, pad_w 10 int64, kernel_size 4 int64*, "
        "kernel_h 11 int64, kernel_w 12 int64, stride 6 int64*, stride_h 13 int64, "
        "stride_w 14 int64"
    ),
    "DropoutParameter": "dropout_ratio 1 float=0.5, scale_train 2 bool=true",
    "FlattenParameter": "axis 1 int32=1, end_axis 2 int32=-1",
    "InnerProductParameter": (
        "num_output 1 int64, bias_term 2 bool, weight_filler 3 bytes, bias_filler 4 bytes, "
        "axis 5 int32=1, transpose 6 bool"
    ),
    "LRNParameter": (
        "local_size 1 int64=5, alpha 2 float=1, beta 3 float=0.75, norm_region 4 int32, "
        "k 5 float=1, engine 6 int32"
    ),
    "PoolingParameter": (
        "pool 1 int32, engine 11 int32, global_pooling 12 bool, round_mode 13 int32, "
        "pad 4 int64*, pad_h 9 int64, pad_w 10 int64, kernel_size 2 int64*, kernel_h 5 int64, "
        "kernel_w 6 int64, stride 3 int64*, stride_h 7 int64, stride_w 8 int64"
    ),
    "ReLUParameter": "negative_slope 1 float, engine 2 int32",
    "SoftmaxParameter": "engine 1 int32, axis 2 int32=1",
    "LayerParameter": (
        "name 1 string, type 2 string, bottom 3 string*, top 4 string*, blobs 7 BlobProto*, "
        "transform_param 100 TransformationParameter, convolution_param 106 ConvolutionParameter, "
        "data_param 107 DataParameter, dropout_param 108 DropoutParameter, "
        "image_data_param 115 DataParameter, inner_product_param 117 InnerProductParameter, "
        "lrn_param 118 LRNParameter, memory_data_param 119 MemoryDataParameter, "
        "pooling_param 121 PoolingParameter, relu_param 123 ReLUParameter, "
        "softmax_param 125 SoftmaxParameter, window_data_param 129 DataParameter, "
        "flatten_param 135 FlattenParameter, input_param 143 InputParameter"
    ),
    "V1LayerParameter": (  # the last two it never had, but so both forms are read alike
        "layer 1 bytes, bottom 2 string*, top 3 string*, name 4 string, type 5 int32, "
        "blobs 6 BlobProto*, convolution_param 10 ConvolutionParameter, "
        "data_param 11 DataParameter, dropout_param 12 DropoutParameter, "
        "image_data_param 15 DataParameter, inner_product_param 17 InnerProductParameter, "
        "lrn_param 18 LRNParameter, pooling_param 19 PoolingParameter, "
        "window_data_param 20 DataParameter, memory_data_param 22 MemoryDataParameter, "
        "relu_param 30 ReLUParameter, transform_param 36 TransformationParameter, "
        "softmax_param 39 SoftmaxParameter, flatten_param 135 FlattenParameter, "
        "input_param 143 InputParameter"
    ),
    "NetParameter": (
        "layers 2 V1LayerParameter*, input 3 string*, input_dim 4 int64*, "
        "input_shape 8 BlobShape*, layer 100 LayerParameter*"
    ),
}
# V1LayerParameter.LayerType: the numbers that layers had before they had names.
V1_TYPES = {
    1: "Accuracy", 4: "Convolution", 6: "Dropout", 7: "EuclideanLoss", 8: "Flatten",
    13: "InfogainLoss", 14: "InnerProduct", 15: "LRN", 16: "MultinomialLogisticLoss",
    17: "Pooling", 18: "ReLU", 19: "Sigmoid", 20: "Softmax", 21: "SoftmaxWithLoss", 22: "Split",
    23: "TanH", 27: "SigmoidCrossEntropyLoss", 28: "HingeLoss", 36: "Silence",
}  # fmt: skip


@functools.cache
def classes() -> dict[str, type]:
    """The message classes, by name, in a pool of their own."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe")
    for message, fields in MESSAGES.items():
        described = file.message_type.add(name=message)
        for text in fields.split(", "):
            name, number, kind = text.split()
            kind, _, default = kind.partition("=")
            label = kinds.LABEL_REPEATED if kind.endswith("*") else kinds.LABEL_OPTIONAL
            field = described.field.add(name=name, number=int(number), label=label)
            kind = kind.removesuffix("*")
            if kind in MESSAGES:
                field.type, field.type_name = kinds.TYPE_MESSAGE, f".caffe.{kind}"
            else:
                field.type = kinds.Type.Value(f"TYPE_{kind.upper()}")
            if default:
                field.default_value = default
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        message: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{message}"))
        for message in MESSAGES
    }


def read(message: str, path: Path) -> Any:
    """A file that is one message.

    Raises:
        UserError: it is none, or protobuf is missing.
        OSError: the file cannot be read.
    """
    try:
        from google.protobuf.message import DecodeError
    except ModuleNotFoundError as error:
        raise UserError(f"a {path.suffix} file needs protobuf: pip install protobuf") from error
    try:
        return classes()[message].FromString(path.read_bytes())  # type: ignore[attr-defined]
    except DecodeError as error:
        raise UserError(
            f"cannot be read as Caffe's binary {message}: damaged, or something else"
        ) from error


def array_of(blob: Any, name: str) -> np.ndarray:
    """The numbers of a `BlobProto`, in the shape that it gives, old or new.

    Args:
        blob: the message.
        name: of it, for messages.

    Raises:
        UserError: it holds another number of them.
    """
    shape = list(blob.shape.dim) or [blob.num, blob.channels, blob.height, blob.width]
    kind, data = ("<f8", blob.double_data) if blob.double_data else ("<f4", blob.data)
    if min(shape) < 0 or len(data) != math.prod(shape) * np.dtype(kind).itemsize:
        held = len(data) // np.dtype(kind).itemsize
        raise UserError(f"{name} has shape {tuple(shape)}, but {held:,} numbers")
    return np.frombuffer(data, kind).reshape(shape)


def known(layer: Any, field: str) -> Any:
    """A layer's field that is a message, if Caffe knows all of what it says.

    Raises:
        UserError: it has fields that `caffe.proto` had not, which may mean anything.
    """
    from google.protobuf.unknown_fields import UnknownFieldSet

    message = getattr(layer, field)
    for unknown in UnknownFieldSet(message):
        refuse(layer, f"has a field {unknown.field_number} in {field}, which Caffe's own has not")
    return message


def refuse(layer: Any, reason: str) -> NoReturn:
    """Raises the error that names the layer."""
    raise UserError(f"the layer {layer.name!r} {reason}")
