extension Contest {
    /// `At 10.4 bits per linear weight, int8 wins: KL 0.0005; …`; `nil` when nothing was measured.
    var verdict: String? {
        guard let (winner, score) = best(), entrants.count > 1 else { return nil }
        var sentence = "\(place(winner)), \(winner.title) wins: \(words(score))"
        var named = [winner.name]
        func add(_ label: String, _ other: (Entrant, score: Double)?) {
            guard let (entrant, score) = other, !named.contains(entrant.name) else { return }
            named.append(entrant.name)
            sentence += "; \(label) (\(entrant.title)): \(Figure.significant(score, 3))"
        }
        if winner.kind != .tensorNetwork {
            add("the best tensor-network plan", best { $0.kind == .tensorNetwork })
        }
        if winner.kind != .rival {
            add("the best without tensor networks", best { $0.kind == .rival })
        }
        if let baseline {
            add("the baseline", self.score(entrants[baseline]).map { (entrants[baseline], $0) })
        }
        if named.count == 1 {
            add("next", best { $0.name != winner.name })
        }
        return sentence + "."
    }

    /// `At 65.0 % of the linear parameters`, `At 4.50 bits per linear weight`.
    func place(_ entrant: Entrant) -> String {
        switch equal {
        case "parameters": "At \(Figure.share(entrant.kept)) of the linear parameters"
        case "bytes": "At \(Figure.significant(entrant.bits, 3)) bits per linear weight"
        default: "At equal \(equal)"
        }
    }

    /// The same within a sentence.
    func phrase(_ entrant: Entrant) -> String {
        let place = place(entrant)
        return place.prefix(1).lowercased() + place.dropFirst()
    }

    /// `at equal bytes, 10.4 bits`: what is equal, and how much of it.
    var heading: String {
        let size =
            switch equal {
            case "parameters":
                entrants.lazy.compactMap(\.kept).first.map { Figure.share($0) }
            case "bytes":
                entrants.lazy.compactMap(\.bits).first.map { "\(Figure.significant($0, 3)) bits" }
            default: nil as String?
            }
        return "at equal \(equal)\(size.map { ", \($0)" } ?? "")"
    }

    private func words(_ score: Double) -> String {
        let mean = texts.count > 1 ? " (mean of \(texts.count) texts)" : ""
        return "KL \(Figure.significant(score, 3))\(mean)"
    }
}
