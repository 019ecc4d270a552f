#include "threads/openmp_runtimes.hpp"

#include "threads/fork.hpp"
#include "threads/read_file.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cinttypes>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>
#if defined(__linux__)
#include <dirent.h>
#include <dlfcn.h>
#include <strings.h>
#include <unistd.h>
#endif

namespace gqmm::threads {

#if defined(__linux__)
namespace {

/// libgomp sets itself up when it is loaded. The runtimes of LLVM and Intel do so at their first use. To ask one of these before
/// would start it, which ends the process if it finds a second one.
enum class Family : std::uint8_t { gnu, llvm };

/// Functions of the OpenMP standard; those about places exist since OpenMP 4.5.
struct Functions {
  int (*in_parallel)() = nullptr;
  int (*get_thread_num)() = nullptr;
  int (*num_places)() = nullptr;
  int (*place_num_procs)(int place) = nullptr;
  void (*place_proc_ids)(int place, int* processors) = nullptr;
};

struct Runtime {
  Family family = Family::gnu;
  Functions call;
  void* handle = nullptr;  // of dlopen, which keeps the runtime loaded
  /// The process in which an LLVM runtime was seen to be set up. A forked child sets up its own.
  std::atomic<pid_t> set_up_in{0};
};

// Runtimes are only ever added, and readers see the first `known` of them.
constexpr std::size_t most_runtimes = 16;
constinit std::array<Runtime, most_runtimes> runtimes = {};
constinit std::atomic<std::size_t> known{0};
// Do the environment's variables ask LLVM's runtimes to bind threads? Read with the first runtime, not at each call.
constinit std::atomic<bool> llvm_runtimes_bind{false};

constinit ForkSafeMutex search;
const ForkSafeMutex::Registration search_registration(search);

// The mask of the thread that loaded this library. LLVM's runtimes bind threads in their first parallel region, mostly later.
const ProcessorSet at_load = ProcessorSet::of_thread();

/// Paths of the loaded libraries whose names are those of OpenMP runtimes. Wheels bundle them under names such as
/// "libgomp-a34b3233.so.1". They are read from /proc: dl_iterate_phdr takes a lock of the loader that a forked child may find
/// taken.
std::vector<std::string> loaded_runtimes() {
  std::vector<std::string> paths;
  const std::optional<std::string> maps = read_file("/proc/self/maps");
  std::string_view rest = maps ? std::string_view(*maps) : std::string_view();
  while (!rest.empty()) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(line.size() + 1, rest.size()));
    const std::size_t begin = line.find('/');
    const std::string_view path = begin == std::string_view::npos ? std::string_view() : line.substr(begin);
    const std::string_view name = path.substr(path.rfind('/') + 1);
    if (name.starts_with("libgomp") || name.starts_with("libomp") || name.starts_with("libiomp5")) {
      if (paths.empty() || paths.back() != path) {
        paths.emplace_back(path);
      }
    }
  }
  return paths;
}

template <class Function>
void look_up(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
}

/// The address at which the library with this address in it begins.
const void* library_of(const void* address) {
  Dl_info info = {};
  return dladdr(address, &info) != 0 ? info.dli_fbase : nullptr;
}

/// A runtime of LLVM's family leaves a mark when it sets itself up, by which it finds others (kmp_runtime.cpp,
/// __kmp_register_library_startup): a file of shared memory, or else of /tmp. Its text is "ADDRESS-VALUE-NAME", where a variable
/// of that runtime at ADDRESS has that VALUE. A file that an earlier process left says something else.
bool has_left_its_mark(const Runtime& runtime, pid_t process) {
  const std::string file = "__KMP_REGISTERED_LIB_" + std::to_string(process) + "_" + std::to_string(getuid());
  std::optional<std::string> text = read_file("/dev/shm/" + file);
  if (!text) {
    text = read_file("/tmp/" + file);
  }
  std::uintptr_t address = 0;
  unsigned long value = 0;
  if (!text || std::sscanf(text->c_str(), "0x%" SCNxPTR "-%lx-", &address, &value) != 2) {
    return false;
  }
  const void* const variable = reinterpret_cast<const void*>(address);
  const void* const library = library_of(variable);
  if (library == nullptr || library != library_of(reinterpret_cast<const void*>(runtime.call.in_parallel))) {
    return false;
  }
  unsigned found = 0;
  std::memcpy(&found, variable, sizeof found);
  return found == static_cast<unsigned>(value);
}

bool is_set_up(Runtime& runtime) {
  if (runtime.family == Family::gnu) {
    return true;
  }
  const pid_t process = getpid();
  if (runtime.set_up_in.load(std::memory_order_relaxed) == process) {
    return true;
  }
  if (!has_left_its_mark(runtime, process)) {
    return false;
  }
  runtime.set_up_in.store(process, std::memory_order_relaxed);
  return true;
}

/// The places of libgomp, as its environment variables or its defaults say, within the mask that the process began with.
std::optional<ProcessorSet> gnu_places(const Functions& call, const ProcessorSet& bound) {
  if (call.num_places == nullptr || call.place_num_procs == nullptr || call.place_proc_ids == nullptr) {
    return std::nullopt;
  }
  ProcessorSet all;
  bool is_a_place = false;
  const int places = call.num_places();
  for (int place = 0; place < places; ++place) {
    std::vector<int> processors(static_cast<std::size_t>(std::max(0, call.place_num_procs(place))));
    call.place_proc_ids(place, processors.data());
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
bool read_whether_llvm_runtimes_bind() {
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

struct Found {
  Family family;
  Functions call;
  void* handle;
};

/// False if the runtime is known already, or if there are too many.
bool add(const Found& found) {
  const std::lock_guard lock(search);
  const std::size_t count = known.load(std::memory_order_relaxed);
  if (count == most_runtimes) {
    return false;
  }
  for (std::size_t i = 0; i < count; ++i) {
    if (runtimes[i].handle == found.handle) {
      return false;
    }
  }
  if (found.family == Family::llvm) {
    llvm_runtimes_bind.store(read_whether_llvm_runtimes_bind(), std::memory_order_relaxed);
  }
  runtimes[count].family = found.family;
  runtimes[count].call = found.call;
  runtimes[count].handle = found.handle;
  known.store(count + 1, std::memory_order_release);
  return true;
}

/// Is the calling thread in a parallel region of this runtime? To ask LLVM's runtimes that makes a thread known to them, and
/// binds it where the environment asks for binding. Then only the number of the thread is asked for, which tells all threads of a
/// region but the first.
bool is_in_region(Runtime& runtime) {
  if (!is_set_up(runtime)) {
    return false;
  }
  return runtime.family == Family::llvm && llvm_runtimes_bind.load(std::memory_order_relaxed) ? runtime.call.get_thread_num() != 0
                                                                                              : runtime.call.in_parallel() != 0;
}

}  // namespace

void find_openmp_runtimes() {
  for (const std::string& path : loaded_runtimes()) {
    // No call of the loader happens under the lock: whoever holds the loader's lock may want this one.
    void* const library = dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
    if (library == nullptr) {
      continue;
    }
    Functions call;
    look_up(library, "omp_in_parallel", call.in_parallel);
    look_up(library, "omp_get_thread_num", call.get_thread_num);
    look_up(library, "omp_get_num_places", call.num_places);
    look_up(library, "omp_get_place_num_procs", call.place_num_procs);
    look_up(library, "omp_get_place_proc_ids", call.place_proc_ids);
    // Not by its name: libgomp.so.1 may be a link to LLVM's runtime.
    const Family family = dlsym(library, "__kmpc_fork_call") != nullptr ? Family::llvm : Family::gnu;
    if (call.in_parallel == nullptr || call.get_thread_num == nullptr || !add({family, call, library})) {
      dlclose(library);
    }
  }
}

bool in_parallel_region() {
  const std::size_t count = known.load(std::memory_order_acquire);
  for (std::size_t i = 0; i < count; ++i) {
    if (is_in_region(runtimes[i])) {
      return true;
    }
  }
  return false;
}

std::optional<ProcessorSet> processors_before_binding(const ProcessorSet& bound) {
  const std::size_t count = known.load(std::memory_order_acquire);
  for (std::size_t i = 0; i < count; ++i) {
    if (runtimes[i].family == Family::gnu) {
      if (const std::optional<ProcessorSet> places = gnu_places(runtimes[i].call, bound)) {
        return places;
      }
    } else if (is_set_up(runtimes[i]) && llvm_runtimes_bind.load(std::memory_order_relaxed)) {
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
