import MinimaCore

extension SafetensorsFile {
    /// Reads every floating-point tensor and throws at the first value that is not finite.
    ///
    /// Off the loading path: it reads the whole file once. Pages are released as it goes, so the
    /// process stays small.
    public func checkFinite() throws(CheckpointError) {
        for tensor in tensors {
            guard let found = try firstNonFinite(in: tensor.name) else { continue }
            throw .notFinite(
                path: path, tensor: tensor.name, index: found.index, value: found.value)
        }
    }

    /// The first infinite or NaN element of a tensor, by its row-major index; `nil` when there is
    /// none, as always for integers.
    public func firstNonFinite(
        in name: String
    ) throws(CheckpointError) -> (index: Int, value: Double)? {
        try firstNonFinite(in: name, chunkBytes: 16 << 20)
    }

    /// Scans in chunks of `chunkBytes`, a multiple of 8 so that no element spans two.
    func firstNonFinite(
        in name: String, chunkBytes: Int
    ) throws(CheckpointError) -> (index: Int, value: Double)? {
        guard let info = info(name), let layout = FloatLayout(info.dtype) else {
            _ = try bytes(of: name)
            return nil
        }
        let tensor = try bytes(of: name)
        for start in stride(from: 0, to: tensor.count, by: chunkBytes) {
            let end = min(start + chunkBytes, tensor.count)
            let index = tensor.withUnsafeBytes {
                layout.firstNonFinite(UnsafeRawBufferPointer(rebasing: $0[start..<end]))
            }
            if let index {
                let element = start / layout.byteCount + index
                return (element, tensor.withUnsafeBytes { layout.value($0, at: element) })
            }
            tensor.mapping.release(
                tensor.range.lowerBound + start..<tensor.range.lowerBound + end)
        }
        return nil
    }
}

/// The bits by which a floating-point format marks values that are not finite.
private enum FloatLayout {
    case eight(mask: UInt8, mantissa: UInt8)
    case sixteen(mask: UInt16, mantissa: UInt16)
    case thirtyTwo
    case sixtyFour

    init?(_ dtype: DType) {
        switch dtype {
        // E4M3 as machine learning uses it has no infinity; all ones below the sign is its NaN.
        case .float8e4m3: self = .eight(mask: 0x7F, mantissa: 0x07)
        case .float8e5m2: self = .eight(mask: 0x7C, mantissa: 0x03)
        case .float16: self = .sixteen(mask: 0x7C00, mantissa: 0x03FF)
        case .bfloat16: self = .sixteen(mask: 0x7F80, mantissa: 0x007F)
        case .float32: self = .thirtyTwo
        case .float64: self = .sixtyFour
        default: return nil
        }
    }

    var byteCount: Int {
        switch self {
        case .eight: 1
        case .sixteen: 2
        case .thirtyTwo: 4
        case .sixtyFour: 8
        }
    }

    func firstNonFinite(_ bytes: UnsafeRawBufferPointer) -> Int? {
        switch self {
        case .eight(let mask, _): first(in: bytes, mask: mask)
        case .sixteen(let mask, _): first(in: bytes, mask: mask)
        case .thirtyTwo: first(in: bytes, mask: UInt32(0x7F80_0000))
        case .sixtyFour: first(in: bytes, mask: UInt64(0x7FF0_0000_0000_0000))
        }
    }

    /// The first element with all bits of `mask` set. Blocks are tested without branches, which
    /// the compiler turns into vector code; only a block that holds one is searched.
    private func first<Bits: FixedWidthInteger & UnsignedInteger>(
        in bytes: UnsafeRawBufferPointer, mask: Bits
    ) -> Int? {
        let size = MemoryLayout<Bits>.size
        let count = bytes.count / size
        let block = 1024
        var start = 0
        while start < count {
            let end = Swift.min(start + block, count)
            var largest: Bits = 0
            for index in start..<end {
                let bits = bytes.loadUnaligned(fromByteOffset: index &* size, as: Bits.self)
                largest = Swift.max(largest, Bits(littleEndian: bits) & mask)
            }
            if largest == mask {
                for index in start..<end {
                    let bits = bytes.loadUnaligned(fromByteOffset: index &* size, as: Bits.self)
                    if Bits(littleEndian: bits) & mask == mask { return index }
                }
            }
            start = end
        }
        return nil
    }

    /// A value that is not finite, as a `Double`.
    func value(_ bytes: UnsafeRawBufferPointer, at index: Int) -> Double {
        func load<Bits: FixedWidthInteger>(_ type: Bits.Type) -> Bits {
            Bits(
                littleEndian: bytes.loadUnaligned(
                    fromByteOffset: index * MemoryLayout<Bits>.size, as: type))
        }
        func special(isNaN: Bool, isNegative: Bool) -> Double {
            isNaN ? .nan : isNegative ? -.infinity : .infinity
        }
        switch self {
        case .eight(let mask, let mantissa):
            let bits = load(UInt8.self)
            return special(
                isNaN: mask == 0x7F || bits & mantissa != 0, isNegative: bits & 0x80 != 0)
        case .sixteen(_, let mantissa):
            let bits = load(UInt16.self)
            return special(isNaN: bits & mantissa != 0, isNegative: bits & 0x8000 != 0)
        case .thirtyTwo: return Double(Float(bitPattern: load(UInt32.self)))
        case .sixtyFour: return Double(bitPattern: load(UInt64.self))
        }
    }
}
