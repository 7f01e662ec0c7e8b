// The chat page's files, inside the binary.
#ifndef MINIMA_PAGE_H
#define MINIMA_PAGE_H

#ifdef __cplusplus
extern "C" {
#endif

#pragma clang assume_nonnull begin

/// The page's parts as UTF-8 that ends with a zero: the document, whose marks @STYLE@ and @SCRIPT@
/// stand for the others, its style sheet and its script.
const unsigned char* minima_page_document(void);
const unsigned char* minima_page_style(void);
const unsigned char* minima_page_script(void);

#pragma clang assume_nonnull end

#ifdef __cplusplus
}
#endif

#endif
