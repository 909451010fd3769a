"""Images for a page: as they are stored, and as the network will see them."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from warmstart.randomness import derive

if TYPE_CHECKING:
    from torch import Tensor

    from warmstart.sight import Sight

# Below, an image is small enough for a lossless file.
_LOSSLESS_PIXELS = 64 * 64
_QUALITY = 85


@dataclass(frozen=True)
class Picture:
    """An image in a page.

    Attributes:
        source: A ``data:`` address with the image in it.
        label: What it shows.
        name: Of its file.
    """

    source: str
    label: str
    name: str = ""


def encode(pixels: np.ndarray) -> str:
    """Return uint8 pixels [height, width, channels] as a ``data:`` address.

    Small ones become PNG, others JPEG. Of images with neither one nor three channels the first
    three are shown as colours, or the first alone.
    """
    from PIL import Image

    channels = pixels.shape[2]
    shown = pixels[..., :3] if channels >= 3 else pixels[..., 0]
    image = Image.fromarray(np.ascontiguousarray(shown))
    small = pixels.shape[0] * pixels.shape[1] <= _LOSSLESS_PIXELS
    buffer = io.BytesIO()
    if small:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=_QUALITY)
    text = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{'png' if small else 'jpeg'};base64,{text}"


def stored(view: Sight, row: int) -> str:
    """Return image `row` of the data set as it is evaluated: at the run's size, not augmented."""
    return encode(view.images.train.pictures[np.array([row])][0])


def spread(view: Sight, most: int) -> list[int]:
    """Return indices of training images, at most `most`, of as many classes as possible."""
    labels = view.images.train.labels
    classes, first = np.unique(labels, return_index=True)
    if len(classes) >= most:
        return [int(first[place]) for place in np.linspace(0, len(classes) - 1, most).astype(int)]
    rest = np.setdiff1d(np.arange(len(labels)), first)[: most - len(classes)]
    return [int(index) for index in (*first, *rest)]


def passes(view: Sight, index: int, number: int) -> tuple[Picture, list[Picture]]:
    """Return a training image without augmentation, and what passes 0, 1, ... make of it.

    These are exactly what the network gets in these passes: numbers go with an image's row, so
    that a split of this image alone is augmented as in the whole.
    """
    from warmstart.data.batches import TrainBatches

    alone = view.images.train.take(np.array([index]))
    batches = TrainBatches(
        alone, batch_size=1, seed=view.batches.seed, augment=view.batches.augment
    )
    label, name = view.images.classes[alone.labels[0]], alone.ids[0]
    plain = _seen(view, _plain(alone.batch(np.array([0]))), None)[0]
    augmented = [_seen(view, *_without_labels(batches[k]))[0] for k in range(number)]
    return Picture(encode(plain), label, name), [Picture(encode(p), label, name) for p in augmented]


def batch(view: Sight, step: int, most: int) -> list[Picture]:
    """Return the beginning of the batch of a step, before images are mixed."""
    pixels, labels, uniforms = view.batches[step]
    seen = _seen(view, pixels[:most], uniforms[:most])
    names = [view.images.classes[label] for label in labels.tolist()]
    return [Picture(encode(image), name) for image, name in zip(seen, names, strict=False)]


def mixed(view: Sight, step: int, most: int) -> list[Picture]:
    """Return the beginning of the batch of a step, mixed, each image with the share of each label.

    Nothing where the augmentation does not mix.
    """
    import torch

    if view.augment.mix is None:
        return []
    pixels, labels, uniforms = view.batches[step]
    x = _normalized(view, pixels, uniforms)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(view.batches.seed, "step", step))  # as in task.training_step
        x, shares = view.augment.mix(x, labels, len(view.images.classes))
    return [
        Picture(encode(image), _shares(view, share))
        for image, share in zip(_pixels(view, x[:most]), shares, strict=False)
    ]


def _shares(view: Sight, share: Tensor) -> str:
    """Return the two labels of a mixed image, in percent that add up to 100."""
    values, indices = share.topk(2)
    names = [view.images.classes[index] for index in indices.tolist()]
    most = round(100 * values[0].item())
    return f"{most}% {names[0]} + {100 - most}% {names[1]}" if most < 100 else f"100% {names[0]}"


def _without_labels(batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return batch[0], batch[2]


def _plain(pixels: np.ndarray) -> Tensor:
    import torch

    return torch.from_numpy(pixels)


def _seen(view: Sight, pixels: Tensor, uniforms: Tensor | None) -> np.ndarray:
    """Return what goes into the network as pixels again: uint8 [b, h, w, channels]."""
    return _pixels(view, _normalized(view, pixels, uniforms))


def _normalized(view: Sight, pixels: Tensor, uniforms: Tensor | None) -> Tensor:
    import torch

    from warmstart.data.preprocess import Preprocess

    preprocess = Preprocess(view.input, augment=view.augment, channels_last=False)
    train = uniforms is not None
    with torch.no_grad():
        found: Tensor = preprocess(
            pixels, torch.empty(len(pixels), 0) if uniforms is None else uniforms, train=train
        )
    return found


def _pixels(view: Sight, x: Tensor) -> np.ndarray:
    import torch

    mean, std = (torch.tensor(v).reshape(1, -1, 1, 1) for v in (view.input.mean, view.input.std))
    values = ((x * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return values.permute(0, 2, 3, 1).numpy()
