"""What every layer with a condition has in common."""

from torch import nn

from zoo.causal import Sequential
from zoo.layers.conditional_bias import ConditionalBias
from zoo.layers.map_bias import MapBias
from zoo.layers.vector_bias import VectorBias


def conditioned(
    convolution: nn.Conv2d,
    num_classes: int | None = None,
    vector_size: int | None = None,
    map_channels: int | None = None,
) -> nn.Module:
    """The convolution, followed by a bias for each condition there is: W * x + b + V_y y + V_h h + V_s * s.

    Example:
        >>> conditioned(nn.Conv2d(4, 4, 1))
        Conv2d(4, 4, kernel_size=(1, 1), stride=(1, 1))
        >>> conditioned(nn.Conv2d(4, 4, 1), num_classes=10)[1]
        ConditionalBias(num_classes=10, channels=4)
    """
    biases = {ConditionalBias: num_classes, VectorBias: vector_size, MapBias: map_channels}
    layers = [bias(size, convolution.out_channels) for bias, size in biases.items() if size is not None]
    return Sequential(convolution, *layers) if layers else convolution
