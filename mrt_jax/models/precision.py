"""What a network computes in, by the names that configs and commands give it."""

from typing import NamedTuple

from jax.sharding import Mesh

from mrt_jax.errors import InputError


class Precision(NamedTuple):
    """Attributes of `Transformer`.

    Attributes:
        dtype: of activations and caches.
        product_dtype: what the operands of products with parameters are rounded to, if anything.
    """

    dtype: str
    product_dtype: str | None = None


PRECISIONS = {
    'float32': Precision('float32'),
    'bfloat16': Precision('bfloat16'),
    'bfloat16_products': Precision('float32', 'bfloat16'),
}


def precision_on(name: str, mesh: Mesh) -> Precision:
    """The precision of a name, for the devices of a mesh.

    Raises:
        InputError: products are to be rounded elsewhere than on one CPU.
    """
    precision = PRECISIONS[name]
    platform = mesh.devices.flat[0].platform
    if precision.product_dtype and (mesh.size > 1 or platform != 'cpu'):
        raise InputError(
            f'{name} is for one CPU, not for {mesh.size} x {platform}: give bfloat16 there, which '
            'multiplies as fast and moves half the bytes'
        )
    return precision
