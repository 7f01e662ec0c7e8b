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
            ).head.weight.reconstruct()
        }
        let outcome = try result.timing("fit", request.device) {
            try withoutGradients {
                try SiteFit(
                    planned, weights: [weight], output: nil, ridge: request.ridge,
                    isCompensated: false
                ).fit(InputMoments(dense: moment), share: 0)
            }
        }
        try note(outcome, of: planned, onModules, &result)
        result.record.peakDeviceBytes = try request.device.memory()?.peakAllocated
        try request.device.emptyCache()
        return result
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
