import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor

extension LayerCompressor {
    /// Quantises the output projection, where the plan says so; all layers are done.
    ///
    /// It is fitted to what the model as compressed gives it, the final norm's outputs, and makes up for
    /// nothing: its targets are its own weights. Without calibration text it is rounded to what is
    /// nearest.
    ///
    /// - Parameter onModules: Called with the number of modules that were fitted.
    mutating func compressHead(onModules: (Int) -> Void) throws -> Result {
        var result = Result()
        guard let planned = planned.head else { return result }
        try request.device.resetPeakMemory()
        let moment = try headMoment(&result)
        let source = self.planned.stored.source
        let weight = try result.timing("load", request.device) {
            // As it is stored, also where the model computes in another type.
            try source.loadPart(
                .ends, device: request.device, dtype: planned.modules[0].dtype,
                onTensor: { try report("loading the output projection") }
            ).head.weight.reconstruct().to(dtype: planned.modules[0].dtype)
        }
        let (fitted, record) = try result.timing("fit", request.device) {
            try withoutGradients { try fitHead(planned.modules[0], weight, moment) }
        }
        onModules(1)
        try report("\(record.name): output error \(rounded(100 * record.outputError))%")
        result.record.modules.append(record)
        for (name, tensor) in fitted.tensors {
            result.tensors.append(("\(record.name).\(name)", try tensor.to(.cpu)))
        }
        result.record.peakDeviceBytes = try request.device.memory()?.peakAllocated
        try request.device.emptyCache()
        return result
    }

    /// Rows of it that are fitted at a time: 0.17 GB in float32 for a hidden size of 5120.
    static let headRows = 8192

    /// The codes of `weight`, and what is said about them.
    private func fitHead(_ module: PlannedModule, _ weight: Tensor, _ moment: Tensor) throws
        -> (Quantized, CompressionResult.Module)
    {
        let clock = ContinuousClock()
        let start = clock.now
        let metric = try Metric(input: moment)
        // Squared norms of the difference and of the weight, plain and under C.
        var (plain, weighted) = ((error: 0.0, size: 0.0), (error: 0.0, size: 0.0))
        let fitted = try Quantized.decompose(
            weight, spec: module.entry.spec, moment: moment, rowsPerSlice: Self.headRows
        ) { rows, part in
            try report("\(module.entry.name): row \(rows.upperBound)")
            let exact = try weight.narrow(0, rows).to(dtype: .float64)
            let difference = try part.reconstruct().to(dtype: .float64) - exact
            plain.error += try difference.square().sum().item()
            plain.size += try exact.square().sum().item()
            weighted.error += try metric.squaredNorm(difference)
            weighted.size += try metric.squaredNorm(exact)
        }
        func ratio(_ norms: (error: Double, size: Double)) -> Double {
            (norms.error / max(norms.size, 1e-300)).squareRoot()
        }
        let record = CompressionResult.Module(
            name: module.entry.name, outputs: module.entry.outputs, inputs: module.entry.inputs,
            spec: module.entry.spec, parameters: fitted.parameterCount, bytes: fitted.byteCount,
            weightError: ratio(plain), outputError: ratio(weighted), predictedDamage: nil,
            compensation: nil, seconds: (clock.now - start).totalSeconds)
        return (fitted, record)
    }

    /// C of the final norm's outputs, all windows together; the identity without any.
    private mutating func headMoment(_ result: inout Result) throws -> Tensor {
        let hidden = try planned.stored.source.config.headSite().inputs
        let unit = try Tensor.identity(hidden, dtype: .float64, device: request.device)
        guard !batches.isEmpty else { return unit }
        try advance(to: planned.layers.count, &result)
        guard let chain = compressed ?? dense else { return unit }
        let source = planned.stored.source
        return try result.timing("calibrate", request.device) {
            let ends = try source.loadPart(.ends, device: request.device, dtype: dtype)
            var sum = MomentSum()
            try withoutGradients {
                for index in batches.indices {
                    try report("the final norm")
                    let states = try chain.states(index).to(request.device)
                    try sum.add(ends.normed(states), weight: batches[index].weight)
                }
            }
            return try sum.mean() ?? unit
        }
    }
}
