"""Pictures that are cut into tiles: each row's own tiles, whichever way a processor lays them out."""

from __future__ import annotations

import pytest
import torch
from sentence_transformers.base.losses.gradcache import _create_minibatch

from saha_st.losses.mini_batches import take_rows

IMAGE = 7


def features(**media: torch.Tensor) -> dict[str, torch.Tensor]:
    """Four rows: no picture, one, none, two."""
    return {
        "attention_mask": torch.ones(4, 12, dtype=torch.long),
        "num_images_per_sample": torch.tensor([0, 1, 0, 2]),
        **media,
    }


def tiled(tiles: tuple[int, ...] = (0, 2, 0, 3)) -> dict[str, torch.Tensor]:
    """Three tokens to a tile, every tile an entry, as InternVL has them."""
    ids = torch.zeros(4, 12, dtype=torch.long)
    for row, count in enumerate(tiles):
        ids[row, : 3 * count] = IMAGE
    pixels = torch.arange(float(sum(tiles)))[:, None, None, None].expand(-1, 3, 2, 2)
    return features(input_ids=ids, pixel_values=pixels)


@pytest.mark.parametrize(
    ("rows", "tiles"), [([1], [0, 1]), ([0, 3], [2, 3, 4]), ([1, 2], [0, 1]), ([0, 1, 2, 3], [0, 1, 2, 3, 4])]
)
def test_a_row_takes_as_many_tiles_as_its_placeholders_stand_for(rows, tiles):
    taken = take_rows(tiled(), rows, image_token=IMAGE)
    assert taken["pixel_values"][:, 0, 0, 0].tolist() == tiles
    assert taken["num_images_per_sample"].sum() == len(tiles)
    # Sentence Transformers asks for all rows of what was taken, and must not take tiles for rows.
    again = _create_minibatch(taken, 0, len(rows))
    assert torch.equal(again["pixel_values"], taken["pixel_values"])


def test_rows_without_pictures_have_no_tiles():
    assert "pixel_values" not in take_rows(tiled(), [0, 2], image_token=IMAGE)


@pytest.mark.parametrize("image_token", [None, 5])
def test_tiles_that_no_placeholder_tells_of_are_refused(image_token):
    with pytest.raises(ValueError, match="nothing says which"):
        take_rows(tiled(), [1], image_token=image_token)


def test_placeholders_that_are_no_whole_tiles_are_refused():
    column = tiled()
    column["input_ids"][1, 0] = 0
    with pytest.raises(ValueError, match="nothing says which"):
        take_rows(column, [1], image_token=IMAGE)


def test_what_is_told_of_rows_with_pictures_alone_goes_with_them():
    column = features(  # LLaVA-OneVision
        input_ids=torch.zeros(4, 12, dtype=torch.long),
        pixel_values=torch.arange(3.0).reshape(3, 1, 1, 1, 1),
        image_sizes=torch.tensor([[1, 1], [2, 2], [3, 3]]),
        batch_num_images=torch.tensor([1, 2]),
    )
    for rows, pictures, counts in (([1], [0], [1]), ([3], [1, 2], [2]), ([0, 1, 3], [0, 1, 2], [1, 2])):
        taken = take_rows(column, rows)
        assert taken["pixel_values"].flatten().tolist() == pictures
        assert taken["image_sizes"][:, 0].tolist() == [picture + 1 for picture in pictures]
        assert taken["batch_num_images"].tolist() == counts
    assert not {"pixel_values", "image_sizes", "batch_num_images"} & set(take_rows(column, [0, 2]))


def test_places_for_pictures_that_no_row_fills_are_left_out():
    mask = torch.zeros(4, 5, 2, 2, dtype=torch.long)  # SmolVLM: (rows, places, height, width)
    mask[1, :2] = mask[3, :5] = 1
    column = features(
        input_ids=torch.zeros(4, 12, dtype=torch.long),
        pixel_values=torch.randn(4, 5, 3, 2, 2),
        pixel_attention_mask=mask,
    )
    for rows, places in (([1], 2), ([1, 2], 2), ([2, 3], 5)):
        taken = take_rows(column, rows)
        assert torch.equal(taken["pixel_values"], column["pixel_values"][rows][:, :places])
        assert torch.equal(taken["pixel_attention_mask"], mask[rows][:, :places])
    assert not {"pixel_values", "pixel_attention_mask"} & set(take_rows(column, [0, 2]))
