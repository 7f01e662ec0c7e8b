import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor

/// What was found out while one decoder layer was compressed.
struct LayerRecord: StageResult {
    static let kind = "compressed-layer"

    /// Its compressed modules in forward order.
    var modules: [CompressionResult.Module] = []
    /// Seconds by phase.
    var phases: [String: Double] = [:]
    /// Most bytes in live tensors on the device so far.
    var peakDeviceBytes: Int?
}

/// Compresses one decoder layer after the other and keeps what the next one needs: the activations
/// of the dense model and of the compressed one at the layer boundary.
struct LayerCompressor {
    /// A fitted module: what is stored, and what is said about it.
    struct Result {
        var tensors: [(name: String, tensor: Tensor)] = []
        var record = LayerRecord()
    }

    let planned: PlannedModel
    let request: Compressor.Request
    let dtype: DType
    let report: (_ note: String) throws -> Void
    /// The last layer with anything to compress, or the number of layers where the output projection is
    /// compressed, too: activations are not needed beyond it.
    private let last: Int
    /// Calibration batches; those from `heldOut` on only judge.
    let batches: [TokenBatch]
    private let heldOut: Int
    /// Inputs of the next layer in the dense model; `nil` before they are first needed.
    private(set) var dense: ActivationChain?
    /// The same in the compressed model; `nil` as long as both agree.
    private(set) var compressed: ActivationChain?

    /// - Parameter report: Called between passes and fits; throws to stop.
    init(
        _ planned: PlannedModel, _ request: Compressor.Request, dtype: DType,
        report: @escaping (_ note: String) throws -> Void
    ) throws {
        self.planned = planned
        self.request = request
        self.dtype = dtype
        self.report = report
        last =
            planned.head == nil
            ? planned.layers.lastIndex { !$0.isEmpty } ?? 0 : planned.layers.count
        var (fitting, judging) = (request.sources, [CalibrationSource]())
        if request.compensation == .automatic {
            (fitting, judging) = Self.split(request.sources)
            guard !judging.flatMap(\.windows).isEmpty else {
                throw StageError.tooLittleText(
                    tokens: request.sources.flatMap(\.windows).reduce(0) { $0 + $1.count },
                    needed: Compensation.heldOutStride * 2,
                    purpose: "compensation chosen on held-out windows, of which there must be "
                        + "one in \(Compensation.heldOutStride),")
            }
        }
        let first = TokenBatch.batches(fitting, tokensPerPass: request.tokensPerPass)
        heldOut = first.count
        batches = first + TokenBatch.batches(judging, tokensPerPass: request.tokensPerPass)
    }

    /// Goes on from activations that were saved.
    mutating func resume(dense: ActivationChain?, compressed: ActivationChain?) {
        self.dense = dense
        self.compressed = compressed
    }

    private static func split(_ sources: [CalibrationSource]) -> (
        fitting: [CalibrationSource], judging: [CalibrationSource]
    ) {
        let stride = Compensation.heldOutStride
        func part(_ isWanted: (Int) -> Bool) -> [CalibrationSource] {
            sources.map { source in
                let windows = source.windows.indices.filter(isWanted).map { source.windows[$0] }
                return CalibrationSource(
                    name: source.name, windows: windows, weight: source.weight)
            }.filter { !$0.windows.isEmpty }
        }
        return (part { $0 % stride != stride - 1 }, part { $0 % stride == stride - 1 })
    }

    // MARK: One layer

    /// Compresses layer `index`; the layers before it are done.
    ///
    /// - Parameter onModules: Called with the number of modules that were fitted.
    mutating func compress(_ index: Int, onModules: (Int) -> Void) throws -> Result {
        try request.device.resetPeakMemory()
        var result = Result()
        let sites = planned.layers[index]
        if !sites.isEmpty {
            let device = request.device
            let statistics = try result.timing("load", device) {
                try request.statistics?.load(layer: index, to: device)
            }
            var inputs: [String: Tensor] = [:]
            var outputs: [String: OutputMetric] = [:]
            for site in statistics?.sites ?? [] {
                inputs[site.site.name] = site.input
                outputs[site.site.name] = site.output
            }
            if statistics == nil {
                outputs =
                    try request.statistics?.outputMetrics(layer: index, to: device) ?? [:]
            }
            if request.compensation == .off {
                if statistics == nil { inputs = try moments(index, &result) }
                for site in sites {
                    let moments = InputMoments(dense: inputs.removeValue(forKey: site.site.name))
                    _ = try fit(site, moments, nil, outputs[site.site.name], onModules, &result)
                }
            } else {
                try compensate(index, inputs, outputs, onModules, &result)
            }
            try request.device.emptyCache()
        }
        result.record.peakDeviceBytes = try request.device.memory()?.peakAllocated
        return result
    }

    /// Fits site after site to what the modules before it have made of the activations.
    private mutating func compensate(
        _ index: Int, _ inputs: [String: Tensor], _ outputs: [String: OutputMetric],
        _ onModules: (Int) -> Void, _ result: inout Result
    ) throws {
        let model = try catchUp(to: index, &result)
        guard let dense else { return }
        var substitutes: Substitutes = [:]
        let experts = planned.layers[index].map(\.site).filter {
            $0.tokenShare < 1 && inputs[$0.name] == nil
        }
        let known = inputs.merging(try routed(experts, dense, model, &result)) { $1 }
        for site in planned.layers[index] {
            let name = site.site.name
            // The compressed model may send other tokens to an expert than the dense one, so that
            // its inputs have no counterparts.
            if site.site.tokenShare < 1 {
                let stacked = try fit(
                    site, InputMoments(dense: known[name]), nil, outputs[name], onModules, &result)
                substitutes[name] = Dense(try stacked.to(dtype: dtype))
                continue
            }
            var moments = try observe(
                site.site, 0..<heldOut, model, substitutes, skipsDense: inputs[name] != nil,
                &result)
            if let known = inputs[name] { moments.dense = known }
            let judge =
                try heldOut == batches.count
                ? nil
                : observe(
                    site.site, heldOut..<batches.count, model, substitutes,
                    skipsDense: inputs[name] != nil, &result)
            let stacked = try fit(site, moments, judge, outputs[name], onModules, &result)
            substitutes[name] = Dense(try stacked.to(dtype: dtype))
        }
        guard index < last else { return }
        let next = try result.timing("calibrate", request.device) {
            (
                try dense.advanced(layer: model, onBatch: { _ in try report("layer \(index)") }),
                try (compressed ?? dense).advanced(
                    layer: model, substitutes: substitutes,
                    onBatch: { _ in try report("layer \(index)") })
            )
        }
        (self.dense, compressed) = next
    }

    // MARK: Activations

    /// Layer `index` of the model, and the activations at its input.
    private mutating func catchUp(to index: Int, _ result: inout Result) throws
        -> any LanguageModel
    {
        try advance(to: index, &result)
        return try load(index, &result)
    }

    /// Brings the activations to the input of layer `index`, or, for the number of layers, behind the
    /// last one.
    mutating func advance(to index: Int, _ result: inout Result) throws {
        var chain = try dense ?? embedded(&result)
        var other = compressed
        while chain.boundary < index {
            let model = try load(chain.boundary, &result)
            try result.timing("calibrate", request.device) {
                try chain.advance(layer: model, onBatch: { _ in try report("activations") })
                try other?.advance(layer: model, onBatch: { _ in try report("activations") })
            }
        }
        (dense, compressed) = (chain, other)
    }

    private func load(_ index: Int, _ result: inout Result) throws -> any LanguageModel {
        try result.timing("load", request.device) {
            try planned.stored.source.loadPart(
                .layer(index), device: request.device, dtype: dtype,
                onTensor: { try report("loading layer \(index)") })
        }
    }

    private func embedded(_ result: inout Result) throws -> ActivationChain {
        try result.timing("load", request.device) {
            let ends = try planned.stored.source.loadPart(
                .ends, device: request.device, dtype: dtype,
                onTensor: { try report("loading the embedding") })
            return try ActivationChain(
                batches, embeddedBy: ends, onBatch: { _ in try report("embedding") })
        }
    }

    /// C of every site that is compressed in layer `index`, from one pass of the dense model.
    private mutating func moments(_ index: Int, _ result: inout Result) throws -> [String: Tensor] {
        let model = try catchUp(to: index, &result)
        guard let dense else { return [:] }
        var sums: [String: MomentSum] = [:]
        for site in planned.layers[index] { sums[site.site.name] = MomentSum() }
        self.dense = try result.timing("calibrate", request.device) {
            try dense.advanced(
                layer: model,
                observer: { batch, site, input, _ in
                    try sums[site]?.add(input, weight: batch.weight)
                },
                onBatch: { _ in try report("layer \(index)") })
        }
        return try sums.compactMapValues { try $0.mean() }
    }

    /// Moments of a site's inputs in both models over `range` of the batches.
    ///
    /// Both run from the layer's beginning to the site and stop there: on average half a layer per
    /// site and model, less than the moments cost.
    private func observe(
        _ site: Site, _ range: Range<Int>, _ model: any LanguageModel,
        _ substitutes: Substitutes, skipsDense: Bool, _ result: inout Result
    ) throws -> InputMoments {
        guard let dense else { return InputMoments() }
        let isApart = compressed != nil || !substitutes.isEmpty
        var (own, theirs) = (MomentSum(), MomentSum())
        var (cross, residual) = (MomentSum(), MomentSum())
        try result.timing("calibrate", request.device) {
            for batch in range where isApart || !skipsDense {
                try report(site.name)
                let weight = batches[batch].weight
                let x = try reading(dense, batch, site.name, model, [:])
                if !skipsDense { try own.add(x.input, weight: weight) }
                guard isApart else { continue }
                let y = try reading(compressed ?? dense, batch, site.name, model, substitutes)
                try theirs.add(y.input, weight: weight)
                try cross.add(x.input - y.input, y.input, weight: weight)
                if let ours = x.stream, let theirs = y.stream {
                    try residual.add(ours - theirs, y.input, weight: weight)
                }
            }
        }
        var moments = InputMoments(
            dense: try own.mean(),
            weight: range.reduce(0) {
                $0 + batches[$1].weight * Double(batches[$1].tokens)
            })
        if let moment = try theirs.mean(), let cross = try cross.mean() {
            moments.compressed = InputMoments.Compressed(
                moment: moment, cross: cross, residual: try residual.mean())
        }
        return moments
    }

    /// C of experts, from one pass of the dense model; none for those without tokens.
    private func routed(
        _ sites: [Site], _ dense: ActivationChain, _ model: any LanguageModel,
        _ result: inout Result
    ) throws -> [String: Tensor] {
        guard !sites.isEmpty else { return [:] }
        var sums = Dictionary(uniqueKeysWithValues: sites.map { ($0.name, MomentSum()) })
        try result.timing("calibrate", request.device) {
            for index in batches.indices {
                try report("experts")
                let weight = batches[index].weight
                _ = try dense.output(index, of: model) { name, x, _ in
                    try sums[name]?.add(x, weight: weight)
                }
            }
        }
        return try sums.compactMapValues { try $0.mean() }
    }

    private struct Found: Error {}

    /// The site's input `[windows, tokens, inputs]` and the residual stream `[windows, tokens,
    /// hidden]` that its output is added to, if it is; the pass ends there.
    private func reading(
        _ chain: ActivationChain, _ batch: Int, _ site: String, _ model: any LanguageModel,
        _ substitutes: Substitutes
    ) throws -> (input: Tensor, stream: Tensor?) {
        var (found, stream): (Tensor?, Tensor?) = (nil, nil)
        do {
            _ = try chain.output(
                batch, of: model, substitutes: substitutes,
                observer: { name, x, _ in
                    guard name == site else { return }
                    found = x
                    throw Found()
                }, residualObserver: { if $0 == site { stream = $1 } })
        } catch is Found {}
        guard let found else {
            throw CompressionError.unusable(name: site, reason: "the model does not run it")
        }
        return (found, stream)
    }

    // MARK: Fitting

    /// Fits the modules of a site, notes what they store, and returns the stacked weight that
    /// stands for them `[outputs, inputs]`.
    private func fit(
        _ planned: PlannedSite, _ moments: InputMoments, _ judge: InputMoments?,
        _ output: OutputMetric?, _ onModules: (Int) -> Void, _ result: inout Result
    ) throws -> Tensor {
        let parts = try result.timing("load", request.device) {
            try planned.site.members.map {
                try self.planned.stored.source.tensor(
                    "\($0.name).weight", shape: [$0.outputs, $0.inputs], on: request.device)
            }
        }
        let site = SiteFit(
            planned, weights: parts, output: output, ridge: request.ridge,
            isCompensated: request.compensation != .off)
        var moments = moments
        if moments.dense == nil, planned.site.tokenShare < 1 {
            try report("\(planned.site.name): no calibration token reaches it; plain norm")
            moments.dense = try Tensor.identity(
                planned.site.inputs, dtype: .float64, device: request.device)
        }
        let outcome = try result.timing("fit", request.device) {
            try withoutGradients {
                switch request.compensation {
                case .off: try site.fit(moments, share: 0)
                case .fixed(let share): try site.fit(moments, share: share)
                case .automatic: try site.fit(moments, judge: judge)
                }
            }
        }
        onModules(outcome.modules.count)
        try report("\(planned.site.name): output error \(rounded(100 * outcome.largestError))%")
        result.record.modules += outcome.modules
        for (module, weight) in zip(planned.modules, outcome.weights) {
            for (name, tensor) in weight.tensors {
                result.tensors.append(("\(module.entry.name).\(name)", try tensor.to(.cpu)))
            }
        }
        return outcome.stacked
    }
}

extension LayerCompressor.Result {
    /// Runs `body` and adds its time to a phase.
    mutating func timing<Value>(
        _ phase: String, _ device: Device, _ body: () throws -> Value
    ) throws -> Value {
        let clock = ContinuousClock()
        let start = clock.now
        let value = try body()
        try device.synchronize()
        record.phases[phase, default: 0] += (clock.now - start).totalSeconds
        return value
    }
}
