import MinimaKernels
import MinimaTensor

extension CUDABackend {
    /// Timed launches of each graph.
    private static let timedLaunches = 3

    /// Seconds of a launch of each graph: the middle of three, after one that is not timed.
    ///
    /// Every slot of a step stands in the middle of the context, in pages of its own as far as there
    /// are that many, so that attention reads what it does at that length. Slots hold nothing that a
    /// sequence will see: opening one sets all of its state.
    func timeSteps(_ graphs: [StepSize: CUDAGraph]) throws -> [StepSize: Double] {
        let (layout, stream, state) = (decoder.layout, decoder.stream, decoder.state)
        let slots = min(layout.slots, layout.largestBucket)
        let start = [Int32](
            repeating: Int32(max((layout.context - layout.mostDraftTokens) / 2, 0)),
            count: layout.slots)
        for slot in 0..<slots {
            let first = slot * layout.pagesPerSlot
            try upload(
                pages: (first..<first + layout.pagesPerSlot).map { Int32($0 % layout.pageCount) },
                of: slot)
        }
        let (begin, end) = (
            try CUDAEvent(on: decoder.kernels), try CUDAEvent(on: decoder.kernels)
        )
        var seconds: [StepSize: Double] = [:]
        for (size, graph) in graphs {
            try upload(
                rows: (0..<layout.largestBucket).map {
                    $0 < min(size.bucket, slots) ? Int32($0) : -1
                })
            var times: [Double] = []
            for launch in 0...Self.timedLaunches {
                // A step moves positions on, by one at least.
                try stream.use { try HostTransfer.upload(start, to: state.positions) }
                try begin.record(on: stream)
                try graph.launch(on: stream)
                try end.record(on: stream)
                try end.synchronize()
                if launch > 0 { times.append(try end.elapsed(since: begin) / 1000) }
            }
            seconds[size] = times.sorted()[times.count / 2]
        }
        return seconds
    }
}
