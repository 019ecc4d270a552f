// Lets a command that writes files remove what is unfinished when a signal asks the program to end.
#pragma once

#include <functional>

namespace gqmm::cli {

/// Runs `action`. Meanwhile, signals that would end the process (SIGINT, SIGTERM, SIGHUP, SIGXCPU and others) are only noted.
/// check_interruption turns such a signal into an exception, so that destructors remove what is unfinished. Then the process ends
/// by the same signal. Signals that were ignored before stay ignored, for example under nohup.
void run_interruptibly(const std::function<void()>& action);

/// Throws an exception if a signal has arrived. `action` must call this every few milliseconds.
void check_interruption();

}  // namespace gqmm::cli
