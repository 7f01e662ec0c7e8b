import Glibc
import MinimaCore
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaKernels

@Suite("kernel compiler")
struct KernelCompilerTests {
    @Test func aMissingLibraryIsAnErrorWithARemedy() throws {
        let error = #expect(throws: KernelError.self) {
            try KernelCompiler(libraries: ["/nowhere/libnvrtc.so.13", "libc.so.6"])
        }
        let text = try #require(error).description
        #expect(text.contains("/nowhere/libnvrtc.so.13"))
        #expect(text.contains("libc.so.6: it is too old, for it lacks nvrtcVersion"))
        #expect(text.contains("pip install nvidia-cuda-nvrtc==13.0.88"))
    }

    @Test func aMissingDriverIsAnErrorWithARemedy() throws {
        let error = #expect(throws: KernelError.self) {
            try CUDADriver(path: "/nowhere/libcuda.so")
        }
        let text = try #require(error).description
        #expect(text.contains("/nowhere/libcuda.so"))
        #expect(text.contains("NVIDIA driver"))
    }

    @Test func theCPUIsNoDeviceForKernels() throws {
        let error = #expect(throws: KernelError.self) {
            try CUDAContext(device: .cpu, cacheDirectory: nil)
        }
        #expect(try #require(error).description.contains("cpu"))
    }

    @Test(arguments: [
        (8, 0, "sm_80"), (8, 9, "sm_89"), (9, 0, "sm_90a"), (10, 0, "sm_100a"), (12, 0, "sm_120a"),
    ])
    func architecturesHaveTheCompilersNames(_ major: Int, _ minor: Int, _ name: String) {
        #expect(CUDAContext.architecture(major: major, minor: minor) == name)
    }

    @Test(arguments: [
        ("1A", KernelConstant.int(1)), ("", .int(1)), ("A B", .int(1)), ("A=1", .int(1)),
        ("Ä", .int(1)), ("A", .double(.nan)), ("A", .double(.infinity)), ("A", .text("1\n#error")),
    ])
    func impossibleConstantsAreRefused(_ name: String, _ value: KernelConstant) throws {
        let error = #expect(throws: KernelError.self) {
            try KernelConstant.definitions([name: value])
        }
        #expect(try #require(error).description.contains("the kernel constant \(name) ="))
    }

    @Test func constantsBecomeSortedDefinitions() throws {
        let options = try KernelConstant.definitions([
            "B": 1.0, "A": -3, "D": true, "C": "unsigned short", "E": 1e-6, "F": .double(1e300),
        ])
        #expect(
            options == [
                "-DA=(-3)", "-DB=1.0", "-DC=unsigned short", "-DD=1", "-DE=1e-06", "-DF=1e+300",
            ])
    }
}

@Suite("NVRTC", .enabled(if: Compiler.isThere, "\(Compiler.remedy)"))
struct NVRTCTests {
    let compiler: KernelCompiler

    init() throws { compiler = try Compiler.found.get() }

    @Test func itIsVersion13AndKnowsOurArchitectures() {
        #expect(compiler.version.hasPrefix("13."))
        #expect(Set(compiler.architectures).isSuperset(of: [80, 90, 100, 120]))
    }

    /// The source refuses to compile with any other values.
    @Test func constantsArriveWithTheirValues() throws {
        let source = KernelSource(
            name: "constants.cu",
            text: """
                static_assert(COUNT == 1ll << 40 && NEGATIVE * 2 == -6 && FLAG, "integers");
                static_assert(EPSILON == 1e-6 && WHOLE == 2.0 && sizeof(WHOLE) == 8, "doubles");
                static_assert(sizeof(TYPE) == 2 && (TYPE)-1 > 0, "texts");
                extern "C" __global__ void check() {}
                """)
        _ = try compiler.compile(
            source, architecture: "sm_80",
            constants: [
                "COUNT": .int(1 << 40), "NEGATIVE": -3, "FLAG": true, "EPSILON": 1e-6, "WHOLE": 2.0,
                "TYPE": "unsigned short",
            ])
    }

    @Test func headersAreFound() throws {
        let source = KernelSource(
            name: "headers.cu",
            text: "#include \"common.cuh\"\nextern \"C\" __global__ void check() {}")
        _ = try compiler.compile(source, architecture: "sm_90a")
    }

    @Test func aBrokenSourceIsAnErrorWithTheCompilersWords() throws {
        let source = KernelSource(
            name: "broken.cu",
            text: "extern \"C\" __global__ void f(int* p) {\n  *p = undeclared + FACTOR;\n}")
        let error = #expect(throws: KernelError.self) {
            try compiler.compile(source, architecture: "sm_90a", constants: ["FACTOR": 3])
        }
        let text = try #require(error).description
        #expect(text.contains("broken.cu(2)"), "file and line")
        #expect(text.contains("\"undeclared\" is undefined"))
        #expect(text.contains("--gpu-architecture=sm_90a") && text.contains("-DFACTOR=3"))
        #expect(text.contains("NVRTC_ERROR_COMPILATION"))
    }

    @Test func anUnknownArchitectureIsAnError() throws {
        let error = #expect(throws: KernelError.self) {
            try compiler.compile(scale, architecture: "sm_7", constants: ["FACTOR": 3])
        }
        #expect(try #require(error).description.contains("sm_7"))
    }

    @Test func registersAreLimited() throws {
        // Sixty sums alive at a time need more than 32 registers.
        let source = KernelSource(
            name: "many.cu",
            text: """
                extern "C" __global__ void many(float* p) {
                    float sums[60];
                    #pragma unroll
                    for (int i = 0; i < 60; ++i) sums[i] = p[i];
                    for (int n = 0; n < 100; ++n) {
                        #pragma unroll
                        for (int i = 0; i < 60; ++i) sums[i] = sums[i] * sums[(i + 7) % 60] + p[n];
                    }
                    #pragma unroll
                    for (int i = 0; i < 60; ++i) p[i] = sums[i];
                }
                """)
        func registers(_ limit: Int?) throws -> Int {
            let log = try compiler.compile(
                source, architecture: "sm_90a", registers: limit, report: true
            ).log
            let words = log.split(whereSeparator: { $0 == " " || $0 == "," })
            let place = try #require(words.firstIndex(of: "registers"))
            return try #require(Int(words[place - 1]))
        }
        #expect(try registers(nil) > 32)
        #expect(try registers(32) <= 32)
    }

    @Test func aSourceWithAZeroOrNoTextCompilesOrFails() throws {
        _ = try compiler.compile(KernelSource(name: "empty.cu", text: ""), architecture: "sm_80")
        #expect(throws: KernelError.self) {
            try compiler.compile(
                KernelSource(name: "zero.cu", text: "int a;\0 }"), architecture: "sm_80",
                constants: ["int": "nothing_known"])
        }
    }

    @Test func theCacheReturnsWhatTheCompilerMade() throws {
        let folder = try Scratch()
        let cache = try KernelCache(directory: folder.path)
        func cubin(
            _ factor: KernelConstant, _ architecture: String = "sm_80", registers: Int? = nil
        )
            throws -> Cubin
        {
            try compiler.cubin(
                scale, architecture: architecture, constants: ["FACTOR": factor],
                registers: registers, cache: cache)
        }
        let first = try cubin(3)
        #expect(first.origin.isCompiler)
        let second = try cubin(3)
        #expect(second.origin.isCache)
        #expect(second.bytes == first.bytes)
        // Whatever decides about the machine code decides about the key.
        #expect(try cubin(4).origin.isCompiler)
        #expect(try cubin(3.0).origin.isCompiler)
        #expect(try cubin(3, "sm_90a").origin.isCompiler)
        #expect(try cubin(3, registers: 64).origin.isCompiler)
        let renamed = KernelSource(name: scale.name, text: scale.text + "\n")
        #expect(
            try compiler.cubin(
                renamed, architecture: "sm_80", constants: ["FACTOR": 3], cache: cache
            ).origin.isCompiler)
        #expect(folder.entries.count == 6)
    }

    @Test func aDamagedFileIsCompiledAnew() throws {
        let folder = try Scratch()
        let cache = try KernelCache(directory: folder.path)
        func cubin() throws -> Cubin {
            try compiler.cubin(scale, architecture: "sm_80", constants: ["FACTOR": 3], cache: cache)
        }
        let whole = try cubin()
        let name = try #require(folder.shown.first)
        var file = try folder.read(name)
        file[file.count / 2] ^= 1
        try folder.write(file, to: name)
        let again = try cubin()
        #expect(again.origin.isCompiler)
        #expect(again.bytes == whole.bytes)
        #expect(try cubin().origin.isCache)
    }

    @Test func anUnwritableFolderStillGivesAKernel() throws {
        let folder = try Scratch()
        let inner = "\(folder.path)/inner"
        let cache = try KernelCache(directory: inner)
        // The folder goes away under the cache, so that even the superuser cannot write.
        rmdir(inner)
        let cubin = try compiler.cubin(
            scale, architecture: "sm_80", constants: ["FACTOR": 3], cache: cache)
        guard case .compilerOnly(let error) = cubin.origin else {
            Issue.record("the origin is \(cubin.origin)")
            return
        }
        #expect(error.description.contains(inner))
        #expect(!cubin.bytes.isEmpty)
    }
}

extension Cubin.Origin {
    var isCache: Bool {
        if case .cache = self { true } else { false }
    }

    var isCompiler: Bool {
        if case .compiler = self { true } else { false }
    }
}
