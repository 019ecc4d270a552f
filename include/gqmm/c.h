/* Functions for programs in C, and for those that look a library's functions up by name, as threadpoolctl does. */
#ifndef GQMM_C_H
#define GQMM_C_H

#include <gqmm/export.hpp>

#ifdef __cplusplus
extern "C" {
#endif

/* Threads of a call whose stream names no number, the caller's included. See gqmm::get_num_threads. */
GQMM_API int gqmm_get_num_threads(void);

/* Sets that number for the process; 0 means as many as the machine grants. Returns 0, or -1 if `threads` is negative or above
   4096; then nothing has changed. See gqmm::set_num_threads. */
GQMM_API int gqmm_set_num_threads(int threads);

#ifdef __cplusplus
}
#endif

#endif
