import MinimaCore

/// What a reader sees as one step of a healing: a pass over the blocks, or a phase of the whole model.
struct HealingStage {
    /// A block's phase.
    struct Block {
        /// Its decoder layers.
        var layers: ClosedRange<Int>
        /// Relative output error before.
        var before: Double?
        /// Relative output error of what was kept.
        var after: Double?
    }

    /// `layers 0–27, one by one`, or the phase's name.
    var name: String
    /// Its phases in their order.
    var phases: [HealingResult.Phase]
    /// One per phase; empty for a phase of the whole model.
    var blocks: [Block]
    /// Tokens that the whole model had trained on before.
    var start: Double
    /// Tokens that the whole model trained on here: of a pass over blocks, what each layer saw, the
    /// mean of all layers.
    var tokens: Double

    /// The stages of a healing, in their order.
    static func all(of result: HealingResult) -> [HealingStage] {
        var groups: [[(phase: HealingResult.Phase, layers: ClosedRange<Int>?)]] = []
        for phase in result.phases {
            let layers = layers(phase.name)
            if let layers, let last = groups.last?.last?.layers, layers.lowerBound > last.lowerBound
            {
                groups[groups.count - 1].append((phase, layers))
            } else {
                groups.append([(phase, layers)])
            }
        }
        return groups.reduce(into: []) { stages, group in
            stages.append(
                HealingStage(group, start: stages.last.map { $0.start + $0.tokens } ?? 0))
        }
    }

    /// Blocks in ascending order, or one phase of the whole model.
    private init(
        _ group: [(phase: HealingResult.Phase, layers: ClosedRange<Int>?)], start: Double
    ) {
        self.start = start
        phases = group.map(\.phase)
        name = phases.first?.name ?? ""
        tokens = phases.reduce(0) { $0 + Self.count($1.tokens) }
        blocks = group.compactMap { phase, layers in
            // The first point is the one before training; what is kept is the best of all.
            let errors = phase.points.compactMap(\.heldOut).filter { $0.isFinite && $0 >= 0 }
            return layers.map { Block(layers: $0, before: errors.first, after: errors.min()) }
        }
        guard let first = blocks.first?.layers.lowerBound,
            let last = blocks.map(\.layers.upperBound).max()
        else { return }
        let visits = zip(phases, blocks).map { Self.count($0.tokens) * Double($1.layers.count) }
        tokens = visits.reduce(0, +) / Double(Self.coveredLayers(blocks))
        guard blocks.count > 1 else { return }
        let most = blocks.map(\.layers.count).max() ?? 1
        name = "layers \(first)–\(last), \(most == 1 ? "one by one" : "up to \(most) at once")"
    }

    /// Layers in any of the blocks, which ascend.
    private static func coveredLayers(_ blocks: [Block]) -> Int {
        var (count, end) = (0, -1)
        for block in blocks where block.layers.upperBound > end {
            count += block.layers.upperBound - Swift.max(end, block.layers.lowerBound - 1)
            end = block.layers.upperBound
        }
        return Swift.max(count, 1)
    }

    /// `layer 3`, `layers 0-1`.
    static func layers(_ name: String) -> ClosedRange<Int>? {
        let words = name.unicodeScalars.split(separator: " ").map(String.init)
        guard words.count == 2, words[0] == "layer" || words[0] == "layers" else { return nil }
        let ends = words[1].unicodeScalars.split(separator: "-", omittingEmptySubsequences: false)
            .map { Int(String($0)) }
        guard (1...2).contains(ends.count), let first = ends[0], let last = ends[ends.count - 1],
            0 <= first, first <= last, last <= 1_000_000
        else { return nil }
        return first...last
    }

    private static func count(_ tokens: Int) -> Double { Double(Swift.max(tokens, 0)) }

    // MARK: Figures of all its phases

    /// Numbers that trained; those of blocks that overlap are counted again.
    var parameters: Double { phases.reduce(0) { $0 + Self.count($1.parameters) } }

    /// Steps of all its optimisers.
    var steps: Double { phases.reduce(0) { $0 + Self.count($1.steps) } }

    /// Wall-clock seconds.
    var seconds: Double? { Figure.sum(phases.map(\.seconds)) }

    /// Training tokens per second that pass through one phase.
    var tokensPerSecond: Double? {
        let seconds = phases.map { phase in
            Figure.quotient(Self.count(phase.tokens), phase.tokensPerSecond)
        }
        return Figure.quotient(
            phases.reduce(0) { $0 + Self.count($1.tokens) }, Figure.sum(seconds))
    }

    /// The most that any phase had on the device.
    var peakDeviceBytes: Int? { phases.compactMap(\.peakDeviceBytes).max() }

    /// Times that a phase went back.
    var stepBacks: Double { phases.reduce(0) { $0 + Self.count($1.stepBacks) } }

    /// Why the phases ended and how many for each reason, the most frequent first.
    var endings: String {
        let counts = Dictionary(grouping: phases, by: \.ending).mapValues(\.count)
        guard counts.count > 1 else { return phases.first?.ending ?? "" }
        return counts.sorted { $0.value != $1.value ? $0.value > $1.value : $0.key < $1.key }
            .map { "\(Figure.count($0.value)) \($0.key)" }.joined(separator: ", ")
    }
}

extension HealingResult {
    /// Tokens that the whole model trained on, see ``HealingStage/tokens``.
    var healingTokens: Double {
        HealingStage.all(of: self).last.map { $0.start + $0.tokens } ?? 0
    }

    /// A held-out value against tokens: before, what phases of the whole model measured, and what was
    /// kept.
    func curve(
        _ ends: KeyPath<Measurement, Double>, _ between: KeyPath<Point, Double?>
    ) -> [(tokens: Double, value: Double)] {
        let stages = HealingStage.all(of: self)
        var curve = [(tokens: 0.0, value: before[keyPath: ends])]
        for stage in stages where stage.blocks.isEmpty {
            for point in stage.phases.flatMap(\.points) {
                guard let value = point[keyPath: between] else { continue }
                curve.append((stage.start + Double(Swift.max(point.tokens, 0)), value))
            }
        }
        curve.append((stages.last.map { $0.start + $0.tokens } ?? 0, after[keyPath: ends]))
        return curve
    }
}
