import MinimaCheckpoint
import MinimaCore
import MinimaTensor

/// Writes tensors and a configuration as a checkpoint at `path`.
public func writeCheckpoint(
    _ tensors: [(name: String, tensor: Tensor)], config: JSON, to path: String
) throws {
    let directory = try AtomicDirectory(destination: path)
    let writer = try SafetensorsWriter(
        in: directory,
        tensors: tensors.map {
            TensorDescription(name: $0.name, dtype: $0.tensor.dtype, shape: $0.tensor.shape)
        })
    for (name, tensor) in tensors { try tensor.withBytes { try writer.write($0, to: name) } }
    try writer.finish()
    try directory.write(config.text(), to: "config.json")
    try directory.commit()
}
