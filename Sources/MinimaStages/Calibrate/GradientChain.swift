import MinimaCore
import MinimaModels
import MinimaTensor

/// Chooses the labels of a batch's tokens from their logits.
///
/// - Parameters:
///   - logits: float32 `[rows, vocabulary]` of neighbouring tokens of the batch.
///   - batch: The batch's number.
///   - rows: Which tokens of the batch, counted over its windows.
/// - Returns: int64 `[rows]`.
public typealias LabelSampler = (_ logits: Tensor, _ batch: Int, _ rows: Range<Int>) throws ->
    Tensor

/// Gradients of the tokens' summed negative log-likelihood at one layer boundary of the residual
/// stream, for the batches that have gradients.
///
/// It goes backwards: each layer is run again from its stored inputs, with gradients.
struct GradientChain: Sendable {
    /// The batches with gradients, which come first among all.
    let batches: [TokenBatch]
    /// The layer at whose inputs these gradients are taken.
    let boundary: Int
    private let states: BatchTensors

    /// Logits that exist at one time: 16 MiB in float32 on the CPU, 512 MiB on a GPU.
    static func logitsPerChunk(_ device: Device) -> Int { device == .cpu ? 1 << 22 : 1 << 27 }

    /// Gradients at the output of the last layer.
    ///
    /// - Parameters:
    ///   - outputs: The residual stream after the last layer.
    ///   - ends: The model or its `ModelPart.ends`.
    ///   - onBatch: Called after each batch with its number; throws to stop.
    init(
        _ outputs: ActivationChain, ends: any LanguageModel, labels: LabelSampler,
        onBatch: (Int) throws -> Void = { _ in }
    ) throws {
        let batches = outputs.batches.filter(\.hasGradients)
        let (hidden, vocabulary) = (ends.dimensions.hidden, ends.dimensions.vocabulary)
        let step = max(Self.logitsPerChunk(ends.device) / vocabulary, 1)
        let head = try ends.head.expanded(ends.dtype)
        self.batches = batches
        boundary = outputs.boundary
        states = try BatchTensors(
            batches, hidden: hidden, dtype: ends.dtype, in: .memory,
            Self.label(outputs.boundary, "")
        ) { index in
            let x = try outputs.states(index).to(ends.device)
            let rows = try x.reshape([-1, hidden])
            var parts: [Tensor] = []
            for start in stride(from: 0, to: rows.shape[0], by: step) {
                let range = start..<min(start + step, rows.shape[0])
                parts.append(
                    try Self.head(ends, head, rows.narrow(0, range)) {
                        try labels($0, index, range)
                    })
            }
            try onBatch(index)
            return try Tensor.cat(parts).reshape(x.shape)
        }
    }

    /// What ``save(to:key:)`` wrote; its label is compared.
    init(file path: String, boundary: Int, batches: [TokenBatch], key: String) throws {
        self.batches = batches.filter(\.hasGradients)
        self.boundary = boundary
        states = try BatchTensors(file: path, batches: self.batches, Self.label(boundary, key))
    }

    /// One layer backwards.
    ///
    /// - Parameters:
    ///   - inputs: The residual stream before layer ``boundary`` − 1.
    ///   - model: The model or that layer.
    ///   - observer: Sees the gradients at the outputs of each member of each site.
    init(
        _ next: GradientChain, inputs: ActivationChain, layer model: any LanguageModel,
        observer: (_ batch: TokenBatch, _ site: String, _ gradients: [Tensor]) throws -> Void,
        onBatch: (Int) throws -> Void = { _ in }
    ) throws {
        batches = next.batches
        boundary = next.boundary - 1
        states = try BatchTensors(
            next.batches, hidden: model.dimensions.hidden, dtype: model.dtype, in: .memory,
            Self.label(next.boundary - 1, "")
        ) { index in
            let gradient = try Self.backward(
                model, inputs.boundary, inputs.states(index).to(model.device),
                next.states.tensor(index).to(model.device)
            ) { try observer(next.batches[index], $0, $1) }
            try onBatch(index)
            return gradient
        }
    }

    /// Writes all of it to a safetensors file that appears when it is complete.
    func save(to path: String, key: String) throws {
        try states.save(batches, to: path, Self.label(boundary, key))
    }

    private static func label(_ boundary: Int, _ key: String) -> BatchTensors.Label {
        BatchTensors.Label(kind: "gradients", boundary: boundary, key: key)
    }

    /// The gradient of the summed negative log-likelihood with respect to `rows` `[n, hidden]`.
    private static func head(
        _ ends: any LanguageModel, _ head: Linear, _ rows: Tensor,
        _ labels: (Tensor) throws -> Tensor
    ) throws -> Tensor {
        let x = try rows.detach()
        try x.setRequiresGrad()
        let logits = try head(ends.normed(x.unsqueeze(0))).squeeze(0).to(dtype: .float32)
        let targets = try withoutGradients { try labels(logits.detach()) }.to(ends.device)
        guard let gradient = try logits.crossEntropy(targets).sum().gradients([x])[0] else {
            throw CalibrationError.noGradient(what: "the residual stream")
        }
        return gradient
    }

    /// The gradient at the input of layer `index`, given that at its output; `observer` sees those
    /// at its sites' outputs.
    ///
    /// An output to which the residual was added in place since stands for the sum: a sum and its
    /// terms have one gradient.
    private static func backward(
        _ model: any LanguageModel, _ index: Int, _ input: Tensor, _ upstream: Tensor,
        observer: (_ site: String, _ gradients: [Tensor]) throws -> Void
    ) throws -> Tensor {
        let x = try input.detach()
        try x.setRequiresGrad()
        var sites: [(name: String, outputs: [Tensor])] = []
        let y = try ActivationChain.apply(model, index, to: x) { sites.append(($0, $2)) }
        let product = try (y.to(dtype: .float32) * upstream.to(dtype: .float32)).sum()
        let wanted = [x] + sites.flatMap(\.outputs)
        var gradients = try product.gradients(wanted)[...]
        guard let first = gradients.popFirst(), let atInput = first else {
            throw CalibrationError.noGradient(what: "the input of layer \(index)")
        }
        for (name, outputs) in sites {
            let own = gradients.prefix(outputs.count).compactMap(\.self)
            gradients = gradients.dropFirst(outputs.count)
            guard own.count == outputs.count else {
                throw CalibrationError.noGradient(what: name)
            }
            try observer(name, own)
        }
        return atInput
    }
}

/// Labels drawn from the model's own distribution.
enum SampledLabels {
    /// A sampler; each batch has random numbers of its own, so that a resumed run draws the same.
    static func sampler(seed: UInt64, device: Device) -> LabelSampler {
        var current: (batch: Int, generator: RandomGenerator)?
        return { logits, batch, rows in
            if current?.batch != batch || rows.lowerBound == 0 {
                // Weyl steps (2⁶⁴ divided by the golden ratio) keep neighbouring seeds apart.
                let own = seed &+ 0x9e37_79b9_7f4a_7c15 &* UInt64(batch + 1)
                current = (batch, try RandomGenerator(seed: own, device: device))
            }
            guard let generator = current?.generator else { return try logits.argmax(-1) }
            // The class with the largest p/e, e standard exponential, is distributed as p.
            let noise = try Tensor.empty(logits.shape, device: logits.device)
            try noise.fillExponential(generator: generator)
            return try (logits.softmax() / noise).argmax(-1)
        }
    }
}
