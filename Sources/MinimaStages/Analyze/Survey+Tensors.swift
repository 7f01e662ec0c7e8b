import MinimaCore
import MinimaFormats
import MinimaTensor

extension Survey {
    /// Formats of several ranks: for each of the shares of the dense size the best of the splits into
    /// modes, by an upper bound of the error that costs no decomposition.
    func tensors(_ piece: Piece) throws -> [SiteAnalysis.Option] {
        guard let svd = piece.svd else { return [] }
        let formats = FormatRegistry.all.compactMap { $0 as? any TensorFormat.Type }
            .filter { options.considers($0.name) }
        guard !formats.isEmpty else { return [] }
        let spectra = try TensorSpectra(piece.weight, metric: piece.metric, svd: svd)
        // Of the shares, as many as the piece's share of options, spread evenly.
        let count = max(Int(Double(options.fractions.count) * piece.share), 1)
        let fractions = (0..<min(count, options.fractions.count)).map {
            options.fractions[$0 * options.fractions.count / count]
        }
        return try formats.flatMap { format -> [SiteAnalysis.Option] in
            let modes = format.modeChoices(
                outputs: piece.outputs, inputs: piece.inputs, unit: piece.unit)
            let tried = piece.share < 1 ? Array(modes.prefix(2)) : modes
            return try format.candidates(spectra, fractions: fractions, modes: tried).map {
                try option($0.spec, of: piece, error: 0.5 * $0.squaredError)
            }
        }
    }
}
