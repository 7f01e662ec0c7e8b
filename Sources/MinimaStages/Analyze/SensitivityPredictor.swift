import Glibc
import MinimaCore
import MinimaTensor

private let smoothL1 = Operator("aten::smooth_l1_loss")

/// Predicts the logarithm of an option's damage: the closed form and a correction by an ensemble of
/// networks, whose spread is the uncertainty.
public struct SensitivityPredictor: Sendable {
    /// The ensemble.
    let members: [SensitivityNetwork]

    /// Parts of the patches that networks leave out in turn.
    static let folds = 5
    /// Networks that leave out the same part; they differ in their seeds.
    static let networksPerFold = 2

    /// A model whose options' true damage was measured.
    struct Lesson {
        let map: PatchMap
        let batch: CandidateBatch
        /// Logarithms of the measured damage.
        let targets: [Double]
        /// Which fold each candidate belongs to; all candidates of a patch belong to one.
        let folds: [Int]

        init(_ sites: [SiteAnalysis], _ probes: [Probe], seed: UInt64) throws {
            let map = try PatchMap(sites)
            let candidates = try probes.map { try Candidate($0, sites, map) }
            self.map = map
            batch = try CandidateBatch(candidates, patches: map.spectra.shape[0])
            targets = probes.map { log(max($0.divergence, Candidate.smallest)) }
            var random = SplitMix(seed)
            let patches = Set(candidates.map { $0.patches[0].index }).sorted()
            let order = patches.shuffled(using: &random)
            let folds = Dictionary(
                order.enumerated().map { ($1, $0 % SensitivityPredictor.folds) },
                uniquingKeysWith: { first, _ in first })
            self.folds = candidates.map { folds[$0.patches[0].index] ?? 0 }
        }
    }

    /// How networks are trained.
    struct Training: Sendable {
        var epochs = 300
        var learningRate = 4e-3
        var weightDecay = 0.1
        /// Epochs between looks at the patches held out for stopping.
        var interval = 10
        /// Looks without improvement after which training ends.
        var patience = 8
    }

    /// An ensemble from measured damage, and what each of its networks says of the patches that it has
    /// never seen, in the order of `models` and their probes.
    ///
    /// Networks of fold k are tested on fold k, stopped by fold k + 1, and trained on the other three.
    ///
    /// - Parameter progress: Called after each network; throws to cancel.
    static func train(
        _ lessons: [Lesson], seed: UInt64, training: Training = Training(),
        progress: ProgressHandler = { _ in }
    ) throws -> (predictor: SensitivityPredictor, heldOut: [[Double]]) {
        var members: [SensitivityNetwork] = []
        var heldOut = lessons.map(\.batch.logErrors)
        for index in 0..<folds * networksPerFold {
            let fold = index % folds
            let stopping = (fold + 1) % folds
            let network = try fit(
                lessons, seed: seed &+ UInt64(index), training,
                learn: { $0 != fold && $0 != stopping }, stop: { $0 == stopping })
            members.append(network)
            for (number, lesson) in lessons.enumerated() {
                let said = try withoutGradients { try corrections(network, lesson) }
                for place in said.indices where lesson.folds[place] == fold {
                    heldOut[number][place] += said[place] / Double(networksPerFold)
                }
            }
            try progress(
                StageProgress(
                    stage: "train", done: index + 1, total: folds * networksPerFold,
                    unit: "networks"))
        }
        return (SensitivityPredictor(members: members), heldOut)
    }

    private static func corrections(_ network: SensitivityNetwork, _ lesson: Lesson) throws
        -> [Double]
    {
        try network.corrections(
            network.features(lesson.map), shares: lesson.batch.shares,
            descriptors: lesson.batch.descriptors
        ).values()
    }

    /// Weights of candidates by whether they count, and their residuals.
    private struct Targets {
        let residuals: Tensor
        let learned: Tensor
        let stopped: Tensor

        init(_ lesson: Lesson, learn: (Int) -> Bool, stop: (Int) -> Bool, total: (Double, Double))
            throws(TensorError)
        {
            residuals = try Tensor(
                zip(lesson.targets, lesson.batch.logErrors).map { Float($0 - $1) })
            learned = try Tensor(lesson.folds.map { learn($0) ? Float(1 / total.0) : 0 })
            stopped = try Tensor(lesson.folds.map { stop($0) ? Float(1 / total.1) : 0 })
        }
    }

    private static func fit(
        _ lessons: [Lesson], seed: UInt64, _ training: Training, learn: (Int) -> Bool,
        stop: (Int) -> Bool
    ) throws -> SensitivityNetwork {
        let network = try SensitivityNetwork(seed: seed)
        for parameter in network.parameters { try parameter.setRequiresGrad() }
        let optimiser = try AdamW(
            network.parameters.enumerated().map { number, parameter in
                AdamW.Parameter(
                    name: "\(number)", tensor: parameter, weightDecay: training.weightDecay)
            })
        let all = lessons.flatMap(\.folds)
        let total = (
            Double(max(all.count(where: learn), 1)), Double(max(all.count(where: stop), 1))
        )
        let targets = try lessons.map { lesson throws(TensorError) in
            try Targets(lesson, learn: learn, stop: stop, total: total)
        }
        var best = try network.copy()
        var (lowest, looks) = (Double.infinity, 0)
        for epoch in 0...training.epochs {
            var loss = try Tensor.zeros([])
            var held = 0.0
            for (lesson, target) in zip(lessons, targets) {
                let said = try network.corrections(
                    network.features(lesson.map), shares: lesson.batch.shares,
                    descriptors: lesson.batch.descriptors)
                // Squared up to a factor of e, then linear: a few wild probes do not decide.
                let errors = try smoothL1(
                    .tensor(said), .tensor(target.residuals), .int(0), .double(1))
                loss = try loss + (errors * target.learned).sum()
                held += try (errors.detach() * target.stopped).sum().item()
            }
            if epoch % training.interval == 0 {
                looks += 1
                if held < lowest {
                    (lowest, looks) = (held, 0)
                    best = try network.copy()
                } else if looks >= training.patience {
                    break
                }
            }
            let done = Double(epoch) / Double(training.epochs)
            try optimiser.accumulate(loss.gradients(network.parameters))
            try optimiser.step(
                learningRate: training.learningRate * (0.5 * (1 + cos(.pi * done)) + 0.02))
        }
        return best
    }

    /// Mean and standard deviation over the ensemble of the log damage of `candidates` of one model.
    func predict(_ candidates: [Candidate], _ map: PatchMap) throws -> [(
        mean: Double, deviation: Double
    )] {
        try withoutGradients {
            let features = try members.map { try $0.features(map) }
            let patches = map.spectra.shape[0]
            // 16 MiB of shares at one time.
            let step = max((1 << 22) / max(patches, 1), 1)
            var results: [(mean: Double, deviation: Double)] = []
            for start in stride(from: 0, to: candidates.count, by: step) {
                let part = Array(candidates[start..<min(start + step, candidates.count)])
                let batch = try CandidateBatch(part, patches: patches)
                let said: [[Double]] = try zip(members, features).map { network, features in
                    try network.corrections(
                        features, shares: batch.shares, descriptors: batch.descriptors
                    ).values()
                }
                for index in part.indices {
                    let values = said.map { $0[index] }
                    let mean = values.reduce(0, +) / Double(values.count)
                    let squares = values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) }
                    let deviation = (squares / Double(max(values.count - 1, 1))).squareRoot()
                    results.append((batch.logErrors[index] + mean, deviation))
                }
            }
            return results
        }
    }
}

extension Candidate {
    /// The candidate that a probe measured.
    init(_ probe: Probe, _ sites: [SiteAnalysis], _ map: PatchMap) throws {
        guard let first = map.first[probe.site],
            let site = sites.first(where: { $0.name == probe.site }),
            site.patches.indices.contains(probe.patch)
        else { throw PredictorError.unknownPatch(site: probe.site, patch: probe.patch) }
        let patch = site.patches[probe.patch]
        self.init(
            patches: [(first + probe.patch, 1)], spec: probe.spec,
            retained: try probe.spec.retained(outputs: patch.rows, inputs: patch.columns),
            error: probe.error, trace: patch.statistics["trace"] ?? 0)
    }
}
