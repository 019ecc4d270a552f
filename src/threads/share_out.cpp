#include "threads/share_out.hpp"

#include "threads/limits.hpp"
#include "threads/team.hpp"

#include <array>

namespace gqmm::threads {

void share_out(std::int64_t count, int wanted, const std::function<void(std::int64_t i)>& work) {
  check_environment();
  TeamCall team(wanted);
  Phase phase(count, team.threads(), [](std::int64_t) { return 1; }, [&work](std::int64_t i, std::int64_t) { work(i); });
  team.run(std::array{&phase});
}

}  // namespace gqmm::threads
