"""The demo's two models, a stepped tower and a ring.

`python make_models.py FOLDER` writes them as ASCII STL; `python make_models.py --thumbnails FILE.gcode` puts their
picture at the head of a sliced file, as PrusaSlicer's window does (its command line has no picture to put there).
"""

from __future__ import annotations

import base64
import math
import struct
import sys
import zlib
from pathlib import Path

Point = tuple[float, float, float]
Loop = list[tuple[float, float]]
Triangle = tuple[Point, Point, Point]


def prism(loop: Loop, bottom: float, top: float) -> list[Triangle]:
    """A convex outline (mm, counter-clockwise), extruded from `bottom` to `top` mm."""
    triangles: list[Triangle] = []
    for index, (x, y) in enumerate(loop):
        u, v = loop[(index + 1) % len(loop)]
        triangles += [((x, y, bottom), (u, v, bottom), (u, v, top)), ((x, y, bottom), (u, v, top), (x, y, top))]
    for index in range(1, len(loop) - 1):
        a, b, c = loop[0], loop[index], loop[index + 1]
        triangles += [((*a, top), (*b, top), (*c, top)), ((*a, bottom), (*c, bottom), (*b, bottom))]
    return triangles


def tube(outer: float, inner: float, height: float, sides: int) -> list[Triangle]:
    """A ring of `sides` flat sides; radii and height in mm."""

    def loop(radius: float) -> Loop:
        turns = [math.tau * i / sides for i in range(sides)]
        return [(radius * math.cos(turn), radius * math.sin(turn)) for turn in turns]

    big, small = loop(outer), loop(inner)
    triangles: list[Triangle] = []
    for i in range(sides):
        j = (i + 1) % sides
        for ring, turn in ((big, False), (small, True)):
            a, b, c, d = (*ring[i], 0.0), (*ring[j], 0.0), (*ring[j], height), (*ring[i], height)
            triangles += [(a, c, b), (a, d, c)] if turn else [(a, b, c), (a, c, d)]
        for z, turn in ((height, False), (0.0, True)):
            a, b, c, d = (*big[i], z), (*big[j], z), (*small[j], z), (*small[i], z)
            triangles += [(a, c, b), (a, d, c)] if turn else [(a, b, c), (a, c, d)]
    return triangles


def save(path: Path, triangles: list[Triangle]) -> None:
    """Normals are left to the reader of the file: every slicer computes them anyway."""
    lines = [f"solid {path.stem}"]
    for triangle in triangles:
        corners = [f"vertex {x:.4f} {y:.4f} {z:.4f}" for x, y, z in triangle]
        lines += ["facet normal 0 0 0", "outer loop", *corners, "endloop", "endfacet"]
    path.write_text("\n".join([*lines, f"endsolid {path.stem}"]) + "\n")


def plate() -> list[list[Triangle]]:
    """Both models as they lie on the bed, in parts that can be painted one over the other."""
    steps = [prism(square(half), step * 1.6, (step + 1) * 1.6) for step, half in enumerate((9.0, 7.0, 5.0))]
    ring = [[(x + 22.0, y, z) for x, y, z in triangle] for triangle in tube(9.0, 6.0, 3.2, 32)]
    return [*steps, [(a, b, c) for a, b, c in ring]]


def square(half: float) -> Loop:
    """A square around the origin."""
    return [(-half, -half), (half, -half), (half, half), (-half, half)]


def picture(size: int) -> bytes:
    """A PNG of `size` x `size`: the plate seen from above at an angle, of each part the farthest triangle first."""
    pixels = [bytearray(b"\x24\x2a\x33" * size) for _ in range(size)]
    scale = size / 52.0

    def seen(p: Point) -> Point:
        x, y = p[0] - 11.0, p[1]
        right, away = x * 0.87 + y * 0.5, y * 0.87 - x * 0.5
        return (size / 2 + right * scale, size * 0.55 - (away * 0.5 + p[2] * 1.4) * scale, away - p[2])

    for part in plate():
        for triangle in sorted(part, key=lambda t: -sum(seen(p)[2] for p in t)):
            paint(pixels, [seen(p) for p in triangle], shade(triangle), size)
    rows = b"".join(b"\0" + bytes(row) for row in pixels)
    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows, 9)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def chunk(kind: bytes, data: bytes) -> bytes:
    """One PNG chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def shade(triangle: Triangle) -> bytes:
    """Flat shading by the normal: tops are bright."""
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = triangle
    u, v = (bx - ax, by - ay, bz - az), (cx - ax, cy - ay, cz - az)
    n = (u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0])
    light = 0.35 + 0.65 * max(0.0, (n[0] * -0.3 + n[1] * -0.5 + n[2] * 0.8) / (math.hypot(*n) or 1.0))
    return bytes(int(c * min(1.0, light)) for c in (240, 140, 40))


def paint(pixels: list[bytearray], corners: list[Point], color: bytes, size: int) -> None:
    """Fill a triangle."""
    (ax, ay, _), (bx, by, _), (cx, cy, _) = corners
    area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
    if abs(area) < 1e-9:
        return
    for y in range(max(0, int(min(ay, by, cy))), min(size, int(max(ay, by, cy)) + 2)):
        for x in range(max(0, int(min(ax, bx, cx))), min(size, int(max(ax, bx, cx)) + 2)):
            u = ((bx - x) * (cy - y) - (cx - x) * (by - y)) / area
            v = ((cx - x) * (ay - y) - (ax - x) * (cy - y)) / area
            if u >= 0 and v >= 0 and u + v <= 1:
                pixels[y][x * 3 : x * 3 + 3] = color


def add_thumbnails(path: Path) -> None:
    """After the slicer's first line, in its own notation."""
    first, _, rest = path.read_text().partition("\n")
    blocks = []
    for size in (32, 300):
        data = base64.b64encode(picture(size)).decode()
        lines = [f"; {data[i : i + 78]}" for i in range(0, len(data), 78)]
        blocks += [";", f"; thumbnail begin {size}x{size} {len(data)}", *lines, "; thumbnail end", ";"]
    path.write_text("\n".join([first, "", *blocks]) + "\n" + rest)


def main() -> None:
    """The two uses."""
    if sys.argv[1] == "--thumbnails":
        add_thumbnails(Path(sys.argv[2]))
        return
    folder = Path(sys.argv[1])
    *steps, ring = plate()
    save(folder / "tower.stl", [triangle for step in steps for triangle in step])
    save(folder / "ring.stl", ring)


if __name__ == "__main__":
    main()
