import pytest
import torch
from PIL import Image

from zoo.pictures import grid, save_animation, save_grid


def test_a_grid_shows_every_image_in_its_place():
    images = torch.zeros(5, 1, 4, 4)
    images[4] = 1
    picture = grid(images, columns=3, scale=1)
    assert picture.size == (2 + 3 * 6, 2 + 2 * 6)
    assert picture.getpixel((2, 2)) == (0, 0, 0)
    assert picture.getpixel((2 + 6, 2 + 6)) == (255, 255, 255)
    assert picture.getpixel((2 + 12, 2 + 6)) == picture.getpixel((0, 0))


def test_colour_is_kept():
    images = torch.zeros(1, 3, 4, 4)
    images[:, 0] = 1
    assert grid(images, scale=1).getpixel((3, 3)) == (255, 0, 0)


def test_rows_of_one_class_are_labelled():
    images = torch.zeros(20, 1, 8, 8)
    plain, labelled = grid(images), grid(images, labels=[3] * 10 + [8] * 10)
    assert labelled.width > plain.width
    assert labelled.convert("L").crop((0, 0, 20, 20)).getextrema()[0] < 128
    mixed = grid(images, labels=[3, 8] * 10)
    assert mixed.convert("L").crop((0, 0, 20, 20)).getextrema() == (255, 255)


def test_a_label_of_letters_has_the_room_it_needs():
    images = torch.zeros(10, 1, 8, 8)
    widths = [grid(images, labels=[name] * 10).width for name in (3, "elephants", "e" * 24, "e" * 1000)]
    assert widths[0] < widths[1] < widths[2] == widths[3]
    room = grid(images, labels=["elephants"] * 10).convert("L")
    dark = [x for x in range(room.width - grid(images).width) if room.crop((x, 0, x + 1, 20)).getextrema()[0] < 200]
    assert dark[0] >= 2
    assert dark[-1] - dark[0] > 50


def test_an_animation_ends_with_the_images(tmp_path):
    images = (torch.rand(4, 1, 8, 8) > 0.5).float()
    save_animation(images, tmp_path / "x.gif", frames=8)
    save_grid(images, tmp_path / "x.png")
    with Image.open(tmp_path / "x.gif") as animation, Image.open(tmp_path / "x.png") as still:
        assert animation.n_frames == 9
        animation.seek(8)
        assert animation.convert("RGB").tobytes() == still.convert("RGB").tobytes()


def test_no_images_make_no_picture(tmp_path):
    with pytest.raises(ValueError, match="no images to show"):
        save_grid(torch.zeros(0, 1, 8, 8), tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []
