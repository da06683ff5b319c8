"""Laws of what is read off a compiled program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tools import roofline
from tools.roofline import CHIPS, Traffic

# Shapes of 1024 floats are 4096 bytes. %loop runs its body five times; %fused is one instruction, whatever is in it.
PROGRAM = """HloModule example, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%fused (p: f32[1024]) -> f32[1024] {
  %p = f32[1024]{0} parameter(0)
  %inner = f32[1024]{0} negate(%p)
  ROOT %outer = f32[1024]{0} exponential(%inner)
}

%work (t: (s32[], f32[1024])) -> (s32[], f32[1024]) {
  %t = (s32[], f32[1024]{0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %v = f32[1024]{0} get-tuple-element(%t), index=1
  %w = f32[1024]{0} negate(%v)
  ROOT %next = (s32[], f32[1024]{0}) tuple(%i, %w)
}

%more (t.1: (s32[], f32[1024])) -> pred[] {
  %t.1 = (s32[], f32[1024]{0}) parameter(0)
  ROOT %yes = pred[] constant(true)
}

ENTRY %main (a: f32[1024], b: bf16[8,128]) -> f32[1024] {
  %a = f32[1024]{0:T(1024)} parameter(0)
  %b = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(1)
  %near = f32[1024]{0:T(1024)S(1)} negate(%a)
  %f = f32[1024]{0:T(1024)} fusion(%near), kind=kLoop, calls=%fused
  %start = (s32[], f32[1024]{0}) tuple(%f, %f)
  %loop = (s32[], f32[1024]{0}) while(%start), condition=%more, body=%work, backend_config={"known_trip_count":{"n":"5"}}
COLLECTIVES  ROOT %out = f32[1024]{0} get-tuple-element(%loop), index=1
}
"""


def program(*collectives: str) -> str:
    return PROGRAM.replace("COLLECTIVES", "".join(f"  {line}\n" for line in collectives))


def test_memory_is_counted_where_it_is_read_and_written():
    # negate reads %a, the fusion writes %f, and the loop reads and writes 4096 bytes five times; %near stays on the chip.
    assert roofline.traffic(program()) == Traffic(4096 + 4096 + 5 * 2 * 4096, {})


@pytest.mark.parametrize("groups", ["{{0,1,2,3}}", "[2,4]<=[8]", "mesh['data'=2,'fsdp'=4] {'fsdp'}"])
@pytest.mark.parametrize(
    ("line", "kind", "sent"),
    [
        # A ring of four: each chip passes on three quarters, twice for an all-reduce.
        ("%c = bf16[8,128] all-reduce(%b), replica_groups=GROUPS, to_apply=%add", "all-reduce", 2 * 2048 * 3 / 4),
        ("%c = bf16[32,128] all-gather(%b), replica_groups=GROUPS, dimensions={0}", "all-gather", 3 * 2048),
        ("%c = bf16[2,128] reduce-scatter(%b), replica_groups=GROUPS, to_apply=%add", "reduce-scatter", 2048 * 3 / 4),
        ("%c = bf16[8,128] all-to-all(%b), replica_groups=GROUPS", "all-to-all", 2048 * 3 / 4),
    ],
)
def test_collectives(line, kind, sent, groups):
    found = roofline.traffic(program(line.replace("GROUPS", groups)))
    assert found.collectives == {kind: (1, sent)} and found.sent_bytes == sent


def test_a_permute_sends_all_of_it():
    line = "%c = bf16[8,128] collective-permute(%b), source_target_pairs={{0,1},{1,0}}"
    assert roofline.traffic(program(line)).collectives == {"collective-permute": (1, 2048)}


def test_an_asynchronous_collective_counts_once():
    start = "%c = (bf16[8,128], bf16[32,128]) all-gather-start(%b), replica_groups={{0,1,2,3}}, dimensions={0}"
    done = "%d = bf16[32,128] all-gather-done(%c)"
    assert roofline.traffic(program(start, done)).collectives == {"all-gather": (1, 3 * 2048)}


def test_a_compiled_product_reads_its_factors_and_writes_its_result():
    factors = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((64, 128), (128, 32))]
    compiled = jax.jit(jnp.dot).lower(*factors).compile()
    assert roofline.traffic(compiled.as_text()).memory_bytes == 4 * (64 * 128 + 128 * 32 + 64 * 32)


def test_a_compiled_loop_counts_as_often_as_it_runs():
    def repeated(count):
        def product(x, _):
            return x @ x, None

        compiled = jax.jit(lambda x: jax.lax.scan(product, x, None, count)[0]).lower(jnp.zeros((64, 64))).compile()
        return roofline.traffic(compiled.as_text()).memory_bytes

    # A product of a matrix with itself reads and writes it at least.
    assert repeated(9) - repeated(6) == repeated(6) - repeated(3) >= 3 * 2 * 4 * 64 * 64


def test_what_is_no_program():
    with pytest.raises(ValueError, match="no entry computation"):
        roofline.traffic("nothing")


def test_bound():
    chip, shape = CHIPS["v5e"], (4, 4)
    found = roofline.bound(chip, shape, 197e12, Traffic(819e9 / 2, {"all-reduce": (1, 25e9)}))
    # Axes of four chips of a v5e have ends, so a link along each of two.
    assert np.allclose([found.compute, found.memory, found.collectives], [1.0, 0.5, 0.25])
    assert found.seconds == 1.0 and found.collective_share == pytest.approx(0.2)


def test_whole_axes_are_rings():
    chip = CHIPS["v5e"]
    assert chip.interconnect((16, 16)) == 2 * chip.interconnect((8, 8)) == 4 * chip.interconnect((8, 1))
    assert CHIPS["v5p"].interconnect((4, 4, 4)) == 2 * CHIPS["v5p"].interconnect((2, 2, 2))
    assert roofline.bound(chip, (1, 1), 1.0, Traffic(1.0, {})).collectives == 0
