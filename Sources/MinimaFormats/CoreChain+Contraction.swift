import MinimaTensor

/// What a dimension of an intermediate result stands for.
private enum Leg: Hashable {
    case token
    case output(Int)
    case input(Int)
    case bond(Int)
}

/// A tensor whose dimensions have names; legs of one name are summed over when two meet.
private struct Network {
    var tensor: Tensor
    var legs: [Leg]

    /// The sum over the legs that both have; the others follow in order.
    func contracted(with other: Network) throws(TensorError) -> Network {
        let shared = legs.filter { other.legs.contains($0) }
        return Network(
            tensor: try tensor.tensordot(
                other.tensor, shared.compactMap { legs.firstIndex(of: $0) },
                shared.compactMap { other.legs.firstIndex(of: $0) }),
            legs: legs.filter { !shared.contains($0) } + other.legs.filter { !shared.contains($0) })
    }

    /// The tensor with its dimensions in the order of `legs`.
    func ordered(_ order: [Leg]) throws(TensorError) -> Tensor {
        try tensor.permute(order.compactMap { legs.firstIndex(of: $0) })
    }
}

extension CoreChain {
    private func network(_ cores: [Tensor], _ index: Int) -> Network {
        Network(
            tensor: cores[index],
            legs: [.bond(index), .output(index), .input(index), .bond((index + 1) % order)])
    }

    /// Values that one intermediate result may have: 256 MiB in bfloat16.
    ///
    /// At 65 % of 25600 × 5120 a train of two cores holds 38 million values per token between them,
    /// which for 512 tokens is half the memory of an H200.
    static let stateLimit = 1 << 27

    /// `x` `[tokens, inputs]` times the transposed matrix: `[tokens, outputs]`.
    ///
    /// Tokens go through in groups whose intermediate results stay below `stateLimit`.
    func forward(
        _ x: Tensor, _ cores: [Tensor], along path: Path, stateLimit: Int = Self.stateLimit
    ) throws(TensorError) -> Tensor {
        let tokens = x.shape[0]
        let group = max(stateLimit / path.largestState, 1)
        guard tokens > group else { return try contracted(x, cores, along: path) }
        var results: [Tensor] = []
        for start in stride(from: 0, to: tokens, by: group) {
            let rows = try x.narrow(0, start..<min(start + group, tokens))
            results.append(try contracted(rows, cores, along: path))
        }
        return try Tensor.cat(results)
    }

    private func contracted(_ x: Tensor, _ cores: [Tensor], along path: Path)
        throws(TensorError) -> Tensor
    {
        let tokens = x.shape[0]
        var state = Network(
            tensor: try x.reshape([tokens] + inputModes),
            legs: [.token] + (0..<order).map { .input($0) })
        for core in path.cores {
            state = try state.contracted(with: network(cores, core))
        }
        let result = try state.ordered([.token] + (0..<order).map { .output($0) })
        return try result.reshape([tokens, Sizes.saturatingProduct(outputModes)])
    }

    /// The matrix `[outputs, inputs]`.
    func reconstruct(_ cores: [Tensor]) throws(TensorError) -> Tensor {
        var product = network(cores, 0)
        for index in 1..<order {
            product = try product.contracted(with: network(cores, index))
        }
        let modes = (0..<order).map { Leg.output($0) } + (0..<order).map { Leg.input($0) }
        return try product.ordered(modes).reshape([
            Sizes.saturatingProduct(outputModes), Sizes.saturatingProduct(inputModes),
        ])
    }

    /// The matrix `[outputs, inputs]` as a tensor with one dimension per core: output and input mode
    /// k become dimension k, the output index outermost.
    func paired(_ matrix: Tensor) throws(TensorError) -> Tensor {
        let interleaved = (0..<order).flatMap { [$0, order + $0] }
        return try matrix.reshape(outputModes + inputModes).permute(interleaved).reshape(pairs)
    }

    /// The matrix `[outputs, inputs]` of a tensor whose dimensions are groups of the chain's pairs.
    func unpaired(_ tensor: Tensor) throws(TensorError) -> Tensor {
        let modes = (0..<order).flatMap { [outputModes[$0], inputModes[$0]] }
        let sides = (0..<order).map { 2 * $0 } + (0..<order).map { 2 * $0 + 1 }
        return try tensor.reshape(modes).permute(sides).reshape([
            Sizes.saturatingProduct(outputModes), Sizes.saturatingProduct(inputModes),
        ])
    }

    /// Cores `[bond, pair, next bond]` with their pair split into output and input mode.
    func split(_ cores: [Tensor]) throws(TensorError) -> [Tensor] {
        var split: [Tensor] = []
        for (index, core) in cores.enumerated() {
            split.append(try core.reshape(coreShape(index)))
        }
        return split
    }
}
