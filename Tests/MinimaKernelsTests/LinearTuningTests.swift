import Testing

@testable import MinimaKernels

@Suite("Kept cuts of linear kernels")
struct LinearTuningTests {
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

    /// A cut of stages of so many columns, and runs of so many microseconds.
    private func timed(_ stage: Int, _ runs: [Double]) -> (tuning: LinearTuning, time: DeviceTime) {
        (
            LinearTuning(stage: stage, grain: stage, chunk: 5120, readsAhead: false, blocks: 132),
            DeviceTime(runs)
        )
    }

    @Test func onlyWhatIsClearlyFasterReplacesTheUsualCut() throws {
        let usual = timed(1024, [10, 10.1, 10.2, 10.3, 10.4])
        let near = timed(512, [9.9, 10, 10.1, 10.2, 10.3])
        let kept = try #require(LinearTuner.Finding([usual, near]))
        #expect(kept.tuning == usual.tuning && kept.time == usual.time && kept.usual == nil)

        let fast = timed(768, [8, 8.1, 8.2, 8.3, 8.4])
        let fastest = timed(1280, [7, 7.1, 7.2, 7.3, 7.4])
        // Not clearly faster than `fastest`, nor slower.
        let middle = timed(640, [7.1, 7.2, 7.3, 7.4, 7.5])
        for order in [
            [usual, near, fast, middle, fastest], [usual, fastest, near, middle, fast],
        ] {
            let found = try #require(LinearTuner.Finding(order))
            #expect(found.tuning == fastest.tuning && found.time == fastest.time)
            #expect(found.usual == usual.time)
        }
        let none = LinearTuner.Finding([])
        #expect(none?.tuning == nil)
    }
}
