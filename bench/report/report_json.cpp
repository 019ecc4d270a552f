#include "report/report.hpp"
#include "report/report_parts.hpp"

#include <nlohmann/json.hpp>

#include <ostream>

namespace gqmm::bench {

using json = nlohmann::ordered_json;

namespace {

json to_json(const LimitFigures& figures) {
  return {{"limit", name_of(figures.limit)},
          {"measured_by", figures.description},
          {"per_second", to_json(figures.rate)},
          {"fraction", to_json(figures.fraction)}};
}

json to_json(const PeerFigures& figures) {
  json result = {{"name", figures.peer.name}};
  if (!figures.peer.skipped.empty()) {
    result["skipped"] = figures.peer.skipped;
    return result;
  }
  result["version"] = figures.peer.version;
  result["computes"] = figures.peer.computes;
  result["relative_error"] = figures.peer.error;
  result["repetitions"] = figures.repetitions;
  result["seconds"] = to_json(figures.seconds);
  result["times_slower"] = to_json(figures.ratio);
  return result;
}

json to_json(const CaseFigures& figures) {
  const Case& settings = figures.settings;
  json peers = json::array();
  for (const PeerFigures& peer : figures.peers) {
    peers.push_back(to_json(peer));
  }
  return {{"name", settings.name()},
          {"shape",
           {{"name", settings.shape.name},
            {"experts", settings.shape.experts},
            {"N", settings.shape.N},
            {"K", settings.shape.K},
            {"top", settings.shape.top},
            {"row_per_pair", settings.shape.row_per_pair},
            {"whole", settings.shape.whole},
            {"shared_experts", settings.shape.shared_experts}}},
          {"tokens", settings.tokens},
          {"rows_per_expert", figures.rows_per_expert()},
          {"mode", gqmm::name_of(settings.mode)},
          {"bits", settings.bits},
          {"group_size", settings.group_size},
          {"transpose", settings.transpose},
          {"dtype", gqmm::name_of(settings.dtype)},
          {"precision", gqmm::name_of(settings.precision)},
          {"slices", settings.slices()},
          {"packed", settings.packed},
          {"routing", name_of(settings.routing)},
          {"threads", settings.threads},
          {"instruction_set", settings.isa},
          {"operations", settings.operations()},
          {"experts_hit", figures.experts_hit},
          {"bytes", figures.bytes()},
          {"cached", settings.cached},
          {"weight_copies", figures.copies},
          {"calls_per_repetition", figures.calls},
          {"repetitions", figures.repetitions},
          {"rejected", figures.rejected},
          {"seconds", to_json(figures.seconds)},
          {"arithmetic", to_json(figures.arithmetic)},
          {"memory", to_json(figures.memory)},
          {"bound_by", name_of(figures.binding)},
          {"relative_error", figures.error.relative},
          {"worst_error_of_bound", figures.error.bound},
          {"peers", std::move(peers)}};
}

}  // namespace

json to_json(const Summary& summary) {
  return {{"median", summary.median},
          {"first_quartile", summary.low},
          {"third_quartile", summary.high},
          {"least", summary.least},
          {"most", summary.most}};
}

json to_json(const MachineFacts& machine) {
  return {{"cpu", machine.cpu},
          {"processors", machine.processors},
          {"threads", machine.threads},
          {"last_level_cache_bytes", machine.last_level_cache},
          {"memory_bytes", machine.memory},
          {"kernel", machine.kernel},
          {"transparent_huge_pages", machine.huge_pages},
          {"instruction_sets", machine.instruction_sets},
          {"compiler", machine.compiler},
          {"gqmm_version", machine.library_version},
          {"gqmm_revision", machine.library_revision}};
}

void write_json(std::ostream& out, const Report& report) {
  json cases = json::array();
  for (const CaseFigures& figures : report.cases) {
    cases.push_back(to_json(figures));
  }
  const json document = {{"gqmm_bench", 1},
                         {"suite", report.suite},
                         {"command", report.command},
                         {"date", report.date},
                         {"machine", to_json(report.machine)},
                         {"method",
                          {{"repetitions", report.options.repetitions},
                           {"repetition_seconds", report.options.repetition_seconds},
                           {"unsteady", report.options.unsteady},
                           {"weight_pages", name_of(report.options.pages)},
                           {"pool_bytes", report.options.pool_bytes}}},
                         {"cases", std::move(cases)}};
  out << document.dump(1) << '\n';
}

}  // namespace gqmm::bench
