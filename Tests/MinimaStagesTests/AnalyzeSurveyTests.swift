import MinimaCore
import MinimaFormats
import MinimaTensor
import Testing

@testable import MinimaModels
@testable import MinimaStages

@Suite("Survey of options")
struct AnalyzeSurveyTests {
    let site = Site(
        "a.qkv_proj", layer: 0, inputs: 64,
        members: [
            LinearShape(
                name: "a.q_proj", outputs: 96, inputs: 64, patches: PatchGrid(.outputs, count: 2)),
            LinearShape(
                name: "a.k_proj", outputs: 48, inputs: 64, patches: PatchGrid(.outputs, count: 1)),
        ])
    let weight: Tensor
    let metric: Metric

    init() throws {
        let generator = try RandomGenerator(seed: 2)
        func moment(_ size: Int) throws -> Tensor {
            let x = try Tensor.randn([4 * size, size], dtype: .float64, generator: generator)
            let scales = try Tensor.randn([size], dtype: .float64, generator: generator).exp()
            let scaled = try x * scales
            return try scaled.transpose().matmul(scaled) / Double(4 * size)
        }
        weight = try Tensor.randn([144, 64], generator: generator).to(dtype: .bfloat16)
        metric = try Metric(
            input: moment(64),
            output: OutputMetric(joining: [
                OutputMetric(full: moment(96)), OutputMetric(full: moment(48)),
            ]))
    }

    private func cuts(_ change: (inout SurveyOptions) -> Void = { _ in }) throws -> [SiteAnalysis
        .Cut]
    {
        var options = SurveyOptions()
        change(&options)
        return try Survey(options, dtype: .bfloat16, sites: [site])
            .cuts(site, weight: weight, metric: metric)
    }

    @Test func piecesTileTheWeight() throws {
        let cuts = try cuts()
        #expect(cuts.map(\.kind) == ["stacked", "members", "patches"])
        #expect(cuts.map(\.pieces.count) == [1, 2, 3])
        for cut in cuts {
            var covered = Array(repeating: 0, count: 144 * 64)
            for piece in cut.pieces {
                for row in piece.row..<piece.row + piece.rows {
                    for column in piece.column..<piece.column + piece.columns {
                        covered[row * 64 + column] += 1
                    }
                }
            }
            #expect(covered.allSatisfy { $0 == 1 })
        }
    }

    @Test func optionsAreConsistent() throws {
        for piece in try cuts().flatMap(\.pieces) {
            let exact = piece.options.filter { $0.spec.format == Dense.name }
            #expect(exact.map(\.error) == [0])
            #expect(exact.first?.bytes == 2 * piece.rows * piece.columns)
            let byFormat = Dictionary(grouping: piece.options) { $0.spec.signature }
            for (name, options) in byFormat {
                let format = try FormatRegistry.format(options[0].spec.format)
                for option in options {
                    #expect(
                        option.bytes
                            == (try format.byteCount(
                                option.spec, outputs: piece.rows, inputs: piece.columns,
                                dtype: .bfloat16)))
                    #expect(option.damage == option.error && option.error.isFinite)
                }
                // None is dominated, so along bytes errors fall, or else parameters do.
                let sorted = options.sorted { ($0.bytes, -$0.error) < ($1.bytes, -$1.error) }
                for (small, large) in zip(sorted, sorted.dropFirst()) {
                    #expect(
                        large.error < small.error || large.parameters < small.parameters,
                        "\(name): \(small.spec) and \(large.spec)")
                }
            }
        }
    }

    /// The closed form of a low rank is what its decomposition leaves; formats that hold the rank
    /// share it.
    @Test func errorsAreThoseOfDecompositions() throws {
        let formats = ["lowrank", "interpolative", "tucker", "tt", "tr"]
        let found = try cuts {
            $0.formats = formats
            $0.fractions = []
        }
        let piece = try #require(found.first?.pieces.first)
        for option in piece.options where option.spec.ranks.contains(where: { $0 % 16 == 0 }) {
            let format = try FormatRegistry.format(option.spec.format)
            let exact = try weight.to(dtype: .float64)
            let found = try format.decompose(exact, spec: option.spec, metric: metric)
            let error = try 0.5 * metric.squaredNorm(found.reconstruct() - exact)
            // Five digits are listed, and H's smallest eigenvalues are raised.
            #expect(abs(error / option.error - 1) < 1e-3, "\(option.spec)")
        }
        #expect(Set(piece.options.map(\.spec.format)) == Set(formats + ["dense"]))
    }

    @Test func spectrumNeedsNoVectors() throws {
        for part in [weight, try weight.narrow(0, 0..<40)] {
            let part = try part.to(dtype: .float64)
            let narrow = try metric.narrow(rows: 0..<part.shape[0], columns: 0..<64)
            let spectrum = try WeightedSpectrum(part, metric: narrow)
            let svd = try WhitenedSVD(part, metric: narrow)
            #expect(spectrum.values.count == svd.eigenvalues.count)
            for (value, expected) in zip(spectrum.values, svd.eigenvalues) {
                // H's smallest eigenvalues are raised in one, C's and H's diagonals in the other.
                #expect(abs(value - expected) <= 1e-5 * spectrum.values[0])
            }
            #expect(abs(spectrum.energy / (try narrow.squaredNorm(part)) - 1) < 1e-6)
            #expect(spectrum.tail(spectrum.values.count) == 0)
        }
    }

    @Test func numberOfOptionsIsCapped() throws {
        #expect(try cuts { $0.patchOptions = 0 }.map(\.kind) == ["stacked", "members"])
        #expect(try cuts { $0.cuts = ["members"] }.map(\.kind) == ["members"])
        let few = try cuts {
            $0.formats = ["lowrank"]; $0.ranks = 5; $0.cuts = ["stacked"]
        }
        #expect((2...6).contains(few[0].pieces[0].options.count))
    }

    @Test func theDesignIsStratified() throws {
        let sites = (0..<4).map { layer in
            Site("\(layer).qkv_proj", layer: layer, inputs: 64, members: site.members)
        }
        let design = try ProbeDesign(sites, count: 40, seed: 1)
        #expect(design == (try ProbeDesign(sites, count: 40, seed: 1)))
        #expect(design != (try ProbeDesign(sites, count: 40, seed: 2)))
        #expect(design.entries.count == 40)
        for layer in 0..<4 { #expect((8...12).contains(design.entries(layer: layer).count)) }
        let keys = design.entries.count { $0.patch == 2 }
        #expect(keys == 20)
        #expect(Set(design.entries.map(\.spec.format)).count >= 4)
    }
}
