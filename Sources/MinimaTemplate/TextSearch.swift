/// Finds a text in another in linear time (Knuth, Morris & Pratt 1977), however both repeat, so
/// that no template can make a search quadratic.
struct TextSearch<Element: Equatable> {
    let part: [Element]
    /// For each prefix of `part`, the length of its longest proper prefix that is also its suffix.
    private let borders: [Int]

    init(_ part: [Element]) {
        self.part = part
        var borders = [Int](repeating: 0, count: part.count)
        var length = 0
        for index in part.indices.dropFirst() {
            while length > 0, part[index] != part[length] { length = borders[length - 1] }
            if part[index] == part[length] { length += 1 }
            borders[index] = length
        }
        self.borders = borders
    }

    /// Where `part` begins in `text` at `start` or later.
    func first(in text: ArraySlice<Element>, from start: Int) -> Int? {
        guard !part.isEmpty else { return start }
        var length = 0
        var index = start
        while index < text.endIndex {
            while length > 0, text[index] != part[length] { length = borders[length - 1] }
            if text[index] == part[length] { length += 1 }
            index += 1
            if length == part.count { return index - length }
        }
        return nil
    }
}
