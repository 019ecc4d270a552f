// The sides of `gqmm bench mlx-lm`, and the processes that measure them.
#pragma once

#include "mlx_lm/model_shape.hpp"
#include "python_process.hpp"

#include <nlohmann/json.hpp>

#include <memory>
#include <string>
#include <vector>

namespace gqmm::bench {

/// A call that is measured: a prompt of some tokens, or a token for each request after so many tokens in its cache.
struct ModelCase {
  std::string job;  ///< prompt, decode
  std::int64_t tokens = 0;
  std::int64_t requests = 1;

  [[nodiscard]] double tokens_of_call() const { return static_cast<double>(job == "prompt" ? tokens : requests); }
  [[nodiscard]] std::string name() const;
};

enum class Who { gqmm, stock, llama };

/// A program with its types: mlx-lm with gqmm.mlx, mlx-lm alone, or llama.cpp.
struct ModelSide {
  Who who = Who::gqmm;
  std::string dtype;
  std::string precision = "default";
  bool pack = false;

  /// The program's name in reports: "gqmm bfloat16", "gqmm bfloat16 fast", "MLX bfloat16", "llama.cpp".
  [[nodiscard]] std::string name() const;
  /// The side as the package bench/mlx_lm takes it.
  [[nodiscard]] nlohmann::ordered_json to_json() const;
  /// Dot products that a weight and an activation need; 0 for a side that does not multiply integers.
  [[nodiscard]] int slices() const;
};

/// Lists gqmm's sides, one for each type and precision, stock MLX in each type, and llama.cpp. A reduced precision stands beside
/// the default one for half types alone.
std::vector<ModelSide> model_sides(const std::vector<std::string>& dtypes, const std::vector<std::string>& precisions, bool pack,
                                   bool with_llama);

/// The processes that run the sides.
class SideProcesses {
 public:
  /// `python` has mlx-lm and gqmm. `peers` has llama-cpp-python; it may be empty. Throws std::runtime_error if mlx-lm or gqmm is
  /// missing.
  SideProcesses(const std::string& python, const std::string& peers, int threads);

  [[nodiscard]] const nlohmann::ordered_json& versions() const { return versions_; }
  /// Makes the model in both processes. Returns what llama.cpp's process says: its version and formats, or why it is "skipped".
  nlohmann::ordered_json set_up(const ModelShape& shape, const std::vector<std::string>& dtypes);
  /// Sets up a case, in llama.cpp's process only if it shall run there. Returns the work of a call, for each type.
  nlohmann::ordered_json set_up(const ModelCase& settings, bool with_llama);
  /// Measures a turn. Returns {"seconds", "other_programs"}, or why it is "skipped".
  nlohmann::ordered_json turn(const ModelSide& side, double limit);
  /// Sends a request about a side to the package bench/mlx_lm. Returns the answer's member of the same name.
  nlohmann::ordered_json about(const std::string& what, const ModelSide& side, nlohmann::ordered_json request = {});

 private:
  /// Returns the answer of llama.cpp's process, or why llama.cpp is "skipped" for the rest of the model.
  nlohmann::ordered_json ask_llama(const nlohmann::ordered_json& request);

  PythonProcess mlx_;
  std::unique_ptr<PythonProcess> llama_;
  std::string llama_skipped_;  // why there is no figure of llama.cpp
  nlohmann::ordered_json versions_;
  int threads_;
};

}  // namespace gqmm::bench
