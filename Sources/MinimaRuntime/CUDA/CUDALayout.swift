import MinimaKernels

/// What an engine on a CUDA device is made for.
public struct CUDALayout: Sendable, Hashable {
    /// Sequences that can be open at one time.
    public var slots: Int
    /// Tokens of the longest sequence.
    public var context: Int
    /// Pages of keys and values; `nil`: as many as all slots need at full length.
    public var pages: Int?
    /// The type of stored keys and values.
    public var format: KeyValueFormat
    /// Tokens of a prompt read at once.
    public var chunk: Int
    /// Rows that decode steps are made for, ascending, the last at least ``slots``.
    public var buckets: [Int]
    /// Whether a row's result depends neither on the other rows nor on its place: attention is cut
    /// at fixed tokens then, not by what the batch leaves.
    public var isDeterministic: Bool
    /// Whether kernels that were not timed on this card before are, which takes some minutes once;
    /// what was found is used in any case.
    public var tunesKernels: Bool
    /// Numbers of tokens that steps may propose and verify for each row, ascending, 0 first. Attention
    /// may not do the largest for a model, see ``CUDABackend/capacity``.
    public var draftTokens: [Int]

    /// Numbers of proposals that an engine has graphs for where it chooses among them as it goes.
    public static let chosenDraftTokens = [0, 1, 2, 3, 5, 7]

    /// Rows that a step which verifies proposals multiplies at most, where it has no more than that
    /// without: above, arithmetic takes longer than reading the weights again would.
    static let mostVerifiedRows = 256

    /// A layout.
    ///
    /// - Parameters:
    ///   - buckets: `nil`: 1, 2, 4, 8, then in steps of about a third; deterministic, the largest alone.
    ///   - draftTokens: 0 is added where it is missing.
    public init(
        slots: Int, context: Int, pages: Int? = nil, format: KeyValueFormat = .bfloat16,
        chunk: Int = 2048, buckets: [Int]? = nil, isDeterministic: Bool = false,
        tunesKernels: Bool = false, draftTokens: [Int] = [0]
    ) {
        let steps = [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256]
        let last = steps.first { $0 >= slots } ?? slots
        self.buckets = buckets ?? (isDeterministic ? [] : steps.filter { $0 < slots }) + [last]
        self.isDeterministic = isDeterministic
        self.tunesKernels = tunesKernels
        self.slots = slots
        // Positions are int32 on the device, and configurations can hold any number.
        self.context = min(context, Int(Int32.max))
        self.pages = pages
        self.format = format
        self.chunk = chunk
        self.draftTokens = Set(draftTokens.filter { $0 > 0 } + [0]).sorted()
    }

    /// Pages of a sequence at full length.
    var pagesPerSlot: Int { PagedKeyValues.pages(forTokens: context) }

    /// Pages of the cache.
    var pageCount: Int { pages ?? slots * pagesPerSlot }

    /// Sequences of the largest step.
    var largestBucket: Int { buckets.last ?? 1 }

    /// Tokens that a step proposes for a row at most.
    var mostDraftTokens: Int { draftTokens.last ?? 0 }

    /// Steps that there are graphs for, by bucket.
    var steps: [StepSize] {
        buckets.flatMap { bucket in
            draftTokens.map { StepSize(bucket: bucket, draftTokens: $0) }.filter {
                $0.draftTokens == 0 || $0.rows <= max(largestBucket, Self.mostVerifiedRows)
            }
        }
    }

    /// The smallest bucket whose steps propose fewer tokens than ``draftTokens`` says, and how many at
    /// most, as larger steps would multiply too many rows; `nil`: all propose as many.
    public var reducedDrafts: (bucket: Int, draftTokens: Int)? {
        buckets.first { mostDraftTokens($0) < mostDraftTokens }
            .map { ($0, mostDraftTokens($0)) }
    }

    /// Pages for all rows of a step that rows have of their own while trees grow.
    func treePages(_ width: Int) -> Int {
        let most = draftTokens.filter { $0 > 0 }.map {
            TreeKernels.Shape(count: $0, width: width).pages
        }
        return largestBucket * (most.max() ?? 0)
    }

    /// Rows that a step multiplies at most.
    var largestRows: Int { steps.map(\.rows).max() ?? 1 }

    /// Tokens that a step of `bucket` proposes for a row at most.
    func mostDraftTokens(_ bucket: Int) -> Int {
        steps.last { $0.bucket == bucket }?.draftTokens ?? 0
    }
}

/// What a step's graph is made for.
struct StepSize: Sendable, Hashable {
    /// Sequences, padding included.
    var bucket: Int
    /// Tokens that are proposed and verified for each.
    var draftTokens: Int
    /// Whether a draft that keeps something of every token is left as it is, in a step that proposes
    /// nothing.
    var leavesDraft = false

    /// Tokens that go in for each sequence.
    var places: Int { draftTokens + 1 }
    /// Rows of the residual stream.
    var rows: Int { bucket * places }
}
