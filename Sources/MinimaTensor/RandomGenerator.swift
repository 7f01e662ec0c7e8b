import CMinimaTorchAPI
import MinimaCore

/// A seeded source of random numbers on one device; the same seed gives the same numbers.
public final class RandomGenerator: @unchecked Sendable {
    // Used by one thread at a time: libtorch locks the generator inside every operator.
    let pointer: OpaquePointer
    private let table: Torch.Table

    /// A generator for operators on `device`.
    public init(seed: UInt64, device: Device = .cpu) throws(TensorError) {
        try device.open()
        let table = try Torch.table()
        var pointer: OpaquePointer?
        try Torch.check({ "generator(\(device))" }) {
            table.pointee.make_generator(device.code.type, device.code.index, seed, &pointer, $0)
        }
        guard let pointer else {
            throw .unexpectedResult(call: "generator(\(device))", found: "no generator")
        }
        self.pointer = pointer
        self.table = table
    }

    deinit {
        table.pointee.generator_release(pointer)
    }
}
