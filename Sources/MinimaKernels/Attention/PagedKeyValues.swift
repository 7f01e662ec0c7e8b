import MinimaCore
import MinimaTensor

/// Keys and values of all layers in pages of 64 tokens, which requests own by their page tables.
///
/// What a page holds where is `keyvalue.cuh`'s: uint8 `[pages, kvHeads, blocks, 2, tile]` per layer, for
/// blocks of 32 (bfloat16) or 64 (float8) tokens, keys then values.
public struct PagedKeyValues: Sendable {
    /// Tokens of a page.
    public static let pageTokens = 64

    /// What the pages are made for.
    public let shape: AttentionShape
    /// How values are stored.
    public let format: KeyValueFormat
    /// Pages of each layer.
    public let pages: Int
    /// One tensor of all pages per layer.
    public let layers: [Tensor]

    /// Allocates pages, all zero: nothing that the memory held before can reach a sum.
    ///
    /// - Throws: `TensorError` when the device has not ``bytes(layers:pages:shape:format:)`` free.
    public init(
        layers: Int, pages: Int, shape: AttentionShape, format: KeyValueFormat, device: Device
    ) throws(TensorError) {
        let sizes = [
            pages, shape.kvHeads, Self.pageTokens / format.block, 2, shape.tileBytes(format),
        ]
        var tensors: [Tensor] = []
        for _ in 0..<layers {
            tensors.append(try Tensor.zeros(sizes, dtype: .uint8, device: device))
        }
        self.layers = tensors
        self.shape = shape
        self.format = format
        self.pages = pages
    }

    /// Bytes of a page in all layers.
    public static func bytesPerPage(
        layers: Int, shape: AttentionShape, format: KeyValueFormat
    ) -> Int {
        layers * shape.kvHeads * (pageTokens / format.block) * 2 * shape.tileBytes(format)
    }

    /// Bytes that `pages` pages take, exactly.
    public static func bytes(
        layers: Int, pages: Int, shape: AttentionShape, format: KeyValueFormat
    ) -> Int {
        pages * bytesPerPage(layers: layers, shape: shape, format: format)
    }

    /// Pages that `tokens` tokens of one request need.
    public static func pages(forTokens tokens: Int) -> Int {
        (tokens + pageTokens - 1) / pageTokens
    }

    /// Throws unless `pages` is a layer's tensor of such a cache.
    static func check(
        _ pages: Tensor, _ shape: AttentionShape, _ format: KeyValueFormat, _ kernel: String
    ) throws(KernelError) {
        let inner = [shape.kvHeads, pageTokens / format.block, 2, shape.tileBytes(format)]
        guard pages.rank == 5, Array(pages.shape.dropFirst()) == inner, pages.dtype == .uint8 else {
            throw .invalidLaunch(
                kernel: kernel,
                reason: "pages are \(pages.summary), the kernel takes uint8 [pages] + \(inner)")
        }
    }
}
