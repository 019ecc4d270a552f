#include "mlx_lm/model_sides.hpp"

#include "cases/case.hpp"
#include "plan/problem.hpp"

#include <fmt/format.h>
#include <gqmm/types.hpp>

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace gqmm::bench {

using json = nlohmann::ordered_json;

namespace {

const char* const context = "[bench mlx-lm] ";
const char* const skipped = "skipped";

}  // namespace

std::string ModelCase::name() const {
  if (job == "prompt") {
    return fmt::format("prompt of {}", tokens);
  }
  return requests == 1 ? fmt::format("decode after {}", tokens) : fmt::format("{} requests after {}", requests, tokens);
}

std::string ModelSide::name() const {
  if (who == Who::llama) {
    return "llama.cpp";
  }
  if (who == Who::stock) {
    return "MLX " + dtype;
  }
  return fmt::format("gqmm {}{}", dtype, precision == "default" ? "" : " " + precision);
}

json ModelSide::to_json() const {
  return {{"who", who == Who::gqmm ? "gqmm" : "stock"}, {"dtype", dtype}, {"precision", precision}, {"pack", pack}};
}

int ModelSide::slices() const {
  if (who == Who::stock) {
    return 0;
  }
  if (who == Who::llama) {
    return 1;  // activations of 8 bits
  }
  return detail::slices_for(precision_from_name(precision, "bench mlx-lm"), float_type_from_name(dtype));
}

std::vector<ModelSide> model_sides(const std::vector<std::string>& dtypes, const std::vector<std::string>& precisions, bool pack,
                                   bool with_llama) {
  std::vector<ModelSide> sides;
  const bool has_default = std::find(precisions.begin(), precisions.end(), "default") != precisions.end();
  for (const std::string& dtype : dtypes) {
    for (const std::string& precision : precisions) {
      if (precision == "default" || dtype != "float32" || !has_default) {
        sides.push_back({Who::gqmm, dtype, precision, pack});
      }
    }
  }
  if (with_llama) {
    sides.push_back({Who::llama, "", "default", false});
  }
  for (const std::string& dtype : dtypes) {
    sides.push_back({Who::stock, dtype, "default", false});
  }
  return sides;
}

SideProcesses::SideProcesses(const std::string& python, const std::string& peers, int threads)
    : mlx_(python, "through_mlx_lm", mlx_lm_modules), threads_(threads) {
  versions_ = mlx_.ask({{"installed", true}}, context).at("versions");
  llama_skipped_ = "no interpreter of peers; name one with --peers";
  if (!peers.empty()) {
    llama_ = std::make_unique<PythonProcess>(peers, "peers", peers_modules);
  }
}

json SideProcesses::set_up(const ModelShape& shape, const std::vector<std::string>& dtypes) {
  mlx_.ask({{"model", to_json(shape)}, {"dtypes", dtypes}}, context);
  if (llama_) {
    llama_skipped_.clear();  // the model before may have been one that llama.cpp does not load
  }
  return ask_llama({{"model", {{"shape", to_json(shape)}, {"threads", threads_}}}});
}

json SideProcesses::ask_llama(const json& request) {
  if (!llama_skipped_.empty()) {
    return {{skipped, llama_skipped_}};
  }
  json answer;
  try {
    answer = llama_->answer(request);
  } catch (const std::runtime_error&) {
    answer = {{"error", "its process ended without an answer; it may have had too little memory"}};
    llama_.reset();
  }
  if (answer.contains("error")) {
    llama_skipped_ = answer.at("error").get<std::string>();
    return {{skipped, llama_skipped_}};
  }
  return answer;
}

json SideProcesses::set_up(const ModelCase& settings, bool with_llama) {
  const json request = {{"job", settings.job}, {"tokens", settings.tokens}, {"requests", settings.requests}};
  if (with_llama) {
    ask_llama({{"model_case", request}});  // a turn says why it is skipped
  }
  return mlx_.ask({{"case", request}}, context).at("work");
}

json SideProcesses::turn(const ModelSide& side, double limit) {
  return side.who == Who::llama ? ask_llama({{"model_run", true}})
                                : mlx_.ask({{"run", side.to_json()}, {"limit", limit}}, context);
}

json SideProcesses::about(const std::string& what, const ModelSide& side, json request) {
  json ordered = {{what, side.to_json()}};  // the process looks at the first member
  if (!request.is_null()) {
    ordered.update(request);
  }
  return mlx_.ask(ordered, context).at(what);
}

}  // namespace gqmm::bench
