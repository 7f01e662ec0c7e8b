import MinimaCore
import MinimaModels
import MinimaTensor

/// The residual stream of all calibration windows at one layer boundary.
///
/// It stays on the host, in the model's type; a layer sees one batch of it at a time. On the device
/// there are one layer and the activations of one batch.
public struct ActivationChain: Sendable {
    /// Where the residual stream is kept.
    public enum Place: Sendable, Hashable {
        case memory
        /// A safetensors file at this path.
        case file(String)

        var storage: BatchTensors.Place {
            switch self {
            case .memory: .memory
            case .file(let path): .file(path)
            }
        }
    }

    /// Sees the linear layers work on a batch; outputs are valid during the call only, for a
    /// residual may be added to them in place.
    public typealias Observer = (
        _ batch: TokenBatch, _ site: String, _ input: Tensor, _ outputs: [Tensor]
    ) throws -> Void

    /// The windows, in the order in which they run.
    public let batches: [TokenBatch]
    /// The layer whose inputs these are; the number of layers after the last one.
    public private(set) var boundary: Int
    private var states: BatchTensors

    /// The inputs of layer 0.
    ///
    /// - Parameters:
    ///   - ends: The model or its `ModelPart.ends`.
    ///   - key: Content of the calibration, written to a file and compared when it is opened.
    ///   - onBatch: Called after each batch with its number; throws to stop.
    /// - Throws: `ModelError` for token ids or lengths that the model does not take.
    public init(
        _ batches: [TokenBatch], embeddedBy ends: any LanguageModel, in place: Place = .memory,
        key: String = "", onBatch: (Int) throws -> Void = { _ in }
    ) throws {
        for batch in batches {
            try ends.requireTokens(batch.windows.joined())
            guard batch.length <= ends.dimensions.context else {
                throw ModelError.contextExceeded(
                    length: batch.length, context: ends.dimensions.context)
            }
        }
        self.batches = batches
        boundary = 0
        states = try BatchTensors(
            batches, hidden: ends.dimensions.hidden, dtype: ends.dtype, in: place.storage,
            Self.label(0, key)
        ) { index in
            let x = try withoutGradients { try ends.embed(batches[index].ids().to(ends.device)) }
            try onBatch(index)
            return x
        }
    }

    /// What ``save(to:key:)`` or a ``Place/file(_:)`` wrote for these batches at `boundary`.
    ///
    /// - Throws: `CheckpointError` for files that cannot be read, `CalibrationError.foreignFile`
    ///   for those of other batches, another boundary or another key.
    public init(file path: String, boundary: Int, batches: [TokenBatch], key: String) throws {
        self.batches = batches
        self.boundary = boundary
        states = try BatchTensors(file: path, batches: batches, Self.label(boundary, key))
    }

    private init(_ batches: [TokenBatch], boundary: Int, _ states: BatchTensors) {
        self.batches = batches
        self.boundary = boundary
        self.states = states
    }

    /// Writes all of it to a safetensors file that appears when it is complete.
    public func save(to path: String, key: String) throws {
        try states.save(batches, to: path, Self.label(boundary, key))
    }

    /// The residual stream of a batch, `[window, token, hidden]`, on the host.
    public func states(_ batch: Int) throws -> Tensor { try states.tensor(batch) }

    /// The residual stream of a batch after the next layer, on the model's device; leaves the chain
    /// as it is.
    ///
    /// - Parameters:
    ///   - model: The model or its layer ``boundary``.
    ///   - substitutes: Weights to use in place of the layer's own.
    ///   - observer: Sees the linear layers work.
    ///   - residualObserver: Sees what their outputs are added to.
    public func output(
        _ batch: Int, of model: any LanguageModel, substitutes: Substitutes = [:],
        observer: LinearObserver? = nil, residualObserver: ResidualObserver? = nil
    ) throws -> Tensor {
        try withoutGradients {
            try Self.apply(
                model, boundary, to: states(batch).to(model.device), substitutes,
                observer, residualObserver)
        }
    }

    /// Goes one layer forward; a batch's old state is released when its new one is there.
    ///
    /// Ends in memory. When a batch fails, the chain is not to be used any more.
    public mutating func advance(
        layer model: any LanguageModel, substitutes: Substitutes = [:],
        observer: Observer? = nil, onBatch: (Int) throws -> Void = { _ in }
    ) throws {
        for index in batches.indices {
            let next = try output(
                index, of: model, substitutes: substitutes, observer: bound(observer, index))
            try states.replace(index, by: next, count: batches.count)
            try onBatch(index)
        }
        boundary += 1
    }

    /// The chain one layer further, beside this one.
    public func advanced(
        layer model: any LanguageModel, substitutes: Substitutes = [:], to place: Place = .memory,
        key: String = "", observer: Observer? = nil, onBatch: (Int) throws -> Void = { _ in }
    ) throws -> ActivationChain {
        let next = try BatchTensors(
            batches, hidden: model.dimensions.hidden, dtype: model.dtype, in: place.storage,
            Self.label(boundary + 1, key)
        ) { index in
            let x = try output(
                index, of: model, substitutes: substitutes, observer: bound(observer, index))
            try onBatch(index)
            return x
        }
        return ActivationChain(batches, boundary: boundary + 1, next)
    }

    /// Bytes of one boundary's residual stream.
    public static func byteCount(_ batches: [TokenBatch], hidden: Int, dtype: DType) -> Int {
        Saturating.sum(batches.map { Saturating.product([$0.tokens, hidden, dtype.byteCount]) })
    }

    private func bound(_ observer: Observer?, _ index: Int) -> LinearObserver? {
        observer.map { observer in
            let batch = batches[index]
            return { try observer(batch, $0, $1, $2) }
        }
    }

    private static func label(_ boundary: Int, _ key: String) -> BatchTensors.Label {
        BatchTensors.Label(kind: "activations", boundary: boundary, key: key)
    }

    /// Layer `index` of `model` over `x` `[window, token, hidden]` on its device.
    static func apply(
        _ model: any LanguageModel, _ index: Int, to x: Tensor, _ substitutes: Substitutes = [:],
        _ observer: LinearObserver?, _ residualObserver: ResidualObserver? = nil
    ) throws -> Tensor {
        guard index < model.dimensions.layers else {
            throw CalibrationError.boundary(asked: index, layers: model.dimensions.layers)
        }
        let context = try ForwardContext(
            batch: x.shape[0], tokens: x.shape[1], cache: nil, padding: nil, rotary: model.rotary,
            device: model.device, dtype: model.dtype, substitutes: substitutes, observer: observer,
            residualObserver: residualObserver)
        return try model.layer(index, x, context)
    }
}
