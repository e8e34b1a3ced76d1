"""What is read from a compiled program's text: on a CPU, whose programs look like a GPU's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.ahead.program import axis_of
from experiments.shared.compiled import Array, Program, arrays, product_operations

TEXT = """HloModule jit_f, is_scheduled=true

FileNames
1 "/home/me/alexnet_jax/model/operators.py"
2 "/lib/site-packages/alexnet_jax_like/optax.py"

FunctionNames
1 "f"

FileLocations
1 {file_name_id=1 function_name_id=1 line=38 end_line=38 column=21 end_column=59}
2 {file_name_id=2 function_name_id=1 line=7 end_line=7 column=1 end_column=2}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}

%cut (param_0: bf16[8,4], param_1: bf16[2,4]) -> (f32[2,4], bf16[2,4]) {
  %param_0 = bf16[8,4]{1,0} parameter(0)
  %param_1 = bf16[2,4]{1,0} parameter(1)
  %slice.1 = bf16[2,4]{1,0} slice(%param_0), slice={[0:2], [0:4]}
  %add.1 = bf16[2,4]{1,0} add(%slice.1, %param_1)
  %convert.1 = f32[2,4]{1,0} convert(%add.1)
  ROOT %tuple.1 = (f32[2,4]{1,0}, bf16[2,4]{1,0}) tuple(%convert.1, %add.1)
}

ENTRY %main.1 (x.1: bf16[8,4], y.1: bf16[2,4]) -> f32[2,4] {
  %x.1 = bf16[8,4]{1,0:T(8,128)(2,1)} parameter(0)
  %y.1 = bf16[2,4]{1,0} parameter(1)
  %fusion.1 = (f32[2,4]{1,0}, bf16[2,4]{1,0}) fusion(%x.1, %y.1), kind=kLoop, calls=%cut, \
metadata={op_name="jit(f)/jvp(A)/conv1/norm/mul" stack_frame_id=2}, \
backend_config={"estimated_cycles":"70"}
  %get-tuple-element.1 = f32[2,4]{1,0} get-tuple-element(%fusion.1), index=0
  ROOT %all-reduce.1 = f32[2,4]{1,0} all-reduce(%get-tuple-element.1), \
replica_groups=[2,2]<=[2,2]T(1,0), to_apply=%sum
}
"""


def test_kernels_and_the_bytes_they_move() -> None:
    """Of an operand that is sliced the slice, each result once, nothing for a name."""
    fusion, reduction = Program(TEXT).kernels()
    assert (fusion.read, fusion.written) == (2 * 8 * 2, 8 * 4 + 8 * 2)
    assert fusion.instruction.cycles == 70
    assert fusion.instruction.op_name == "jit(f)/jvp(A)/conv1/norm/mul"
    assert fusion.source == "model/operators.py:38", "the innermost line that is ours"
    assert (reduction.read, reduction.written) == (32, 32)


def test_types_and_shapes() -> None:
    found = arrays("(f32[2,3]{1,0:T(8,128)S(1)}, pred[4], u8[0]{0}, bf16[], s4[8])")
    assert found[:2] == [Array("f32", (2, 3)), Array("pred", (4,))]
    assert [array.size for array in found] == [24, 4, 0, 2, 8]


@pytest.mark.parametrize(
    ("groups", "axis"),
    [
        ("[2,2]<=[2,2]T(1,0)", "data"),
        ("[2,2]<=[4]", "tower"),
        ("{{0,2},{1,3}}", "data"),
        ("{{0,1},{2,3}}", "tower"),
        ("mesh['axis_0'=2,'axis_1'=2] {'axis_0'}", "data"),
        ("mesh['axis_0'=2,'axis_1'=2] {'axis_1'}", "tower"),
        ("mesh['a'=2,'b'=1,'c'=2] {'a','c'}", "all"),
        ("{{0,1,2,3}}", "all"),
    ],
)
def test_who_talks_with_whom(groups: str, axis: str) -> None:
    """In every way in which XLA writes it; on a mesh of 2 x 2."""
    (found,) = Program(TEXT.replace("[2,2]<=[2,2]T(1,0)", groups)).collectives()
    assert (found.kind, found.arrays) == ("all-reduce", (Array("f32", (2, 4)),))
    assert axis_of(found.groups, (2, 2)) == axis


def test_who_has_no_partner_says_nothing() -> None:
    text = TEXT.replace("[2,2]<=[2,2]T(1,0)", "{{0},{1},{2},{3}}")
    assert Program(text).collectives() == []


def test_a_reduce_scatter_of_a_tpu() -> None:
    entry = TEXT.index("ENTRY")
    text = TEXT[:entry] + TEXT[entry:].replace("ENTRY %main.1", "%all-reduce-scatter.3")
    assert [one.kind for one in Program(text).collectives()] == ["reduce-scatter"]


def test_a_program_of_this_machine() -> None:
    """Two devices add what each made of its half."""
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    shape = jax.ShapeDtypeStruct(
        (64, 32), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("data"))
    )
    program = Program(jax.jit(lambda x: (x * x).sum(0)).lower(shape).compile().as_text())
    (found,) = program.collectives()
    assert (found.kind, found.size, axis_of(found.groups, (2, 1))) == ("all-reduce", 128, "data")


def test_operations_of_products() -> None:
    """Each term of each sum is a multiplication and an addition, both ways."""

    def loss(kernel: jax.Array, weights: jax.Array, x: jax.Array) -> jax.Array:
        maps = lax.conv_general_dilated(
            x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.sum(maps.reshape(4, -1) @ weights)

    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((3, 3, 3, 5), (80, 7), (4, 8, 8, 3))]
    forward = 2 * (4 * 4 * 4 * 5) * 27 + 2 * (4 * 7) * 80
    lowered = jax.jit(loss).lower(*shapes)
    assert product_operations(lowered.as_text(dialect="hlo")) == forward
    lowered = jax.jit(jax.grad(loss, (0, 1))).lower(*shapes)
    by_kernel = 2 * (3 * 3 * 3 * 5) * (4 * 4 * 4)
    by_maps, by_weights = 2 * (4 * 80) * 7, 2 * (80 * 7) * 4
    expected = by_kernel + by_maps + by_weights  # the values themselves are not needed
    found = product_operations(lowered.as_text(dialect="hlo"))
    assert found == expected + 2 * (4 * 4 * 4 * 5) * 27, "but the maps are, for the weights"
