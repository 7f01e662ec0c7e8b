import CPCRE2
import Synchronization

/// A regular expression in Oniguruma's syntax, matched by PCRE2 with its just-in-time compiler.
///
/// Hugging Face's library matches with Oniguruma; `OnigurumaSyntax` translates what differs.
/// This file is the only one that calls PCRE2.
final class Regex: Sendable {
    /// The expression as tokenizer.json has it.
    let source: String
    private let plain: Program
    /// The form for texts with `RecentScalars`, made for the first of them.
    private let complete = Mutex<Program?>(nil)

    /// Compiles `source`.
    init(_ source: String, in section: ConfigSection) throws(TokenizerError) {
        self.source = source
        do {
            plain = try Program(OnigurumaSyntax.translated(source))
        } catch {
            throw .invalidPattern(
                file: section.file, section: section.path, pattern: source, reason: error.reason)
        }
    }

    /// What matches this expression in texts, one after the other, on one thread.
    ///
    /// - Parameter bytes: Valid UTF-8 that every text is a part of.
    func matcher(for bytes: [UInt8]) throws(TokenizerError) -> Matcher {
        let program = RecentScalars.occur(in: bytes) ? try completeProgram() : plain
        return try Matcher(source, program, byteCount: bytes.count)
    }

    private func completeProgram() throws(TokenizerError) -> Program {
        try complete.withLock { (program) throws(TokenizerError) in
            if let program { return program }
            do throws(OnigurumaSyntax.Failure) {
                let new = try Program(
                    OnigurumaSyntax.translated(source, listsRecentScalars: true))
                program = new
                return new
            } catch {
                throw .matchFailed(pattern: source, reason: error.reason)
            }
        }
    }
}

/// A compiled pattern.
private final class Program: Sendable {
    /// `pcre2_code`, immutable once compiled and therefore shared freely between threads.
    nonisolated(unsafe) let code: OpaquePointer
    /// Whether machine code was made; without it (a system that forbids it) matching interprets.
    let isJIT: Bool

    init(_ pattern: [UInt8]) throws(OnigurumaSyntax.Failure) {
        var errorCode: Int32 = 0
        var errorOffset = 0
        // Oniguruma's Ruby syntax: `^` and `$` are at lines, and a newline is "\n" alone.
        let context = pcre2_compile_context_create_8(nil)
        defer { pcre2_compile_context_free_8(context) }
        if let context { pcre2_set_newline_8(context, UInt32(PCRE2_NEWLINE_LF)) }
        let options =
            PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C
            | PCRE2_NO_UTF_CHECK
        let compiled = pattern.withUnsafeBufferPointer {
            pcre2_compile_8(
                $0.baseAddress, $0.count, UInt32(options), &errorCode, &errorOffset, context)
        }
        guard let compiled else {
            throw OnigurumaSyntax.Failure(
                reason: "\(Program.message(errorCode)) at byte \(errorOffset)")
        }
        code = compiled
        isJIT = pcre2_jit_compile_8(compiled, UInt32(PCRE2_JIT_COMPLETE)) == 0
    }

    deinit { pcre2_code_free_8(code) }

    static func message(_ code: Int32) -> String {
        var buffer = [UInt8](repeating: 0, count: 256)
        let length = pcre2_get_error_message_8(code, &buffer, buffer.count)
        return String(decoding: buffer.prefix(max(0, Int(length))), as: UTF8.self)
    }
}

extension Regex {
    /// What PCRE2 writes while it matches: one per run over a text, so that a `Regex` is shareable.
    final class Matcher {
        private let source: String
        private let program: Program
        private let data: OpaquePointer
        private let context: OpaquePointer
        private let bounds: UnsafeMutablePointer<Int>

        /// Steps of backtracking that a match may take at least; PCRE2's own default.
        private static let leastSteps = 10_000_000
        /// Backtracking steps allowed per byte of text.
        private static let stepsPerByte = 64
        /// The stack that machine code may use before matching fails, in bytes.
        private static let stackLimit = 64 << 20

        fileprivate init(
            _ source: String, _ program: Program, byteCount: Int
        ) throws(TokenizerError) {
            guard let context = pcre2_match_context_create_8(nil) else {
                throw .matchFailed(pattern: source, reason: "out of memory")
            }
            guard let data = pcre2_match_data_create_from_pattern_8(program.code, nil) else {
                pcre2_match_context_free_8(context)
                throw .matchFailed(pattern: source, reason: "out of memory")
            }
            self.source = source
            self.program = program
            self.data = data
            self.context = context
            bounds = pcre2_get_ovector_pointer_8(data)
            let (steps, overflow) = byteCount.multipliedReportingOverflow(by: Self.stepsPerByte)
            let limit = overflow ? Int(UInt32.max) : max(Self.leastSteps, steps)
            pcre2_set_match_limit_8(context, UInt32(clamping: limit))
        }

        deinit {
            pcre2_match_data_free_8(data)
            pcre2_match_context_free_8(context)
        }

        /// Calls `body` with the bounds of every match, as Oniguruma's iterator finds them:
        /// leftmost, not overlapping, none empty right behind another, none in an empty text.
        @inline(__always)
        func forEachMatch(
            in subject: UnsafeBufferPointer<UInt8>, _ body: (_ start: Int, _ end: Int) -> Void
        ) throws(TokenizerError) {
            guard let base = subject.baseAddress, !subject.isEmpty else { return }
            var position = 0
            var lastEnd = -1
            while position <= subject.count {
                guard let found = try match(base, subject.count, from: position) else { return }
                if found.start == found.end, found.end == lastEnd {
                    position +=
                        position < subject.count
                        ? UTF8Text.scalar(in: subject, at: position).length : 1
                    continue
                }
                // `\K` in a lookahead may put bounds behind where matching has come to.
                guard found.start >= max(0, lastEnd), found.end >= found.start else { return }
                body(found.start, found.end)
                position = found.end
                lastEnd = found.end
            }
        }

        /// The leftmost match at or behind `position`.
        @inline(__always)
        private func match(
            _ base: UnsafePointer<UInt8>, _ count: Int, from position: Int
        ) throws(TokenizerError) -> (start: Int, end: Int)? {
            let options = UInt32(PCRE2_NO_UTF_CHECK)
            var result =
                program.isJIT
                ? pcre2_jit_match_8(program.code, base, count, position, options, data, context)
                : pcre2_match_8(program.code, base, count, position, options, data, context)
            if result == PCRE2_ERROR_JIT_STACKLIMIT {
                result = matchWithLargeStack(base, count, position)
            }
            if result > 0 { return (bounds[0], bounds[1]) }
            if result == PCRE2_ERROR_NOMATCH { return nil }
            throw .matchFailed(pattern: source, reason: Program.message(result))
        }

        private func matchWithLargeStack(
            _ base: UnsafePointer<UInt8>, _ count: Int, _ position: Int
        ) -> Int32 {
            guard let stack = pcre2_jit_stack_create_8(1 << 20, Self.stackLimit, nil) else {
                return PCRE2_ERROR_JIT_STACKLIMIT
            }
            defer { pcre2_jit_stack_free_8(stack) }
            pcre2_jit_stack_assign_8(context, nil, UnsafeMutableRawPointer(stack))
            defer { pcre2_jit_stack_assign_8(context, nil, nil) }
            return pcre2_jit_match_8(
                program.code, base, count, position, UInt32(PCRE2_NO_UTF_CHECK), data, context)
        }
    }
}
