import MinimaCore
import MinimaTensor
import Testing

@testable import MinimaGrammar

/// xgrammar where `make setup` puts it; tests that need it skip themselves without it.
enum Grammars {
    static let library: Result<GrammarLibrary, GrammarError> = {
        do throws(TensorError) {
            let folder = try Torch.libraryFolder()
            do throws(GrammarError) {
                return .success(try GrammarLibrary(folders: ["\(folder)/../.."]))
            } catch {
                return .failure(error)
            }
        } catch {
            return .failure(.libraryNotFound(reason: "there is no libtorch"))
        }
    }()

    static var isInstalled: Bool {
        if case .failure(.libraryNotFound) = library { false } else { true }
    }
}

@Suite(.enabled(if: Grammars.isInstalled))
struct LibraryTests {
    @Test func opensAndPassesItsSelfTest() throws {
        _ = try Grammars.library.get()
    }

    @Test func aFolderWithoutItSaysWhatToInstall() {
        #expect {
            try GrammarLibrary(folders: ["/nowhere", "/tmp"])
        } throws: { error in
            "\(error)".contains("/nowhere or /tmp") && "\(error)".contains("xgrammar==0.2.8")
        }
    }
}
