// The chat page: its files as they are. A new script is one line here.

#include "minima_page.h"

static const unsigned char document[] = {
#embed "page/page.html"
    , 0};

static const unsigned char style[] = {
#embed "page/page.css"
    , 0};

static const unsigned char script[] = {
#embed "page/text.js" suffix(, )
#embed "page/client.js" suffix(, )
#embed "page/panel.js" suffix(, )
#embed "page/settings.js" suffix(, )
#embed "page/chat.js" suffix(, )
    0};

const unsigned char* minima_page_document(void) {
    return document;
}

const unsigned char* minima_page_style(void) {
    return style;
}

const unsigned char* minima_page_script(void) {
    return script;
}
