import MinimaCore
import MinimaTensor

private let logSumExpOperator = Operator("aten::logsumexp")

/// Measures the probabilities that decoding gives to a text, token by token through the kernels that
/// serve it.
public struct DecodeEvaluator {
    private let backend: CUDABackend

    /// An evaluator of what `backend` serves.
    public init(_ backend: CUDABackend) {
        self.backend = backend
    }

    /// The sum over windows of −ln p of every token but a window's first.
    ///
    /// As many windows as the largest step has rows are decoded at a time.
    ///
    /// - Parameter windows: Each of at most the backend's context.
    /// - Returns: That sum in nats, and the number of tokens that it is over.
    public func measure(
        _ windows: [[Int32]], progress: ProgressHandler = { _ in }
    ) throws -> (nats: Double, tokens: Int) {
        let capacity = backend.capacity
        let total = windows.reduce(0) { $0 + max($1.count - 1, 0) }
        var (nats, done) = (0.0, 0)
        for start in stride(from: 0, to: windows.count, by: capacity.slots) {
            let batch = Array(windows[start..<min(start + capacity.slots, windows.count)])
            nats += try measure(batch) { tokens in
                done += tokens
                try progress(
                    StageProgress(stage: "decode", done: done, total: total, unit: "tokens"))
            }
        }
        return (nats, done)
    }

    /// Measures at most as many windows as there are slots.
    ///
    /// - Parameter onTokens: Called now and then with how many tokens there were since.
    private func measure(_ windows: [[Int32]], onTokens: (Int) throws -> Void) throws -> Double {
        let (decoder, capacity) = (backend.decoder, backend.capacity)
        let longest = windows.map(\.count).max() ?? 0
        let pages = capacity.pages(for: longest)
        for (slot, window) in windows.enumerated() where !window.isEmpty {
            try backend.open(
                slot,
                SequenceStart(
                    tokens: [window[0]], promptCount: 1, sampling: try SamplingParameters()))
        }
        let bucket = capacity.buckets.first { $0 >= windows.count } ?? capacity.slots
        let stream = decoder.stream
        let sum = try stream.use {
            try Tensor.zeros([1], dtype: .float64, device: decoder.kernels.device)
        }
        var since = 0
        for step in 0..<max(longest - 1, 0) {
            let rows = windows.indices.filter { windows[$0].count > step + 1 }
            var inputs = [Int32](repeating: 0, count: capacity.slots)
            for slot in rows { inputs[slot] = windows[slot][step] }
            try stream.use {
                try HostTransfer.upload(inputs, to: decoder.state.tokens)
            }
            try backend.decode(
                DecodeBatch(
                    rows: rows.map { slot in
                        let first = slot * pages
                        return DecodeBatch.Row(
                            slot: slot, position: step,
                            pages: (first..<first + pages).map(Int32.init))
                    }, bucket: bucket))
            try stream.use {
                let logits = try decoder.buffers.logits.narrow(0, 0..<rows.count)
                let targets = try Tensor(rows.map { Int64(windows[$0][step + 1]) })
                    .to(decoder.kernels.device).unsqueeze(1)
                let total = try logSumExpOperator(.tensor(logits), .ints([1]))
                let chosen = try logits.gather(1, targets).squeeze(1)
                try sum.addInPlace((total - chosen).to(dtype: .float64).sum().reshape([1]))
            }
            _ = try backend.collect()
            since += rows.count
            if step % 64 == 63 || step == longest - 2 {
                try onTokens(since)
                since = 0
            }
        }
        for slot in windows.indices { backend.close(slot) }
        // On the stream that adds to it: another would not wait for the last step.
        return try stream.use { try sum.item() }
    }
}
