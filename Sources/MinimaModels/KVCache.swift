import MinimaCore
import MinimaTensor

/// Where a forward pass leaves its keys and values, and finds those of earlier tokens.
public protocol KeyValueStore {
    /// Adds a layer's new keys and values and returns those that its queries may see.
    ///
    /// - Parameters:
    ///   - key: `[batch, kvHead, token, dim]`, already rotated.
    ///   - value: as `key`.
    /// - Returns: `[batch, kvHead, keys, dim]` each.
    func append(layer: Int, key: Tensor, value: Tensor) throws(TensorError) -> (
        key: Tensor, value: Tensor
    )
}

/// Keys and values of the tokens seen so far, per layer.
///
/// Storage is made with the first tokens, for `capacity` of them, and doubles whenever it is full:
/// it holds up to twice the tokens seen, and while it grows the old storage of one layer exists
/// beside the new one. Nothing here bounds it; `LanguageModel.run` does, by the model's context.
/// Reads are views.
public final class KVCache: KeyValueStore {
    /// Tokens held.
    public private(set) var count = 0

    private var keys: [Tensor?]
    private var values: [Tensor?]

    /// An empty cache for `layers` layers.
    ///
    /// - Parameter capacity: Tokens to make room for at once; more grow the storage.
    public init(layers: Int, capacity: Int = 256) {
        keys = Array(repeating: nil, count: layers)
        values = Array(repeating: nil, count: layers)
        self.capacity = max(capacity, 1)
    }

    private let capacity: Int

    /// Appends a layer's new keys and values and returns all of them.
    ///
    /// - Parameters:
    ///   - key: `[batch, kvHead, token, dim]`, already rotated.
    ///   - value: as `key`.
    /// - Returns: Views `[batch, kvHead, count + token, dim]`.
    public func append(layer: Int, key: Tensor, value: Tensor) throws(TensorError) -> (
        key: Tensor, value: Tensor
    ) {
        (
            try Self.append(&keys[layer], key, at: count, capacity: capacity),
            try Self.append(&values[layer], value, at: count, capacity: capacity)
        )
    }

    /// Ends a forward pass: the `tokens` appended to every layer now count.
    public func advance(by tokens: Int) {
        count += tokens
    }

    /// Forgets all but the first `count` tokens.
    public func truncate(to count: Int) {
        self.count = min(max(count, 0), self.count)
    }

    private static func append(
        _ storage: inout Tensor?, _ new: Tensor, at count: Int, capacity: Int
    ) throws(TensorError) -> Tensor {
        let shape = new.shape
        let needed = count + shape[2]
        if (storage?.shape[2] ?? 0) < needed {
            var size = capacity
            while size < needed { size *= 2 }
            let grown = try Tensor.empty(
                [shape[0], shape[1], size, shape[3]], dtype: new.dtype, device: new.device)
            if let storage, count > 0 {
                try grown.narrow(2, 0..<count).copy(from: storage.narrow(2, 0..<count))
            }
            storage = grown
        }
        guard let storage else { return new }
        try storage.narrow(2, count..<needed).copy(from: new)
        return try storage.narrow(2, 0..<needed)
    }
}
