import CMinimaCUDA
import Glibc

/// The CUDA driver of this machine; its functions and what their codes mean.
final class CUDADriver: Sendable {
    // Filled once, never written again.
    nonisolated(unsafe) let table: UnsafeMutablePointer<minima_cuda_driver>

    /// Opens the driver and starts it.
    ///
    /// - Parameter path: A file, or a name that the dynamic linker resolves.
    init(path: String = "libcuda.so.1") throws(KernelError) {
        var message: UnsafeMutablePointer<CChar>?
        guard let table = minima_cuda_open_driver(path, &message) else {
            defer { free(message) }
            throw .driverNotFound(
                reason: message.map { String(cString: $0) } ?? "\(path) gave no reason")
        }
        self.table = table
        try check("cuInit", table.pointee.`init`(0))
    }

    deinit { free(table) }

    /// Throws unless `code` says success.
    func check(_ call: @autoclosure () -> String, _ code: Int32) throws(KernelError) {
        guard code != 0 else { return }
        var name: UnsafePointer<CChar>?
        var text: UnsafePointer<CChar>?
        _ = table.pointee.error_name(code, &name)
        _ = table.pointee.error_string(code, &text)
        throw .driverFailed(
            call: call(), code: code,
            name: name.map { String(cString: $0) } ?? "an unknown error",
            text: text.map { String(cString: $0) } ?? "the driver knows no such code")
    }

    /// The object that `code`'s call stored.
    func take<Handle>(
        _ handle: Handle?, _ call: @autoclosure () -> String, _ code: Int32
    ) throws(KernelError) -> Handle {
        try check(call(), code)
        guard let handle else {
            throw .driverFailed(call: call(), code: 0, name: "CUDA_SUCCESS", text: "but no result")
        }
        return handle
    }
}
