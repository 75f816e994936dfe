"""Communication counted from compiled programs."""

import pytest

from arcface_jax.heads.traffic import collective_bytes
from arcface_jax.training.head_plan import HeadSize, compile_step


def test_bytes_are_counted_by_kind():
    program = """
      %a = f32[64,16]{1,0} all-gather(%x), dimensions={0}
      %b = (f32[8]{0}, s32[3,2]{1,0}) all-reduce(%y, %z), to_apply=%sum
      %c = bf16[10]{0} reduce-scatter(%y)
      %d = (f32[4]{0}, pred[]) all-gather-start(%w)
      %f = (s8[2], s8[2], s8[2], s8[2], s8[2], /*index=5*/s8[2]) all-reduce(%y)
      %e = f32[4]{0} get-tuple-element(%all-reduce), index=0
    """
    assert collective_bytes(program) == {
        "all-gather": 4096 + 17,
        "all-reduce": 32 + 24 + 6 * 2,
        "reduce-scatter": 20,
    }


@pytest.mark.parametrize("head", ["chunked", "fused", "partial"])
def test_a_step_sends_embeddings_and_sums_and_nothing_that_grows_with_the_classes(head):
    def sent(classes):
        size = HeadSize(head, classes, 24, 32, devices=8, chunk=64)
        return collective_bytes(compile_step(size).as_text())

    few = sent(1_009)
    assert few == sent(20_011)
    # Embeddings are gathered and their gradients summed; besides, at most a dozen numbers an
    # example.
    total, embeddings = sum(few.values()), 32 * 24 * 4
    assert embeddings <= few["all-gather"]
    assert total <= 2 * embeddings + 12 * 32 * 4
