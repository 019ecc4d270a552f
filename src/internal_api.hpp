// GQMM_INTERNAL_API: what only this project's own front ends (the program, the Python extensions) take from the shared library.
// It is exported as GQMM_API is, but no public header declares it and it may change at any time. A test compares these names with
// src/internal_exports.txt, so every one that is added or removed is a line there.
#pragma once

#include <gqmm/export.hpp>

#define GQMM_INTERNAL_API GQMM_API
