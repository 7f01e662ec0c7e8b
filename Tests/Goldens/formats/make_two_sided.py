"""Writes the two-sided optimum of small weights by numpy and scipy, for WhitenedSVD's tests.

    pip install numpy==2.4.6 scipy==1.17.1
    python make_two_sided.py

two_sided.json: per case `weight` W [m, n], `input` C [n, n], `runs` H as lists of equal blocks along
its diagonal, `rank`, `energies` σ_i² of H^½ W C^½ (descending) and `product` Ŵ = H^−½ [H^½ W C^½]_r
C^−½ [m, n], all float64 row by row. Roots and inverses are scipy's sqrtm and solve.
"""

import json
from pathlib import Path

import numpy as np
import scipy.linalg

HERE = Path(__file__).resolve().parent


def moment(rng: np.random.Generator, size: int) -> np.ndarray:
    x = rng.standard_normal((4 * size, size)) * np.exp(rng.standard_normal(size) / 2)
    return x.T @ x / len(x)


def case(rng: np.random.Generator, m: int, n: int, runs: list[tuple[int, int]], rank: int) -> dict:
    w, c = rng.standard_normal((m, n)), moment(rng, n)
    blocks = [[moment(rng, size) for _ in range(count)] for count, size in runs]
    h = scipy.linalg.block_diag(*[block for run in blocks for block in run])
    assert h.shape == (m, m)
    left, right = np.real(scipy.linalg.sqrtm(h)), np.real(scipy.linalg.sqrtm(c))
    u, s, vt = np.linalg.svd(left @ w @ right)
    kept = (u[:, :rank] * s[:rank]) @ vt[:rank]
    product = np.linalg.solve(left, np.linalg.solve(right, kept.T).T)
    delta = w - product
    assert np.isclose(np.trace(delta.T @ h @ delta @ c), (s[rank:] ** 2).sum(), rtol=1e-9)
    return {
        "weight": w.tolist(),
        "input": c.tolist(),
        "runs": [[block.tolist() for block in run] for run in blocks],
        "rank": rank,
        "energies": (s**2).tolist(),
        "product": product.tolist(),
    }


def main() -> None:
    rng = np.random.default_rng(5)
    cases = [
        case(rng, 8, 11, [(1, 8)], 3),
        case(rng, 8, 11, [(2, 3), (2, 1)], 5),
        case(rng, 12, 7, [(3, 2), (1, 6)], 4),
        case(rng, 9, 9, [(9, 1)], 2),
    ]
    document = {"cases": cases, "numpy": np.__version__, "scipy": scipy.__version__}
    (HERE / "two_sided.json").write_text(json.dumps(document) + "\n")


if __name__ == "__main__":
    main()
