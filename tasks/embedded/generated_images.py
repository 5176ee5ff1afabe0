"""Generated images with structure that a small network learns within some hundred steps.

Fields image uint8 (N, H, W, C) and label int64 (N,). Pixels are rounded to bytes, which hides the last bits of sines
that differ between machines.
"""

import numpy as np

from tasks.embedded.splits import Splits, power_law_labels, split_examples


def gratings() -> Splits:
    """Gratings, the stimuli of visual psychophysics: 4,800 and 1,200 images of 8 x 8 x 1, 8 equally likely classes.

        pixel = 1/2 + c/2 cos(2 pi f (u cos a + v sin a) + p) + noise,    (u, v) in [-1/2, 1/2]^2

    label = 2 i + j with the angle a = i pi / 4, i in 0..3, and f = 1.5 (j = 0) or 2.5 (j = 1) cycles an image;
    contrast c uniform in [0.4, 1], phase p uniform, noise of deviation 0.2. As the phase is uniform, the mean image
    of every class is nearly grey: a linear classifier gets a third right, a small perceptron nearly all.
    """
    count, side = 6000, 8
    random = np.random.RandomState(1)
    label = random.randint(8, size=count)
    contrast = random.uniform(0.4, 1.0, count)
    phase = random.uniform(0.0, 2 * np.pi, count)
    v, u = _grid(side)
    angle = (label // 2) * np.pi / 4
    place = np.cos(angle)[:, None, None] * u + np.sin(angle)[:, None, None] * v
    wave = np.cos(2 * np.pi * np.array([1.5, 2.5])[label % 2][:, None, None] * place + phase[:, None, None])
    image = 0.5 + contrast[:, None, None] / 2 * wave + random.normal(0.0, 0.2, wave.shape)
    return split_examples({"image": _to_bytes(image[..., None]), "label": label.astype(np.int64)})


def shapes() -> Splits:
    """Filled shapes on a plain ground: 4,800 and 1,200 images of 16 x 16 x 3, 6 equally likely classes.

    Labels: 0 disc, 1 ring, 2 triangle, 3 square, 4 cross, 5 star of five points. Circumradius uniform in 4..7
    pixels, rotation uniform, centre uniform where the shape fits; shape and ground have independent uniform colours,
    drawn again until they differ by 0.5 at least in Euclidean distance; noise of deviation 0.05. Three by three samples
    a pixel. Invariance to place, size, rotation and colour is to be learned: a linear classifier is near chance
    (1/6).
    """
    count, side, fine = 6000, 16, 3
    random = np.random.RandomState(2)
    label = random.randint(6, size=count)
    radius = random.uniform(4.0, 7.0, count) / side
    turn = random.uniform(0.0, 2 * np.pi, count)
    centre = random.uniform(-1.0, 1.0, (count, 2)) * (0.5 - radius)[:, None]
    colours = random.uniform(0.0, 1.0, (count, 2, 3))
    while (near := np.linalg.norm(colours[:, 0] - colours[:, 1], axis=1) < 0.5).any():
        colours[near] = random.uniform(0.0, 1.0, (near.sum(), 2, 3))
    v, u = (axis.ravel().astype(np.float32) for axis in _grid(side * fine))
    covered = np.empty((count, side, side))
    for kind, inside in enumerate((_disc, _ring, _triangle, _square, _cross, _star)):
        (rows,) = np.nonzero(label == kind)
        scale, cos, sin = (a[rows, None].astype(np.float32) for a in (radius, np.cos(turn), np.sin(turn)))
        x, y = ((axis[None] - centre[rows, i, None].astype(np.float32)) / scale for i, axis in enumerate((u, v)))
        samples = inside(cos * x + sin * y, cos * y - sin * x)
        covered[rows] = samples.reshape(-1, side, fine, side, fine).mean(axis=(2, 4))
    image = covered[..., None] * colours[:, None, None, 0] + (1 - covered[..., None]) * colours[:, None, None, 1]
    image += random.normal(0.0, 0.05, image.shape)
    return split_examples({"image": _to_bytes(image), "label": label.astype(np.int64)})


def zipf_textures() -> Splits:
    """Textures with heavy-tailed classes: 4,800 and 1,200 images of 8 x 8 x 1, 32 classes.

    Class k has a share in proportion to 1 / (k + 1), Zipf's law: from 1,478 examples down to 46, both splits
    together. Each class is a sum of three plane waves of whole periods, of deviation 0.15 about a grey of 1/2, seen
    through a cyclic shift by 0 or 1 pixels in each direction, under noise of deviation 0.15. Under such frequencies
    Adam outpaces SGD, because the loss of the rare classes falls slowly (Kunstner et al. 2024, arXiv:2402.19449).
    """
    count, side, classes, waves = 6000, 8, 32, 3
    random = np.random.RandomState(3)
    label = power_law_labels(count, classes, 1.0)
    v, u = _grid(side)
    periods = random.randint(0, 4, (classes, waves, 2))
    phase = random.uniform(0.0, 2 * np.pi, (classes, waves))
    place = periods[..., 0, None, None] * u + periods[..., 1, None, None] * v
    texture = np.cos(2 * np.pi * place + phase[..., None, None]).sum(axis=1)
    texture -= texture.mean(axis=(1, 2), keepdims=True)
    texture *= 0.15 / texture.std(axis=(1, 2), keepdims=True)
    shifts = np.stack([np.roll(texture, (down, right), axis=(1, 2)) for down in (0, 1) for right in (0, 1)])
    image = 0.5 + shifts[random.randint(4, size=count), label] + random.normal(0.0, 0.15, (count, side, side))
    return split_examples({"image": _to_bytes(image[..., None]), "label": label})


def _grid(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres of pixels, (rows, columns), in [-1/2, 1/2]."""
    centre = (np.arange(side) + 0.5) / side - 0.5
    v, u = np.meshgrid(centre, centre, indexing="ij")
    return v, u


def _to_bytes(image: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(255 * image), 0, 255).astype(np.uint8)


# Whether points (x, y) are inside a shape of circumradius 1.


def _disc(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x * x + y * y < 1


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x * x + y * y < 1) & (x * x + y * y > 0.3)


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (y > -0.5) & (y + np.sqrt(np.float32(3)) * np.abs(x) < 1)


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) < np.sqrt(np.float32(0.5))


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (np.minimum(np.abs(x), np.abs(y)) < 0.25) & (np.maximum(np.abs(x), np.abs(y)) < 0.96)


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A pentagram, inside at least four of the five half-planes that its lines bound."""
    angle = np.pi * (0.5 + 0.4 * np.arange(5))
    distance = np.float32(np.cos(0.4 * np.pi))
    inside = sum((x * np.float32(np.cos(a)) + y * np.float32(np.sin(a)) < distance).astype(np.int8) for a in angle)
    return np.asarray(inside) >= 4
