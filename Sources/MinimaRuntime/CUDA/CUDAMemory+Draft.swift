import MinimaCore
import MinimaKernels
import MinimaModels

extension CUDAMemory {
    /// What proposes tokens by weights of its own.
    public struct Draft: Sendable, Hashable {
        /// What computes the proposals.
        public enum Kind: Sendable, Hashable {
            /// An EAGLE-3 head.
            case head(EagleConfiguration)
            /// A smaller model.
            case model(DecoderDimensions)
        }

        /// What computes the proposals.
        public let kind: Kind
        /// What its attention is compiled for.
        public let attention: AttentionShape
        /// Bytes of its weights.
        public let weightBytes: Int
        /// Children of a proposed token at most; 1: chains.
        public let width: Int
        /// What its products need.
        let bounds: WeightBounds

        /// A head, from its configuration.
        ///
        /// - Parameters:
        ///   - weightBytes: Stored bytes, numbers counted as bfloat16.
        ///   - isQuantized: Whether any of its weights is stored as codes.
        ///   - width: Children of a proposed token at most; 1: chains.
        /// - Throws: `RuntimeError.unsupportedSize` for sizes that no device has memory for.
        public init(
            head config: EagleConfiguration, weightBytes: Int, isQuantized: Bool, width: Int = 1
        ) throws {
            try CUDAMemory.check(config)
            kind = .head(config)
            self.width = min(max(width, 1), TreeKernels.mostWidth)
            attention = try AttentionShape(
                heads: config.heads, kvHeads: config.keyValueHeads, headDim: config.headDim,
                normalisesQueriesAndKeys: false)
            self.weightBytes = weightBytes
            bounds = WeightBounds(config, isQuantized: isQuantized)
        }

        /// A smaller model, from its configuration.
        ///
        /// - Parameters:
        ///   - formats: Of the modules that are not dense.
        ///   - weightBytes: Stored bytes, numbers counted as bfloat16.
        /// - Throws: `RuntimeError.unsupportedSize` for sizes that no device has memory for.
        public init(
            model architecture: DecoderArchitecture, formats: [FormatSpec], weightBytes: Int
        ) throws {
            let sizes = architecture.dimensions
            try CUDAMemory.check(sizes)
            kind = .model(sizes)
            width = 1
            attention = try AttentionShape(architecture)
            self.weightBytes = weightBytes
            bounds = WeightBounds(sizes, formats: formats)
        }

        /// A head that is loaded.
        init(_ head: DraftHead, width: Int) {
            kind = .head(head.config)
            self.width = width
            attention = head.attention
            weightBytes = head.byteCount
            bounds = WeightBounds(
                gathersGates: false, largestResults: head.largestResults,
                largestExpanded: head.largestExpanded, loadingBytes: 0)
        }

        /// A smaller model that is loaded.
        init(_ model: DecoderWeights) throws(KernelError) {
            kind = .model(model.architecture.dimensions)
            width = 1
            attention = try model.attentionShape()
            weightBytes = model.byteCount
            bounds = WeightBounds(model)
        }
    }
}

extension CUDAMemory.Draft {
    /// Layers with keys and values.
    var layers: Int {
        switch kind {
        case .head: 1
        case .model(let sizes): sizes.layers
        }
    }

    /// Whether a round has to read all places again that a step before may have settled: a model's are worth
    /// nothing otherwise, and where a head has grown a tree lie nodes of several branches. After a step of
    /// more proposals than this one may have, some of a head's may stay so: that can cost acceptance.
    var readsAllAgain: Bool {
        switch kind {
        case .head: width > 1
        case .model: true
        }
    }

    /// The trees of a step that verifies them; `nil` for one that does not.
    func tree(_ size: StepSize) -> TreeKernels.Shape? {
        width > 1 && size.draftTokens > 0
            ? TreeKernels.Shape(count: size.draftTokens, width: width) : nil
    }

    /// Bytes of the pages that rows have of their own while trees grow.
    func treePageBytes(_ layout: CUDALayout) -> Int {
        width > 1 ? layout.treePages(width) * pageBytes(layout.format) : 0
    }

    /// Places that a round of a step of `bucket` computes anew for each row: what the step before may
    /// have settled.
    func places(_ layout: CUDALayout, bucket: Int) -> Int {
        let count = layout.mostDraftTokens(bucket)
        return switch kind {
        case .head(let config):
            CUDAHeadDrafter.places(
                count, heads: config.heads, keyValueHeads: config.keyValueHeads)
        case .model: count + 1
        }
    }

    /// Bytes of its buffers, and of its logits.
    func buffers(_ layout: CUDALayout) -> (bytes: Int, logits: Int) {
        switch kind {
        case .head(let config):
            let shapes = CUDAHeadDrafter.Buffers.Shapes(config, layout, width: width)
            let logits = 4 * shapes.logits.reduce(1, *)
            return (shapes.byteCount - logits, logits)
        case .model(let sizes):
            return CUDAModelDrafter.Buffers.bytes(
                sizes, gathersGates: bounds.gathersGates, layout)
        }
    }

    /// Bytes of a round's tensors of integers, in a step of a size.
    func integerBytes(_ layout: CUDALayout, _ size: StepSize) -> Int {
        let tree = tree(size)
        let round = DraftKernels.Round.bytes(
            rows: size.bucket, places: places(layout, bucket: size.bucket),
            steps: tree == nil ? max(size.draftTokens, 1) : 1)
        guard let tree, case .head(let config) = kind else { return round }
        return round
            + TreeKernels.Round.bytes(
                tree, rows: size.bucket, pages: layout.pagesPerSlot,
                vocabulary: config.draftVocabulary)
    }

    /// Outputs of its matrices.
    var outputs: [Int] {
        switch kind {
        case .head(let config):
            let attention = (config.heads + 2 * config.keyValueHeads) * config.headDim
            return [
                config.hidden, attention, config.hidden, 2 * config.intermediate, config.hidden,
                config.draftVocabulary,
            ]
        case .model(let sizes): return sizes.sites.map(\.outputs) + [sizes.vocabularySize]
        }
    }

    /// Bytes of one page of its keys and values.
    public func pageBytes(_ format: KeyValueFormat) -> Int {
        PagedKeyValues.bytesPerPage(layers: layers, shape: attention, format: format)
    }

    /// Launches of a step of a size.
    func launches(_ size: StepSize) -> Int {
        switch kind {
        case .head: (width > 1 ? 14 : 12) * size.places
        case .model(let sizes): (10 * sizes.layers + 6) * max(size.draftTokens, 1)
        }
    }
}

/// What products need beside the weights themselves: known of those that are loaded, bounded from
/// configurations.
struct WeightBounds: Sendable, Hashable {
    /// Whether every layer's gates and ups are gathered from one weight.
    let gathersGates: Bool
    /// Values that a factored weight gives for one token at most.
    let largestResults: Int
    /// Values of the largest matrix of codes.
    let largestExpanded: Int
    /// Most bytes that lie beside the weights while they are loaded.
    let loadingBytes: Int
}

extension WeightBounds {
    /// Of what is loaded.
    init(_ weights: DecoderWeights) {
        self.init(
            gathersGates: weights.gathersGates, largestResults: weights.largestResults,
            largestExpanded: weights.largestExpanded, loadingBytes: 0)
    }

    /// Of a decoder whose modules that are not dense have these formats.
    init(_ sizes: DecoderDimensions, formats: [FormatSpec]) {
        gathersGates = false
        // A member of a site that is stored alone gives its own outputs and what they are made of.
        let widest = max(2 * sizes.heads * sizes.headDim, 2 * sizes.intermediateSize)
        let outputs = sizes.sites.reduce(widest) { max($0, $1.outputs) }
        let isComposite = formats.contains { $0.contains { !$0.parts.isEmpty && $0.bits == nil } }
        largestResults = formats.isEmpty ? 0 : (isComposite ? 2 : 1) * (outputs + 8)
        let isQuantized = formats.contains { $0.contains { $0.bits != nil } }
        let matrices = sizes.sites.map { Self.padded($0.outputs, $0.inputs) }
        let head = Self.padded(sizes.vocabularySize, sizes.hiddenSize)
        largestExpanded = isQuantized ? matrices.max() ?? 0 : 0
        loadingBytes = max(2 * matrices.reduce(0, +), 2 * head)
    }

    /// Of a head.
    init(_ config: EagleConfiguration, isQuantized: Bool) {
        let hidden = config.hidden
        gathersGates = false
        largestResults = 0
        loadingBytes = 0
        largestExpanded =
            isQuantized
            ? max(
                Self.padded(hidden, EagleConfiguration.featureCount * config.targetHidden),
                Self.padded(2 * config.intermediate, hidden),
                Self.padded(config.draftVocabulary, hidden),
                Self.padded(
                    (config.heads + 2 * config.keyValueHeads) * config.headDim, 2 * hidden)) : 0
    }

    private static func padded(_ outputs: Int, _ inputs: Int) -> Int {
        outputs * ((inputs + 7) / 8 * 8)
    }
}

extension AttentionShape {
    /// What a decoder's attention is compiled for, as far as its configuration tells.
    init(_ architecture: DecoderArchitecture) throws(KernelError) {
        let sizes = architecture.dimensions
        try self.init(
            heads: sizes.heads, kvHeads: sizes.keyValueHeads, headDim: sizes.headDim,
            normalisesQueriesAndKeys: architecture.normalisesQueriesAndKeys)
    }
}

extension FormatSpec {
    /// Whether this format or one that it is made of is so.
    fileprivate func contains(_ condition: (FormatSpec) -> Bool) -> Bool {
        condition(self) || parts.contains { $0.contains(condition) }
    }
}
