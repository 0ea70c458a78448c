"""Skull and what surrounds the brain of a simulated head: cavity, vault, base, face, scalp."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from sahlora.simulation.fields import (
    Array,
    Ellipsoid,
    Grid,
    Shape,
    Tube,
    fraction,
    paint,
    smooth_noise,
    smooth_union,
)

AIR, FAT, MUSCLE, BONE = -1000.0, -95.0, 55.0, 1150.0


def cavity_of(rng: np.random.Generator, grid: Grid) -> Array:
    """Return the signed distance to the inner table: vault, middle and posterior fossae, foramen magnum."""
    x, y, z = grid.coordinates
    narrow_front = 4 * np.clip(-(y + 20) / 60, 0, 1) * (np.abs(x) / 60)
    vault = Ellipsoid((0, 0, 13), (68, 84, 66)).distance(grid) + narrow_front
    plane = Grid(grid.start, (1, *grid.shape[1:]))
    domes = np.exp(-(((np.abs(x) - 29) / 13) ** 2) - ((y + 60) / 17) ** 2)  # roofs of the orbits
    anterior = 1 + 0.22 * np.clip(-(y + 32), 0, 42) + 9 * domes + 2 * smooth_noise(rng, plane, 30)
    floor = ndimage.gaussian_filter1d(np.where(y < -32, anterior, 0).astype(np.float32), 4, axis=1)
    supratentorial = np.maximum(vault, floor - z)
    middle = Ellipsoid((36, -16, -2), (27, 31, 21), mirrored=True).distance(grid)
    posterior = Ellipsoid((0, 37, -10), (55, 43, 38)).distance(grid)
    magnum = Tube(((0, 16, -36), (0, 18, -90)), (15, 15)).distance(grid)
    base = smooth_union(np.minimum(posterior, middle), magnum, 6)
    return smooth_union(supratentorial, base, 4) + np.float32(0.8) * smooth_noise(rng, grid, 60)


def surroundings(rng: np.random.Generator, grid: Grid, cavity: Array, vault: float, covering: float) -> Array:
    """Return the HU of everything but the cavity's content.

    Parameters
    ----------
    cavity : array (Z, Y, X)
        Signed distance to the inner table in mm.
    vault, covering : float
        Thickness of the skull's vault and of the scalp in mm.
    """
    _, y, z = grid.coordinates
    texture = smooth_noise(rng, grid, 22)
    orbital = np.clip((26 - z) / 6, 0, 1) * np.clip(-(y + 16) / 12, 0, 1) * np.clip((y + 84) / 6, 0, 1)
    skull = (np.float32(vault) + np.float32(0.9) * smooth_noise(rng, grid, 50)) * (1 - 0.75 * orbital)
    head = np.minimum(cavity - (skull + np.float32(covering)), _face_and_neck(grid))
    muscle = MUSCLE + (FAT - MUSCLE) * np.clip(3 * np.abs(texture + 0.5) - 0.3, 0, 1) * (texture < -0.1)
    temporal = Ellipsoid((70, -18, 2), (22, 36, 44), mirrored=True).distance(grid)
    scalp = np.where((cavity - skull > 0.3 * covering) & (temporal > 0), FAT, MUSCLE - 10)
    hu = np.where(z > 5, scalp, muscle).astype(np.float32)
    hu = np.where(head > -2.2, np.float32(40), np.where(head > -4.5, np.float32(FAT), hu))  # skin on fat
    hu = AIR + fraction(head) * (hu - AIR)
    _paint_face(hu, rng, grid)
    return _with_skull(hu, cavity, skull, texture)


def _face_and_neck(grid: Grid) -> Array:
    face = Ellipsoid((0, -44, -38), (62, 56, 62)).distance(grid)
    nose = Tube(((0, -90, -4), (0, -106, -34)), (7, 11)).distance(grid)
    neck = Ellipsoid((0, 18, -60), (64, 66, 80)).distance(grid)
    return smooth_union(smooth_union(face, neck, 10), nose, 8)


def _with_skull(hu: Array, cavity: Array, skull: Array, texture: Array) -> Array:
    """Add the vault: dense inner and outer tables, diploë between them."""
    across = cavity / skull
    diploe = np.exp(-(((across - 0.5) / 0.2) ** 2)) * (0.5 + 0.15 * texture)
    dense = np.float32(BONE + 350) * (1 - np.clip(diploe, 0, 0.75))
    return hu + fraction(np.abs(cavity - skull / 2) - skull / 2) * (dense - hu)


def _paint_face(hu: Array, rng: np.random.Generator, grid: Grid) -> None:
    """Paint orbits, air cells, skull base and jaw."""
    cells = np.where(_air_cells(rng, grid, 9.0), np.float32(AIR + 30), np.float32(650))
    spongy = np.float32(750) + 250 * smooth_noise(rng, grid, 8)
    jaw = Tube(((50, -20, -30), (47, -28, -84)), (4, 6), mirrored=True)
    arch = Tube(((56, -8, -26), (60, -40, -24), (46, -72, -24)), (3, 3.5, 4), mirrored=True)
    bones: tuple[tuple[Shape, float | Array], ...] = (
        (Tube(((0, -16, -16), (0, 8, -42)), (15, 8)), spongy),
        (Tube(((12, -4, -16), (34, 8, -14), (58, 20, -16)), (8, 11, 15), mirrored=True), 1250.0),
        (Ellipsoid((58, 24, -24), (11, 15, 17), mirrored=True), cells),
        (jaw, 1100.0),
        (arch, 1000.0),
    )
    for shape, value in bones:
        paint(hu, grid, shape, value)
    hollows: tuple[tuple[Shape, float, float | Array], ...] = (
        (Ellipsoid((30, -62, -2), (18, 27, 18), mirrored=True), 1.2, FAT),
        (Ellipsoid((28, -62, -40), (15, 17, 17), mirrored=True), 1.5, AIR),
        (Ellipsoid((0, -64, -42), (11, 32, 22)), 1.0, AIR),
        (Ellipsoid((0, -58, -6), (11, 24, 13)), 1.0, cells),
        (Ellipsoid((7, -23, -12), (6, 10, 8), mirrored=True), 1.0, AIR),
        (Ellipsoid((10, -87, 14), (9, 5, 12), mirrored=True), 1.5, AIR),
        (Tube(((52, 2, -18), (76, 2, -20)), (2.5, 3), mirrored=True), 0.5, AIR),
    )
    for shape, wall, value in hollows:
        paint(hu, grid, shape, 900.0, margin=wall)
        paint(hu, grid, shape, value)
    soft: tuple[tuple[Shape, float], ...] = (
        (Ellipsoid((0, -64, -42), (1.2, 30, 24)), 500.0),
        (Tube(((7, -80, -46), (7, -44, -46)), (3.5, 4), mirrored=True), 50.0),
        (Ellipsoid((32, -76, -3), (12.3, 12.3, 12.3), mirrored=True), 50.0),
        (Ellipsoid((32, -76, -3), (11.2, 11.2, 11.2), mirrored=True), 10.0),
        (Ellipsoid((32, -85, -3), (4.5, 2.2, 4.5), mirrored=True), 75.0),
        (Tube(((31, -65, -3), (22, -48, -2), (8, -30, 0)), (2.2, 2.2, 2.2), mirrored=True), 35.0),
        (Tube(((43, -72, -3), (36, -55, -3), (22, -42, -3)), (1.8, 2.6, 1.5), mirrored=True), 52.0),
        (Tube(((19, -74, -3), (18, -55, -3), (18, -42, -3)), (1.8, 2.6, 1.5), mirrored=True), 52.0),
    )
    for shape, value in soft:
        paint(hu, grid, shape, value)


def _air_cells(rng: np.random.Generator, grid: Grid, size: float) -> Array:
    """True in air cells of about `size` mm, False in their walls."""
    return np.abs(smooth_noise(rng, grid, 2 * size)) > 0.3
