import Testing

@testable import MinimaKernels

@Suite("Kept cuts of linear kernels")
struct LinearTuningTextTests {
    @Test func whatWasKeptIsReadBack() {
        let tuning = LinearTuning(
            stage: 1024, grain: 512, chunk: 5120, readsAhead: true, blocks: 132)
        #expect(LinearTuning(text: tuning.text) == tuning)
        var other = tuning
        other.readsAhead = false
        #expect(LinearTuning(text: other.text) == other && other.text != tuning.text)
    }

    @Test(arguments: [
        "", "1024 512 5120 1", "1024 512 5120 1 132 1", "1024 512 5120 2 132", "0 512 5120 1 132",
        "1024 -64 5120 1 132", "1024 512 x 1 132", "1024  512 5120 1 132",
        "1024 512 5120 1 9223372036854775807", "1024 512 5120 1 132\n",
    ])
    func anythingElseIsNone(text: String) {
        #expect(LinearTuning(text: text) == nil)
    }
}
