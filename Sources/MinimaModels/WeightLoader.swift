import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaTensor

/// Hands a model its tensors while it is built; building is loading, checked shape by shape.
///
/// Missing and misshapen tensors are noted and replaced by zeros without storage, so that
/// ``finish()`` names all of them at once.
public struct WeightLoader {
    private let source: any WeightSource
    private let manifest: CompressionManifest
    private let device: Device
    private let dtype: DType
    private let adapter: (any WeightAdapter)?
    /// Called before a tensor is read; `nil` where none is read.
    private let onTensor: (() throws -> Void)?
    /// Whether the tensor of a name is read; those that are not are zeros without storage.
    private let isWanted: (String) -> Bool
    private var claims: TensorClaims?
    /// Tensors that the model asked for, in its order.
    private(set) var requests: [TensorRequest] = []
    private var unused: Set<String>

    /// A loader of `source`'s tensors as `dtype` on `device`.
    ///
    /// - Parameters:
    ///   - adapter: Puts others in place of the tensors that are read.
    ///   - isWanted: Whether the tensor of a name is read; the others are zeros without storage.
    ///   - onTensor: Called before each tensor is read; throws to stop.
    public init(
        _ source: any WeightSource, device: Device, dtype: DType,
        adapter: (any WeightAdapter)? = nil,
        where isWanted: @escaping (String) -> Bool = { _ in true },
        onTensor: @escaping () throws -> Void = {}
    ) throws(CheckpointError) {
        try self.init(source, device, dtype, adapter, isWanted, onTensor)
    }

    /// A loader that only checks: every tensor is zeros without storage.
    init(checking source: any WeightSource) throws(CheckpointError) {
        try self.init(source, .cpu, .float32, nil, { _ in false }, nil)
    }

    private init(
        _ source: any WeightSource, _ device: Device, _ dtype: DType,
        _ adapter: (any WeightAdapter)?, _ isWanted: @escaping (String) -> Bool,
        _ onTensor: (() throws -> Void)?
    ) throws(CheckpointError) {
        self.source = source
        self.adapter = adapter
        self.device = device
        self.dtype = dtype
        self.isWanted = isWanted
        self.onTensor = onTensor
        manifest = try CompressionManifest(source.config)
        claims = source.claims()
        unused = Set(manifest.modules.keys)
    }

    /// The tensor called `name`, of exactly `shape`, in the model's type.
    public mutating func tensor(_ name: String, shape: [Int]) throws -> Tensor {
        let tensor = try read(name, shape: shape)
        guard isRead(name), let adapter else { return tensor }
        return try adapter.adapt(tensor, name: name)
    }

    /// The tensor called `name`, of exactly `shape`, which is stored as `dtype` and stays that; no
    /// adapter sees it.
    public mutating func stored(_ name: String, shape: [Int], dtype: DType) throws -> Tensor {
        try read(name, shape: shape, storedAs: dtype)
    }

    /// Whether the tensor called `name` is more than a placeholder.
    private func isRead(_ name: String) -> Bool { onTensor != nil && isWanted(name) }

    /// - Parameter stored: The type that it must be stored in and keeps; `nil` for values that are
    ///   converted to the model's type.
    private mutating func read(_ name: String, shape: [Int], storedAs stored: DType? = nil) throws
        -> Tensor
    {
        requests.append(TensorRequest(name: name, shape: shape, dtype: stored))
        let isThere = claims == nil || claims?.claim(name, shape: shape, dtype: stored) != nil
        guard isThere, let onTensor, isWanted(name) else {
            return try Tensor.zeros([1], dtype: stored ?? dtype).expand(shape.isEmpty ? [1] : shape)
        }
        try onTensor()
        return try source.tensor(name, shape: shape, on: device).to(dtype: stored ?? dtype)
    }

    /// The output projection, of `[vocabulary, hidden]` as `embedding`: in the format that the manifest
    /// names, else dense, or `embedding` itself where the configuration ties them.
    ///
    /// A checkpoint that stores other values under `lm_head.weight` is not tied, whatever its
    /// configuration says; transformers 5 decides so, too. Adapters see dense ones only: others stay
    /// as they are stored.
    public mutating func head(tied: Bool, embedding: Tensor) throws -> Linear {
        let name = LinearShape.headName
        let spec = manifest.modules[name] ?? FormatSpec(format: Dense.name)
        let weight: any LinearWeight
        if spec.format == Dense.name, spec.parts.isEmpty {
            let isNamed = unused.remove(name) != nil
            weight = Dense(try denseHead(tied: tied && !isNamed, embedding: embedding))
        } else {
            weight = try self.weight(
                name, spec, outputs: embedding.shape[0], inputs: embedding.shape[1],
                isAdapted: false)
        }
        return Linear(name: name, weight: weight, biases: [])
    }

    private mutating func denseHead(tied: Bool, embedding: Tensor) throws -> Tensor {
        let name = "\(LinearShape.headName).weight"
        guard tied else { return try tensor(name, shape: embedding.shape) }
        guard source.holds(name) else { return embedding }
        let head = try read(name, shape: embedding.shape)
        let isSame = try !isRead(name) || head.isIdentical(to: embedding)
        if isSame { return embedding }
        return try adapter?.adapt(head, name: name) ?? head
    }

    /// The linear layers of `site` in whatever formats the checkpoint stores them: stacked as one
    /// weight where the manifest names the site, one by one otherwise.
    public mutating func group(_ site: Site, bias: Bool) throws -> LinearGroup {
        let sizes = site.members.map(\.outputs)
        let names = site.members.map(\.name)
        guard site.members.count > 1, let spec = manifest.modules[site.name] else {
            var layers: [Linear] = []
            for member in site.members {
                layers.append(try linear(member.name, member.outputs, site.inputs, bias: bias))
            }
            return LinearGroup(name: site.name, members: names, layers: layers, sizes: sizes)
        }
        let weight = try weight(
            site.name, spec, outputs: site.outputs, inputs: site.inputs)
        var biases: [Tensor] = []
        for member in site.members where bias {
            biases.append(try tensor("\(member.name).bias", shape: [member.outputs]))
        }
        // Joined here, leaves that train would not move, and placeholders would get storage.
        let isJoined = !biases.isEmpty && onTensor != nil && !biases.contains(where: \.requiresGrad)
        let stacked = Linear(
            name: site.name, weight: weight, biases: isJoined ? [try .cat(biases)] : biases)
        return LinearGroup(name: site.name, members: names, layers: [stacked], sizes: sizes)
    }

    /// The only linear layer of `site`.
    public mutating func linear(_ site: Site, bias: Bool) throws -> Linear {
        try linear(site.name, site.outputs, site.inputs, bias: bias)
    }

    private mutating func linear(_ name: String, _ outputs: Int, _ inputs: Int, bias: Bool) throws
        -> Linear
    {
        let spec = manifest.modules[name] ?? FormatSpec(format: Dense.name)
        return Linear(
            name: name, weight: try weight(name, spec, outputs: outputs, inputs: inputs),
            biases: bias ? [try tensor("\(name).bias", shape: [outputs])] : [])
    }

    /// The weight of the module called `name`, stored as `spec` says.
    private mutating func weight(
        _ name: String, _ spec: FormatSpec, outputs: Int, inputs: Int, isAdapted: Bool = true
    ) throws -> any LinearWeight {
        unused.remove(name)
        let format: any LinearWeight.Type
        let layout: [TensorLayout]
        do {
            format = try FormatRegistry.format(spec.format)
            layout = try format.layout(spec, outputs: outputs, inputs: inputs)
        } catch {
            throw unusable(spec, of: name, error)
        }
        var tensors: [Tensor] = []
        for item in layout {
            tensors.append(
                try read("\(name).\(item.name)", shape: item.shape, storedAs: item.dtype))
        }
        // Formats check the indices that they read, and placeholders are none.
        guard layout.allSatisfy({ isRead("\(name).\($0.name)") }) else {
            return Dense(try Tensor.zeros([1, 1], dtype: dtype).expand([outputs, inputs]))
        }
        let weight = try format.init(spec: spec, outputs: outputs, inputs: inputs, tensors: tensors)
        guard isAdapted else { return weight }
        return try adapter?.adapt(weight, name: name) ?? weight
    }

    /// The error for a format that does not suit the module called `name`: the manifest's if that
    /// chose it, the configuration's sizes otherwise.
    private func unusable(_ spec: FormatSpec, of name: String, _ error: FormatError) -> any Error {
        guard manifest.modules[name] != nil else { return error }
        return CheckpointError.value(
            path: source.config.path, key: "quantization_config.modules.\(name)",
            found: spec.json.text(indent: nil), expected: "a usable format: \(error)")
    }

    /// Marks tensors as known and not needed.
    public mutating func ignore(where isNotNeeded: (String) -> Bool) {
        claims?.ignore(where: isNotNeeded)
    }

    /// Throws one error with the names of all tensors that are missing, misshapen or left over.
    public func finish() throws(CheckpointError) {
        try claims?.finish()
        guard unused.isEmpty else {
            throw .value(
                path: source.config.path, key: "quantization_config.modules",
                found: unused.sorted().prefix(3).joined(separator: ", "),
                expected: "names of the model's linear layers and \(LinearShape.headName) only")
        }
    }
}

/// Sees a model's tensors while it is loaded and may put others in their place: leaves that train,
/// weights with adapters beside them.
public protocol WeightAdapter: AnyObject {
    /// What stands in place of the tensor called `name`, which is no linear layer's weight: a norm, a
    /// bias, a router, an embedding, an output projection.
    func adapt(_ tensor: Tensor, name: String) throws -> Tensor
    /// What stands in place of the weight of the module called `name`.
    func adapt(_ weight: any LinearWeight, name: String) throws -> any LinearWeight
}

/// A tensor that a model asks for while it is built.
public struct TensorRequest: Sendable, Hashable {
    /// Its name in the checkpoint.
    public let name: String
    /// Its shape.
    public let shape: [Int]
    /// The type that it is always stored in; `nil` for the model's own.
    public let dtype: DType?
}
