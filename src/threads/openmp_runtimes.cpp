#include "threads/openmp_runtimes.hpp"

#include "threads/fork.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>
#if defined(__linux__)
#include <dirent.h>
#include <dlfcn.h>
#include <link.h>
#include <strings.h>
#include <unistd.h>
#endif

namespace gqmm::threads {

#if defined(__linux__)
namespace {

/// libgomp sets itself up when it is loaded. The runtimes of LLVM and Intel do so at their first use. To ask one of these before
/// would start it, which ends the process if it finds a second one.
enum class Family : std::uint8_t { gnu, llvm };

struct Runtime {
  Family family = Family::gnu;
  // Functions of the OpenMP standard; those about places exist since OpenMP 4.5.
  int (*in_parallel)() = nullptr;
  int (*num_places)() = nullptr;
  int (*place_num_procs)(int place) = nullptr;
  void (*place_proc_ids)(int place, int* processors) = nullptr;
  /// The process in which an LLVM runtime was seen to be set up. A forked child sets up its own.
  std::atomic<pid_t> set_up_in{0};
};

// Runtimes are only ever added, and readers see the first `known` of them.
constexpr std::size_t most_runtimes = 16;
constinit std::array<Runtime, most_runtimes> runtimes = {};
constinit std::atomic<std::size_t> known{0};
constinit std::array<void*, most_runtimes> handles = {};  // of dlopen, which keep the runtimes loaded

constinit ForkSafeMutex search;
const ForkSafeMutex::Registration search_registration(search);

// The mask of the thread that loaded this library. LLVM's runtimes bind threads in their first parallel region, mostly later.
const ProcessorSet at_load = ProcessorSet::of_thread();

/// Paths of the loaded libraries whose names are those of OpenMP runtimes. Wheels bundle them under names such as
/// "libgomp-a34b3233.so.1".
std::vector<std::string> loaded_runtimes() {
  std::vector<std::string> paths;
  const auto collect = [](dl_phdr_info* library, std::size_t, void* found) {
    const std::string_view path = library->dlpi_name != nullptr ? library->dlpi_name : "";
    const std::string_view name = path.substr(path.rfind('/') + 1);
    if (name.starts_with("libgomp") || name.starts_with("libomp") || name.starts_with("libiomp5")) {
      static_cast<std::vector<std::string>*>(found)->emplace_back(path);
    }
    return 0;
  };
  dl_iterate_phdr(collect, &paths);
  return paths;
}

template <class Function>
void look_up(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
}

/// A runtime of LLVM's family leaves a mark when it sets itself up, by which it finds others (kmp_runtime.cpp,
/// __kmp_register_library_startup): a file of shared memory, or else of /tmp, or else an environment variable.
bool has_left_its_mark(pid_t process) {
  const std::string name = "__KMP_REGISTERED_LIB_" + std::to_string(process);
  const std::string file = name + "_" + std::to_string(getuid());
  return access(("/dev/shm/" + file).c_str(), F_OK) == 0 || access(("/tmp/" + file).c_str(), F_OK) == 0 ||
         std::getenv(name.c_str()) != nullptr;
}

bool is_set_up(Runtime& runtime) {
  if (runtime.family == Family::gnu) {
    return true;
  }
  const pid_t process = getpid();
  if (runtime.set_up_in.load(std::memory_order_relaxed) == process) {
    return true;
  }
  if (!has_left_its_mark(process)) {
    return false;
  }
  runtime.set_up_in.store(process, std::memory_order_relaxed);
  return true;
}

/// The places of libgomp, as its environment variables or its defaults say, within the mask that the process began with.
std::optional<ProcessorSet> gnu_places(const Runtime& runtime, const ProcessorSet& bound) {
  if (runtime.num_places == nullptr || runtime.place_num_procs == nullptr || runtime.place_proc_ids == nullptr) {
    return std::nullopt;
  }
  ProcessorSet all;
  bool is_a_place = false;
  const int places = runtime.num_places();
  for (int place = 0; place < places; ++place) {
    std::vector<int> processors(static_cast<std::size_t>(std::max(0, runtime.place_num_procs(place))));
    runtime.place_proc_ids(place, processors.data());
    ProcessorSet one;
    for (const int processor : processors) {
      one.add(processor);
    }
    is_a_place = is_a_place || one == bound;
    all |= one;
  }
  return is_a_place ? std::optional(all) : std::nullopt;
}

/// Does the environment ask LLVM's runtimes to bind threads? They do not by themselves.
bool llvm_runtimes_bind() {
  for (const char* name : {"OMP_PROC_BIND", "OMP_PLACES", "KMP_AFFINITY", "GOMP_CPU_AFFINITY"}) {
    const char* value = std::getenv(name);
    const auto is = [value](const char* word) { return strcasecmp(value, word) == 0; };
    if (value != nullptr && !is("") && !is("false") && !is("disabled") && !is("none")) {
      return true;
    }
  }
  return false;
}

/// What all threads of the process may use together, and what the thread had that loaded this library.
ProcessorSet of_all_threads() {
  ProcessorSet all = at_load;
  if (DIR* tasks = opendir("/proc/self/task")) {
    while (const dirent* entry = readdir(tasks)) {
      if (const int thread = std::atoi(entry->d_name); thread > 0) {
        all |= ProcessorSet::of_thread(thread);
      }
    }
    closedir(tasks);
  }
  return all;
}

}  // namespace

void find_openmp_runtimes() {
  const std::lock_guard lock(search);
  for (const std::string& path : loaded_runtimes()) {
    const std::size_t count = known.load(std::memory_order_relaxed);
    void* library = dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
    if (library == nullptr) {
      continue;
    }
    bool is_new = count < most_runtimes;
    for (std::size_t i = 0; i < count; ++i) {
      is_new = is_new && handles[i] != library;
    }
    if (!is_new) {
      dlclose(library);
      continue;
    }
    Runtime& runtime = runtimes[count];
    runtime.family = path.find("libgomp") != std::string::npos ? Family::gnu : Family::llvm;
    look_up(library, "omp_in_parallel", runtime.in_parallel);
    look_up(library, "omp_get_num_places", runtime.num_places);
    look_up(library, "omp_get_place_num_procs", runtime.place_num_procs);
    look_up(library, "omp_get_place_proc_ids", runtime.place_proc_ids);
    handles[count] = library;
    known.store(count + 1, std::memory_order_release);
  }
}

bool in_parallel_region() {
  const std::size_t count = known.load(std::memory_order_acquire);
  for (std::size_t i = 0; i < count; ++i) {
    if (runtimes[i].in_parallel != nullptr && is_set_up(runtimes[i]) && runtimes[i].in_parallel() != 0) {
      return true;
    }
  }
  return false;
}

std::optional<ProcessorSet> processors_before_binding(const ProcessorSet& bound) {
  const std::size_t count = known.load(std::memory_order_acquire);
  for (std::size_t i = 0; i < count; ++i) {
    if (runtimes[i].family == Family::gnu) {
      if (const std::optional<ProcessorSet> places = gnu_places(runtimes[i], bound)) {
        return places;
      }
    } else if (is_set_up(runtimes[i]) && llvm_runtimes_bind()) {
      return of_all_threads();
    }
  }
  return std::nullopt;
}

#else

void find_openmp_runtimes() {}

bool in_parallel_region() { return false; }

std::optional<ProcessorSet> processors_before_binding(const ProcessorSet& /*bound*/) { return std::nullopt; }

#endif

}  // namespace gqmm::threads
