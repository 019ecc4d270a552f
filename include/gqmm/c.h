/* Functions for programs in C, and for programs that look up functions by name, as threadpoolctl does. They throw nothing and
   may be called from any thread at any time. */
#ifndef GQMM_C_H
#define GQMM_C_H

#include <gqmm/export.hpp>

#ifdef __cplusplus
extern "C" {
#endif

/* Returns the number of threads of a call whose stream names no number, the caller's included. See gqmm::get_num_threads. */
GQMM_API int gqmm_get_num_threads(void);

/* Sets that number for the process. 0 means as many as the machine grants. Returns 0 on success. Returns -1, without a change,
   if `threads` is negative or above 4096. See gqmm::set_num_threads. */
GQMM_API int gqmm_set_num_threads(int threads);

#ifdef __cplusplus
}
#endif

#endif
