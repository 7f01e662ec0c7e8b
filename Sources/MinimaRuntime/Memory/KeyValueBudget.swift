/// How many requests of which length fit beside a model: exact, before anything is loaded.
///
/// A page holds ``pageTokens`` tokens' keys and values of all layers; a request of `n` tokens takes
/// `⌈n / pageTokens⌉` of them.
public struct KeyValueBudget: Sendable, Hashable {
    /// Bytes of the device, or of the part of it that may be used.
    public let deviceBytes: Int
    /// Bytes of the weights as they lie on the device.
    public let weightBytes: Int
    /// Bytes of everything else: activations, workspaces, the runtime's own.
    public let activationBytes: Int
    /// Bytes of one token's keys and values, all layers.
    public let bytesPerToken: Int
    /// Tokens per page.
    public let pageTokens: Int

    /// A budget; bytes beyond 2⁵⁰ and pages beyond 2²⁰ tokens count as so many.
    ///
    /// - Parameter bytesPerToken: `DecoderDimensions.cacheBytesPerToken`, or
    ///   ``TorchBackend/bytesPerToken(of:)``.
    public init(
        deviceBytes: Int, weightBytes: Int, activationBytes: Int, bytesPerToken: Int,
        pageTokens: Int = 64
    ) {
        // Sums and products of what is clamped here fit an Int.
        let most = 1 << 50
        self.deviceBytes = min(max(deviceBytes, 0), most)
        self.weightBytes = min(max(weightBytes, 0), most)
        self.activationBytes = min(max(activationBytes, 0), most)
        self.bytesPerToken = min(max(bytesPerToken, 1), 1 << 40)
        self.pageTokens = min(max(pageTokens, 1), 1 << 20)
    }

    /// Bytes of a page.
    public var pageBytes: Int { pageTokens * bytesPerToken }

    /// Bytes left for pages; negative when not even the weights fit.
    public var freeBytes: Int { deviceBytes - weightBytes - activationBytes }

    /// Pages that fit.
    public var pages: Int { max(freeBytes, 0) / pageBytes }

    /// Pages of a request of `length` tokens.
    public func pages(for length: Int) -> Int {
        let tokens = max(length, 0)
        return tokens / pageTokens + (tokens % pageTokens > 0 ? 1 : 0)
    }

    /// Requests of `length` tokens, prompt and new ones, that fit at one time.
    public func requests(of length: Int) -> Int { pages / max(pages(for: length), 1) }

    /// Bytes used while `requests` of `length` tokens run, weights and all; the largest `Int` where
    /// that is more.
    public func bytes(requests: Int, of length: Int) -> Int {
        let (pages, overflows) = requests.multipliedReportingOverflow(by: pages(for: length))
        let (bytes, overflow) = pages.multipliedReportingOverflow(by: pageBytes)
        let (sum, carries) = bytes.addingReportingOverflow(weightBytes + activationBytes)
        return overflows || overflow || carries ? .max : sum
    }

    /// What fits, per length.
    ///
    /// - Returns: A row per length: the requests that fit, the pages of each, the bytes of all.
    public func table(lengths: [Int]) -> [(length: Int, requests: Int, pages: Int, bytes: Int)] {
        lengths.map { length in
            let requests = requests(of: length)
            return (
                length, requests, pages(for: length), bytes(requests: requests, of: length)
            )
        }
    }
}

extension KeyValueBudget: CustomStringConvertible {
    /// One line: `512 pages of 64 tokens, 16.0 MiB each: 32768 tokens in all`.
    public var description: String {
        let tenths = Int((Double(pageBytes) * 10 / 1_048_576).rounded())
        return """
            \(pages) pages of \(pageTokens) tokens, \(tenths / 10).\(tenths % 10) MiB each: \
            \(pages * pageTokens) tokens in all
            """
    }
}
