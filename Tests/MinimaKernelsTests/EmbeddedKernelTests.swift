import MinimaCore
import MinimaTensor
import Testing

@testable import MinimaKernels

/// Each embedded kernel says in its comment, on lines `// compile: NAME=VALUE …`, with which
/// constants it is to be tried.
@Suite("embedded kernels")
struct EmbeddedKernelTests {
    static let architectures = ["sm_80", "sm_90a", "sm_100a", "sm_120a"]

    struct Variant: Sendable, CustomTestStringConvertible {
        let source: KernelSource
        let constants: [String: KernelConstant]

        var testDescription: String {
            let words = constants.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }
            return ([source.name] + words).joined(separator: " ")
        }
    }

    static func variants(of source: KernelSource) -> [Variant] {
        let mark = "// compile:"
        return source.text.split(separator: "\n").filter { $0.hasPrefix(mark) }.map { line in
            let words = line.dropFirst(mark.count).split(separator: " ")
            let pairs = words.map { word in
                let parts = word.split(separator: "=", maxSplits: 1)
                return (String(parts[0]), KernelConstant.text(parts.count > 1 ? "\(parts[1])" : ""))
            }
            return Variant(
                source: source, constants: Dictionary(pairs, uniquingKeysWith: { $1 }))
        }
    }

    @Test func everyKernelSaysHowToCompileIt() {
        #expect(!KernelSource.all.isEmpty && !KernelSource.headers.isEmpty)
        for source in KernelSource.all {
            #expect(source.name.hasSuffix(".cu"))
            #expect(!source.text.isEmpty)
            #expect(
                !Self.variants(of: source).isEmpty,
                "\(source.name) needs a line `// compile: NAME=VALUE …` in its first comment")
        }
        #expect(Set(KernelSource.all.map(\.name)).count == KernelSource.all.count)
    }

    /// `files.c` is the only list; what lies beside it and is not in it would never be used.
    @Test(.enabled(if: SourceFolder.isThere, "the sources are not here"))
    func everyFileIsInTheBinary() throws {
        let names = SourceFolder.names.filter { $0.hasSuffix(".cu") || $0.hasSuffix(".cuh") }
        let embedded = KernelSource.all + KernelSource.headers
        #expect(embedded.map(\.name).sorted() == names)
        for file in embedded {
            #expect(Array(file.text.utf8) == (try SourceFolder.read(file.name)))
        }
    }

    @Test func anUnknownFileIsAnErrorThatNamesTheKnownOnes() throws {
        let error = #expect(throws: KernelError.self) { try KernelSource("liner.cu") }
        let text = try #require(error).description
        #expect(text.contains("liner.cu"))
        for source in KernelSource.all { #expect(text.contains(source.name)) }
    }

    @Test(
        .enabled(if: Compiler.isThere, "\(Compiler.remedy)"),
        arguments: KernelSource.all.flatMap(variants))
    func compilesForEveryArchitecture(_ variant: Variant) async throws {
        let compiler = try Compiler.found.get()
        try await withThrowingTaskGroup(of: Void.self) { group in
            for architecture in Self.architectures {
                group.addTask {
                    let (cubin, log) = try compiler.compile(
                        variant.source, architecture: architecture, constants: variant.constants)
                    #expect(log.isEmpty, "the compiler warns for \(architecture)")
                    #expect(cubin.starts(with: [0x7F] + Array("ELF".utf8)))
                    // Each entry has a section of its own for its code.
                    #expect(cubin.contains(Array(".text.".utf8)), "there is no kernel in it")
                }
            }
            try await group.waitForAll()
        }
    }
}
