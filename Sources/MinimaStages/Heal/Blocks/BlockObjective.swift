import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor

/// What a group of neighbouring decoder layers is trained to: the dense model's residual stream after
/// them, from what the healed layers before have made of their inputs.
final class BlockObjective: TrainingObjective {
    let parameters: [TrainedTensor]
    let tokensPerStep: Int
    private let layers: BlockLayers
    private let windows: BlockWindows
    private let inputs: BlockStates
    private let targets: BlockStates
    private let group: ProcessGroup?
    /// Mean of ‖y‖ over the training tokens of all processes.
    private let norm: Double

    /// - Parameters:
    ///   - layers: The compressed model's, made of leaves that train.
    ///   - inputs: The compressed model's residual stream before them.
    ///   - targets: The dense model's residual stream after them.
    init(
        _ layers: BlockLayers, parameters: [TrainedTensor], windows: BlockWindows,
        inputs: ActivationChain, targets: ActivationChain, group: ProcessGroup?
    ) throws {
        self.layers = layers
        self.parameters = parameters
        self.windows = windows
        self.group = group
        self.inputs = try BlockStates(inputs, layers.device, isResident: true)
        self.targets = try BlockStates(targets, layers.device, isResident: true)
        tokensPerStep = windows.tokensPerEpoch / max(windows.steps.count, 1)
        var sum = try Tensor.zeros([], dtype: .float64, device: layers.device)
        for batch in windows.training {
            sum = try sum + StreamError.norms(self.targets[batch]).sum(dtype: .float64)
        }
        let norms = try group.sum([sum.item()])[0]
        norm = norms / Double(max(windows.tokensPerEpoch, 1))
    }

    func gradients(step: Int, _ accumulate: (_ gradients: [Tensor?]) throws -> Void) throws
        -> Tensor
    {
        let place = windows.place(ofStep: step)
        let scale = 1 / (norm * Double(windows.tokens[place]))
        var loss = try Tensor.zeros([], device: layers.device)
        for batch in windows.steps[place] {
            let input = try inputs[batch]
            let output = try withGradients { try layers.output(input) }
            let found = try withoutGradients { try StreamError(output, targets[batch]) }
            try accumulate(
                Tensor.gradients(
                    of: [output], along: [(found.gradient * scale).to(dtype: output.dtype)],
                    parameters.map(\.tensor)))
            loss = try loss + found.error * scale
        }
        return loss
    }

    func validate() throws -> Double {
        try layers.error(windows.heldOut, inputs: inputs, targets: targets, group)
    }
}

/// Neighbouring decoder layers of a model, loaded one by one.
struct BlockLayers {
    let models: [(index: Int, model: any LanguageModel)]
    let device: Device

    /// Layers `range` of `source`.
    init(
        _ source: any WeightSource, _ range: Range<Int>, device: Device, dtype: DType,
        adapter: (any WeightAdapter)? = nil, onTensor: () throws -> Void
    ) throws {
        models = try range.map {
            (
                $0,
                try source.loadPart(
                    .layer($0), device: device, dtype: dtype, adapter: adapter, onTensor: onTensor)
            )
        }
        self.device = device
    }

    /// The residual stream `[window, token, hidden]` after the layers.
    func output(_ input: Tensor) throws -> Tensor {
        try models.reduce(input) { x, layer in
            try ActivationChain.apply(layer.model, layer.index, to: x, [:], nil)
        }
    }

    /// ``StreamError`` over `batches` of all processes.
    func error(
        _ batches: Range<Int>, inputs: BlockStates, targets: BlockStates, _ group: ProcessGroup?
    ) throws -> Double {
        try withoutGradients {
            var error = try Tensor.zeros([], dtype: .float64, device: device)
            var norm = error
            for batch in batches {
                let found = try StreamError(output(inputs[batch]), targets[batch])
                error = try error + found.error.to(dtype: .float64)
                norm = try norm + found.norm.to(dtype: .float64)
            }
            let sums = try group.sum([error.item(), norm.item()])
            return sums[0] / sums[1]
        }
    }
}

/// The residual stream of all batches at one layer boundary, on the device where it has the room.
struct BlockStates {
    private let chain: ActivationChain
    private let device: Device
    private let resident: [Tensor]

    /// Keeps a copy on the device, if wanted and no more than an eighth of its free memory.
    init(_ chain: ActivationChain, _ device: Device, isResident: Bool) throws {
        self.chain = chain
        self.device = device
        var resident: [Tensor] = []
        if isResident, !chain.batches.isEmpty, let memory = try device.memory() {
            let state = try chain.states(0)
            let bytes = ActivationChain.byteCount(
                chain.batches, hidden: state.shape[2], dtype: state.dtype)
            if bytes <= memory.available / 8 {
                resident = try chain.batches.indices.map { try chain.states($0).to(device) }
            }
        }
        self.resident = resident
    }

    /// The residual stream of a batch, `[window, token, hidden]`, on the device.
    subscript(batch: Int) -> Tensor {
        get throws {
            if !resident.isEmpty { return resident[batch] }
            return try chain.states(batch).to(device)
        }
    }
}

extension ProcessGroup? {
    /// The sums of all processes' values; `values` themselves where there is one.
    func sum(_ values: [Double]) throws -> [Double] { try self?.sum(values) ?? values }
}
