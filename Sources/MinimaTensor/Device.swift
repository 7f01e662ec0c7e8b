import CMinimaTorchAPI
import Glibc
import MinimaCore
import Synchronization

/// Where a tensor lives and its operators run.
public enum Device: Sendable, Hashable, CustomStringConvertible {
    case cpu
    /// A CUDA device by its index among the visible ones.
    case cuda(Int)

    /// Reads `cpu`, `cuda` (device 0) or `cuda:N`.
    public init?(_ text: String) {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        switch (parts.first, parts.count) {
        case ("cpu", 1): self = .cpu
        case ("cuda", 1): self = .cuda(0)
        case ("cuda", 2):
            guard let index = Int(parts[1]), (0..<128).contains(index) else { return nil }
            self = .cuda(index)
        default: return nil
        }
    }

    /// `cpu` or `cuda:N`.
    public var description: String {
        switch self {
        case .cpu: "cpu"
        case .cuda(let index): "cuda:\(index)"
        }
    }

    /// Whether this is a CUDA device.
    public var isCUDA: Bool { self != .cpu }

    /// c10::DeviceType and index.
    var code: (type: Int32, index: Int32) {
        switch self {
        case .cpu: (0, -1)
        case .cuda(let index): (1, Int32(clamping: index))
        }
    }

    init?(type: Int32, index: Int32) {
        switch type {
        case 0: self = .cpu
        case 1: self = .cuda(Int(index))
        default: return nil
        }
    }

    /// How many CUDA devices this process can use; 0 without a driver or without libtorch_cuda.
    public static func cudaCount() throws(TensorError) -> Int {
        try CUDALibrary.count().get()
    }

    /// Why this machine's GPU cannot be used; `nil` when it can, or when there is none.
    public static func cudaProblem() throws(TensorError) -> String? {
        guard access(CUDALibrary.driver, F_OK) == 0 else { return nil }
        switch try CUDALibrary.state() {
        case .open(let devices): return devices > 0 ? nil : "the driver shows no device"
        case .closed(let reason): return reason
        }
    }

    /// Makes sure that this device can be used.
    ///
    /// - Throws: `TensorError.noSuchDevice` with the reason.
    public func open() throws(TensorError) {
        guard case .cuda(let index) = self else { return try Torch.open() }
        let count: Int
        switch try CUDALibrary.state() {
        case .open(let devices): count = devices
        case .closed(let reason): throw .noSuchDevice(self, reason: reason)
        }
        guard (0..<count).contains(index) else {
            throw .noSuchDevice(
                self, reason: count == 0 ? "no CUDA device is visible" : "there are \(count)")
        }
    }

    /// Memory of this device.
    public struct Memory: Sendable, Hashable {
        /// Bytes in live tensors.
        public var allocated: Int
        /// Most bytes in live tensors since the last reset.
        public var peakAllocated: Int
        /// Bytes that the caching allocator holds.
        public var reserved: Int
        /// Most bytes that the caching allocator held since the last reset.
        public var peakReserved: Int
        /// Bytes nobody uses.
        public var free: Int
        /// Bytes of the whole device.
        public var total: Int

        /// Bytes for new tensors: what nobody uses, and what the caching allocator holds without a
        /// tensor in it.
        public var available: Int { free + reserved - allocated }
    }

    /// Memory statistics; `nil` for the CPU, whose tensors libtorch does not count.
    public func memory() throws(TensorError) -> Memory? {
        guard isCUDA else { return nil }
        try open()
        let table = try Torch.table()
        var memory = minima_memory()
        try Torch.check({ "memory(\(self))" }) {
            table.pointee.memory(code.type, code.index, &memory, $0)
        }
        return Memory(
            allocated: Int(memory.allocated), peakAllocated: Int(memory.peak_allocated),
            reserved: Int(memory.reserved), peakReserved: Int(memory.peak_reserved),
            free: Int(memory.free), total: Int(memory.total))
    }

    /// Starts a new measurement of the peaks; does nothing on the CPU.
    public func resetPeakMemory() throws(TensorError) {
        guard isCUDA else { return }
        try open()
        let table = try Torch.table()
        try Torch.check({ "resetPeakMemory(\(self))" }) {
            table.pointee.reset_peak_memory(code.type, code.index, $0)
        }
    }

    /// Returns unused cached memory to the device; does nothing on the CPU.
    public func emptyCache() throws(TensorError) {
        guard isCUDA else { return }
        try open()
        let table = try Torch.table()
        try Torch.check({ "emptyCache(\(self))" }) { table.pointee.empty_cache(code.type, $0) }
    }

    /// Waits until everything queued on this device is done.
    public func synchronize() throws(TensorError) {
        guard isCUDA else { return }
        try open()
        let table = try Torch.table()
        try Torch.check({ "synchronize(\(self))" }) {
            table.pointee.synchronize(code.type, code.index, $0)
        }
    }
}

/// libtorch_cuda, opened when the first CUDA device is asked for.
private enum CUDALibrary {
    enum State {
        case open(devices: Int)
        case closed(reason: String)
    }

    /// What the NVIDIA driver puts there when it is loaded.
    static let driver = "/dev/nvidiactl"

    private static let cached = Mutex<State?>(nil)

    static func count() -> Result<Int, TensorError> {
        do throws(TensorError) {
            if case .open(let devices) = try state() { return .success(devices) }
            return .success(0)
        } catch {
            return .failure(error)
        }
    }

    static func state() throws(TensorError) -> State {
        let table = try Torch.table()
        return cached.withLock { cached in
            if let cached { return cached }
            let state = probe(table)
            cached = state
            return state
        }
    }

    private static func probe(_ table: Torch.Table) -> State {
        guard access(driver, F_OK) == 0 else {
            return .closed(reason: "this machine has no NVIDIA driver (\(driver) is absent)")
        }
        var count: Int32 = 0
        do throws(TensorError) {
            try Torch.check({ "libtorch_cuda" }) { table.pointee.open_cuda(&count, $0) }
        } catch {
            return .closed(reason: "\(error)")
        }
        return .open(devices: Int(count))
    }
}

/// A queue of work on a CUDA device.
public struct Stream: Sendable {
    let packed: minima_stream
    let device: Device

    /// The calling thread's current stream on `device`.
    public static func current(_ device: Device) throws(TensorError) -> Stream {
        try make("current stream", device) { $0.pointee.current_stream($1.type, $1.index, $2, $3) }
    }

    /// A new stream on `device`.
    public init(on device: Device) throws(TensorError) {
        self = try Stream.make("new stream", device) {
            $0.pointee.new_stream($1.type, $1.index, $2, $3)
        }
    }

    private init(packed: minima_stream, device: Device) {
        self.packed = packed
        self.device = device
    }

    private static func make(
        _ name: String, _ device: Device,
        _ body: (
            Torch.Table, (type: Int32, index: Int32),
            UnsafeMutablePointer<minima_stream>, UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>
        ) -> Int32
    ) throws(TensorError) -> Stream {
        try device.open()
        let table = try Torch.table()
        var packed = minima_stream()
        try Torch.check({ "\(name) on \(device)" }) { body(table, device.code, &packed, $0) }
        return Stream(packed: packed, device: device)
    }

    /// Runs `body` with this as the thread's current stream on its device.
    ///
    /// - Precondition: `body` stays on the calling thread; the current stream is thread-local.
    public func use<Result>(_ body: () throws(TensorError) -> Result) throws(TensorError) -> Result
    {
        let previous = try makeCurrent()
        // Restoring a stream that was current a moment ago cannot fail.
        defer { _ = try? previous.makeCurrent() }
        return try body()
    }

    /// Makes this the calling thread's current stream on its device; returns the one before.
    package func makeCurrent() throws(TensorError) -> Stream {
        let table = try Torch.table()
        var previous = minima_stream()
        try Torch.check({ "stream on \(device)" }) {
            table.pointee.exchange_stream(packed, &previous, $0)
        }
        return Stream(packed: previous, device: device)
    }

    /// The address of the driver's stream; 0 for the default one of the device.
    package func nativeHandle() throws(TensorError) -> UInt {
        let table = try Torch.table()
        var handle: UnsafeMutableRawPointer?
        try Torch.check({ "native handle of a stream on \(device)" }) {
            table.pointee.native_stream(packed, &handle, $0)
        }
        return UInt(bitPattern: handle)
    }
}
