import MinimaCore
import MinimaKernels

extension DecodeBench {
    /// Times all kernels of a step by name, each behind those of its name in other layers.
    ///
    /// - Parameters:
    ///   - cache: Bytes that all launches of a name read of what sequences have left: keys and values,
    ///     tokens.
    ///   - reset: Puts all requests back to the end of their prompts.
    func profile(
        _ step: [StepKernel], _ backend: CUDABackend, cache: [String: Int], reset: () throws -> Void
    ) throws -> [BenchResult.Run.Kernel] {
        var names: [String] = []
        for kernel in step where !names.contains(kernel.name) { names.append(kernel.name) }
        return try names.map { name in
            let same = step.filter { $0.name == name }
            let time = try kernels.time(
                repeats: 10, perReplay: same.count,
                prepare: {
                    // Sampling moves sequences on, which have room for some steps only.
                    guard name == "sample" else { return }
                    try reset()
                    try backend.decoder.stream.synchronize()
                }
            ) { stream, call in
                try same[call].queue(stream)
            }
            return BenchResult.Run.Kernel(
                name: name, launches: same.count,
                bytes: same.reduce(cache[name] ?? 0) { $0 + $1.bytes },
                seconds: time.median * Double(same.count) / 1e6)
        }
    }
}
