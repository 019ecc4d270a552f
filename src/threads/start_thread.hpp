// Creates the threads of the library.
#pragma once

#include <functional>
#include <thread>

namespace gqmm::threads {

/// Starts a thread on which no signal handler of the process runs. A fork waits until the thread has been created. Throws
/// std::system_error if the system refuses to create one.
[[nodiscard]] std::thread start_thread(std::function<void()> body);

}  // namespace gqmm::threads
