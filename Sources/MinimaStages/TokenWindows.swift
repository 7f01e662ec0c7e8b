import MinimaCore
import MinimaTensor

/// Texts as windows of token ids.
public enum TokenWindows {
    /// Cuts each text into windows of `context` tokens that do not overlap.
    ///
    /// - Parameter keepRest: Whether a text's last, shorter window counts; it needs two tokens,
    ///   one to predict from and one to predict.
    public static func split(_ texts: [[Int32]], context: Int, keepRest: Bool) -> [[Int32]] {
        texts.flatMap { text in
            stride(from: 0, to: text.count, by: context).compactMap { start in
                let window = Array(text[start..<min(start + context, text.count)])
                let isWhole = window.count == context
                return isWhole || keepRest && window.count >= 2 ? window : nil
            }
        }
    }

    /// `count` windows spread evenly over all of them; all when there are fewer.
    public static func spread(_ windows: [[Int32]], count: Int) -> [[Int32]] {
        guard windows.count > count else { return windows }
        return (0..<count).map { windows[$0 * windows.count / count] }
    }

    /// `count` windows of `length` random tokens, for models without a text.
    public static func random(count: Int, length: Int, vocabulary: Int, seed: UInt64) -> [[Int32]] {
        var random = SplitMix(seed)
        return (0..<count).map { _ in
            (0..<length).map { _ in
                Int32(truncatingIfNeeded: random.next() % UInt64(max(vocabulary, 1)))
            }
        }
    }

    /// Groups neighbouring windows of one length into batches of at most `tokens` tokens, or of one
    /// window where that alone has more; empty windows are left out.
    static func batches(_ windows: [[Int32]], tokens: Int) -> [[[Int32]]] {
        var batches: [[[Int32]]] = []
        for window in windows where !window.isEmpty {
            if let last = batches.last, last[0].count == window.count,
                last.count < tokens / window.count
            {
                batches[batches.count - 1].append(window)
            } else {
                batches.append([window])
            }
        }
        return batches
    }

    /// int64 `[windows, tokens]` of windows of one length.
    static func tensor(_ windows: [[Int32]]) throws(TensorError) -> Tensor {
        try Tensor(
            windows.flatMap { $0.map(Int64.init) }, shape: [windows.count, windows[0].count])
    }
}
