import MinimaReport
import Testing

/// The page, checked for what every page must be.
func checkedPage(_ report: Report) -> TagBalance {
    let html = report.html()
    let page = TagBalance(html)
    #expect(page.problems == [])
    #expect(page.elements.filter { $0 == "h1" }.count == 1)
    #expect(!page.elements.contains("script"))
    for scheme in ["http:", "https:", "url(", "@import", "file:", "NaN", " inf"] {
        #expect(!html.contains(scheme), "\(scheme)")
    }
    for attribute in page.attributes {
        #expect(!["src", "href", "style", "onclick", "onerror"].contains(attribute.name))
    }
    let ids = page.attributes.filter { $0.name == "id" }.map(\.value)
    #expect(Set(ids).count == ids.count)
    for label in page.attributes where label.name == "aria-labelledby" {
        #expect(ids.contains(label.value))
    }
    return page
}
