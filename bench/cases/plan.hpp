// The choice of the cases that a command measures.
#pragma once

#include "cases/case.hpp"

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace gqmm::bench {

/// A case, and the peers to measure beside it. A peer is measured if its name begins with one of these texts.
struct PlannedCase {
  Case settings;
  std::vector<std::string> peers;
};

/// A layer of a checkpoint, and the settings that it is quantized with.
struct CheckpointLayer {
  LayerShape shape;
  Mode mode = Mode::affine;
  int bits = 4;
  int group_size = 64;
};

/// Lists the expert tensors of a checkpoint, each combination of shape and format once. Their weights are not used, because the
/// benchmark makes its own weights of the same size. `top` is the number of experts per token. 0 stands for the number in
/// config.json (num_experts_per_tok). Throws io::FileError for a file that cannot be read. Throws std::invalid_argument if there
/// are no expert tensors, or if the number of experts per token is not known.
std::vector<CheckpointLayer> layers_of_checkpoint(const std::filesystem::path& path, std::int64_t top);

/// The values of each setting. Every combination of them is a case.
struct CaseGrid {
  std::vector<CheckpointLayer> layers;
  std::vector<std::int64_t> tokens;
  std::vector<Dtype> dtypes;
  std::vector<Precision> precisions;
  std::vector<int> threads;
  std::vector<std::string> isas;
  bool transpose = true;
  bool packed = false;
  std::vector<ExpertChoice> routings = {ExpertChoice::uniform};
};

std::vector<Case> cases_of(const CaseGrid& grid);

/// Lists the names that suite() takes.
std::span<const std::string_view> suite_names();

struct SuiteSettings {
  std::vector<std::string> isas;
  std::vector<int> threads;   ///< numbers of threads; if empty, the suite decides: one, or one and all
  int available_threads = 1;  ///< the number of threads that this machine grants
};

/// Makes the cases of a suite:
///
/// "report": the figures that the documentation quotes.
/// "limits": 1 to 128 rows for every expert, in place and packed, in 2, 3 and 1 slices, beside other libraries.
/// "shapes": every shape that has a name, 1 to 2,048 tokens, uniform, learned, half-to-one and all-to-one routing.
/// "formats": every weight format, and 4-bit affine not transposed, prefill and decode.
/// "routing": even and uneven numbers of rows per expert.
/// "small": calls so small that their cost is mostly outside the product.
/// "moe": whole layers (moe_ffn), of 1 to 2,048 tokens.
/// "experts": layers of 128 and of 16,384 experts, in which a call uses equally many.
///
/// Throws std::invalid_argument for another name.
std::vector<PlannedCase> suite(std::string_view name, const SuiteSettings& settings);

/// Keeps the cases whose names contain every one of the texts. Throws std::invalid_argument if there are none.
std::vector<PlannedCase> only(const std::vector<PlannedCase>& cases, const std::vector<std::string>& texts);

}  // namespace gqmm::bench
