// GQMM_API: what programs may take from the shared library. The library is compiled with hidden visibility, so nothing else of it
// can meet a program's own symbols, or those of another library that contains the same dependencies.
#pragma once

#if defined(__GNUC__) || defined(__clang__)
#define GQMM_API __attribute__((visibility("default")))
#else
#define GQMM_API
#endif
