"""Networks by name, made when they are needed: `timm:resnet18`, `keras:ResNet50`, `package:Name`.

What a name gives is scored at fresh weights for every key, but where the name says which weights:
`timm:resnet18.a1_in1k` has those that timm publishes, with a head of the data's classes that is
drawn once.
"""

import fnmatch
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from flax import linen as nn

from saboc_jax.extras import needed
from saboc_jax.frameworks import adapters
from saboc_jax.layers.tree import Remembered
from saboc_jax.spaces.modules.models import ADAPTERS, adapter_of, is_candidate
from saboc_jax.spaces.modules.space import FEW, module_space, near
from saboc_jax.types import SearchSpace

Shape = tuple[int, int, int]
HEAD_SEED = 0  # of the head that a network with given weights gets
ALLOWED = (
    "timm:MODEL, torchvision:MODEL, keras:MODEL (with * and ? for several), or "
    "package.module:NAME, a network, its class or a function that makes it"
)


def from_name(name: str, num_classes: int, image_shape: Shape) -> Any:
    """Returns a candidate by its name.

    Args:
        name: "timm:resnet18", "torchvision:resnet18", "keras:ResNet50": at fresh weights for every
            key; "timm:resnet18.a1_in1k": at those weights; or "package.module:Name": a network, a
            class or a function that makes one, given `num_classes` where it takes that.
        num_classes: width of the outputs.
        image_shape: (height, width, channels) of one image; models of a fixed size are made for it.

    Raises:
        MissingExtraError: if the package of the name is not installed.
        ValueError: says what is wrong with the name, or why its network cannot be made.

    Examples:
        >>> import saboc_jax as sj
        >>> sj.from_name("flax.linen:Dense", 10, (8, 8, 3)).features
        10
    """
    kind, own = _parts(name)
    if kind in _MAKERS:
        return _MAKERS[kind](own, num_classes, image_shape)
    return _of_package(kind, own, num_classes)


def named_space(
    names: Sequence[str],
    num_classes: int,
    image_shape: Shape,
    *,
    redraw_zeros: bool = False,
    option_names: Sequence[str] | None = None,
    name: str = "named",
) -> SearchSpace:
    """Returns a space whose one decision is which of the named networks.

    Networks are made when they are scored, and few are kept. What is wrong with one is raised then.

    Args:
        names: see `from_name`.
        num_classes: width of the outputs.
        image_shape: (height, width, channels) of one image.
        redraw_zeros: draw weights anew that a network starts at zero (`redraw.without_zeros`).
        option_names: what the networks are called in texts; None: their names.
        name: name of the space.

    Raises:
        ValueError: if a name is wrong or stands twice.
    """
    for each in names:
        _parts(each)
    made = Remembered(partial(from_name, num_classes=num_classes, image_shape=image_shape), FEW)
    return module_space(
        partial(_chosen, made, tuple(names)),
        image_shape=image_shape,
        choices=(len(names),),
        option_names=[names if option_names is None else option_names],
        num_classes=num_classes,
        redraw_zeros=redraw_zeros,
        strict=False,
        name=name,
    )


def model_names(collection: str) -> list[str]:
    """Returns the models of timm, torchvision or keras by name.

    Raises:
        MissingExtraError: if it is not installed.
    """
    return _LISTS[collection]()


def _chosen(made: Callable[[str], Any], names: tuple[str, ...], arch: Any) -> Any:
    return made(names[int(arch[0])])


def expand(names: Sequence[str]) -> list[str]:
    """Returns names without wildcards, each once, in order.

    Raises:
        ValueError: if a name is wrong, or no model has a name like it.
    """
    found: dict[str, None] = {}
    for name in names:
        kind, own = _parts(name)
        if kind not in _LISTS or not set(own) & set("*?["):
            found[name] = None
            continue
        matching = fnmatch.filter(_LISTS[kind](), own)
        if not matching:
            raise ValueError(f"{name!r}: {kind} has no model of that name; allowed: {ALLOWED}")
        found.update((f"{kind}:{each}", None) for each in matching)
    return list(found)


def parameters_of(name: str, num_classes: int, image_shape: Shape) -> int | None:
    """Returns the number of a PyTorch model's parameters without their memory; None: of another."""
    kind, own = _parts(name)
    if kind not in ("timm", "torchvision"):
        return None
    import torch

    with torch.device("meta"):
        module = _TORCH[kind](own.partition(".")[0], num_classes, image_shape)
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _parts(name: str) -> tuple[str, str]:
    kind, colon, own = name.partition(":") if isinstance(name, str) else ("", "", "")
    if not (kind and colon and own):
        raise ValueError(f"network {name!r}; allowed: {ALLOWED}")
    return kind, own


# --- model collections --------------------------------------------------------------------------


def _timm_module(model: str, classes: int, shape: Shape, **options: Any) -> Any:
    with needed("timm", "A network of timm"):
        import timm
    base = model.partition(".")[0]
    if not timm.is_model(base):
        raise _unknown("timm", base, timm.list_models())
    config = timm.models.get_pretrained_cfg(base, allow_unregistered=True)
    if getattr(config, "fixed_input_size", False):
        options = {"img_size": shape[:2]} | options
    return timm.create_model(model, num_classes=classes, in_chans=shape[2], **options)


def _of_timm(model: str, classes: int, shape: Shape) -> Any:
    if "." not in model:
        return adapters.from_torch(partial(_timm_module, model, classes, shape))
    from saboc_jax.frameworks.torch import made_with

    make = partial(_timm_module, model, classes, shape, pretrained=True)
    try:
        module = made_with(make, HEAD_SEED)
    except (ValueError, ImportError):
        raise
    except Exception as error:  # of the network or of the hub
        raise ValueError(
            f"the weights of timm:{model} cannot be had ({error}); allowed: a tag that "
            f"timm.list_pretrained lists and its hub serves, or timm:{model.partition('.')[0]}"
        ) from error
    return adapters.from_torch(module)


def _torchvision_module(model: str, classes: int, shape: Shape) -> Any:
    with needed("timm", "A network of torchvision"):
        import torchvision
    if model not in torchvision.models.list_models():
        raise _unknown("torchvision", model, torchvision.models.list_models())
    if shape[2] != 3:
        raise ValueError(f"torchvision:{model} with {shape[2]} channels; allowed: 3")
    return torchvision.models.get_model(model, weights=None, num_classes=classes)


def _of_torchvision(model: str, classes: int, shape: Shape) -> Any:
    return adapters.from_torch(partial(_torchvision_module, model, classes, shape))


def _keras_models() -> dict[str, Callable[..., Any]]:
    with needed("keras", "A network of Keras"):
        import keras
    found = vars(keras.applications)
    return {name: make for name, make in found.items() if name[0].isupper() and callable(make)}


def _of_keras(model: str, classes: int, shape: Shape) -> Any:
    models = _keras_models()
    if model not in models:
        raise _unknown("keras", model, list(models))
    options = {"weights": None, "classes": classes, "input_shape": shape}
    return adapters.from_keras(partial(models[model], classifier_activation=None, **options))


def _unknown(kind: str, model: str, known: Sequence[str]) -> ValueError:
    alike = ", ".join(near(model, known))
    return ValueError(f"{kind}:{model}: {kind} has no such model; near: {alike}")


def _timm_names() -> list[str]:
    with needed("timm", "A network of timm"):
        import timm
    names: list[str] = timm.list_models()
    return names


def _torchvision_names() -> list[str]:
    with needed("timm", "A network of torchvision"):
        import torchvision
    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


_MAKERS: Mapping[str, Callable[[str, int, Shape], Any]] = {
    "timm": _of_timm,
    "torchvision": _of_torchvision,
    "keras": _of_keras,
}
_TORCH: Mapping[str, Callable[[str, int, Shape], Any]] = {
    "timm": _timm_module,
    "torchvision": _torchvision_module,
}
_LISTS: Mapping[str, Callable[[], list[str]]] = {
    "timm": _timm_names,
    "torchvision": _torchvision_names,
    "keras": lambda: list(_keras_models()),
}


# --- anybody's packages -------------------------------------------------------------------------


def _of_package(module: str, name: str, classes: int) -> Any:
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"network '{module}:{name}': {error}; allowed: {ALLOWED}") from error
    try:
        return _as_candidate(found, classes)
    except TypeError as error:  # arguments that nobody gives
        raise ValueError(f"network '{module}:{name}' cannot be made: {error}") from error


def _as_candidate(found: Any, classes: int) -> Any:
    """Returns an object, a class or a function as a candidate."""
    adapter = adapter_of(found)
    if is_candidate(found) or (adapter is not None and not isinstance(found, type)):
        return found if adapter is None else getattr(adapters, adapter)(found)
    if not callable(found):
        raise ValueError(f"it is a {type(found).__name__}; allowed: {ALLOWED}")
    kind = _framework(found)
    options = _known(found, classes)
    if kind == "torch":
        return adapters.from_torch(lambda: found(**options))
    if kind == "keras":
        return adapters.from_keras(lambda: found(**options))
    if kind == "equinox":
        return adapters.from_equinox(lambda key: found(key=key, **options))
    if kind == "nnx":
        from saboc_jax.layers.nnx import from_nnx

        return from_nnx(lambda rngs: found(rngs=rngs, **options))
    if isinstance(found, type):
        return found(**options)
    return _made_by(found, options)


def _made_by(function: Callable[..., Any], options: dict[str, Any]) -> Any:
    """Returns the candidate of a function; of another framework, at fresh weights where it can."""
    takes = inspect.signature(function).parameters
    if "key" in takes:
        return adapters.from_equinox(lambda key: function(key=key, **options))
    if "rngs" in takes:
        from saboc_jax.layers.nnx import from_nnx

        return from_nnx(lambda rngs: function(rngs=rngs, **options))
    made = function(**options)
    adapter = adapter_of(made)
    if adapter in ("from_torch", "from_keras"):
        return getattr(adapters, adapter)(lambda: function(**options))
    if adapter is not None:
        return getattr(adapters, adapter)(made)
    if is_candidate(made):
        return made
    raise ValueError(f"it makes a {type(made).__name__}; allowed: {ALLOWED}")


def _framework(found: Any) -> str:
    """Returns the framework of a class; "": of none, or of none that needs a factory."""
    if not isinstance(found, type) or issubclass(found, nn.Module):
        return ""
    modules = [kind.__module__ for kind in found.__mro__]
    if any(module.startswith("flax.nnx") for module in modules):
        return "nnx"
    packages = [module.partition(".")[0] for module in modules]
    return next((package for package in packages if package in ADAPTERS), "")


def _known(function: Callable[..., Any], classes: int) -> dict[str, Any]:
    """Returns the number of classes under the name that a function or a class takes it by."""
    takes = inspect.signature(function).parameters
    names = [name for name in ("num_classes", "classes", "features") if name in takes]
    return {names[0]: classes} if names else {}
