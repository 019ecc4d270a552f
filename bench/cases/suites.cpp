// The fixed sets of cases.
#include "cases/plan.hpp"
#include "formats/registry.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <stdexcept>

namespace gqmm::bench {
namespace {

/// A type and a precision, which together decide the number of slices and so the speed.
struct Arithmetic {
  Dtype dtype;
  Precision precision;
};
constexpr Arithmetic two_slices = {Dtype::bfloat16, Precision::standard};
constexpr Arithmetic three_slices = {Dtype::float32, Precision::standard};
constexpr Arithmetic one_slice = {Dtype::bfloat16, Precision::fast};
constexpr Arithmetic arithmetics[] = {two_slices, three_slices, one_slice};

Case case_of(const LayerShape& shape, std::int64_t tokens, ExpertChoice routing, Arithmetic arithmetic, bool packed = false) {
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

// The functions below make cases without threads and instruction sets. suite() adds those.

std::vector<PlannedCase> report_suite() {
  std::vector<PlannedCase> cases;
  for (const ExpertChoice routing : {ExpertChoice::balanced, ExpertChoice::uniform}) {
    for (const bool packed : {false, true}) {
      for (const Arithmetic& arithmetic : arithmetics) {
        // Other libraries are measured only beside the cases that compute in the same type and order of rows.
        const bool beside_others = routing == ExpertChoice::balanced && !packed && arithmetic.precision == Precision::standard;
        cases.push_back({case_of(gate(), 512, routing, arithmetic, packed),
                         beside_others ? std::vector<std::string>{"torch", "ggml"} : std::vector<std::string>{}});
      }
    }
  }
  for (const Arithmetic& arithmetic : arithmetics) {
    cases.push_back({case_of(gate(), 1, ExpertChoice::uniform, arithmetic), {}});
  }
  cases.push_back({case_of(gate(), 8, ExpertChoice::uniform, three_slices), {"mlx gather_qmm float32"}});
  cases.push_back({case_of(gate(), 8, ExpertChoice::uniform, two_slices), {"mlx gather_qmm bfloat16", "ggml"}});
  return cases;
}

/// Cases in which each of the 128 experts has the same number of rows. A single token is a case too: 8 experts have one row each.
std::vector<PlannedCase> limit_suite() {
  std::vector<PlannedCase> cases;
  for (const bool packed : {false, true}) {
    for (const Arithmetic& arithmetic : arithmetics) {
      // One measurement of other libraries is enough, because gqmm's precision and packing do not change what they compute.
      const bool beside_others = !packed && arithmetic.dtype == two_slices.dtype && arithmetic.precision == two_slices.precision;
      const auto add = [&](std::int64_t tokens) {
        cases.push_back({case_of(gate(), tokens, ExpertChoice::balanced, arithmetic, packed),
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
    for (const detail::Format& format : detail::formats()) {
      for (const int group_size : format.group_sizes) {
        Case settings = case_of(gate(), tokens, ExpertChoice::uniform, two_slices);
        settings.mode = format.mode;
        settings.bits = format.bits;
        settings.group_size = group_size;
        cases.push_back({settings, {}});
      }
    }
    Case not_transposed = case_of(gate(), tokens, ExpertChoice::uniform, two_slices);
    not_transposed.transpose = false;
    cases.push_back({not_transposed, {}});
  }
  return cases;
}

std::vector<PlannedCase> shape_suite() {
  std::vector<PlannedCase> cases;
  for (const ExpertChoice routing : {ExpertChoice::uniform, ExpertChoice::learned, ExpertChoice::half, ExpertChoice::one}) {
    for (const LayerShape& shape : known_shapes()) {
      for (const std::int64_t tokens : {1, 4, 8, 64, 512, 2048}) {
        cases.push_back({case_of(shape, tokens, routing, two_slices), {}});
      }
    }
  }
  return cases;
}

/// Cases with one row for one of eight small experts, which stay in cache.
std::vector<PlannedCase> small_suite() {
  std::vector<PlannedCase> cases;
  for (const bool packed : {false, true}) {
    for (const Arithmetic& arithmetic : arithmetics) {
      Case settings = case_of({"small", 8, 64, 64, 1, false}, 1, ExpertChoice::uniform, arithmetic, packed);
      settings.cached = true;
      cases.push_back({settings, packed ? std::vector<std::string>{} : std::vector<std::string>{"mlx"}});
    }
  }
  return cases;
}

/// Cases that show the cost of experts without rows. Both shapes read the same bytes. If they take equally long, such experts
/// cost nothing.
std::vector<PlannedCase> expert_suite() {
  std::vector<PlannedCase> cases;
  for (const std::int64_t experts : {128, 16384}) {
    const LayerShape shape = {fmt::format("{}-experts", experts), experts, 256, 256, 8, false};
    for (const Arithmetic& arithmetic : arithmetics) {
      cases.push_back({case_of(shape, 1, ExpertChoice::uniform, arithmetic), {}});
    }
  }
  return cases;
}

/// Cases with even and uneven numbers of rows per expert. With several threads they show how well the threads share the work.
std::vector<PlannedCase> routing_suite() {
  std::vector<PlannedCase> cases;
  for (const Arithmetic& arithmetic : {two_slices, one_slice}) {
    for (const std::int64_t tokens : {512, 2048}) {
      for (const ExpertChoice routing : {ExpertChoice::uniform, ExpertChoice::learned, ExpertChoice::half, ExpertChoice::one}) {
        cases.push_back({case_of(gate(), tokens, routing, arithmetic), {}});
      }
    }
  }
  return cases;
}

/// Whole layers: a few tokens, whose weights are read from memory, and many. gpt-oss-20b has mxfp4, as its checkpoint. Other
/// programs are measured beside some of them. ggml computes in one precision, and stands beside the bfloat16 cases alone.
std::vector<PlannedCase> moe_suite() {
  struct Series {
    Arithmetic arithmetic;
    std::set<std::int64_t> tokens_beside_others;
    std::vector<std::string> others;
  };
  const std::vector<std::string> others = {"gqmm", "torch", "ggml"};
  const Series all[] = {
      {two_slices, {1, 8, 512, 2048}, others}, {three_slices, {1, 512}, {"gqmm", "torch"}}, {one_slice, {1, 512}, {"gqmm"}}};
  std::vector<PlannedCase> cases;
  for (const Series& series : all) {
    for (const std::int64_t tokens : {1, 2, 4, 8, 16, 512, 2048}) {
      cases.push_back({case_of(shape_from_name("qwen3-30b-a3b/layer"), tokens, ExpertChoice::uniform, series.arithmetic),
                       series.tokens_beside_others.contains(tokens) ? series.others : std::vector<std::string>{}});
    }
  }
  for (const std::int64_t tokens : {1, 512}) {
    Case gpt_oss = case_of(shape_from_name("gpt-oss-20b/layer"), tokens, ExpertChoice::uniform, two_slices);
    gpt_oss.mode = Mode::mxfp4;
    gpt_oss.group_size = 32;
    cases.push_back({gpt_oss, others});
    cases.push_back({case_of(shape_from_name("deepseek-v3/layer"), tokens, ExpertChoice::uniform, two_slices), others});
  }
  Case small = case_of({"small-layer", 8, 64, 64, 2, false, true, false}, 1, ExpertChoice::uniform, two_slices);
  small.cached = true;
  cases.push_back({small, others});
  return cases;
}

struct Suite {
  std::string_view name;
  std::vector<PlannedCase> (*make)();
  bool every_core;  // whether it runs on one thread and then on all, unless --threads is given
};

constexpr Suite suites[] = {{"report", report_suite, true},   {"limits", limit_suite, true},    {"shapes", shape_suite, false},
                            {"formats", format_suite, false}, {"routing", routing_suite, true}, {"small", small_suite, true},
                            {"experts", expert_suite, true},  {"moe", moe_suite, true}};
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
