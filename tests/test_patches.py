import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from semimae.patches import gather_patches, patchify, scatter_patches, unpatchify

sizes = st.tuples(
    st.integers(1, 3),  # images
    st.sampled_from([1, 3]),  # channels
    st.integers(1, 4),  # patches per side
    st.integers(1, 4),  # pixels per side of a patch
)


def numbered(*shape: int) -> torch.Tensor:
    """Every element is different, so that no two places can be mixed up unnoticed."""
    return torch.arange(int(np.prod(shape)), dtype=torch.float32).reshape(shape)


@given(sizes)
def test_patchify_equals_a_plain_loop(size: tuple[int, int, int, int]) -> None:
    b, c, side, p = size
    images = numbered(b, c, side * p, side * p)
    patches = patchify(images, p)
    assert patches.shape == (b, side * side, p * p * c)
    for n in range(b):
        for row in range(side):
            for column in range(side):
                expected = [
                    images[n, channel, row * p + y, column * p + x].item()
                    for y in range(p)
                    for x in range(p)
                    for channel in range(c)
                ]
                assert patches[n, row * side + column].tolist() == expected


@given(sizes)
def test_unpatchify_inverts_patchify(size: tuple[int, int, int, int]) -> None:
    b, c, side, p = size
    images = numbered(b, c, side * p, side * p)
    assert torch.equal(unpatchify(patchify(images, p), p, c), images)


def test_patchify_of_an_image_that_is_not_square() -> None:
    patches = patchify(numbered(1, 1, 2, 6), 2)
    assert patches.tolist() == [[[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]]


def test_gather_picks_the_patches_of_each_image() -> None:
    patches = numbered(2, 4, 3)
    ids = torch.tensor([[3, 0], [1, 1]])
    picked = gather_patches(patches, ids)
    expected = np.stack([patches[n].numpy()[ids[n].numpy()] for n in range(2)])
    np.testing.assert_array_equal(picked.numpy(), expected)


def test_gather_from_one_table_for_all_images() -> None:
    table = numbered(1, 4, 3)
    ids = torch.tensor([[3, 0], [1, 2], [2, 2]])
    np.testing.assert_array_equal(gather_patches(table, ids).numpy(), table[0].numpy()[ids.numpy()])


@given(st.integers(1, 3), st.integers(1, 9), st.randoms(use_true_random=False))
def test_scatter_inverts_gather(b: int, length: int, random: object) -> None:
    patches = numbered(b, length, 2)
    rows = [random.sample(range(length), length) for _ in range(b)]  # type: ignore[attr-defined]
    ids = torch.tensor(rows)
    assert torch.equal(scatter_patches(gather_patches(patches, ids), ids), patches)


def test_gradient_reaches_only_the_patches_that_were_picked() -> None:
    patches = numbered(1, 4, 2).requires_grad_()
    gather_patches(patches, torch.tensor([[2, 0]])).sum().backward()
    assert patches.grad is not None
    assert patches.grad[0, :, 0].tolist() == pytest.approx([1, 0, 1, 0])
