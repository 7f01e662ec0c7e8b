import MinimaKernels
import MinimaTensor

/// Proposes the tokens that steps verify, by kernels at the beginning of the step's graph.
///
/// Proposals lie in ``SamplingState/drafts``, negative ones where there is none, and those of trees are
/// told apart by ``SamplingState/parents``. What they are changes
/// how many tokens a step makes, never which. Steps are made on several threads at a time.
protocol CUDADrafter: Sendable {
    /// What it needs of sequences that begin with another's pages.
    var prefixes: PrefixReuse { get }

    /// Places before a step of `bucket` that a round reads again, so that it may have been left out for as
    /// many tokens; 0: nothing is kept of tokens that have been decoded.
    func rereads(_ bucket: Int, _ layout: CUDALayout) -> Int

    /// Launches that propose `count` tokens for each row of `step`, or only follow what was decoded, for
    /// 0. The first does not overlap the kernel ahead of it.
    func proposals(_ count: Int, for step: StepBuffers, of decoder: CUDADecoder) throws
        -> [StepKernel]

    /// Launches that take what it needs of the residual stream entering a layer of `step`.
    func observations(entering layer: Int, of step: StepBuffers, in decoder: CUDADecoder) throws
        -> [StepKernel]

    /// Launches behind a step's choices that move what ``observations(entering:of:in:)`` has kept of trees
    /// to where the tokens stand.
    func settlements(of step: StepBuffers, in decoder: CUDADecoder) throws -> [StepKernel]

    /// Queues the same for a chunk of a prompt, `[tokens, hidden]`.
    func observe(_ residual: Tensor, entering layer: Int) throws

    /// Queues reading the chunk that it has observed.
    func read(_ chunk: DecoderLayers.Chunk, in decoder: CUDADecoder) throws
}

extension CUDADrafter {
    var prefixes: PrefixReuse { PrefixReuse() }
    func rereads(_ bucket: Int, _ layout: CUDALayout) -> Int { 0 }
    func observations(entering layer: Int, of step: StepBuffers, in decoder: CUDADecoder)
        -> [StepKernel]
    { [] }
    func settlements(of step: StepBuffers, in decoder: CUDADecoder) -> [StepKernel] { [] }
    func observe(_ residual: Tensor, entering layer: Int) {}
    func read(_ chunk: DecoderLayers.Chunk, in decoder: CUDADecoder) {}
}

/// Proposes what followed the last tokens when they stood in the sequence before.
struct CUDANgramDrafter: CUDADrafter {
    private let kernel: NgramKernel

    /// - Parameter suffix: Tokens of the suffix that is looked for at first.
    init(suffix: Int = 3, kernels: CUDAContext) throws(KernelError) {
        kernel = try NgramKernel(suffix: suffix, context: kernels)
    }

    func proposals(_ count: Int, for step: StepBuffers, of decoder: CUDADecoder) -> [StepKernel] {
        guard count > 0 else { return [] }
        return [
            StepKernel(name: "draft ngram") { [kernel, state = decoder.state] stream in
                try kernel.launch(slots: step.rows, state: state, count: count, on: stream)
            }
        ]
    }
}
