import Glibc
import MinimaCore
import MinimaTestSupport
import Testing

@testable import MinimaKernels

@Suite("kernel cache")
struct KernelCacheTests {
    let folder: Scratch
    let cache: KernelCache

    init() throws {
        folder = try Scratch()
        cache = try KernelCache(directory: folder.path)
    }

    private func key(_ number: Int) -> String {
        var hash = SHA256()
        withUnsafeBytes(of: number) { hash.update($0) }
        return hash.hexadecimalDigest()
    }

    private func contents(_ number: Int, count: Int = 1000) -> [UInt8] {
        var generator = SplitMix(UInt64(number))
        return (0..<count).map { _ in UInt8.random(in: 0...255, using: &generator) }
    }

    @Test func whatIsStoredIsFoundAgain() throws {
        #expect(cache.cubin(key(1)) == nil)
        try cache.store(contents(1), for: key(1))
        #expect(cache.cubin(key(1)) == contents(1))
        #expect(cache.cubin(key(2)) == nil)
        try cache.store(contents(2), for: key(1))
        #expect(cache.cubin(key(1)) == contents(2), "the last one counts")
        #expect(folder.entries == ["\(key(1)).cubin"], "nothing else is left")
    }

    /// Every truncation, and many changes of single bytes.
    @Test func damageCountsAsAbsence() throws {
        try cache.store(contents(3, count: 200), for: key(3))
        let name = "\(key(3)).cubin"
        let file = try folder.read(name)
        for count in 0..<file.count {
            try folder.write(Array(file[..<count]), to: name)
            #expect(cache.cubin(key(3)) == nil)
        }
        var generator = SplitMix(3)
        for _ in 0..<500 {
            var damaged = file
            let place = Int.random(in: 0..<file.count, using: &generator)
            damaged[place] ^= UInt8.random(in: 1...255, using: &generator)
            try folder.write(damaged, to: name)
            #expect(cache.cubin(key(3)) == nil)
        }
        for length in [0, 1, 15, 79, 80, 4096] {
            try folder.write(contents(length, count: length), to: name)
            #expect(cache.cubin(key(3)) == nil)
            try folder.write(file + contents(4, count: length), to: name)
            #expect((cache.cubin(key(3)) == nil) == (length > 0))
        }
        try cache.store(contents(3), for: key(3))
        #expect(cache.cubin(key(3)) == contents(3), "and it can be stored again")
    }

    @Test func whatIsNoFileCountsAsAbsence() throws {
        let path = "\(folder.path)/\(key(5)).cubin"
        mkdir(path, 0o777)
        #expect(cache.cubin(key(5)) == nil)
        #expect(throws: KernelError.self) { try cache.store(contents(5), for: key(5)) }
        rmdir(path)
        mkfifo(path, 0o666)
        #expect(cache.cubin(key(5)) == nil, "and nothing waits for a writer")
        unlink(path)
        symlink("/nowhere", path)
        #expect(cache.cubin(key(5)) == nil)
    }

    @Test func theLongestUnusedGoFirst() throws {
        let small = try KernelCache(directory: folder.path, limit: 4500)
        for number in 0..<4 {
            try small.store(contents(number), for: key(number))
            folder.age("\(key(number)).cubin", by: 1000 - 100 * number)
        }
        #expect(folder.shown.count == 4)
        #expect(small.cubin(key(0)) != nil, "which makes it the last one used")
        try small.store(contents(4), for: key(4))
        #expect(small.cubin(key(1)) == nil)
        for number in [0, 2, 3, 4] { #expect(small.cubin(key(number)) == contents(number)) }
        try small.store(contents(6, count: 4400), for: key(6))
        #expect(folder.shown == ["\(key(6)).cubin"], "a large one takes all of it")
        try small.store(contents(7, count: 5000), for: key(7))
        #expect(folder.shown == ["\(key(6)).cubin"], "one above the limit is not kept")
        let none = try KernelCache(directory: folder.path, limit: 0)
        #expect(none.cubin(key(6)) == nil)
    }

    @Test func otherFilesStayAndAbandonedOnesGo() throws {
        let names = [".partial-1", ".partial-2", "notes.txt"]
        for name in names { try folder.write([1], to: name) }
        folder.age(".partial-1", by: 7200)
        folder.age("notes.txt", by: 7200)
        let small = try KernelCache(directory: folder.path, limit: 1100)
        try small.store(contents(1), for: key(1))
        #expect(
            folder.entries == [".partial-2", "notes.txt", "\(key(1)).cubin"].sorted())
    }

    @Test func foldersAreMadeAndFilesRefused() throws {
        let deep = "\(folder.path)/a/b/c"
        _ = try KernelCache(directory: deep)
        _ = try KernelCache(directory: deep + "/")
        for path in [deep, "\(folder.path)/a/b", "\(folder.path)/a"] { rmdir(path) }
        try folder.write([1], to: "file")
        for path in ["\(folder.path)/file", "\(folder.path)/file/below", "", "a\0b"] {
            let error = #expect(throws: KernelError.self) { try KernelCache(directory: path) }
            #expect(try #require(error).description.contains(path))
        }
    }

    /// Writers of the same and of different keys, readers, and a limit that removes files under them:
    /// a reader sees all of a kernel or none of it.
    @Test func manyUseItAtATime() async throws {
        let path = folder.path
        let wrong = try await withThrowingTaskGroup(of: Int.self) { group in
            for task in 0..<8 {
                group.addTask {
                    let own = try KernelCache(directory: path, limit: 20_000)
                    var generator = SplitMix(UInt64(task))
                    var wrong = 0
                    for _ in 0..<100 {
                        let number = Int.random(in: 0..<30, using: &generator)
                        if Bool.random(using: &generator) {
                            try own.store(contents(number), for: key(number))
                        } else if let found = own.cubin(key(number)) {
                            wrong += found == contents(number) ? 0 : 1
                        }
                    }
                    return wrong
                }
            }
            return try await group.reduce(0, +)
        }
        #expect(wrong == 0)
        #expect(folder.entries.count <= 20)
        #expect(folder.entries.allSatisfy { $0.hasSuffix(".cubin") })
    }
}
