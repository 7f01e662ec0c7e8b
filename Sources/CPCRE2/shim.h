#ifndef MINIMA_CPCRE2_SHIM_H
#define MINIMA_CPCRE2_SHIM_H

// Minima matches UTF-8, so only the 8-bit library is used; module.modulemap links its static
// archive to keep the binary free of a run-time dependency.
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#endif
