"""Goldens of the quantiser: GPTQ with feedback between rows, one number after the other in float64.

Written with Python 3.11, numpy 2.4 and scipy 1.17: pip install numpy scipy
Run: python make_quantizers.py   (writes quantizers.json beside it)

Weights are integers / 128 and second moments come from integer matrices, so that both sides start
from the same numbers. A case is kept only if no rounding and no choice of a scale hangs by less
than what float32 can move.
"""

import json
import os

import numpy as np
from scipy.optimize import fsolve
from scipy.special import ndtr, ndtri


def levels(bits, kind="normal"):
    """By code. Lloyd-Max levels of the normal distribution, the largest 1; equally spaced at 8 bits, or
    e4m3's numbers / 448, infinity for codes that rounding never gives: NaN and -0."""
    if kind == "float8":
        exponent, mantissa = np.arange(128) >> 3, np.arange(128) & 7
        value = np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7))
        value[127] = np.inf
        table = np.concatenate([value, -value]) / 448
        table[128] = np.inf
        return table
    if bits == 8:
        return (2 * np.arange(256) - 255) / 255
    half = 2 ** (bits - 1)

    def density(t):
        finite = np.where(np.isinf(t), 0, t)
        return np.where(np.isinf(t), 0, np.exp(-finite * finite / 2)) / np.sqrt(2 * np.pi)

    def gap(x):
        t = np.concatenate([[0], (x[1:] + x[:-1]) / 2, [np.inf]])
        return (density(t[:-1]) - density(t[1:])) / (ndtr(-t[:-1]) - ndtr(-t[1:])) - x

    start = np.sqrt(3) * ndtri((np.arange(half) + 0.5 + half) / (2 * half))
    x = fsolve(gap, start, xtol=1e-12)
    x = np.round(x / x[-1], 6)
    return np.concatenate([-x[::-1], x])


class Doubt(Exception):
    pass


def nearest(value, scale, table):
    if scale == 0:
        return 0, 0.0
    distances = np.abs(value / scale - table)
    order = np.argsort(distances, kind="stable")
    spacing = abs(table[order[1]] - table[order[0]])
    if distances[order[1]] - distances[order[0]] < min(1e-4, spacing / 50):
        raise Doubt
    return int(order[0]), table[order[0]] * scale


def scale_of(code, base):
    return 0.0 if code == 255 else base * 2.0 ** (-code / 16)


def search(group, weights, base, table):
    peak = np.abs(group).max()
    if peak == 0:
        return 255
    exact = -16 * np.log2(peak / base)
    if 0 < abs(exact - round(exact)) < 1e-3:
        raise Doubt
    start = min(max(int(np.floor(exact)), 0), 254)
    errors = {}
    for step in range(-5, 13):
        code = min(max(start + step, 0), 254)
        scale = scale_of(code, base)
        rounded = table[np.abs(group[:, None] / scale - table[None]).argmin(1)] * scale
        errors.setdefault(code, (weights * (rounded - group) ** 2).sum())
    ranked = sorted(errors.items(), key=lambda item: item[1])
    if ranked[1][1] - ranked[0][1] < 1e-4 * ranked[0][1]:
        raise Doubt
    return ranked[0][0]


def gptq(targets, moment, base, table, group_size):
    """Rows [m, n] towards `targets`: codes, scale codes, values."""
    targets = targets.copy()
    m, n = targets.shape
    mean = np.trace(moment) / n
    inverse = np.linalg.inv(moment + 0.01 * mean * np.eye(n))
    upper = np.linalg.cholesky(inverse).T
    weights = 1 / np.diag(upper) ** 2
    weights = weights / weights.mean()
    codes = np.zeros((m, n), int)
    scales = np.zeros((m, -(-n // group_size)), int)
    for j in range(n):
        g = j // group_size
        for i in range(m):
            if j % group_size == 0:
                end = min(j + group_size, n)
                scales[i, g] = search(targets[i, j:end], weights[j:end], base, table)
            codes[i, j], value = nearest(targets[i, j], scale_of(scales[i, g], base), table)
            error = value - targets[i, j]
            targets[i, j] = value
            for k in range(j + 1, n):
                targets[i, k] += error * upper[j, k] / upper[j, j]
    return codes, scales, targets


def case(rng, m, n, tokens, bits, group_size, chunks, dead, kind="normal"):
    weight = rng.integers(-127, 128, (m, n))
    x = rng.integers(-6, 7, (tokens, n))
    x[:, : n // 2] *= 2
    if dead:
        x[:, n // 3] = 0
    gradients = rng.integers(-4, 5, (3 * m, m)) if chunks > 1 else None
    w = weight / 128
    moment = x.T @ x / tokens
    base = np.float32(2 * np.abs(w).max())
    table = levels(bits, kind)
    codes = np.zeros((m, n), int)
    scales = np.zeros((m, -(-n // group_size)), int)
    if gradients is None:
        codes, scales, _ = gptq(w, moment, float(base), table, group_size)
    else:
        h = gradients.T @ gradients / len(gradients)
        h = h / (np.trace(h) / m) + 0.05 * np.eye(m)
        targets = w.copy()
        bounds = [c * m // chunks for c in range(chunks + 1)]
        for a, b in zip(bounds, bounds[1:]):
            codes[a:b], scales[a:b], values = gptq(targets[a:b], moment, float(base), table, group_size)
            error = values - targets[a:b]
            if b < m:
                targets[b:] -= np.linalg.inv(h[b:, b:]) @ h[b:, a:b] @ error
    return {
        "bits": bits,
        "levels": kind,
        "group_size": group_size,
        "chunks": chunks,
        "weight": weight.tolist(),
        "inputs": x.tolist(),
        "gradients": gradients.tolist() if gradients is not None else None,
        "base": float(base),
        "codes": codes.tolist(),
        "scales": scales.tolist(),
    }


def main():
    rng = np.random.default_rng(7)
    wanted = [
        (6, 20, 60, 3, 8, 1, False),
        (5, 23, 60, 4, 5, 1, True),
        (4, 12, 5, 2, 40, 1, False),
        (2, 150, 40, 5, 48, 1, False),
        (1, 300, 40, 2, 270, 1, False),
        (3, 18, 40, 6, 6, 1, False),
        (2, 11, 40, 8, 4, 1, False),
        (8, 20, 60, 3, 8, 2, False),
        (7, 16, 9, 4, 16, 7, False),
        (4, 18, 60, 8, 8, 1, False, "float8"),
    ]
    cases = []
    for arguments in wanted:
        for _ in range(10000):
            try:
                cases.append(case(rng, *arguments))
                break
            except Doubt:
                continue
        else:
            raise SystemExit(f"no case without doubt for {arguments}")
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "quantizers.json")
    with open(path, "w") as file:
        json.dump({"cases": cases}, file, separators=(",", ":"))
        file.write("\n")


main()
