import MinimaCheckpoint
import MinimaCore

extension TeacherCache {
    /// What the distributions depend on, and how many numbers are kept of each.
    struct Key: Sendable, Hashable {
        /// ``HealingText/hash``.
        let text: String
        /// Training windows.
        var windows: Int
        /// Tokens per window.
        let context: Int
        /// SHA-256 of the teacher's fingerprints.
        let teacher: String
        /// The teacher's vocabulary.
        let vocabulary: Int
        /// What its logits are divided by.
        var temperature = 1.0
        /// Most probable tokens that are kept: 1 to the vocabulary.
        var count = 64
        /// Bytes of a file, which a run that is killed has to compute again.
        var fileBytes = 256 << 20

        /// A key for `text` and the teacher with these `WeightSource.fingerprints`.
        init(
            _ text: HealingText, teacher fingerprints: [String: String], vocabulary: Int
        ) {
            var hash = SHA256()
            for (name, value) in fingerprints.sorted(by: { $0.key < $1.key }) {
                Array("\(name)\n\(value)\n".utf8).withUnsafeBytes { hash.update($0) }
            }
            self.text = text.hash
            windows = text.count
            context = text.settings.context
            teacher = hash.hexadecimalDigest()
            self.vocabulary = vocabulary
        }

        /// - Throws: `TeacherCacheError.badCount`.
        func check() throws(TeacherCacheError) {
            guard count >= 1, count <= vocabulary else {
                throw .badCount(count, vocabulary: vocabulary)
            }
        }

        /// Bytes that a cache takes, file headers not counted.
        var byteCount: Int { Saturating.product([windows, bytesPerWindow]) }

        /// Bytes of a window: float16 log-probabilities, ids and a float32 tail for each token.
        private var bytesPerWindow: Int {
            let perToken = count * (DType.float16.byteCount + idType.byteCount)
            return Saturating.product([context, perToken + DType.float32.byteCount])
        }

        /// The smaller integers where they reach all of the vocabulary.
        var idType: DType { vocabulary <= 1 << 16 ? .uint16 : .int32 }

        /// Windows per file.
        var windowsPerFile: Int { max(fileBytes / bytesPerWindow, 1) }

        /// Files of a cache.
        var files: Int { (windows + windowsPerFile - 1) / windowsPerFile }

        /// The windows of file `file`.
        func windows(inFile file: Int) -> Range<Int> {
            file * windowsPerFile..<min((file + 1) * windowsPerFile, windows)
        }

        /// The tensors of file `file`.
        func tensors(inFile file: Int) -> [TensorDescription] {
            let shape = [windows(inFile: file).count, context]
            return [
                TensorDescription(
                    name: Part.logProbabilities, dtype: .float16, shape: shape + [count]),
                TensorDescription(name: Part.ids, dtype: idType, shape: shape + [count]),
                TensorDescription(name: Part.tail, dtype: .float32, shape: shape),
            ]
        }

        /// Bytes of the tensors of file `file`.
        func byteCount(ofFile file: Int) -> Int {
            Saturating.product([windows(inFile: file).count, bytesPerWindow])
        }

        /// What a file says about itself.
        func metadata(ofFile file: Int) -> [(name: String, value: String)] {
            [
                ("minima", "teacher"), ("text", text), ("teacher", teacher),
                ("windows", "\(windows)"), ("context", "\(context)"),
                ("vocabulary", "\(vocabulary)"), ("temperature", "\(temperature)"),
                ("count", "\(count)"), ("file", "\(file)"),
            ]
        }
    }

    /// Names of the tensors in a file.
    enum Part {
        static let logProbabilities = "log_probabilities"
        static let ids = "ids"
        static let tail = "tail"
    }
}
