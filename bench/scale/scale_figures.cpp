#include "scale/scale_figures.hpp"

#include "probes/probes.hpp"
#include "report/report_parts.hpp"
#include "scale/rank_groups.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <memory>
#include <thread>

namespace gqmm::bench {

using json = nlohmann::ordered_json;

namespace {

/// Returns the number of experts that some tokens hit on average, if each chooses distinct ones at random.
double experts_hit(const LayerShape& shape, std::int64_t tokens) {
  const auto experts = static_cast<double>(shape.experts);
  return experts * (1 - std::pow(1 - static_cast<double>(shape.top) / experts, static_cast<double>(tokens)));
}

/// Returns the work of a call on all ranks, as figures_of takes that of a model.
json work_of(const Case& layer) {
  return {{"products", layer.operations()},
          {"attention", 0.0},
          {"weight_bytes", layer.bytes(experts_hit(layer.shape, layer.tokens))},
          {"cache_bytes", 0.0}};
}

ModelSide side_of(const Case& layer) { return {Who::gqmm, std::string(gqmm::name_of(layer.dtype)), "default", false}; }

/// Returns the turns with another value in place of the seconds.
template <class Value>
std::vector<Turn> turns_with(const std::vector<RankTurn>& turns, Value value) {
  std::vector<Turn> result;
  for (const RankTurn& each : turns) {
    result.push_back(each.whole);
    result.back().seconds = value(each);
  }
  return result;
}

/// Summarizes a value of the turns that count.
template <class Value>
json summary_of(const Case& layer, const std::vector<RankTurn>& turns, Value value) {
  std::vector<double> values;
  for (const Turn& each : counted_turns(side_of(layer), turns_with(turns, value), work_of(layer))) {
    values.push_back(each.seconds);
  }
  return to_json(summarize(values));
}

/// Returns the figures of calls that do the work of the layer.
json figures_of_seconds(const Case& layer, const std::vector<Turn>& turns) {
  json figures = figures_of(side_of(layer), turns, work_of(layer), static_cast<double>(layer.tokens));
  figures.erase("side");
  figures.erase("other_programs");  // not measured
  return figures;
}

class ScaleBenchmark {
 public:
  ScaleBenchmark(const ScalePlan& plan, const ModelProgress& progress)
      : plan_(plan), progress_(progress), probes_(plan.threads, {}, plan.pool_bytes, Pages::standard) {}

  json run() {
    progress_(0, "starting ranks");
    const RankTools tools = find_rank_tools(plan_.python);
    json figures = {{"versions", tools.versions}, {"limits", limits_of_models(probes_)}, {"cases", json::array()}};
    for (const int ranks : plan_.ranks) {
      groups_.push_back(std::make_unique<RankGroup>(plan_.python, tools, ranks, threads_of_rank(plan_.threads, ranks),
                                                    plan_.layer, plan_.pool_bytes));
    }
    for (std::size_t i = 0; i < plan_.tokens.size(); ++i) {
      measure(i, figures.at("cases"));
    }
    figures["dispatch"] = dispatch(tools);
    return figures;
  }

 private:
  MachineRates rates() {
    return {probes_.measure(Limit::int8_dot), probes_.measure(Limit::float32_fma), probes_.measure(Limit::dram_read)};
  }

  /// Measures the case of these tokens on every group, and adds its figures.
  void measure(std::size_t index, json& cases) {
    Case layer = plan_.layer;
    layer.tokens = plan_.tokens[index];
    for (const auto& group : groups_) {
      group->set_up(layer.tokens);
    }
    std::map<int, std::vector<RankTurn>> turns;
    for (int round = 0; round < plan_.repetitions; ++round) {
      for (const auto& group : groups_) {
        const double of_case = static_cast<double>(round) / plan_.repetitions;
        progress_((static_cast<double>(index) + of_case) / static_cast<double>(plan_.tokens.size()),
                  fmt::format("{} tokens on {} ranks", layer.tokens, group->ranks()));
        turns[group->ranks()].push_back(turn(*group, round));
      }
    }
    for (const auto& group : groups_) {
      json figures = figures_of(layer, group->ranks(), group->threads(), turns.at(group->ranks()));
      figures["speed_up"] = turns.contains(1) ? speed_up(turns.at(group->ranks()), turns.at(1)) : json();
      cases.push_back(figures);
    }
  }

  /// Measures what a layer takes on one rank besides its products. Its experts have the least width, whose products take hardly
  /// any time: the difference of two long times would be lost in their noise.
  json dispatch(const RankTools& tools) {
    progress_(1, "planning and calls");
    Case narrow = plan_.layer;
    narrow.shape.N = narrow.group_size;
    narrow.tokens = *std::min_element(plan_.tokens.begin(), plan_.tokens.end());
    RankGroup group(plan_.python, tools, 1, plan_.threads, narrow, 1);
    group.set_up(narrow.tokens);
    std::vector<double> differences;
    for (int round = 0; round < plan_.repetitions; ++round) {
      const json answer = group.turn(plan_.seconds);
      differences.push_back(answer.at("seconds").get<double>() - answer.at("alone_seconds").get<double>());
    }
    return {{"tokens", narrow.tokens}, {"seconds", to_json(summarize(differences))}};
  }

  static json speed_up(const std::vector<RankTurn>& turns, const std::vector<RankTurn>& of_one) {
    const auto whole = [](const RankTurn& each) { return each.whole.seconds; };
    return times_faster(turns_with(turns, whole), turns_with(of_one, whole));
  }

  RankTurn turn(RankGroup& group, int round) {
    // Threads of the turn before spin for some milliseconds. They would take their share of the probes.
    const auto rest = [] { std::this_thread::sleep_for(std::chrono::milliseconds(20)); };
    RankTurn result;
    result.whole.round = round;
    rest();
    result.whole.before = rates();
    const json answer = group.turn(plan_.seconds);
    rest();
    result.whole.after = rates();
    result.whole.seconds = answer.at("seconds");
    result.exchange_seconds = answer.at("exchange_seconds");
    result.bytes_per_token = answer.at("bytes_per_token");
    if (answer.contains("alone_seconds")) {
      result.alone_seconds = answer.at("alone_seconds").get<double>();
    }
    return result;
  }

  const ScalePlan& plan_;
  const ModelProgress& progress_;
  Probes probes_;
  std::vector<std::unique_ptr<RankGroup>> groups_;
};

}  // namespace

int threads_of_rank(int threads, int ranks) { return std::max(1, threads / ranks); }

json figures_of(const Case& layer, int ranks, int threads, const std::vector<RankTurn>& turns) {
  json figures = {{"tokens", layer.tokens}, {"ranks", ranks}, {"threads", threads}};
  figures.update(figures_of_seconds(layer, turns_with(turns, [](const RankTurn& each) { return each.whole.seconds; })));
  figures["exchange_seconds"] = summary_of(layer, turns, [](const RankTurn& each) { return each.exchange_seconds; });
  figures["exchange_share"] =
      summary_of(layer, turns, [](const RankTurn& each) { return each.exchange_seconds / each.whole.seconds; });
  figures["bytes_per_token"] = summary_of(layer, turns, [](const RankTurn& each) { return each.bytes_per_token; }).at("median");
  if (turns.front().alone_seconds) {
    figures["alone"] = figures_of_seconds(layer, turns_with(turns, [](const RankTurn& each) { return *each.alone_seconds; }));
  }
  return figures;
}

json measure_scale(const ScalePlan& plan, const ModelProgress& progress) { return ScaleBenchmark(plan, progress).run(); }

}  // namespace gqmm::bench
