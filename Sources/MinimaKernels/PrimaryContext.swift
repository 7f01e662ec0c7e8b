import CMinimaCUDA
import MinimaTensor
import Synchronization

/// A device's primary context, which libtorch uses too, held as long as this lives.
final class PrimaryContext: Sendable {
    let device: Device
    let driver: CUDADriver
    private let ordinal: Int32
    private nonisolated(unsafe) let handle: minima_cuda_context
    /// What the graphs that are being captured hold, by stream.
    private let captures = Mutex<[UInt: GraphContents]>([:])

    init(device: Device) throws(KernelError) {
        guard case .cuda(let index) = device else {
            throw .unsupportedDevice(device, reason: "it is no CUDA device; name cuda or cuda:N")
        }
        // libtorch's own message says more than the driver's when there is no such device.
        try KernelError.wrapping { () throws(TensorError) in try device.open() }
        let driver = try CUDADriver()
        var ordinal: Int32 = 0
        try driver.check(
            "cuDeviceGet(\(index))", driver.table.pointee.device_get(&ordinal, Int32(index)))
        var handle: minima_cuda_context?
        let code = driver.table.pointee.primary_context_retain(&handle, ordinal)
        self.handle = try driver.take(handle, "cuDevicePrimaryCtxRetain(\(index))", code)
        self.ordinal = ordinal
        self.driver = driver
        self.device = device
    }

    deinit {
        _ = driver.table.pointee.primary_context_release(ordinal)
    }

    func attribute(_ attribute: minima_cuda_device_attribute) throws(KernelError) -> Int {
        var value: Int32 = 0
        try driver.check(
            "cuDeviceGetAttribute(\(attribute.rawValue))",
            driver.table.pointee.device_attribute(&value, attribute, ordinal))
        return Int(value)
    }

    /// The driver's name of the device.
    func name() throws(KernelError) -> String {
        var characters = [CChar](repeating: 0, count: 256)
        try driver.check(
            "cuDeviceGetName",
            driver.table.pointee.device_name(&characters, Int32(characters.count), ordinal))
        let bytes = characters.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// Makes one call of the driver with this context current on the calling thread.
    func call(
        _ name: @autoclosure () -> String, _ body: (minima_cuda_driver) -> Int32
    ) throws(KernelError) {
        try driver.check("cuCtxPushCurrent", driver.table.pointee.context_push(handle))
        let code = body(driver.table.pointee)
        // libtorch may have another device's context current here, which must stay.
        var popped: minima_cuda_context?
        _ = driver.table.pointee.context_pop(&popped)
        try driver.check(name(), code)
    }

    // What a graph must keep alive

    /// Starts to note what is queued on a stream; false when that was under way.
    func beginContents(of stream: UInt) -> Bool {
        captures.withLock { captures in
            guard captures[stream] == nil else { return false }
            captures[stream] = GraphContents()
            return true
        }
    }

    /// Notes what was queued, if the stream is being captured.
    func note(_ kernel: Kernel?, _ tensors: [Tensor], on stream: UInt) {
        captures.withLock { captures in
            guard captures[stream] != nil else { return }
            if let kernel { captures[stream]?.kernels.append(kernel) }
            captures[stream]?.tensors += tensors
        }
    }

    /// Ends the notes and returns them.
    func endContents(of stream: UInt) -> GraphContents {
        captures.withLock { $0.removeValue(forKey: stream) } ?? GraphContents()
    }
}

/// What the nodes of a graph point to.
struct GraphContents: Sendable {
    var kernels: [Kernel] = []
    var tensors: [Tensor] = []
}
