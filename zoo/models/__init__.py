"""Model families, one file each, and what they are built on: a third party's model subclasses ``PixelModel``."""

from zoo.models._base import PixelModel

__all__ = ["PixelModel"]
