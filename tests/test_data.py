import os
from pathlib import Path

import pytest
import torch

from zoo.data import PROTOCOLS, levels_of, to_grid
from zoo.data.mnist import FILES, mnist
from zoo.registry import DATA


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
def test_every_data_set_keeps_the_contract(name, split):
    data = DATA.get(name)(split, None)
    assert data.images.dtype == torch.uint8
    assert data.images.ndim == 4
    assert data.labels.shape == (len(data),)
    assert 0 <= data.labels.min() <= data.labels.max() < data.num_classes
    assert torch.equal(data.images, DATA.get(name)(split, None).images)


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
