import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaRuntime

extension CUDABackendGPUTests {
    /// With the flag, not even the last bit of a log-probability depends on company: no allowance for
    /// ties, whatever the weights are stored as, also where attention's splits and codes' integers could
    /// follow the number of rows.
    @Test(arguments: ["dense", "interpolative int8", "dense int4"])
    func deterministicTokensAreTheSameInAnyCompany(_ way: String) throws {
        let source = try model(way)
        let kernels = kernels
        let count = underRacecheck(4, otherwise: 24)
        let requests = try (0..<8).map { index in
            try GenerationRequest(
                prompt: tokens(3 + 29 * index, seed: UInt64(index + 1)), maxTokens: count,
                sampling: SamplingParameters(
                    temperature: index % 2 == 0 ? 0 : 0.8, logprobs: 2, seed: UInt64(index)))
        }
        let engine = try Engine(EngineOptions(deterministic: true)) {
            try CUDABackend(
                source,
                layout: CUDALayout(slots: 8, context: 320, chunk: 48, isDeterministic: true),
                kernels: kernels)
        }
        defer { engine.shutDown(.drain) }
        let together = try requests.map(engine.submit).map { try $0.wait() }
        for (request, outcome) in zip(requests, together) {
            let alone = try engine.submit(request).wait()
            #expect(outcome.tokens.count == count)
            #expect(alone.tokens.map(\.token) == outcome.tokens.map(\.token), "\(way)")
        }
    }
}
