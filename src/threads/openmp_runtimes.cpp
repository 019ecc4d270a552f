#include "threads/openmp_runtimes.hpp"

#include "threads/first_use.hpp"
#include "threads/fork.hpp"
#include "threads/read_file.hpp"
#include "threads/start_thread.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cinttypes>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>
#if defined(__linux__)
#include <dlfcn.h>
#include <strings.h>
#include <unistd.h>
#endif

namespace gqmm::threads {

#if defined(__linux__)
namespace {

/// Which library a runtime descends from. libgomp sets itself up when it is loaded. The runtimes of LLVM and Intel do so at their
/// first use. A question before that would start such a runtime, and it ends the process if it finds a second one.
enum class RuntimeFamily : std::uint8_t { gnu, llvm };

/// Functions of the OpenMP standard. Those about places exist since OpenMP 4.5, and are nullptr in older runtimes.
struct OpenMpFunctions {
  int (*in_parallel)() = nullptr;
  int (*get_thread_num)() = nullptr;
  int (*num_places)() = nullptr;
  int (*place_num_procs)(int place) = nullptr;
  void (*place_proc_ids)(int place, int* processors) = nullptr;
};

using Places = std::vector<ProcessorSet>;

struct OpenMpRuntime {
  RuntimeFamily family = RuntimeFamily::gnu;
  OpenMpFunctions call;
  void* handle = nullptr;  // from dlopen, and keeps the runtime loaded
  /// The process in which a runtime of LLVM's family was seen to be set up. A forked child sets up its own.
  std::atomic<pid_t> set_up_in{0};
  FirstUse<Places> places;
};

// Runtimes are added and never removed. Readers see the first `runtime_count` of them.
constexpr std::size_t max_runtimes = 16;
constinit std::array<OpenMpRuntime, max_runtimes> runtimes = {};
constinit std::atomic<std::size_t> runtime_count{0};
// True if environment variables ask LLVM's runtimes to bind threads. They are read when a runtime is found, not at each call.
constinit std::atomic<bool> llvm_runtimes_bind{false};

constinit ForkSafeMutex search_mutex;
const ForkSafeMutex::Registration search_mutex_registration(search_mutex);

/// The paths of the loaded libraries whose names are those of OpenMP runtimes. Python wheels bundle runtimes under names such as
/// "libgomp-a34b3233.so.1". The paths are read from /proc. dl_iterate_phdr would need a lock of the loader, which may be locked
/// for ever in a forked child.
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

/// The address at which the library begins that contains `address`. Returns nullptr if no library contains it.
const void* library_of(const void* address) {
  Dl_info info = {};
  return dladdr(address, &info) != 0 ? info.dli_fbase : nullptr;
}

/// True if `runtime`, which is of LLVM's family, has set itself up in `process`. It then leaves a file, by which a second runtime
/// finds it (kmp_runtime.cpp, __kmp_register_library_startup). The file is in shared memory or in /tmp. Its text is
/// "ADDRESS-VALUE-NAME": a variable of that runtime at ADDRESS has that VALUE. In a file that an earlier process left, the two do
/// not match.
bool has_left_its_mark(const OpenMpRuntime& runtime, pid_t process) {
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

bool is_set_up(OpenMpRuntime& runtime) {
  if (runtime.family == RuntimeFamily::gnu) {
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

/// The sets of processors to which a runtime binds threads. Environment variables or the runtime's defaults decide them, within
/// the mask that the process had when the runtime was set up.
Places ask_for_places(const OpenMpFunctions& call) {
  Places places;
  const int count = call.num_places();
  for (int place = 0; place < count; ++place) {
    std::vector<int> processors(static_cast<std::size_t>(std::max(0, call.place_num_procs(place))));
    call.place_proc_ids(place, processors.data());
    ProcessorSet& set = places.emplace_back();
    for (const int processor : processors) {
      set.add(processor);
    }
  }
  return places;
}

/// True if environment variables ask LLVM's runtimes to bind threads. They do not bind threads by themselves.
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

/// The places of a runtime that is set up. LLVM's runtimes bind the thread that asks, so a new thread asks and then ends.
const Places& places_of(OpenMpRuntime& runtime) {
  return runtime.places.get([&runtime] {
    Places places;
    if (runtime.family == RuntimeFamily::gnu) {
      places = ask_for_places(runtime.call);
    } else {
      start_thread([&] { places = ask_for_places(runtime.call); }).join();
    }
    return places;
  });
}

struct FoundRuntime {
  RuntimeFamily family;
  OpenMpFunctions call;
  void* handle;
};

/// Adds a runtime to the list. Returns false if the list has it already, or if the list is full.
bool add(const FoundRuntime& found) {
  const std::lock_guard lock(search_mutex);
  const std::size_t count = runtime_count.load(std::memory_order_relaxed);
  if (count == max_runtimes) {
    return false;
  }
  for (std::size_t i = 0; i < count; ++i) {
    if (runtimes[i].handle == found.handle) {
      return false;
    }
  }
  if (found.family == RuntimeFamily::llvm) {
    llvm_runtimes_bind.store(read_whether_llvm_runtimes_bind(), std::memory_order_relaxed);
  }
  runtimes[count].family = found.family;
  runtimes[count].call = found.call;
  runtimes[count].handle = found.handle;
  runtime_count.store(count + 1, std::memory_order_release);
  return true;
}

/// True if the calling thread runs in a parallel region of this runtime. LLVM's runtimes register a thread that asks this, and
/// bind it if the environment asks for binding. In that case only the thread's number is asked for. It identifies every thread of
/// a region except the first.
bool is_in_region(OpenMpRuntime& runtime) {
  if (!is_set_up(runtime)) {
    return false;
  }
  return runtime.family == RuntimeFamily::llvm && llvm_runtimes_bind.load(std::memory_order_relaxed)
             ? runtime.call.get_thread_num() != 0
             : runtime.call.in_parallel() != 0;
}

/// True if this runtime may have bound the calling thread. A forked child may be bound before it sets up its own runtime, because
/// its parent was bound.
bool may_have_bound(OpenMpRuntime& runtime) {
  if (runtime.call.num_places == nullptr || runtime.call.place_num_procs == nullptr || runtime.call.place_proc_ids == nullptr) {
    return false;
  }
  return runtime.family == RuntimeFamily::gnu ||
         (llvm_runtimes_bind.load(std::memory_order_relaxed) && (runtime.places.exists() || is_set_up(runtime)));
}

}  // namespace

void find_openmp_runtimes() {
  for (const std::string& path : loaded_runtimes()) {
    // The loader is not called while search_mutex is locked, because a thread that holds the loader's lock may wait for it.
    void* const library = dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
    if (library == nullptr) {
      continue;
    }
    OpenMpFunctions call;
    look_up(library, "omp_in_parallel", call.in_parallel);
    look_up(library, "omp_get_thread_num", call.get_thread_num);
    look_up(library, "omp_get_num_places", call.num_places);
    look_up(library, "omp_get_place_num_procs", call.place_num_procs);
    look_up(library, "omp_get_place_proc_ids", call.place_proc_ids);
    // The name does not tell the family, because libgomp.so.1 may be a link to LLVM's runtime.
    const RuntimeFamily family = dlsym(library, "__kmpc_fork_call") != nullptr ? RuntimeFamily::llvm : RuntimeFamily::gnu;
    if (call.in_parallel == nullptr || call.get_thread_num == nullptr || !add({family, call, library})) {
      dlclose(library);
    }
  }
}

bool in_parallel_region() {
  const std::size_t count = runtime_count.load(std::memory_order_acquire);
  for (std::size_t i = 0; i < count; ++i) {
    if (is_in_region(runtimes[i])) {
      return true;
    }
  }
  return false;
}

std::optional<ProcessorSet> processors_before_binding(const ProcessorSet& bound) {
  const std::size_t count = runtime_count.load(std::memory_order_acquire);
  for (std::size_t i = 0; i < count; ++i) {
    if (!may_have_bound(runtimes[i])) {
      continue;
    }
    try {
      const Places& places = places_of(runtimes[i]);
      if (std::find(places.begin(), places.end(), bound) != places.end()) {
        ProcessorSet all;
        for (const ProcessorSet& place : places) {
          all |= place;
        }
        return all;
      }
    } catch (const std::exception&) {
      return std::nullopt;  // there is no thread or no memory, so the mask counts as it is
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
