#include "scale/rank_groups.hpp"

#include <fmt/format.h>
#include <gqmm/types.hpp>

namespace gqmm::bench {

using json = nlohmann::ordered_json;

namespace {

const char* const context = "[bench scale] ";
const char* const package = "scale";

}  // namespace

RankTools find_rank_tools(const std::string& python) {
  const json found = PythonProcess(python, package, scale_modules).ask({{"installed", true}}, context);
  return {found.at("versions"), found.at("mpiexec").get<std::string>()};
}

RankGroup::RankGroup(const std::string& python, const RankTools& tools, int ranks, int threads, const Case& layer,
                     std::size_t pool_bytes)
    : ranks_(ranks),
      threads_(threads),
      process_(python, package, scale_modules, {tools.mpiexec, "-n", fmt::format("{}", ranks)}) {
  const json settings = {{"hidden", layer.shape.K},
                         {"experts", layer.shape.experts},
                         {"top", layer.shape.top},
                         {"width", layer.shape.N},
                         {"bits", layer.bits},
                         {"group_size", layer.group_size},
                         {"dtype", gqmm::name_of(layer.dtype)},
                         {"scale_dtype", gqmm::name_of(layer.scale_dtype())},
                         {"ranks", ranks},
                         {"threads", threads},
                         {"pool_bytes", pool_bytes}};
  process_.ask({{"layer", settings}}, context);
}

void RankGroup::set_up(std::int64_t tokens) { process_.ask({{"tokens", tokens}}, context); }

json RankGroup::turn(double seconds) { return process_.ask({{"turn", seconds}}, context); }

}  // namespace gqmm::bench
