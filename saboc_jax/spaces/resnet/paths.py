"""The structure of a ResNet's graph: units of convolutions beside their shortcuts."""

from saboc_jax.layers import flows
from saboc_jax.layers.flows import Part
from saboc_jax.spaces.resnet.encoding import Conv, Shape, Structure, convolutions, units
from saboc_jax.types import Structure as PathStructure


def structure(network: Structure, image_shape: Shape, num_classes: int) -> PathStructure:
    """Returns the structure of the network that is trained, with its residual links."""
    convs = convolutions(network, image_shape)
    parts, point = [_part(0, 1, [next(convs)])], 1
    for unit in (unit for block in units(network) for unit in block):
        parts.append(_part(point, point + 1, [next(convs) for _ in unit.kernels]))
        parts.append(_part(point, point + 1, [next(convs)] if unit.project else []))
        point += 1
    parts.append(_part(point, point + 1, [next(convs)]))
    dense = (network.tail + 1) * num_classes
    parts.append(Part(point + 1, point + 2, (num_classes,), dense, num_classes))
    return flows.structure_of(parts, point + 2)


def _part(source: int, target: int, convs: list[Conv]) -> Part:
    """Returns convolutions in series with their norms; none: the identity."""
    params = sum(c.kernel**2 * c.inputs * c.outputs + (2 + c.bias) * c.outputs for c in convs)
    widths = tuple(c.outputs for c in convs)
    return Part(source, target, widths, params, sum(c.outputs * c.area for c in convs))
