#include "report/explain.hpp"

#include "cpu/backend.hpp"
#include "measure/rotation.hpp"
#include "plan/plan.hpp"

#include <gqmm/system.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdint>
#include <ostream>

namespace gqmm::bench {
namespace {

detail::Plan plan_of(const Case& settings) {
  std::vector<std::uint32_t> drawn(static_cast<std::size_t>(settings.pairs()));
  Rotation(settings, 1).next(drawn);
  const std::vector<std::int64_t> experts(drawn.begin(), drawn.end());

  detail::Problem problem;
  problem.M = 1;
  problem.N = settings.shape.N;
  problem.K = settings.shape.K;
  problem.weights = settings.weights();
  problem.rhs = experts;
  problem.sorted = std::is_sorted(experts.begin(), experts.end());
  problem.y_dtype = settings.dtype;
  problem.slices = detail::slices_for(settings.precision, settings.dtype);
  problem.threads = settings.threads;
  set_instruction_set(settings.isa);
  return cpu::plan_for(problem);
}

nlohmann::json to_json(const Case& settings, const detail::Plan& plan) {
  nlohmann::json segments = nlohmann::json::array();
  for (const detail::PlannedSegment& segment : segments_of(plan)) {
    segments.push_back({{"expert", segment.expert},
                        {"rows", segment.rows},
                        {"path", name_of(segment.path)},
                        {"slices", plan.slices},
                        {"mr", segment.mr},
                        {"nr", segment.nr},
                        {"items", segment.items}});
  }
  return {{"case", settings.name()}, {"isa", plan.limits.isa}, {"threads", plan.threads},
          {"slices", plan.slices},   {"kc", plan.kc},          {"segments", segments}};
}

}  // namespace

void explain(std::ostream& out, const std::vector<PlannedCase>& cases, const std::string& format) {
  const std::string isa(active_instruction_set());
  nlohmann::json all = nlohmann::json::array();
  for (const PlannedCase& each : cases) {
    const detail::Plan plan = plan_of(each.settings);
    if (format == "json") {
      all.push_back(to_json(each.settings, plan));
    } else {
      out << each.settings.name() << '\n' << to_string(plan) << '\n';
    }
  }
  if (format == "json") {
    out << all.dump(2) << '\n';
  }
  set_instruction_set(isa);
}

}  // namespace gqmm::bench
