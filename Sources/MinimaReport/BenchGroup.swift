import MinimaCore

/// Runs of a benchmark that can be compared: the same number of requests of the same length.
struct BenchGroup {
    /// A run and what follows from it.
    struct Row {
        /// Its label, what ran it where that is not Minima, and how keys and values were stored where
        /// that differs within the group.
        var name: String
        var run: BenchResult.Run
        var figures: BenchResult.Figures
        /// Tokens per second of all requests, relative to the reference's; `nil` for the reference.
        var ratio: Double?
        /// Whether others are compared with it.
        var isReference: Bool
    }

    /// Tokens of each request.
    var context: Int
    /// Requests at once.
    var requests: Int
    /// How keys and values were stored, where that is the same for all.
    var cacheType: DType?
    /// The runs in their order.
    var rows: [Row]

    /// Groups in the order of their first runs.
    static func all(of result: BenchResult) -> [BenchGroup] {
        var groups: [(context: Int, requests: Int, runs: [BenchResult.Run])] = []
        for run in result.runs {
            let index = groups.firstIndex {
                $0.context == run.context && $0.requests == run.requests
            }
            if let index {
                groups[index].runs.append(run)
            } else {
                groups.append((run.context, run.requests, [run]))
            }
        }
        return groups.map { BenchGroup(result, $0.context, $0.requests, $0.runs) }
    }

    private init(
        _ result: BenchResult, _ context: Int, _ requests: Int, _ runs: [BenchResult.Run]
    ) {
        self.context = context
        self.requests = requests
        let types = Set(runs.map(\.cacheType))
        cacheType = types.count == 1 ? types.first : nil
        let reference = runs.firstIndex { $0.engine == Self.own } ?? 0
        let speeds = runs.map { result.figures($0).totalTokensPerSecond }
        rows = runs.enumerated().map { index, run in
            Row(
                name: Self.name(run, withCacheType: types.count > 1), run: run,
                figures: result.figures(run),
                ratio: index == reference ? nil : Figure.quotient(speeds[index], speeds[reference]),
                isReference: index == reference)
        }
    }

    /// What Minima's own engine is called in results.
    static let own = "minima"

    private static func name(_ run: BenchResult.Run, withCacheType: Bool) -> String {
        let engine = run.engine == own ? "" : " (\(run.engine))"
        return run.label + (run.speculation.map { ", \($0.words)" } ?? "")
            + (withCacheType ? ", \(words(run.cacheType))" : "") + engine
    }

    /// `8,192 tokens, 50 requests, FP8 keys and values`.
    var heading: String {
        let count = requests == 1 ? "1 request" : "\(Figure.count(requests)) requests"
        return "\(Figure.count(context)) tokens, \(count)"
            + (cacheType.map { ", \(Self.words($0)) keys and values" } ?? "")
    }

    /// What was gained over the reference, fastest first; `nil` where nothing is compared.
    var verdict: String? {
        guard let reference = rows.first(where: \.isReference), rows.count > 1 else { return nil }
        let others = rows.filter { $0.ratio != nil }.sorted {
            ($0.ratio ?? 0) > ($1.ratio ?? 0)
        }
        guard !others.isEmpty else { return nil }
        let words = others.map { "\($0.name) \(Figure.ratio($0.ratio))" }
        return "\(heading): relative to \(reference.name), "
            + "\(Figure.significant(reference.figures.totalTokensPerSecond, 3)) tokens/s, "
            + words.joined(separator: ", ") + "."
    }

    private static func words(_ type: DType) -> String {
        switch type {
        case .bfloat16: "bf16"
        case .float8e4m3: "FP8"
        default: type.rawValue
        }
    }
}

extension BenchResult {
    /// `qwen3-32b on NVIDIA H200`.
    var place: String { "\(model) on \(card.name)" }

    /// What the card reached in this run.
    var ceilings: String {
        let reader = card.reader.map { " (\($0))" } ?? ""
        return "measured in the same run: read "
            + "\(Figure.gigabytes(card.readBandwidth.median))\(reader), copy "
            + "\(Figure.gigabytes(card.copyBandwidth.median)), bf16 matrix product "
            + Figure.teraflops(card.matrixRate.median)
    }
}

extension Figure {
    /// `4360 GB/s`.
    static func gigabytes(_ bytesPerSecond: Double?) -> String {
        unit(bytesPerSecond.map { $0 / 1e9 }, 4, "GB/s")
    }

    /// `790.1 TFLOP/s`.
    static func teraflops(_ flopsPerSecond: Double?) -> String {
        unit(flopsPerSecond.map { $0 / 1e12 }, 4, "TFLOP/s")
    }

    /// `63.5 GiB`.
    static func gibibytes(_ bytes: Int?) -> String {
        unit(bytes.map { Double($0) / Double(1 << 30) }, 3, "GiB")
    }

    /// `16.21`: milliseconds.
    static func milliseconds(_ seconds: Double?) -> String {
        significant(seconds.map { $0 * 1e3 }, 4)
    }

    /// `230.4`: microseconds; a difference may be negative.
    static func microseconds(_ seconds: Double?) -> String {
        significant(seconds.map { $0 * 1e6 }, 4)
    }

    /// `±1.3 %`: the farthest value from the median.
    static func spread(_ values: BenchResult.Spread) -> String {
        let farthest = Swift.max(values.highest - values.median, values.median - values.lowest)
        let share = quotient(farthest, values.median)
        return share.map { $0 >= 0 && $0 < 1e9 ? "±\(Figure.share($0))" : absent } ?? absent
    }

    private static func unit(_ value: Double?, _ digits: Int, _ unit: String) -> String {
        let number = significant(value, digits)
        return number == absent ? absent : "\(number) \(unit)"
    }
}
