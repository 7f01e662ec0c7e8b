import MinimaTensor

extension Device {
    /// Makes sure that a stage which streams two models layer by layer fits.
    ///
    /// - Parameters:
    ///   - content: What it keeps on this device.
    ///   - deviceBytes: Bytes of that; on the CPU they come out of the machine's memory.
    ///   - hostBytes: Bytes of the machine's memory: activations of both models.
    /// - Throws: `StageError.notEnoughMemory`.
    func checkMemory(stage: String, content: String, deviceBytes: Int, hostBytes: Int) throws {
        if let memory = try memory(), deviceBytes > memory.available {
            throw StageError.notEnoughMemory(
                purpose: "\(stage) (\(content)) on \(self)", neededBytes: deviceBytes,
                availableBytes: memory.available)
        }
        let host = self == .cpu ? Saturating.sum([hostBytes, deviceBytes]) : hostBytes
        guard let available = HostMemory.available(), host > available else { return }
        throw StageError.notEnoughMemory(
            purpose: "\(stage) (\(self == .cpu ? content : "activations of both models"))",
            neededBytes: host, availableBytes: available)
    }
}
