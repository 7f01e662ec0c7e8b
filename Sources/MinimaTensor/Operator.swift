import CMinimaTorchAPI
import Glibc
import MinimaCore
import Synchronization

/// An operator of libtorch's dispatcher, by its name and overload.
///
/// One generic boxed call serves all of them, so nothing is bound by hand; parameters that are not
/// given take the defaults of the operator's schema. See
/// `torch/native_functions.yaml` for the schemas.
public final class Operator: Sendable, CustomStringConvertible {
    /// Name with namespace: `aten::matmul`.
    public let name: String
    /// Overload: `dim_IntList`; empty for the default one.
    public let overload: String

    /// The address of the dispatcher's handle; 0 before the first call.
    private let found = Atomic<UInt>(0)

    /// Names an operator; it is looked up at its first call.
    public init(_ name: String, _ overload: String = "") {
        self.name = name
        self.overload = overload
    }

    /// Name and overload as libtorch writes them.
    public var description: String { overload.isEmpty ? name : "\(name).\(overload)" }

    /// An argument of an operator.
    public enum Argument: Sendable {
        case none
        case tensor(Tensor)
        case int(Int)
        case double(Double)
        case bool(Bool)
        case text(String)
        case ints([Int])
        case doubles([Double])
        case tensors([Tensor])
        case optionalTensors([Tensor?])
        case dtype(DType)
        case device(Device)
        case generator(RandomGenerator)
    }

    /// A result of an operator.
    public enum Output: Sendable {
        case none
        case tensor(Tensor)
        case tensors([Tensor])
        case int(Int)
        case double(Double)
        case bool(Bool)
    }

    /// Calls the operator.
    ///
    /// - Throws: `TensorError.operatorFailed` with the operator, its arguments' shapes and
    ///   libtorch's own words.
    public func call(_ arguments: [Argument]) throws(TensorError) -> [Output] {
        let table = try Torch.table()
        let handle = try handle(table)
        var pools = ArgumentPools()
        for argument in arguments { pools.append(argument) }
        var outputs: [Output] = []
        // The pools hold raw handles; the arguments own them until the call is over.
        try withExtendedLifetime(arguments) { () throws(TensorError) in
            outputs = try pools.call(table, handle) { self.described(arguments) }
        }
        return outputs
    }

    /// Calls the operator and returns its only result, a tensor.
    public func callAsFunction(_ arguments: Argument...) throws(TensorError) -> Tensor {
        let outputs = try call(arguments)
        guard outputs.count == 1, case .tensor(let result) = outputs[0] else {
            throw .unexpectedResult(call: described(arguments), found: "\(outputs.count) results")
        }
        return result
    }

    /// Calls the operator and returns its results, all of them tensors (or one list of tensors).
    public func tensors(_ arguments: Argument...) throws(TensorError) -> [Tensor] {
        var tensors: [Tensor] = []
        for output in try call(arguments) {
            switch output {
            case .tensor(let tensor): tensors.append(tensor)
            case .tensors(let list): tensors += list
            default:
                throw .unexpectedResult(call: described(arguments), found: "\(output)")
            }
        }
        return tensors
    }

    private func handle(_ table: Torch.Table) throws(TensorError)
        -> OpaquePointer
    {
        if let handle = OpaquePointer(bitPattern: found.load(ordering: .acquiring)) {
            return handle
        }
        var handle: OpaquePointer?
        try Torch.check({ description }) { table.pointee.find(name, overload, &handle, $0) }
        guard let handle else { throw .unexpectedResult(call: description, found: "no operator") }
        found.store(UInt(bitPattern: handle), ordering: .releasing)
        return handle
    }

    private func described(_ arguments: [Argument]) -> String {
        "\(description)(\(arguments.map(\.described).joined(separator: ", ")))"
    }
}

extension Operator.Argument {
    /// A tensor, or `none`.
    public static func optional(_ tensor: Tensor?) -> Self {
        tensor.map { .tensor($0) } ?? .none
    }

    fileprivate var described: String {
        switch self {
        case .none: "none"
        case .tensor(let tensor): tensor.summary
        case .int(let value): "\(value)"
        case .double(let value): "\(value)"
        case .bool(let value): "\(value)"
        case .text(let value): "\"\(value)\""
        case .ints(let values): "\(values)"
        case .doubles(let values): "\(values)"
        case .tensors(let tensors): "[\(tensors.map(\.summary).joined(separator: ", "))]"
        case .optionalTensors(let tensors):
            "[\(tensors.map { $0?.summary ?? "none" }.joined(separator: ", "))]"
        case .dtype(let dtype): "\(dtype)"
        case .device(let device): "\(device)"
        case .generator: "generator"
        }
    }
}

/// Arguments laid out for the C call.
private struct ArgumentPools {
    private var arguments: [minima_argument] = []
    private var integers: [Int64] = []
    private var doubles: [Double] = []
    private var pointers: [UnsafeMutableRawPointer?] = []
    private var text: [CChar] = []

    init() {
        arguments.reserveCapacity(8)
        integers.reserveCapacity(16)
        pointers.reserveCapacity(4)
    }

    private mutating func add(_ tag: minima_tag, at offset: Int, count: Int = 1) {
        arguments.append(minima_argument(tag: tag, offset: Int64(offset), count: Int64(count)))
    }

    private mutating func add(_ tag: minima_tag, integer: Int) {
        add(tag, at: integers.count)
        integers.append(Int64(integer))
    }

    mutating func append(_ argument: Operator.Argument) {
        switch argument {
        case .none: add(MINIMA_NONE, at: 0)
        case .tensor(let tensor):
            add(MINIMA_TENSOR, at: pointers.count)
            pointers.append(UnsafeMutableRawPointer(tensor.handle.pointer))
        case .int(let value): add(MINIMA_INTEGER, integer: value)
        case .bool(let value): add(MINIMA_BOOL, integer: value ? 1 : 0)
        case .dtype(let dtype): add(MINIMA_INTEGER, integer: Int(dtype.scalarType))
        case .double(let value):
            add(MINIMA_DOUBLE, at: doubles.count)
            doubles.append(value)
        case .text(let value):
            let bytes = value.utf8.map { CChar(bitPattern: $0) }
            add(MINIMA_TEXT, at: text.count, count: bytes.count)
            text += bytes
        case .ints(let values):
            add(MINIMA_INTEGERS, at: integers.count, count: values.count)
            integers += values.map { Int64($0) }
        case .doubles(let values):
            add(MINIMA_DOUBLES, at: doubles.count, count: values.count)
            doubles += values
        case .tensors(let tensors):
            add(MINIMA_TENSORS, at: pointers.count, count: tensors.count)
            pointers += tensors.map { UnsafeMutableRawPointer($0.handle.pointer) }
        case .optionalTensors(let tensors):
            add(MINIMA_OPTIONAL_TENSORS, at: pointers.count, count: tensors.count)
            pointers += tensors.map { $0.map { UnsafeMutableRawPointer($0.handle.pointer) } }
        case .device(let device):
            add(MINIMA_DEVICE, at: integers.count)
            integers += [Int64(device.code.type), Int64(device.code.index)]
        case .generator(let generator):
            add(MINIMA_GENERATOR, at: pointers.count)
            pointers.append(UnsafeMutableRawPointer(generator.pointer))
        }
    }

    func call(
        _ table: Torch.Table, _ handle: OpaquePointer,
        described: () -> String
    ) throws(TensorError) -> [Operator.Output] {
        // More results than any operator of ATen has.
        let capacity = 16
        var failure: TensorError?
        let outputs = withUnsafeTemporaryAllocation(of: minima_result.self, capacity: capacity) {
            results -> [Operator.Output] in
            var count: Int64 = 0
            do throws(TensorError) {
                try Torch.check(described) { message in
                    arguments.withUnsafeBufferPointer { arguments in
                        integers.withUnsafeBufferPointer { integers in
                            doubles.withUnsafeBufferPointer { doubles in
                                pointers.withUnsafeBufferPointer { pointers in
                                    text.withUnsafeBufferPointer { text in
                                        guard let results = results.baseAddress else { return 1 }
                                        var packed = minima_arguments(
                                            arguments: arguments.base,
                                            count: Int64(arguments.count),
                                            integers: integers.base, doubles: doubles.base,
                                            pointers: pointers.base, text: text.base)
                                        return table.pointee.call(
                                            handle, &packed, results, Int64(capacity), &count,
                                            message)
                                    }
                                }
                            }
                        }
                    }
                }
            } catch {
                failure = error
            }
            return results[..<Int(count)].map { Operator.Output(taking: $0) }
        }
        if let failure { throw failure }
        return outputs
    }
}

extension UnsafeBufferPointer {
    /// The base address; for an empty buffer any address, which is never read.
    var base: UnsafePointer<Element> {
        baseAddress ?? UnsafePointer(bitPattern: MemoryLayout<Element>.alignment).unsafelyUnwrapped
    }
}

extension Operator.Output {
    /// Takes over the handles of `result`.
    fileprivate init(taking result: minima_result) {
        switch result.tag {
        case MINIMA_TENSOR:
            self = result.tensor.map { .tensor(Tensor(owning: $0)) } ?? .none
        case MINIMA_TENSORS:
            let tensors = (0..<Int(result.count)).compactMap { index in
                result.tensors.flatMap { $0[index] }.map { Tensor(owning: $0) }
            }
            free(result.tensors)
            self = .tensors(tensors)
        case MINIMA_INTEGER: self = .int(Int(result.integer))
        case MINIMA_DOUBLE: self = .double(result.number)
        case MINIMA_BOOL: self = .bool(result.integer != 0)
        default: self = .none
        }
    }
}
