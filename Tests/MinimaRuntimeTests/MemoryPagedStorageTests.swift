import MinimaCore
import MinimaTensor
import Testing

@testable import MinimaRuntime

@Suite("Paged storage")
struct PagedStorageTests {
    private let shape = KeyValueShape(heads: 2, keyDim: 3, valueDim: 1, dtype: .float32)

    private func storage(_ layers: Int = 2) throws -> PagedStorage {
        try PagedStorage(
            Array(repeating: shape, count: layers), pages: 6, pageTokens: 4, device: .cpu)
    }

    /// Keys `[batch, 2, tokens, 3]` and values `[batch, 2, tokens, 1]` whose numbers name sequence,
    /// head, token and place.
    private func numbers(_ sequences: [Int], _ range: [Range<Int>], _ dim: Int) throws -> Tensor {
        var values: [Float] = []
        for (sequence, range) in zip(sequences, range) {
            for head in 0..<2 {
                for token in range {
                    for place in 0..<dim {
                        values.append(Float(sequence * 1000 + token * 10 + head * 5 + place))
                    }
                }
            }
        }
        return try Tensor(values, shape: [sequences.count, 2, range[0].count, dim])
    }

    /// Writes tokens of sequences and returns the keys and values that a layer sees.
    private func write(
        _ storage: PagedStorage, _ sequences: [Int], _ ranges: [Range<Int>], pages: [[Int32]],
        layer: Int = 0
    ) throws -> (key: Tensor, value: Tensor) {
        let pass = try storage.pass(
            pages: pages, lengths: ranges.map(\.upperBound), tokens: ranges[0].count)
        return try pass.append(
            layer: layer, key: numbers(sequences, ranges, 3), value: numbers(sequences, ranges, 1))
    }

    private func isEqual(_ left: Tensor, _ right: Tensor) throws -> Bool {
        let (found, wanted): ([Float], [Float]) = (try left.values(), try right.values())
        return left.shape == right.shape && found == wanted
    }

    /// In neighbouring pages (read as a view) and in scattered ones (gathered).
    @Test(arguments: [[1, 2, 3], [4, 0, 2]] as [[Int32]])
    func sequencesReadBackWhatTheyWrote(pages: [Int32]) throws {
        let storage = try storage()
        for layer in 0..<2 {
            for range in [0..<3, 3..<9, 9..<10, 10..<12] {
                let seen = try write(storage, [layer], [range], pages: [pages], layer: layer)
                let all = [0..<range.upperBound]
                #expect(try isEqual(seen.key, numbers([layer], all, 3)))
                #expect(try isEqual(seen.value, numbers([layer], all, 1)))
            }
        }
    }

    /// Rows of a ragged batch see their own tokens, then padding that is no other sequence's: not
    /// even one whose numbers are not finite.
    @Test func paddingIsTheSequencesOwn() throws {
        let storage = try storage(1)
        let poison = try Tensor.full([1, 2, 4, 3], .nan)
        let pass = try storage.pass(pages: [[0]], lengths: [4], tokens: 4)
        _ = try pass.append(layer: 0, key: poison, value: poison.narrow(3, 0..<1))
        _ = try write(storage, [1], [0..<1], pages: [[2]])
        _ = try write(storage, [2], [0..<6], pages: [[5, 1]])
        let seen = try write(storage, [1, 2], [1..<2, 6..<7], pages: [[2], [5, 1]])
        let short = try seen.key.narrow(0, 0..<1)
        #expect(try isEqual(short.narrow(2, 0..<2), numbers([1], [0..<2], 3)))
        for place in 2..<7 {
            #expect(try isEqual(short.narrow(2, place..<place + 1), numbers([1], [1..<2], 3)))
        }
        #expect(try isEqual(seen.key.narrow(0, 1..<2), numbers([2], [0..<7], 3)))
    }

    @Test func bytes() {
        #expect(PagedStorage.bytesPerToken([shape, shape]) == 2 * 2 * (3 + 1) * 4)
    }
}
