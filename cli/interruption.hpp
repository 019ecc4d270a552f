// A command that writes files ends in good order when the user or the system asks the program to end.
#pragma once

#include <functional>

namespace gqmm::cli {

/// Runs `action`. Signals that would end the process (SIGINT, SIGTERM, SIGHUP, a limit of processor time, …) are noted meanwhile;
/// check_interruption turns one into an exception, so that destructors remove what is unfinished, and then the process ends by
/// the signal after all. Signals that are ignored stay ignored, as under nohup.
void run_interruptibly(const std::function<void()>& action);

/// To be called every few milliseconds from inside the action.
void check_interruption();

}  // namespace gqmm::cli
