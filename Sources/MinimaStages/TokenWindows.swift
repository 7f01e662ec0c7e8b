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

/// Why a stage cannot do what it was asked.
public enum StageError: Error, CustomStringConvertible {
    case tooLittleText(tokens: Int, needed: Int, purpose: String)
    case alreadyCompressed(path: String)
    case vocabulariesDiffer(Int, Int)
    case notEnoughMemory(purpose: String, neededBytes: Int, availableBytes: Int)
    case badRatio(Double)
    case moduleTooSmall(name: String, reason: String)
    case notFinite(what: String)

    /// What was asked, what was found, what to do.
    public var description: String {
        switch self {
        case .tooLittleText(let tokens, let needed, let purpose):
            "\(purpose) needs at least \(needed) tokens of text, \(tokens) were given"
        case .alreadyCompressed(let path):
            "\(path) is compressed already; compress the dense model it came from"
        case .vocabulariesDiffer(let left, let right):
            """
            the models have vocabularies of \(left) and \(right) tokens; KL compares models of one \
            vocabulary only
            """
        case .notEnoughMemory(let purpose, let needed, let available):
            """
            \(purpose) needs \(needed >> 20) MiB, \(available >> 20) MiB are free; use a smaller \
            model or a machine with more memory
            """
        case .badRatio(let ratio):
            "a ratio of \(ratio) removes nothing or everything; give a number between 0 and 1"
        case .moduleTooSmall(let name, let reason):
            "\(name) cannot be compressed that far: \(reason); lower the ratio"
        case .notFinite(let what):
            "\(what) is not finite; check the model's weights (`minima inspect --check-finite`)"
        }
    }
}
