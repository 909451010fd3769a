"""Weights that do not fit a model: what has no counterpart, and the error that lists it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from warmstart.errors import ConfigError
from warmstart.models.layers import LayerGroup

# A counter that older files do not have, and that nothing reads.
COUNTER = "num_batches_tracked"
# Buffers that follow from the size of the input: each model computes its own.
COMPUTED_BUFFERS = (
    "relative_position_index",
    "relative_coords_table",
    "attn_mask",
    "attention_bias_idxs",
)
# What libraries call the classifier, for files whose model calls it otherwise than ours.
_CLASSIFIERS = ("classifier", "fc", "head", "heads", "head_dist", "last_linear", "linear", "logits")


@dataclasses.dataclass(frozen=True)
class Misfit:
    """A tensor without a counterpart: its shapes in the model and in the file, ``-`` if absent."""

    name: str
    model: str
    file: str

    @classmethod
    def of(cls, name: str, model: Tensor | None, file: Tensor | None) -> Misfit:
        """Describe the tensor of the model and the one of the file."""
        kinds = {t.is_floating_point() for t in (model, file) if t is not None}
        return cls(name, *(_shape(tensor, with_type=len(kinds) > 1) for tensor in (model, file)))

    @property
    def reason(self) -> str:
        """Why the model's tensor was not loaded."""
        absent = self.file == "-"
        return (
            "not in the file" if absent else f"{self.file} in the file, {self.model} in the model"
        )


def strays(
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    optional: Sequence[LayerGroup],
    auxiliary: Sequence[str],
) -> list[Misfit]:
    """Return the tensors in a file that the model should have a place for, but has not.

    Args:
        model: What they were meant for.
        state: The tensors in the file.
        optional: Groups whose tensors are not wanted: the head, and what is not taken over.
        auxiliary: Paths of the auxiliary heads, which the file's model may have in another form.
    """
    paths = {id(module): path for path, module in model.named_modules()}
    wanted_not = [paths[id(module)] for group in optional for module in group.modules]
    # A classifier of another name, or a second one.
    wanted_not += [name for name in _CLASSIFIERS if not hasattr(model, name)]
    prefixes = tuple(f"{path}." for path in (*wanted_not, *auxiliary))
    places = {*model.state_dict(), *dict(model.named_buffers(remove_duplicate=False))}
    return [
        Misfit.of(name, None, tensor)
        for name, tensor in state.items()
        if name not in places
        and not name.startswith(prefixes)
        and name.rpartition(".")[2] not in (COUNTER, *COMPUTED_BUFFERS)
        and not any(part.lower().startswith("aux") for part in name.split("."))
    ]


def refusal(
    misfits: Sequence[Misfit], *, wanted: Sequence[str], fitting: bool, origin: str
) -> ConfigError:
    """Return the error that lists every misfit with both shapes, where anything fits at all.

    Args:
        misfits: Of the model and of the file.
        wanted: Names of the model's tensors that were to be taken over.
        fitting: Something fits.
        origin: The name of the weights.
    """
    count = sum(not name.endswith(COUNTER) for name in wanted)
    homeless = sum(misfit.model == "-" for misfit in misfits)
    if not fitting:
        example = f", e.g. {misfits[0].name}" if misfits else ""
        return ConfigError(
            f"{origin} fits none of the {count} tensors to take over{example}: it is of another "
            "architecture; name the model that it was trained as, or other weights"
        )
    lines = [f"  {m.name}: {m.model} in the model, {m.file} in the file" for m in misfits]
    return ConfigError(
        f"{origin} does not fit the model: it lacks {len(misfits) - homeless} of the {count} "
        f"tensors to take over or has them in another shape, and holds {homeless} that the model "
        "has no place for; name the model that it was trained as, other weights, or "
        "init.allow_partial=true to take over what fits:\n" + "\n".join(lines)
    )


def _shape(tensor: Tensor | None, *, with_type: bool) -> str:
    if tensor is None:
        return "-"
    kind = f" {str(tensor.dtype).removeprefix('torch.')}" if with_type else ""
    return ("x".join(map(str, tensor.shape)) or "scalar") + kind
