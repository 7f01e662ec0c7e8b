/// Which weight rows a linear kernel multiplies with, in which order, and where the results go.
///
/// The kernel computes `count` slots, sixteen to a tile. A slot names a row of the weights and an
/// element of the output; -1 stands for none. Small integers on the host, made once per linear.
public struct LinearSlots: Sendable, Hashable {
    /// The weight row of each slot, -1 for none; `nil` where slot i is row i.
    public let rows: [Int32]?
    /// The output element of each slot, -1 for none; `nil` where slot i is element i (with a dense
    /// ``swiglu(half:)``: where the tile's eight gates make the tile's eight elements).
    public let outputs: [Int32]?
    /// How many slots there are.
    public let count: Int
    /// Interpolated gates and ups only: what the tiles hold.
    public let gates: Gates?

    /// What an interpolated gate and up needs beside its slots.
    public struct Gates: Sendable, Hashable {
        /// Of each tile: 0 for eight gates and their ups, 1 for gates whose ups are pivots, 2 for ups
        /// whose gates are.
        public let kinds: [Int32]
        /// Where the slot's other half is among the pivots; 0 where it is no pivot.
        public let partners: [Int32]
        /// Triples (gate among the pivots, up among the pivots, output) of which both are pivots.
        public let pairs: [Int32]
    }

    init(count: Int, rows: [Int32]? = nil, outputs: [Int32]? = nil, gates: Gates? = nil) {
        (self.count, self.rows, self.outputs, self.gates) = (count, rows, outputs, gates)
    }

    /// Elements that an output row has at least: one more than the highest that is written.
    ///
    /// - Parameter gated: Whether pairs of slots, gate and up, give one element each.
    func outputWidth(gated: Bool) -> Int {
        guard let outputs else { return gated ? count / 2 : count }
        let pairs = gates?.pairs ?? []
        let made = stride(from: 2, to: pairs.count, by: 3).map { pairs[$0] }
        return Int(max(outputs.max() ?? -1, made.max() ?? -1)) + 1
    }

    /// Row i gives element i.
    public init(rows: Int) {
        self.init(count: rows)
    }

    /// Row i gives element `outputs[i]`: a factored linear's two halves, pivots and others.
    public init(outputs: [Int]) {
        self.init(count: outputs.count, outputs: outputs.map { Int32(clamping: $0) })
    }

    /// Gates `0..<half` and ups `half..<2 * half` of one stacked matrix, `half` elements of output.
    ///
    /// - Parameter stored: Whether the matrix is stored in the order of the slots anyway (codes), or
    ///   row by row: then multiples of 8 need no table.
    public static func swiglu(half: Int, stored: Bool) -> LinearSlots {
        if !stored && half % 8 == 0 { return LinearSlots(count: 2 * half) }
        var (rows, outputs): ([Int32], [Int32]) = ([], [])
        for start in stride(from: 0, to: half, by: 8) {
            let places = (start..<start + 8).map { $0 < half ? Int32($0) : -1 }
            rows += places + places.map { $0 < 0 ? -1 : $0 + Int32(half) }
            outputs += places + [Int32](repeating: -1, count: 8)
        }
        return LinearSlots(count: rows.count, rows: rows, outputs: outputs)
    }

    /// The rows of a stacked gate and up (gates `0..<half`, ups behind them) that `pivots` leave,
    /// in ascending order the rows of the weights; the pivots' products are the input.
    public static func interpolatedSwiglu(half: Int, pivots: [Int]) -> LinearSlots {
        var place = [Int32](repeating: -1, count: 2 * half)
        for (index, pivot) in pivots.enumerated() { place[pivot] = Int32(index) }
        var row = [Int32](repeating: -1, count: 2 * half)
        var rest: Int32 = 0
        for index in 0..<2 * half where place[index] < 0 {
            row[index] = rest
            rest += 1
        }
        let elements = 0..<half
        let both = elements.filter { place[$0] < 0 && place[half + $0] < 0 }
        let gates = elements.filter { place[$0] < 0 && place[half + $0] >= 0 }
        let ups = elements.filter { place[$0] >= 0 && place[half + $0] < 0 }
        var (rows, outputs, partners, kinds): ([Int32], [Int32], [Int32], [Int32]) = (
            [], [], [], []
        )
        for start in stride(from: 0, to: both.count, by: 8) {
            let chosen = both[start..<min(start + 8, both.count)]
            let empty = [Int32](repeating: -1, count: 8 - chosen.count)
            rows += chosen.map { row[$0] } + empty + chosen.map { row[half + $0] } + empty
            outputs += chosen.map { Int32($0) } + empty + [Int32](repeating: -1, count: 8)
            partners += [Int32](repeating: 0, count: 16)
            kinds.append(0)
        }
        for (kind, list) in [(Int32(1), gates), (2, ups)] {
            for start in stride(from: 0, to: list.count, by: 16) {
                let chosen = list[start..<min(start + 16, list.count)]
                let missing = 16 - chosen.count
                let (own, other) = kind == 1 ? (0, half) : (half, 0)
                rows += chosen.map { row[own + $0] } + [Int32](repeating: -1, count: missing)
                outputs += chosen.map { Int32($0) } + [Int32](repeating: -1, count: missing)
                partners +=
                    chosen.map { place[other + $0] } + [Int32](repeating: 0, count: missing)
                kinds.append(kind)
            }
        }
        let pairs = elements.filter { place[$0] >= 0 && place[half + $0] >= 0 }
            .flatMap { [place[$0], place[half + $0], Int32($0)] }
        return LinearSlots(
            count: rows.count, rows: rows, outputs: outputs,
            gates: Gates(kinds: kinds, partners: partners, pairs: pairs))
    }
}
