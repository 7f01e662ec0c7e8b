import MinimaCore
import MinimaFormats
import MinimaTensor

/// Fits the modules of one site.
struct SiteFit {
    /// Fitted modules and what is said about them.
    struct Outcome {
        var weights: [any LinearWeight]
        var modules: [CompressionResult.Module]
        /// All members' weights as they are now `[outputs, inputs]`.
        var stacked: Tensor

        /// The largest relative output error.
        var largestError: Double { modules.map(\.outputError).max() ?? 0 }
    }

    private struct Fitted {
        var value: any LinearWeight
        var seconds: Double
    }

    private let planned: PlannedSite
    /// W of each member, as stored.
    private let weights: [Tensor]
    private let output: OutputMetric?
    private let ridge: Double
    private let isCompensated: Bool

    /// - Parameters:
    ///   - weights: Of all members `[outputs, inputs]` each, in the stored dtype.
    ///   - output: H over the stacked outputs, where it is known.
    init(
        _ planned: PlannedSite, weights: [Tensor], output: OutputMetric?, ridge: Double,
        isCompensated: Bool
    ) {
        self.planned = planned
        self.weights = weights
        self.output = output
        self.ridge = ridge
        self.isCompensated = isCompensated
    }

    /// Fits with one β.
    func fit(_ moments: InputMoments, share: Double) throws -> Outcome {
        let targets = share == 0 ? nil : try targets(moments)
        return try outcome(moments, try fitted(moments, targets, share), share)
    }

    /// Fits with the best of the candidates on the windows of `judge`, then again on all windows.
    func fit(_ moments: InputMoments, judge: InputMoments?) throws -> Outcome {
        guard let judge else { return try fit(moments, share: 0) }
        let all = try moments.joined(judge)
        guard moments.compressed != nil else { return try fit(all, share: 0) }
        let best = try self.best(moments, judge)
        return try fit(all, share: best)
    }

    private func best(_ moments: InputMoments, _ judge: InputMoments) throws -> Double {
        let targets = try targets(moments)
        var best = (share: 0.0, error: Double.infinity)
        for share in Compensation.candidates {
            let error = try self.error(judge, try fitted(moments, targets, share))
            if error < best.error { best = (share, error) }
        }
        return best.share
    }

    /// ‖y − ŷ‖² under H on the windows of `judge`, up to a constant: y = W·x, ŷ = Ŵ·x̂, or the
    /// residual streams behind them.
    ///
    /// It is tr(Ŵᵀ·H·(Ŵ·Ĉ − 2·[W·(Ĉ + E) + F])) without the term that knows no Ŵ.
    private func error(_ judge: InputMoments, _ fitted: [Fitted]) throws -> Double {
        guard let compressed = judge.compressed else { return 0 }
        var sum = 0.0
        let stacked = try Tensor.cat(weights)
        for (module, weight) in zip(planned.modules, fitted) {
            let exact = try stacked.narrow(0, module.rows).to(dtype: .float64)
            let approximate = try weight.value.reconstruct().to(dtype: .float64)
            let rest =
                try approximate.matmul(compressed.moment)
                - compressed.wanted(exact, module.rows) * 2
            let weighted = try output?.narrow(module.rows).times(approximate) ?? approximate
            sum += try (weighted * rest).sum().item()
        }
        return sum
    }

    private func targets(_ moments: InputMoments) throws -> CompensatedTargets? {
        guard let compressed = moments.compressed else { return nil }
        return try CompensatedTargets(
            Tensor.cat(weights).to(dtype: .float64), compressed, ridge: ridge,
            site: planned.site.name)
    }

    private func fitted(
        _ moments: InputMoments, _ targets: CompensatedTargets?, _ share: Double
    ) throws -> [Fitted] {
        guard let input = moments.compressed?.moment ?? moments.dense else {
            throw StageError.tooLittleText(
                tokens: 0, needed: 1, purpose: "the calibration of \(planned.site.name)")
        }
        let stacked = try Tensor.cat(weights)
        let target = try targets?(share) ?? stacked
        return try planned.modules.map { module in
            let metric = try Metric(input: input, output: output?.narrow(module.rows))
            // Rounded as the result will be: formats store what they do not round themselves in
            // their argument's type.
            let clock = ContinuousClock()
            let start = clock.now
            let value = try module.format.decompose(
                target.narrow(0, module.rows).to(dtype: module.dtype).contiguous(),
                spec: module.entry.spec, metric: metric)
            try target.device.synchronize()
            return Fitted(value: value, seconds: (clock.now - start).totalSeconds)
        }
    }

    private func outcome(
        _ moments: InputMoments, _ fitted: [Fitted], _ share: Double
    ) throws -> Outcome {
        let stacked = try Tensor.cat(weights).clone()
        var modules: [CompressionResult.Module] = []
        for (module, fit) in zip(planned.modules, fitted) {
            let weight = fit.value
            let rows = try stacked.narrow(0, module.rows)
            let exact = try rows.to(dtype: .float64).clone()
            let approximate = try weight.reconstruct()
            try rows.copy(from: approximate)
            let difference = try approximate.to(dtype: .float64) - exact
            var record = CompressionResult.Module(
                name: module.entry.name, outputs: module.entry.outputs,
                inputs: module.entry.inputs, spec: module.entry.spec,
                parameters: weight.parameterCount, bytes: weight.byteCount,
                weightError: try difference.norm().item() / max(exact.norm().item(), 1e-300),
                outputError: .nan, predictedDamage: module.entry.damage,
                compensation: isCompensated ? share : nil, seconds: fit.seconds)
            if let moment = moments.dense {
                let plain = try Metric(input: moment)
                record.outputError =
                    try plain.norm(difference) / max(plain.norm(exact), 1e-300)
                record.damage = try output.map {
                    try Metric(input: moment, output: $0.narrow(module.rows))
                        .squaredNorm(difference) / 2
                }
            }
            modules.append(record)
        }
        return Outcome(weights: fitted.map(\.value), modules: modules, stacked: stacked)
    }
}
