import MinimaCore
import MinimaFormats
import MinimaTensor

extension Survey {
    /// Formats of several ranks.
    ///
    /// With whole output modes they hold any matrix of a rank, and the spectrum says what each rank
    /// costs. Beyond that, of pieces that are not patches: the best truncated modes by an upper bound
    /// that costs no decomposition, and of small ones a train over two balanced pairs, whose estimate
    /// takes one sweep. A ring is listed as a train only.
    func tensors(_ piece: Piece) throws -> [SiteAnalysis.Option] {
        let formats = tensorFormats
        guard !formats.isEmpty else { return [] }
        var found = try formats.flatMap { format in
            try interpolativeRanks(piece).compactMap { rank in
                try format.wholeModes(
                    outputs: piece.outputs, inputs: piece.inputs, rank: rank
                ).map { try option($0, of: piece, error: 0.5 * piece.spectrum.tail(rank)) }
            }
        }
        guard let svd = piece.svd, piece.share == 1 else { return found }
        let spectra = try TensorSpectra(piece.weight, metric: piece.metric, svd: svd)
        func add(_ format: any TensorFormat.Type, _ fractions: [Double], _ modes: [TensorModes])
            throws
        {
            found += try format.candidates(spectra, fractions: fractions, modes: modes).map {
                try option($0.spec, of: piece, error: 0.5 * $0.squaredError)
            }
        }
        let isSmall = piece.outputs <= min(piece.inputs, options.largestSplit)
        for format in formats where format.name != TensorRing.name {
            let choices = format.modeChoices(
                outputs: piece.outputs, inputs: piece.inputs, unit: piece.unit)
            // Modes with the whole input last.
            let whole = choices.filter { $0.inputModes.last == piece.inputs }
            try add(format, options.fractions, Array(whole.prefix(options.modes)))
            let split = choices.filter { ![1, piece.inputs].contains($0.inputModes.last) }
            if isSmall { try add(format, options.splitFractions, Array(split.prefix(1))) }
        }
        return found
    }

    /// The tensor formats that are considered; sums of outer products only where they are named.
    private var tensorFormats: [any TensorFormat.Type] {
        FormatRegistry.all.compactMap { $0 as? any TensorFormat.Type }.filter {
            options.considers($0.name)
                && (![CP.name, BlockTerm.name].contains($0.name)
                    || options.formats.contains($0.name))
        }
    }
}
