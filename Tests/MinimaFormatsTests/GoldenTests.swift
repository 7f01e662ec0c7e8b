import FoundationEssentials
import MinimaCore
import MinimaTensor
import Testing

@testable import MinimaFormats

/// Agreement with tensorly and numpy; `Goldens/formats/make_formats.py` says how they index.
@Suite struct GoldenTests {
    /// The golden files, read once per test.
    private struct Goldens {
        let cases: [JSON]
        private let header: JSON
        private let bytes: Data

        init() throws {
            let folder = URL(filePath: #filePath).deletingLastPathComponent()
                .deletingLastPathComponent().appending(path: "Goldens/formats")
            let text = try Data(contentsOf: folder.appending(path: "formats.json"))
            cases = try #require(JSON(parsing: Array(text))["cases"]?.array)
            let file = try Data(contentsOf: folder.appending(path: "formats.safetensors"))
            let length = file[..<8].reversed().reduce(0) { $0 << 8 | Int($1) }
            header = try JSON(parsing: Array(file[8..<(8 + length)]))
            bytes = file[(8 + length)...]
        }

        /// A float32 matrix in float64.
        func matrix(_ name: String) throws -> Tensor {
            let entry = try #require(header[name])
            let shape = try #require(entry["shape"]?.array).compactMap(\.int)
            let offsets = try #require(entry["data_offsets"]?.array).compactMap(\.int)
            let range = bytes.startIndex + offsets[0]..<bytes.startIndex + offsets[1]
            let slice = Array(bytes[range])
            let values = slice.withUnsafeBytes { raw in
                (0..<slice.count / 4).map {
                    raw.loadUnaligned(fromByteOffset: 4 * $0, as: Float.self)
                }
            }
            return try Tensor(values, shape: shape).to(dtype: .float64)
        }
    }

    private func ints(_ golden: JSON, _ key: String) throws -> [Int] {
        try #require(golden[key]?.array).compactMap(\.int)
    }

    /// Compares `stored` with the expected matrix and counts.
    ///
    /// The goldens are rounded to float32 once, and both sides are float64 algorithms whose results
    /// move by `sensitivity` times their own rounding. An iteration that stops when its objective is
    /// flat to `flatness`, relative to ‖W‖, leaves the result free to the root of that.
    private func compare(
        _ stored: some LinearWeight, _ golden: JSON, _ goldens: Goldens, flatness: Double = 0
    ) throws {
        try compare(
            stored.reconstruct(), golden, goldens, cores: stored.spec.ranks.count + 1,
            flatness: flatness)
        // No redundant basis is stored: fewer numbers than the golden's, but for the pivots.
        let pivots = stored.tensors.filter { $0.tensor.dtype == .int32 }
            .reduce(0) { $0 + $1.tensor.count }
        let parameters = try #require(golden["parameters"]?.int)
        #expect(stored.parameterCount - pivots <= parameters)
    }

    private func compare(
        _ found: Tensor, _ golden: JSON, _ goldens: Goldens, cores: Int, flatness: Double = 0
    ) throws {
        let name = try #require(golden["case"]?.string)
        let expected = try goldens.matrix(name)
        let sensitivity = try #require(golden["sensitivity"]?.double)
        let weight = try goldens.matrix("weight." + (golden["weight"]?.string ?? ""))
        let norm = try weight.length()
        let bound =
            DType.float32.epsilon * (try expected.length())
            + sensitivity * roundingBound(size: 24 + 36, steps: cores) * norm
            + flatness.squareRoot() * norm
        #expect(try found.distance(to: expected) <= bound, "\(name)")
        let error = try #require(golden["error"]?.double)
        #expect(try abs(found.distance(to: weight) - error) <= bound, "\(name)")
    }

    private func weight(_ golden: JSON, _ goldens: Goldens) throws -> Tensor {
        try goldens.matrix("weight." + (golden["weight"]?.string ?? ""))
    }

    @Test func lowRank() throws {
        let goldens = try Goldens()
        var seen = 0
        for golden in goldens.cases {
            let kind = golden["format"]?.string
            guard kind == "svd" || kind == "whitened" else { continue }
            let moment = try golden["moment"]?.string.map { name in
                try Metric(input: goldens.matrix("moment." + name))
            }
            let rank = try #require(golden["rank"]?.int)
            let weight = try weight(golden, goldens)
            let spec = FormatSpec(format: "lowrank", ranks: [rank])
            let stored = try LowRank.decompose(weight, spec: spec, metric: moment)
            try compare(stored, golden, goldens)
            if let moment, let tail = golden["tail"]?.double {
                let error = try moment.norm(stored.reconstruct() - weight)
                let total = try #require(golden["weighted_norm"]?.double)
                // The moments are rounded to float32, which makes some eigenvalues slightly negative:
                // counted in the error, not in the tail.
                let negative = try DType.float32.epsilon * moment.input.length()
                let norm = try weight.length()
                let bound =
                    roundingBound(size: 24 + 36, steps: 2) * total * total + negative * norm * norm
                #expect(abs(error * error - tail * tail) <= bound)
            }
            seen += 1
        }
        #expect(seen >= 7)
    }

    @Test func tucker() throws {
        let goldens = try Goldens()
        var seen = 0
        for golden in goldens.cases where golden["format"]?.string == "tucker" {
            let modes = try ints(golden, "modes")
            var ranks = modes
            let factorModes = try ints(golden, "factor_modes")
            for (mode, rank) in zip(factorModes, try ints(golden, "ranks")) { ranks[mode] = rank }
            let sweeps = try #require(golden["sweeps"]?.int)
            let weight = try weight(golden, goldens)
            let spec = FormatSpec(
                format: "tucker", outputModes: Array(modes[..<2]), inputModes: [modes[2]],
                ranks: ranks)
            if sweeps == 0 {
                let tensor = try weight.reshape(modes)
                let factors = try TuckerSolver.hosvd(tensor, ranks: ranks)
                let core = try TuckerSolver.project(tensor, factors, except: nil)
                let found = try TuckerSolver.project(
                    core, factors.map { try $0.transpose() }, except: nil)
                try compare(found.reshape([24, 36]), golden, goldens, cores: 4)
            } else {
                // -1 asks for convergence.
                let stored = try Tucker.decompose(
                    weight, spec: spec, metric: nil, sweeps: sweeps < 0 ? 2000 : sweeps)
                try compare(stored, golden, goldens, flatness: sweeps < 0 ? 1e-12 : 0)
            }
            seen += 1
        }
        #expect(seen >= 5)
    }

    @Test func tensorTrain() throws {
        let goldens = try Goldens()
        var seen = 0
        for golden in goldens.cases {
            let kind = golden["format"]?.string
            guard kind == "tt" || kind == "tt2d" else { continue }
            let ranks = Array(try ints(golden, "ranks").dropFirst().dropLast())
            // The plain train over [o₁, o₂, in] is a matrix train whose input sits in the last core.
            let plain = kind == "tt2d" ? try ints(golden, "modes") : []
            let spec = FormatSpec(
                format: "tt",
                outputModes: plain.isEmpty ? try ints(golden, "out") : [plain[0], plain[1], 1],
                inputModes: plain.isEmpty ? try ints(golden, "in") : [1, 1, plain[2]], ranks: ranks)
            let stored = try TensorTrain.decompose(
                weight(golden, goldens), spec: spec, metric: nil, sweeps: 0)
            try compare(stored, golden, goldens)
            seen += 1
        }
        #expect(seen >= 5)
    }

    @Test func tensorRing() throws {
        let goldens = try Goldens()
        var seen = 0
        for golden in goldens.cases where golden["format"]?.string == "ring" {
            let spec = FormatSpec(
                format: "tr", outputModes: try ints(golden, "out"),
                inputModes: try ints(golden, "in"),
                ranks: Array(try ints(golden, "ranks").dropLast()))
            let weight = try weight(golden, goldens)
            try compare(
                TensorRing.decompose(weight, spec: spec, metric: nil, sweeps: 0), golden, goldens)
            let improved = try TensorRing.decompose(weight, spec: spec, metric: nil)
            let error = try #require(golden["error"]?.double)
            #expect(try improved.reconstruct().distance(to: weight) < error)
            seen += 1
        }
        #expect(seen >= 2)
    }
}
