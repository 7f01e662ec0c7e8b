/// Why a teacher's distributions on disk cannot be used.
enum TeacherCacheError: Error, Hashable, CustomStringConvertible {
    case foreign(path: String, what: String, found: String, needed: String)
    case incomplete(directory: String, files: Int, of: Int, reason: String)
    case damaged(path: String, reason: String)
    case badCount(Int, vocabulary: Int)

    /// What was asked, what was found, what to do.
    var description: String {
        switch self {
        case .foreign(let path, let what, let found, let needed):
            """
            \(path) holds a teacher's distributions for another healing: its \(what) is \(found), \
            this one's \(needed); remove it or name another directory
            """
        case .incomplete(let directory, let files, let all, let reason):
            """
            \(directory) has \(files) of \(all) files of the teacher's distributions (\(reason)); \
            write the rest before training
            """
        case .damaged(let path, let reason):
            "\(path) is damaged: \(reason); remove it and write it again"
        case .badCount(let count, let vocabulary):
            "\(count) tokens of a teacher's distribution cannot be kept; give 1 to \(vocabulary)"
        }
    }
}
