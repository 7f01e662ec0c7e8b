/// A running loop, seen by its body as `loop`.
///
/// Elements are taken one by one and the loop's own `if` is asked as late as Jinja asks it,
/// because it may read a namespace that the body changes.
final class LoopState {
    typealias Filter = (Value) throws(TemplateError) -> Bool

    private(set) var index0 = -1
    private(set) var before: Value?
    private(set) var current: Value?
    private(set) var lastChanged: [Value]?
    private var rest: ArraySlice<Value>
    private var after: Value?
    private var filter: Filter?
    private var knownLength: Int?

    init(elements: [Value], filter: Filter?) {
        rest = elements[...]
        self.filter = filter
        if filter == nil { knownLength = elements.count }
    }

    private func take() throws(TemplateError) -> Value? {
        while let value = rest.popFirst() {
            if let filter, try !filter(value) { continue }
            return value
        }
        return nil
    }

    /// Moves to the next element.
    func next() throws(TemplateError) -> Value? {
        let value: Value?
        if let peeked = after {
            value = peeked
            after = nil
        } else {
            value = try take()
        }
        guard let value else { return nil }
        index0 += 1
        before = current
        current = value
        return value
    }

    /// The element after the current one.
    func peek() throws(TemplateError) -> Value? {
        if after == nil { after = try take() }
        return after
    }

    /// Number of elements that pass the filter; asks it for all that are left.
    func length() throws(TemplateError) -> Int {
        if let knownLength { return knownLength }
        var left: [Value] = []
        while let value = try take() { left.append(value) }
        rest = left[...]
        filter = nil
        let length = index0 + 1 + (after == nil ? 0 : 1) + left.count
        knownLength = length
        return length
    }

    var hasItems: Bool { knownLength != 0 }

    /// Remembers `values` for `loop.changed`.
    func remember(_ values: [Value]) { lastChanged = values }

    /// Forgets the elements, so that a loop kept by a namespace keeps nothing alive.
    func finish() {
        rest = []
        filter = nil
        before = nil
        current = nil
        after = nil
        lastChanged = nil
    }
}
