import CMinimaGrammar
import Glibc

/// TVM FFI's C interface: values, objects with counted references, and functions by their names.
final class ForeignInterface: Sendable {
    /// Major and minor must be these, and patch at least this.
    static let testedVersion = "0.1.11"

    // Filled once, never written again; the libraries stay open, so it stays as well.
    nonisolated(unsafe) private let table: UnsafeMutablePointer<minima_ffi>

    /// - Parameters:
    ///   - interface: The file `libtvm_ffi.so`.
    ///   - library: The file of the library that registers its functions there.
    init(interface: String, library: String) throws(GrammarError) {
        var message: UnsafeMutablePointer<CChar>?
        guard let table = minima_ffi_open(interface, library, &message) else {
            defer { free(message) }
            throw .libraryNotFound(
                reason: message.map { String(cString: $0) } ?? "\(library) gave no reason")
        }
        self.table = table
        var found = minima_ffi_version()
        table.pointee.version(&found)
        guard found.major == 0, found.minor == 1, found.patch >= 11 else {
            throw .wrongVersion(
                library: "apache-tvm-ffi", found: "\(found.major).\(found.minor).\(found.patch)",
                needed: Self.testedVersion)
        }
    }

    // MARK: Values

    /// A value that this process owns.
    final class Value: @unchecked Sendable {
        // Objects behind it are changed by functions only, whose callers keep them to one thread.
        fileprivate let raw: minima_ffi_value
        private let interface: ForeignInterface

        fileprivate init(_ raw: minima_ffi_value, _ interface: ForeignInterface) {
            self.raw = raw
            self.interface = interface
        }

        deinit {
            guard raw.kind >= MINIMA_FFI_OBJECT.rawValue, let object = raw.object else { return }
            _ = interface.table.pointee.release(object)
        }

        /// A number, or a truth value.
        var integer: Int64? {
            [MINIMA_FFI_INTEGER.rawValue, MINIMA_FFI_BOOLEAN.rawValue].contains(raw.kind)
                ? raw.integer : nil
        }

        var bool: Bool? { raw.kind == MINIMA_FFI_BOOLEAN.rawValue ? raw.integer != 0 : nil }
    }

    /// What a function is given.
    enum Argument {
        case none
        case integer(Int)
        case bool(Bool)
        case value(Value)
        case tensor(UnsafePointer<minima_ffi_tensor>)

        fileprivate var raw: minima_ffi_value {
            var value = minima_ffi_value()
            switch self {
            case .none: break
            case .integer(let number):
                value.kind = MINIMA_FFI_INTEGER.rawValue
                value.integer = Int64(number)
            case .bool(let flag):
                value.kind = MINIMA_FFI_BOOLEAN.rawValue
                value.integer = flag ? 1 : 0
            case .value(let owned): value = owned.raw
            case .tensor(let tensor):
                value.kind = MINIMA_FFI_TENSOR_POINTER.rawValue
                value.pointer = UnsafeRawPointer(tensor)
            }
            return value
        }
    }

    /// A string of the interface.
    func string(_ text: String) throws(GrammarError) -> Value {
        try made("string", Array(text.utf8), table.pointee.make_string)
    }

    /// Bytes of the interface.
    func bytes(_ bytes: [UInt8]) throws(GrammarError) -> Value {
        try made("bytes", bytes, table.pointee.make_bytes)
    }

    private func made(
        _ kind: String, _ bytes: [UInt8],
        _ make: (UnsafePointer<minima_ffi_bytes>, UnsafeMutablePointer<minima_ffi_value>) -> Int32
    ) throws(GrammarError) -> Value {
        var result = minima_ffi_value()
        let code = Self.withBytes(bytes) { view in
            withUnsafePointer(to: view) { make($0, &result) }
        }
        guard code == 0 else { throw .failed(call: kind, reason: raised()) }
        return Value(result, self)
    }

    private static func withBytes<Result>(
        _ bytes: [UInt8], _ body: (minima_ffi_bytes) -> Result
    ) -> Result {
        bytes.withUnsafeBytes { buffer in
            body(
                minima_ffi_bytes(
                    data: buffer.baseAddress?.assumingMemoryBound(to: CChar.self),
                    size: buffer.count))
        }
    }

    // MARK: Functions

    /// A function that can be called for as long as the process lives.
    struct Function: Sendable {
        fileprivate let name: String
        // Registered functions are never taken back.
        nonisolated(unsafe) fileprivate let object: UnsafeMutablePointer<minima_ffi_object>
    }

    /// A function that is registered under a name of its own.
    func function(_ name: String) throws(GrammarError) -> Function {
        var object: UnsafeMutablePointer<minima_ffi_object>?
        let code = Self.withBytes(Array(name.utf8)) { view in
            withUnsafePointer(to: view) { table.pointee.find_function($0, &object) }
        }
        guard code == 0, let object else { throw .failed(call: name, reason: "there is none") }
        return Function(name: name, object: object)
    }

    /// A method of a registered type.
    func method(_ name: String, of type: String) throws(GrammarError) -> Function {
        var kind: Int32 = 0
        let code = Self.withBytes(Array(type.utf8)) { view in
            withUnsafePointer(to: view) { table.pointee.find_kind($0, &kind) }
        }
        guard code == 0, let info = table.pointee.type(kind) else {
            _ = raised()
            throw .failed(call: type, reason: "there is no such type")
        }
        let methods = UnsafeBufferPointer(
            start: info.pointee.methods, count: Int(info.pointee.method_count))
        for method in methods where Self.text(method.name) == name {
            guard method.function.kind >= MINIMA_FFI_OBJECT.rawValue,
                let object = method.function.object
            else { break }
            return Function(name: name, object: object)
        }
        throw .failed(call: "\(type).\(name)", reason: "there is no such method")
    }

    /// Calls a function.
    ///
    /// - Throws: `GrammarError.failed` with the function's message.
    func call(_ function: Function, _ arguments: [Argument]) throws(GrammarError) -> Value {
        var result = minima_ffi_value()
        // The views hold no references.
        let code = withExtendedLifetime(arguments) {
            arguments.map(\.raw).withUnsafeBufferPointer { views in
                table.pointee.call(function.object, views.baseAddress, Int32(views.count), &result)
            }
        }
        guard code == 0 else { throw .failed(call: function.name, reason: raised()) }
        return Value(result, self)
    }

    /// An array of the interface.
    func array(_ items: [Argument]) throws(GrammarError) -> Value {
        try call(try function("ffi.Array"), items)
    }

    /// The message of this thread's last failure.
    private func raised() -> String {
        var object: UnsafeMutablePointer<minima_ffi_object>?
        table.pointee.take_error(&object)
        guard let object else { return "no reason given" }
        defer { _ = table.pointee.release(object) }
        guard object.pointee.kind == MINIMA_FFI_ERROR.rawValue else { return "no reason given" }
        let members = UnsafeRawPointer(object + 1).assumingMemoryBound(to: minima_ffi_error.self)
        return Self.text(members.pointee.message)
    }

    private static func text(_ bytes: minima_ffi_bytes) -> String {
        String(
            decoding: UnsafeRawBufferPointer(start: bytes.data, count: bytes.size), as: UTF8.self)
    }
}
