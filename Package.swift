// swift-tools-version: 6.1
import PackageDescription

/// Where libtorch's headers and libraries are: what `make setup` laid under `.deps`, or the torch
/// package that `MINIMA_TORCH` names; an empty one names none.
let torch =
    Context.environment["MINIMA_TORCH"].flatMap { $0.isEmpty ? nil : $0 }
    ?? "\(Context.packageDirectory)/.deps/site-packages/torch"

let package = Package(
    name: "minima",
    products: [
        .executable(name: "minima", targets: ["minima"]),
        .library(name: "MinimaTorch", type: .dynamic, targets: ["CMinimaTorch"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", exact: "1.8.2"),
        .package(url: "https://github.com/apple/swift-collections", exact: "1.6.0"),
        .package(
            url: "https://github.com/hummingbird-project/hummingbird", exact: "2.28.1", traits: []),
        .package(url: "https://github.com/apple/swift-nio", exact: "2.101.2"),
        .package(url: "https://github.com/apple/swift-http-types", exact: "1.8.0"),
        .package(url: "https://github.com/apple/swift-log", exact: "1.16.2"),
        .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", exact: "0.2.0"),
    ],
    targets: [
        .target(name: "CMinimaTorchAPI"),
        // Not a dependency of CMinimaTorchAPI: under C++20, clang would want its module built.
        .target(
            name: "CMinimaTorch",
            cxxSettings: [
                .headerSearchPath("../CMinimaTorchAPI/include"),
                .unsafeFlags([
                    "-isystem", "\(torch)/include", "-fvisibility=hidden",
                    "-ffile-prefix-map=\(torch)/=torch/",
                ]),
            ],
            linkerSettings: [
                // Without its start files the library would need the Swift runtime.
                .unsafeFlags([
                    "-L\(torch)/lib", "-Xlinker", "-rpath", "-Xlinker", "\(torch)/lib",
                    "-Xlinker", "-soname", "-Xlinker", "libMinimaTorch.so",
                    "-nostartfiles", "-no-toolchain-stdlib-rpath",
                ]),
                .linkedLibrary("torch_cpu"), .linkedLibrary("c10"),
            ]),
        .systemLibrary(name: "CPCRE2", providers: [.apt(["libpcre2-dev"])]),
        .target(
            name: "MinimaCore",
            dependencies: [.product(name: "OrderedCollections", package: "swift-collections")]),
        .target(name: "MinimaTensor", dependencies: ["MinimaCore", "CMinimaTorchAPI"]),
        .target(
            name: "CMinimaCUDA", exclude: ["cuda"], cSettings: [.unsafeFlags(["-std=c23"])]),
        .target(
            name: "MinimaKernels", dependencies: ["MinimaCore", "MinimaTensor", "CMinimaCUDA"]),
        .target(name: "MinimaCheckpoint", dependencies: ["MinimaCore"]),
        .target(name: "MinimaTokenizer", dependencies: ["MinimaCore", "CPCRE2"]),
        .target(
            name: "MinimaTemplate",
            dependencies: [
                "MinimaCore", .product(name: "OrderedCollections", package: "swift-collections"),
            ]),
        .target(name: "MinimaFormats", dependencies: ["MinimaCore", "MinimaTensor"]),
        .target(
            name: "MinimaModels",
            dependencies: ["MinimaCore", "MinimaTensor", "MinimaCheckpoint", "MinimaFormats"]),
        .target(
            name: "MinimaRuntime",
            dependencies: [
                "MinimaCore", "MinimaTensor", "MinimaKernels", "MinimaFormats", "MinimaModels",
            ]),
        .target(
            name: "MinimaStages",
            dependencies: [
                "MinimaCore", "MinimaTensor", "MinimaCheckpoint", "MinimaFormats", "MinimaModels",
            ]),
        .target(name: "MinimaReport", dependencies: ["MinimaCore"]),
        .target(name: "CMinimaGrammar", cSettings: [.unsafeFlags(["-std=c23"])]),
        .target(
            name: "MinimaGrammar", dependencies: ["MinimaCore", "MinimaRuntime", "CMinimaGrammar"]),
        .target(
            name: "CMinimaPage", exclude: ["page"], cSettings: [.unsafeFlags(["-std=c23"])]),
        .target(
            name: "MinimaServer",
            dependencies: [
                "MinimaCore", "MinimaTokenizer", "MinimaTemplate", "MinimaRuntime", "MinimaGrammar",
                "CMinimaPage",
                .product(name: "OrderedCollections", package: "swift-collections"),
                .product(name: "HummingbirdCore", package: "hummingbird"),
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "HTTPTypes", package: "swift-http-types"),
                .product(name: "Logging", package: "swift-log"),
            ]),
        .target(
            name: "MinimaLoad",
            dependencies: [
                "MinimaCore",
                .product(name: "Histogram", package: "hdrhistogram-swift"),
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "NIOHTTP1", package: "swift-nio"),
            ]),
        .executableTarget(
            name: "minima",
            dependencies: [
                "MinimaCore", "MinimaTensor", "MinimaKernels", "MinimaCheckpoint", "MinimaFormats",
                "MinimaModels", "MinimaRuntime", "MinimaStages", "MinimaReport", "MinimaTemplate",
                "MinimaTokenizer", "MinimaServer", "MinimaLoad",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ]),
        .testTarget(name: "MinimaCoreTests", dependencies: ["MinimaCore"]),
        .testTarget(
            name: "MinimaTensorTests",
            dependencies: ["MinimaTensor", "MinimaCheckpoint", "MinimaCore"]),
        .testTarget(
            name: "MinimaCheckpointTests", dependencies: ["MinimaCheckpoint", "MinimaCore"]),
        .testTarget(
            name: "MinimaTokenizerTests",
            dependencies: ["MinimaTestSupport", "MinimaTokenizer", "MinimaCore"]),
        .testTarget(
            name: "MinimaTemplateTests",
            dependencies: ["MinimaTestSupport", "MinimaTemplate", "MinimaCore"]),
        .target(name: "CKernelFunctions", path: "Tests/CKernelFunctions"),
        // What tests of several modules need.
        .target(
            name: "MinimaTestSupport",
            dependencies: ["MinimaKernels", "MinimaCheckpoint", "MinimaTensor", "MinimaCore"],
            path: "Tests/Support"),
        .testTarget(
            name: "MinimaKernelsTests",
            dependencies: [
                "MinimaTestSupport", "MinimaKernels", "MinimaTensor", "MinimaCore",
                "CKernelFunctions",
            ]),
        .testTarget(
            name: "MinimaFormatsTests",
            dependencies: ["MinimaFormats", "MinimaTensor", "MinimaCore"]),
        .testTarget(
            name: "MinimaModelsTests",
            dependencies: [
                "MinimaTestSupport",
                "MinimaModels", "MinimaFormats", "MinimaCheckpoint", "MinimaTensor", "MinimaCore",
            ]),
        .testTarget(
            name: "MinimaRuntimeTests",
            dependencies: [
                "MinimaTestSupport",
                "MinimaRuntime", "MinimaKernels", "MinimaModels", "MinimaFormats",
                "MinimaCheckpoint", "MinimaTensor", "MinimaCore",
            ]),
        .testTarget(
            name: "MinimaGrammarTests",
            dependencies: [
                "MinimaTestSupport",
                "MinimaGrammar", "MinimaRuntime", "MinimaModels", "MinimaCheckpoint",
                "MinimaTokenizer", "MinimaTensor", "MinimaCore",
            ]),
        .testTarget(
            name: "MinimaServerTests",
            dependencies: [
                "MinimaTestSupport",
                "MinimaServer", "MinimaRuntime", "MinimaModels", "MinimaCheckpoint",
                "MinimaTokenizer", "MinimaTemplate", "MinimaTensor", "MinimaCore",
            ], exclude: ["Clients"]),
        .testTarget(
            name: "MinimaLoadTests",
            dependencies: [
                "MinimaTestSupport",
                "MinimaLoad", "MinimaServer", "MinimaRuntime", "MinimaModels", "MinimaCheckpoint",
                "MinimaTokenizer", "MinimaTemplate", "MinimaTensor", "MinimaCore",
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "NIOHTTP1", package: "swift-nio"),
            ]),
        .testTarget(
            name: "MinimaStagesTests",
            dependencies: [
                "MinimaTestSupport",
                "MinimaStages", "MinimaModels", "MinimaFormats", "MinimaCheckpoint",
                "MinimaTensor", "MinimaCore",
            ]),
        .testTarget(name: "MinimaCommandTests", dependencies: ["MinimaTestSupport"]),
        .testTarget(
            name: "MinimaReportTests",
            dependencies: ["MinimaTestSupport", "MinimaReport", "MinimaCore"]),
    ],
    cxxLanguageStandard: .cxx20
)

// The tests under AddressSanitizer are those of one room; nothing else is built with it.
if Context.environment["MINIMA_SANITIZED"] == "1" {
    let kept: Set = [
        "CMinimaTorchAPI", "CMinimaTorch", "MinimaCore", "MinimaTensor", "MinimaCheckpoint",
        "MinimaTensorTests",
    ]
    package.targets.removeAll { !kept.contains($0.name) }
    package.products.removeAll { $0.name == "minima" }
} else {
    // Tests spend most of their own time in these: calls of operators, hashes, JSON. What is built for
    // AddressSanitizer is not optimized.
    for target in package.targets {
        switch target.name {
        case "CMinimaTorch":
            target.cxxSettings =
                (target.cxxSettings ?? []) + [.unsafeFlags(["-O1"], .when(configuration: .debug))]
        case "MinimaTensor", "MinimaCore":
            target.swiftSettings =
                (target.swiftSettings ?? []) + [.unsafeFlags(["-O"], .when(configuration: .debug))]
        default: break
        }
    }
}
