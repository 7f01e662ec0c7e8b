import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor

private let copyOperator = Operator("aten::_to_copy")
private let pinOperator = Operator("aten::pin_memory")

extension EndToEnd {
    /// What the teacher says about a pass.
    private struct Reference {
        var distribution: DistillationLoss.Teacher?
        /// Its residual stream by layer boundary, where that is compared.
        var streams: [Int: Tensor] = [:]
    }

    /// What a pass's rows predict, and its tokens.
    private struct Inputs {
        let ids: Tensor
        let targets: DistillationLoss.Targets
        let reference: Reference
        let context: ForwardContext
    }

    /// Runs a pass forwards and backwards.
    ///
    /// - Returns: Its share of the step's loss, a float32 scalar on the device.
    func gradients(
        _ batch: HealingBatch, _ counts: (tokens: Int, targets: Int), _ context: ForwardContext,
        _ teacherContext: ForwardContext?, _ accumulate: ([Tensor?]) throws -> Void
    ) throws -> Tensor {
        let device = student.device
        let ids = try batch.inputs.queued(to: device)
        let targets = DistillationLoss.Targets(
            tokens: try batch.targets.queued(to: device).reshape([-1]),
            mask: try batch.mask?.queued(to: device).reshape([-1]), tokenCount: counts.tokens,
            targetCount: counts.targets)
        let inputs = Inputs(
            ids: ids, targets: targets,
            reference: try reference(ids, batch.windows, teacherContext), context: context)
        return memory.recomputes
            ? try layerByLayer(inputs, accumulate) : try atOnce(inputs, accumulate)
    }

    private func reference(_ ids: Tensor, _ windows: [Int], _ context: ForwardContext?) throws
        -> Reference
    {
        switch teacher {
        case nil: return Reference()
        case .cached(let cache):
            return Reference(
                distribution: .cached(try cache.rows(windows, on: student.device)))
        case .model(let model):
            guard let context else { return Reference() }
            return try withoutGradients {
                var (x, streams) = (try model.embed(ids), [Int: Tensor]())
                for index in 0..<model.dimensions.layers {
                    x = try model.layer(index, x, context)
                    if isCompared(index + 1) { streams[index + 1] = x }
                }
                let hidden = try model.normed(x).flatten(0, 1)
                return Reference(
                    distribution: .model(model, hidden: hidden), streams: streams)
            }
        }
    }

    private func isCompared(_ boundary: Int) -> Bool {
        settings.hidden?.boundaries.contains(boundary) ?? false
    }

    private func leaves(_ places: [Int]) -> [Tensor] { places.map { parameters[$0].tensor } }

    /// `gradients` of the parameters at `places`, among all.
    private func spread(_ gradients: some Sequence<Tensor?>, _ places: [Int]) -> [Tensor?] {
        var all = [Tensor?](repeating: nil, count: parameters.count)
        for (place, gradient) in zip(places, gradients) { all[place] = gradient }
        return all
    }

    /// The loss at the student's normalised hidden states `[window, token, hidden]`; hands over the
    /// gradients of what the logits depend on.
    private func loss(
        _ hidden: Tensor, _ inputs: Inputs, _ accumulate: ([Tensor?]) throws -> Void
    ) throws -> (loss: Tensor, gradient: Tensor) {
        let result = try settings.loss.evaluate(
            student, hidden: hidden.detach().flatten(0, 1),
            teacher: inputs.reference.distribution, targets: inputs.targets,
            leaves: leaves(outerPlaces))
        if result.leaves.contains(where: { $0 != nil }) {
            try accumulate(spread(result.leaves, outerPlaces))
        }
        return (result.loss, try result.hidden.reshape(hidden.shape))
    }

    /// The distance of the student's residual stream from the teacher's at a boundary.
    private func distance(_ stream: Tensor, _ boundary: Int, _ inputs: Inputs) throws -> (
        loss: Tensor, gradient: Tensor
    )? {
        guard let aim = inputs.reference.streams[boundary], let hidden = settings.hidden else {
            return nil
        }
        return try hidden.evaluate(
            student: stream.detach(), teacher: aim, tokenCount: inputs.targets.tokenCount)
    }

    /// One graph of the whole model.
    private func atOnce(_ inputs: Inputs, _ accumulate: ([Tensor?]) throws -> Void) throws
        -> Tensor
    {
        var streams: [(boundary: Int, stream: Tensor)] = []
        let hidden = try withGradients {
            var x = try student.embed(inputs.ids)
            for index in 0..<student.dimensions.layers {
                x = try student.layer(index, x, inputs.context)
                if isCompared(index + 1) { streams.append((index + 1, x)) }
            }
            return try student.normed(x)
        }
        var (sum, gradient) = try loss(hidden, inputs, accumulate)
        var (outputs, directions) = ([hidden], [gradient])
        for (boundary, stream) in streams where stream.requiresGrad {
            guard let found = try distance(stream, boundary, inputs) else { continue }
            sum = try sum + found.loss
            outputs.append(stream)
            directions.append(found.gradient)
        }
        try accumulate(
            Tensor.gradients(of: outputs, along: directions, parameters.map(\.tensor)))
        return sum
    }

    /// A graph of one layer at a time: first the residual stream at all boundaries, then back.
    private func layerByLayer(_ inputs: Inputs, _ accumulate: ([Tensor?]) throws -> Void) throws
        -> Tensor
    {
        let layers = student.dimensions.layers
        var streams = try withoutGradients {
            var streams = [try student.embed(inputs.ids)]
            for index in 0..<layers {
                streams.append(try student.layer(index, streams[index], inputs.context))
            }
            return streams
        }
        let (last, hidden) = try again(streams[layers]) { try student.normed($0) }
        var (sum, gradient) = try loss(hidden, inputs, accumulate)
        gradient = try backward(hidden, gradient, last, outerPlaces, accumulate)
        for index in (0..<layers).reversed() {
            if let found = try distance(streams[index + 1], index + 1, inputs) {
                sum = try sum + found.loss
                gradient = try gradient + found.gradient
            }
            streams.removeLast()
            let (input, output) = try again(streams[index]) {
                try student.layer(index, $0, inputs.context)
            }
            gradient = try backward(output, gradient, input, layerPlaces[index], accumulate)
        }
        let embedded = try withGradients { try student.embed(inputs.ids) }
        if embedded.requiresGrad {
            try accumulate(
                spread(
                    Tensor.gradients(of: [embedded], along: [gradient], leaves(outerPlaces)),
                    outerPlaces))
        }
        return sum
    }

    /// `body` of `stream`, recorded.
    private func again(_ stream: Tensor, _ body: (Tensor) throws -> Tensor) throws -> (
        input: Tensor, output: Tensor
    ) {
        let input = try stream.detach()
        try input.setRequiresGrad()
        return (input, try withGradients { try body(input) })
    }

    /// Hands over the gradients of the parameters at `places`; returns that of `input`.
    private func backward(
        _ output: Tensor, _ gradient: Tensor, _ input: Tensor, _ places: [Int],
        _ accumulate: ([Tensor?]) throws -> Void
    ) throws -> Tensor {
        let found = try Tensor.gradients(
            of: [output], along: [gradient], [input] + leaves(places))
        guard let atInput = found[0] else {
            throw CalibrationError.noGradient(what: "the residual stream")
        }
        let own = found.dropFirst()
        if own.contains(where: { $0 != nil }) { try accumulate(spread(own, places)) }
        return atInput
    }
}

extension Tensor {
    /// A copy on `device` for which the host does not wait: it goes through pinned memory.
    fileprivate func queued(to device: Device) throws(TensorError) -> Tensor {
        guard device != self.device else { return self }
        return try copyOperator(
            .tensor(pinOperator(.tensor(self))), .dtype(dtype), .none, .device(device), .none,
            .bool(true))
    }
}
