import MinimaCore

/// A model's directory as results name it; `./a//b/` and `a/b` are one.
struct ModelPath: Hashable {
    /// The path without redundant parts; compared by UTF-8 bytes, as file systems do.
    private let name: JSON.Name

    init(_ path: String) {
        let parts = path.unicodeScalars.split(separator: "/").map(String.init)
        let joined = parts.filter { $0 != "." }.joined(separator: "/")
        let root = path.unicodeScalars.first == "/" ? "/" : ""
        name = JSON.Name(joined.isEmpty && root.isEmpty ? "." : root + joined)
    }

    /// The path.
    var text: String { name.text }

    /// The last `count` names of the path.
    func suffix(_ count: Int) -> JSON.Name {
        let parts = text.unicodeScalars.split(separator: "/").map(String.init)
        return count < parts.count ? JSON.Name(parts.suffix(count).joined(separator: "/")) : name
    }

    /// Short names that still tell the models apart: as few trailing path names as that takes.
    static func labels(_ models: [ModelPath]) -> [ModelPath: String] {
        var labels: [ModelPath: String] = [:]
        var unnamed = Set(models)
        var count = 1
        while !unnamed.isEmpty {
            let groups = Dictionary(grouping: models) { $0.suffix(count) }
            for model in unnamed {
                let suffix = model.suffix(count)
                let isWhole = suffix == model.name
                if groups[suffix]?.allSatisfy({ $0 == model }) == true || isWhole {
                    labels[model] = suffix.text
                }
            }
            unnamed = unnamed.filter { labels[$0] == nil }
            count += 1
        }
        return labels
    }
}
