import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.data import PROTOCOLS, levels_of, to_grid
from zoo.data.coarse import coarse
from zoo.data.folder import folder
from zoo.data.mnist import FILES, mnist
from zoo.data.moments import measured, moments
from zoo.errors import FailedError
from zoo.registry import DATA


def write_idx(raw, images):
    """A small data set in MNIST's own format: big-endian dimensions, then bytes."""
    raw.mkdir(parents=True, exist_ok=True)
    for prefix, count in (("train", images), ("t10k", images // 2)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for kind, magic, array in (("images-idx3", 0x803, pixels), ("labels-idx1", 0x801, labels)):
            content = struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.tobytes()
            (raw / f"{prefix}-{kind}-ubyte").write_bytes(content)
    return raw


@pytest.fixture(scope="module")
def needed(tmp_path_factory):
    """What data sets need that are not in the package: files, and arguments."""
    root = tmp_path_factory.mktemp("needed")
    for kind in ("FashionMNIST", "KMNIST"):
        write_idx(root / kind / "raw", 24)
    (root / "MNIST").symlink_to(Path(os.environ["ZOO_CACHE"], "data", "MNIST"))
    for number in range(20):
        place = root / "photos" / f"{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30 + number, 40), (10 * number, 0, 200)).save(place / f"{number}.png")
    return {"data_dir": root, "folder": {"path": "photos", "size": 8}}


@pytest.mark.parametrize(("split", "size"), [("train", 55_000), ("validation", 5_000), ("test", 10_000)])
def test_mnist_is_the_real_one(split, size):
    data = mnist(split)
    assert data.images.shape == (size, 1, 28, 28)
    assert data.images.dtype == torch.uint8
    assert data.labels.unique().tolist() == list(range(10))


def test_the_splits_are_fixed():
    assert mnist("train").labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert mnist("test").labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    # The last of the 60,000 training images is an eight, and validation's.
    assert mnist("validation").labels[-5:].tolist() == [8, 3, 5, 6, 8]


def test_a_damaged_cache_is_mended():
    mnist("test")
    path = Path(os.environ["ZOO_CACHE"], "data", "MNIST", "raw", next(iter(FILES)))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert len(mnist("train")) == 55_000
    assert path.read_bytes() == whole


def test_a_folder_without_mnist_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no MNIST in .*missing.*train-images"):
        mnist("test", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_folder_is_used(tmp_path):
    mnist("test")
    (tmp_path / "MNIST").symlink_to(Path(os.environ["ZOO_CACHE"], "data", "MNIST"))
    assert len(mnist("test", tmp_path)) == 10_000


@pytest.mark.parametrize("name", DATA.names())
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_every_data_set_keeps_the_contract(name, split, needed):
    mnist("test")
    spec = {"name": name, **needed.get(name, {})}
    data = DATA.build(spec, split, needed["data_dir"])
    assert data.images.dtype == torch.uint8
    assert data.images.ndim == 4
    assert data.labels.shape == (len(data),)
    assert 0 <= data.labels.min() <= data.labels.max() < data.num_classes
    assert len(data.classes) in (0, data.num_classes)
    for part in (data.vectors, data.maps):
        assert part is None or (len(part) == len(data) and part.dtype == torch.float32 and part.isfinite().all())
    again = DATA.build(spec, split, needed["data_dir"])
    for name in ("images", "vectors", "maps"):
        if getattr(data, name) is not None:
            assert torch.equal(getattr(data, name), getattr(again, name))


@pytest.mark.parametrize(("name", "kind"), [("fashion-mnist", "FashionMNIST"), ("kmnist", "KMNIST")])
def test_what_torchvision_reads(name, kind, tmp_path, monkeypatch):
    write_idx(tmp_path / "data" / kind / "raw", 120)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    parts = {split: DATA.get(name)(split) for split in ("train", "validation", "test")}
    assert [len(part) for part in parts.values()] == [110, 10, 60]
    everything = np.random.default_rng(120).integers(0, 256, (120, 28, 28), dtype=np.uint8)
    together = torch.cat([parts["train"].images, parts["validation"].images])
    assert np.array_equal(together[:, 0].numpy(), everything)
    assert parts["validation"].labels.tolist() == list(range(10))
    with pytest.raises(ValueError, match=rf"no {kind} in .*missing.*train-images"):
        DATA.get(name)("train", tmp_path / "elsewhere")


def test_a_data_set_that_cannot_be_fetched_or_read_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    monkeypatch.setattr("torchvision.datasets.KMNIST.mirrors", ["http://127.0.0.1:9/"], raising=False)
    monkeypatch.setattr(
        "torchvision.datasets.KMNIST.resources", [("http://127.0.0.1:9/train-images-idx3-ubyte.gz", "0" * 32)]
    )
    with pytest.raises(FailedError, match=r"KMNIST could not be fetched to .*--data-dir"):
        DATA.get("kmnist")("train")
    raw = write_idx(tmp_path / "data" / "KMNIST" / "raw", 12)
    (raw / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + b"\0" * 7)
    with pytest.raises(FailedError, match=r"KMNIST in .* cannot be read"):
        DATA.get("kmnist")("train")


def picture(path, width, height, mode="RGB", **settings):
    values = np.random.default_rng(width * height).integers(0, 256, (height, width, 4), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values, "RGBA").convert(mode).save(path, **settings)


def test_a_folder_of_any_images(tmp_path):
    for number, (mode, suffix) in enumerate(
        [("RGB", "png"), ("RGBA", "png"), ("L", "jpg"), ("P", "gif"), ("1", "png"), ("CMYK", "jpeg"), ("LA", "webp")]
        * 3
    ):
        mode = "RGBA" if suffix == "webp" else mode
        picture(tmp_path / f"{number}.{suffix}", 20 + 7 * number, 90 - 3 * number, mode)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_bytes(b"no image")
    parts = {split: folder(split, path=str(tmp_path), size=16) for split in ("train", "validation", "test")}
    assert [len(part) for part in parts.values()] == [17, 2, 2]
    images = torch.cat([part.images for part in parts.values()])
    assert images.shape == (21, 3, 16, 16)
    assert len(images.flatten(1).unique(dim=0)) == 21
    assert all(part.labels is None and part.num_classes is None for part in parts.values())
    assert folder("train", path=str(tmp_path), mode="grey").images.shape == (17, 1, 32, 32)


def test_what_becomes_of_a_pixel(tmp_path):
    # Left red, right blue, twice as wide as high: the middle is kept.
    Image.fromarray(np.array([[[255, 0, 0]] * 20 + [[0, 0, 255]] * 20] * 20, np.uint8)).save(tmp_path / "wide.png")
    Image.new("RGBA", (10, 10), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.fromarray(np.full((10, 10), 0x80FF, np.uint16)).save(tmp_path / "deep.png")
    turned = Image.fromarray(np.array([[[255, 255, 255]] * 10] * 5 + [[[0, 0, 0]] * 10] * 5, np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    turned.save(tmp_path / "turned.png", exif=exif)
    parts = [folder(split, path=str(tmp_path), size=10) for split in ("train", "validation", "test")]
    images = {tuple(image[:, 0, 0].tolist()): image for image in torch.cat([part.images for part in parts])}
    assert (images[255, 0, 0][0, :, :4] > 250).all()
    assert (images[255, 0, 0][2, :, 6:] > 250).all()
    assert (images[255, 255, 255] == 255).all()
    assert (images[128, 128, 128] == 128).all()
    assert (images[0, 0, 0][:, 6:] == 255).all()


def test_sub_folders_are_classes(tmp_path):
    for number in range(30):
        picture(tmp_path / ["cat", "dog", "emu"][number % 3] / "deep" / f"{number}.png", 9 + number, 12)
    parts = [folder(split, tmp_path.parent, path=tmp_path.name, size=8) for split in ("train", "validation", "test")]
    assert {(part.num_classes, part.classes) for part in parts} == {(3, ("cat", "dog", "emu"))}
    assert torch.cat([part.labels for part in parts]).bincount().tolist() == [10, 10, 10]
    # A file beside the sub-folders has no class; so nothing has.
    picture(tmp_path / "stray.png", 9, 9)
    with pytest.warns(UserWarning, match="stray.png lies beside the sub-folders, so no image has a class"):
        assert folder("train", path=str(tmp_path)).num_classes is None


def test_linked_folders_are_followed_once(tmp_path):
    for number in range(20):
        picture(tmp_path / "b" / f"{number}.png", 9 + number, 12)
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b" / "round").symlink_to("..")
    data = folder("train", path=str(tmp_path), size=8)
    assert (len(data), data.classes) == (16, ("a",))


def test_a_transparent_level_of_sixteen_bits_is_white(tmp_path):
    values = np.full((10, 10), 0x40FF, np.uint16)
    values[:, 5:] = 0x4100
    for number in range(3):
        Image.fromarray(values).save(tmp_path / f"{number}.png", transparency=0x40FF)
    image = folder("train", path=str(tmp_path), size=10, mode="grey").images[0, 0]
    assert set(image[:, :5].flatten().tolist()) == {255}
    assert set(image[:, 5:].flatten().tolist()) == {0x41}


def test_few_files_move_when_one_comes(tmp_path):
    for number in range(100):
        picture(tmp_path / f"{number}.png", 10, 10 + number)
    before = folder("train", path=str(tmp_path), size=4).images
    other = folder("train", path=str(tmp_path), size=4, seed=1).images
    picture(tmp_path / "new.png", 10, 200)
    after = folder("train", path=str(tmp_path), size=4).images

    def common(a, b):
        return len({bytes(x.numpy()) for x in a} & {bytes(x.numpy()) for x in b})

    assert common(before, after) >= 78
    assert common(before, other) < 75


def test_broken_files_are_named_and_left_out(tmp_path):
    for number in range(10):
        picture(tmp_path / f"{number}.png", 12, 10 + number)
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("not a picture")
    whole = (tmp_path / "9.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning) as told:
        train = folder("train", path=str(tmp_path), size=8)
    assert len(train) == 8
    messages = " ".join(str(warning.message) for warning in told)
    for name in ("empty.png", "text.jpg", "cut.png"):
        assert f"{name} cannot be read and is left out" in messages


@pytest.mark.filterwarnings("ignore:.*cannot be read")
def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"there is no folder .*data.path in a recipe"):
        folder("train", path=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"there is no folder"):
        folder("train", path="~nobody-of-this-name/photos")
    with pytest.raises(ValueError, match=r"holds no images; known are files that end in .png"):
        folder("train", path=str(tmp_path))
    (tmp_path / "broken.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"no readable image left for train: of 1 files"):
        folder("train", path=str(tmp_path))


def test_a_coarse_map_is_the_mean_of_its_square():
    data, plain = coarse("test", of="synthetic", factor=4), DATA.get("synthetic")("test")
    assert torch.equal(data.images, plain.images)
    means = plain.images[3, 0, 4:, :4].float().mean() / 127.5 - 1
    torch.testing.assert_close(data.maps[3, 0, 4:, :4], means.expand(4, 4))
    with pytest.raises(ValueError, match="factor is 3; it must divide"):
        coarse("test", of="synthetic", factor=3)


def test_moments_are_what_they_say():
    rows, columns = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    upright = ((columns - 14).abs() < 1.5) & ((rows - 14).abs() < 10)
    leaning = ((columns - 14 + 0.5 * (rows - 14)).abs() < 1.5) & ((rows - 14).abs() < 10)
    ink, width, height, slant = measured(torch.stack([upright, leaning]).float()[:, None]).T
    assert ink[0] == pytest.approx(10 * upright.float().mean().item() - 1, rel=1e-5)
    assert width[1] > width[0]
    assert height[0] == pytest.approx(height[1].item(), abs=0.05)
    assert slant[0].item() == pytest.approx(0, abs=1e-3)
    assert slant[1].item() == pytest.approx(0.5, abs=0.05)
    assert measured(torch.zeros(1, 1, 28, 28)).isfinite().all()
    vectors = moments("train").vectors
    assert vectors.shape == (55_000, 4)
    assert (vectors.mean(0).abs() < 1).all()
    assert (vectors.std(0) < 1).all()
    assert (vectors.std(0) > 0.1).all()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_protocols_stay_on_their_grid(protocol):
    images = torch.arange(256, dtype=torch.uint8).expand(50, 256)
    x = to_grid(images, protocol, torch.Generator().manual_seed(0))
    steps = x.double() * (levels_of(protocol) - 1)
    assert torch.allclose(steps, steps.round(), atol=1e-4)
    assert x.min() == 0
    assert x.max() == 1


def test_dynamic_draws_with_the_grey_levels_probability():
    images = torch.tensor([0, 64, 255], dtype=torch.uint8).expand(20_000, 3)
    mean = to_grid(images, "dynamic", torch.Generator().manual_seed(0)).mean(0)
    assert mean[0] == 0
    assert mean[2] == 1
    assert mean[1].item() == pytest.approx(64 / 255, abs=0.015)
    with pytest.raises(ValueError, match="protocol is 'grey'"):
        to_grid(images, "grey")
