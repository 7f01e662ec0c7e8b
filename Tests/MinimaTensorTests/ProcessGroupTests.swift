import Foundation
import MinimaCore
import MinimaTensor
import Testing

@Suite("Process groups")
struct ProcessGroupTests {
    static let dtypes: [DType] = [.float32, .float64, .float16, .bfloat16, .int64]

    /// Small whole numbers, which every dtype adds without rounding.
    static func number(_ rank: Int, _ shape: [Int], _ dtype: DType) throws -> Tensor {
        let count = shape.reduce(1, *)
        return try Tensor((0..<count).map { Double(($0 + 3 * rank) % 8) }, shape: shape)
            .to(dtype: dtype)
    }

    @Test(arguments: [1, 2, 3]) func allReduceAddsInPlace(size: Int) throws {
        let shapes = [[], [0], [1], [7], [3, 1000], [65537]]
        let reduced = try processes(size) { group in
            try Self.dtypes.map { dtype in
                let tensors = try shapes.map { try Self.number(group.rank, $0, dtype) }
                try group.allReduce(tensors)
                return try tensors.map { try $0.values(as: Double.self) }
            }
        }
        let expected = try shapes.map { shape in
            try (0..<size).map { try Self.number($0, shape, .float64) }
                .reduce(Tensor.zeros(shape, dtype: .float64)) { try $0 + $1 }.values(
                    as: Double.self)
        }
        for (rank, dtypes) in reduced.enumerated() {
            for (dtype, tensors) in zip(Self.dtypes, dtypes) {
                for (found, (shape, right)) in zip(tensors, zip(shapes, expected)) {
                    #expect(found == right, "\(dtype) \(shape) in process \(rank)")
                }
            }
        }
    }

    @Test func everyProcessGetsTheSameBytes() throws {
        let (size, count) = (3, 10007)
        let sums = try processes(size) { group in
            let tensor = try random([count], seed: UInt64(group.rank), dtype: .float32)
            try group.allReduce([tensor])
            return try tensor.values(as: Float.self)
        }
        #expect(sums.allSatisfy { $0 == sums[0] })
        let exact = try (0..<size).map { try random([count], seed: UInt64($0), dtype: .float32) }
        let wide = try exact.map { try $0.to(dtype: .float64) }
        let sum = try wide.dropFirst().reduce(wide[0]) { try $0 + $1 }
        let largest = try wide.map { try $0.abs().max().item() }.reduce(0, +)
        let rounding = Double(size - 1) * DType.float32.epsilon * largest
        #expect(try distance(Tensor(sums[0]), sum) <= rounding)
    }

    @Test func leavesAndTransposedTensorsKeepTheirPlace() throws {
        let found = try processes(2) { group in
            let leaf = try Self.number(group.rank, [2, 3], .float32)
            try leaf.setRequiresGrad()
            let base = try Self.number(group.rank, [4, 5], .float32)
            let columns = try base.transpose()
            try group.allReduce([leaf, columns])
            return (
                leaf.requiresGrad, try withoutGradients { try leaf.values(as: Double.self) },
                try base.values(as: Double.self)
            )
        }
        let expected = try [[2, 3], [4, 5]].map { shape in
            try (Self.number(0, shape, .float64) + Self.number(1, shape, .float64))
                .values(as: Double.self)
        }
        for (requiresGrad, leaf, base) in found {
            #expect(requiresGrad && leaf == expected[0] && base == expected[1])
        }
    }

    @Test(arguments: 0..<3) func broadcastSpreadsOneProcessesTensors(root: Int) throws {
        let found = try processes(3) { group in
            try Self.dtypes.map { dtype in
                let tensors = try [[5], [2, 300]].map { try Self.number(group.rank, $0, dtype) }
                try group.broadcast(tensors, from: root)
                return try tensors.map { try $0.values(as: Double.self) }
            }
        }
        let expected = try [[5], [2, 300]].map {
            try Self.number(root, $0, .float64).values(as: Double.self)
        }
        #expect(found.allSatisfy { $0.allSatisfy { $0 == expected } })
    }

    @Test func numbersAreSummed() throws {
        let sums = try processes(3) { group in
            [try group.sum([1, Double(group.rank), 0.25]), try group.sum([])]
        }
        #expect(sums == Array(repeating: [[3, 3, 0.75], []], count: 3))
    }

    @Test func aBarrierWaitsForTheLast() throws {
        let times = try processes(2) { group in
            if group.rank == 1 { Thread.sleep(forTimeInterval: 0.2) }
            let before = ContinuousClock.now
            try group.barrier()
            return (before: before, after: ContinuousClock.now)
        }
        #expect(times[0].after >= times[1].before)
    }

    @Test func aPeerThatNeverComesIsAnError() throws {
        let start = ContinuousClock.now
        let error = #expect(throws: TensorError.self) {
            try withPort { port in
                let launch = Launch(rank: 0, size: 2, localRank: 0, port: port)
                return try ProcessGroup(launch, device: .cpu, timeout: .milliseconds(300))
            }
        }
        #expect(ContinuousClock.now - start < .seconds(20))
        let text = "\(try #require(error))"
        #expect(text.contains("process 0 of 2") && text.contains("0.3 seconds"), "\(text)")
    }

    /// One process leaves, or does something else for longer than the other waits.
    @Test(arguments: [true, false]) func aPeerThatStopsIsAnError(leaves: Bool) throws {
        let over = DispatchSemaphore(value: 0)
        let errors = try processes(2, timeout: .seconds(8)) { group -> String in
            guard group.rank == 0 else {
                if !leaves { over.wait() }
                return ""
            }
            defer { over.signal() }
            do {
                try group.allReduce([Tensor.ones([1000])])
                return "no error"
            } catch {
                return "\(error)"
            }
        }
        #expect(errors[0].contains("allReduce of 1 tensors, process 0 of 2, failed"))
        #expect(errors[0].contains("within 8.0 seconds"))
    }

    /// All are threads of one process, of which libtorch keeps one record: each adds itself to it at
    /// its first exchange.
    @Test func manyProcessesBeginAtOnce() throws {
        for _ in 0..<3 {
            let sums = try processes(8) { group in try group.sum([Double(group.rank)]) }
            #expect(sums == Array(repeating: [28], count: 8))
        }
    }

    @Test func whatCannotBeExchangedIsRefused() throws {
        let refused = try processes(2) { group in
            [
                throwsTensorError { try group.allReduce([Tensor.ones([2], dtype: .uint8)]) },
                throwsTensorError { try group.broadcast([Tensor.ones([2])], from: 2) },
                throwsTensorError { try group.broadcast([Tensor.ones([2])], from: -1) },
            ]
        }
        #expect(refused.allSatisfy { $0.allSatisfy { $0 } })
        #expect(throws: TensorError.self) {
            try ProcessGroup(
                Launch(rank: 0, size: 1, localRank: 0, port: 29500), device: .cpu,
                timeout: .seconds(Int64.max))
        }
        for (rank, size, port) in [(2, 2, 29500), (-1, 2, 29500), (0, 0, 29500), (0, 2, 70000)] {
            #expect(throws: TensorError.self) {
                try ProcessGroup(
                    Launch(rank: rank, size: size, localRank: 0, port: port), device: .cpu,
                    timeout: .milliseconds(300))
            }
        }
    }

    @Test func aProcessStartedAloneHasNoGroup() throws {
        #expect(try ProcessGroup.fromEnvironment([:], device: .cpu) == nil)
        #expect(throws: LaunchError.self) {
            try ProcessGroup.fromEnvironment(["RANK": "0"], device: .cpu)
        }
    }

    @Test func variablesBringProcessesTogether() throws {
        let sums = try withPort { port in
            try together(2) { rank in
                let group = try ProcessGroup.fromEnvironment(
                    [
                        "OMPI_COMM_WORLD_RANK": "\(rank)", "OMPI_COMM_WORLD_SIZE": "2",
                        "OMPI_COMM_WORLD_LOCAL_RANK": "\(rank)",
                        "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "MASTER_PORT": "\(port)",
                    ], device: .cpu, timeout: .seconds(20))
                return try group?.sum([Double(rank)])
            }
        }
        #expect(sums == [[1], [1]])
    }
}

/// Skipped where there is no GPU; two processes need two.
@Suite("GPU process groups", .enabled(if: (try? Device.cudaCount()) ?? 0 > 0))
struct GPUProcessGroupTests {
    @Test(arguments: 1...max(min((try? Device.cudaCount()) ?? 0, 4), 1))
    func ncclExchangesLikeGloo(size: Int) throws {
        let shapes = [[], [0], [1], [3, 1000], [1 << 20]]
        let found = try processes(size, device: { .cuda($0) }) { group in
            try ProcessGroupTests.dtypes.map { dtype in
                let tensors = try shapes.map {
                    try ProcessGroupTests.number(group.rank, $0, dtype).to(group.device)
                }
                let columns = try ProcessGroupTests.number(group.rank, [4, 5], dtype)
                    .to(group.device).transpose()
                let copies = try tensors.map { try $0.clone() }
                try group.allReduce(tensors + [columns])
                try group.broadcast(copies, from: size - 1)
                try group.barrier()
                return try (tensors + [columns.transpose()] + copies).map {
                    try $0.values(as: Double.self)
                }
            }
        }
        let all = try (shapes + [[4, 5]]).map { shape in
            try (0..<size).map { try ProcessGroupTests.number($0, shape, .float64) }
        }
        let sums = try all.map { numbers in
            try numbers.dropFirst().reduce(numbers[0]) { try $0 + $1 }.values(as: Double.self)
        }
        let spread = try all.dropLast().map { try $0[size - 1].values(as: Double.self) }
        #expect(found.allSatisfy { $0.allSatisfy { $0 == sums + spread } })
    }

    @Test(.enabled(if: (try? Device.cudaCount()) ?? 0 > 1))
    func aPeerThatStopsIsAnErrorWithinTheTimeLimit() throws {
        let late = try processes(2, device: { .cuda($0) }, timeout: .seconds(2)) { group in
            try group.barrier()
            guard group.rank == 0 else {
                Thread.sleep(forTimeInterval: 6)
                return true
            }
            try group.allReduce([Tensor.ones([1000], device: group.device)])
            return throwsTensorError { try group.wait() }
                && throwsTensorError { try group.wait() }
                && throwsTensorError {
                    try group.allReduce([Tensor.ones([1], device: group.device)])
                }
        }
        #expect(late == [true, true])
    }
}

private func throwsTensorError(_ body: () throws -> Void) -> Bool {
    do {
        try body()
        return false
    } catch {
        return error is TensorError
    }
}
