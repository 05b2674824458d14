"""Data plugins, one file each: a builder takes (split, data_dir) and gives an :class:`ImageSet`."""

from zoo.data._images import PROTOCOLS, ImageSet, levels_of, to_grid

__all__ = ["PROTOCOLS", "ImageSet", "levels_of", "to_grid"]
