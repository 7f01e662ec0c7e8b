import MinimaCore
import MinimaTensor
import Testing

@testable import MinimaKernels

/// Products that become gated activations, and codes that become rows.
extension DecodeLinearGPUTests {
    /// silu(gate) · up of float64 products, and how far roundings to bfloat16 may be from it.
    private func gated(
        _ gate: Tensor, _ up: Tensor, _ slackGate: Tensor, _ slackUp: Tensor
    ) throws -> (Tensor, Tensor) {
        // |silu'| < 1.1; gate and up are rounded by 2^-8, and what comes of them.
        let bound =
            try (gate.abs() * slackUp + up.abs() * slackGate) * 1.1
            + gate.abs() * up.abs() * 0x1.2p-8
        return (try gate.silu() * up, bound)
    }

    @Test(arguments: [
        (16, false, 640, 1), (16, false, 333, 5), (4, false, 333, 1), (4, true, 333, 1),
        (4, true, 4240, 1), (4, true, 160, 6), (3, false, 4240, 1), (3, true, 333, 1),
        (8, false, 320, 8),
    ])
    func gatesMeetTheirUps(
        _ bits: Int, _ isUniform: Bool, _ half: Int, _ tokens: Int
    ) throws {
        try stream.use {
            let columns = 512
            let slots = LinearSlots.swiglu(half: half, stored: bits < 16)
            let weights = try weights(
                bits, rows: 2 * half, columns: columns, group: 64, slots: slots,
                isUniform: isUniform, tokens: tokens)
            let x = try random([tokens, columns], 2) * 0.04
            let linear = try DecodeLinear(
                weights.matrix, tokens: tokens, epilogue: .swiglu, inputStride: columns,
                outputStride: half, workspace: workspace, context: context)
            let y = try Tensor.full(
                [tokens, half], .nan, dtype: .bfloat16, device: context.device)
            try linear.launch(x, into: y, on: stream)
            let right = try weights.dense.transpose()
            let exact = try double(x).matmul(right).split([half, half], dim: 1)
            let slack = try weights.slack(double(x)).split([half, half], dim: 1)
            let (expected, bound) = try gated(exact[0], exact[1], slack[0], slack[1])
            try expectClose(y, expected, units: 4, slack: bound)
        }
    }

    @Test(arguments: [
        (16, false, 1), (16, false, 8), (8, false, 2), (4, true, 1), (4, true, 4), (3, true, 1),
    ])
    func interpolatedGatesMeetTheirUps(
        _ bits: Int, _ isUniform: Bool, _ tokens: Int
    ) throws {
        try stream.use {
            let (half, rank) = (390, 200)
            var generator = SplitMix(7)
            let pivots = Array((0..<2 * half).shuffled(using: &generator).prefix(rank))
            let isPivot = Set(pivots)
            let others = (0..<2 * half).filter { !isPivot.contains($0) }
            let weights = try weights(
                bits, rows: others.count, columns: rank, group: 64,
                slots: .interpolatedSwiglu(half: half, pivots: pivots), isUniform: isUniform,
                tiles: bits <= 4 ? 2 : nil, tokens: tokens)
            let p = try random([tokens, rank], 2) * 0.07
            let linear = try DecodeLinear(
                weights.matrix, tokens: tokens, epilogue: .interpolatedSwiglu, inputStride: rank,
                outputStride: half, workspace: workspace, context: context)
            let y = try Tensor.full(
                [tokens, half], .nan, dtype: .bfloat16, device: context.device)
            try linear.launch(p, into: y, on: stream)
            let right = try weights.dense.transpose()
            // Columns of [p, p · Wᵀ] in the order of the stacked rows.
            var place = [Int64](repeating: 0, count: 2 * half)
            for (index, pivot) in pivots.enumerated() { place[pivot] = Int64(index) }
            for (index, other) in others.enumerated() { place[other] = Int64(rank + index) }
            let order = try Tensor(place).to(context.device)
            let exact = try Tensor.cat([double(p), double(p).matmul(right)], dim: 1)
                .selecting(1, order).split([half, half], dim: 1)
            let slack = try Tensor.cat([double(p) * 0, weights.slack(double(p))], dim: 1)
                .selecting(1, order).split([half, half], dim: 1)
            let (expected, bound) = try gated(exact[0], exact[1], slack[0], slack[1])
            try expectClose(y, expected, units: 4, slack: bound)
        }
    }

    @Test(arguments: [
        (2, 96, 500, 64), (3, 100, 1003, 64), (4, 101, 1000, 96), (8, 80, 1100, 128),
    ])
    func codesAreExpanded(_ bits: Int, _ rows: Int, _ columns: Int, _ group: Int) throws {
        for isUniform in [false, true] {
            try expand(bits, rows, columns, group, isUniform: isUniform)
        }
    }

    /// - Parameter isUniform: Whether levels are equally spaced; else those of 8 bits are e4m3's.
    private func expand(
        _ bits: Int, _ rows: Int, _ columns: Int, _ group: Int, isUniform: Bool
    ) throws {
        try stream.use {
            let weights = try weights(
                bits, rows: rows, columns: columns, group: group,
                slots: .swiglu(half: rows / 2, stored: true), isUniform: isUniform,
                isFloat8: bits == 8 && !isUniform)
            let count = rows / 2 * 2
            let pitch = (columns + 7) / 8 * 8
            let out = try Tensor.full(
                [count, pitch], .nan, dtype: .bfloat16, device: context.device)
            try weights.matrix.expand(into: out, on: stream)
            let expected = try weights.dense.narrow(0, 0..<count)
            try expectClose(
                out.narrow(1, 0..<columns), expected, units: 1, slack: expected.abs() * 0x1p-19)
            let rest: [Float] = try out.narrow(1, columns..<pitch).values()
            #expect(rest.allSatisfy { $0 == 0 })
        }
    }
}
