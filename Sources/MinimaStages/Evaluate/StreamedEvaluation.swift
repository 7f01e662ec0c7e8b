import MinimaCore
import MinimaModels
import MinimaTensor

/// Perplexity of a model and its distance from a dense model, with one decoder layer of one of them on
/// the device at a time.
struct StreamedEvaluation {
    let source: any WeightSource
    let dense: any WeightSource
    let device: Device
    let dtype: DType

    init(_ source: any WeightSource, against dense: any WeightSource, device: Device, dtype: DType)
    {
        self.source = source
        self.dense = dense
        self.device = device
        self.dtype = dtype
    }

    /// Measures over windows as ``Evaluator/measure(_:progress:)`` does.
    func measure(_ windows: [[Int32]], progress: ProgressHandler = { _ in }) throws
        -> Evaluator.Measurement
    {
        let windows = windows.filter { $0.count >= 2 }
        func cut(_ windows: [[Int32]]) -> [TokenBatch] {
            TokenBatch.batches(
                [CalibrationSource(name: "", windows: windows)],
                tokensPerPass: device == .cpu ? 4096 : 32_768)
        }
        let batches = cut(windows.map { Array($0.dropLast()) })
        let targets = cut(windows.map { Array($0.dropFirst()) })
        let layers = try source.config.int("num_hidden_layers")
        var done = 0
        func report() throws {
            try progress(
                StageProgress(stage: "evaluate", done: done, total: 2 * layers, unit: "layers"))
        }
        func last(_ source: any WeightSource) throws -> (ActivationChain, any LanguageModel) {
            let ends = try source.loadPart(.ends, device: device, dtype: dtype)
            var chain = try ActivationChain(batches, embeddedBy: ends)
            for layer in 0..<layers {
                try chain.advance(
                    layer: source.loadPart(.layer(layer), device: device, dtype: dtype))
                done += 1
                try report()
            }
            return (chain, ends)
        }
        try source.checkModel()
        try dense.checkModel()
        try report()
        let (own, ends) = try last(source)
        let (reference, denseEnds) = try last(dense)
        var sum = Evaluator.Measurement()
        for index in batches.indices {
            try withoutGradients {
                func rows(_ chain: ActivationChain, _ ends: any LanguageModel) throws -> Tensor {
                    try ends.normed(chain.states(index).to(device))
                        .reshape([-1, ends.dimensions.hidden])
                }
                try Evaluator.add(
                    rows(own, ends), of: ends, targets[index].ids().reshape([-1]).to(device),
                    against: (rows(reference, denseEnds), denseEnds), to: &sum)
            }
        }
        return sum
    }
}
