import CMinimaCUDA

/// Work that was recorded once and is launched as a whole, again and again.
///
/// It keeps the kernels and the tensors of its launches alive. What libtorch's operators used inside
/// the capture is the caller's to keep: results belong into existing tensors (`out` variants), for
/// the memory of a temporary goes back to the allocator while the graph still writes to it.
public final class CUDAGraph: Sendable {
    /// Kernels, copies and other nodes.
    public let nodeCount: Int

    private let context: PrimaryContext
    private let contents: GraphContents
    private nonisolated(unsafe) let handle: minima_cuda_executable

    private init(
        _ handle: minima_cuda_executable, nodeCount: Int, contents: GraphContents,
        context: PrimaryContext
    ) {
        self.handle = handle
        self.nodeCount = nodeCount
        self.contents = contents
        self.context = context
    }

    deinit {
        try? context.call("cuGraphExecDestroy") { $0.executable_destroy(handle) }
    }

    /// Records what `body` queues on `stream`, without running it.
    ///
    /// The stream is libtorch's current one meanwhile, so its operators are recorded too. Run `body`
    /// once before: cuBLAS allocates its workspace at the first call, which a capture does not allow.
    ///
    /// - Throws: `KernelError`, or what `body` throws.
    public static func capture(
        on stream: CUDAStream, _ body: () throws -> Void
    ) throws -> CUDAGraph {
        let context = stream.context.primary
        guard stream.handle != nil else {
            throw KernelError.graph(
                reason: "the device's default stream cannot be captured; use CUDAStream(on:)")
        }
        guard context.beginContents(of: stream.key) else {
            throw KernelError.graph(reason: "the stream is being captured already")
        }
        let graph: minima_cuda_graph
        do {
            graph = try record(stream, body)
        } catch {
            _ = context.endContents(of: stream.key)
            throw error
        }
        let contents = context.endContents(of: stream.key)
        defer { try? context.call("cuGraphDestroy") { $0.graph_destroy(graph) } }
        var count = 0
        try context.call("cuGraphGetNodes") { $0.graph_nodes(graph, nil, &count) }
        guard count > 0 else {
            throw KernelError.graph(reason: "nothing was queued on the captured stream")
        }
        var executable: minima_cuda_executable?
        try context.call("cuGraphInstantiate of \(count) nodes") {
            $0.graph_instantiate(&executable, graph, 0)
        }
        return CUDAGraph(
            try context.driver.take(executable, "cuGraphInstantiate", 0), nodeCount: count,
            contents: contents, context: context)
    }

    private static func record(
        _ stream: CUDAStream, _ body: () throws -> Void
    ) throws -> minima_cuda_graph {
        let context = stream.context.primary
        try context.call("cuStreamBeginCapture") {
            // Other threads may allocate meanwhile, this one not.
            $0.stream_begin_capture(stream.handle, MINIMA_CUDA_CAPTURE_THREAD_LOCAL)
        }
        let result = Result { try stream.use(body) }
        var graph: minima_cuda_graph?
        let ended = Result { () throws(KernelError) in
            try context.call("cuStreamEndCapture") {
                $0.stream_end_capture(stream.handle, &graph)
            }
        }
        do {
            try result.get()
            try ended.get()
        } catch {
            if let graph { try? context.call("cuGraphDestroy") { $0.graph_destroy(graph) } }
            throw error
        }
        return try context.driver.take(graph, "cuStreamEndCapture", 0)
    }

    /// Queues all of it.
    ///
    /// - Precondition: The graph is not queued twice at a time on different streams.
    public func launch(on stream: CUDAStream) throws(KernelError) {
        try context.call("cuGraphLaunch of \(nodeCount) nodes") {
            $0.executable_launch(handle, stream.handle)
        }
    }
}
