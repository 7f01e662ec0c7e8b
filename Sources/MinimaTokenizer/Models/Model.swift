/// Turns pieces of text into tokens.
protocol Model: Component {
    /// The model's own tokens, without the added ones.
    var vocabulary: Vocabulary { get }

    /// Whether every byte has a token, so that pieces may be raw bytes instead of their spelling in
    /// `ByteLevelAlphabet`.
    var coversAllBytes: Bool { get }

    /// Appends the tokens of every piece.
    ///
    /// - Parameter areRawBytes: Whether `pieces` come from `PreTokenizer.leavingRawBytes()`; asks
    ///   for `coversAllBytes`.
    func encode(
        _ pieces: consuming Pieces, areRawBytes: Bool, scratch: EncoderScratch,
        into ids: inout [Int32]
    ) throws(TokenizerError)
}
