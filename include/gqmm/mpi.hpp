// Messages of divided layers over MPI. This header needs MPI 3.0 and the CMake target gqmm::mpi; the library itself does not.
//
// A group of ranks never hangs. Engines wait by nonblocking tests. If no message arrives or leaves for `timeout`, an engine
// prints a sentence that names the ranks which it waits for, and aborts the group:
//
//     [gqmm::mpi] rank 0 waited 60 s for ranks 1, 3: they ended or stalled; the group is aborted
#pragma once

#include <gqmm/array.hpp>
#include <gqmm/expert_layer.hpp>

#include <mpi.h>

#include <algorithm>
#include <cassert>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <optional>
#include <set>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace gqmm::mpi {

/// Options of an Engine.
struct EngineOptions {
  /// How long to wait for other ranks while no message arrives or leaves. It must be positive, and longer than the slowest rank
  /// computes between two exchanges. Time in which this process itself is stopped does not count.
  std::chrono::milliseconds timeout = std::chrono::seconds(60);
  /// Longer messages are cut into pieces of this many bytes. MPI counts in int, so it is 1 … 2^31 − 1.
  std::int64_t piece_bytes = std::int64_t{1} << 30;
};

/// The ranks of a communicator. All ranks make it, between MPI_Init and MPI_Finalize. MPI_THREAD_FUNNELED is enough if only the
/// main thread uses it: threads of the library call no function of MPI. One engine serves all layers of a program.
class Engine final : public DispatchEngine {
 public:
  /// Duplicates the communicator, so that messages of the program never meet those of the engine. Throws std::invalid_argument if
  /// MPI does not run, or for options out of their range.
  explicit Engine(MPI_Comm communicator, const EngineOptions& options = {})
      : options_(checked(options)), communicator_(communicator) {
    check(MPI_Comm_rank(communicator, &rank_));
    check(MPI_Comm_size(communicator, &ranks_));
    MPI_Comm duplicate = MPI_COMM_NULL;
    Requests requests;
    check(MPI_Comm_idup(communicator, &duplicate, &requests.add({.peer = -1, .expected_bytes = -1})));
    wait(requests);
    communicator_ = duplicate;
    MPI_Comm_set_errhandler(communicator_, MPI_ERRORS_RETURN);  // end_group reports them
  }

  /// Frees the duplicate, unless MPI_Finalize was called before.
  ~Engine() override {
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (finalized == 0) {
      MPI_Comm_free(&communicator_);
    }
  }

  [[nodiscard]] int rank() const noexcept override { return rank_; }    ///< the number of this rank in the communicator
  [[nodiscard]] int ranks() const noexcept override { return ranks_; }  ///< the size of the communicator

  [[nodiscard]] bool overlaps() const noexcept override { return true; }

  /// Exchanges rows, as DispatchEngine says. Empty messages are not sent.
  [[nodiscard]] std::vector<array> all_to_all(std::span<const array> arrays, std::span<const std::int64_t> send_counts,
                                              std::span<const std::int64_t> recv_counts) override {
    return start(arrays, send_counts, recv_counts)->wait();
  }

  /// Starts an exchange. MPI moves long messages in calls of its functions alone: those of `progress`, `wait` and `start`. An
  /// exchange that is destroyed before its end is waited for.
  [[nodiscard]] std::unique_ptr<DispatchExchange> start(std::span<const array> arrays, std::span<const std::int64_t> send_counts,
                                                        std::span<const std::int64_t> recv_counts) override {
    // All rows have their memory before the first request. Receives come before sends: a message that finds its receive needs no
    // memory in between. Array i has tag i in every exchange: messages of one tag keep their order, and so do exchanges.
    auto exchange = std::make_unique<Exchange>(*this, arrays, recv_counts);
    for (std::size_t i = 0; i < arrays.size(); ++i) {
      array& received = exchange->received[i];
      receive(exchange->requests, Parts(received, recv_counts), received.mutable_bytes(), static_cast<int>(i));
    }
    for (std::size_t i = 0; i < arrays.size(); ++i) {
      array& received = exchange->received[i];
      const Parts parts(arrays[i], send_counts);
      send(exchange->requests, parts, arrays[i].bytes(), static_cast<int>(i));
      std::copy_n(arrays[i].bytes() + parts.begin(rank_), parts.bytes(rank_),
                  received.mutable_bytes() + Parts(received, recv_counts).begin(rank_));
    }
    return exchange;
  }

  /// Prints `why`, and aborts all ranks by MPI_Abort.
  [[noreturn]] void abort(std::string_view why) override { end_group("ended: " + std::string(why)); }

 private:
  /// Where the rows of each rank lie in an array.
  class Parts {
   public:
    Parts(const array& rows, std::span<const std::int64_t> counts) : row_bytes_(rows.itemsize()), ends_(1, 0) {
      for (int axis = 1; axis < rows.rank(); ++axis) {
        row_bytes_ *= rows.dim(axis);
      }
      for (const std::int64_t count : counts) {
        ends_.push_back(ends_.back() + count);
      }
    }
    [[nodiscard]] std::int64_t begin(int rank) const { return ends_[static_cast<std::size_t>(rank)] * row_bytes_; }
    [[nodiscard]] std::int64_t bytes(int rank) const { return begin(rank + 1) - begin(rank); }

   private:
    std::int64_t row_bytes_;
    std::vector<std::int64_t> ends_;
  };

  /// What a request stands for.
  struct Message {
    int peer;            // −1 if it needs all ranks
    int expected_bytes;  // −1 if it is not received
  };

  /// Requests under way, and their messages.
  struct Requests {
    std::vector<MPI_Request> requests;
    std::vector<Message> messages;
    std::vector<int> done;             // of the last test: the numbers of requests that had ended
    std::vector<MPI_Status> statuses;  // of those

    MPI_Request& add(const Message& message) {
      messages.push_back(message);
      return requests.emplace_back(MPI_REQUEST_NULL);
    }
  };

  /// An exchange under way, and the memory that MPI reads and writes.
  struct Exchange final : DispatchExchange {
    Exchange(const Engine& starter, std::span<const array> arrays, std::span<const std::int64_t> recv_counts)
        : engine(starter), sent(arrays.begin(), arrays.end()) {
      for (const array& rows : sent) {
        assert(rows.is_row_major() && "start: the rows of arrays must lie one after the other");
        Shape shape = rows.shape();
        shape.front() = std::accumulate(recv_counts.begin(), recv_counts.end(), std::int64_t{0});
        received.push_back(array::empty(std::move(shape), rows.dtype()));
      }
    }
    ~Exchange() override { engine.wait(requests); }

    void progress() override { engine.test(requests); }
    std::vector<array> wait() override {
      engine.wait(requests);
      return std::move(received);
    }

    const Engine& engine;
    std::vector<array> sent;
    std::vector<array> received;
    Requests requests;
  };

  /// How long a rank has waited without progress.
  class Patience {
   public:
    void restart() { *this = {}; }
    /// Counts the time since the last call, and gives the processor to others: at once for a millisecond, then in short sleeps.
    std::chrono::nanoseconds wait_a_little() {
      const Clock::time_point now = Clock::now();
      waited_ += std::min<std::chrono::nanoseconds>(now - last_, longest_step);
      last_ = now;
      if (waited_ < std::chrono::milliseconds(1)) {
        std::this_thread::yield();
      } else {
        std::this_thread::sleep_for(std::chrono::microseconds(50));
      }
      return waited_;
    }

   private:
    using Clock = std::chrono::steady_clock;
    static constexpr std::chrono::seconds longest_step{1};  // a longer one means that this process was stopped

    Clock::time_point last_ = Clock::now();
    std::chrono::nanoseconds waited_{0};
  };

  static EngineOptions checked(const EngineOptions& options) {
    int initialized = 0;
    int finalized = 0;
    MPI_Initialized(&initialized);
    MPI_Finalized(&finalized);
    if (initialized == 0 || finalized != 0) {
      throw std::invalid_argument("[gqmm::mpi] MPI does not run; make engines between MPI_Init and MPI_Finalize");
    }
    if (options.timeout.count() <= 0) {
      throw std::invalid_argument("[gqmm::mpi] timeout = " + text_of(options.timeout) + " is not positive");
    }
    if (options.piece_bytes < 1 || options.piece_bytes > std::int64_t{0x7fffffff}) {
      throw std::invalid_argument("[gqmm::mpi] piece_bytes = " + std::to_string(options.piece_bytes) +
                                  " is outside 1 ... 2147483647");
    }
    return options;
  }

  static std::string text_of(std::chrono::milliseconds time) {
    std::ostringstream text;
    text << std::chrono::duration<double>(time).count() << " s";
    return text.str();
  }

  /// "rank 2: it" or "ranks 1, 3: they".
  static std::string text_of(const std::set<int>& ranks) {
    std::string text = ranks.size() == 1 ? "rank" : "ranks";
    const char* separator = " ";
    for (const int rank : ranks) {
      text += separator + std::to_string(rank);
      separator = ", ";
    }
    return text + (ranks.size() == 1 ? ": it" : ": they");
  }

  /// Calls start(peer, offset, length) for the messages to or from the other ranks, in pieces. Pieces of two ranks keep their
  /// order. The next rank is the first, lest all ranks send to the same one at once.
  template <class Start>
  void for_each_message(const Parts& parts, const Start& start) const {
    for (int step = 1; step < ranks_; ++step) {
      const int peer = (rank_ + step) % ranks_;
      const std::int64_t end = parts.begin(peer) + parts.bytes(peer);
      for (std::int64_t offset = parts.begin(peer); offset < end; offset += options_.piece_bytes) {
        check(start(peer, offset, static_cast<int>(std::min(options_.piece_bytes, end - offset))));
      }
    }
  }
  void receive(Requests& requests, const Parts& parts, std::byte* to, int tag) const {
    for_each_message(parts, [&](int peer, std::int64_t offset, int length) {
      MPI_Request& request = requests.add({.peer = peer, .expected_bytes = length});
      return MPI_Irecv(to + offset, length, MPI_BYTE, peer, tag, communicator_, &request);
    });
  }
  void send(Requests& requests, const Parts& parts, const std::byte* from, int tag) const {
    for_each_message(parts, [&](int peer, std::int64_t offset, int length) {
      MPI_Request& request = requests.add({.peer = peer, .expected_bytes = -1});
      return MPI_Isend(from + offset, length, MPI_BYTE, peer, tag, communicator_, &request);
    });
  }

  /// Looks once which requests have ended, and returns how many. It returns nothing if none is left.
  std::optional<int> test(Requests& under_way) const {
    const std::size_t count = under_way.requests.size();
    under_way.done.resize(count);
    under_way.statuses.resize(count);
    int done_count = 0;
    const int code = MPI_Testsome(static_cast<int>(count), under_way.requests.data(), &done_count, under_way.done.data(),
                                  under_way.statuses.data());
    if (code != MPI_ERR_IN_STATUS) {
      check(code);
    }
    if (done_count == MPI_UNDEFINED) {
      return std::nullopt;
    }
    for (int i = 0; i < done_count; ++i) {
      const MPI_Status& status = under_way.statuses[static_cast<std::size_t>(i)];
      const int request = under_way.done[static_cast<std::size_t>(i)];
      check(code == MPI_ERR_IN_STATUS ? status.MPI_ERROR : MPI_SUCCESS);
      check_length(under_way.messages[static_cast<std::size_t>(request)], status);
    }
    return done_count;
  }

  /// Waits for all requests, under the deadline.
  void wait(Requests& under_way) const {
    Patience patience;
    while (const std::optional<int> done = test(under_way)) {
      if (*done > 0) {
        patience.restart();
      } else if (patience.wait_a_little() > options_.timeout) {
        end_waiting(under_way);
      }
    }
  }

  void check_length(const Message& message, const MPI_Status& status) const {
    int bytes = message.expected_bytes;
    if (bytes >= 0) {
      check(MPI_Get_count(&status, MPI_BYTE, &bytes));
    }
    if (bytes != message.expected_bytes) {
      end_group("got " + std::to_string(bytes) + " bytes of rank " + std::to_string(message.peer) + " and expected " +
                std::to_string(message.expected_bytes) + ": all ranks must call the same layers in the same order");
    }
  }

  void check(int code) const {
    if (code == MPI_SUCCESS) {
      return;
    }
    char text[MPI_MAX_ERROR_STRING] = {};
    int length = 0;
    MPI_Error_string(code, text, &length);
    end_group("failed: " + std::string(text, static_cast<std::size_t>(length)));
  }

  [[noreturn]] void end_waiting(const Requests& under_way) const {
    std::set<int> missing;
    for (std::size_t i = 0; i < under_way.requests.size(); ++i) {
      if (under_way.requests[i] != MPI_REQUEST_NULL) {
        missing.insert(under_way.messages[i].peer);
      }
    }
    const bool all = missing.contains(-1);
    end_group("waited " + text_of(options_.timeout) + " for " +
              (all ? "all ranks to make their engine: some" : text_of(missing)) + " ended or stalled");
  }

  /// Prints a sentence about this rank, and aborts the group.
  [[noreturn]] void end_group(const std::string& what) const {
    std::fprintf(stderr, "[gqmm::mpi] rank %d %s; the group is aborted\n", rank_, what.c_str());
    std::fflush(stderr);
    MPI_Abort(communicator_, EXIT_FAILURE);
    std::abort();  // MPI_Abort does not return
  }

  EngineOptions options_;
  MPI_Comm communicator_;
  int rank_ = 0;
  int ranks_ = 1;
};

}  // namespace gqmm::mpi
