// GQMM_API marks the functions and classes that programs may use from the shared library. The library is compiled with hidden
// visibility, so that no other symbol of it can clash. It could clash with a program's own symbols, or with those of another
// library that contains the same dependencies.
#pragma once

#if defined(__GNUC__) || defined(__clang__)
#define GQMM_API __attribute__((visibility("default")))
#else
#define GQMM_API
#endif
