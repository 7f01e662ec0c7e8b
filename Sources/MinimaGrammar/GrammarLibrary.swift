import Glibc
import MinimaCore

/// xgrammar as this process found it: a pushdown automaton over bytes for each grammar, and the
/// tokens of a vocabulary that may come next.
///
/// The library is the one of the Python package, without Python: its functions are called by their
/// names through TVM FFI's C interface.
///
/// - Note: Dong et al. 2024, "XGrammar: Flexible and Efficient Structured Generation Engine for
///   Large Language Models".
public struct GrammarLibrary: Sendable {
    /// The version that Minima was tried with; names and arguments of functions belong to it.
    public static let neededVersion = "0.2.8"

    /// How deep what is nested in a structural tag may be.
    static let mostNested = 256

    let interface: ForeignInterface
    let makeVocabulary: ForeignInterface.Function
    let makeCompiler: ForeignInterface.Function
    let makeMatcher: ForeignInterface.Function
    let parseSchema: ForeignInterface.Function
    let parseRegex: ForeignInterface.Function
    let parseGrammar: ForeignInterface.Function
    let compileGrammar: ForeignInterface.Function
    let compileStructure: ForeignInterface.Function
    let memorySize: ForeignInterface.Function
    let fillMask: ForeignInterface.Function
    let acceptToken: ForeignInterface.Function

    /// Opens the library and tries it.
    ///
    /// - Parameter folders: Where Python packages may lie, such as the site-packages that torch is
    ///   in; the first that holds xgrammar counts.
    /// - Throws: `GrammarError.libraryNotFound`, `.wrongVersion`, or `.failed` when the library does
    ///   not do what it should.
    public init(folders: [String]) throws(GrammarError) {
        guard
            let folder = folders.first(where: {
                access("\($0)/xgrammar/libxgrammar_bindings.so", R_OK) == 0
            })
        else {
            throw .libraryNotFound(
                reason: "there is no xgrammar in \(folders.joined(separator: " or "))")
        }
        try Self.checkVersion(folder)
        let interface = try ForeignInterface(
            interface: "\(folder)/tvm_ffi/lib/libtvm_ffi.so",
            library: "\(folder)/xgrammar/libxgrammar_bindings.so")
        self.interface = interface
        let scope = "xgrammar.tvm_ffi_binding"
        makeVocabulary = try interface.method("__ffi_init__", of: "\(scope).TokenizerInfo")
        makeCompiler = try interface.method("__ffi_init__", of: "\(scope).GrammarCompiler")
        makeMatcher = try interface.method("__ffi_init__", of: "\(scope).GrammarMatcher")
        parseSchema = try interface.method("from_json_schema", of: "\(scope).Grammar")
        parseRegex = try interface.method("from_regex", of: "\(scope).Grammar")
        parseGrammar = try interface.method("from_ebnf", of: "\(scope).Grammar")
        let compiler = "\(scope).GrammarCompiler"
        compileGrammar = try interface.method("compile_grammar_ebnf", of: compiler)
        compileStructure = try interface.method("compile_structural_tag", of: compiler)
        memorySize = try interface.method("memory_size_bytes", of: "\(scope).CompiledGrammar")
        let matcher = "\(scope).GrammarMatcher"
        fillMask = try interface.method("fill_next_token_bitmask", of: matcher)
        acceptToken = try interface.method("accept_token", of: matcher)
        let limit = try interface.function("\(scope).config.set_max_recursion_depth")
        _ = try interface.call(limit, [.integer(Self.mostNested)])
        try selfTest()
    }

    /// Reads the version that the package states; the library itself has no function for it.
    private static func checkVersion(_ folder: String) throws(GrammarError) {
        let path = "\(folder)/xgrammar/_version.py"
        let bytes: [UInt8]
        do {
            bytes = try readFile(path, limit: 1 << 16)
        } catch {
            throw .libraryNotFound(reason: "\(path) cannot be read")
        }
        let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n")
        let line = lines.last { $0.hasPrefix("__version__ = ") } ?? ""
        let found = line.split(separator: "'", omittingEmptySubsequences: false).dropFirst().first
        guard let found, found == neededVersion else {
            throw .wrongVersion(
                library: "xgrammar", found: found.map(String.init) ?? "an unknown version",
                needed: neededVersion)
        }
    }

    /// One answer of one byte over three tokens, from the grammar to its end.
    private func selfTest() throws(GrammarError) {
        let vocabulary = GrammarVocabulary(
            tokens: [Array("a".utf8), Array("b".utf8), []], stop: [2])
        let compiler = try GrammarCompiler(self, vocabulary)
        let constraint = try compiler.compiled(.regex("b")).makeConstraint()
        var mask: [UInt32] = [0]
        // Bits behind the vocabulary may be anything.
        func allows(_ tokens: UInt32) -> Bool {
            constraint.allowed(&mask) && mask.count == 1 && mask[0] & 0b111 == tokens
        }
        guard allows(0b010), !constraint.accept(0), constraint.accept(1), allows(0b100),
            constraint.accept(2)
        else {
            throw .failed(call: "self-test", reason: "a regular expression gave the mask \(mask)")
        }
    }
}

/// A model's tokens as a constraint sees them.
public struct GrammarVocabulary: Sendable {
    /// The bytes that each token adds to an answer; none for tokens that a constraint never allows,
    /// such as special ones. As many as the model has logits.
    public var tokens: [[UInt8]]
    /// Tokens that end an answer.
    public var stop: Set<Int32>

    /// A vocabulary.
    public init(tokens: [[UInt8]], stop: Set<Int32>) {
        self.tokens = tokens
        self.stop = stop
    }
}
