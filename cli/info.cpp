#include "cli/commands.hpp"
#include "cli/output.hpp"
#include "threads/limits.hpp"

#include <gqmm/system.hpp>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

namespace gqmm::cli {
namespace {

using Value = Rows::Value;

template <class T>
Value value_or_null(const std::optional<T>& value) {
  return value ? Value(*value) : Value();
}

/// "model name	: AMD …" of /proc/cpuinfo; null where the kernel does not say.
Value cpu_model() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) {
      return line.substr(colon + 2);
    }
  }
  return {};
}

/// The word in brackets of "always [madvise] never", as a setting of transparent huge pages has them.
Value huge_page_setting(const std::string& name) {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/" + name);
  std::string line;
  std::getline(file, line);
  const std::size_t begin = line.find('[');
  const std::size_t end = line.find(']');
  return begin == std::string::npos || end == std::string::npos ? Value() : Value(line.substr(begin + 1, end - begin - 1));
}

/// Sizes for which the kernel keeps a pool of pages, with the number that are free.
Value huge_page_pools() {
  Value pools = Value::array();
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/kernel/mm/hugepages", error)) {
    const std::string name = entry.path().filename();  // "hugepages-2048kB"
    std::int64_t free = 0;
    if (name.starts_with("hugepages-") && std::ifstream(entry.path() / "free_hugepages") >> free) {
      pools.push_back({{"kib", std::stoll(name.substr(name.find('-') + 1))}, {"free", free}});
    }
  }
  return pools;
}

/// KiB; null where the system does not say.
Value cache_size(int name) {
  const std::int64_t bytes = sysconf(name);
  return bytes > 0 ? Value(bytes / 1024) : Value();
}

/// Parts of memory that are not equally near to all processors: weights are fastest on one near the thread that reads them.
Value memory_nodes() {
  int nodes = 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/devices/system/node", error)) {
    const std::string name = entry.path().filename();  // "node0"
    nodes += name.starts_with("node") && name.find_first_not_of("0123456789", 4) == std::string::npos ? 1 : 0;
  }
  return nodes > 0 ? Value(nodes) : Value();
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
          {"cpu", cpu_model()},
          {"instruction_sets", sets},
          {"instruction_set", active},
          {"threads",
           {{"available", available_threads()},
            {"affinity", limits.affinity},
            {"cgroup_quota", value_or_null(limits.cgroup_quota)},
            {"GQMM_NUM_THREADS", value_or_null(limits.gqmm_num_threads)},
            {"OMP_NUM_THREADS", value_or_null(omp.threads)},
            {"OMP_NUM_THREADS_ignored", omp.ignored.empty() ? Value() : Value(omp.ignored)}}},
          {"cache_kib", {{"l1", cache_size(_SC_LEVEL1_DCACHE_SIZE)}, {"l2", cache_size(_SC_LEVEL2_CACHE_SIZE)}}},
          {"memory_nodes", memory_nodes()},
          {"huge_pages",
           {{"transparent", huge_page_setting("enabled")},
            {"defrag", huge_page_setting("defrag")},
            {"shared_memory", huge_page_setting("shmem_enabled")},
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
  line("memory nodes", text_or(info["memory_nodes"], "unknown"));
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

/// One row per leaf, "threads.available" and so on.
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
