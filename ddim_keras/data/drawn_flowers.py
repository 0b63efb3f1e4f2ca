"""Synthetic flowers: a built-in, licence-free data set for offline use and for tests.

Every image shows one blossom of one of ten invented species on a blurred green background. A
blossom is drawn in polar coordinates of its slightly tilted plane, with array operations on all its
pixels: rings of petals, a domed centre with a spiral of florets, and stamens. Lengths in that plane
are in units of the blossom's radius, and colours are red, green and blue in [0, 1]. A canvas is
(3, P) float32: the colours of the P pixels being drawn.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from ddim_keras.config import InputError

SUPERSAMPLING = 2  # drawn pixels per output pixel, in each direction
BACKGROUND_SIZE = 24  # pixels; enlarging this small image blurs the background
NUM_LEAVES = 9
NUM_LIGHTS = 4

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Species:
    """Appearance of the blossoms of one class; individuals vary randomly."""

    name: str
    petals: int  # in the outer ring
    colours: tuple[Colour, Colour]  # the petals of a blossom have one colour between these two
    throat: Colour  # colour of a petal where it meets the centre
    throat_size: float  # part of the petal's length over which the throat fades
    width: float  # half the greatest width of a petal, in petal lengths
    taper: float  # narrowness towards the centre: 0.5 is a broad base, 1.5 a stalk
    point: float  # narrowness towards the tip: 0.3 is blunt, 0.5 round, 1 pointed
    centre: tuple[Colour, Colour]  # in the middle and at the rim
    centre_size: float  # radius of the centre
    notch: float = 0.0  # depth of the notch in a petal's tip, in petal lengths
    inner_petals: int = 0  # in a second, shorter ring; 0: no such ring
    stamens: int = 0
    stamen_length: float = 0.0  # distance of the stamens' ends from the middle
    stamen_colour: Colour = (0.0, 0.0, 0.0)


SPECIES: tuple[Species, ...] = (
    Species(
        "red poppy", 4, ((0.82, 0.07, 0.05), (0.98, 0.28, 0.10)), (0.10, 0.02, 0.06), 0.40,
        width=0.70, taper=0.75, point=0.33,
        centre=((0.34, 0.40, 0.20), (0.14, 0.16, 0.10)), centre_size=0.13,
        stamens=22, stamen_length=0.23, stamen_colour=(0.08, 0.05, 0.10),
    ),
    Species(
        "yellow buttercup", 5, ((0.99, 0.82, 0.04), (1.00, 0.94, 0.26)), (0.84, 0.64, 0.02), 0.45,
        width=0.50, taper=0.80, point=0.42,
        centre=((0.60, 0.68, 0.14), (0.72, 0.70, 0.12)), centre_size=0.15,
        stamens=16, stamen_length=0.27, stamen_colour=(0.98, 0.74, 0.05),
    ),
    Species(
        "white daisy", 20, ((0.97, 0.97, 1.00), (1.00, 0.98, 0.94)), (0.82, 0.86, 0.74), 0.50,
        width=0.13, taper=0.60, point=0.38,
        centre=((0.90, 0.58, 0.05), (1.00, 0.82, 0.12)), centre_size=0.28,
    ),
    Species(
        "blue forget-me-not", 5, ((0.30, 0.54, 0.94), (0.54, 0.74, 1.00)), (0.98, 0.98, 0.96), 0.50,
        width=0.46, taper=0.85, point=0.36,
        centre=((0.72, 0.48, 0.06), (1.00, 0.86, 0.20)), centre_size=0.14,
    ),
    Species(
        "white star lily", 6, ((0.99, 0.98, 0.94), (1.00, 0.93, 0.95)), (0.70, 0.82, 0.38), 0.55,
        width=0.25, taper=0.75, point=0.85,
        centre=((0.50, 0.66, 0.22), (0.66, 0.78, 0.36)), centre_size=0.09,
        stamens=6, stamen_length=0.44, stamen_colour=(0.66, 0.28, 0.05),
    ),
    Species(
        "pink primrose", 5, ((0.96, 0.50, 0.68), (1.00, 0.78, 0.86)), (0.80, 0.10, 0.36), 0.55,
        width=0.44, taper=0.95, point=0.34, notch=0.22,
        centre=((0.80, 0.80, 0.30), (0.98, 0.90, 0.45)), centre_size=0.10,
        stamens=10, stamen_length=0.22, stamen_colour=(1.00, 0.90, 0.50),
    ),
    Species(
        "golden sunflower", 17, ((1.00, 0.68, 0.03), (1.00, 0.84, 0.14)), (0.90, 0.46, 0.02), 0.60,
        width=0.18, taper=0.60, point=0.80, inner_petals=17,
        centre=((0.20, 0.12, 0.05), (0.50, 0.27, 0.08)), centre_size=0.43,
    ),
    Species(
        "orange gerbera", 15, ((0.97, 0.36, 0.05), (1.00, 0.58, 0.18)), (0.99, 0.72, 0.22), 0.45,
        width=0.17, taper=0.55, point=0.40, inner_petals=13,
        centre=((0.16, 0.07, 0.06), (0.94, 0.66, 0.20)), centre_size=0.24,
    ),
    Species(
        "magenta dahlia", 11, ((0.76, 0.07, 0.46), (0.93, 0.28, 0.68)), (0.44, 0.02, 0.26), 0.50,
        width=0.26, taper=0.70, point=0.62, inner_petals=9,
        centre=((0.82, 0.50, 0.10), (1.00, 0.78, 0.22)), centre_size=0.14,
    ),
    Species(
        "indigo clematis", 8, ((0.26, 0.16, 0.66), (0.46, 0.32, 0.88)), (0.66, 0.46, 0.90), 0.60,
        width=0.27, taper=0.90, point=0.70,
        centre=((0.80, 0.84, 0.50), (0.94, 0.94, 0.74)), centre_size=0.10,
        stamens=12, stamen_length=0.25, stamen_colour=(0.98, 0.96, 0.82),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class _Plane:
    """The P pixels that a blossom may cover, in coordinates of its plane."""

    radius: np.ndarray  # (P,) distance from the blossom's middle
    angle: np.ndarray  # (P,) direction seen from there, in radians
    to_light: np.ndarray  # (P,) cosine of the angle from that direction to the light
    beside_light: np.ndarray  # (P,) its sine
    pixel: float  # side of a pixel

    def cover(self, distance: np.ndarray) -> np.ndarray:
        """Share of each pixel that lies inside an outline, given its signed distance to it."""
        return np.clip(distance / self.pixel + 0.5, 0, 1)


def draw_flowers(
    num_images: int, image_size: int = 64, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Draws flowers of all species in turn.

    Image i depends only on `seed`, i and `image_size`, so a larger data set starts with the same
    images. Another `image_size` shows the same flowers at another resolution. Processors and
    versions of NumPy may round a pixel value differently.

    Args:
        num_images: at least 1; a multiple of 10 makes all species equally frequent.
        image_size: height and width in pixels, at least 8.
        seed: not negative.

    Returns:
        Images (num_images, image_size, image_size, 3) uint8, and labels (num_images,) int32, which
        are indices into `SPECIES`.

    Raises:
        InputError: if an argument is below its minimum.
    """
    for name, value, least in (
        ("num_images", num_images, 1),
        ("image_size", image_size, 8),
        ("seed", seed, 0),
    ):
        if value < least:
            raise InputError(f"{name} must be at least {least}, not {value}")
    images = np.empty((num_images, image_size, image_size, 3), np.uint8)
    labels = np.arange(num_images, dtype=np.int32) % len(SPECIES)
    for i, label in enumerate(labels):
        images[i] = _draw_flower(SPECIES[label], image_size, np.random.default_rng([seed, i]))
    return images, labels


def _draw_flower(species: Species, image_size: int, rng: np.random.Generator) -> np.ndarray:
    """One image, (image_size, image_size, 3) uint8."""
    size = image_size * SUPERSAMPLING
    x, y = rng.uniform(0.45, 0.55), rng.uniform(0.44, 0.54)
    scale = rng.uniform(0.32, 0.48)  # the blossom's radius as a share of the image's size
    background = Image.fromarray(_draw_background(x, y, scale, rng))
    image = np.array(background.resize((size, size), Image.Resampling.BICUBIC)).reshape(-1, 3)

    # Drawing pixels takes most of the time, so only those near the blossom are drawn.
    plane, near = _blossom_plane(size, x, y, scale, rng)
    canvas = np.divide(np.take(image, near, axis=0).T, 255, dtype=np.float32, order="C")
    first, second = map(_column, species.colours)
    colour = _over(first, second, rng.random())
    canvas = _paint_petals(canvas, species, species.petals, 1.0, colour, plane, rng)
    if species.inner_petals:
        length = rng.uniform(0.62, 0.74)
        canvas = _paint_petals(canvas, species, species.inner_petals, length, colour, plane, rng)
    canvas = _paint_centre(canvas, species, plane, rng)
    if species.stamens:
        canvas = _paint_stamens(canvas, species, plane, rng)
    image[near] = _to_uint8(canvas)
    return np.asarray(Image.fromarray(image.reshape(size, size, 3)).reduce(SUPERSAMPLING))


def _draw_background(
    blossom_x: float, blossom_y: float, scale: float, rng: np.random.Generator
) -> np.ndarray:
    """Leaves, spots of light, a stem and the blossom's shadow, all small enough to be blurred."""
    middles = (np.arange(BACKGROUND_SIZE, dtype=np.float32) + 0.5) / BACKGROUND_SIZE
    x, y = np.tile(middles, BACKGROUND_SIZE), np.repeat(middles, BACKGROUND_SIZE)
    direction = rng.uniform(0, 2 * math.pi)
    slope = 0.5 + 0.6 * ((x - 0.5) * math.cos(direction) + (y - 0.5) * math.sin(direction))
    dark = _column((0.12, 0.28, 0.08)) * rng.uniform(0.5, 1.5)
    canvas = _over(dark, _column((0.50, 0.70, 0.26)) * rng.uniform(0.7, 1.3), slope)

    leaves = rng.uniform((0.12, 0.38, 0.06), (0.50, 0.74, 0.28), (NUM_LEAVES, 3))
    leaves *= rng.uniform(0.4, 1.1, (NUM_LEAVES, 1))
    lengths = rng.uniform(0.2, 0.5, NUM_LEAVES)
    covers = _blobs(x, y, lengths, lengths * rng.uniform(0.2, 0.45, NUM_LEAVES), rng)
    for leaf, cover in zip(leaves, covers, strict=True):
        canvas = _over(canvas, _column(leaf), 0.65 * cover)
    sizes = rng.uniform(0.04, 0.11, NUM_LIGHTS)
    for cover in _blobs(x, y, sizes, sizes, rng):
        canvas = _over(canvas, _column((0.78, 0.90, 0.50)), 0.4 * cover)

    dx, dy = x - blossom_x, y - blossom_y
    stem = np.exp(-(((dx - rng.uniform(-0.8, 0.8) * dy * dy) / 0.035) ** 2)) * (dy > 0)
    canvas = _over(canvas, _column((0.40, 0.58, 0.24)), 0.7 * stem)
    shadow = (dx * dx + (dy - 0.07) ** 2) / scale**2
    return _to_uint8(canvas * (1 - 0.5 * np.exp(-shadow * shadow))).reshape(
        BACKGROUND_SIZE, BACKGROUND_SIZE, 3
    )


def _blobs(
    x: np.ndarray, y: np.ndarray, lengths: np.ndarray, widths: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Coverage (N, P) in [0, 1] of N ellipses with soft edges, at random positions and angles."""
    angles = rng.uniform(0, math.pi, len(lengths))
    dx, dy = x - _column(rng.random(len(lengths))), y - _column(rng.random(len(lengths)))
    cosines, sines = _column(np.cos(angles)), _column(np.sin(angles))
    along = (dx * cosines + dy * sines) / _column(lengths)
    across = (dy * cosines - dx * sines) / _column(widths)
    square = along * along + across * across
    return np.exp(-square * square)


def _blossom_plane(
    size: int, x: float, y: float, scale: float, rng: np.random.Generator
) -> tuple[_Plane, np.ndarray]:
    """The plane of a blossom around (x, y), and which pixels of the flattened image it holds."""
    middles = (np.arange(size, dtype=np.float32) + 0.5) / size
    dx, dy = (middles - x) / scale, (middles[:, None] - y) / scale
    turn, squeeze = rng.uniform(0, 2 * math.pi), rng.uniform(0.8, 1.0)
    along = dx * math.cos(turn) + dy * math.sin(turn)
    across = dy * (math.cos(turn) / squeeze) - dx * (math.sin(turn) / squeeze)
    # Parts tilted towards the camera look larger: their pixels lie closer to the middle.
    nearness = 1 + (1 - squeeze) * across
    radius = np.sqrt(along * along + across * across) / nearness
    near = np.flatnonzero(radius < 1.06)
    angle = np.arctan2(across.ravel()[near], along.ravel()[near]) + turn
    light = rng.uniform(-0.9, 0.9) - math.pi / 2  # somewhere above
    plane = _Plane(
        radius=radius.ravel()[near],
        angle=angle,
        to_light=np.cos(angle - light),
        beside_light=np.sin(angle - light),
        pixel=1 / (scale * size),
    )
    return plane, near


def _paint_petals(
    canvas: np.ndarray,
    species: Species,
    count: int,
    length: float,
    colour: np.ndarray,
    plane: _Plane,
    rng: np.random.Generator,
) -> np.ndarray:
    """Paints a ring of petals of one colour (3, 1), each over or under its neighbours."""
    along, aside, shade = _two_petals(plane, count, length, rng)
    if species.notch:
        along *= 1 + species.notch * np.exp(-((aside / (0.4 * species.width)) ** 2))
    inside = np.clip(along, 0.001, 0.999)
    half_width = _half_width(species, inside)
    distance = length * np.minimum(half_width - np.abs(aside), 1 - along)
    across = np.clip(aside / half_width, -1, 1)

    light = 1 + 0.1 * plane.to_light - 0.13 * across * plane.beside_light  # petals are convex
    veins = 1 + 0.04 * np.cos(15 * across)
    shade = shade * light * veins * (0.84 + 0.22 * inside) * (1 - 0.12 * across * across)
    shadow = np.exp(np.minimum(distance, 0) / 0.04)
    shade[0] *= 1 - 0.45 * shadow[1]
    fade = np.minimum(inside / species.throat_size, 1)
    fade = fade * fade * (3 - 2 * fade)

    # Both petals at once, as weights of the colours: one weight is cheaper than three channels.
    cover = plane.cover(distance)
    bare = (1 - cover[0]) * (1 - cover[1]) * (1 - 0.35 * shadow.max(axis=0))
    cover[0] *= 1 - cover[1]
    weight = shade * cover
    blade = (weight * fade).sum(axis=0)
    throat = weight.sum(axis=0) - blade
    return canvas * bare + colour * blade + _column(species.throat) * throat


def _two_petals(
    plane: _Plane, count: int, length: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The petals on either side of each pixel: no other one can cover it.

    Returns:
        Each pixel's position along the petal and distance from its axis, in petal lengths, and the
        petal's brightness; (2, P) each, the lower of the two petals first.
    """
    place = _place_in_ring(plane, count, rng)
    left = np.floor(place)
    is_left_lower = _around(rng.integers(0, 2, count), left)
    sides = np.stack([left + 1 - is_left_lower, left + is_left_lower])
    jitter = _around(rng.uniform(-0.12, 0.12, count), sides)
    offset = (place - sides - jitter) * (2 * math.pi / count)
    distance = plane.radius / _around(rng.uniform(0.88, 1.0, count) * length, sides)
    shade = _around(rng.uniform(0.9, 1.08, count), sides)
    return distance * np.cos(offset), distance * np.sin(offset), shade


def _half_width(species: Species, along: np.ndarray) -> np.ndarray:
    """Half the width of a petal, `along` in (0, 1) from its base to its tip, in petal lengths."""
    widest = species.taper / (species.taper + species.point)
    peak = species.taper * math.log(widest) + species.point * math.log(1 - widest)
    # Powers through logarithms, several times faster in NumPy.
    power = species.taper * np.log(along) + species.point * np.log(1 - along)
    return species.width * np.exp(power - peak)


def _paint_centre(
    canvas: np.ndarray, species: Species, plane: _Plane, rng: np.random.Generator
) -> np.ndarray:
    """Paints a dome of florets, on two families of spirals as in a sunflower's head."""
    size = species.centre_size * rng.uniform(0.9, 1.1)
    part = np.minimum(plane.radius / size, 1)
    winding = 9 * np.log(part + 0.1)
    florets = np.cos(8 * plane.angle + winding) * np.cos(13 * plane.angle - winding)
    shade = (1.1 - 0.3 * part * part) * (1 + 0.22 * florets) * (1 + 0.25 * part * plane.to_light)
    middle, rim = species.centre
    paint = _over(_column(middle), _column(rim), part * part)
    distance = size - plane.radius
    shadow = np.exp(np.minimum(distance, 0) / 0.06)
    return _over(canvas * (1 - 0.35 * shadow), paint * shade, plane.cover(distance))


def _paint_stamens(
    canvas: np.ndarray, species: Species, plane: _Plane, rng: np.random.Generator
) -> np.ndarray:
    """Paints threads that end in dots, around the centre."""
    count = species.stamens
    place = _place_in_ring(plane, count, rng)
    number = np.floor(place)
    lengths = _around(rng.uniform(0.8, 1.1, count) * species.stamen_length, number)
    beyond = plane.radius - lengths
    aside = plane.radius * (place - number - 0.5) * (2 * math.pi / count)
    dots = plane.cover(0.04 - np.sqrt(aside * aside + beyond * beyond))
    threads = plane.cover(0.012 - np.abs(aside)) * (beyond < 0)
    return _over(canvas, _column(species.stamen_colour), np.maximum(dots, 0.6 * threads))


def _place_in_ring(plane: _Plane, count: int, rng: np.random.Generator) -> np.ndarray:
    """Position of each pixel in a ring of `count` elements, in [0, count], from a random start."""
    turns = plane.angle / (2 * math.pi) + rng.random()
    return (turns - np.floor(turns)) * count


def _around(values: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The value of a ring for each number; the first value follows the last."""
    return np.take(values.astype(np.float32), numbers.astype(np.intp), mode="wrap")


def _column(values: ArrayLike) -> np.ndarray:
    """Values (N,), such as a colour, as (N, 1) float32."""
    return np.array(values, np.float32)[:, None]


def _over(canvas: np.ndarray, paint: np.ndarray, cover: np.ndarray | float) -> np.ndarray:
    return canvas + (paint - canvas) * cover


def _to_uint8(canvas: np.ndarray) -> np.ndarray:
    """A canvas as pixels of an image, (P, 3)."""
    return (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8).T
