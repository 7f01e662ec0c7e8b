import CMinimaTorchAPI
import MinimaCore
import Synchronization

/// Processes that compute one thing together: this one's number among them, and what they exchange.
///
/// Every process calls the same functions in the same order, with tensors of the same shapes and
/// dtypes. Tensors on the CPU travel through gloo, those on a CUDA device through NCCL. On CUDA a
/// call queues its work on the current stream and returns; `wait`, `sum` and `barrier` wait for it,
/// at most the time limit. Read a value that depends on it after one of these: the device itself
/// waits for a peer that died without a limit.
public final class ProcessGroup: Sendable {
    /// This process's number, `0..<size`.
    public let rank: Int
    /// How many processes there are.
    public let size: Int
    /// This process's number among those on the same machine.
    public let localRank: Int
    /// Where this process computes: the CPU, or a CUDA device of its own.
    public let device: Device

    private let timeout: Duration
    private let handle: Handle
    // libtorch's groups take one call at a time.
    private let turn = Mutex<Void>(())

    private struct Handle: @unchecked Sendable {
        let table: Torch.Table
        let group: OpaquePointer
    }

    /// Joins the group that the variables of torchrun, mpirun or Slurm describe.
    ///
    /// - Parameters:
    ///   - environment: The process's variables.
    ///   - device: The CPU, or any CUDA device; each process takes the one of its local rank.
    ///   - timeout: How long a call may wait for the other processes.
    /// - Returns: `nil` when this process was started alone.
    /// - Throws: `LaunchError`, or `TensorError` when the others did not come in time.
    public static func fromEnvironment(
        _ environment: [String: String], device: Device, timeout: Duration = .seconds(600)
    ) throws -> ProcessGroup? {
        guard let launch = try Launch(environment: environment) else { return nil }
        var own = device
        if device.isCUDA {
            own = .cuda(try launch.deviceIndex(of: try Device.cudaCount()))
        }
        return try ProcessGroup(launch, device: own, timeout: timeout)
    }

    /// Waits until all processes are there and connects them.
    ///
    /// - Parameters:
    ///   - device: Where this process computes; with a CUDA device, which no other process uses,
    ///     its tensors are exchanged too.
    ///   - timeout: How long this and later calls may wait for the other processes, at most
    ///     1,000,000 s. NCCL's own connecting, once all have come, has no limit.
    public init(_ launch: Launch, device: Device, timeout: Duration = .seconds(600))
        throws(TensorError)
    {
        guard (1...Int(Int32.max)).contains(launch.size), (0..<launch.size).contains(launch.rank),
            (1...65535).contains(launch.port),
            (.milliseconds(1) ... .seconds(1_000_000)).contains(timeout)
        else {
            throw .invalidArgument(
                function: "ProcessGroup", reason: "\(launch) cannot be joined within \(timeout)")
        }
        try device.open()
        let table = try Torch.table()
        rank = launch.rank
        size = launch.size
        localRank = launch.localRank
        self.device = device
        self.timeout = timeout
        var pointer: OpaquePointer?
        let place = "\(launch.address):\(launch.port)"
        let (rank, size) = (rank, size)
        try Self.check("meeting at \(place)", rank, size, timeout) { message in
            launch.address.withCString { address in
                // An empty name asks for the interface of the host's name.
                (launch.interface ?? "").withCString { interface in
                    var options = minima_group_options(
                        address: address, interface: interface, port: Int32(launch.port),
                        rank: Int32(rank), size: Int32(size), cuda_index: device.code.index,
                        timeout: Int64(timeout / .milliseconds(1)),
                        hosts_store: rank == 0 && !launch.storeIsHosted)
                    return table.pointee.make_group(&options, &pointer, message)
                }
            }
        }
        guard let pointer else {
            throw .unexpectedResult(call: "meeting at \(place)", found: "no group")
        }
        handle = Handle(table: table, group: pointer)
    }

    deinit {
        handle.table.pointee.group_release(handle.group)
    }

    /// Replaces each tensor by the sum of all processes' ones, the same bytes in every process.
    ///
    /// - Parameter tensors: float32, float64, float16, bfloat16 or int64; written in place, also
    ///   when they require gradients. One that is not contiguous is copied there and back.
    public func allReduce(_ tensors: [Tensor]) throws(TensorError) {
        try exchange("allReduce", tensors) { $0.table.pointee.all_reduce($0.group, $1, $2, $3) }
    }

    /// Replaces each tensor by that of the process `root`; dtypes as for `allReduce`.
    public func broadcast(_ tensors: [Tensor], from root: Int) throws(TensorError) {
        guard (0..<size).contains(root) else {
            throw .invalidArgument(
                function: "broadcast", reason: "there is no process \(root) among \(size)")
        }
        try exchange("broadcast", tensors) {
            $0.table.pointee.broadcast($0.group, $1, $2, Int32(root), $3)
        }
    }

    /// The sums of all processes' `values`, the same in every process; waits like `barrier`.
    public func sum(_ values: [Double]) throws(TensorError) -> [Double] {
        try wait()
        let sums = try Tensor(values)
        try exchange("sum", [sums]) { $0.table.pointee.all_reduce($0.group, $1, $2, $3) }
        return try sums.values()
    }

    /// Waits until every process is here and what it exchanged has arrived.
    public func barrier() throws(TensorError) {
        _ = try sum([0])
    }

    /// Waits until what this process queued on its CUDA device has been exchanged.
    ///
    /// - Throws: `TensorError` when a process did not take part in time; the group is of no use
    ///   afterwards, nor are the tensors of the calls before.
    public func wait() throws(TensorError) {
        guard device.isCUDA else { return }
        try check("wait") { $0.table.pointee.group_wait($0.group, $1) }
    }

    private typealias Message = UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>

    private func exchange(
        _ name: String, _ tensors: [Tensor],
        _ body: (Handle, UnsafePointer<OpaquePointer>, Int64, Message) -> Int32
    ) throws(TensorError) {
        for tensor in tensors where !Self.dtypes.contains(tensor.dtype) {
            throw .invalidArgument(
                function: name,
                reason: "\(tensor.summary) cannot be exchanged, \(Self.dtypes) can; convert it")
        }
        let pointers = tensors.map(\.handle.pointer)
        try withExtendedLifetime(tensors) { () throws(TensorError) in
            try check("\(name) of \(tensors.count) tensors") { group, message in
                pointers.withUnsafeBufferPointer { pointers in
                    guard let first = pointers.baseAddress else { return 0 }
                    return body(group, first, Int64(pointers.count), message)
                }
            }
        }
    }

    private static let dtypes: [DType] = [.float32, .float64, .float16, .bfloat16, .int64]

    private func check(
        _ call: String, _ body: (Handle, Message) -> Int32
    ) throws(TensorError) {
        try Self.check(call, rank, size, timeout) { message in
            turn.withLock { _ in body(handle, message) }
        }
    }

    private static func check(
        _ call: String, _ rank: Int, _ size: Int, _ timeout: Duration, _ body: (Message) -> Int32
    ) throws(TensorError) {
        do throws(TensorError) {
            try Torch.check({ "\(call), process \(rank) of \(size)," }, body)
        } catch {
            guard case .operatorFailed(let call, let reason) = error else { throw error }
            throw .operatorFailed(
                call: call,
                reason: """
                    \(reason). Every process has to come here within \(timeout); where one has ended, \
                    its output says why. Start all of them again.
                    """)
        }
    }
}
