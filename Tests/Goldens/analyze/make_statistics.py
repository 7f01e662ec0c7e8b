"""Writes the statistics of a few small patches, by their definitions, for the analysis tests.

    pip install numpy==2.4.6 scipy==1.17.1
    python make_statistics.py

statistics.json: `cases`, each with a weight W [m, n], C [n, n], H [m, m] (block-diagonal: `blocks`
of equal size), the side that is cut (`axis`) into `count` patches, and per patch the expected
statistics and log spectra. Numbers are rounded to 6 decimals before anything is computed from them.
Spectra: logarithms of the singular values of W and of H^1/2 W C^1/2 (square roots by eigh), largest
first, floored at 1e-6 of the largest, interpolated linearly at (k + 1/2)/32 of the way.
"""

import json

import numpy as np
from scipy.stats import norm

rng = np.random.default_rng(5)


def root(a):
    values, vectors = np.linalg.eigh(a)
    return vectors @ np.diag(np.sqrt(np.maximum(values, 0))) @ vectors.T


def moment(n, samples):
    x = rng.normal(size=(samples, n)) * np.exp(rng.normal(size=n))
    return np.round(x.T @ x / samples, 6)


def resampled(values):
    values = np.log(np.maximum(values, 1e-6 * values[0]))
    places = np.clip((np.arange(32) + 0.5) / 32 * len(values) - 0.5, 0, len(values) - 1)
    return np.interp(places, np.arange(len(values)), values)


def patch(w, c, h):
    rms = np.sqrt(np.mean(w**2))
    plain = np.linalg.svd(w, compute_uv=False)
    weighted = np.linalg.svd(root(h) @ w @ root(c), compute_uv=False)
    powers = weighted**2
    return {
        "statistics": {
            "magnitude": rms,
            "sparsity": float(np.mean(np.abs(w) < 0.1 * rms)),
            "kurtosis": np.mean(w**4) / rms**4,
            "condition": plain[0] / max(plain[-1], 1e-6 * plain[0]),
            "trace": 0.5 * np.trace(w.T @ h @ w @ c),
            "rank": powers.sum() ** 2 / (powers**2).sum() / len(powers),
            "gradient": np.mean(np.diag(h)),
            "activation": np.mean(np.diag(c)),
        },
        "spectra": {
            "weight": resampled(plain).tolist(),
            "weighted": resampled(weighted).tolist(),
        },
    }


def case(m, n, axis, count, blocks):
    w = np.round(norm.ppf(rng.uniform(0.001, 0.999, size=(m, n))) * 0.1, 6)
    c = moment(n, 4 * n)
    h = np.zeros((m, m))
    size = m // blocks
    for b in range(blocks):
        h[b * size : (b + 1) * size, b * size : (b + 1) * size] = moment(size, 3 * size)
    patches = []
    for k in range(count):
        if axis == "outputs":
            r = slice(k * m // count, (k + 1) * m // count)
            patches.append(patch(w[r], c, h[r, r]))
        else:
            r = slice(k * n // count, (k + 1) * n // count)
            patches.append(patch(w[:, r], c[r, r], h))
    return {
        "weight": w.tolist(), "input": c.tolist(), "output": h.tolist(), "blocks": blocks,
        "axis": axis, "count": count, "patches": patches,
    }


cases = [
    case(16, 12, "outputs", 2, 2),  # wide patches
    case(18, 6, "outputs", 2, 1),  # tall patches of a metric that is cut
    case(10, 24, "inputs", 3, 5),  # patches of columns
]
with open("statistics.json", "w") as file:
    json.dump({"cases": cases}, file)
