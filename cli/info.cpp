#include "cli/commands.hpp"
#include "cli/output.hpp"
#include "threads/limits.hpp"
#include "tools/machine.hpp"

#include <gqmm/system.hpp>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace gqmm::cli {
namespace {

using Value = Rows::Value;

template <class T>
Value value_or_null(const std::optional<T>& value) {
  return value ? Value(*value) : Value();
}

Value kibibytes(std::optional<std::int64_t> bytes) { return bytes ? Value(*bytes / 1024) : Value(); }

Value huge_page_pools() {
  Value pools = Value::array();
  for (const tools::HugePagePool& pool : tools::huge_page_pools()) {
    pools.push_back({{"kib", pool.kibibytes}, {"free", pool.free}});
  }
  return pools;
}

Value collect() {
  const std::string active(active_instruction_set());
  Value sets = Value::array();
  for (const InstructionSet& set : instruction_sets()) {
    sets.push_back({{"name", set.name}, {"description", set.description}, {"supported", set.supported}});
  }
  const threads::ThreadLimits limits = threads::thread_limits();
  const threads::OmpNumThreads& omp = limits.omp_num_threads;
  return {{"version", std::string(version())},
          {"cpu", value_or_null(tools::cpu_model())},
          {"instruction_sets", sets},
          {"instruction_set", active},
          {"threads",
           {{"available", available_threads()},
            {"affinity", limits.affinity},
            {"cgroup_quota", value_or_null(limits.cgroup_quota)},
            {"GQMM_NUM_THREADS", value_or_null(limits.gqmm_num_threads)},
            {"OMP_NUM_THREADS", value_or_null(omp.threads)},
            {"OMP_NUM_THREADS_ignored", omp.ignored.empty() ? Value() : Value(omp.ignored)}}},
          {"cache_kib", {{"l1", kibibytes(tools::level1_cache_bytes())}, {"l2", kibibytes(tools::level2_cache_bytes())}}},
          {"memory_nodes", memory_nodes().size()},
          {"huge_pages",
           {{"transparent", value_or_null(tools::huge_page_setting("enabled"))},
            {"defrag", value_or_null(tools::huge_page_setting("defrag"))},
            {"shared_memory", value_or_null(tools::huge_page_setting("shmem_enabled"))},
            {"pools", huge_page_pools()}}}};
}

std::string text_or(const Value& value, std::string_view missing) {
  return value.is_null() ? std::string(missing) : value.is_string() ? value.get<std::string>() : value.dump();
}

std::string table(const Value& info) {
  std::string text;
  const auto line = [&text](std::string_view key, std::string_view value) { text += fmt::format("{:<18}  {}\n", key, value); };
  line("gqmm", info["version"].get<std::string>());
  line("CPU", text_or(info["cpu"], "unknown"));
  for (const Value& set : info["instruction_sets"]) {
    line(text.find("instruction sets") == std::string::npos ? "instruction sets" : "",
         fmt::format("{:<10}  {:<13}  {}", set["name"].get<std::string>(),
                     set["name"] == info["instruction_set"] ? "used"
                     : set["supported"].get<bool>()         ? "supported"
                                                            : "not supported",
                     set["description"].get<std::string>()));
  }
  const Value& threads = info["threads"];
  const Value& ignored = threads["OMP_NUM_THREADS_ignored"];
  line("threads", fmt::format("{} (affinity {}, cgroup quota {}, GQMM_NUM_THREADS {}, OMP_NUM_THREADS {})",
                              threads["available"].dump(), threads["affinity"].dump(), text_or(threads["cgroup_quota"], "none"),
                              text_or(threads["GQMM_NUM_THREADS"], "not set"),
                              ignored.is_null() ? text_or(threads["OMP_NUM_THREADS"], "not set")
                                                : fmt::format("ignored: {}", ignored.get<std::string>())));
  const Value& caches = info["cache_kib"];
  line("caches of a core", fmt::format("L1 {} KiB, L2 {} KiB", text_or(caches["l1"], "?"), text_or(caches["l2"], "?")));
  line("memory nodes", info["memory_nodes"].dump());
  std::vector<std::string> pools;
  for (const Value& pool : info["huge_pages"]["pools"]) {
    pools.push_back(fmt::format("{} KiB, {} free", pool["kib"].dump(), pool["free"].dump()));
  }
  const Value& pages = info["huge_pages"];
  line("huge pages",
       fmt::format("transparent: {} (defrag {}, shared memory {}); pools: {}", text_or(pages["transparent"], "not offered"),
                   text_or(pages["defrag"], "?"), text_or(pages["shared_memory"], "?"),
                   pools.empty() ? "none" : fmt::format("{}", fmt::join(pools, "; "))));
  return text;
}

/// One row for each leaf of the JSON value, with a key such as "threads.available".
Rows flattened(const Value& info) {
  Rows rows({"key", "value"});
  const Value leaves = info.flatten();
  for (const auto& [pointer, value] : leaves.items()) {
    std::string key = pointer.substr(1);
    std::replace(key.begin(), key.end(), '/', '.');
    rows.add({key, value});
  }
  return rows;
}

void info(OutputFormat format) {
  const Value found = collect();
  switch (format) {
    case OutputFormat::table: print(table(found)); break;
    case OutputFormat::json: print(json_text(found)); break;
    case OutputFormat::csv: print(flattened(found).csv()); break;
  }
}

}  // namespace

void add_info_command(CLI::App& program) {
  const auto format = std::make_shared<OutputFormat>(OutputFormat::table);
  CLI::App* command = program.add_subcommand("info", "Show what this machine offers and what the library uses of it");
  add_format_option(*command, *format);
  command->footer(R"(Examples:
  gqmm info
  GQMM_ISA=avx2 GQMM_NUM_THREADS=4 gqmm info --format json)");
  command->callback([format] { info(*format); });
}

}  // namespace gqmm::cli
