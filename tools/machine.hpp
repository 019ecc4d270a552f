// Facts about the machine, as the system states them. A function returns no value if the system does not state the fact.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace gqmm::tools {

/// The name of the processor as the kernel states it, for example "AMD EPYC".
std::optional<std::string> cpu_model();

/// The name of the processor with its generation, for example "AMD EPYC, family 26 model 2". If the kernel states no name, the
/// result has its part numbers or the architecture.
std::string cpu_name();

/// The number of processors on which this process may run.
int processor_count();

/// The bytes of a core's level-1 data cache and of its level-2 cache.
std::optional<std::int64_t> level1_cache_bytes();
std::optional<std::int64_t> level2_cache_bytes();
/// The bytes of the largest cache of the first core. 32 MiB if the system does not state it.
std::size_t last_level_cache_bytes();

/// The bytes of all memory.
std::size_t physical_memory();
/// The bytes of memory that can be allocated now without swapping. 4 GiB if the system does not state it.
std::size_t available_memory();

/// The value of a setting of transparent huge pages. `name` is "enabled", "defrag" or "shmem_enabled". The value of "always
/// [madvise] never" is "madvise".
std::optional<std::string> huge_page_setting(std::string_view name);

/// A pool of huge pages of one size, which the kernel keeps.
struct HugePagePool {
  std::int64_t kibibytes = 0;  ///< the size of a page
  std::int64_t free = 0;       ///< the number of pages that nobody uses
};
std::vector<HugePagePool> huge_page_pools();

/// The name and the release of the kernel, for example "Linux 6.1.0".
std::string kernel_name();

}  // namespace gqmm::tools
