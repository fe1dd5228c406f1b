# SPDX-License-Identifier: Apache-2.0
"""Labelmaps as text for an attribute of a node, where a scene keeps them and no list shows them.

Only the box that holds anything is kept, compressed: the hippocampi of a head take a few kB, a hundred
structures about one MB.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib

import numpy as np

from DIANetLib.errors import InputError
from DIANetLib.volume import Geometry, Volume

from .Records import attributeText

__all__ = ["packed", "unpacked"]

_SCHEMA = "dianet.labels"
_VERSION = 1
_LEVEL = 3  # of zlib: higher ones take thrice the time for a tenth of the size


def packed(labels: Volume) -> str:
    """A labelmap or a mask as text.

    Args:
        labels: Whole numbers from 0, or booleans, which come back as 8-bit numbers.
    """
    given = labels.array.dtype
    array = np.ascontiguousarray(labels.array, np.uint8 if given.kind == "b" else given.newbyteorder("<"))
    box = tuple(_span(array, axis) for axis in range(3))
    grid = labels.geometry
    document = {
        "schema": _SCHEMA,
        "version": _VERSION,
        "size": list(grid.size),
        "spacing": list(grid.spacing),
        "origin": list(grid.origin),
        "direction": grid.direction.ravel().tolist(),
        "type": array.dtype.str,
        "box": [[part.start, part.stop] for part in box],
        "voxels": base64.b64encode(zlib.compress(array[box].tobytes(), _LEVEL)).decode("ascii"),
    }
    return attributeText(document)


def unpacked(text: str, name: str = "") -> Volume:
    """Read what `packed` gave.

    Raises:
        InputError: It is something else, incomplete, or of a newer version.
    """
    try:
        document = json.loads(text)
        if document["schema"] != _SCHEMA:
            raise ValueError("another schema")
        if document["version"] > _VERSION:
            version = document["version"]
            raise InputError(
                f"The labels were saved by a newer DIANet: format {version}, expected {_VERSION}.",
                remedy="Update the DIANet extension.",
            )
        direction = np.reshape(document["direction"], (3, 3))
        size, spacing, origin = (tuple(document[part]) for part in ("size", "spacing", "origin"))
        grid = Geometry(size, spacing, origin, direction)
        array = np.zeros(grid.shape, np.dtype(document["type"]).newbyteorder("="))
        part = array[tuple(slice(start, stop) for start, stop in document["box"])]
        voxels = zlib.decompress(base64.b64decode(document["voxels"], validate=True))
        part[...] = np.frombuffer(voxels, document["type"]).reshape(part.shape)
        return Volume(array, grid, name=name)
    except (AttributeError, KeyError, TypeError, ValueError, binascii.Error, zlib.error) as error:
        raise InputError(f"The labels kept in the scene cannot be read: {error}.") from error


def _span(array: np.ndarray, axis: int) -> slice:
    """From the first to the last index along an axis at which anything is; empty where nothing is."""
    others = tuple(n for n in range(array.ndim) if n != axis)
    at = np.flatnonzero(array.any(axis=others))
    return slice(int(at[0]), int(at[-1]) + 1) if at.size else slice(0, 0)
