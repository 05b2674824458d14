"""Layer plugins, one file each; ``from zoo.layers import MaskedConv2d`` finds the file by the name."""

from typing import Any

from zoo.registry import LAYERS


def __getattr__(name: str) -> Any:
    builders = {key.replace("-", ""): key for key in LAYERS.names()}
    if name.lower() not in builders:
        raise AttributeError(f"zoo.layers has no {name!r}; it has {', '.join(LAYERS.names())}")
    return LAYERS.get(builders[name.lower()])
