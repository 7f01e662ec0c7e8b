/// Why a draft cannot be used.
public enum DraftError: Error, Hashable, CustomStringConvertible {
    case otherTarget(path: String, what: String, draft: Int, target: Int)
    case layerOutOfRange(path: String, layer: Int, layers: Int)
    case badToken(path: String, draftId: Int, targetId: Int64, vocabulary: Int)
    case tokenTwice(path: String, targetId: Int64)
    case vocabulariesDisagree(path: String, targetId: Int)
    case badVocabulary(found: String)
    case noTensor(name: String)

    /// What was asked, what was found, what to do.
    public var description: String {
        switch self {
        case .otherTarget(let path, let what, let draft, let target):
            """
            \(path): the draft is for a model with \(what) \(draft), this one has \(target); give \
            the draft that was trained for this model
            """
        case .layerOutOfRange(let path, let layer, let layers):
            """
            \(path): the draft reads what enters layer \(layer), the model's layers are 0 to \
            \(layers - 1); give the draft that was trained for this model
            """
        case .badToken(let path, let draftId, let targetId, let vocabulary):
            """
            \(path): d2t makes the draft's token \(draftId) the model's token \(targetId), which is \
            outside its vocabulary of \(vocabulary); download the draft again
            """
        case .tokenTwice(let path, let targetId):
            """
            \(path): d2t names the model's token \(targetId) twice; download the draft again
            """
        case .vocabulariesDisagree(let path, let targetId):
            """
            \(path): d2t and t2d disagree about the model's token \(targetId); download the draft \
            again
            """
        case .badVocabulary(let found):
            "the draft's vocabulary must be different token ids of the model; found \(found)"
        case .noTensor(let name):
            "the draft has no tensor \(name); take it from a complete draft"
        }
    }

    /// Throws unless a draft's sizes are those of a target.
    ///
    /// - Parameters:
    ///   - path: The draft's directory.
    ///   - hidden: Width of the target's residual stream.
    ///   - vocabulary: Tokens that the target knows.
    ///   - layers: The target's decoder layers.
    public static func check(
        _ config: EagleConfiguration, path: String, hidden: Int, vocabulary: Int, layers: Int
    ) throws(DraftError) {
        for (what, own, other) in [
            ("a hidden size of", config.targetHidden, hidden),
            ("a vocabulary of", config.vocabulary, vocabulary),
        ] where own != other {
            throw .otherTarget(path: path, what: what, draft: own, target: other)
        }
        for layer in config.featureLayers ?? [] where layer >= layers {
            throw .layerOutOfRange(path: path, layer: layer, layers: layers)
        }
    }

    /// Throws unless the ids are different ones of the vocabulary, and `membership`, where there is
    /// one, says so, too.
    static func check(_ ids: [Int64], membership: [UInt8]?, vocabulary: Int, path: String) throws {
        var isKnown = [UInt8](repeating: 0, count: vocabulary)
        for (draftId, id) in ids.enumerated() {
            guard id >= 0, id < vocabulary else {
                throw DraftError.badToken(
                    path: path, draftId: draftId, targetId: id, vocabulary: vocabulary)
            }
            guard isKnown[Int(id)] == 0 else {
                throw DraftError.tokenTwice(path: path, targetId: id)
            }
            isKnown[Int(id)] = 1
        }
        guard let membership else { return }
        for (id, (own, other)) in zip(isKnown, membership).enumerated()
        where (own != 0) != (other != 0) {
            throw DraftError.vocabulariesDisagree(path: path, targetId: id)
        }
    }
}
