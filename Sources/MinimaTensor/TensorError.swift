import MinimaCore

/// What can go wrong while computing with tensors.
public enum TensorError: Error, CustomStringConvertible {
    /// libtorch or Minima's library over it could not be opened.
    case libraryNotFound(reason: String)
    /// The libtorch that was found is not the one Minima was built for.
    case wrongVersion(found: String, needed: String)
    /// A device that this machine or this libtorch does not have.
    case noSuchDevice(Device, reason: String)
    /// An operator refused its arguments or failed; `call` shows them with their shapes.
    case operatorFailed(call: String, reason: String)
    /// An operator returned another number or kind of results than its caller reads.
    case unexpectedResult(call: String, found: String)
    /// A request that no operator was asked for because its arguments cannot be right.
    case invalidArgument(function: String, reason: String)
    /// Values that must be finite are not.
    case notFinite(function: String, count: Int)

    /// What happened and what to do, in one or two sentences.
    public var description: String {
        switch self {
        case .libraryNotFound(let reason):
            """
            libtorch \(Torch.neededVersion) could not be opened: \(reason). Run `make setup`, or name an \
            installed torch package in MINIMA_TORCH (the folder that `python3 -c "import torch; \
            print(torch.__path__[0])"` prints) or its lib folder in LD_LIBRARY_PATH.
            """
        case .wrongVersion(let found, let needed):
            """
            libtorch \(needed) is needed, \(found) was found. Install torch==\(needed), or name such a \
            package in MINIMA_TORCH.
            """
        case .noSuchDevice(let device, let reason):
            "the device \(device) cannot be used: \(reason)"
        case .operatorFailed(let call, let reason):
            "\(call) failed: \(reason)"
        case .unexpectedResult(let call, let found):
            "\(call) returned \(found)"
        case .invalidArgument(let function, let reason):
            "\(function): \(reason)"
        case .notFinite(let function, let count):
            """
            \(function) was given \(count) values that are NaN or infinite; check the weights and the \
            calibration text they come from
            """
        }
    }
}
