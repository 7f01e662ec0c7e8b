import MinimaCore
import MinimaModels
import MinimaTensor

private let indexCopyOperator = Operator("aten::index_copy_")

/// What one token's keys and values of a layer look like.
struct KeyValueShape: Hashable {
    let heads: Int
    let keyDim: Int
    let valueDim: Int
    let dtype: DType
}

/// Pages of keys and values in libtorch tensors, read by gathering.
///
/// Reading copies what a step attends to; the device's own kernels do without. This is the reference
/// for them, and the way of models that they do not know.
final class PagedStorage {
    let pageTokens: Int
    /// Per layer, `[pages · pageTokens, kvHead, dim]`.
    private let keys: [Tensor]
    private let values: [Tensor]
    let device: Device

    /// Storage of `pages` pages, whose content is whatever the memory holds.
    init(_ shapes: [KeyValueShape], pages: Int, pageTokens: Int, device: Device)
        throws(TensorError)
    {
        self.pageTokens = pageTokens
        self.device = device
        let tokens = pages * pageTokens
        var (keys, values): ([Tensor], [Tensor]) = ([], [])
        for shape in shapes {
            keys.append(
                try .empty(
                    [tokens, shape.heads, shape.keyDim], dtype: shape.dtype, device: device))
            values.append(
                try .empty(
                    [tokens, shape.heads, shape.valueDim], dtype: shape.dtype, device: device))
        }
        (self.keys, self.values) = (keys, values)
    }

    /// Bytes of one token's keys and values in all layers.
    static func bytesPerToken(_ shapes: [KeyValueShape]) -> Int {
        shapes.reduce(0) { $0 + $1.heads * ($1.keyDim + $1.valueDim) * $1.dtype.byteCount }
    }

    /// Copies single tokens, rows of the storage; all are read before one is written.
    func copy(rows sources: [Int], to destinations: [Int]) throws(TensorError) {
        guard !sources.isEmpty else { return }
        let (from, to) = (try tensor(sources), try tensor(destinations))
        for storage in keys + values {
            _ = try indexCopyOperator(
                .tensor(storage), .int(0), .tensor(to), .tensor(storage.selecting(0, from)))
        }
    }

    private func tensor(_ rows: [Int]) throws(TensorError) -> Tensor {
        try Tensor(rows.map { Int64($0) }).to(device)
    }

    /// The row of a sequence's token.
    func row(_ pages: [Int32], _ position: Int) -> Int {
        Int(pages[position / pageTokens]) * pageTokens + position % pageTokens
    }

    /// What a pass sees.
    enum Reading {
        /// The new tokens only.
        case new
        /// Neighbouring rows, as a view: one sequence in pages that follow each other.
        case rows(Range<Int>)
        /// Copies of rows, int64 `[batch · keys]`.
        case gathered(Tensor)
    }

    /// One pass over a batch: where its new tokens go, and what they see.
    struct Pass: KeyValueStore {
        let storage: PagedStorage
        /// Rows of the new tokens, int64 `[batch · token]`.
        let written: Tensor
        /// The row of the new token where there is one only.
        let row: Int?
        let read: Reading

        func append(layer: Int, key: Tensor, value: Tensor) throws(TensorError) -> (
            key: Tensor, value: Tensor
        ) {
            (
                try append(storage.keys[layer], key), try append(storage.values[layer], value)
            )
        }

        private func append(_ storage: Tensor, _ new: Tensor) throws(TensorError) -> Tensor {
            let shape = new.shape
            if let row {
                // One token: as a view, without reading where it goes from memory.
                try storage.narrow(0, row..<row + 1).copy(
                    from: new.reshape([1, shape[1], shape[3]]))
            } else {
                _ = try indexCopyOperator(
                    .tensor(storage), .int(0), .tensor(written),
                    .tensor(new.transpose(1, 2).reshape([-1, shape[1], shape[3]])))
            }
            let seen =
                switch read {
                case .new: nil as Tensor?
                case .rows(let range): try storage.narrow(0, range)
                case .gathered(let rows): try storage.selecting(0, rows)
                }
            guard let seen else { return new }
            return try seen.reshape([shape[0], -1, shape[1], shape[3]]).transpose(1, 2)
        }
    }

    /// A pass of sequences that each have `tokens` new tokens at their end.
    ///
    /// - Parameters:
    ///   - pages: Pages of each sequence.
    ///   - lengths: Tokens of each, the new ones included.
    ///   - tokens: New tokens of each.
    /// - Returns: The pass; keys are padded to the longest sequence's number.
    func pass(pages: [[Int32]], lengths: [Int], tokens: Int) throws(TensorError) -> Pass {
        var (written, read): ([Int], [Int]) = ([], [])
        let longest = lengths.max() ?? 0
        for (pages, length) in zip(pages, lengths) {
            written += (length - tokens..<length).map { row(pages, $0) }
            guard longest > tokens else { continue }
            read += rows(pages, length, padded: longest)
        }
        let reading: Reading =
            if longest == tokens {
                .new
            } else if lengths.count == 1, read[longest - 1] - read[0] == longest - 1,
                zip(read, read.dropFirst()).allSatisfy({ $1 == $0 + 1 })
            {
                .rows(read[0]..<read[0] + longest)
            } else {
                .gathered(try tensor(read))
            }
        return Pass(
            storage: self, written: try tensor(written),
            row: written.count == 1 ? written[0] : nil, read: reading)
    }
}

extension PagedStorage {
    /// Rows of a sequence's first `length` tokens, of which there is at least one, up to `padded` rows.
    private func rows(_ pages: [Int32], _ length: Int, padded: Int) -> [Int] {
        // Padding is masked, but a softmax weight of 0 times what another request left in a page may
        // still be NaN: it reads the sequence's own last token.
        (0..<padded).map { row(pages, min($0, length - 1)) }
    }

    /// Keys and values of sequences' first tokens, which a draft's branches go on from, and of what the
    /// branches add; they stay outside of the pages.
    final class Branches: KeyValueStore {
        private let storage: PagedStorage
        private let trunk: Tensor
        private let batch: Int
        private var keys: [Int: Tensor] = [:]
        private var values: [Int: Tensor] = [:]

        fileprivate init(_ storage: PagedStorage, _ trunk: Tensor, batch: Int) {
            self.storage = storage
            self.trunk = trunk
            self.batch = batch
        }

        func append(layer: Int, key: Tensor, value: Tensor) throws(TensorError) -> (
            key: Tensor, value: Tensor
        ) {
            let key =
                try keys[layer].map { old throws(TensorError) in try .cat([old, key], dim: 2) }
                ?? key
            let value =
                try values[layer].map { old throws(TensorError) in
                    try .cat([old, value], dim: 2)
                } ?? value
            (keys[layer], values[layer]) = (key, value)
            return (
                try .cat([read(storage.keys[layer]), key], dim: 2),
                try .cat([read(storage.values[layer]), value], dim: 2)
            )
        }

        private func read(_ storage: Tensor) throws(TensorError) -> Tensor {
            let shape = storage.shape
            return try storage.selecting(0, trunk).reshape([batch, -1, shape[1], shape[2]])
                .transpose(1, 2)
        }
    }

    /// Branches that go on from the first `lengths` tokens of sequences, at least one of each.
    func branches(pages: [[Int32]], lengths: [Int]) throws(TensorError) -> Branches {
        let longest = lengths.max() ?? 0
        return Branches(
            self,
            try tensor(zip(pages, lengths).flatMap { rows($0, $1, padded: longest) }),
            batch: pages.count)
    }
}

/// Learns what a model's keys and values look like, whatever its family.
final class KeyValueProbe: KeyValueStore {
    private(set) var shapes: [KeyValueShape] = []

    func append(layer: Int, key: Tensor, value: Tensor) throws(TensorError) -> (
        key: Tensor, value: Tensor
    ) {
        shapes.append(
            KeyValueShape(
                heads: key.shape[1], keyDim: key.shape[3], valueDim: value.shape[3],
                dtype: key.dtype))
        return (key, value)
    }
}
