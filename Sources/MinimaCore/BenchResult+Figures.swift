extension BenchResult {
    /// What follows from a run's times and bytes and the card's rates; `nil` where a part is missing
    /// or no positive number.
    public struct Figures: Codable, Sendable, Hashable {
        /// The run's label.
        public var label: String
        /// Tokens per second that each request gets.
        public var tokensPerSecond: Double?
        /// Tokens per second of all requests.
        public var totalTokensPerSecond: Double?
        /// The most tokens per second that each request could get at the measured read bandwidth.
        public var rooflineTokensPerSecond: Double?
        /// What is reached of it.
        public var rooflineShare: Double?
        /// Bytes per second over a step.
        public var bytesPerSecond: Double?
        /// Operations per second while prompts are read.
        public var prefillFlopsPerSecond: Double?
        /// What that is of the card's measured rate.
        public var prefillShare: Double?
        /// The most bytes on the device, of what was predicted.
        public var peakShare: Double?
        /// Seconds of all kernels of a step, each measured alone.
        public var kernelSeconds: Double?
        /// Seconds of a step, or of its graph where that was timed, less ``kernelSeconds``: what kernels
        /// wait for others more than for their own kind; negative where they overlap others more.
        public var unexplainedSeconds: Double?
        /// Seconds of a step outside its graph.
        public var hostSeconds: Double?
    }

    /// Figures of a kernel.
    public struct KernelFigures: Sendable, Hashable {
        /// Bytes per second.
        public var bytesPerSecond: Double?
        /// What that is of the measured read bandwidth.
        public var bandwidthShare: Double?
        /// Its share of the step.
        public var stepShare: Double?
    }

    /// Figures of every run.
    public var figures: [Figures] { runs.map(figures) }

    /// Figures of a run on this card.
    public func figures(_ run: Run) -> Figures {
        let tokens = Self.quotient(1, run.step.median)
        let step = run.stepSeconds
        let length = run.speculation?.acceptanceLength ?? 1
        let roofline = Self.quotient(card.readBandwidth.median * length, run.traffic.total)
        let rate = run.prefill.flatMap { Self.quotient($0.flops, $0.seconds.median) }
        let graph = run.graph?.median ?? step
        let kernels = run.kernels.isEmpty ? nil : run.kernels.reduce(0) { $0 + $1.seconds }
        return Figures(
            label: run.label, tokensPerSecond: tokens,
            totalTokensPerSecond: Self.quotient(Double(run.requests), run.step.median),
            rooflineTokensPerSecond: roofline, rooflineShare: Self.quotient(tokens, roofline),
            bytesPerSecond: Self.quotient(run.traffic.total, step),
            prefillFlopsPerSecond: rate,
            prefillShare: Self.quotient(rate, card.matrixRate.median),
            peakShare: Self.quotient(
                run.peakBytes.map { Double($0) }, run.predictedMemory.map { Double($0.total) }),
            kernelSeconds: kernels.flatMap { $0.isFinite ? $0 : nil },
            unexplainedSeconds: Self.difference(graph, kernels),
            hostSeconds: run.graph.flatMap { Self.difference(step, $0.median) })
    }

    /// What a part of a step reaches of the card's read bandwidth.
    public func share(_ part: Run.Speculation.Part) -> Double? {
        Self.quotient(
            Self.quotient(Double(part.bytes), part.seconds), card.readBandwidth.median)
    }

    /// Figures of a kernel of `run`.
    public func figures(_ kernel: Run.Kernel, in run: Run) -> KernelFigures {
        let rate = Self.quotient(Double(kernel.bytes), kernel.seconds)
        return KernelFigures(
            bytesPerSecond: rate,
            bandwidthShare: Self.quotient(rate, card.readBandwidth.median),
            stepShare: Self.quotient(kernel.seconds, run.stepSeconds))
    }

    private static func quotient(_ part: Double?, _ whole: Double?) -> Double? {
        guard let part, let whole, part >= 0, whole > 0 else { return nil }
        let quotient = part / whole
        return quotient.isFinite ? quotient : nil
    }

    private static func difference(_ left: Double, _ right: Double?) -> Double? {
        guard let right else { return nil }
        let difference = left - right
        return difference.isFinite ? difference : nil
    }
}

extension BenchResult.Run {
    /// Seconds of a whole step, however many tokens it makes.
    public var stepSeconds: Double { step.median * (speculation?.acceptanceLength ?? 1) }
}

extension BenchResult {
    private enum CodingKeys: CodingKey {
        case version, schema, model, dimensions, card, seed, command, versions, runs, figures
    }

    /// Reads what ``encode(to:)`` wrote; `figures` follow from the rest and are not read.
    public init(from decoder: any Decoder) throws {
        let members = try decoder.container(keyedBy: CodingKeys.self)
        self.init(
            version: try members.decode(String.self, forKey: .version),
            schema: try members.decode(Int.self, forKey: .schema),
            model: try members.decode(String.self, forKey: .model),
            dimensions: try members.decode(DecoderDimensions.self, forKey: .dimensions),
            card: try members.decode(Card.self, forKey: .card),
            seed: try members.decode(UInt64.self, forKey: .seed),
            command: try members.decode(String.self, forKey: .command),
            versions: try members.decode([String: String].self, forKey: .versions),
            runs: try members.decode([Run].self, forKey: .runs))
    }

    /// Writes everything, and ``figures`` for readers of the file.
    public func encode(to encoder: any Encoder) throws {
        var members = encoder.container(keyedBy: CodingKeys.self)
        try members.encode(version, forKey: .version)
        try members.encode(schema, forKey: .schema)
        try members.encode(model, forKey: .model)
        try members.encode(dimensions, forKey: .dimensions)
        try members.encode(card, forKey: .card)
        try members.encode(seed, forKey: .seed)
        try members.encode(command, forKey: .command)
        try members.encode(versions, forKey: .versions)
        try members.encode(runs, forKey: .runs)
        try members.encode(figures, forKey: .figures)
    }
}
