import CMinimaCUDA
import MinimaTensor

/// A compiled kernel on one device.
public struct Kernel: Sendable {
    /// The entry and its file, as errors name it.
    public let name: String
    /// Dynamic shared memory of each block.
    public let sharedBytes: Int
    /// Registers of each thread.
    public let registers: Int
    /// Bytes per thread in local memory: what was spilled, and arrays that found no registers.
    public let localBytes: Int
    /// Shared memory that the source declares with its size.
    public let staticSharedBytes: Int
    /// Where the machine code came from.
    public let origin: Cubin.Origin

    private let module: Module
    private nonisolated(unsafe) let function: minima_cuda_function
    private let parameterSizes: [Int]
    private let kernelsOverlap: Bool

    /// The only owner of a loaded module.
    private final class Module: Sendable {
        let context: PrimaryContext
        nonisolated(unsafe) let handle: minima_cuda_module

        init(_ image: [UInt8], name: String, context: PrimaryContext) throws(KernelError) {
            var handle: minima_cuda_module?
            try context.call("cuModuleLoadData(\(name))") { driver in
                image.withUnsafeBytes { bytes in
                    guard let base = bytes.baseAddress else { return 1 }
                    return driver.module_load(&handle, base)
                }
            }
            self.handle = try context.driver.take(handle, "cuModuleLoadData(\(name))", 0)
            self.context = context
        }

        deinit {
            try? context.call("cuModuleUnload") { $0.module_unload(handle) }
        }
    }

    init(
        _ cubin: Cubin, name: String, entry: String, sharedBytes: Int, context: CUDAContext
    ) throws(KernelError) {
        guard (0...context.sharedPerBlock).contains(sharedBytes) else {
            throw .exceedsDevice(
                kernel: name,
                reason: """
                    it asks for \(sharedBytes) bytes of shared memory, a block of \(context.name) has \
                    0 to \(context.sharedPerBlock)
                    """)
        }
        let primary = context.primary
        let module = try Module(cubin.bytes, name: name, context: primary)
        var found: minima_cuda_function?
        try primary.call("cuModuleGetFunction(\(name))") {
            $0.module_function(&found, module.handle, entry)
        }
        let function = try primary.driver.take(found, "cuModuleGetFunction(\(name))", 0)
        func attribute(_ attribute: minima_cuda_function_attribute) throws(KernelError) -> Int {
            var value: Int32 = 0
            try primary.call("cuFuncGetAttribute(\(attribute.rawValue))") {
                $0.function_attribute(&value, attribute, function)
            }
            return Int(value)
        }
        // Loaded now rather than at the first launch, which may lie inside a capture.
        try primary.call("cuFuncLoad(\(name))") { $0.function_load(function) }
        registers = try attribute(MINIMA_CUDA_REGISTERS)
        localBytes = try attribute(MINIMA_CUDA_LOCAL_BYTES)
        staticSharedBytes = try attribute(MINIMA_CUDA_STATIC_SHARED_BYTES)
        let limit = context.sharedPerBlock - staticSharedBytes
        guard sharedBytes <= limit else {
            throw .exceedsDevice(
                kernel: name,
                reason: """
                    it asks for \(sharedBytes) bytes of shared memory beside \(staticSharedBytes) of \
                    its own, a block has \(context.sharedPerBlock)
                    """)
        }
        func set(
            _ attribute: minima_cuda_function_attribute, _ value: Int
        ) throws(KernelError) {
            try primary.call("cuFuncSetAttribute(\(attribute.rawValue), \(value)) of \(name)") {
                $0.function_set_attribute(function, attribute, Int32(clamping: value))
            }
        }
        try set(MINIMA_CUDA_DYNAMIC_SHARED_LIMIT, sharedBytes)
        // A multiprocessor runs blocks of two kernels at once only if both split its memory alike.
        try set(MINIMA_CUDA_SHARED_CARVEOUT, 100)
        parameterSizes = try Self.parameterSizes(of: function, primary)
        self.name = name
        self.sharedBytes = sharedBytes
        self.module = module
        self.function = function
        self.origin = cubin.origin
        kernelsOverlap = context.kernelsOverlap
    }

    private static func parameterSizes(
        of function: minima_cuda_function, _ context: PrimaryContext
    ) throws(KernelError) -> [Int] {
        var sizes: [Int] = []
        while true {
            var (offset, size) = (0, 0)
            do throws(KernelError) {
                try context.call("cuFuncGetParamInfo") {
                    $0.function_parameter(function, sizes.count, &offset, &size)
                }
            } catch {
                // CUDA_ERROR_INVALID_VALUE tells that the last parameter was the one before.
                guard case .driverFailed(_, 1, _, _) = error else { throw error }
                return sizes
            }
            sizes.append(size)
        }
    }

    /// Blocks of `block` threads that one multiprocessor can hold at a time.
    public func blocksPerMultiprocessor(block: Int) throws(KernelError) -> Int {
        var blocks: Int32 = 0
        try module.context.call("cuOccupancyMaxActiveBlocksPerMultiprocessor of \(name)") {
            $0.occupancy(&blocks, function, Int32(clamping: block), sharedBytes)
        }
        return Int(blocks)
    }

    /// Queues this kernel, or adds it to the graph that the stream is captured into.
    ///
    /// A graph keeps the tensors of its launches alive. Outside of a capture they live until the
    /// call returns, and libtorch hands freed memory to the next tensor of the stream it was made
    /// on: make them inside `stream.use`, or hold them until the stream is done.
    ///
    /// - Parameters:
    ///   - grid: Blocks along x, y and z.
    ///   - block: Threads of a block.
    ///   - overlapping: Lets this kernel start before the one ahead of it ends (programmatic
    ///     dependent launch) where the context's kernels do; it must execute `griddepcontrol.wait`
    ///     before touching what others write.
    ///   - arguments: The kernel's parameters in its order; count and sizes are checked.
    public func launch(
        grid: (Int, Int, Int), block: Int, on stream: CUDAStream, overlapping: Bool = false,
        _ arguments: [KernelArgument]
    ) throws(KernelError) {
        guard let x = UInt32(exactly: grid.0), let y = UInt32(exactly: grid.1),
            let z = UInt32(exactly: grid.2), let threads = UInt32(exactly: block),
            min(x, y, z, threads) > 0
        else {
            throw .invalidLaunch(
                kernel: name, reason: "a grid of \(grid) blocks of \(block) threads is no grid")
        }
        guard stream.context.primary === module.context else {
            throw .invalidLaunch(
                kernel: name,
                reason: """
                    it was compiled for a context on \(module.context.device), the stream belongs to \
                    another on \(stream.context.device)
                    """)
        }
        guard arguments.map(\.size) == parameterSizes else {
            throw .invalidLaunch(
                kernel: name,
                reason: """
                    its parameters take \(parameterSizes) bytes, the arguments \(arguments.map(\.size))
                    """)
        }
        var values: [UInt64] = []
        values.reserveCapacity(arguments.count)
        for (index, argument) in arguments.enumerated() {
            do throws(KernelArgumentDefect) {
                values.append(try argument.bits(for: module.context.device))
            } catch {
                throw .invalidLaunch(kernel: name, reason: "parameter \(index): \(error.reason)")
            }
        }
        try withExtendedLifetime(arguments) { () throws(KernelError) in
            try queue((x, y, z), threads, stream, overlapping, &values)
        }
        module.context.note(self, arguments.compactMap(\.tensor), on: stream.key)
    }

    private func queue(
        _ grid: (UInt32, UInt32, UInt32), _ threads: UInt32, _ stream: CUDAStream,
        _ overlapping: Bool, _ values: inout [UInt64]
    ) throws(KernelError) {
        let context = module.context
        let blocks = [grid.0, grid.1, grid.2]
        try context.call("cuLaunchKernelEx of \(name), \(grid) blocks of \(threads) threads") { _ in
            values.withUnsafeMutableBytes { values in
                withUnsafeTemporaryAllocation(
                    of: UnsafeMutableRawPointer.self, capacity: Swift.max(values.count / 8, 1)
                ) { parameters in
                    if let base = values.baseAddress {
                        for index in 0..<values.count / 8 {
                            parameters.initializeElement(at: index, to: base + 8 * index)
                        }
                    }
                    return minima_cuda_launch(
                        context.driver.table, function, blocks, threads, UInt32(sharedBytes),
                        stream.handle, overlapping && kernelsOverlap, parameters.baseAddress)
                }
            }
        }
    }
}
