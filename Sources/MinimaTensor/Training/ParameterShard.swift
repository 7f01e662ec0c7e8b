import MinimaCore

/// The parameters of an optimiser, those among them that this process updates, and what it keeps for
/// that: their masters, everybody's gradients and the number of steps.
final class ParameterShard {
    let parameters: [AdamW.Parameter]
    let group: ProcessGroup?
    /// Numbers of the parameters that this process updates.
    let owned: [Int]
    /// One per owned parameter, contiguous: itself, or a copy in float32.
    let masters: [Tensor]
    let gradients: GradientSum
    /// Steps so far; a float32 scalar on the device.
    let steps: Tensor

    /// Owned parameters that are not their own masters, as places in `owned`.
    private let copied: [Int]
    /// How owners give the others their parameters.
    private let messages: [(owner: Int, bucket: TensorBucket)]

    init(_ parameters: [AdamW.Parameter], group: ProcessGroup?) throws(TensorError) {
        let tensors = parameters.map(\.tensor)
        guard let device = tensors.first?.device else {
            throw .invalidArgument(function: "optimiser", reason: "there is no parameter")
        }
        var names: Set<String> = []
        for parameter in parameters {
            guard parameter.tensor.dtype.isFloatingPoint, parameter.tensor.device == device else {
                throw .invalidArgument(
                    function: "optimiser",
                    reason: """
                        \(parameter.name) is \(parameter.tensor.summary); parameters must be \
                        floating-point numbers on one device, here \(device)
                        """)
            }
            guard names.insert(parameter.name).inserted else {
                throw .invalidArgument(
                    function: "optimiser", reason: "two parameters are named \(parameter.name)")
            }
        }
        self.parameters = parameters
        self.group = group
        let shards = Self.partition(tensors.map(\.count), into: group?.size ?? 1)
        owned = shards[group?.rank ?? 0]
        var masters: [Tensor] = []
        var copied: [Int] = []
        for (place, index) in owned.enumerated() {
            let (leaf, dtype) = (tensors[index], GradientSum.dtype(for: tensors[index]))
            if leaf.dtype == dtype, leaf.isContiguous {
                masters.append(try leaf.detach())
            } else {
                let master = try Tensor.zeros(leaf.shape, dtype: dtype, device: device)
                try withoutGradients { () throws(TensorError) in try master.copy(from: leaf) }
                masters.append(master)
                copied.append(place)
            }
        }
        (self.masters, self.copied) = (masters, copied)
        messages =
            group == nil
            ? []
            : shards.enumerated().flatMap { owner, members in
                TensorBucket.plan(members, of: tensors).map { (owner, $0) }
            }
        gradients = try GradientSum(tensors)
        steps = try .zeros([], device: device)
    }

    /// Shares out items so that the sums of their sizes are about equal: the largest first, each to
    /// the part that is smallest so far.
    ///
    /// - Returns: Per part, its items in ascending order; the same for the same sizes everywhere.
    /// - Note: Graham 1969, section 4: no part exceeds the best largest one by more than a third.
    static func partition(_ sizes: [Int], into count: Int) -> [[Int]] {
        var parts = [[Int]](repeating: [], count: count)
        var totals = [Int](repeating: 0, count: count)
        let order = sizes.indices.sorted { (-sizes[$0], $0) < (-sizes[$1], $1) }
        for item in order {
            guard let part = parts.indices.min(by: { (totals[$0], $0) < (totals[$1], $1) })
            else { break }
            parts[part].append(item)
            totals[part] += sizes[item]
        }
        return parts.map { $0.sorted() }
    }

    /// The owned parameter at `place`.
    func parameter(at place: Int) -> AdamW.Parameter { parameters[owned[place]] }

    /// The gradient of the owned parameter at `place`.
    func gradient(at place: Int) -> Tensor { gradients.sums[owned[place]] }

    /// Tensors of zeros like the masters at `places`.
    func zeros(_ places: [Int]) throws(TensorError) -> [Tensor] {
        var zeros: [Tensor] = []
        for master in places.map({ masters[$0] }) {
            zeros.append(try .zeros(master.shape, dtype: master.dtype, device: master.device))
        }
        return zeros
    }

    /// Positions in `places` by what one call can update: masters of one type, one scale of the
    /// learning rate, one weight decay, and the same `key`.
    func batches(_ places: [Int], key: (Tensor) -> [Int]) -> [[Int]] {
        struct Kind: Hashable {
            var dtype: DType
            var learningRateScale: Double
            var weightDecay: Double
            var key: [Int]
        }
        let kinds = places.map { place in
            let (parameter, master) = (parameter(at: place), masters[place])
            return Kind(
                dtype: master.dtype, learningRateScale: parameter.learningRateScale,
                weightDecay: parameter.weightDecay, key: key(master))
        }
        return Dictionary(grouping: places.indices) { kinds[$0] }.values
            .sorted { $0[0] < $1[0] }
    }

    /// Reduces the gradients and moves all parameters by `rules`.
    ///
    /// - Returns: The gradients' norm before clipping.
    func step(_ rules: [any UpdateRule], learningRate: Double, maximumNorm: Double?)
        throws(TensorError) -> Tensor
    {
        try withoutGradients { () throws(TensorError) in
            let clipping = try gradients.reduce(group, maximumNorm: maximumNorm)
            try steps.addInPlace(clipping.skips * -1 + 1)
            for rule in rules { try rule.update(self, clipping, learningRate: learningRate) }
            try publish()
            return clipping.norm
        }
    }

    /// Brings all processes' parameters to the values of their owners' masters.
    private func publish() throws(TensorError) {
        let leaves = parameters.map(\.tensor)
        try copied.map { leaves[owned[$0]] }.copy(from: copied.map { masters[$0] })
        guard let group else { return }
        for (owner, bucket) in messages {
            let (buffer, views) = try bucket.allocate()
            let members = bucket.members.map { leaves[$0] }
            if owner == group.rank { try views.copy(from: members) }
            try group.broadcast([buffer], from: owner)
            if owner != group.rank { try members.copy(from: views) }
        }
    }

    /// The number of steps, masters, and what `rules` remember, by name.
    func state(_ rules: [any UpdateRule]) -> [(name: String, tensor: Tensor)] {
        var state = [(name: "step", tensor: steps)]
        let masters = (name: "master", places: Array(owned.indices), tensors: masters)
        for (name, places, tensors) in [masters] + rules.flatMap(\.moments) {
            for (place, tensor) in zip(places, tensors) {
                state.append(("\(parameter(at: place).name).\(name)", tensor))
            }
        }
        return state
    }

    /// Overwrites `own` with the tensors of `state` of the same names, and brings the parameters to
    /// the values of the masters.
    func restore(_ own: [(name: String, tensor: Tensor)], from state: [String: Tensor])
        throws(TensorError)
    {
        var sources: [Tensor] = []
        for (name, tensor) in own {
            guard let source = state[name], source.shape == tensor.shape,
                source.dtype == tensor.dtype
            else {
                throw .invalidArgument(
                    function: "restore",
                    reason: """
                        \(name) must be \(tensor.dtype) \(tensor.shape), the state has \
                        \(state[name]?.summary ?? "no such tensor"); is it that of another training?
                        """)
            }
            sources.append(source)
        }
        try withoutGradients { () throws(TensorError) in
            try own.map(\.tensor).copy(from: sources)
            try publish()
        }
        gradients.clear()
    }
}
