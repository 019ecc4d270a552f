// Which cases a command measures.
#pragma once

#include "case.hpp"

#include <cstdint>
#include <filesystem>
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
  Routing routing = Routing::uniform;
};

std::vector<Case> cases_of(const CaseGrid& grid);

/// "report": the figures that the documentation quotes. "formats": every weight format. "shapes": every shape that has a name.
/// Throws std::invalid_argument for another name. `threads`: those that the machine has.
std::vector<PlannedCase> suite(std::string_view name, const std::string& isa, int threads);

}  // namespace gqmm::bench
