"""Models without memory for their weights, to read their structure from."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from warmstart.errors import ConfigError


def skeleton(build: Callable[[], nn.Module]) -> nn.Module:
    """Return the module that `build` returns, on the device ``meta``.

    torch's generator is left as it was. Many models cannot be built under ``torch.device("meta")``,
    since they compute widths with small tensors; so first only what layers allocate for their
    weights has no memory. The very few that fail both ways need real memory for a moment.
    """
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # About the initialization of weights, which are not kept.
        warnings.simplefilter("ignore")
        for context in (_EmptyOnMeta(), torch.device("meta")):
            with contextlib.suppress(RuntimeError), context:
                return build().to("meta")
        return build().to("meta")


class _EmptyOnMeta(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def check_size(
    name: str, model: nn.Module, *, size: int, native: int, channels: int = 3, train: bool = False
) -> None:
    """Raise ConfigError unless `model`, a skeleton, takes images of `size` x `size` pixels.

    Args:
        name: Of the model, for the message.
        model: A skeleton, built for that size.
        size: Height and width of the images.
        native: The size that the model was made for.
        channels: Of the images.
        train: Whether to ask in training mode, in which auxiliary heads run.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            model.train(train)(torch.empty(2, channels, size, size, device="meta"))
        except ConfigError:
            raise
        except Exception as error:  # the model's own code, which may fail in any way
            raise wrong_size(name, error, size=size, native=native) from error


def wrong_size(name: str, error: Exception, *, size: int, native: int) -> ConfigError:
    """Return the error for images that a model does not take, with the library's reason."""
    reason = " ".join(str(error).split()).rstrip(".!")[:200]
    return ConfigError(
        f"{name} does not take images of {size} pixels ({reason}); use another size, for example "
        f"the {native} that it was made for"
    )
