import Testing

@testable import MinimaReport

@Suite struct TextTests {
    @Test func markupEscapesWhatIsInterpolated() {
        let hostile = "<script>alert(\"a\" & 'b')</script>"
        let markup: Markup = "<p title=\"\(hostile)\">\(hostile)</p>"
        let escaped = "&lt;script&gt;alert(&quot;a&quot; &amp; &#39;b&#39;)&lt;/script&gt;"
        #expect(markup.html == "<p title=\"\(escaped)\">\(escaped)</p>")
    }

    @Test func markupInMarkupIsNotEscapedTwice() {
        let inner: Markup = "<b>\("&")</b>"
        let outer: Markup = "<p>\(inner)\([inner, inner])\(3)</p>"
        #expect(outer.html == "<p><b>&amp;</b><b>&amp;</b><b>&amp;</b>3</p>")
    }

    @Test(arguments: [
        ("\u{0}", "⟨U+0000⟩"), ("\u{1B}[31m", "⟨U+001B⟩[31m"), ("\u{9F}", "⟨U+009F⟩"),
        ("a\r\nb", "a\nb"), ("a\rb\r", "a⟨U+000D⟩b⟨U+000D⟩"), ("\r\r\n", "⟨U+000D⟩\n"),
        ("\u{202E}x\u{2066}", "⟨U+202E⟩x⟨U+2066⟩"), ("\u{2028}", "⟨U+2028⟩"),
        ("שלום \u{200F} 漢 é e\u{301} 👩‍👩‍👧\t\n", "שלום \u{200F} 漢 é e\u{301} 👩‍👩‍👧\t\n"),
    ])
    func whatCannotBeShownIsNamed(text: String, shown: String) {
        let visible = VisibleText(text).text
        #expect(visible.utf8.elementsEqual(shown.utf8), "\(visible)")
    }

    @Test(arguments: [(0xFFFE as UInt32, "FFFE"), (0x1FFFF, "1FFFF"), (0xFDD0, "FDD0")])
    func noncharactersAreNamed(value: UInt32, code: String) throws {
        let scalar = try #require(Unicode.Scalar(value))
        #expect(VisibleText(String(Character(scalar))).text == "⟨U+\(code)⟩")
    }

    @Test func columnsCountWhatATerminalShows() {
        #expect(VisibleText.columns("abc") == 3)
        #expect(VisibleText.columns("漢字") == 4)
        #expect(VisibleText.columns("e\u{301}\u{200B}") == 1)
    }

    @Test func longLinesLoseTheirMiddle() {
        #expect(VisibleText.fit("abcdefgh", width: 8) == "abcdefgh")
        #expect(VisibleText.fit("abcdefghi", width: 8) == "abcd…ghi")
        #expect(VisibleText.columns(VisibleText.fit("漢字漢字漢字", width: 8)) <= 8)
        #expect(VisibleText.fit("abc", width: 1) == "…")
    }

    @Test func pathsThatMeanTheSameAreOneModel() {
        #expect(ModelPath("./a//b/") == ModelPath("a/b"))
        #expect(ModelPath("/a") != ModelPath("a"))
        #expect(ModelPath("") == ModelPath("."))
        // Two directories on a file system that compares bytes.
        #expect(ModelPath("é") != ModelPath("e\u{301}"))
    }

    @Test func labelsAreAsShortAsTheyCanBe() {
        let models = ["a/x/small", "b/x/small", "b/large", "large"].map(ModelPath.init)
        let labels = ModelPath.labels(models)
        #expect(models.map { labels[$0] } == ["a/x/small", "b/x/small", "b/large", "large"])
        #expect(ModelPath.labels([models[0], models[2]])[models[0]] == "small")
    }
}
