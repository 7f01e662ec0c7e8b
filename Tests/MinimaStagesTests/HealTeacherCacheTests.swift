import FoundationEssentials
import Glibc
import MinimaCheckpoint
import MinimaCore
import MinimaModels
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaStages

@Suite("Teacher's distributions on disk")
struct HealTeacherCacheTests {
    let teacher: any LanguageModel
    let text: HealingText
    let scratch: Scratch
    let context = 6
    let vocabulary = 64

    init() throws {
        teacher = try goldenModel("qwen3-gqa4-tied-v5").loadModel()
        text = try Self.text(seed: 1)
        scratch = try Scratch()
    }

    /// 13 training windows.
    private static func text(seed: UInt64) throws -> HealingText {
        let tokens = TokenizedText(
            name: "text", documents: 1, tokens: someTokens(85, vocabulary: 64, seed: seed))
        return try HealingText([tokens], settings: .init(context: 6))
    }

    /// A key with 3 windows per file: 5 files.
    private func key(
        _ text: HealingText? = nil, teacher: String = "a", temperature: Double = 1, count: Int = 5
    ) -> TeacherCache.Key {
        var key = TeacherCache.Key(
            text ?? self.text, teacher: ["model.safetensors": teacher], vocabulary: vocabulary)
        (key.temperature, key.count) = (temperature, count)
        key.fileBytes = key.byteCount / key.windows * 3
        return key
    }

    private func write(_ key: TeacherCache.Key, rank: Int = 0, of processes: Int = 1) throws -> Int
    {
        var windows = 0
        try TeacherCache.write(
            key, text: text, teacher: teacher, to: scratch.path, rank: rank, of: processes
        ) { windows = $0.done }
        return windows
    }

    private func contents() throws -> [String: Data] {
        Dictionary(
            uniqueKeysWithValues: try scratch.entries.map {
                ($0, try Data(contentsOf: URL(filePath: "\(scratch.path)/\($0)")))
            })
    }

    /// The teacher's distributions at `windows`, computed now.
    private func computed(_ windows: [Int], _ key: TeacherCache.Key) throws -> TeacherRows {
        try withoutGradients {
            let hidden = try teacher.run(text.batch(windows).inputs)
            let logits = try teacher.logits(hidden).reshape([-1, vocabulary])
            return try TeacherRows(logits: logits, temperature: key.temperature, count: key.count)
        }
    }

    @Test(arguments: [(5, 1.0), (64, 1), (1, 2)])
    func whatIsReadIsWhatTheTeacherSaid(count: Int, temperature: Double) throws {
        let key = self.key(temperature: temperature, count: count)
        #expect(key.files == 5 && text.count == 13)
        #expect(try write(key) == 13)
        #expect(scratch.entries.count == 5)
        let cache = try TeacherCache(key, directory: scratch.path)
        let windows = [12, 0, 5, 5, 7]
        let rows = try cache.rows(windows)
        let expected = try computed(windows, key)
        #expect(rows.logProbabilities.shape == [30, count] && rows.tail.shape == [30])
        #expect(rows.ids.dtype == .int64)
        // Windows in other batches round otherwise, which can exchange equals but not values.
        let logs = expected.logProbabilities
        let size = try logs.abs().max().item()
        // Rounding to float16, once, and the same again where the sum is made 1.
        let bound = 2 * size * DType.float16.epsilon
        #expect(try (rows.logProbabilities - logs).abs().max().item() <= bound)
        #expect(try (rows.tail - expected.tail).abs().max().item() <= 1e3 * DType.float32.epsilon)
        let total = try rows.logProbabilities.exp().sum([1]) + rows.tail
        #expect(try (total + -1.0).abs().max().item() <= 64 * DType.float32.epsilon)
        if count == vocabulary { #expect(try rows.tail.max().item() == 0) }
    }

    @Test func byteCountsAreThoseOfTheFiles() throws {
        let key = self.key()
        // 5 float16 log-probabilities, 5 uint16 ids and a float32 tail per token.
        #expect(key.byteCount == 13 * 6 * (5 * 4 + 4))
        _ = try write(key)
        let stored = try (0..<5).map {
            try SafetensorsFile(path: TeacherCache.path($0, in: scratch.path)).tensors
                .reduce(0) { $0 + $1.byteCount }
        }
        #expect(stored.reduce(0, +) == key.byteCount)
        #expect((0..<5).map(key.byteCount(ofFile:)) == stored)
        let large = TeacherCache.Key(text, teacher: [:], vocabulary: 151_936)
        #expect(large.byteCount == 13 * 6 * (64 * 6 + 4))
    }

    @Test func aRunThatWasKilledGoesOn() throws {
        let key = self.key()
        _ = try write(key)
        let whole = try contents()
        // Cut short at any place, or gone: written again, and the others left alone.
        var random = SplitMix(8)
        let path = TeacherCache.path(2, in: scratch.path)
        let size = try #require(whole["teacher-00002.safetensors"]).count
        for length in [0, 1, 8, size - 1]
            + (0..<6).map({ _ in .random(in: 0..<size, using: &random) })
        {
            #expect(truncate(path, length) == 0)
            #expect {
                try TeacherCache(key, directory: scratch.path)
            } throws: { "\($0)".contains("4 of 5 files") }
            #expect(try write(key) == 3)
            #expect(try contents() == whole)
        }
        try FileManager.default.removeItem(atPath: path)
        try FileManager.default.removeItem(atPath: TeacherCache.path(4, in: scratch.path))
        // A partial file that a killed run left is swept.
        try AtomicFile.write("x", to: "\(scratch.path)/.teacher-00002.safetensors.partial-0")
        #expect(try write(key) == 4)
        #expect(try contents() == whole)
        #expect(try write(key) == 0)
    }

    @Test func stoppingLeavesWholeFiles() throws {
        struct Stop: Error {}
        let key = self.key()
        #expect(throws: Stop.self) {
            try TeacherCache.write(key, text: text, teacher: teacher, to: scratch.path) {
                if $0.done > 6 { throw Stop() }
            }
        }
        #expect(scratch.entries == ["teacher-00000.safetensors", "teacher-00001.safetensors"])
        #expect(try write(key) == 7)
    }

    @Test func processesShareTheFiles() throws {
        let key = self.key()
        _ = try write(key)
        let whole = try contents()
        for name in scratch.entries {
            try FileManager.default.removeItem(atPath: "\(scratch.path)/\(name)")
        }
        #expect(try write(key, rank: 1, of: 2) == 6)
        #expect(try write(key, rank: 0, of: 2) == 7)
        #expect(try contents() == whole)
    }

    @Test func otherCachesAreRefused() throws {
        let mine = key()
        _ = try write(mine)
        let before = try contents()
        let other = try Self.text(seed: 2)
        let others: [(String, TeacherCache.Key)] = [
            ("text", key(other)), ("teacher", key(teacher: "b")),
            ("temperature", key(temperature: 2)), ("count", key(count: 4)),
        ]
        for (what, key) in others {
            let isSaid: (any Error) -> Bool = { "\($0)".contains("its \(what) is ") }
            #expect { try TeacherCache(key, directory: scratch.path) } throws: { isSaid($0) }
            let text = what == "text" ? other : text
            #expect {
                try TeacherCache.write(key, text: text, teacher: teacher, to: scratch.path)
            } throws: { isSaid($0) }
        }
        #expect(try contents() == before)
        for count in [-1, 0, 65] {
            let refusal = TeacherCacheError.badCount(count, vocabulary: 64)
            #expect(throws: refusal) { try write(key(count: count)) }
            #expect(throws: refusal) {
                try TeacherCache(key(count: count), directory: scratch.path)
            }
        }
    }

    @Test func aFullDiskIsSaidBeforeAnythingIsComputed() throws {
        // No disk has room for as many windows.
        var huge = key()
        (huge.windows, huge.fileBytes) = (1 << 50, 1 << 60)
        #expect(huge.byteCount == (1 << 50) * 6 * 24 && huge.files == 1)
        var calls = 0
        #expect(throws: CheckpointError.self) {
            try TeacherCache.write(huge, text: text, teacher: teacher, to: scratch.path) { _ in
                calls += 1
            }
        }
        #expect(calls == 0 && scratch.entries.isEmpty)
    }

    /// Whatever bytes change: what is read is sound, or an error says what is wrong.
    @Test func damagedFilesNeverTrap() throws {
        let key = self.key()
        _ = try write(key)
        let path = TeacherCache.path(1, in: scratch.path)
        let whole = Array(try Data(contentsOf: URL(filePath: path)))
        var random = SplitMix(6)
        var (refused, read) = (0, 0)
        for _ in 0..<400 {
            var bytes = whole
            for _ in 0..<Int.random(in: 1...4, using: &random) {
                bytes[.random(in: bytes.indices, using: &random)] = .random(
                    in: 0...255, using: &random)
            }
            try AtomicFile.write(bytes, to: path)
            do {
                let rows = try TeacherCache(key, directory: scratch.path).rows([3, 4, 5])
                #expect(try rows.ids.max().item() < 64)
                #expect(try rows.logProbabilities.exp().sum().item().isFinite)
                read += 1
            } catch {
                #expect("\(error)".contains("teacher-00001") || error is TeacherCacheError)
                refused += 1
            }
        }
        #expect(refused > 100 && read > 10)
    }
}
