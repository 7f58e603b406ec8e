"""Pixels once they are read: background, cropping, resampling."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.geometry import Region, Size

Pixels = NDArray[np.uint8]


def on_white(pixels: Pixels) -> Pixels:
    """(h, w, 3) as it is; (h, w, 4) laid over white, alpha not yet multiplied in."""
    if pixels.shape[2] == 3:
        return pixels
    colour = cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB)
    alpha = pixels[..., 3:].astype(np.uint16)
    if alpha.min() == 255:
        return np.asarray(colour, np.uint8)
    mixed = colour * alpha + 255 * (255 - alpha)  # below 2^16: 255 * 255
    return ((mixed + 127) // 255).astype(np.uint8)


def crop(pixels: Pixels, held: Region, box: Region) -> Pixels:
    """`box` out of `pixels`, which show the rectangle `held`; white where they do not reach. A view if they do."""
    if held.holds(box):
        return pixels[box.y - held.y : box.bottom - held.y, box.x - held.x : box.right - held.x]
    part = box.intersection(held)
    padded = np.full((box.height, box.width, 3), 255, np.uint8)
    if part is not None:
        padded[part.y - box.y : part.bottom - box.y, part.x - box.x : part.right - box.x] = crop(pixels, held, part)
    return padded


def white_outside(held: Region, box: Region, room: Pixels) -> tuple[Region, Pixels] | None:
    """The part of `box` inside `held`, and where it goes in the box's room, whose rest is made white; None if none."""
    if held.holds(box):
        return box, room
    room[:] = 255
    part = box.intersection(held)
    return None if part is None else (part, crop(room, box, part))


def resize(pixels: Pixels, size: Size) -> Pixels:
    """(h, w, 3) -> (size.height, size.width, 3), each axis by its own factor; the same pixels for the same size.

    Smaller: the mean over the exact area each new pixel covers, fractions counted. Its footprint ends at the crop's
    edge, unlike a filter that rings into neighbours, so that a tile cut out of a block equals the tile read alone.
    Larger (a level may be 1 % coarser than asked for): bicubic.
    """
    height, width = pixels.shape[:2]
    smaller = (min(width, size.width), min(height, size.height))
    if smaller != (width, height):
        pixels = np.asarray(cv2.resize(pixels, smaller, interpolation=cv2.INTER_AREA), np.uint8)
    if smaller != (size.width, size.height):
        pixels = np.asarray(cv2.resize(pixels, tuple(size), interpolation=cv2.INTER_CUBIC), np.uint8)
    return pixels


def resize_into(room: Pixels, pixels: Pixels) -> None:
    """As `resize`, to the size of `room`, a contiguous (h, w, 3), which is filled."""
    height, width = room.shape[:2]
    if pixels.shape == room.shape:
        room[:] = pixels
    elif height <= pixels.shape[0] and width <= pixels.shape[1]:
        cv2.resize(pixels, (width, height), dst=room, interpolation=cv2.INTER_AREA)
    else:
        room[:] = resize(pixels, Size(width, height))
