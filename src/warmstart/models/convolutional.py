"""AlexNet and VGG with convolutions in place of their fully connected layers.

A fully connected layer on a map of k x k positions is a convolution with a k x k kernel; written
so, the net slides over an image larger than its native one and gives scores at every position.
Sermanet et al., OverFeat, ICLR 2014, section 3.5; Simonyan and Zisserman, Very Deep Convolutional
Networks, ICLR 2015, section 3.2 (the scores are averaged over the positions).
"""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models import VGG, AlexNet

from warmstart.errors import ConfigError


def fully_convolutional(model: nn.Module) -> nn.Module:
    """Return `model` with equal weights, but with convolutions in its classifier.

    The result takes over the modules and the memory of `model`, which is of no use afterwards.
    Module paths stay (``features.N``, ``classifier.N``); a weight of the classifier changes its
    shape from [out, channels * k * k] to [out, channels, k, k], its values in memory do not move.

    Args:
        model: An AlexNet or a VGG of torchvision, with any number of channels and classes.

    Raises:
        ConfigError: `model` is something else.
    """
    if not isinstance(model, AlexNet | VGG):
        raise ConfigError(
            f"model.fully_convolutional is true, but the model is a {type(model).__name__}; "
            "it works for AlexNet and VGG, leave it out for others"
        )
    return FullyConvolutional(model.features, model.classifier, model.avgpool.output_size[0])


class FullyConvolutional(nn.Module):
    """Features and a convolutional classifier, averaged over the positions of the image."""

    def __init__(self, features: nn.Module, classifier: nn.Module, positions: int) -> None:
        """Convert `classifier`, which was made for a map of `positions` x `positions`."""
        super().__init__()
        self.features = features
        self.classifier = classifier
        self.positions = positions
        kernel = positions
        for name, layer in classifier.named_children():
            if isinstance(layer, nn.Linear):
                setattr(classifier, name, _convolution(layer, kernel))
                kernel = 1  # from here on there is one position for each place of the window

    def score_map(self, x: Tensor) -> Tensor:
        """Map images [n, channels, h, w] to scores [n, classes, rows, columns].

        The score at (i, j) is what the ordinary net computes from the features
        [i : i + positions, j : j + positions]; neighbouring scores lie 32 pixels apart.

        Raises:
            ConfigError: The images are smaller than the window.
        """
        features = self.features(x)
        rows, columns = features.shape[-2:]
        if min(rows, columns) < self.positions:
            raise ConfigError(
                f"images of {x.shape[-2]} x {x.shape[-1]} pixels give {rows} x {columns} positions,"
                f" but the classifier needs {self.positions} x {self.positions}; take images of "
                "224 pixels or more"
            )
        scores: Tensor = self.classifier(features)
        return scores

    def forward(self, x: Tensor) -> Tensor:
        """Map images [n, channels, h, w] to logits [n, classes], the mean over the score map."""
        return self.score_map(x).mean(dim=(2, 3))


def _convolution(linear: nn.Linear, kernel: int) -> nn.Conv2d:
    """Return the k x k convolution that has the values and the memory of `linear`."""
    channels = linear.in_features // kernel**2
    # Made without memory: its own random weights would be drawn for nothing.
    layer = nn.Conv2d(channels, linear.out_features, kernel, device="meta")
    weight = linear.weight.detach().view(linear.out_features, channels, kernel, kernel)
    layer.weight = nn.Parameter(weight, requires_grad=linear.weight.requires_grad)
    layer.register_parameter("bias", linear.get_parameter("bias"))
    return layer.train(linear.training)
