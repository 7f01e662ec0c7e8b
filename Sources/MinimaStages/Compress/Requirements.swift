import MinimaCheckpoint
import MinimaCore
import MinimaModels
import MinimaTensor

/// What a compression takes at its peak, foreseen from shapes alone.
public struct CompressionRequirements: Sendable, Hashable, CustomStringConvertible {
    /// Bytes on the device: one decoder layer, the moments of its inputs, the largest fit and one
    /// pass's activations.
    public var deviceBytes: Int
    /// Bytes of the machine's memory: activations of both models at two layer boundaries, and one
    /// layer's results.
    public var hostBytes: Int
    /// Bytes on the output's disk: the output and what a killed run resumes from.
    public var diskBytes: Int

    /// One line.
    public var description: String {
        "\(deviceBytes >> 20) MiB on the device, \(hostBytes >> 20) MiB of memory, "
            + "\(diskBytes >> 20) MiB of disk at most"
    }

    init(_ planned: PlannedModel, _ request: Compressor.Request, dtype: DType) throws {
        let stored = planned.stored
        let hidden = try stored.source.config.int("hidden_size")
        let widest = stored.sites.map { max($0.inputs, $0.outputs) }.max() ?? 0
        let windows = request.sources.flatMap(\.windows)
        let tokens = Saturating.sum(windows.map(\.count))
        let longest = windows.map(\.count).max() ?? 0
        let pass = max(min(request.tokensPerPass, tokens), longest)
        let layer =
            stored.parts.map { StoredModel.size($0).parameters }.max().map {
                Saturating.product([$0, dtype.byteCount])
            } ?? 0
        // Beside the residual stream of both models, a pass holds a site's input and output, in
        // float32 once, and both models' inputs.
        let activations = Saturating.product([
            pass, Saturating.sum([hidden, hidden, widest, widest]), 8,
        ])
        let sites = planned.layers.joined()
        let fits =
            sites.map { Self.fitBytes($0, request.compensation) }
            + (planned.head.map { [Self.headBytes($0)] } ?? [])
        let moments: [Int]
        if request.compensation == .off {
            moments = planned.layers.map {
                Saturating.sum($0.map { Self.square($0.site.inputs, 8) })
            }
        } else {
            // C, Ĉ and E in float64 and a product in float32; F likewise where the output is added
            // to the residual stream. Where windows are held out, they have their own, and so have
            // all windows together.
            let copies = request.compensation == .automatic ? 3 : 1
            moments = sites.map { planned in
                let site = planned.site
                let residual = site.addsToResidual ? site.parameters : 0
                return Saturating.sum([
                    Self.square(site.inputs, 24 * copies + 4),
                    Saturating.product([residual, 8 * copies + 4]),
                ])
            }
        }
        deviceBytes = Saturating.sum([
            layer, moments.max() ?? 0, max(fits.max() ?? 0, activations),
        ])
        let chain = Saturating.product([tokens, hidden, dtype.byteCount])
        let chains = request.compensation == .off ? 2 : 4
        let parts = planned.parts.map { StoredModel.size($0).bytes }
        hostBytes = Saturating.sum([Saturating.product([chain, chains]), parts.max() ?? 0])
        let output = Saturating.sum(parts)
        let copies = output > request.largestFile ? 1 : 2
        diskBytes = Saturating.sum([
            Saturating.product([output, copies]), Saturating.product([chain, chains]), 16 << 20,
        ])
    }

    private static func square(_ size: Int, _ bytes: Int) -> Int {
        Saturating.product([size, size, bytes])
    }

    /// The output projection, its codes and what reads it, and for some of its rows what
    /// ``fitBytes(_:_:)`` counts; the moment, its factor and the factor's inverse.
    private static func headBytes(_ planned: PlannedSite) -> Int {
        let (outputs, inputs) = (planned.site.outputs, planned.site.inputs)
        return Saturating.sum([
            Saturating.product([outputs, inputs, 8]),
            Saturating.product([min(outputs, LayerCompressor.headRows), inputs, 12 * 8]),
            square(inputs, 6 * 8),
        ])
    }

    /// The weight, its target, the difference, products with the moments and the format's own
    /// copies, and an eigenproblem of the smaller side; the factored moment beside them when there
    /// is a target to solve for.
    private static func fitBytes(_ planned: PlannedSite, _ compensation: Compensation) -> Int {
        let (outputs, inputs) = (planned.site.outputs, planned.site.inputs)
        let factor = compensation == .off ? 0 : square(inputs, 16)
        return Saturating.sum([
            Saturating.product([outputs, inputs, 8 * 8]), square(min(outputs, inputs), 4 * 8),
            factor,
        ])
    }

    /// Throws `StageError.notEnoughMemory` or `CheckpointError.noSpace` where something is short.
    ///
    /// - Parameter work: The directory of a run that was killed; what it holds is there already.
    func check(on device: Device, disk: String, work: String) throws {
        try device.checkMemory(
            stage: "compression", content: "a layer, its moments and the largest fit",
            deviceBytes: deviceBytes, hostBytes: hostBytes)
        let needed = diskBytes - min(WorkDirectory.byteCount(work), diskBytes)
        guard let free = WorkDirectory.freeBytes(disk), needed > free else { return }
        throw CheckpointError.noSpace(path: disk, neededBytes: needed, freeBytes: free)
    }
}
