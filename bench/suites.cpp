// The fixed sets of cases.
#include "formats/registry.hpp"
#include "plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

namespace gqmm::bench {
namespace {

/// The types and precisions whose speed differs.
struct Arithmetic {
  Dtype dtype;
  Precision precision;
};
constexpr Arithmetic two_slices = {Dtype::bfloat16, Precision::standard};
constexpr Arithmetic three_slices = {Dtype::float32, Precision::standard};
constexpr Arithmetic one_slice = {Dtype::bfloat16, Precision::fast};
constexpr Arithmetic arithmetics[] = {two_slices, three_slices, one_slice};

Case case_of(const LayerShape& shape, std::int64_t tokens, Routing routing, Arithmetic arithmetic, bool packed = false) {
  Case settings;
  settings.shape = shape;
  settings.tokens = tokens;
  settings.routing = routing;
  settings.dtype = arithmetic.dtype;
  settings.precision = arithmetic.precision;
  settings.packed = packed;
  return settings;
}

const LayerShape& gate() { return shape_from_name("qwen3-30b-a3b/gate"); }

// Suites make cases without threads and instruction sets, which suite() adds.

std::vector<PlannedCase> report_suite() {
  std::vector<PlannedCase> cases;
  for (const Routing routing : {Routing::balanced, Routing::uniform}) {
    for (const bool packed : {false, true}) {
      for (const Arithmetic& arithmetic : arithmetics) {
        // Other libraries beside the one case that computes in the same type and order of rows.
        const bool beside_others = routing == Routing::balanced && !packed && arithmetic.precision == Precision::standard;
        cases.push_back({case_of(gate(), 512, routing, arithmetic, packed),
                         beside_others ? std::vector<std::string>{"torch", "ggml"} : std::vector<std::string>{}});
      }
    }
  }
  for (const Arithmetic& arithmetic : arithmetics) {
    cases.push_back({case_of(gate(), 1, Routing::uniform, arithmetic), {}});
  }
  cases.push_back({case_of(gate(), 8, Routing::uniform, three_slices), {"mlx gather_qmm float32"}});
  cases.push_back({case_of(gate(), 8, Routing::uniform, two_slices), {"mlx gather_qmm bfloat16", "ggml"}});
  return cases;
}

/// As many tokens as give each of the 128 experts so many rows; one row also as a single token has it, with 8 experts hit.
std::vector<PlannedCase> limit_suite() {
  std::vector<PlannedCase> cases;
  for (const bool packed : {false, true}) {
    for (const Arithmetic& arithmetic : arithmetics) {
      // One measurement of the others is enough: what they compute does not change with our precision or packing.
      const bool beside_others = !packed && arithmetic.dtype == two_slices.dtype && arithmetic.precision == two_slices.precision;
      const auto add = [&](std::int64_t tokens) {
        cases.push_back({case_of(gate(), tokens, Routing::balanced, arithmetic, packed),
                         beside_others ? std::vector<std::string>{"mlx", "torch", "ggml"} : std::vector<std::string>{}});
      };
      add(1);
      for (const std::int64_t rows : {1, 2, 4, 8, 32, 128}) {
        add(rows * gate().experts / gate().top);
      }
    }
  }
  return cases;
}

std::vector<PlannedCase> format_suite() {
  std::vector<PlannedCase> cases;
  for (const std::int64_t tokens : {std::int64_t{512}, std::int64_t{1}}) {
    for (const Format& format : formats()) {
      for (const int group_size : format.group_sizes) {
        Case settings = case_of(gate(), tokens, Routing::uniform, two_slices);
        settings.mode = format.mode;
        settings.bits = format.bits;
        settings.group_size = group_size;
        cases.push_back({settings, {}});
      }
    }
    Case not_transposed = case_of(gate(), tokens, Routing::uniform, two_slices);
    not_transposed.transpose = false;
    cases.push_back({not_transposed, {}});
  }
  return cases;
}

std::vector<PlannedCase> shape_suite() {
  std::vector<PlannedCase> cases;
  for (const Routing routing : {Routing::uniform, Routing::learned, Routing::half, Routing::one}) {
    for (const LayerShape& shape : known_shapes()) {
      for (const std::int64_t tokens : {1, 4, 8, 64, 512, 2048}) {
        cases.push_back({case_of(shape, tokens, routing, two_slices), {}});
      }
    }
  }
  return cases;
}

/// One row for one of eight small experts, which stay in cache.
std::vector<PlannedCase> small_suite() {
  std::vector<PlannedCase> cases;
  for (const bool packed : {false, true}) {
    for (const Arithmetic& arithmetic : arithmetics) {
      Case settings = case_of({"small", 8, 64, 64, 1, false}, 1, Routing::uniform, arithmetic, packed);
      settings.cached = true;
      cases.push_back({settings, packed ? std::vector<std::string>{} : std::vector<std::string>{"mlx"}});
    }
  }
  return cases;
}

/// What experts cost that no row asks for: nothing, if both shapes take as long. Both read the same bytes.
std::vector<PlannedCase> expert_suite() {
  std::vector<PlannedCase> cases;
  for (const std::int64_t experts : {128, 16384}) {
    const LayerShape shape = {fmt::format("{}-experts", experts), experts, 256, 256, 8, false};
    for (const Arithmetic& arithmetic : arithmetics) {
      cases.push_back({case_of(shape, 1, Routing::uniform, arithmetic), {}});
    }
  }
  return cases;
}

/// Rows spread evenly and unevenly over the experts: with several threads, what their shares make of it.
std::vector<PlannedCase> routing_suite() {
  std::vector<PlannedCase> cases;
  for (const Arithmetic& arithmetic : {two_slices, one_slice}) {
    for (const std::int64_t tokens : {512, 2048}) {
      for (const Routing routing : {Routing::uniform, Routing::learned, Routing::half, Routing::one}) {
        cases.push_back({case_of(gate(), tokens, routing, arithmetic), {}});
      }
    }
  }
  return cases;
}

struct Suite {
  std::string_view name;
  std::vector<PlannedCase> (*make)();
  bool every_core;  // on one thread and on all, unless threads are given
};

constexpr Suite suites[] = {{"report", report_suite, true},   {"limits", limit_suite, true},    {"shapes", shape_suite, false},
                            {"formats", format_suite, false}, {"routing", routing_suite, true}, {"small", small_suite, true},
                            {"experts", expert_suite, true}};
constexpr auto names = [] {
  std::array<std::string_view, std::size(suites)> result;
  std::transform(std::begin(suites), std::end(suites), result.begin(), [](const Suite& suite) { return suite.name; });
  return result;
}();

}  // namespace

std::span<const std::string_view> suite_names() { return names; }

std::vector<PlannedCase> suite(std::string_view name, const SuiteSettings& settings) {
  const auto* const found =
      std::find_if(std::begin(suites), std::end(suites), [&](const Suite& each) { return each.name == name; });
  if (found == std::end(suites)) {
    throw std::invalid_argument(fmt::format("[bench] suite '{}' is unknown; use one of {}", name, fmt::join(names, ", ")));
  }
  std::vector<int> teams = settings.threads;
  if (teams.empty()) {
    teams = {1};
    if (found->every_core && settings.available_threads > 1) {
      teams.push_back(settings.available_threads);
    }
  }
  std::vector<PlannedCase> cases;
  for (const std::string& isa : settings.isas) {
    for (const int threads : teams) {
      for (PlannedCase planned : found->make()) {
        planned.settings.isa = isa;
        planned.settings.threads = threads;
        cases.push_back(std::move(planned));
      }
    }
  }
  return cases;
}

}  // namespace gqmm::bench
