import Glibc
import Testing

@testable import MinimaCheckpoint

@Suite struct AtomicOutputTests {
    @Test func nothingIsThereBeforeCommitAndAllAfter() throws {
        let directory = try TemporaryDirectory()
        let output = try AtomicDirectory(destination: directory.path + "/model/")
        #expect(output.destination == directory.path + "/model")
        try output.write("one", to: "a.txt")
        try output.copy(directory.file("source", [UInt8](repeating: 7, count: 3_000_000)), to: "b")
        #expect(Files.kind(of: output.destination) == nil)
        try output.commit()
        #expect(try Files.names(in: output.destination) == ["a.txt", "b"])
        #expect(try Files.read(output.destination + "/a.txt", limit: 10) == Array("one".utf8))
        #expect(
            try Files.read(output.destination + "/b", limit: 4_000_000)
                == [UInt8](repeating: 7, count: 3_000_000))
        #expect(try Files.names(in: directory.path) == ["model", "source"])
        var status = stat()
        #expect(stat(output.destination, &status) == 0 && status.st_mode & 0o700 == 0o700)
    }

    @Test func anErrorLeavesNothing() throws {
        struct Failure: Error {}
        let directory = try TemporaryDirectory()
        func run() throws {
            let output = try AtomicDirectory(destination: directory.path + "/model")
            try output.write("half", to: "config.json")
            guard mkdir(output.path + "/sub", 0o755) == 0 else { return }
            throw Failure()
        }
        #expect(throws: Failure.self) { try run() }
        #expect(try Files.names(in: directory.path).isEmpty)
    }

    @Test func aFullDestinationIsRefusedAndAnEmptyOneTaken() throws {
        let directory = try TemporaryDirectory()
        let empty = try directory.directory("empty")
        let output = try AtomicDirectory(destination: empty)
        try output.write("x", to: "a")
        try output.commit()
        let said = message { _ = try AtomicDirectory(destination: empty) }
        #expect(said.contains(empty + ": the directory exists and is not empty; choose another"))
        let file = try directory.file("file", "x")
        #expect(message { _ = try AtomicDirectory(destination: file) }.contains("a file is there"))
        #expect(
            message { _ = try AtomicDirectory(destination: "/") }.contains("cannot be an output"))
        #expect(message { _ = try AtomicDirectory(destination: "") }.contains("cannot use"))
        let orphan = message {
            _ = try AtomicDirectory(destination: directory.path + "/no/such/model")
        }
        #expect(orphan.contains("there is no directory \(directory.path)/no/such; create it"))
    }

    @Test func aDestinationFilledMeanwhileIsNotLost() throws {
        let directory = try TemporaryDirectory()
        let output = try AtomicDirectory(destination: directory.path + "/model")
        try output.write("mine", to: "a")
        let theirs = try directory.directory("model")
        try directory.file("model/b", "theirs")
        #expect(message { try output.commit() }.contains("not empty"))
        output.discard()
        #expect(try Files.names(in: theirs) == ["b"])
        #expect(try Files.names(in: directory.path) == ["model"])
    }

    @Test func replacingNeedsTheMarker() throws {
        let directory = try TemporaryDirectory()
        let model = try directory.directory("model")
        try directory.file("model/precious", "x")
        let said = message {
            _ = try AtomicDirectory(
                destination: model, existing: .replace(marker: "config.json"))
        }
        #expect(said.contains("holds no config.json"))
        try directory.file("model/config.json", "old")
        let output = try AtomicDirectory(
            destination: model, existing: .replace(marker: "config.json"))
        try output.write("new", to: "config.json")
        try output.commit()
        #expect(try Files.names(in: model) == ["config.json"])
        #expect(try Files.read(model + "/config.json", limit: 9) == Array("new".utf8))
        #expect(try Files.names(in: directory.path) == ["model"])
    }

    @Test func leftoversOfKilledRunsGoAndThoseOfLiveRunsStay() throws {
        let directory = try TemporaryDirectory()
        let stale = try directory.directory(".model.partial-1-0")
        try directory.file(".model.partial-1-0/half", "x")
        #expect(mkdir(stale + "/deep", 0o755) == 0 && symlink("/", stale + "/deep/root") == 0)
        try directory.file(".model2.partial-1-0", "of another output")
        let live = try AtomicDirectory(destination: directory.path + "/model")
        #expect(Files.kind(of: stale) == nil)
        let second = try AtomicDirectory(destination: directory.path + "/model")
        #expect(live.path != second.path)
        #expect(Files.kind(of: live.path) == S_IFDIR)
        #expect(Files.kind(of: directory.path + "/.model2.partial-1-0") == S_IFREG)
        live.discard()
        live.discard()
        #expect(Files.kind(of: live.path) == nil)
        #expect(Files.kind(of: second.path) == S_IFDIR)
    }

    @Test func oneFileAppearsAtOnce() throws {
        let directory = try TemporaryDirectory()
        let path = try directory.file("plan.json", "old")
        try directory.file(".plan.json.partial-1-0", "stale")
        let file = try AtomicFile(destination: path)
        try Array("newer".utf8).withUnsafeBytes { try file.write($0, at: 0) }
        #expect(try Files.read(path, limit: 9) == Array("old".utf8))
        file.discard()
        #expect(try Files.names(in: directory.path) == ["plan.json"])
        try AtomicFile.write("new", to: path)
        #expect(try Files.read(path, limit: 9) == Array("new".utf8))
        #expect(try Files.names(in: directory.path) == ["plan.json"])
        let said = message { try AtomicFile.write("x", to: directory.path) }
        #expect(said.contains("this is a directory"))
    }

    @Test func aFullDiskWhileWritingSaysSo() throws {
        let descriptor = open("/dev/full", O_WRONLY | O_CLOEXEC)
        try #require(descriptor >= 0)
        defer { close(descriptor) }
        let said = message { try Files.write([1, 2], to: descriptor, at: 0, path: "/out/model") }
        #expect(
            said == "cannot write /out/model: No space left on device; free some space or choose "
                + "an output path on another disk")
    }

    @Test func aPlaceThatTakesNoDirectoriesSaysSo() throws {
        // /proc takes no directories from anybody, root included.
        let said = message { _ = try AtomicDirectory(destination: "/proc/model") }
        #expect(said.hasPrefix("cannot create /proc/.model.partial-"), "\(said)")
        let refused = SystemError(operation: "create", path: "/x", code: EACCES).description
        #expect(refused.contains("Permission denied; check that you own it"))
    }
}
