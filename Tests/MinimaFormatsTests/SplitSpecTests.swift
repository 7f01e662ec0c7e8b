import MinimaCore
import Testing

@testable import MinimaFormats

@Suite("Specifications whose modes are split")
struct SplitSpecTests {
    private static let formats: [any TensorFormat.Type] = [
        Tucker.self, TensorTrain.self, TensorRing.self,
    ]

    private func refusal(
        _ format: any TensorFormat.Type, of budget: Int, _ outputs: Int, _ inputs: Int
    ) -> FormatError? {
        do throws(FormatError) {
            _ = try format.splitSpec(fitting: budget, outputs: outputs, inputs: inputs)
            return nil
        } catch {
            return error
        }
    }

    private func isSplit(_ spec: FormatSpec, inputs: Int) -> Bool {
        spec.format == Tucker.name
            ? spec.ranks[1] < spec.outputModes[1] && !spec.outputModes.contains(1)
            : !spec.inputModes.contains(inputs)
    }

    /// What fits is split, and what is too little is told what would be enough.
    @Test func budgetsAreKeptAndTheSmallestIsNamed() throws {
        for format in Self.formats {
            for (outputs, inputs) in [(10_240, 5_120), (51_200, 5_120), (24, 36), (64, 64), (4, 9)]
            {
                guard
                    case .budgetTooSmall(let name, 0, let smallest) = refusal(
                        format, of: 0, outputs, inputs)
                else {
                    Issue.record("\(format.name) took nothing for [\(outputs), \(inputs)]")
                    continue
                }
                #expect(name == format.name)
                #expect(
                    refusal(format, of: smallest - 1, outputs, inputs)
                        == .budgetTooSmall(
                            format: name, parameters: smallest - 1, smallest: smallest))
                for share in [0, 0.3, 0.617, 0.9] {
                    let budget = max(smallest, Int(share * Double(outputs * inputs)))
                    let spec = try format.splitSpec(
                        fitting: budget, outputs: outputs, inputs: inputs)
                    let count = try format.parameterCount(spec, outputs: outputs, inputs: inputs)
                    #expect(count <= budget && isSplit(spec, inputs: inputs), "\(spec)")
                    if budget == smallest { #expect(count == smallest, "\(spec)") }
                }
            }
        }
    }

    /// Of all ranks of the inputs that are possible and fit, the largest is taken.
    @Test(arguments: [(12, 10), (30, 7), (16, 40), (6, 2), (64, 5)])
    func tuckerTakesTheLargestRank(outputs: Int, inputs: Int) throws {
        let whole = try Tucker.splitSpec(fitting: .max, outputs: outputs, inputs: inputs)
        let counts = (0...inputs + 1).compactMap { rank -> (rank: Int, count: Int)? in
            var spec = whole
            spec.ranks[2] = rank
            let count = try? Tucker.parameterCount(spec, outputs: outputs, inputs: inputs)
            return count.map { (rank, $0) }
        }
        let smallest = try #require(counts.map(\.count).min())
        #expect(whole.ranks[2] == counts.last?.rank)
        for budget in smallest...outputs * inputs {
            let spec = try Tucker.splitSpec(fitting: budget, outputs: outputs, inputs: inputs)
            #expect(spec.ranks[2] == counts.last { $0.count <= budget }?.rank, "\(budget)")
        }
        #expect(
            refusal(Tucker.self, of: smallest - 1, outputs, inputs)
                == .budgetTooSmall(
                    format: Tucker.name, parameters: smallest - 1, smallest: smallest))
    }

    /// No budget is enough where nothing divides, and nothing is taken for another format's ranks.
    @Test func whatDoesNotSplitIsRefusedAsSuch() {
        for format in [TensorTrain.self, TensorRing.self] as [any TensorFormat.Type] {
            for (outputs, inputs) in [(24, 37), (10_240, 5_119), (64, 1), (104_729, 64), (1, 7)] {
                #expect(
                    refusal(format, of: .max, outputs, inputs)
                        == .notSplit(
                            format: format.name, side: "input", outputs: outputs, inputs: inputs))
            }
        }
        for (outputs, inputs) in [(37, 24), (1, 24), (2, 8), (16, 1)] {
            #expect(
                refusal(Tucker.self, of: .max, outputs, inputs)
                    == .notSplit(
                        format: Tucker.name, side: "output", outputs: outputs, inputs: inputs))
        }
        for format in [CP.self, BlockTerm.self] as [any TensorFormat.Type] {
            let error = refusal(format, of: .max, 24, 36)
            #expect(
                error
                    == .notSplit(format: format.name, side: "input", outputs: 24, inputs: 36))
            #expect("\(error.map(String.init(describing:)) ?? "")".contains("keep modes whole"))
        }
    }

    @Test func sizesAreChecked() {
        for format in Self.formats {
            for (outputs, inputs) in [(0, 8), (8, 0), (-1, 8), (.min, .max)] {
                #expect(
                    refusal(format, of: .max, outputs, inputs)
                        == .notAMatrix(format: format.name, shape: [outputs, inputs]))
            }
            #expect(refusal(format, of: .max, .max, 2) == .tooLarge(format: format.name))
        }
    }
}
