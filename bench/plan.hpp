// Which cases a command measures.
#pragma once

#include "case.hpp"

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace gqmm::bench {

/// A case with the peers to measure beside it, by the beginnings of their names.
struct PlannedCase {
  Case settings;
  std::vector<std::string> peers;
};

/// A layer of a checkpoint and how it is quantized.
struct CheckpointLayer {
  LayerShape shape;
  Mode mode = Mode::affine;
  int bits = 4;
  int group_size = 64;
};

/// The expert tensors of a checkpoint, each combination of shape and format once. Its weights are not used: the benchmark's own
/// have the same size. `top`: experts per token; 0: as config.json says (num_experts_per_tok). Throws io::FileError for a file
/// that cannot be read, std::invalid_argument if there are no expert tensors or experts per token are not known.
std::vector<CheckpointLayer> layers_of_checkpoint(const std::filesystem::path& path, std::int64_t top);

/// Every combination of the values.
struct CaseGrid {
  std::vector<CheckpointLayer> layers;
  std::vector<std::int64_t> tokens;
  std::vector<Dtype> dtypes;
  std::vector<Precision> precisions;
  std::vector<int> threads;
  std::vector<std::string> isas;
  bool transpose = true;
  bool packed = false;
  std::vector<Routing> routings = {Routing::uniform};
};

std::vector<Case> cases_of(const CaseGrid& grid);

/// The names of suite().
std::span<const std::string_view> suite_names();

struct SuiteSettings {
  std::vector<std::string> isas;
  std::vector<int> threads;   ///< empty: those that the suite is about, one or one and all
  int available_threads = 1;  ///< of this machine
};

/// "report": the figures that the documentation quotes.
/// "limits": 1 to 128 rows for every expert, in place and packed, in 2, 3 and 1 slices, beside other libraries.
/// "shapes": every shape that has a name, 1 to 2,048 tokens, uniform, learned, half-to-one and all-to-one routing.
/// "formats": every weight format, and 4-bit affine not transposed, prefill and decode.
/// "small": calls so small that only what surrounds the product costs.
/// "experts": as many experts hit of 128 and of 16,384.
/// Throws std::invalid_argument for another name.
std::vector<PlannedCase> suite(std::string_view name, const SuiteSettings& settings);

/// Those whose names contain every one of the texts. Throws std::invalid_argument if there are none.
std::vector<PlannedCase> only(const std::vector<PlannedCase>& cases, const std::vector<std::string>& texts);

}  // namespace gqmm::bench
