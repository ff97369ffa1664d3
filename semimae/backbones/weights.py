"""Fill a model with pretrained weights: from timm, their authors, other libraries, or our own."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from semimae.backbones.weight_files import check_sound, read_source
from semimae.backbones.weight_names import (
    LAYOUTS,
    Layout,
    Part,
    averages_first,
    branch_of,
    encoder_of,
    fit_names,
    parts_of,
    stays_behind,
)
from semimae.backbones.weight_report import ENCODER, WeightReport, incomplete, sizes
from semimae.backbones.weight_sizes import first_convolution, fit_sizes, resize_positions
from semimae.types import UserError

State = dict[str, Tensor]


def load_weights(
    model: nn.Module,
    spec: str,
    *,
    prefix: str | None = None,
    timm_model: str | None = None,
    root: Path = Path(),
) -> WeightReport:
    """Fill a model from weights of the same architecture: its whole backbone, or nothing.

    Tensors are renamed, and resized where grid, patch, window or channels differ. The classifier is
    left out if the number of classes differs, the MIM branch if any of its tensors does not fit.

    Args:
        model: A ``SemiModel``; changed in place.
        spec: ``timm:TAG``, ``hf:ORG/NAME`` or a file.
        prefix: Which of several models in a file is meant, such as ``teacher``.
        timm_model: The timm model that a tag belongs to.
        root: The folder that a relative path starts from.

    Raises:
        UserError: If the weights cannot be read, lack a tensor of the backbone, or have one that
            the model lacks.
    """
    source = read_source(spec, timm_model, root)
    backbone: Any = model.backbone
    wanted: State = model.state_dict()
    head = _prefix_of(backbone.classifier, model)
    needed = {n for n in wanted if n.startswith("backbone.") and not n.startswith(head)}
    needed = {n for n in needed if not n.endswith("num_batches_tracked")}  # old files lack it
    parts = _parts(source.tables, backbone, prefix, spec)
    found, branch = _contents(parts[0], source.tables[parts[0].table], backbone, spec)
    notes = _final_norm(found, backbone.vit.state_dict())
    given, fitted = _fit_sizes(found, backbone, spec)
    given, fitted = given | branch, fitted | _branch_sizes(branch, wanted, backbone.num_patches)
    extra = {name.removeprefix(ENCODER) for name in fitted.keys() - wanted.keys()}
    extra = {name for name in extra if not name.startswith("mim.") and not stays_behind(name)}
    if extra or needed - fitted.keys():
        raise incomplete(spec, extra, needed - fitted.keys(), len(needed))
    fresh = {name for name in wanted if name.startswith((head, "mim."))}
    loaded = _fitting(given, fitted, wanted, fresh, spec)
    originals = {id(tensor) for tensor in given.values()}
    model.load_state_dict(loaded, strict=False)
    return WeightReport(
        source=spec,
        num_loaded=len(loaded),
        num_backbone=len(needed),
        num_values=sum(loaded[name].numel() for name in needed),
        layout=parts[0].layout.owner,
        part=parts[0].label,
        other_parts=tuple(part.label for part in parts[1:]),
        sha256=source.sha256,
        license=source.license,
        notes=notes,
        missing=tuple(sorted(wanted.keys() - fitted.keys())),
        unexpected=tuple(sorted(fitted.keys() - wanted.keys())),
        dropped=tuple(sorted((fitted.keys() & wanted.keys()) - loaded.keys())),
        resized=tuple(
            f"{name} ({sizes(given[name])} to {sizes(tensor)})"
            for name, tensor in loaded.items()
            if name in given and id(tensor) not in originals and given[name].shape != tensor.shape
        ),
    )


def _parts(
    tables: Mapping[str, State], backbone: Any, prefix: str | None, spec: str
) -> Sequence[Part]:
    """Return the parts of a file that hold most of the backbone; the first one is to be used."""
    parts = parts_of(tables, _layouts(backbone))
    if not parts:
        names = [name for table in tables.values() for name in table]
        wanted = {name for name in backbone.vit.state_dict() if not stays_behind(name)}
        raise incomplete(spec, names, wanted, len(wanted))
    own = backbone.vit.state_dict().keys()
    counts = {p: len(fit_names(encoder_of(p, tables[p.table]), own).keys() & own) for p in parts}
    parts = sorted((p for p in parts if counts[p] == max(counts.values())), key=averages_first)
    if prefix is None:
        return parts
    chosen = [part for part in parts if f"{part.label}.".startswith(f"{prefix.rstrip('.')}.")]
    if not chosen:
        labels = ", ".join(part.label for part in parts if part.label) or "none under a prefix"
        raise UserError(
            f"backbone.weights_prefix={prefix}: backbone.weights={spec} has no model there; it "
            f"has: {labels[:500]}. Choose one of them, or null."
        )
    return chosen + [part for part in parts if part not in chosen]


def _contents(part: Part, table: State, backbone: Any, spec: str) -> tuple[State, State]:
    """Return a part's encoder under timm's names and its MIM branch under ours, after checks."""
    found = fit_names(encoder_of(part, table), backbone.vit.state_dict())
    branch = branch_of(part, table)
    check_sound(found | branch, spec)
    return _at_least_single(found), _at_least_single(branch)


def _fit_sizes(found: State, backbone: Any, spec: str) -> tuple[State, State]:
    """Return an encoder's weights as they are and as they fit, both under our names."""
    # timm's filter would misread the mask token.
    mask = {name: found[name] for name in ("mask_token",) if name in found}
    try:
        with warnings.catch_warnings(action="ignore"):  # timm's own code emits some
            fitted = fit_sizes({n: t for n, t in found.items() if n not in mask}, backbone) | mask
    except Exception:  # timm's filter fails on other architectures, which `load_weights` refuses
        fitted = found
    return tuple({f"{ENCODER}{n}": t for n, t in state.items()} for state in (found, fitted))  # type: ignore[return-value]


def _fitting(given: State, fitted: State, wanted: State, fresh: set[str], spec: str) -> State:
    """Return the weights to load: all of the model's, except those that may stay as initialized."""
    loaded: State = {}
    for name in sorted(fitted.keys() & wanted.keys()):
        theirs, ours = fitted[name], wanted[name]
        if theirs.is_floating_point() != ours.is_floating_point():
            raise UserError(
                f"backbone.weights={spec}: {name} holds {theirs.dtype} there and {ours.dtype} in "
                "the model; give weights of the same kind of numbers."
            )
        if theirs.shape == ours.shape:
            loaded[name] = theirs
        elif name not in fresh:
            raise UserError(
                f"backbone.weights={spec}: {name} is {sizes(given.get(name, theirs))} there and "
                f"{sizes(ours)} in the model; set section backbone to the sizes of the weights."
            )
    branch = {name for name in {*fitted, *wanted} if name.startswith("mim.")}
    if branch <= loaded.keys():
        return loaded
    return {n: t for n, t in loaded.items() if n not in branch}  # a part of a branch is useless


def _layouts(backbone: Any) -> Iterable[Layout]:
    """Return how a backbone's weights may be named."""
    return LAYOUTS if backbone.has_patches else [Layout("timm", first_convolution(backbone.vit))]


def _at_least_single(state: State) -> State:
    """Return weights in at least single precision, because half precision loses digits in sums."""
    narrow = {n: t for n, t in state.items() if t.is_floating_point() and t.itemsize < 4}
    return state | {name: tensor.float() for name, tensor in narrow.items()}


def _final_norm(found: State, own: Iterable[str]) -> tuple[str, ...]:
    """Take the final norm from the other side of the pooling, where it stands there; say so."""
    behind = "fc_norm.weight" in own
    here, there = ("fc_norm.", "norm.") if behind else ("norm.", "fc_norm.")
    names = [name for name in found if name.startswith(there) and name not in own]
    if not names or f"{here}weight" in found:
        return ()
    found |= {f"{here}{name.removeprefix(there)}": found.pop(name) for name in names}
    if behind:
        return ("its norm in front of the pooling stands behind it here, so that features differ",)
    return ("its norm behind the pooling stands in front of it here, so that features differ",)


def _branch_sizes(branch: State, wanted: State, num_patches: int) -> State:
    """Resample the positions of a decoder."""
    name = "mim.decoder_pos_embed"
    if name in branch and name in wanted and branch[name].ndim == 3:
        prefix = wanted[name].shape[1] - num_patches
        try:
            return branch | {name: resize_positions(branch[name], num_patches, prefix)}
        except ValueError:
            return branch
    return branch


def _prefix_of(part: nn.Module, model: nn.Module) -> str:
    """Return what the names of a part's weights begin with."""
    return next(f"{name}." for name, module in model.named_modules() if module is part)
