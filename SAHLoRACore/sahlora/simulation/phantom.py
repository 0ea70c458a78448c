"""Anatomy of a simulated head: what is where, in HU, and where the subarachnoid space lies.

The head is built in its own frame, in LPS millimeters: x left, y posterior, z superior; the origin lies in
the midplane, at the height of the suprasellar cistern's floor. It is symmetric but for noise;
`sahlora.simulation.scanner` warps, scales and turns it. Sizes and HU are choices of this project within
what real heads show.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from sahlora.simulation.fields import (
    Array,
    Ellipsoid,
    Grid,
    Shape,
    Tube,
    band_noise,
    fraction,
    intersection,
    nearby,
    paint,
    smooth_noise,
    smooth_union,
    union,
)
from sahlora.simulation.skull import cavity_of, surroundings

HEAD = Grid.spanning((-88, -106, -84), (88, 104, 96))
BRAIN_LOW, BRAIN_HIGH = (-72, -90, -62), (72, 88, 84)

FALX, SINUS, ARTERY = 48.0, 57.0, 45.0


@dataclass(frozen=True)
class Constitution:
    """What differs between heads; drawn from the seed by `draw`.

    Attributes
    ----------
    atrophy : float
        0 for a tight young brain to 1 for wide sulci and ventricles.
    gray, white, csf : float
        HU of the tissues.
    skull : float
        Thickness of the vault in mm.
    scalp : float
        Thickness of the scalp in mm.
    calcified : float
        0 for a young pineal and choroid plexus to 1 for densely calcified ones.
    """

    atrophy: float
    gray: float
    white: float
    csf: float
    skull: float
    scalp: float
    calcified: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Constitution:
        """Draw a head."""
        return cls(
            atrophy=float(rng.beta(1.6, 2.2)),
            gray=float(rng.normal(40.5, 1.2)),
            white=float(rng.normal(29.5, 1.2)),
            csf=float(rng.normal(8, 1.5)),
            skull=float(rng.uniform(5.5, 8.0)),
            scalp=float(rng.uniform(5.0, 8.0)),
            calcified=float(rng.uniform(0, 1)),
        )


AVERAGE = Constitution(atrophy=0.4, gray=40.5, white=29.5, csf=8, skull=6.7, scalp=6.5, calcified=0.5)
"""The head that others are compared with."""


@dataclass(frozen=True)
class Anatomy:
    """A healthy head.

    Attributes
    ----------
    grid : Grid
        The head's own frame.
    hu : array (Z, Y, X) of float32
        HU without blood, noise or artifacts.
    subarachnoid : array (Z, Y, X) of float32
        Signed distance in mm to the wall of the subarachnoid space, negative inside.
    csf : float
        HU of cerebrospinal fluid.
    """

    grid: Grid
    hu: Array
    subarachnoid: Array
    csf: float


def build_head(rng: np.random.Generator) -> Anatomy:
    """Build the head that a random generator draws."""
    body = Constitution.draw(rng)
    cavity = cavity_of(rng, HEAD)
    hu = surroundings(rng, HEAD, cavity, body.skull, body.scalp)
    part, where = HEAD.box(BRAIN_LOW, BRAIN_HIGH)
    subarachnoid = np.full(HEAD.shape, 50, np.float32)
    brain, subarachnoid[where] = _inside_the_cavity(rng, body, part, cavity[where])
    inside = fraction(cavity[where])
    hu[where] += inside * (brain - hu[where])
    return Anatomy(HEAD, hu, subarachnoid, body.csf)


# ------------------------------------------------------------------------------------- brain and spaces


def _inside_the_cavity(
    rng: np.random.Generator, body: Constitution, grid: Grid, cavity: Array
) -> tuple[Array, Array]:
    """HU of the cavity's content, and the signed distance to the subarachnoid space."""
    x, y, z = grid.coordinates
    tent = tentorium_height(x, y) + 1.5 * smooth_noise(rng, Grid(grid.start, (1, *grid.shape[1:])), 40)
    ridge = y + 9 - 0.5 * np.abs(x)  # behind the petrous ridges
    below = fraction(z - tent) * fraction(-ridge, 3)  # 1 in the posterior fossa
    stem = _brainstem(grid)
    chambers = ventricles(grid, body)

    cerebral = _cerebral_spaces(rng, body, grid, cavity)
    fossa = _posterior_fossa_spaces(rng, body, grid, cavity, tent, stem)
    spaces = cerebral + below * (fossa - cerebral)
    spaces = np.minimum(spaces, cisterns(grid, body))
    spaces = np.maximum(spaces, -stem)
    spaces = intersection(spaces, 1.5 - chambers, cavity)

    matter = _matter(rng, body, grid, spaces, below, stem)
    matter += fraction(chambers) * (np.float32(body.csf) - matter)
    hu = matter + fraction(spaces) * (np.float32(body.csf) - matter)
    solid = _paint_dense(hu, rng, body, grid, cavity, tent)
    return hu, np.maximum(spaces, -solid)


def _cerebral_spaces(rng: np.random.Generator, body: Constitution, grid: Grid, cavity: Array) -> Array:
    """Rim, sulci, interhemispheric and Sylvian fissures."""
    depth = -cavity
    wobble = smooth_noise(rng, grid, 35)
    rim = depth - np.float32(0.8 + 1.6 * body.atrophy) - np.float32(0.5 * (0.3 + body.atrophy)) * wobble
    reach = np.float32(18) + 5 * smooth_noise(rng, grid, 30)
    narrowing = np.clip(depth / reach, 0, 1)
    width = np.float32(0.45 + 1.15 * body.atrophy) + np.float32(0.5) * smooth_noise(rng, grid, 28)
    sheets, radius = _sulcal_sheets(rng, grid)
    width = width - 3 * np.clip((0.6 - radius) / 0.2, 0, 1)  # none where the sheets crowd at the base
    sulci = np.maximum(sheets - width * (1 - 0.5 * narrowing), depth - reach)

    opening = np.float32(0.5 + 1.7 * body.atrophy) + 0.8 * smooth_noise(rng, grid, 26)
    return union(rim, sulci, fissures(grid, np.float32(0.9 + 1.1 * body.atrophy), opening, wobble))


def fissures(grid: Grid, half: Array | float, opening: Array | float, wobble: Array | float = 0.0) -> Array:
    """Signed distance in mm to the interhemispheric and Sylvian fissures, of given half widths in mm."""
    x, y, z = grid.coordinates
    callosum = Ellipsoid((0, 2, 18), (30, 44, 21)).distance(grid)
    middle = np.maximum(np.abs(x + 1.2 * wobble) - half, 1 - callosum)
    insula = np.abs(Ellipsoid((20, -8, 13), (21, 27, 19), mirrored=True).distance(grid) + 2.5 * wobble)
    insula = np.maximum(insula - opening, 33 - np.abs(x))
    slope = z - (9 + 0.35 * (y + 18)) + 2.5 * wobble
    lips = np.maximum(np.abs(slope) - opening, np.maximum(38 - np.abs(x), np.abs(y + 8) - 24))
    return union(middle, insula, lips)


def _sulcal_sheets(rng: np.random.Generator, grid: Grid) -> tuple[Array, Array]:
    """Distance in mm to convoluted sheets perpendicular to the surface, and the radius (1 at the surface).

    The sheets are the zero set of band-limited noise sampled on the surface beyond each voxel, a gyrus apart.
    """
    x, y, z = grid.coordinates
    radii = (68, 84, 66)
    scaled = (x / np.float32(radii[0]), y / np.float32(radii[1]), (z - 20) / np.float32(radii[2]))
    radius = np.sqrt(scaled[0] ** 2 + scaled[1] ** 2 + scaled[2] ** 2)
    pull = 70 * (0.75 + 0.25 * radius) / np.maximum(radius, 0.2)
    count, step = 96, 2.0
    noise = band_noise(rng, count, step, wavelength=25)
    where = np.stack([np.broadcast_to(p * pull / np.float32(step), grid.shape) for p in scaled[::-1]])
    where += np.float32(count / 2)
    for p in where:
        p += np.float32(2.0) * smooth_noise(rng, grid, 32)
    sampled = ndimage.map_coordinates(noise, where, order=1, mode="wrap")
    steepness = np.sqrt(sum(np.square(g) for g in np.gradient(sampled)))
    return np.abs(sampled) / (steepness + np.float32(0.04)), radius


def _posterior_fossa_spaces(
    rng: np.random.Generator, body: Constitution, grid: Grid, cavity: Array, tent: Array, stem: Array
) -> Array:
    """CSF around the cerebellum: what the cavity leaves it, folia, cisterna magna."""
    _, y, z = grid.coordinates
    rim = np.float32(0.8 + 1.2 * body.atrophy)
    around = np.minimum(-cavity, tent - z) - rim
    cerebellum = intersection(-around, 2.5 - stem, 11 - y)
    stripes = np.abs(smooth_noise(rng, grid, 9)) * 3.0 + 0.9
    folia = np.maximum(stripes - np.float32(0.5 + 0.8 * body.atrophy), -cavity - 6)
    magna = Ellipsoid((0, 52, -46), (15, 17, 9)).distance(grid)
    vallecula = Tube(((0, 42, -40), (0, 30, -30)), (4.5, 2.5)).distance(grid)
    return union(-cerebellum, folia, magna, vallecula)


def cisterns(grid: Grid, body: Constitution) -> Array:
    """Signed distance in mm to the cisterns, cut off at 12 mm.

    They are the suprasellar star, Sylvian stems, ambient, quadrigeminal, interpeduncular, prepontine and
    cerebellopontine cisterns.
    """
    wide = 0.75 + 0.6 * body.atrophy
    shapes: tuple[Shape, ...] = (
        Ellipsoid((0, -13, 4), (10 * wide, 9 * wide, 5.5)),
        Tube(((0, -14, 3), (0, -34, 6)), (3.5 * wide, 1.5 * wide)),
        Tube(((5, -15, 3), (20, -22, 4), (37, -20, 6)), (3.5 * wide, 2.6 * wide, 2 * wide), mirrored=True),
        Tube(((6, -8, 3), (17, 2, 2), (20, 12, 4), (14, 23, 8), (0, 27, 9)),
             (3 * wide, 1.6 * wide, 1.6 * wide, 1.9 * wide, 3.6 * wide), mirrored=True),
        Tube(((8, 21, 7), (20, 18, 12)), (2.0 * wide, 1.2 * wide), mirrored=True),
        Tube(((0, -5, 3), (0, -3, -4)), (4.5 * wide, 4 * wide)),
        Tube(((0, -3, -4), (0, -2, -22), (0, 4, -34)), (4.2 * wide, 3.6 * wide, 3.2 * wide)),
        Tube(((0, -1, -14), (18, 7, -15), (25, 12, -16)), (3 * wide, 2.8 * wide, 3.2 * wide), mirrored=True),
        Tube(((0, 27, 10), (0, 34, 17)), (3 * wide, 1.6 * wide)),
    )  # fmt: skip
    return nearby(grid, shapes)


def _brainstem(grid: Grid) -> Array:
    midbrain = Ellipsoid((0, 9, 3), (16.5, 12, 11)).distance(grid)
    notch = Ellipsoid((0, -3, 3), (4, 6, 7)).distance(grid)
    pons = Ellipsoid((0, 11, -14), (17, 12, 13)).distance(grid)
    medulla = Tube(((0, 11, -24), (0, 17, -60), (0, 18, -90)), (9, 6.5, 6)).distance(grid)
    return smooth_union(smooth_union(np.maximum(midbrain, -notch), pons, 4), medulla, 4)


def ventricles(grid: Grid, body: Constitution) -> Array:
    """Signed distance in mm to the lateral, third and fourth ventricles, cut off at 12 mm."""
    size = 0.65 + 0.75 * body.atrophy
    lateral = Tube(
        ((5.5, -28, 17), (8, -18, 24), (9, 2, 27), (13, 20, 26), (22, 34, 20), (24, 50, 15)),
        (3.4 * size, 4.2 * size, 4.4 * size, 4.6 * size, 6 * size, 2 * size), mirrored=True)  # fmt: skip
    temporal = Tube(((23, 33, 17), (32, 20, 6), (32, 0, -1)), (3 * size, 2 * size, 2.2 * size), mirrored=True)
    third = Ellipsoid((0, 2, 13), (2.6 * size, 14, 10))
    fourth = Ellipsoid((0, 26, -16), (7 * size, 4.5 * size, 9))
    aqueduct = Tube(((0, 15, 6), (0, 22, -10)), (0.9, 0.9))
    shapes = (lateral, temporal, third, fourth, aqueduct)
    return nearby(grid, shapes)


def tentorium_height(x: Array, y: Array) -> Array:
    """Z of the tentorium in mm at head coordinates: a tent that falls off to the sides and to the back."""
    return 21 - 0.36 * np.abs(x) - 0.16 * np.maximum(y - 30, 0) - 0.30 * np.maximum(25 - y, 0)


def _matter(
    rng: np.random.Generator, body: Constitution, grid: Grid, spaces: Array, below: Array, stem: Array
) -> Array:
    """HU of gray and white matter."""
    white, gray = np.float32(body.white), np.float32(body.gray)
    ribbon = np.float32(4.3) + 0.7 * smooth_noise(rng, grid, 20)
    cortex = fraction(spaces - ribbon, 1.6)
    cerebellum = np.float32(0.55) + 0.45 * fraction(spaces - 8, 8) + 0.10 * smooth_noise(rng, grid, 9)
    share = cortex + below * (cerebellum - cortex)
    share += fraction(stem, 2) * (0.35 - share)
    hu = white + share * (gray - white)
    nuclei = (
        Ellipsoid((13, -18, 20), (5, 10, 8), mirrored=True),
        Ellipsoid((25, -6, 13), (6.5, 15, 9), mirrored=True),
        Ellipsoid((10.5, 10, 16), (7.5, 13, 8), mirrored=True),
    )
    for nucleus in nuclei:
        paint(hu, grid, nucleus, float(gray) - 0.5)
    return hu + np.float32(0.8) * smooth_noise(rng, grid, 18)


def _paint_dense(
    hu: Array, rng: np.random.Generator, body: Constitution, grid: Grid, cavity: Array, tent: Array
) -> Array:
    """Add falx, tentorium, veins, arteries, calcifications; return the distance to where no blood can be."""
    x, y, z = grid.coordinates
    depth = -cavity
    callosum = Ellipsoid((0, 2, 18), (30, 44, 21)).distance(grid)
    above_tent = tent - z + 2
    front = np.clip((y + 90) / 90, 0, 1)
    falx = intersection(np.abs(x) - (0.5 + 0.4 * front), 8 - callosum, above_tent, 8 - z)
    incisura = np.sqrt(x**2 + (y - 10) ** 2)
    tentorium = intersection(np.abs(z - tent) - 0.7, 21 - incisura, -8 - y)
    sagittal = np.maximum(np.sqrt(x**2 + np.maximum(depth - 1.5, 0) ** 2) - 3.2, tent - z)
    side = np.where(x < 0, 3.6, 2.6).astype(np.float32)
    transverse = np.sqrt(np.maximum(depth - 1.5, 0) ** 2 + (z - tent) ** 2) - side
    transverse = np.maximum(transverse, 18 - y)
    solid = union(falx, tentorium, sagittal, transverse)
    for sheet, value in ((falx, FALX), (tentorium, FALX), (sagittal, SINUS), (transverse, SINUS)):
        hu += fraction(sheet) * (np.float32(value) - hu)
    veins = (
        Tube(((50, 24, -8), (44, 14, -26)), (3.2, 3.0), mirrored=True),
        Tube(((0, 33, 17), (0, 56, 13), (0, 78, 10)), (1.8, 1.8, 3.0)),
    )
    arteries = (
        Tube(((0, -1, -26), (0, -4, -2)), (1.5, 1.5)),
        Tube(((8, -12, -4), (8, -14, 3), (22, -20, 4), (33, -18, 6)), (1.8, 1.6, 1.3, 1.1), mirrored=True),
    )
    for vessel, value in (*((v, SINUS) for v in veins), *((a, ARTERY) for a in arteries)):
        paint(hu, grid, vessel, value)
    solid = np.minimum(solid, nearby(grid, veins + arteries))
    plexus = float(rng.uniform(1.2, 3.2))
    paint(hu, grid, Ellipsoid((0, 23, 14), (2, 2.5, 2)), 70 + 300 * body.calcified)
    paint(
        hu, grid, Ellipsoid((22, 33, 19), (plexus, plexus, plexus), mirrored=True), 50 + 250 * body.calcified
    )
    paint(hu, grid, Ellipsoid((19, -8, 11), (2, 3, 1.5), mirrored=True), 40 + 20 * body.calcified)
    return solid
