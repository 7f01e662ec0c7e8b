"""Writes what tensorly and numpy make of small matrices, for the tensor formats' tests.

    pip install numpy==2.4.6 scipy==1.17.1 tensorly==0.10.0 safetensors==0.8.0
    python make_formats.py

formats.json lists the cases, formats.safetensors (f32) holds the matrices:

  weight.<name>   W [m, n], what is approximated; `decaying` has a clear spectrum, `flat` has not
  moment.<name>   C [n, n], a second moment E[x xᵀ] of inputs: `full` from 400 tokens, `deficient`
                  from 20 (rank 20 of 36; after rounding to float32 its null space holds values of
                  about ±1e-7·λmax, so it is not quite positive semidefinite)
  <case>          Ŵ [m, n], the expected reconstruction

Everything is computed in float64 from the stored float32 values and rounded once, at the end.
Per case: `weight`, `moment` (whitened SVD only), the format's own fields (below), `parameters`
(numbers stored in all factors), `error` = ‖W − Ŵ‖_F, `relative` = error / ‖W‖_F, and `sensitivity`
= max ‖δŴ‖_F / ‖δW‖_F over 8 random perturbations of relative size 1e-7 (float32 rounding): how much
a backward-stable float32 implementation may honestly differ.

Index orders; every reshape is row major (C order, last index fastest), y = W x, W is [out, in]:

  svd           Ŵ = U_r diag(s_r) V_rᵀ. `rank`.
  whitened      eigh(W C Wᵀ) = U Λ Uᵀ, eigenvalues descending; A = U_r [m, r], B = U_rᵀ W [r, n],
                Ŵ = A B. `rank`, `weighted_error` = sqrt(tr(Δ C Δᵀ)), Δ = Ŵ − W, which equals
                `tail` = sqrt(Σ_{i ≥ r} max(λ_i, 0)).
  tucker        W.reshape(modes); `modes` = [heads, head_dim, in] with heads · head_dim = m.
                Ŵ = core ×_k factor_k over `factor_modes`; factors [modes[k], ranks[k]] orthonormal,
                core [ranks…] with modes[k] for a mode without factor. `sweeps` 0 is HOSVD (each
                factor from the SVD of that mode's unfolding of W, core = W ×_k factor_kᵀ);
                1 is one HOOI sweep after it (modes in order); -1 is HOOI until the relative error
                moves by less than 1e-13.
  tt            matrix TT (MPO). W.reshape(o_1, …, o_d, i_1, …, i_d), axes reordered to
                (o_1, i_1, o_2, i_2, …, o_d, i_d), each pair (o_k, i_k) merged to one mode
                n_k = o_k · i_k with index o·i_k + i. TT-SVD from left to right, truncated to
                `ranks` [1, r_1, …, r_{d−1}, 1]; core_k [r_{k−1}, n_k, r_k] = [r, o_k, i_k, r′].
  tt2d          a plain TT-SVD over `modes` of W.reshape(modes): output modes split, the input whole
                and last, no pairing. core_k [r_{k−1}, modes[k], r_k].
  ring          the merged modes (n_1, …, n_d) of `tt`; TR-SVD (Zhao et al. 2016, algorithm 1),
                `ranks` [r_0, r_1, …, r_{d−1}, r_0]: the SVD of the first unfolding
                [n_1, n_2⋯n_d] keeps r_0·r_1 triplets; core_1[a, n, b] = U[n, a·r_1 + b];
                the rest S Vᵀ [r_0·r_1, n_2⋯n_d] is reshaped to [r_0, r_1, …], moved to
                [r_1, n_2⋯n_d, r_0] and goes through TT-SVD; the last core is
                [r_{d−1}, n_d, r_0]. Ŵ[n_1…n_d] = trace(core_1[:, n_1, :] ⋯ core_d[:, n_d, :]).
                The result depends on the signs of the first SVD: in every SVD here each column of
                U is flipped so that its entry of largest magnitude is positive, V with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorly
from safetensors.numpy import save_file
from tensorly.decomposition import partial_tucker, tensor_ring, tensor_train
from tensorly.tenalg import multi_mode_dot

HERE = Path(__file__).resolve().parent
M, N = 24, 36

Array = np.ndarray[Any, np.dtype[np.float64]]
Decompose = Callable[[Array], tuple[Array, int]]  # W to (Ŵ, parameters)


def single(values: Array) -> Array:
    """Rounded to float32 and back, so that what is stored is what is computed with."""
    return values.astype(np.float32).astype(np.float64)


def make_weights() -> dict[str, Array]:
    rng = np.random.default_rng(2)
    u, _ = np.linalg.qr(rng.standard_normal((M, M)))
    v, _ = np.linalg.qr(rng.standard_normal((N, M)))
    decaying = (u * (4.0 * 0.8 ** np.arange(M))) @ v.T
    return {"decaying": single(decaying), "flat": single(rng.standard_normal((M, N)) / 5)}


def make_moments() -> dict[str, Array]:
    rng = np.random.default_rng(3)
    scale = np.exp(rng.standard_normal(N))  # a few loud channels, as activations have
    mix = np.eye(N) + 0.3 * rng.standard_normal((N, N)) / np.sqrt(N)
    moments = {}
    for name, tokens in (("full", 400), ("deficient", 20)):
        x = rng.standard_normal((tokens, N)) @ mix * scale
        moments[name] = single(x.T @ x / tokens)
    return moments


def sensitivity(w: Array, decompose: Decompose, approximation: Array) -> float:
    rng = np.random.default_rng(4)
    worst = 0.0
    for _ in range(8):
        noise = rng.standard_normal(w.shape)
        noise *= 1e-7 * np.linalg.norm(w) / np.linalg.norm(noise)
        moved = decompose(w + noise)[0] - approximation
        worst = max(worst, float(np.linalg.norm(moved) / np.linalg.norm(noise)))
    return worst


class Book:
    """The cases written so far."""

    def __init__(self) -> None:
        self.tensors: dict[str, np.ndarray[Any, Any]] = {}
        self.cases: list[dict[str, Any]] = []

    def add(
        self, name: str, weight: str, w: Array, decompose: Decompose, **fields: Any
    ) -> Array:
        """Records `decompose(w)` and returns the reconstruction."""
        approximation, parameters = decompose(w)
        error = float(np.linalg.norm(w - approximation))
        self.tensors[name] = np.ascontiguousarray(approximation, dtype=np.float32)
        self.cases.append(
            {
                "case": name,
                "weight": weight,
                "parameters": int(parameters),
                "error": error,
                "relative": error / float(np.linalg.norm(w)),
                "sensitivity": sensitivity(w, decompose, approximation),
                **fields,
            }
        )
        return approximation


def truncated_svd(w: Array, rank: int) -> tuple[Array, int]:
    u, s, vt = np.linalg.svd(w, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vt[:rank], rank * (M + N)


def whitened_svd(w: Array, c: Array, rank: int) -> tuple[Array, int]:
    _, vectors = np.linalg.eigh(w @ c @ w.T)  # ascending
    u = vectors[:, ::-1][:, :rank]
    return u @ (u.T @ w), rank * (M + N)


def tucker(
    w: Array, modes: Sequence[int], factor_modes: Sequence[int], ranks: Sequence[int], sweeps: int
) -> tuple[Array, int]:
    limit = {"n_iter_max": 2000, "tol": 1e-13} if sweeps < 0 else {"n_iter_max": sweeps}
    if sweeps == 1:
        limit["tol"] = 0
    (core, factors), _ = partial_tucker(
        w.reshape(modes), rank=list(ranks), modes=list(factor_modes), init="svd", **limit
    )
    full = multi_mode_dot(core, factors, modes=list(factor_modes))
    return full.reshape(w.shape), core.size + sum(factor.size for factor in factors)


def interleave(w: Array, out: Sequence[int], into: Sequence[int]) -> Array:
    """W as a tensor whose k-th mode is the merged pair (out_k, in_k)."""
    d = len(out)
    order = [axis for k in range(d) for axis in (k, d + k)]
    return (
        w.reshape(*out, *into)
        .transpose(order)
        .reshape([o * i for o, i in zip(out, into, strict=True)])
    )


def deinterleave(tensor: Array, out: Sequence[int], into: Sequence[int]) -> Array:
    d = len(out)
    pairs = [size for pair in zip(out, into, strict=True) for size in pair]
    order = [2 * k for k in range(d)] + [2 * k + 1 for k in range(d)]
    return tensor.reshape(pairs).transpose(order).reshape(int(np.prod(out)), int(np.prod(into)))


def matrix_tt(
    w: Array, out: Sequence[int], into: Sequence[int], ranks: Sequence[int]
) -> tuple[Array, int]:
    train = tensor_train(interleave(w, out, into), rank=list(ranks))
    assert tuple(train.rank) == tuple(ranks), train.rank
    return deinterleave(train.to_tensor(), out, into), size(train.factors)


def plain_tt(w: Array, modes: Sequence[int], ranks: Sequence[int]) -> tuple[Array, int]:
    train = tensor_train(w.reshape(modes), rank=list(ranks))
    assert tuple(train.rank) == tuple(ranks), train.rank
    return train.to_tensor().reshape(w.shape), size(train.factors)


def ring(
    w: Array, out: Sequence[int], into: Sequence[int], ranks: Sequence[int]
) -> tuple[Array, int]:
    train = tensor_ring(interleave(w, out, into), rank=list(ranks))
    assert tuple(train.rank) == tuple(ranks), train.rank
    return deinterleave(train.to_tensor(), out, into), size(train.factors)


def size(cores: Sequence[Array]) -> int:
    return sum(core.size for core in cores)


def main() -> None:
    tensorly.set_backend("numpy")
    weights, moments = make_weights(), make_moments()
    book = Book()
    book.tensors |= {f"weight.{k}": v.astype(np.float32) for k, v in weights.items()}
    book.tensors |= {f"moment.{k}": v.astype(np.float32) for k, v in moments.items()}

    for name, rank in (("decaying", 4), ("decaying", 12), ("flat", 9)):
        book.add(
            f"svd.{name}.{rank}", name, weights[name], partial(truncated_svd, rank=rank),
            format="svd", rank=rank,
        )  # fmt: skip

    for name, moment, rank in (
        ("decaying", "full", 4),
        ("flat", "full", 9),
        ("decaying", "deficient", 6),
        ("flat", "deficient", 20),
    ):
        w, c = weights[name], moments[moment]
        energies = np.linalg.eigvalsh(w @ c @ w.T)[::-1]
        approximation = book.add(
            f"whitened.{name}.{moment}.{rank}", name, w, partial(whitened_svd, c=c, rank=rank),
            format="whitened", rank=rank, moment=moment,
            weighted_norm=float(np.sqrt(energies.sum())),
            tail=float(np.sqrt(np.maximum(energies[rank:], 0).sum())),
        )  # fmt: skip
        delta = approximation - w
        weighted = float(np.sqrt(max(np.trace(delta @ c @ delta.T), 0.0)))
        book.cases[-1]["weighted_error"] = weighted
        assert abs(weighted**2 - book.cases[-1]["tail"] ** 2) < 1e-6 * energies.sum()

    for name, modes, factor_modes, ranks, sweeps in (
        ("decaying", (4, 6, 36), (0, 1, 2), (3, 5, 10), 0),
        ("decaying", (4, 6, 36), (0, 1, 2), (3, 5, 10), 1),
        ("decaying", (4, 6, 36), (0, 1, 2), (3, 5, 10), -1),
        ("flat", (4, 6, 36), (0, 2), (2, 12), 0),
        ("flat", (3, 8, 36), (1, 2), (4, 9), 1),
    ):
        shape = {"modes": modes, "factor_modes": factor_modes, "ranks": ranks, "sweeps": sweeps}
        book.add(
            f"tucker.{name}.{modes[0]}x{modes[1]}x{modes[2]}.sweeps{sweeps}", name, weights[name],
            partial(tucker, **shape), format="tucker", **shape,
        )  # fmt: skip

    for name, out, into, ranks in (
        ("decaying", (4, 6), (6, 6), (1, 12, 1)),
        ("decaying", (2, 3, 4), (3, 3, 4), (1, 5, 9, 1)),
        ("flat", (4, 3, 2), (2, 3, 6), (1, 8, 7, 1)),
        ("flat", (2, 3, 2, 2), (3, 2, 2, 3), (1, 4, 10, 5, 1)),
    ):
        book.add(
            f"tt.{name}.{'x'.join(map(str, out))}", name, weights[name],
            partial(matrix_tt, out=out, into=into, ranks=ranks),
            format="tt", out=out, **{"in": into}, ranks=ranks,
        )  # fmt: skip

    shape = {"modes": (4, 6, 36), "ranks": (1, 4, 11, 1)}
    book.add(
        "tt2d.decaying.4x6x36", "decaying", weights["decaying"], partial(plain_tt, **shape),
        format="tt2d", **shape,
    )  # fmt: skip

    for name, out, into, ranks in (
        ("decaying", (2, 3, 4), (3, 3, 4), (2, 3, 6, 2)),
        ("flat", (4, 3, 2), (2, 3, 6), (2, 4, 5, 2)),
    ):
        book.add(
            f"ring.{name}.{'x'.join(map(str, out))}", name, weights[name],
            partial(ring, out=out, into=into, ranks=ranks),
            format="ring", out=out, **{"in": into}, ranks=ranks,
        )  # fmt: skip

    save_file(book.tensors, HERE / "formats.safetensors")
    (HERE / "formats.safetensors").chmod(0o644)
    document = {"cases": book.cases, "numpy": np.__version__, "tensorly": tensorly.__version__}
    (HERE / "formats.json").write_text(json.dumps(document, indent=1) + "\n")
    for case in book.cases:
        print(
            f"{case['case']:36} {case['parameters']:5} {case['relative']:.6f} "
            f"sensitivity {case['sensitivity']:.1f}"
        )


if __name__ == "__main__":
    main()
