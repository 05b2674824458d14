"""A zoo of pixel-level autoregressive image models.

    import zoo
    model = zoo.load("cond-pixelcnn-mnist")
    x = model.sample(10, labels=range(10), seed=0)  # (10, 1, 28, 28)
    logp = model.log_prob(x, labels=range(10))      # (10,) nats

Everything is imported when it is first used; ``import zoo`` itself loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.catalog import create, list_models, load
    from zoo.hub import pull, push

__all__ = ["__version__", "create", "list_models", "load", "pull", "push"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    home = {"create": "catalog", "list_models": "catalog", "load": "catalog", "pull": "hub", "push": "hub"}.get(name)
    if home is not None:
        return getattr(import_module(f"zoo.{home}"), name)
    try:
        return import_module(f"zoo.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"zoo.{name}":
            raise
        raise AttributeError(f"module 'zoo' has no attribute {name!r}") from None
