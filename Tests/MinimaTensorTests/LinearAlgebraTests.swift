import MinimaCore
import MinimaTensor
import Testing

@Suite("Linear algebra")
struct LinearAlgebraTests {
    /// Rounding of a float64 factorisation of an n×n matrix of norm `scale` (Higham 2002, ch. 18).
    private func tolerance(_ n: Int, _ scale: Double) -> Double {
        8 * Double(n) * DType.float64.epsilon * scale
    }

    @Test(arguments: [(5, 5), (9, 4), (4, 9), (1, 7)])
    func svd(shape: (Int, Int)) throws {
        let a = try random([shape.0, shape.1], seed: 1)
        let scale = try a.norm().item()
        let (u, s, vT) = try a.svd()
        let k = min(shape.0, shape.1)
        #expect(try distance((u * s).matmul(vT), a) <= tolerance(9, scale))
        #expect(
            try distance(u.transpose().matmul(u), .identity(k, dtype: .float64))
                <= tolerance(9, 1))
        let values: [Double] = try s.values()
        #expect(values == values.sorted(by: >))
        for rank in 1...k {
            let cut = try a.truncatedSVD(rank: rank)
            #expect(cut.u.shape == [shape.0, rank] && cut.vT.shape == [rank, shape.1])
            let error = try ((cut.u * cut.s).matmul(cut.vT) - a).norm().item()
            let tail = values.dropFirst(rank).reduce(0) { $0 + $1 * $1 }.squareRoot()
            #expect(abs(error - tail) <= tolerance(9, scale), "Eckart–Young at rank \(rank)")
        }
    }

    @Test func eighCholeskyAndQR() throws {
        let n = 12
        let g = try random([n, n], seed: 2)
        let a = try g.matmul(g.transpose())
        let scale = try a.norm().item()
        let (values, vectors) = try a.eigh()
        #expect(
            try distance((vectors * values).matmul(vectors.transpose()), a) <= tolerance(n, scale))
        let ascending: [Double] = try values.values()
        #expect(ascending == ascending.sorted())
        let l = try #require(try a.cholesky())
        #expect(try distance(l.matmul(l.transpose()), a) <= tolerance(n, scale))
        #expect(try l.triu(1).norm().item() == 0)
        let (q, r) = try g.qr()
        #expect(try distance(q.matmul(r), g) <= tolerance(n, g.norm().item()))
        #expect(try r.tril(-1).norm().item() == 0)
        let b = try random([n, 2], seed: 3)
        let x = try a.solve(b)
        let condition = (ascending.last ?? 1) / (ascending.first ?? 1)
        #expect(try distance(a.matmul(x), b) <= tolerance(n, scale) * condition)
        let y = try l.solveTriangular(b, upper: false)
        #expect(try distance(l.matmul(y), b) <= tolerance(n, scale) * condition)
    }

    @Test func indefiniteMatricesHaveNoCholeskyFactor() throws {
        #expect(try Tensor([1, 2, 2, 1] as [Double], shape: [2, 2]).cholesky() == nil)
    }

    /// Halko, Martinsson & Tropp 2011, theorem 10.6: the expected error is at most
    /// `(1 + √(k/(p−1)))·σ_{k+1} + e·√(k+p)/p · √Σσ²`; power iterations only lower it.
    @Test(arguments: [0, 1, 2])
    func randomizedSVD(iterations: Int) throws {
        let (m, n, rank, p) = (60, 40, 8, 10)
        let (u, _, vT) = try random([m, n], seed: 4).svd()
        let spectrum = (0..<n).map { 1 / Double($0 * $0 + 1) }
        let a = try (u * Tensor(spectrum)).matmul(vT)
        let cut = try a.randomizedSVD(
            rank: rank, oversampling: p, powerIterations: iterations,
            generator: RandomGenerator(seed: 5))
        let error = try ((cut.u * cut.s).matmul(cut.vT) - a).norm().item()
        let tail = spectrum.dropFirst(rank).reduce(0) { $0 + $1 * $1 }.squareRoot()
        let e = 2.718281828
        let (k, q) = (Double(rank), Double(p))
        let bound =
            (1 + (k / (q - 1)).squareRoot()) * spectrum[rank] + e * (k + q).squareRoot() / q * tail
        let rounding = try tolerance(m, a.norm().item())
        #expect(error >= tail - rounding)
        #expect(error <= bound)
        #expect(
            try distance(cut.u.transpose().matmul(cut.u), .identity(rank, dtype: .float64))
                <= tolerance(m, 1))
        // The sketch spans everything when the rank is full.
        let full = try a.randomizedSVD(rank: n, generator: RandomGenerator(seed: 6))
        #expect(try distance((full.u * full.s).matmul(full.vT), a) <= rounding)
    }

    @Test func badInputIsRefused() throws {
        let nan = try Tensor([1, .nan, 0, 1] as [Double], shape: [2, 2])
        for body in [
            { _ = try nan.eigh() }, { _ = try nan.svd() }, { _ = try nan.qr() },
            { _ = try nan.cholesky() }, { _ = try nan.truncatedSVD(rank: 1) },
        ] as [() throws -> Void] {
            do {
                try body()
                Issue.record("NaN was factorised")
            } catch TensorError.notFinite(_, let count) {
                #expect(count == 1)
            }
        }
        let a = try random([4, 3], seed: 7)
        for rank in [0, -1, 4] {
            #expect(throws: TensorError.self) { try a.truncatedSVD(rank: rank) }
            #expect(throws: TensorError.self) {
                try a.randomizedSVD(rank: rank, generator: RandomGenerator(seed: 0))
            }
        }
        #expect(throws: TensorError.self) { try a.eigh() }
        #expect(throws: TensorError.self) { try a.reshape([12]).svd() }
        #expect(throws: TensorError.self) { try Tensor.zeros([0, 3]).svd() }
    }
}
